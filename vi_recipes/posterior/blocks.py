"""Posteriors of independent blocks: normals that correlate within a block, and other laws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import override

import jax
import numpy as np
from jaxtyping import Float, Int

from vi_recipes.algebra import log_normal
from vi_recipes.core import split_key
from vi_recipes.posterior.factors import FactorPosterior
from vi_recipes.posterior.gaussian import GaussianPosterior


@dataclass(frozen=True)
class BlockPosterior(FactorPosterior):
    """Laws of the coordinates of which the normal ones may correlate.

    ``eta`` holds every coordinate's own law, and so every mean and sd; what is added here is the
    covariance of the normal coordinates, ``root @ root.T + diag(diagonal ** 2)``. The moments of
    scalars that depend on one coordinate are exact, covariances of two of them included.

    Parameters
    ----------
    root
        Shape (dim, rank); rows of coordinates that are not normal are zero.
    diagonal
        Shape (dim,), as ``root``.
    eta_mcse
        Here what one standard error of a coordinate's location does to ``eta``: both parameters
        move together.
    """

    root: np.ndarray = None  # type: ignore[assignment]
    diagonal: np.ndarray = None  # type: ignore[assignment]

    @cached_property
    def _gaussian(self) -> GaussianPosterior:
        """The normal coordinates; the others stand beside them as independent normals."""
        m, s = self.location_scale
        normal = self.factors.gaussian & ~self.factors.points
        return GaussianPosterior(self.target, m, self.root, np.where(normal, self.diagonal, s))

    @override
    def unconstrained_cov(self, rows: Int[np.ndarray, " rows"]) -> Float[np.ndarray, "rows rows"]:
        return self._gaussian.unconstrained_cov(rows)

    @override
    def _mean_errors(self, slopes: np.ndarray, j: np.ndarray) -> np.ndarray:
        assert self.eta_mcse is not None
        return np.array(np.abs((slopes * self.eta_mcse[j]).sum(axis=-1)))

    @override
    def cov(self, sites: Sequence[str]) -> Float[np.ndarray, "scalars scalars"]:
        cov = super().cov(sites)
        j = np.concatenate([self.coordinate_of[n].ravel() for n in sites])
        normal = (j >= 0) & self.factors.gaussian[j]
        if normal.any():
            cov[np.ix_(normal, normal)] = self._gaussian.exact_cov(sites, normal)
        return cov

    @override
    def _factor_draws(self, num_draws: int, key: jax.Array) -> np.ndarray:
        other_key, normal_key = split_key(key)
        z = super()._factor_draws(num_draws, other_key)
        normal = self.factors.gaussian
        half = self._gaussian.unconstrained_draws(-(-num_draws // 2), normal_key)
        mirrored = np.concatenate([half, 2 * self._gaussian.loc - half])[:num_draws]
        z[:, normal] = mirrored[:, normal]
        return z

    @override
    def _log_prob(self, z: np.ndarray) -> np.ndarray | None:
        normal = self.factors.gaussian & ~self.factors.points
        m, _ = self.location_scale
        joint = log_normal(z[:, normal], m[normal], self.root[normal], self.diagonal[normal])
        return None if joint is None else joint + self._log_laws(z)[:, ~normal].sum(axis=1)

    @override
    def block_draws(
        self, place: slice, num_draws: int, key: jax.Array
    ) -> tuple[np.ndarray, np.ndarray] | None:
        # a site is of one family
        if not self.factors.gaussian[place].all() or self.factors.points[place].any():
            return super().block_draws(place, num_draws, key)
        return self._gaussian.block_draws(place, num_draws, key)

    @override
    def marginal_draws(
        self, rows: Int[np.ndarray, " rows"], num_draws: int, key: jax.Array
    ) -> tuple[Float[np.ndarray, "draws rows"], Float[np.ndarray, " draws"]] | None:
        if self.factors.gaussian[rows].all() and not self.factors.points[rows].any():
            return self._gaussian.marginal_draws(rows, num_draws, key)
        return None
