"""The model traced once: its sites, discrete latent variables summed out."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.infer import init_to_uniform
from numpyro.infer.util import constrain_fn

from vi_recipes.core import COMPILED_QUICKLY, ModelError, place_of, told, unknown
from vi_recipes.model.bound import Arrays, BoundModel
from vi_recipes.model.correlations import RestatedCorrelations
from vi_recipes.model.enumeration import LogJointFunction, NumPyroSum, marginalise
from vi_recipes.model.model import Exchangeable, Model
from vi_recipes.model.sites import (
    ScanWatch,
    Site,
    WithoutEmpty,
    flat_names,
    observed_names,
    plate_depth,
    read_trace,
)
from vi_recipes.model.states import CoupledError, StateSum, Summand, state_sum
from vi_recipes.model.weights import SiteWeights, unmasked, weights_of

_NEEDS_CONCRETE = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)


class TracedModel(BoundModel):
    """A model with its data, and the sites that one abstract trace of it has.

    Raises
    ------
    ValueError
        For a model that cannot be fitted; names the site and the cure.
    """

    def __init__(self, model: Model, data: dict[str, Any]) -> None:
        super().__init__(model, data)
        self.state_sum: StateSum | None = None
        """How discrete latent variables are summed out member by member, where that was found."""
        self._seed()
        self.sites = self._trace_with_least_constants()
        """Site name -> site, in model order."""
        self.empty = tuple(n for n, s in self.sites.items() if not s.size and s.kind != "observed")
        """Names of sites of no elements, which are left out."""
        if self.empty:
            self._leave_out_empty()
        self.has_weights = self._seen_weights
        """Whether scales or masks weigh any site of the model as it was given."""
        discrete = {n: site for n, site in self.sites.items() if site.kind == "discrete"}
        if discrete:
            self._sum_out(discrete)
        self._name_dims()

    @property
    def latents(self) -> tuple[Site, ...]:
        """Latent sites, in the order of the flat vector."""
        return tuple(s for s in self.sites.values() if s.kind == "latent")

    @property
    def quantities(self) -> tuple[Site, ...]:
        """What fits report: latent sites, then deterministic ones, in model order."""
        return self.latents + tuple(s for s in self.sites.values() if s.kind == "deterministic")

    @property
    def observed(self) -> tuple[Site, ...]:
        """Observed sites that have a distribution; ``numpyro.factor`` terms are not among them."""
        return tuple(s for s in self.sites.values() if s.kind == "observed")

    @property
    def has_factors(self) -> bool:
        """Whether ``numpyro.factor`` terms, or sums over discrete variables, are in the density."""
        return len(self._observed_names) > len(self.observed)

    def _trace_with_least_constants(self) -> dict[str, Site]:
        """Trace the model, keeping as much of the data traced as the model allows."""
        is_array = [isinstance(leaf, np.ndarray) for leaf in self._leaves]
        is_float = [a and x.dtype.kind == "f" for a, x in zip(is_array, self._leaves, strict=True)]
        # A model may read sizes off integer data (len(np.unique(group))), or off any data: those
        # arrays are then bound as constants instead of traced.
        for is_traced in (is_array, is_float, [False] * len(is_array)):
            self._trace_leaves(is_traced)
            try:
                return self._trace()
            except _NEEDS_CONCRETE as error:
                if not any(is_traced):
                    raise ModelError(_no_number(self.name, error)) from error
        raise AssertionError("the last try returns or raises")

    def _seed(self) -> None:
        """Make :attr:`seeded` of the model as it is now."""
        self.seeded = handlers.seed(RestatedCorrelations(self.model.function), jax.random.key(0))
        """The model function, with a key for what it draws."""

    def _leave_out_empty(self) -> None:
        """Put the model without sites of no elements in its place."""
        self.complete_model = replace(
            self.model, function=WithoutEmpty(self.model.function), **self._named_without_empty()
        )
        self.model = self.complete_model
        self._seed()
        self.sites = {n: s for n, s in self._trace().items() if s.size or s.kind == "observed"}

    def _named_without_empty(self) -> dict[str, Any]:
        """Return what the model says of its sites by their names, less what has no elements."""
        model = self.model
        return {
            "parameters": tuple(n for n in model.parameters if n not in self.empty),
            "latents": tuple(n for n in model.latents if n not in self.empty),
            "dims": {n: dims for n, dims in model.dims.items() if n not in self.empty},
            "exchangeable": tuple(
                group for group in model.exchangeable if not set(self.empty) & set(group.sites)
            ),
        }

    def _sum_out(self, discrete: dict[str, Site]) -> None:
        """Put the marginal over the discrete latent variables in the model's place."""
        hidden = [*discrete, *self._observed_names]
        log_joint = self._summed(discrete)
        marginal = marginalise(self.model.function, hidden, log_joint)
        self.model = replace(self.model, function=marginal)
        self._seed()
        known, sites = self.sites, self._trace()
        # the marginal has no discrete variable that would tell what plates count its values
        sites = {n: replace(s, components=known[n].components) for n, s in sites.items()}
        self.sites = sites | discrete
        if not any(site.kind == "deterministic" for site in self.sites.values()):
            return
        with jax.enable_x64(True):
            zeros = {s.name: jnp.zeros(s.unconstrained_shape) for s in self.latents}
            first, *others = (
                constrain_fn(
                    handlers.seed(marginal, jax.random.key(seed)),
                    (),
                    self.keywords(self.arrays()),
                    zeros,
                    return_deterministic=True,
                )
                for seed in range(4)
            )
        for name in (n for n, site in self.sites.items() if site.kind == "deterministic"):
            if any(not np.array_equal(first[name], other[name]) for other in others):
                raise ModelError(
                    f"deterministic site '{name}' depends on a discrete latent variable "
                    f"({', '.join(discrete)}), which is summed out: it has no one value. Leave it "
                    "out of the model"
                )

    def _summed(self, discrete: dict[str, Site]) -> LogJointFunction:
        """Return the log joint density with the discrete latent variables summed out.

        By NumPyro's enumeration where that gives every site the density which the model gives it,
        and weights are those of rows; else state by state, where members do not touch one another.
        """
        function, names = self.model.function, ", ".join(discrete)
        by_numpyro = NumPyroSum(
            function, {name: site.support for name, site in discrete.items()}, self._plate_depth
        )
        with warnings.catch_warnings(), jax.enable_x64(True):
            warnings.simplefilter("ignore")
            summand, values, weights = self._look_at(discrete)
            weighted = any((weights[name] != 1).any() for name in discrete) or any(
                not np.isin(weights[name], (0.0, 1.0)).all() for name in self._observed_names
            )
            why = "" if self.has_scan else self._why_not_numpyro(by_numpyro, summand, values)
            if not (why or weighted):
                return by_numpyro.log_joint
            plates = {n: [p for p, _, _ in site.plates] for n, site in self.sites.items()}
            try:
                total = state_sum(summand, values, self.keywords, self.arrays(), weights, plates)
            except CoupledError as error:
                coupled = str(error)
            else:
                self.state_sum = total
                return (
                    by_numpyro.log_joint if total.weights is None and not why else total.log_joint
                )
        if why:
            raise ModelError(
                f"discrete latent site '{names}' cannot be summed out: NumPyro's enumeration fails "
                f"({why}), and so does a sum for each member by itself ({coupled}). Sum it out in "
                "the model, for instance with dist.MixtureSameFamily, or read states only within "
                "their own plate"
            )
        uses = {p for name in discrete for p in plates[name]}
        bad = [name for name in discrete if (weights[name] != 1).any()] + [
            name
            for name in self._observed_names
            if set(plates.get(name, ())) <= uses and not np.isin(weights[name], (0.0, 1.0)).all()
        ]
        if bad:
            raise ModelError(
                f"site '{bad[0]}' is under handlers.scale or a mask, and '{names}', which is "
                f"summed out, has no rows of its own that could be weighted ({coupled}): within "
                "the sum a weight is not that of a row. Drop the weights, or write the rows out"
            )
        return by_numpyro.log_joint

    def _look_at(self, discrete: dict[str, Site]) -> tuple[Summand, dict[str, Any], SiteWeights]:
        """Return the model to sum over, values of its continuous sites, and all sites' weights."""

        def run(arrays: Arrays) -> tuple[dict[str, jax.Array], ...]:
            seeded = handlers.seed(self.model.function, jax.random.key(1))
            model = handlers.substitute(seeded, substitute_fn=init_to_uniform())
            with jax.numpy_rank_promotion("allow"):
                trace = handlers.trace(model).get_trace(**self.keywords(arrays))
            supports = {n: trace[n]["fn"].enumerate_support(expand=False) for n in discrete}
            values = {n: trace[n]["value"] for n, s in self.sites.items() if s.kind == "latent"}
            return supports, values, weights_of(trace)

        supports, values, weights = jax.jit(run, compiler_options=COMPILED_QUICKLY)(self.arrays())
        table = {name: np.asarray(supports[name]).ravel().tolist() for name in discrete}
        summand = Summand(self.model.function, discrete, table)
        return summand, values, {name: np.asarray(w) for name, w in weights.items()}

    def _why_not_numpyro(
        self, by_numpyro: NumPyroSum, summand: Summand, values: dict[str, Any]
    ) -> str:
        """Return what NumPyro's enumeration gets wrong, at random states; empty if nothing."""
        rng = np.random.default_rng(5)
        supports = {n: np.asarray(v) for n, v in summand.supports.items()}

        def both(numbers: dict[str, jax.Array], values: Any, arrays: Arrays) -> Any:
            data = self.keywords(arrays)
            states = {n: jnp.asarray(supports[n])[k] for n, k in numbers.items()}
            right = summand.elements({**values, **states}, data)
            with jax.numpy_rank_promotion("allow"):
                return by_numpyro.at_states(values, numbers, data), right

        compiled = jax.jit(both, compiler_options=COMPILED_QUICKLY)
        for _ in range(2):
            numbers = {
                n: rng.integers(len(supports[n]), size=site.shape)
                for n, site in summand.sites.items()
            }
            try:
                made, right = compiled(numbers, values, self.arrays())
            except Exception as error:  # whatever a model does with states that lead its plates
                return " ".join(told(error).split())[:300]
            for name, value in right.items():
                try:
                    same = np.allclose(
                        np.broadcast_to(made[name], value.shape),
                        value,
                        rtol=1e-9,
                        atol=1e-9,
                        equal_nan=True,  # what is no density is one either way
                    )
                except ValueError:
                    same = False
                if not same:
                    return (
                        f"it gives '{name}' another density than the model does, which reads "
                        f"{', '.join(summand.sites)} by an index or across its plate"
                    )
        return ""

    def _trace(self) -> dict[str, Site]:
        """Trace the model abstractly; needs no memory for its arrays."""
        sites: dict[str, Site] = {}

        def run(key: jax.Array, arrays: Arrays) -> None:
            # init_to_uniform, because improper distributions cannot be sampled
            seeded = handlers.seed(self.model.function, key)
            model = handlers.substitute(seeded, substitute_fn=init_to_uniform())
            watch = ScanWatch()
            with watch:
                trace = handlers.trace(model).get_trace(**self.keywords(arrays))
            self.has_scan = watch.found
            sites.update(read_trace(trace))
            self._observed_names = observed_names(trace)
            self.flat = flat_names(trace)
            self._seen_weights = any(
                site["scale"] is not None or unmasked(site["fn"])[1] is not None
                for site in trace.values()
                if site["type"] == "sample"
            )
            self._plate_depth = plate_depth(trace)

        def trace_it() -> None:
            with warnings.catch_warnings(), jax.enable_x64(True):
                warnings.simplefilter("ignore")
                jax.eval_shape(run, jax.random.key(0), self.arrays())

        try:
            try:
                trace_it()
            except _NEEDS_CONCRETE:
                raise
            except TypeError:  # JAX may remember arrays that the model holds on to in float32
                jax.clear_caches()  # type: ignore[no-untyped-call]
                trace_it()
        except (ModelError, *_NEEDS_CONCRETE):
            raise
        except (Exception, SystemExit) as error:
            raise ModelError(self._complaint(error)) from error
        discrete = [name for name, site in sites.items() if site.kind == "discrete"]
        empty = [name for name, site in sites.items() if not site.size]
        if empty and not any(site.kind == "latent" and site.size for site in sites.values()):
            raise ModelError(
                f"model '{self.name}' has no latent site with an element: {', '.join(empty)} has "
                f"the shape {list(sites[empty[0]].shape)}, so there is nothing to fit"
            )
        if discrete and not any(site.kind == "latent" for site in sites.values()):
            raise ModelError(
                f"model '{self.name}' has no continuous latent site: {', '.join(discrete)} would "
                "be summed out, and nothing is left to fit"
            )
        if not any(site.kind == "latent" for site in sites.values()):
            raise ModelError(
                f"model '{self.name}' has no latent site: every numpyro.sample is observed, so "
                "there is nothing to fit. Remove obs=... from the parameters, or check that the "
                "model function was passed and not a conditioned one"
            )
        return sites

    def _complaint(self, error: BaseException) -> str:
        """Return what to say of an error in the model function."""
        text = f"model '{self.name}' raised {told(error)}"
        if "read-only" in str(error) or "immutable" in str(error):
            return (
                f"{text}: it writes into one of its arguments. Every method runs the model anew, "
                "on the same data: let it work on a copy, x = x.copy() or x = x.at[i].set(value)"
            )
        of_shapes = any(word in str(error).lower() for word in _OF_SHAPES)
        if isinstance(error, MemoryError) or not (of_shapes or isinstance(error, IndexError)):
            return text
        shapes = ", ".join(f"{n} {list(np.shape(v))}" for n, v in self.data.items())
        return f"{text}. The shapes of the data are {shapes}: check that the lengths agree"

    def _counted(self, group: Exchangeable) -> Exchangeable:
        """Return exchangeable sites with their axes counted from the first, checked."""
        about = f"exchangeable of model '{self.name}'"
        axes, lengths = dict[str, int](), dict[str, int]()
        for name, axis in group.sites.items():
            if name not in self.sites:
                raise ModelError(f"{about}: {unknown('site', name, self.sites)}")
            shape = self.sites[name].shape
            if not -len(shape) <= axis < len(shape):
                raise ModelError(
                    f"{about}: got axis {axis} for site '{name}', which has the shape {shape}"
                )
            axes[name], lengths[name] = axis % len(shape), shape[axis]
        if len(set(lengths.values())) > 1:
            several = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise ModelError(
                f"{about}: got axes of unequal lengths ({several}), expected as many components "
                "in every site"
            )
        return Exchangeable(sites=axes)

    def _name_dims(self) -> None:
        """Give sites the names of dimensions that the model declares, and check what it names."""
        for what in ("parameters", "latents"):
            for name in getattr(self.model, what):
                if name not in self.sites:
                    raise ModelError(
                        f"{what} of model '{self.name}': {unknown('site', name, self.sites)}"
                    )
        groups = tuple(self._counted(group) for group in self.model.exchangeable)
        self.model = replace(self.model, exchangeable=groups)
        for name, dims in self.model.dims.items():
            site = self.sites.get(name)
            if site is None:
                raise ValueError(
                    f"dims of model '{self.name}' name site '{name}', which it does not have; "
                    f"its sites are {', '.join(self.sites)}"
                )
            if len(dims) != len(site.shape):
                raise ValueError(f"dims['{name}'] is {dims}, but the site has shape {site.shape}")
            self.sites[name] = replace(site, dims=tuple(dims))
        sizes: dict[str, int] = {}
        for name, site in self.sites.items():  # plates of one name may have several sizes
            own = [sizes.setdefault(d, n) == n for d, n in zip(site.dims, site.shape, strict=True)]
            if not all(own):
                named = (
                    d if o else f"{name}_dim_{k}"
                    for k, (d, o) in enumerate(zip(site.dims, own, strict=True))
                )
                self.sites[name] = replace(site, dims=tuple(named))


_OF_SHAPES = ("shape", "broadcast", "dimension", "size", "axis", "axes")
"""Words of errors about arrays that do not go together."""


def _no_number(model: str, error: Exception) -> str:
    """Return what to say where the model takes a latent variable for a number."""
    match error:
        case jax.errors.TracerBoolConversionError():
            what = "asks 'if', 'while', 'and' or 'or' of a value"
            cure = "use jnp.where or jax.lax.cond"
        case jax.errors.TracerArrayConversionError():
            what = "hands a value to NumPy"
            cure = "use jax.numpy in place of numpy there"
        case _:
            what = "makes a Python number, a size or a mask of a value"
            cure = "use jax.numpy and jnp.where there"
    place = place_of(error)
    return (
        f"model '{model}'{f' ({place})' if place else ''} {what} that depends on a latent "
        f"variable, which has no one value while the model is traced: {cure}"
    )
