"""A posterior with quantities derived from its draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, override

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from vi_recipes.core import as_key, told
from vi_recipes.model import Sites
from vi_recipes.posterior.base import Posterior, WeighedDraws, held_draws
from vi_recipes.posterior.draws import DrawsPosterior, MomentsPosterior

NUM_DERIVED = 4_000
"""Draws that moments of derived quantities are by, where a posterior holds none of its own."""


def apply(functions: Mapping[str, Callable[..., Any]], values: Sites, leading: int) -> Sites:
    """Return functions of site values at every draw.

    Parameters
    ----------
    functions
        Name -> function of a mapping site -> value at one draw. What JAX cannot trace is called
        draw by draw, with NumPy arrays.
    values
        Site -> draws, of which so many dimensions lead.

    Raises
    ------
    ValueError
        For a function that fails, or does not return numbers of one shape.
    """
    shape = next(iter(values.values())).shape[:leading]
    rows = {n: np.asarray(v, float).reshape(-1, *v.shape[leading:]) for n, v in values.items()}
    result = {}
    for name, function in functions.items():
        try:
            try:
                with jax.enable_x64(True):
                    at_rows = jax.jit(jax.vmap(function))
                    found = np.asarray(at_rows(jax.tree.map(jnp.asarray, rows)), float)
            except (jax.errors.JAXTypeError, TypeError, AttributeError):
                count = len(next(iter(rows.values())))
                each = [function({n: v[k] for n, v in rows.items()}) for k in range(count)]
                found = np.stack([np.asarray(value, float) for value in each])
        except Exception as error:  # of any function of a user's
            raise ValueError(f"derive: '{name}': {told(error)}") from error
        result[name] = found.reshape(*shape, *found.shape[1:])
    return result


@dataclass(frozen=True)
class DerivedPosterior(Posterior):
    """A posterior with more quantities, known by its own draws, or by 4,000.

    Parameters
    ----------
    base
        The posterior of the sites.
    functions
        Name -> function of a mapping site -> value at one draw.
    point
        Whether it is a point, and what is derived a function of that.
    chains
        Whether its draws are a sampler's, whose Monte Carlo errors are by their effective number.
    """

    base: Posterior
    functions: Mapping[str, Callable[..., Any]]
    point: bool = False
    chains: bool = False

    @property
    def samples(self) -> Sites | None:
        """The draws that the base holds, and what is derived from them; ``None`` for none."""
        held = held_draws(self.base)
        return None if held is None or self.point else {**held, **self._held}

    @cached_property
    def _held(self) -> Sites:
        return apply(self.functions, held_draws(self.base) or {}, 2)

    @cached_property
    def _unknown(self) -> bool:
        """Whether only moments are known, of which nothing can be derived."""
        return not self.point and moments_alone(self.base)

    @cached_property
    def _drawn(self) -> DrawsPosterior:
        held = held_draws(self.base)
        if held is None:
            values = self.base.draws(NUM_DERIVED, as_key(0))
            held = {name: value[None] for name, value in values.items()}
            return DrawsPosterior({**held, **apply(self.functions, held, 2)}, independent=True)
        return DrawsPosterior({**held, **self._held}, independent=not self.chains)

    @cached_property
    def _derived(self) -> tuple[Sites, ...]:
        """Return means, sds, and the Monte Carlo errors of both, of what is derived."""
        if self.point or self._unknown:
            values = {name: value[None] for name, value in self.base.mean().items()}
            at = {name: value[0] for name, value in apply(self.functions, values, 1).items()}
            none = {name: np.full_like(value, np.nan) for name, value in at.items()}
            zero = {name: np.zeros_like(value) for name, value in at.items()}
            return (at, none, zero, none) if self.point else (none, none, none, none)
        drawn = self._drawn
        several = (drawn.mean(), drawn.sd(), drawn.mcse_mean(), drawn.mcse_sd())
        return tuple({name: values[name] for name in self.functions} for values in several)

    @override
    def gaussian(
        self, rows: Int[np.ndarray, " rows"]
    ) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, "rows rows"]] | None:
        return self.base.gaussian(rows)

    @override
    def mean(self) -> Sites:
        return {**self.base.mean(), **self._derived[0]}

    @override
    def sd(self) -> Sites:
        return {**self.base.sd(), **self._derived[1]}

    @override
    def mcse_mean(self) -> Sites:
        return {**self.base.mcse_mean(), **self._derived[2]}

    @override
    def mcse_sd(self) -> Sites:
        return {**self.base.mcse_sd(), **self._derived[3]}

    @override
    def cov(self, sites: Sequence[str]) -> Float[np.ndarray, "scalars scalars"]:
        own = [name for name in sites if name not in self.functions]
        if len(own) == len(sites):
            return self.base.cov(sites)
        sizes = {name: value.size for name, value in self.mean().items()}
        if self.point or self._unknown:
            total = sum(sizes[name] for name in sites)
            return np.full((total, total), np.nan)
        whole = self._drawn.cov(sites)
        if own:
            which = np.concatenate([np.full(sizes[n], n not in self.functions) for n in sites])
            whole[np.ix_(which, which)] = self.base.cov(own)
        return whole

    @override
    def draws(self, num_draws: int, key: jax.Array) -> Sites:
        values = self.base.draws(num_draws, key)
        return {**values, **apply(self.functions, values, 1)}

    @override
    def weighed_draws(self, num_draws: int, key: jax.Array) -> WeighedDraws | None:
        drawn = self.base.weighed_draws(num_draws, key)
        if drawn is None:
            return None
        return replace(drawn, values={**drawn.values, **apply(self.functions, drawn.values, 1)})


def moments_alone(posterior: Posterior) -> bool:
    """Whether only moments are known of the sites, and no draws that could be had."""
    while isinstance(posterior, DerivedPosterior):
        posterior = posterior.base
    return isinstance(posterior, MomentsPosterior) and not posterior.samples
