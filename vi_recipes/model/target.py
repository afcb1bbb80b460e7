"""A model conditioned on data: the density that every method aims at."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify
from numpyro import handlers
from numpyro.distributions.transforms import biject_to
from numpyro.infer import init_to_median, init_to_uniform
from numpyro.infer.util import constrain_fn, log_density, log_likelihood, potential_energy

from vi_recipes.algebra import LocalStructure
from vi_recipes.core import MadeOnce, ModelError, Timing
from vi_recipes.data import bind, fingerprint, normalise
from vi_recipes.model.bound import Arrays, _with_defaults
from vi_recipes.model.density import BATCH, MAX_AT_ONCE
from vi_recipes.model.enumeration import marginalise
from vi_recipes.model.model import Exchangeable, Model
from vi_recipes.model.sites import (
    ScanWatch,
    Site,
    observed_names,
    plate_depth,
    read_trace,
    site_labels,
)
from vi_recipes.model.start import NUM_ATTEMPTS
from vi_recipes.model.tracing import _NEEDS_CONCRETE, _first_line

FAR = (1.0,) * 6 + (3.0,) * 6
"""Spreads of the points, far from the start, at which :attr:`Target.coordinate_of` is verified."""


class Target:
    """A NumPyro model conditioned on data.

    The model is traced once. Every density takes a flat unconstrained vector ``z`` of length
    :attr:`dim`: the latent sites in model order, each raveled in C order, as NumPyro's automatic
    guides order them.

    Parameters
    ----------
    model
        A :class:`Model`, or any NumPyro model function.
    **data
        Its keyword arguments. A ``Model`` with default data needs none, and arguments given here
        take the place of the defaults of the same name.

    Raises
    ------
    ValueError
        For data that do not fit the model, a model without latent sites, discrete latent sites,
        ``numpyro.param`` sites, and subsampling plates; each names the site and the cure.

    Examples
    --------
    >>> import numpy as np, numpyro, numpyro.distributions as dist
    >>> import vi_recipes as vr
    >>> def coin(y):
    ...     p = numpyro.sample("p", dist.Beta(1, 1))
    ...     with numpyro.plate("toss", len(y)):
    ...         numpyro.sample("y", dist.Bernoulli(p), obs=y)
    >>> target = vr.Target(coin, y=np.array([1, 0, 1]))
    >>> target.dim, sorted(target.sites)
    (1, ['p', 'y'])
    """

    def __init__(self, model: Model | Callable[..., Any], /, **data: Any) -> None:
        if not isinstance(model, Model):
            if not callable(model):
                raise ValueError(
                    f"model: got {type(model).__name__}, expected a vi_recipes.Model or a NumPyro "
                    "model function"
                )
            model = Model(function=model, name=getattr(model, "__name__", "model"))
        self.model = model
        self.complete_model = model
        """The model as it was given, with its discrete latent variables where it has some."""
        self.name = model.name
        self.data = bind(model.function, _with_defaults(model, data))
        self.fingerprint = fingerprint(self.data)
        self._split_and_trace()
        self._name_dims()
        sizes = [int(np.prod(s.unconstrained_shape, dtype=int)) for s in self.latents]
        self.dim = sum(sizes)
        ends = np.cumsum(sizes)
        self.slices: dict[str, slice] = {
            s.name: slice(int(end - size), int(end))
            for s, size, end in zip(self.latents, sizes, ends, strict=True)
        }
        """Latent site -> its place in the flat vector."""
        self._indices_checked = False
        self._initialisers: dict[bool, Callable[..., Any]] = {}
        self.structure: LocalStructure | None = None
        """Local structure of the Hessian, once a method has found and verified it."""
        self.compiled: dict[Any, Any] = {}
        """Code that methods have compiled for this target."""
        self.compiled_once = MadeOnce()
        """``(key, make) -> made``: compiled code, and what was found out, once a target."""

    # -- what the model is made of -----------------------------------------------------------

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

    @property
    def exchangeable(self) -> tuple[Exchangeable, ...]:
        """Groups of sites subject to label switching."""
        return self.model.exchangeable

    @cached_property
    def coords(self) -> dict[str, np.ndarray]:
        """Dimension name -> labels, for ArviZ."""
        given = self.model.coords
        labels = dict(given(**self.data) if callable(given) else given)
        coords: dict[str, np.ndarray] = {}
        for site in self.sites.values():
            for dim, size in zip(site.dims, site.shape, strict=True):
                values = np.asarray(labels.get(dim, np.arange(size)))
                if values.shape != (size,):
                    raise ValueError(
                        f"coords['{dim}'] of model '{self.name}' has {values.size} labels, but "
                        f"site '{site.name}' has size {size} along it"
                    )
                coords[dim] = values
        return coords

    @property
    def size(self) -> int:
        """Numbers in the data and in the flat vector, about what one density reads."""
        return sum(np.size(a) for a in self._arrays) + self.dim

    # -- densities ---------------------------------------------------------------------------

    def arrays(self) -> Arrays:
        """Return the traced data as JAX arrays of the precision in force."""
        double = bool(jax.config.jax_enable_x64)
        if double not in self._on_device:
            with jax.ensure_compile_time_eval():  # arrays, also while something is traced
                self._on_device[double] = tuple(jnp.asarray(a) for a in self._arrays)
        return self._on_device[double]

    def place_of(self, argument: str) -> int:
        """Return where in :meth:`arrays` a floating-point argument of the model is.

        Raises
        ------
        ValueError
            For an argument that is not one array of floating-point numbers.
        """
        spot = 0
        found = {}
        for (path, leaf), traced in zip(
            jax.tree.leaves_with_path(self.data, is_leaf=lambda x: x is None),
            self._is_traced,
            strict=True,
        ):
            if traced and len(path) == 1 and leaf.dtype.kind == "f":
                found[str(path[0].key)] = spot
            spot += bool(traced)
        if argument not in found:
            raise ValueError(
                f"argument: got '{argument}', expected a floating-point array among the model's "
                f"arguments: {', '.join(found) or 'there is none'}"
            )
        return found[argument]

    @property
    def traced_arguments(self) -> tuple[str, ...]:
        """Arguments of the model that :meth:`arrays` holds, in its order; the outer ones' names.

        An array that is not among them fixes shapes by its values, such as the codes of groups
        where the model counts the groups itself.
        """
        leaves = jax.tree.leaves_with_path(self.data, is_leaf=lambda x: x is None)
        pairs = zip(leaves, self._is_traced, strict=True)
        return tuple(str(path[0].key) for (path, _), traced in pairs if traced)

    def with_data(self, **values: Any) -> Target:
        """Return the same model conditioned on other values of some arguments.

        The two share what was traced and compiled, so this costs next to nothing. Nothing that was
        found out about the old values is kept.

        Parameters
        ----------
        **values
            Argument -> array of the shape and kind that it has here.

        Raises
        ------
        ValueError
            For an argument that :attr:`traced_arguments` does not list, another shape or kind of
            number, NaN or infinity.
        """
        places = {
            str(path[0].key): i
            for i, ((path, _), traced) in enumerate(
                zip(
                    jax.tree.leaves_with_path(self.data, is_leaf=lambda x: x is None),
                    self._is_traced,
                    strict=True,
                )
            )
            if traced and len(path) == 1
        }
        leaves = list(self._leaves)
        for name, value in values.items():
            if name not in places:
                raise ValueError(
                    f"argument: got '{name}', expected an array that the model reads no sizes off: "
                    f"{', '.join(places) or 'there is none'}. Make a new Target to change others"
                )
            old, new = leaves[places[name]], np.asarray(normalise(name, value))
            if new.shape != old.shape or new.dtype.kind != old.dtype.kind:
                raise ValueError(
                    f"argument '{name}': got {new.dtype} of shape {new.shape}, expected "
                    f"{old.dtype} of shape {old.shape}. Make a new Target for data of another form"
                )
            leaves[places[name]] = new.astype(old.dtype)
        other = copy.copy(self)
        for name in ("coords", "coordinate_of", "moving_supports", "_value_and_grad"):
            other.__dict__.pop(name, None)
        other._leaves = leaves
        other._arrays = tuple(x for t, x in zip(self._is_traced, leaves, strict=True) if t)
        other._on_device = {}
        other.data = jax.tree.unflatten(self._treedef, leaves)
        other.fingerprint = fingerprint(other.data)
        other._indices_checked = False
        other.structure, other.compiled = None, {}
        other.compiled_once = MadeOnce()
        return other

    def bound_model(self, arrays: Arrays) -> Callable[[], Any]:
        """Return the NumPyro model with ``arrays`` and the static data bound, taking nothing."""
        data = self.keywords(arrays)
        return lambda: self.model.function(**data)

    def keywords(self, arrays: Arrays) -> dict[str, Any]:
        """Return the model's keyword arguments with ``arrays`` in the traced places."""
        traced = iter(arrays)
        leaves = [
            next(traced) if is_traced else leaf
            for leaf, is_traced in zip(self._leaves, self._is_traced, strict=True)
        ]
        return dict(jax.tree.unflatten(self._treedef, leaves))

    def unravel(self, z: jax.Array) -> dict[str, jax.Array]:
        """Return the flat vector as unconstrained site values."""
        return {s.name: z[self.slices[s.name]].reshape(s.unconstrained_shape) for s in self.latents}

    def ravel(self, sites: Mapping[str, Any]) -> jax.Array:
        """Return unconstrained site values as the flat vector."""
        return jnp.concatenate([jnp.ravel(jnp.asarray(sites[s.name])) for s in self.latents])

    def log_density_fn(self, z: jax.Array, arrays: Arrays, *, jacobian: bool = True) -> jax.Array:
        """Return the log joint density at ``z``; a pure function, to be transformed and compiled.

        Parameters
        ----------
        z
            Flat unconstrained vector.
        arrays
            The data, from :meth:`arrays`.
        jacobian
            Whether to add the log Jacobian determinant of the constraining transform: with it this
            is a density over the unconstrained scale, without it over the constrained scale.
        """
        sites = self.unravel(z)
        data = self.keywords(arrays)
        if jacobian:
            return -potential_energy(self.seeded, (), data, sites)
        values = constrain_fn(self.seeded, (), data, sites)
        with jax.numpy_rank_promotion("allow"):
            value, _ = log_density(self.seeded, (), data, values)
        return value

    def constrain_fn(self, z: jax.Array, arrays: Arrays) -> dict[str, jax.Array]:
        """Return latent and deterministic values on the constrained scale; a pure function."""
        values: dict[str, jax.Array] = constrain_fn(
            self.seeded, (), self.keywords(arrays), self.unravel(z), return_deterministic=True
        )
        return {site.name: values[site.name] for site in self.quantities}

    def log_density(self, z: Any, *, jacobian: bool = True) -> float:
        """Return the log joint density at ``z`` in float64 (see :meth:`log_density_fn`)."""
        with jax.enable_x64(True):
            return float(self._log_density[jacobian](jnp.asarray(z, float), self.arrays()))

    def log_densities(self, z: np.ndarray) -> np.ndarray:
        """Return the log joint densities of the rows of ``z``, unconstrained scale, in float64.

        Minus infinity where one is not a number.
        """
        with jax.enable_x64(True):
            values = np.asarray(self._log_density_many(jnp.asarray(z, float), self.arrays()))
        return np.where(np.isnan(values), -np.inf, values)

    def scores(self, z: np.ndarray) -> np.ndarray:
        """Return the gradients of the log joint density at the rows of ``z``, shape (rows, dim).

        On the unconstrained scale, in float64; NaN where there is none.
        """
        with jax.enable_x64(True):
            return np.asarray(self._scores_many(jnp.asarray(z, float), self.arrays()))

    def constrain(self, z: Any) -> dict[str, np.ndarray]:
        """Return latent and deterministic values on the constrained scale, from the flat vector.

        ``z`` has shape (..., dim); the leading dimensions lead every value.
        """
        z = np.asarray(z, float)
        rows = z.reshape(-1, self.dim)
        blocks = []
        with jax.enable_x64(True):
            arrays = self.arrays()
            size = max(1, min(BATCH, MAX_AT_ONCE // max(self.dim, 1)))
            for first in range(0, len(rows), size):
                block = rows[first : first + size]
                # one shape, so one compilation: short blocks are padded with their last row
                padded = np.concatenate([block, np.repeat(block[-1:], size - len(block), axis=0)])
                values = self._constrain_many(jnp.asarray(padded), arrays)
                blocks.append({n: np.asarray(v)[: len(block)] for n, v in values.items()})
        return {
            s.name: np.concatenate([b[s.name] for b in blocks]).reshape(z.shape[:-1] + s.shape)
            for s in self.quantities
        }

    def complete(self, latents: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return all reported quantities of draws of the latent sites, constrained scale.

        Every value of ``latents`` has one leading dimension of draws.
        """
        return self.constrain(self.unconstrain_rows(latents))

    def unconstrain_rows(self, latents: Mapping[str, Any]) -> np.ndarray:
        """Return the flat vectors of draws of the latent sites, shape (num_draws, dim).

        Every value of ``latents`` has one leading dimension of draws.
        """
        with jax.enable_x64(True):
            values = {s.name: jnp.asarray(latents[s.name], float) for s in self.latents}
            return np.asarray(self._unconstrain_many(values, self.arrays()))

    def unconstrain(self, values: Mapping[str, Any]) -> np.ndarray:
        """Return the flat vector of constrained latent values.

        Raises
        ------
        ValueError
            For a missing site, a wrong shape, or a value outside the support.
        """
        for site in self.latents:
            if site.name not in values:
                raise ValueError(f"values: latent site '{site.name}' is missing")
            shape = np.shape(values[site.name])
            if shape != site.shape:
                raise ValueError(f"site '{site.name}': got shape {shape}, expected {site.shape}")
        with jax.enable_x64(True):
            latent = {s.name: jnp.asarray(values[s.name], float) for s in self.latents}
            z = np.asarray(self._unconstrain_one(latent, self.arrays()))
        if not np.isfinite(z).all():
            bad = [s.name for s in self.latents if not np.isfinite(z[self.slices[s.name]]).all()]
            raise ValueError(f"values outside the support of site(s) {', '.join(bad)}")
        return z

    def log_likelihood_fn(self, z: jax.Array, arrays: Arrays) -> dict[str, jax.Array]:
        """Return the pointwise log-likelihood, observed site -> array; a pure function."""
        values = self.constrain_fn(z, arrays)
        latent = {s.name: values[s.name] for s in self.latents}
        result: dict[str, jax.Array] = log_likelihood(
            handlers.seed(self.seeded, jax.random.key(0)),
            latent,
            batch_ndims=0,
            **self.keywords(arrays),
        )
        return {s.name: result[s.name] for s in self.observed}

    def log_likelihood(self, z: Any) -> dict[str, np.ndarray]:
        """Return the pointwise log-likelihood at ``z`` in float64.

        Raises
        ------
        ValueError
            If the likelihood lives only in ``numpyro.factor`` terms, which have no points.
        """
        self.check_pointwise()
        with jax.enable_x64(True):
            result = jax.jit(self.log_likelihood_fn)(jnp.asarray(z, float), self.arrays())
        return {name: np.asarray(value) for name, value in result.items()}

    def check_pointwise(self) -> None:
        """Raise a :class:`ValueError` if the model has no pointwise likelihood."""
        if not self.observed:
            raise ValueError(
                f"model '{self.name}' has no pointwise likelihood: its likelihood lives in "
                "numpyro.factor terms, or sums over discrete latent variables. Give the model "
                "an observed site (obs=...) to have one"
            )

    # -- starting points ---------------------------------------------------------------------

    def start(
        self,
        key: jax.Array,
        *,
        scatter: float = 0.0,
        value_and_grad: Callable[[np.ndarray], tuple[Any, Any]] | None = None,
    ) -> np.ndarray:
        """Return a point of finite density, unconstrained: the model's ``init`` or prior medians.

        Parameters
        ----------
        key
            Seeds the model's ``init``, the prior draws and the scatter.
        scatter
            Half-width of the uniform noise added to every coordinate. With scatter and without a
            model ``init`` the centre is 0, which is NumPyro's ``init_to_uniform``.
        value_and_grad
            The caller's own compiled log density and gradient, to spare a compilation.

        Raises
        ------
        ValueError
            If no finite density is found, naming the sites to blame.
        """
        self._check_indices()
        evaluate = value_and_grad or self._value_and_grad
        z = np.zeros(self.dim)
        for attempt in range(NUM_ATTEMPTS):
            with warnings.catch_warnings():
                # data outside their support are named below, after the density was tried
                warnings.simplefilter("ignore", UserWarning)
                with jax.enable_x64(True):
                    z = self._propose(jax.random.fold_in(key, attempt), scatter, attempt)
                value, gradient = evaluate(z)  # in the caller's precision
            if np.isfinite(value) and np.isfinite(gradient).all():
                return z
        raise ModelError(self._explain_no_density(z))

    @cached_property
    def closes_over_arrays(self) -> bool:
        """Whether the model reads floating-point arrays that are not among its arguments."""

        def constants() -> list[Any]:
            def fresh(z: jax.Array, arrays: Arrays) -> jax.Array:  # unknown to JAX's caches
                return self.log_density_fn(z, arrays)

            return list(jax.make_jaxpr(fresh)(jnp.zeros(self.dim), self.arrays()).consts)

        with jax.enable_x64(True):
            # what the model makes anew each time is harmless; what it holds on to is not
            pairs = zip(constants(), constants(), strict=True)
            return any(
                a is b and np.ndim(a) > 0 and jnp.issubdtype(a.dtype, jnp.floating)
                for a, b in pairs
            )

    def _check_indices(self) -> None:
        """Raise on an index out of bounds, which JAX would quietly clamp. Once per target."""
        if self._indices_checked:
            return
        if self.closes_over_arrays:
            # the caller may have used them in float32, which JAX remembers
            jax.clear_caches()  # type: ignore[no-untyped-call]
        with jax.enable_x64(True):
            self.check_indices(self.arrays())
        self._indices_checked = True

    def check_indices(self, arrays: Arrays) -> None:
        """Raise a :class:`ModelError` if the model reads an index out of bounds in ``arrays``."""
        with jax.enable_x64(True):
            error, _ = self._index_errors(jnp.zeros(self.dim), arrays)
        if message := error.get():
            raise ModelError(
                f"model '{self.name}' reads {message.split(' at ')[0].rstrip('. ')}. Group codes "
                "must run from 0 to the number of groups less one"
            )

    @cached_property
    def _index_errors(self) -> Callable[..., Any]:
        return jax.jit(checkify.checkify(self.log_density_fn, errors=checkify.index_checks))

    def _propose(self, key: jax.Array, scatter: float, attempt: int) -> np.ndarray:
        centre_key, noise_key = jax.random.split(key)
        given = self.model.init(centre_key, **self.data) if self.model.init else {}
        if scatter and not given:
            centre = np.zeros(self.dim)
        elif len(given) == len(self.latents):
            centre = self.unconstrain(given)
        else:
            draw = self._initial_values(attempt >= NUM_ATTEMPTS // 2)
            centre = self.unconstrain(draw(centre_key, self.arrays()) | dict(given))
        if scatter:
            noise = jax.random.uniform(noise_key, (self.dim,), float, -scatter, scatter)
            centre = centre + np.asarray(noise)
        return np.asarray(centre)

    def _initial_values(self, uniform: bool) -> Callable[..., Any]:
        """Return a compiled ``(key, arrays) -> values``: prior medians, or uniform near 0."""
        if uniform not in self._initialisers:
            strategy = init_to_uniform() if uniform else init_to_median(num_samples=15)

            def draw(key: jax.Array, arrays: Arrays) -> dict[str, jax.Array]:
                seeded = handlers.seed(self.model.function, key)
                model = handlers.substitute(seeded, substitute_fn=strategy)
                trace = handlers.trace(model).get_trace(**self.keywords(arrays))
                return {s.name: trace[s.name]["value"] for s in self.latents}

            # it runs a few times only: half the time to compile is worth more than speed
            options = {"xla_backend_optimization_level": 0}
            self._initialisers[uniform] = jax.jit(draw, compiler_options=options)
        return self._initialisers[uniform]

    def _explain_no_density(self, z: np.ndarray) -> str:
        terms = self.site_log_densities(z)
        bad = {name: value for name, value in terms.items() if not np.isfinite(value)}
        if not bad:
            return (
                f"model '{self.name}': the gradient of the log density is not finite at any of "
                f"{NUM_ATTEMPTS} starting points; look for sqrt, log or division at zero, and "
                "jnp.where guarding only the value"
            )
        listed = ", ".join(f"'{name}' (log density {value})" for name, value in bad.items())
        return (
            f"model '{self.name}': no finite density at any of {NUM_ATTEMPTS} starting points; to "
            f"blame: site {listed}. Check that the data lie in the support of the likelihood, or "
            "give Model(init=...) a feasible starting point"
        )

    def site_log_densities(self, z: Any) -> dict[str, float]:
        """Return the log density of every sample site at ``z``, constrained scale, float64."""

        def terms(z: jax.Array, arrays: Arrays) -> dict[str, jax.Array]:
            data = self.keywords(arrays)
            values = constrain_fn(self.seeded, (), data, self.unravel(z))
            model = handlers.substitute(self.seeded, data=values)
            trace = handlers.trace(model).get_trace(**data)
            return {
                name: jnp.sum(site["fn"].log_prob(site["value"]))
                for name, site in trace.items()
                if site["type"] == "sample"
            }

        with jax.enable_x64(True):
            result = jax.jit(terms)(jnp.asarray(z, float), self.arrays())
        return {name: float(value) for name, value in result.items()}

    # -- structure -----------------------------------------------------------------------------

    @cached_property
    def coordinate_of(self) -> dict[str, np.ndarray]:
        """Which single coordinate of ``z`` each reported scalar depends on.

        Site name -> integer array of the site's shape; -1 where a scalar depends on none or on
        several. Found from three Jacobian-vector products of the constraining map at each of some
        random points: along ones, f'; along the coordinates' indices, j f'; and along a random
        direction, which verifies the index j. The points lie near the start and far from it, where
        max(a, b) or where(a > 0, b, c) may depend on another coordinate.
        """

        def probe(z: jax.Array, directions: jax.Array, arrays: Arrays) -> dict[str, jax.Array]:
            def along(direction: jax.Array) -> dict[str, jax.Array]:
                return jax.jvp(lambda v: self.constrain_fn(v, arrays), (z,), (direction,))[1]

            return jax.vmap(along)(directions)

        rng = np.random.default_rng(0)
        index = np.arange(1.0, self.dim + 1)
        start = self.start(jax.random.key(0), value_and_grad=lambda z: (0.0, np.zeros(1)))
        found: dict[str, np.ndarray] = {}
        with jax.enable_x64(True):
            compiled = None
            for spread in (0.1, 0.1, *FAR):
                z = jnp.asarray(start + spread * rng.standard_normal(self.dim))
                direction = rng.standard_normal(self.dim)
                directions = jnp.asarray(np.stack([np.ones(self.dim), index, direction]))
                args = z, directions, self.arrays()
                compiled = compiled or Timing().compile(probe, *args)
                slopes = compiled(*args)
                for name, slope in slopes.items():
                    by_one, by_index, by_random = np.asarray(slope)
                    with np.errstate(divide="ignore", invalid="ignore"):
                        ratio = by_index / by_one
                    guess = np.nan_to_num(np.round(ratio), nan=0, posinf=0, neginf=0).astype(int)
                    inside = (guess >= 1) & (guess <= self.dim) & np.isfinite(ratio)
                    j = np.where(inside, guess - 1, 0)
                    scale = np.abs(by_one)
                    with np.errstate(invalid="ignore"):
                        fits = (np.abs(by_index - (j + 1) * by_one) <= 1e-8 * self.dim * scale) & (
                            np.abs(by_random - direction[j] * by_one) <= 1e-8 * scale
                        )
                    j = np.where(inside & fits & (scale > 0), j, -1)
                    known = found.get(name, j)
                    # far out a slope may overflow, which says nothing
                    mute = (spread in FAR) & ~np.isfinite(slope).all(axis=0)
                    found[name] = np.where((known == j) | mute, known, -1)
        return found

    def slopes(self, z: Any) -> dict[str, np.ndarray]:
        """Return the derivative of every scalar in the one coordinate that it depends on, at ``z``.

        Site -> constrained scalar by unconstrained coordinate, shape of the site; of a scalar that
        depends on several coordinates, the sum of its derivatives (see :meth:`coordinate_of`).
        """
        with jax.enable_x64(True):
            ones = jnp.ones(self.dim)
            found = jax.jit(
                lambda z, a: jax.jvp(lambda z: self.constrain_fn(z, a), (z,), (ones,))[1]
            )(jnp.asarray(z, float), self.arrays())
        return {name: np.asarray(value) for name, value in found.items()}

    @cached_property
    def moving_supports(self) -> tuple[str, ...]:
        """Latent sites whose support depends on other latent sites, such as Uniform(lo, 5)."""
        rng = np.random.default_rng(0)
        here, elsewhere = rng.standard_normal((2, self.dim))
        rows = [here]
        for site in self.latents:
            row = elsewhere.copy()
            row[self.slices[site.name]] = here[self.slices[site.name]]
            rows.append(row)
        values = self.constrain(np.stack(rows))
        return tuple(
            site.name
            for k, site in enumerate(self.latents, start=1)
            if not np.allclose(values[site.name][k], values[site.name][0], equal_nan=True)
        )

    def sites_along(self, direction: np.ndarray) -> list[str]:
        """Return the latent sites that carry most of a direction of the flat vector."""
        size = np.abs(direction)
        return [name for name, place in self.slices.items() if size[place].max() > 0.5 * size.max()]

    def labels(self, sites: Sequence[str] | None = None, *, coords: bool = False) -> list[str]:
        """Return the labels of the scalars of ``sites`` (default: all reported), C order.

        ``coords=False`` gives zero-based indices (``beta[0]``, ``A[0, 1]``); ``True`` the
        coordinate labels, as ArviZ prints them. The two agree where a dimension has no labels.
        """
        names = [s.name for s in self.quantities] if sites is None else sites
        return [
            label
            for n in names
            for label in site_labels(self.sites[n], self.coords if coords else None)
        ]

    # -- construction ---------------------------------------------------------------------------

    def _split_and_trace(self) -> None:
        """Trace the model abstractly, keeping as much of the data traced as the model allows."""
        self._leaves, self._treedef = jax.tree.flatten(self.data, is_leaf=lambda x: x is None)
        self.seeded = handlers.seed(self.model.function, jax.random.key(0))
        is_array = [isinstance(leaf, np.ndarray) for leaf in self._leaves]
        is_float = [a and x.dtype.kind == "f" for a, x in zip(is_array, self._leaves, strict=True)]
        # A model may read sizes off integer data (len(np.unique(group))), or off any data: those
        # arrays are then bound as constants instead of traced.
        for is_traced in (is_array, is_float, [False] * len(is_array)):
            self._is_traced = is_traced
            self._arrays = tuple(x for t, x in zip(is_traced, self._leaves, strict=True) if t)
            self._on_device: dict[bool, Arrays] = {}
            try:
                self.sites = self._trace()
            except _NEEDS_CONCRETE:
                if not any(is_traced):
                    raise
            else:
                break
        discrete = {n: site for n, site in self.sites.items() if site.kind == "discrete"}
        if discrete:
            self._sum_out(discrete)

    def _sum_out(self, discrete: dict[str, Site]) -> None:
        """Put the marginal over the discrete latent variables in the model's place."""
        kinds = {name: site.support for name, site in discrete.items()}
        marginal = marginalise(self.model.function, kinds, self._observed_names, self._plate_depth)
        self.model = replace(self.model, function=marginal)
        self.seeded = handlers.seed(marginal, jax.random.key(0))
        self.sites = self._trace() | discrete
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

    def _trace(self) -> dict[str, Site]:
        found: dict[str, Site] = {}

        def run(key: jax.Array, arrays: Arrays) -> None:
            # init_to_uniform, because improper distributions cannot be sampled
            seeded = handlers.seed(self.model.function, key)
            model = handlers.substitute(seeded, substitute_fn=init_to_uniform())
            watch = ScanWatch()
            with watch:
                trace = handlers.trace(model).get_trace(**self.keywords(arrays))
            self.has_scan = watch.found
            found.update(read_trace(trace))
            self._observed_names = observed_names(trace)
            self._plate_depth = plate_depth(trace)

        try:
            with warnings.catch_warnings(), jax.enable_x64(True):
                warnings.simplefilter("ignore")
                jax.eval_shape(run, jax.random.key(0), self.arrays())
        except (ModelError, *_NEEDS_CONCRETE):
            raise
        except Exception as error:
            shapes = {n: getattr(v, "shape", v) for n, v in self.data.items()}
            raise ModelError(
                f"model '{self.name}' raised {type(error).__name__} on data with shapes {shapes}: "
                f"{_first_line(error)}. Check that the lengths of the arguments agree"
            ) from error
        if not any(site.kind == "latent" for site in found.values()):
            raise ModelError(
                f"model '{self.name}' has no latent site: every numpyro.sample is observed, so "
                "there is nothing to fit. Remove obs=... from the parameters, or check that the "
                "model function was passed and not a conditioned one"
            )
        return found

    def _name_dims(self) -> None:
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

    def _unconstrain_fn(self, values: dict[str, jax.Array], arrays: Arrays) -> jax.Array:
        model = handlers.substitute(self.seeded, data=values)
        trace = handlers.trace(model).get_trace(**self.keywords(arrays))
        sites = {
            s.name: biject_to(trace[s.name]["fn"].support).inv(values[s.name]) for s in self.latents
        }
        return self.ravel(sites)

    @cached_property
    def _value_and_grad(self) -> Callable[[np.ndarray], tuple[Any, Any]]:
        compiled = jax.jit(jax.value_and_grad(self.log_density_fn))

        def evaluate(z: np.ndarray) -> tuple[Any, Any]:
            with jax.enable_x64(True):
                value, gradient = compiled(jnp.asarray(z), self.arrays())
                return float(value), np.asarray(gradient)

        return evaluate

    @cached_property
    def _log_density(self) -> dict[bool, Callable[..., Any]]:
        return {
            flag: jax.jit(lambda z, a, flag=flag: self.log_density_fn(z, a, jacobian=flag))
            for flag in (True, False)
        }

    @property
    def _at_once(self) -> int:
        """Points at which the density is evaluated side by side."""
        return max(1, min(BATCH, MAX_AT_ONCE // (8 * self.size)))

    @cached_property
    def _log_density_many(self) -> Callable[..., Any]:
        at_once = self._at_once

        def densities(rows: jax.Array, arrays: Arrays) -> jax.Array:
            return jax.lax.map(lambda z: self.log_density_fn(z, arrays), rows, batch_size=at_once)

        return jax.jit(densities)

    @cached_property
    def _scores_many(self) -> Callable[..., Any]:
        at_once = self._at_once

        def scores(rows: jax.Array, arrays: Arrays) -> jax.Array:
            score = jax.grad(self.log_density_fn)
            return jax.lax.map(lambda z: score(z, arrays), rows, batch_size=at_once)

        return jax.jit(scores)

    @cached_property
    def _unconstrain_one(self) -> Callable[..., Any]:
        return jax.jit(self._unconstrain_fn)

    @cached_property
    def _unconstrain_many(self) -> Callable[..., Any]:
        return jax.jit(jax.vmap(self._unconstrain_fn, in_axes=(0, None)))

    @cached_property
    def _constrain_many(self) -> Callable[..., Any]:
        # one point at a time: side by side, what the model makes of its data would be held for each
        def constrain(rows: jax.Array, arrays: Arrays) -> dict[str, jax.Array]:
            return jax.lax.map(lambda z: self.constrain_fn(z, arrays), rows)

        return jax.jit(constrain)

    def __repr__(self) -> str:
        sites = ", ".join(f"{s.name}{list(s.shape) if s.shape else ''}" for s in self.latents)
        return f"Target({self.name!r}, dim={self.dim}, latent: {sites})"
