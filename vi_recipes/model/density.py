"""The log density over one flat vector, and its transforms."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, override

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from numpyro import handlers
from numpyro.distributions.transforms import biject_to
from numpyro.infer.util import constrain_fn, log_likelihood, potential_energy
from numpyro.primitives import Messenger

from vi_recipes.core import COMPILED_QUICKLY, compiler_options, one_at_a_time, require_by_site
from vi_recipes.model.bound import Arrays
from vi_recipes.model.model import Model
from vi_recipes.model.tracing import TracedModel
from vi_recipes.model.weights import unmasked

BATCH = 128
"""Points in one call of compiled code: one shape, so it is compiled once."""

MAX_AT_ONCE = 2**23
"""Numbers of all of them together, at most, where one takes what is made of the data."""

MAX_CONSTRAINED = 2**20
"""Coordinates of all that are transformed in a call, at most: it has them twice or thrice."""

FEWEST_AT_ONCE = 5
"""Densities that are computed side by side, whatever the model, which takes 60 % of the time: a
sum over rows fills the processor's vectors with several points, and not with one."""

FEWEST_IN_CALL = 25
"""Of them in one call, about: it divides the numbers of draws of large models, so that few points
are computed for nothing."""

MANY_ROWS = 10_000
"""Points that a fit and what is asked of it look at, about."""


def in_blocks[T](
    function: Callable[[np.ndarray], T], z: Float[np.ndarray, "rows dim"], size: int = BATCH
) -> T:
    """Return ``function`` of all rows, a tree of arrays, called in float64 for some at a time.

    Parameters
    ----------
    function
        Compiled; returns arrays whose first dimension is that of the rows.
    z
        The rows.
    size
        How many in a call.
    """
    z = np.asarray(z, float)
    whole: list[np.ndarray] = []
    with jax.enable_x64(True):
        for first in range(0, len(z), size):
            block = z[first : first + size]
            missing = size - len(block)
            if missing:  # one shape, so one compilation: short blocks are padded
                block = np.concatenate([block, np.repeat(block[-1:], missing, axis=0)])
            made, shape = jax.tree.flatten(function(block))
            if not first:  # filled in place: it may be large
                whole = [np.empty((len(z), *v.shape[1:]), v.dtype) for v in made]
            for place, values in zip(whole, made, strict=True):
                place[first : first + size] = np.asarray(values)[: size - missing]
    done: T = jax.tree.unflatten(shape, whole)
    return done


def log_det_name(latent: str) -> str:
    """Return NumPyro's name of the factor that holds the log Jacobian of a latent site."""
    return f"_{latent}_log_det"


def unconstrained_values(trace: Mapping[str, Any], values: Mapping[str, Array]) -> dict[str, Array]:
    """Return values of sites on the unconstrained scale, by the supports that a trace has; pure."""
    return {name: biject_to(trace[name]["fn"].support).inv(v) for name, v in values.items()}


class _WithJacobians(Messenger):  # type: ignore[misc]
    """Adds the Jacobians of the constraining transforms whole, or leaves them out.

    NumPyro's potential energy has them as factors of their own, made where the model samples the
    site: a scale or mask there would weigh them too, and the density over the unconstrained scale
    would not be that of the weighted one. Left out they are masked and not multiplied by nothing:
    one may be infinite.
    """

    def __init__(
        self, model: Callable[..., Any], latents: Sequence[str], added: bool | Bool[Array, ""]
    ) -> None:
        super().__init__(model)
        self.names = {log_det_name(name) for name in latents}
        self.added = added

    @override
    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["name"] in self.names:
            msg["scale"] = None
            fn, _ = unmasked(msg["fn"])
            msg["fn"] = fn if self.added is True else fn.mask(self.added)


class FlatDensity(TracedModel):
    """A traced model as a log density over one flat unconstrained vector.

    The vector ``z`` has length :attr:`dim`: the latent sites in model order, each raveled in C
    order, as NumPyro's automatic guides order them.
    """

    def __init__(self, model: Model, data: dict[str, Any]) -> None:
        super().__init__(model, data)
        sizes = [int(np.prod(s.unconstrained_shape, dtype=int)) for s in self.latents]
        self.dim = sum(sizes)
        """Length of the flat vector."""
        ends = np.cumsum(sizes)
        self.slices: dict[str, slice] = {
            s.name: slice(int(end - size), int(end))
            for s, size, end in zip(self.latents, sizes, ends, strict=True)
        }
        """Latent site -> its place in the flat vector."""
        self.edged = self._find_edged()
        """Which coordinates an edge of a support puts at infinity, shape (dim,): logarithms, logits
        and the like, which have no unit."""

    def _find_edged(self) -> Bool[np.ndarray, " dim"]:
        edged = np.zeros(self.dim, bool)
        for site in self.latents:
            place = self.slices[site.name]
            edged[place] = site.bounded
            if "OrderedVector" in site.support:
                # the first as it is, then the logarithms of what each adds to the one before
                of_site = np.ones(site.unconstrained_shape, bool)
                of_site[..., 0] = False
                edged[place] = of_site.ravel()
        return edged

    def _code_of_model[T](self, key: Hashable, make: Callable[[], T]) -> T:
        """Return code that runs the model on any data, made once."""
        return self.compiled_for_any_data(key, make)

    @property
    def size(self) -> int:
        """Numbers in the data and in the flat vector, about what one density reads."""
        own = sum(np.size(a) for a in self._arrays)
        return own * self.num_hosts + self.dim

    # -- pure functions, to be transformed and compiled ----------------------------------------

    def unravel(self, z: Float[Array, " dim"]) -> dict[str, Array]:
        """Return the flat vector as unconstrained site values."""
        return {s.name: z[self.slices[s.name]].reshape(s.unconstrained_shape) for s in self.latents}

    def ravel(self, sites: Mapping[str, Any]) -> Array:
        """Return unconstrained site values, or what has their shapes, as the flat vector."""
        return jnp.concatenate([jnp.ravel(jnp.asarray(sites[s.name])) for s in self.latents])

    def log_density_fn(
        self, z: Float[Array, " dim"], arrays: Arrays, *, jacobian: bool | Bool[Array, ""] = True
    ) -> Float[Array, ""]:
        """Return the log joint density at ``z``.

        Parameters
        ----------
        z
            Flat unconstrained vector.
        arrays
            The data, from :meth:`arrays`.
        jacobian
            Whether to add the log Jacobian determinant of the constraining transform: with it this
            is a density over the unconstrained scale, without it over the constrained scale. It may
            be an array, so that one program has both.
        """
        model = self.seeded
        if jacobian is not True or self._seen_weights:
            model = _WithJacobians(model, [s.name for s in self.latents], jacobian)
        return -potential_energy(model, (), self.keywords(arrays), self.unravel(z))

    def constrain_fn(self, z: Float[Array, " dim"], arrays: Arrays) -> dict[str, Array]:
        """Return latent and deterministic values on the constrained scale, from the flat vector.

        All are floating-point numbers: integers that a model derives are counted like any others,
        and a boolean is 1 where it holds, so that its mean is a probability.
        """
        return self.constrain_sites_fn(self.unravel(z), arrays)

    def constrain_sites_fn(
        self, unconstrained: Mapping[str, Array], arrays: Arrays
    ) -> dict[str, Array]:
        """Return the same from unconstrained site values."""
        values = constrain_fn(
            self.seeded, (), self.keywords(arrays), unconstrained, return_deterministic=True
        )
        return {site.name: jnp.asarray(values[site.name], float) for site in self.quantities}

    def log_likelihood_fn(self, z: Float[Array, " dim"], arrays: Arrays) -> dict[str, Array]:
        """Return the pointwise log-likelihood, observed site -> array."""
        values = self.constrain_fn(z, arrays)
        latent = {s.name: values[s.name] for s in self.latents}
        result: dict[str, Array] = log_likelihood(
            handlers.seed(self.seeded, jax.random.key(0)),
            latent,
            batch_ndims=0,
            **self.keywords(arrays),
        )
        return {s.name: result[s.name] for s in self.observed}

    def _unconstrain_fn(self, values: dict[str, Array], arrays: Arrays) -> Float[Array, " dim"]:
        model = handlers.substitute(self.seeded, data=values)
        trace = handlers.trace(model).get_trace(**self.keywords(arrays))
        return self.ravel(
            unconstrained_values(trace, {s.name: values[s.name] for s in self.latents})
        )

    # -- values, in float64 --------------------------------------------------------------------

    @one_at_a_time
    def log_density(self, z: Any, *, jacobian: bool = True) -> float:
        """Return the log joint density at ``z`` (see :meth:`log_density_fn`)."""

        def density(z: Array, arrays: Arrays) -> Array:
            return self.log_density_fn(z, arrays, jacobian=jacobian)

        compiled = self._code_of_model(("log density", jacobian), lambda: jax.jit(density))
        with jax.enable_x64(True):
            return float(compiled(jnp.asarray(self._flat(z, "(dim,)")), self.arrays()))

    @one_at_a_time
    def log_densities(self, z: Any, *, nan: float = -np.inf) -> Float[np.ndarray, " rows"]:
        """Return the log joint densities of the rows of ``z``, unconstrained scale.

        ``z`` has shape (rows, dim); ``nan`` stands where one is not a number.
        """
        z = self._flat(z, "(rows, dim)")
        values = self._at_rows("log densities", self.log_density_fn, z)
        return np.where(np.isnan(values), nan, values)

    @one_at_a_time
    def scores(self, z: Any) -> Float[np.ndarray, "rows dim"]:
        """Return the gradients of the log joint density at the rows of ``z``, shape (rows, dim).

        On the unconstrained scale; NaN where there is none.
        """
        z = self._flat(z, "(rows, dim)")
        return self._at_rows("scores", jax.grad(self.log_density_fn), z)

    def _flat(self, z: Any, shape: str) -> np.ndarray:
        """Return flat vectors as numbers; raise a :class:`ValueError` for another shape."""
        try:
            values = np.asarray(z, float)
        except (TypeError, ValueError):
            raise ValueError(f"z: got {type(z).__name__}, expected numbers") from None
        dims = {"(dim,)": 1, "(rows, dim)": 2}.get(shape, values.ndim)
        if values.ndim != dims or values.shape[-1:] != (self.dim,):
            raise ValueError(
                f"z: got shape {values.shape}, expected {shape}, where dim is {self.dim}"
            )
        return values

    def _at_rows(
        self, name: str, function: Callable[..., Array], z: Float[np.ndarray, "rows dim"]
    ) -> np.ndarray:
        """Return ``function(z, arrays)`` at every row, some of them side by side."""
        at_once = max(FEWEST_AT_ONCE, min(BATCH, MAX_AT_ONCE // (32 * self.size)))
        size = at_once * max(1, FEWEST_IN_CALL // at_once)  # the rest would be another program

        def at_rows(rows: Array, arrays: Arrays) -> Array:
            return jax.lax.map(lambda z: function(z, arrays), rows, batch_size=at_once)

        options = compiler_options(MANY_ROWS, (np.zeros(self.dim), self._arrays))
        compiled = self._code_of_model(name, lambda: jax.jit(at_rows, compiler_options=options))
        return in_blocks(lambda rows: compiled(rows, self.arrays()), z, size)

    @one_at_a_time
    def _value_and_grad(self, z: np.ndarray) -> tuple[Any, Any]:
        """Return the log joint density and its gradient at ``z``, unconstrained scale."""
        compiled = self._code_of_model(
            "value and gradient",
            lambda: jax.jit(
                jax.value_and_grad(self.log_density_fn), compiler_options=COMPILED_QUICKLY
            ),
        )
        with jax.enable_x64(True):
            value, gradient = compiled(jnp.asarray(z), self.arrays())
            return float(value), np.asarray(gradient)

    @one_at_a_time
    def log_likelihood(self, z: Any) -> dict[str, np.ndarray]:
        """Return the pointwise log-likelihood at ``z``.

        Raises
        ------
        ValueError
            If the likelihood lives only in ``numpyro.factor`` terms, which have no points.
        """
        self.check_pointwise()
        compiled = self._code_of_model("log likelihood", lambda: jax.jit(self.log_likelihood_fn))
        with jax.enable_x64(True):
            result = compiled(jnp.asarray(z, float), self.arrays())
        return {name: np.asarray(value) for name, value in result.items()}

    def check_pointwise(self) -> None:
        """Raise a :class:`ValueError` if the model has no pointwise likelihood here."""
        self.check_undivided()
        if not self.observed:
            raise ValueError(
                f"model '{self.name}' has no pointwise likelihood: its likelihood lives in "
                "numpyro.factor terms, or sums over discrete latent variables. Give the model "
                "an observed site (obs=...) to have one"
            )

    @one_at_a_time
    def site_log_densities(self, z: Any) -> dict[str, float]:
        """Return the log density of every sample site at ``z``, constrained scale."""

        def terms(z: Array, arrays: Arrays) -> dict[str, Array]:
            data = self.keywords(arrays)
            values = constrain_fn(self.seeded, (), data, self.unravel(z))
            model = handlers.substitute(self.seeded, data=values)
            trace = handlers.trace(model).get_trace(**data)
            return {
                name: jnp.sum(site["fn"].log_prob(site["value"]))
                for name, site in trace.items()
                if site["type"] == "sample"
            }

        compiled = self._code_of_model(
            "site log densities", lambda: jax.jit(terms, compiler_options=COMPILED_QUICKLY)
        )
        with jax.enable_x64(True):
            result = compiled(jnp.asarray(z, float), self.arrays())
        return {name: float(value) for name, value in result.items()}

    # -- from one scale to the other, in float64 -----------------------------------------------

    @one_at_a_time
    def constrain(self, z: Any) -> dict[str, np.ndarray]:
        """Return latent and deterministic values on the constrained scale, from the flat vector.

        ``z`` has shape (..., dim); the leading dimensions lead every value.
        """

        # one point at a time: side by side, what the model makes of its data would be held for each
        def at_rows(rows: Array, arrays: Arrays) -> dict[str, Array]:
            return jax.lax.map(lambda z: self.constrain_fn(z, arrays), rows)

        z = self._flat(z, "(..., dim)")
        options = compiler_options(MANY_ROWS, np.zeros(self.dim))
        compiled = self._code_of_model(
            "constrain", lambda: jax.jit(at_rows, compiler_options=options)
        )
        size = max(1, min(BATCH, MAX_CONSTRAINED // max(self.dim, 1)))
        values = in_blocks(
            lambda rows: compiled(rows, self.arrays()), z.reshape(-1, self.dim), size
        )
        return {s.name: values[s.name].reshape(z.shape[:-1] + s.shape) for s in self.quantities}

    def complete(self, latents: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Return all reported quantities of draws of the latent sites, constrained scale.

        Every value of ``latents`` has one leading dimension of draws.
        """
        return self.constrain(self.unconstrain_rows(latents))

    @one_at_a_time
    def unconstrain_rows(self, latents: Mapping[str, Any]) -> Float[np.ndarray, "draws dim"]:
        """Return the flat vectors of draws of the latent sites, shape (num_draws, dim).

        Every value of ``latents`` has one leading dimension of draws.
        """
        compiled = self._code_of_model(
            "unconstrain rows", lambda: jax.jit(jax.vmap(self._unconstrain_fn, in_axes=(0, None)))
        )
        with jax.enable_x64(True):
            values = {s.name: jnp.asarray(latents[s.name], float) for s in self.latents}
            return np.asarray(compiled(values, self.arrays()))

    @one_at_a_time
    def unconstrain(self, values: Mapping[str, Any]) -> Float[np.ndarray, " dim"]:
        """Return the flat vector of constrained latent values.

        Raises
        ------
        ValueError
            For a missing site, a wrong shape, or a value outside the support.
        """
        require_by_site(values)
        for site in self.latents:
            if site.name not in values:
                raise ValueError(f"values: latent site '{site.name}' is missing")
            shape = np.shape(values[site.name])
            if shape != site.shape:
                raise ValueError(f"site '{site.name}': got shape {shape}, expected {site.shape}")
        compiled = self._code_of_model(
            "unconstrain", lambda: jax.jit(self._unconstrain_fn, compiler_options=COMPILED_QUICKLY)
        )
        with jax.enable_x64(True):
            latent = {s.name: jnp.asarray(values[s.name], float) for s in self.latents}
            z = np.asarray(compiled(latent, self.arrays()))
        if not np.isfinite(z).all():
            bad = [s.name for s in self.latents if not np.isfinite(z[self.slices[s.name]]).all()]
            raise ValueError(f"values outside the support of site(s) {', '.join(bad)}")
        return z
