"""Points of finite density to start from, and indices that stay inside their arrays."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping
from functools import cached_property
from typing import Any, NamedTuple, override

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify
from jaxtyping import Array, Float
from numpyro import handlers
from numpyro.distributions.transforms import biject_to
from numpyro.infer import init_to_median, init_to_uniform

from vi_recipes.core import (
    COMPILED_QUICKLY,
    ModelError,
    called,
    fold_key,
    generator,
    one_at_a_time,
    operations,
    split_key,
    unknown,
)
from vi_recipes.model.bound import Arrays, concrete
from vi_recipes.model.density import FlatDensity, unconstrained_values
from vi_recipes.model.enumeration import LOG_JOINT
from vi_recipes.model.units import find_units

NUM_ATTEMPTS = 20
"""Starting points that are tried before giving up."""

DISTANT = 4.0
"""From 0 on the scale of logarithms and logits: prior medians beyond are what starting points are
scattered around, and not 0. Scales of data in another unit are as far off."""

NOWHERE = 40.0
"""From 0 on that scale: a prior median beyond says nothing, as that of Gamma(0.001, 0.001), some
1e-300, which draws round to 0 as often as not. Nor do medians of what is drawn given that."""

OFF_ZERO = 1e-15
"""Units from 0 at which a coordinate begins that a model's ``init`` puts there. At 0 itself slopes
by JAX need not be the density's: that of NumPyro's Bernoulli by logits is y, and not y - 1/2."""

GOLDEN = 0.618
"""Coordinates off 0 by multiples of this, modulo 1, do not cancel one another."""

BY_INDEX = ("gather", "scatter", "dynamic_")
"""How the names of operations begin that read or write where an index says."""


class _Habits(NamedTuple):
    """What is seen of a model in the program of its density."""

    closes_over_arrays: bool
    reads_by_index: bool


class DensityWithStart(FlatDensity):
    """A flat density that knows where it is finite, and checks what its model reads."""

    form_of: DensityWithStart | None = None
    """The same model of the same data with other latent sites: it knows points, and indices."""

    # -- starting points -----------------------------------------------------------------------

    @one_at_a_time
    def start(
        self,
        key: jax.Array,
        *,
        scatter: float = 0.0,
        mirrored: bool = False,
        value_and_grad: Callable[[np.ndarray], tuple[Any, Any]] | None = None,
    ) -> Float[np.ndarray, " dim"]:
        """Return a point of finite density, unconstrained: the model's ``init`` or prior medians.

        Parameters
        ----------
        key
            Seeds the model's ``init``, the prior draws and the scatter.
        scatter
            Half-width of the uniform noise added to every coordinate, in its :attr:`units`. With
            scatter and without a model ``init`` the centre is 0, which is NumPyro's
            ``init_to_uniform``, but for scales whose prior medians are far from 1. Where no
            density is finite around there the point has none.
        mirrored
            Whether the noise is taken the other way: to the other side of the centre.
        value_and_grad
            The caller's own compiled log density and gradient, to spare a compilation.

        Raises
        ------
        ValueError
            If no finite density is found, naming the sites to blame.
        """
        # once for these data; what it raises is raised again
        self.compiled_once("indices checked", self._check_own_indices)
        evaluate = value_and_grad or self._value_and_grad
        z = np.zeros(self.dim)
        for attempt in range(NUM_ATTEMPTS):
            with warnings.catch_warnings():
                # data outside their support are named below, after the density was tried
                warnings.simplefilter("ignore", UserWarning)
                with jax.enable_x64(True):
                    z = self._propose(
                        fold_key(key, attempt), -scatter if mirrored else scatter, attempt
                    )
                value, gradient = evaluate(z)  # in the caller's precision
            if np.isfinite(value) and np.isfinite(gradient).all():
                return z
        if scatter:  # all around the centre lies outside the support, as of a limit of the data
            return self.start(key, value_and_grad=value_and_grad)
        raise ModelError(self._explain_no_density(z))

    def anywhere(self) -> Float[np.ndarray, " dim"]:
        """Return a point to differentiate at, unconstrained: its density need not be finite."""
        if self.form_of is not None:
            return self._shared_with(self.form_of, self.form_of.anywhere(), np.zeros(self.dim))
        return self.start(jax.random.key(0), value_and_grad=lambda z: (0.0, np.zeros(1)))

    def _shared_with(
        self, other: DensityWithStart, there: Float[np.ndarray, " other"], own: np.ndarray
    ) -> Float[np.ndarray, " dim"]:
        """Return a flat vector that has another density's numbers where both have a site."""
        for name in self.slices.keys() & other.slices.keys():
            own[self.slices[name]] = there[other.slices[name]]
        return own

    def _find_units(self) -> Float[np.ndarray, " dim"]:
        if self.form_of is not None:
            # what is standardised is near 1, however wide the scales are that wait to be found
            return self._shared_with(self.form_of, self.form_of.units, np.ones(self.dim))
        placed = not self.flat or self.model.init is not None
        with jax.enable_x64(True):
            z = self._propose(fold_key(jax.random.key(0), 0), 0.0, 0, np.ones(self.dim))
        return find_units(self, z, placed=placed)

    @property
    def units(self) -> Float[np.ndarray, " dim"]:
        """The unit of every coordinate, shape (dim,); see :mod:`vi_recipes.model.units`.

        Searches start, go and stop by it, so that a fit is the same in metres and in millimetres.
        """
        with concrete():
            return self.compiled_once("units", self._find_units)

    def density_in_units(self, x: Float[Array, " dim"], arrays: Arrays) -> Float[Array, ""]:
        """Return the log density where every coordinate is ``x`` of its :attr:`units`.

        Over the flat vector itself, so without the Jacobian of the units, which is constant.
        """
        return self.log_density_fn(x * self.units, arrays)

    def _propose(
        self,
        key: jax.Array,
        scatter: float,
        attempt: int,
        widths: Float[np.ndarray, " dim"] | None = None,
    ) -> Float[np.ndarray, " dim"]:
        centre_key, noise_key = split_key(key)
        given = self.given_start(centre_key)
        if scatter and not given:
            medians = self.compiled_once("medians", self.anywhere)
            centre = np.where(self.edged & (np.abs(medians) > DISTANT), medians, 0.0)
        elif given:
            known = len(given) == len(self.latents)
            others = {} if known else self._initial_values(centre_key, attempt, widths)[0]
            centre = self.unconstrain(others | dict(given))
            off = OFF_ZERO * (1 + GOLDEN * np.arange(self.dim) % 1)
            centre = np.where(centre == 0, off * (self.units if widths is None else widths), centre)
        else:
            values, centre = self._initial_values(centre_key, attempt, widths)
            if not np.isfinite(centre).all():
                centre = self.unconstrain(values)  # which says what is wrong
        if scatter:
            noise = scatter * generator(noise_key).uniform(-1.0, 1.0, self.dim)
            centre = centre + self.units * noise
        return np.asarray(centre)

    def given_start(self, key: jax.Array) -> Mapping[str, Any]:
        """Return where the model says that methods start; nothing where it does not say."""
        if self.model.init is None:
            return {}
        what = f"init of model '{self.name}'"
        given = called(what, self.model.init, key, **self.data)
        if not isinstance(given, Mapping):
            raise ModelError(
                f"{what} returned {type(given).__name__}, expected a mapping: site -> value"
            )
        for name, value in given.items():
            if name not in self.sites:
                raise ModelError(f"{what}: {unknown('site', str(name), self.sites)}")
            if not np.isfinite(called(f"{what}, site '{name}',", np.asarray, value, float)).all():
                raise ModelError(f"{what}: got NaN or infinity for site '{name}', expected numbers")
        return given

    def _initial_values(
        self, key: jax.Array, attempt: int, widths: Float[np.ndarray, " dim"] | None
    ) -> tuple[dict[str, Array], Float[np.ndarray, " dim"]]:
        """Return values of the latent sites, and the flat vector of them.

        Prior medians, where they are somewhere; else, as under flat priors, and at later attempts,
        uniform near 0: within two of ``widths``, which are the :attr:`units` where none are given.
        """
        names = {s.name for s in self.latents}
        uniform = frozenset(names) if attempt >= NUM_ATTEMPTS // 2 else self.flat
        while True:
            wide = np.ones(self.dim) if widths is None else widths
            if uniform and widths is None:
                wide = self.units
            values, unconstrained = self._drawn(uniform)(key, wide, self.arrays())
            z = np.asarray(unconstrained)
            lost = ~np.isfinite(z)
            # first what others may be lost for, being drawn given it
            for wild in (self.edged & (lost | (np.abs(z) > NOWHERE)), lost):
                if found := {n for n in names - uniform if wild[self.slices[n]].any()}:
                    break
            else:
                return values, z
            uniform |= found

    def _drawn(self, uniform: frozenset[str]) -> Callable[..., Any]:
        """Return a compiled ``(key, widths, arrays) -> values, z``: medians, or uniform near 0.

        What has an edge has no width: it is uniform within 2 on its scale of logarithms or logits.
        """

        def draw(key: jax.Array, widths: Array, arrays: Arrays) -> tuple[dict[str, Array], Array]:
            width = self.unravel(jnp.where(self.edged, 1.0, widths))

            def strategy(site: dict[str, Any]) -> Any:
                if site["name"] not in uniform:
                    return init_to_median(site, num_samples=15)
                value = init_to_uniform(site)
                if value is None or self.edged[self.slices[site["name"]]].all():
                    return value
                places = biject_to(site["fn"].support)
                return places(width[site["name"]] * places.inv(value))

            seeded = handlers.seed(self.model.function, key)
            model = handlers.substitute(seeded, substitute_fn=strategy)
            trace = handlers.trace(model).get_trace(**self.keywords(arrays))
            values = {s.name: trace[s.name]["value"] for s in self.latents}
            return values, self.ravel(unconstrained_values(trace, values))

        return self.compiled_for_any_data(
            ("initial values", uniform), lambda: jax.jit(draw, compiler_options=COMPILED_QUICKLY)
        )

    def _explain_no_density(self, z: np.ndarray) -> str:
        terms = self.site_log_densities(z)
        bad = {name: value for name, value in terms.items() if not np.isfinite(value)}
        if not bad:
            return (
                f"model '{self.name}': the gradient of the log density is not finite at any of "
                f"{NUM_ATTEMPTS} starting points; look for sqrt, log or division at zero, and "
                "jnp.where guarding only the value"
            )
        if high := [name for name, value in bad.items() if value == np.inf]:
            where = "; ".join(self._where_infinite(z, name) for name in high)
            return (
                f"model '{self.name}': the density is not finite at any of {NUM_ATTEMPTS} starting "
                f"points, and infinite at the last: at {where}. Nothing can be fitted to a value "
                "that has an infinite density, such as one that was rounded to 0: leave it out, "
                "put the middle of what was rounded in its place, or use a law that is finite "
                "there; where latent variables alone are to blame, give Model(init=...)"
            )
        said = {LOG_JOINT: "the sum over the discrete latent variables"}
        listed = ", ".join(
            f"{said.get(name, f"site '{name}'")} (log density {value})"
            for name, value in bad.items()
        )
        return (
            f"model '{self.name}': no finite density at any of {NUM_ATTEMPTS} starting points; to "
            f"blame: {listed}. Check that the data lie in the support of the likelihood, or "
            "give Model(init=...) a feasible starting point"
        )

    def _where_infinite(self, z: Float[np.ndarray, " dim"], name: str) -> str:
        """Return a site, and the first of its values that has an infinite density."""
        with jax.enable_x64(True):
            data = self.keywords(self.arrays())
            found = self.constrain(z)
            values = {s.name: found[s.name] for s in self.latents}
            model = handlers.substitute(self.seeded, data=values)
            site = handlers.trace(model).get_trace(**data).get(name)
            if site is None:
                return f"site '{name}'"
            densities = np.asarray(site["fn"].log_prob(site["value"]))
        places = np.argwhere(densities == np.inf)
        value = np.asarray(site["value"])
        if not len(places) or not value.size:
            return f"site '{name}'"
        first = tuple(int(k) for k in places[0])
        one = np.array2string(value[first], precision=4, threshold=4)
        if not first:
            return f"site '{name}' = {one}"
        index = first[0] if len(first) == 1 else first
        share = f"{len(places)} of its {densities.size} values"
        return f"site '{name}', at {share}, first at index {index}, value {one}"

    # -- indices -------------------------------------------------------------------------------

    @property
    def closes_over_arrays(self) -> bool:
        """Whether the model reads floating-point arrays that are not among its arguments."""
        return self._habits.closes_over_arrays

    @cached_property
    @one_at_a_time
    def _habits(self) -> _Habits:
        def traced() -> Any:
            def fresh(z: jax.Array, arrays: Arrays) -> jax.Array:  # unknown to JAX's caches
                return self.log_density_fn(z, arrays)

            return jax.make_jaxpr(fresh)(np.zeros(self.dim), self.arrays())

        def is_float_array(a: Any) -> bool:
            return np.ndim(a) > 0 and bool(jnp.issubdtype(a.dtype, jnp.floating))

        with jax.enable_x64(True):
            program = traced()
            # what the model makes anew each time is harmless; what it holds on to is not
            closes_over_arrays = any(map(is_float_array, program.consts)) and any(
                a is b and is_float_array(a)
                for a, b in zip(program.consts, traced().consts, strict=True)
            )
        by_index = any(name.startswith(BY_INDEX) for name in operations(program.jaxpr))
        return _Habits(closes_over_arrays, by_index)

    @one_at_a_time
    def check_indices(self, arrays: Arrays) -> None:
        """Raise a :class:`ModelError` if the model reads an index out of bounds in ``arrays``.

        JAX would quietly clamp it.
        """
        if not self._habits.reads_by_index:
            return

        def errors(z: Array, arrays: Arrays) -> Any:
            # the density itself is not among the results, so it is not compiled
            checked = checkify.checkify(self.log_density_fn, errors=checkify.index_checks)
            return checked(z, arrays)[0]

        compiled = self.compiled_for_any_data(
            "index errors", lambda: jax.jit(errors, compiler_options=COMPILED_QUICKLY)
        )
        with jax.enable_x64(True):
            error = compiled(np.zeros(self.dim), arrays)
        if message := error.get():
            raise ModelError(
                f"model '{self.name}' reads {message.split(' at ')[0].rstrip('. ')}. Group codes "
                "must run from 0 to the number of groups less one"
            )

    def _check_own_indices(self) -> None:
        if self.form_of is not None:
            other = self.form_of
            return other.compiled_once("indices checked", other._check_own_indices)
        self._forget_single_precision()
        with jax.enable_x64(True):
            self.check_indices(self.arrays())

    @override
    def _code_of_model[T](self, key: Hashable, make: Callable[[], T]) -> T:
        self._forget_single_precision()
        return super()._code_of_model(key, make)

    def _forget_single_precision(self) -> None:
        """Have JAX forget how the caller used arrays in float32 that the model holds on to."""

        def forget() -> None:
            if self.closes_over_arrays:
                jax.clear_caches()  # type: ignore[no-untyped-call]

        self.compiled_once("single precision forgotten", forget)
