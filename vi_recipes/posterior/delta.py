"""An estimate with the curvature of the marginal likelihood there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, override

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from vi_recipes.model import Arrays, Sites
from vi_recipes.posterior.base import errors_of_draws
from vi_recipes.posterior.gaussian import GaussianPosterior

MAX_ROWS = 500
"""Scalars that depend on several coordinates up to which their slopes are formed."""


NUM_DRAWS = 10_000


class _Level(NamedTuple):
    """Scalars of a site that have no slope at the estimate and change beside it."""

    where: Bool[np.ndarray, "*shape"]
    sd: Float[np.ndarray, " marked"]
    """Of draws, of as many as are marked."""
    error: Float[np.ndarray, " marked"]
    """The Monte Carlo errors of these."""


@dataclass(frozen=True)
class EstimatePosterior(GaussianPosterior):
    """An estimate with standard errors: the point itself, and the delta method.

    The mean is the estimate, on the constrained scale as the model names it, and not the mean of a
    Gaussian pushed through the constraining map. Covariances are J C J', with C the inverse
    observed information on the unconstrained scale and J the slopes of the map. Draws are those of
    the Gaussian on the unconstrained scale, so that each lies in the support.

    Quantities that change by steps, whose slopes are 0, have the spread of 10,000 draws instead,
    and so have those with a slope of 0 at the estimate, or none, that change beside it, as
    ``max(x, 0)`` does where the estimate of x is negative.
    Latent variables have their mean given y and the estimate, and the variance of both: that given
    theta, and that of theta (Kass and Steffey 1989, doi:10.1080/01621459.1989.10478825).
    """

    @cached_property
    def _point(self) -> Sites:
        return self.target.constrain(self.loc)

    @override
    def mean(self) -> Sites:
        return {s.name: self._point[s.name] for s in self.target.quantities}

    @override
    def sd(self) -> Sites:
        return self._sds

    @override
    def mcse_mean(self) -> Sites:
        return {name: np.zeros_like(v) for name, v in self.mean().items()}

    @override
    def mcse_sd(self) -> Sites:
        errors = {name: np.zeros_like(v) for name, v in self._sds.items()}
        for name, value in errors.items():
            if (drawn := self._drawn(name)).any():
                spread = errors_of_draws(self._linear_draws[name], paired=True)[1]
                errors[name] = np.where(drawn, spread, value)
        for name, level in self._level.items():
            errors[name][level.where] = level.error
        return errors

    @cached_property
    def _slopes(self) -> Sites:
        """Slope of every scalar that depends on one coordinate."""
        return self.target.slopes(self.loc)

    def _several(self, name: str) -> np.ndarray:
        return self.coordinate_of[name].ravel() < 0

    def _drawn(self, name: str) -> np.ndarray:
        """Return which scalars of a site have their variance from draws."""
        several = self.coordinate_of[name] < 0
        if several.sum() > MAX_ROWS or name in self.target.flows.stepped_values:
            return several
        return np.zeros_like(several)

    @cached_property
    def _rows(self) -> dict[str, np.ndarray]:
        """Site -> slopes, shape (scalars that depend on several coordinates, dim)."""
        chosen = {
            s.name: np.flatnonzero(self._several(s.name))
            for s in self.target.quantities
            if self._several(s.name).any() and not self._drawn(s.name).any()
        }
        if not chosen:
            return {}
        target = self.target

        def pick(z: jax.Array, arrays: Arrays) -> dict[str, jax.Array]:
            values = target.constrain_fn(z, arrays)
            return {n: values[n].ravel()[rows] for n, rows in chosen.items()}

        with jax.enable_x64(True):
            slopes_at = target.compiled_once(
                (
                    "slopes of scalars that depend on several coordinates",
                    tuple((n, tuple(rows.tolist())) for n, rows in chosen.items()),
                ),
                lambda: jax.jit(jax.jacrev(pick)),
            )
            slopes = slopes_at(jnp.asarray(self.loc), target.arrays())
        return {name: np.asarray(v) for name, v in slopes.items()}

    @cached_property
    def _linear_draws(self) -> Sites:
        """Draws of the linearised quantities, for those too many to have their slopes formed.

        Of quantities that change by steps, which cannot be linearised, the draws less their mean.
        """
        away = self.unconstrained_draws(NUM_DRAWS // 2, jax.random.key(20_162)) - self.loc
        target = self.target

        def push(z: jax.Array, away: jax.Array, arrays: Arrays) -> dict[str, jax.Array]:
            along = jax.linearize(lambda z: target.constrain_fn(z, arrays), z)[1]
            return jax.lax.map(along, away)

        with jax.enable_x64(True):
            pushed = target.compiled_once("linearised constraining map", lambda: jax.jit(push))
            half = pushed(jnp.asarray(self.loc), jnp.asarray(away), target.arrays())
        drawn = {n: np.concatenate([np.asarray(v), -np.asarray(v)]) for n, v in half.items()}
        if stepped := target.flows.stepped_values:
            values = target.constrain(self.loc + np.concatenate([away, -away]))
            drawn |= {n: values[n] - values[n].mean(axis=0) for n in stepped}
        return drawn

    @cached_property
    def _level(self) -> dict[str, _Level]:
        """Which scalars have no slope at the estimate and change beside it, of sites with some."""
        target, masks = self.target, {}
        for name, sd in self._by_slopes.items():
            mask = np.asarray(~(np.isfinite(sd) & (sd > 0)))
            flow = target.flows.values.get(name)
            if mask.any() and name not in target.slices and flow is not None and flow.latents:
                masks[name] = mask
        masks = {n: mask for n, mask in masks.items() if n not in target.flows.stepped_values}
        if not masks:
            return {}

        def pick(z: jax.Array, arrays: Arrays) -> dict[str, jax.Array]:
            values = target.constrain_fn(z, arrays)
            return {n: values[n].ravel()[np.flatnonzero(mask)] for n, mask in masks.items()}

        key = "scalars without slopes", tuple((n, m.tobytes()) for n, m in masks.items())
        with jax.enable_x64(True):
            at = target.compiled_once(
                key, lambda: jax.jit(lambda z, arrays: jax.lax.map(lambda x: pick(x, arrays), z))
            )
            z = self.unconstrained_draws(NUM_DRAWS, jax.random.key(20_164))
            drawn = {n: np.asarray(v) for n, v in at(jnp.asarray(z), target.arrays()).items()}
        return {
            n: _Level(masks[n], v.std(axis=0), errors_of_draws(v)[1])
            for n, v in drawn.items()
            if np.isfinite(v).all() and np.ptp(v, 0).any()
        }

    @cached_property
    def _sds(self) -> Sites:
        sds = dict(self._by_slopes)
        for name, level in self._level.items():
            sds[name] = np.array(sds[name])
            sds[name][level.where] = level.sd
        return sds

    @cached_property
    def _by_slopes(self) -> Sites:
        """Sds by slopes, and by draws where these are no use to any such quantity."""
        result = {}
        for site in self.target.quantities:
            j = self.coordinate_of[site.name].ravel()
            sd = np.abs(self._slopes[site.name].ravel()) * self.scale[np.maximum(j, 0)]
            if site.name in self._rows:
                cov = self._sandwich(_sparse(self._rows[site.name]))
                sd[j < 0] = np.sqrt(np.maximum(np.diag(cov), 0.0))
            elif (j < 0).any():
                drawn = self._linear_draws[site.name].reshape(NUM_DRAWS, -1)
                sd[j < 0] = np.sqrt((drawn**2).mean(0))[j < 0]
            result[site.name] = sd.reshape(site.shape)
        return result

    @override
    def cov(self, sites: Sequence[str]) -> np.ndarray:
        cov = self._cov_by_slopes(sites)
        if not any(name in self._level for name in sites):
            return cov
        # each of its own spread: what has no slope has no covariance to first order
        flags = [self._level[n].where.ravel() if n in self._level else None for n in sites]
        sizes = [self._sds[n].size for n in sites]
        level = np.concatenate(
            [np.zeros(k, bool) if f is None else f for f, k in zip(flags, sizes, strict=True)]
        )
        sds = np.concatenate([self._sds[n].ravel() for n in sites])
        cov = np.where(level[:, None] | level, 0.0, cov)
        cov[level, level] = sds[level] ** 2
        return cov

    def _cov_by_slopes(self, sites: Sequence[str]) -> np.ndarray:
        if any(self._drawn(name).any() for name in sites):
            flat = [self._linear_draws[n].reshape(NUM_DRAWS, -1) for n in sites]
            joint = np.concatenate(flat, axis=1)
            return np.asarray(joint.T @ joint / NUM_DRAWS)
        slopes: list[tuple[np.ndarray, np.ndarray]] = []
        for name in sites:
            j = self.coordinate_of[name].ravel()
            rows = iter(_sparse(self._rows.get(name, np.zeros((0, self.loc.size)))))
            for k, slope in zip(j, self._slopes[name].ravel(), strict=True):
                slopes.append((np.array([k]), np.array([slope])) if k >= 0 else next(rows))
        return self._sandwich(slopes)

    def _sandwich(self, slopes: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        if self.precision is not None:
            return self.precision.sandwich(slopes)
        dense = np.zeros((len(slopes), self.loc.size))
        for row, (columns, values) in zip(dense, slopes, strict=True):
            np.add.at(row, columns, values)
        assert self.root is not None
        half = dense @ self.root
        return np.asarray(half @ half.T)


def _sparse(
    rows: Float[np.ndarray, "rows dim"],
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the columns and the values of what is not zero, row by row."""
    sparse = []
    for row in rows:
        columns = np.flatnonzero(row)
        sparse.append((columns, row[columns]))
    return sparse
