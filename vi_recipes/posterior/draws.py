"""Posteriors known by points, draws or moments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import override

import jax
import numpy as np
from jaxtyping import Float

from vi_recipes.core import generator
from vi_recipes.model import Sites
from vi_recipes.posterior.base import (
    Posterior,
    WeighedDraws,
    drawn_constant,
    errors_of_draws,
    per_scalar,
)


@dataclass(frozen=True)
class PointPosterior(Posterior):
    """A point estimate: a mean, and no spread."""

    point: Sites

    @override
    def mean(self) -> Sites:
        return self.point

    @override
    def sd(self) -> Sites:
        return {name: np.full_like(value, np.nan) for name, value in self.point.items()}

    @override
    def cov(self, sites: Sequence[str]) -> Float[np.ndarray, "scalars scalars"]:
        size = sum(self.point[name].size for name in sites)
        return np.full((size, size), np.nan)

    @override
    def draws(self, num_draws: int, key: jax.Array) -> Sites:
        return {
            name: np.broadcast_to(value, (num_draws, *value.shape)).copy()
            for name, value in self.point.items()
        }


@dataclass(frozen=True)
class DrawsPosterior(Posterior):
    """Draws, shaped (chain, draw, *site shape).

    Parameters
    ----------
    samples
        The draws.
    independent
        Whether the draws are independent, as an approximation's are; otherwise the Monte Carlo
        errors come from the chains' effective sample sizes.
    params
        The constrained parameters of the guide that drew them, by name, such as the weights of an
        encoder; ``None`` where there is no guide. A fit read back from disk has none.
    weighed
        The same draws with their density, where a guide has one. A fit read back from disk has
        none.
    """

    samples: Sites
    independent: bool = False
    params: Mapping[str, np.ndarray] | None = None
    weighed: WeighedDraws | None = None

    @override
    def weighed_draws(self, num_draws: int, key: jax.Array) -> WeighedDraws | None:
        return None if self.weighed is None else self.weighed.first(num_draws)

    @override
    def mean(self) -> Sites:
        return {name: np.asarray(value.mean((0, 1))) for name, value in self.samples.items()}

    @override
    def sd(self) -> Sites:
        return {
            name: np.asarray(value.reshape(-1, *value.shape[2:]).std(0, ddof=1))
            for name, value in self.samples.items()
        }

    @override
    def cov(self, sites: Sequence[str]) -> Float[np.ndarray, "scalars scalars"]:
        flat = [self.samples[n].reshape(-1, *self.samples[n].shape[2:]) for n in sites]
        flat = [rows.reshape(len(rows), -1) for rows in flat]
        return np.atleast_2d(np.cov(np.concatenate(flat, axis=1), rowvar=False))

    @override
    def draws(self, num_draws: int, key: jax.Array) -> Sites:
        first = next(iter(self.samples.values()))
        total = first.shape[0] * first.shape[1]
        rows = generator(key).choice(total, num_draws, replace=num_draws > total)
        return {n: v.reshape(total, *v.shape[2:])[rows] for n, v in self.samples.items()}

    @override
    def mcse_mean(self) -> Sites:
        return self._mcse_of_mean

    @override
    def mcse_sd(self) -> Sites:
        return self._mcse_of_sd

    @cached_property
    def _mcse_of_mean(self) -> Sites:
        return self._mcse("mean")

    @cached_property
    def _mcse_of_sd(self) -> Sites:
        return self._mcse("sd")

    def _mcse(self, what: str) -> Sites:
        if self.independent:
            return {name: errors[what == "sd"] for name, errors in self._errors.items()}
        errors = per_scalar("mcse", self.samples, method=what)
        return {n: np.where(drawn_constant(self.samples[n]), 0.0, e) for n, e in errors.items()}

    @cached_property
    def _errors(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Monte Carlo errors of means and of sds, were the draws independent."""
        return {n: errors_of_draws(v.reshape(-1, *v.shape[2:])) for n, v in self.samples.items()}


@dataclass(frozen=True)
class MomentsPosterior(Posterior):
    """Moments known by value, with draws when there are some: loaded fits, outside references.

    Parameters
    ----------
    means, sds
        By site.
    covariance, order
        Joint covariance of the scalars of the sites in ``order``; ``None`` when not known. That of
        other sites is NaN.
    mcse_means, mcse_sds
        Monte Carlo standard errors; ``None`` for zero.
    samples
        Draws shaped (chain, draw, *site shape); ``None`` when there are none.
    weighed
        Independent draws with their density, where they were kept.
    shapes
        What :meth:`Posterior.tails` returns; ``None`` for nothing.
    """

    means: Sites
    sds: Sites
    covariance: Float[np.ndarray, "scalars scalars"] | None = None
    order: tuple[str, ...] = ()
    mcse_means: Sites | None = None
    mcse_sds: Sites | None = None
    samples: Sites | None = None
    weighed: WeighedDraws | None = None
    shapes: Sites | None = None

    @override
    def tails(self) -> Sites:
        return self.shapes or {}

    @override
    def weighed_draws(self, num_draws: int, key: jax.Array) -> WeighedDraws | None:
        return None if self.weighed is None else self.weighed.first(num_draws)

    @override
    def mean(self) -> Sites:
        return self.means

    @override
    def sd(self) -> Sites:
        return self.sds

    @override
    def cov(self, sites: Sequence[str]) -> Float[np.ndarray, "scalars scalars"]:
        if self.covariance is None:
            if self.samples is not None:
                return DrawsPosterior(self.samples).cov(sites)
            size = sum(self.means[name].size for name in sites)
            return np.full((size, size), np.nan)
        ends = np.cumsum([self.means[name].size for name in self.order])
        index = {
            name: np.arange(end - self.means[name].size, end)
            for name, end in zip(self.order, ends, strict=True)
        }
        unknown = [np.full(self.means[name].size, -1) for name in sites]
        rows = np.concatenate([index.get(n, u) for n, u in zip(sites, unknown, strict=True)])
        cov = np.array(self.covariance[np.ix_(rows, rows)])
        cov[rows < 0, :] = np.nan
        cov[:, rows < 0] = np.nan
        return cov

    @override
    def draws(self, num_draws: int, key: jax.Array) -> Sites:
        if self.samples is None:
            raise ValueError("only moments are known here: there are no draws")
        return DrawsPosterior(self.samples).draws(num_draws, key)

    @override
    def mcse_mean(self) -> Sites:
        return super().mcse_mean() if self.mcse_means is None else self.mcse_means

    @override
    def mcse_sd(self) -> Sites:
        return super().mcse_sd() if self.mcse_sds is None else self.mcse_sds


@dataclass(frozen=True)
class ResampledPosterior(DrawsPosterior):
    """Draws taken from weighted ones in proportion to their weights, shaped (1, draw, *site shape).

    Parameters
    ----------
    ess
        Effective number of the weighted draws, which Monte Carlo errors are by, beside that of the
        draws themselves.
    """

    ess: float = float("inf")

    @override
    def _mcse(self, what: str) -> Sites:
        total = next(iter(self.samples.values())).shape[1]
        factor = np.sqrt(1 + total / self.ess)
        return {n: np.asarray(errors[what == "sd"] * factor) for n, errors in self._errors.items()}


@dataclass(frozen=True)
class ParticlesPosterior(DrawsPosterior):
    """Particles, shaped (1, particle, *site shape), whose Monte Carlo errors are not known: NaN."""

    @override
    def _mcse(self, what: str) -> Sites:
        return {n: np.full(v.shape[2:], np.nan) for n, v in self.samples.items()}
