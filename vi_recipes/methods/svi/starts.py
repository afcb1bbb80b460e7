"""Where runs of SVI begin: starting points, and the engine's first state at each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
from numpyro.infer import SVI as Engine

from vi_recipes.core import COMPILED_QUICKLY, MethodFailure, Status, Timing, silent
from vi_recipes.methods.guides.making import families_in, make_guide, start_values
from vi_recipes.methods.guides.sites import latent_sites
from vi_recipes.methods.guides.units import first_in_units, guide_units
from vi_recipes.model import Target
from vi_recipes.modes import JointObjective, find_mode

SCATTER = 1.0
"""Half-width, on the unconstrained scale, of what all starts but the first are scattered over."""


def guide_centre(target: Target, key: jax.Array, number: int) -> np.ndarray:
    """Return where a guide is centred by default, unconstrained: all but start 0 are scattered."""
    return target.start(
        jax.random.fold_in(key, number) if number else key,
        scatter=SCATTER if number else 0.0,
        # the density alone: the guide's own set-up takes gradients
        value_and_grad=lambda z: (target.log_density(z), np.zeros(1)),
    )


def mode_or_default(
    target: Target, key: jax.Array, default: np.ndarray, timing: Timing
) -> tuple[np.ndarray, str]:
    """Return the mode of the density over the unconstrained scale, and what to say of it.

    Where there is none, or it says nothing of typical draws, ``default`` stands in.
    """
    with jax.enable_x64(True):
        try:
            mode = find_mode(
                JointObjective(target, timing, jacobian=True),
                key,
                solver="auto",
                max_steps=2_000,
                tolerance=1e-4,
                num_starts=1,
                progress=silent,
            )
        except MethodFailure as failure:
            return default, f"it began at the default start, there being no MAP: {failure.message}"
    if mode.status is not Status.OK:
        return default, f"it began at the default start, the MAP being of no use: {mode.message}"
    return mode.z, f"it began at the MAP ({mode.message})"


class Starts:
    """The engine's first states from any start, by code that is compiled once.

    Parameters
    ----------
    spec
        The guide, as :func:`~vi_recipes.methods.guides.making.make_guide` takes it.
    target
        What it is for: the model conditioned on what one step sees.
    make_engine
        ``make_engine(guide) -> engine``.
    whole
        The model conditioned on all rows, where ``target`` has those of a minibatch.
    """

    def __init__(
        self,
        spec: Any,
        target: Target,
        make_engine: Callable[[Any], Engine],
        whole: Target | None = None,
    ) -> None:
        self._spec, self._target, self._whole, self._make = spec, target, whole, make_engine
        self._made: Engine | None = None
        self._engine: Engine | None = None
        # one operation at a time the set-up takes seconds; but a user's guide may keep the model's
        # density as some of NumPyro's do: no traced values there
        at_once = isinstance(spec, str | Mapping) and not any(
            family.keeps_density for family in families_in(spec)
        )
        self._begin = jax.jit(self._set_up, compiler_options=COMPILED_QUICKLY) if at_once else None

    @property
    def ready(self) -> bool:
        """Whether there is an engine: another state then takes no compilation."""
        return self._engine is not None

    @property
    def engine(self) -> Engine:
        """The engine of the first state, which serves all: they differ in their values only."""
        assert self._engine is not None, "a state comes first"
        return self._engine

    def state(self, start: np.ndarray, key: jax.Array) -> Any:
        """Return the first state of a run whose guide is centred at ``start``, unconstrained.

        A guide function, or a guide made by the user, begins where it says itself.
        """
        values, arrays = start_values(self._target, start), self._target.arrays()
        state, supports = (self._begin or self._set_up)(key, values, arrays)
        if self._engine is None:
            assert self._made is not None
            if self._begin is not None:
                # what traced values are left in the guide are not used again, but for these
                for site, support in zip(latent_sites(self._made.guide), supports, strict=True):
                    fn = site["fn"]
                    site["fn"] = dist.ImproperUniform(support, fn.batch_shape, fn.event_shape)
            self._engine = self._made
        return state

    def _set_up(self, key: jax.Array, values: Mapping[str, Any], arrays: Any) -> tuple[Any, Any]:
        guide = make_guide(self._spec, self._target, values, self._whole)
        engine = self._make(guide)
        state = engine.init(key, **self._target.keywords(arrays))
        units = guide_units(guide, self._whole or self._target)
        if units.spreads:
            params = first_in_units(engine.optim.get_params(state.optim_state), units)
            state = state._replace(optim_state=engine.optim.init(params))
        self._made = engine
        if self._begin is None:
            return state, None
        return state, [site["fn"].support for site in latent_sites(guide)]
