"""Gaussian posteriors on the unconstrained scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, override

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from vi_recipes.algebra import BlockArrow, block_normal, dense_normal, log_normal
from vi_recipes.core import generator
from vi_recipes.model import Sites, Target
from vi_recipes.posterior.base import (
    NUM_HERMITE,
    NUM_MOMENT_DRAWS,
    NUM_NODES,
    Moments,
    Posterior,
    WeighedDraws,
    at_known_sds,
    errors_of_draws,
)


@dataclass(frozen=True)
class GaussianPosterior(Posterior):
    """A Gaussian over the unconstrained vector, pushed through the constraining map.

    The covariance of the unconstrained vector is ``root @ root.T + diag(diagonal ** 2)``, which
    covers mean-field (no root), dense (a Cholesky factor) and low-rank approximations.

    Scalars that depend on one coordinate z_j have exact moments. With z_j = m_j + s_j x and the
    orthonormal Hermite polynomials h_k, f(z_j) = sum_k a_k h_k(x), its mean is a_0, and by
    Mehler's formula the covariance of two such scalars is sum_{k >= 1} r^k a_k b_k, where r is
    the correlation of their coordinates. Scalars that depend on several coordinates use
    10,000 draws in antithetic pairs, and carry their Monte Carlo error.

    Parameters
    ----------
    target
        Gives the constraining map.
    loc
        Mean of the unconstrained vector, shape (dim,).
    root
        Shape (dim, rank), or ``None``.
    diagonal
        Standard deviations, shape (dim,); zeros where ``root`` says all.
    mcse_loc
        Standard error of ``loc`` itself when it was estimated by a noisy optimiser.
    precision
        The covariance's inverse as a block-arrow matrix, in place of ``root`` and ``diagonal``.
    """

    target: Target
    loc: Float[np.ndarray, " dim"]
    root: Float[np.ndarray, "dim rank"] | None
    diagonal: Float[np.ndarray, " dim"]
    mcse_loc: Float[np.ndarray, " dim"] | None = None
    precision: BlockArrow | None = None

    @cached_property
    def scale(self) -> Float[np.ndarray, " dim"]:
        """Standard deviations of the unconstrained vector."""
        if self.precision is not None:
            return np.asarray(np.sqrt(self.precision.variances()))
        variance = self.diagonal**2
        if self.root is not None:
            variance = variance + np.einsum("ij,ij->i", self.root, self.root)
        return np.asarray(np.sqrt(variance))

    @cached_property
    def coordinate_of(self) -> dict[str, np.ndarray]:
        """Which single coordinate each scalar depends on, here too; -1 for none or several."""
        return self.target.coordinates_around(self.loc, self.scale)

    def unconstrained_cov(self, rows: Int[np.ndarray, " rows"]) -> Float[np.ndarray, "rows rows"]:
        """Return the covariance of the coordinates ``rows`` of the unconstrained vector."""
        if self.precision is not None:
            return self.precision.covariance(rows)
        same = rows[:, None] == rows[None, :]
        cov = np.where(same, (self.diagonal[rows] ** 2)[:, None], 0.0)
        if self.root is not None:
            cov = cov + self.root[rows] @ self.root[rows].T
        return np.asarray(cov)

    @override
    def gaussian(
        self, rows: Int[np.ndarray, " rows"]
    ) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, "rows rows"]]:
        return self.loc[rows], self.unconstrained_cov(rows)

    @override
    def mean(self) -> Sites:
        return self._moments.mean

    @override
    def sd(self) -> Sites:
        return self._moments.sd

    @override
    def mcse_mean(self) -> Sites:
        return self._moments.mcse_mean

    @override
    def mcse_sd(self) -> Sites:
        return self._moments.mcse_sd

    @override
    def cov(self, sites: Sequence[str]) -> Float[np.ndarray, "scalars scalars"]:
        j = np.concatenate([self.coordinate_of[n].ravel() for n in sites])
        exact = j >= 0
        cov = np.empty((j.size, j.size))
        if exact.any():
            cov[np.ix_(exact, exact)] = self.exact_cov(sites, exact)
        if not exact.all():
            flat = [self._moment_draws[n].reshape(NUM_MOMENT_DRAWS, -1) for n in sites]
            sampled = np.atleast_2d(np.cov(np.concatenate(flat, axis=1), rowvar=False))
            sampled = at_known_sds(sampled, cov, exact)
            several = ~exact
            cov[several, :] = sampled[several, :]
            cov[:, several] = sampled[:, several]
        return cov

    def exact_cov(
        self, sites: Sequence[str], which: Bool[np.ndarray, " scalars"]
    ) -> Float[np.ndarray, "chosen chosen"]:
        """Return the covariance, by Mehler's formula, of those scalars of ``sites`` in ``which``.

        Each of them must depend on one coordinate.
        """
        # those of a part of another posterior, which knows more of several
        rows = np.concatenate([self.target.coordinate_of[n].ravel() for n in sites])[which]
        coefficients = np.concatenate(
            [self._hermite[n].reshape(NUM_HERMITE, -1) for n in sites], axis=1
        )[:, which]
        scale = self.scale[rows]
        correlation = self.unconstrained_cov(rows) / np.outer(scale, scale)
        np.clip(correlation, -1, 1, out=correlation)
        block = np.zeros_like(correlation)
        for a in coefficients[:0:-1]:  # Horner's rule in the correlation
            block = (block + np.outer(a, a)) * correlation
        return block

    @override
    def draws(self, num_draws: int, key: jax.Array) -> Sites:
        return self.target.constrain(self.unconstrained_draws(num_draws, key))

    def unconstrained_draws(
        self, num_draws: int, key: jax.Array
    ) -> Float[np.ndarray, "num_draws dim"]:
        """Return draws of the unconstrained vector, shape (num_draws, dim)."""
        rng = generator(key)
        noise = rng.standard_normal((num_draws, self.loc.size))
        if self.precision is not None:
            return self.loc + self.precision.colour(noise)
        z = self.loc + self.diagonal * noise
        if self.root is not None:
            z = z + rng.standard_normal((num_draws, self.root.shape[1])) @ self.root.T
        return z

    @override
    def weighed_draws(self, num_draws: int, key: jax.Array) -> WeighedDraws | None:
        z = self.unconstrained_draws(num_draws, key)
        log_q = self.log_density(z)
        return None if log_q is None else WeighedDraws(z, log_q, self.target.constrain(z))

    def log_density(self, z: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, " rows"] | None:
        """Return the log density of rows of unconstrained vectors, shape (rows,).

        ``None`` where the covariance is singular, or too large to factorise.
        """
        if self.precision is None:
            return log_normal(z, self.loc, self.root, self.diagonal)
        square = np.array([row @ self.precision.dot(row) for row in z - self.loc])
        return np.asarray((self.precision.log_det - square - self.loc.size * np.log(2 * np.pi)) / 2)

    @override
    def block_draws(
        self, place: slice, num_draws: int, key: jax.Array
    ) -> tuple[Float[np.ndarray, "num_draws dim"], Float[np.ndarray, " num_draws"]] | None:
        rows = np.arange(self.loc.size)[place]
        if self.precision is None and self.root is None:
            precision = np.diag(self.diagonal[rows] ** -2.0)
        elif self.precision is not None:
            units = (np.eye(1, self.loc.size, row)[0] for row in rows)
            precision = np.stack([self.precision.dot(unit)[rows] for unit in units])
        else:
            whole = self.unconstrained_cov(np.arange(self.loc.size))
            precision = np.linalg.inv(whole)[np.ix_(rows, rows)]
        return block_normal(self.loc, rows, precision, num_draws, key)

    @override
    def marginal_draws(
        self, rows: Int[np.ndarray, " rows"], num_draws: int, key: jax.Array
    ) -> tuple[Float[np.ndarray, "num_draws rows"], Float[np.ndarray, " num_draws"]] | None:
        return dense_normal(self.loc[rows], self.unconstrained_cov(rows), num_draws, key)

    def _at_nodes(
        self,
    ) -> tuple[Sites, Float[np.ndarray, " nodes"], Float[np.ndarray, " nodes"]]:
        """Evaluate every scalar with all coordinates at their own q-th node at once."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(NUM_NODES)
        values = self.target.constrain(self.loc + self.scale * nodes[:, None])
        return values, nodes, weights / weights.sum()

    @cached_property
    def _hermite(self) -> Sites:
        """Coefficients on the orthonormal Hermite polynomials, leading dimension NUM_HERMITE."""
        values, nodes, weights = self._at_nodes()
        basis = np.empty((NUM_HERMITE, nodes.size))
        basis[0], basis[1] = 1.0, nodes
        for k in range(1, NUM_HERMITE - 1):
            basis[k + 1] = (nodes * basis[k] - np.sqrt(k) * basis[k - 1]) / np.sqrt(k + 1)
        return {name: np.tensordot(basis * weights, v, axes=1) for name, v in values.items()}

    @cached_property
    def _moment_draws(self) -> Sites:
        """Return draws in antithetic pairs, which give exact means of affine functions."""
        half = self.unconstrained_draws(NUM_MOMENT_DRAWS // 2, jax.random.key(20_161))
        return self.target.constrain(np.concatenate([half, 2 * self.loc - half]))

    @cached_property
    def _moments(self) -> Moments:
        values, nodes, weights = self._at_nodes()
        mean, sd, mcse_mean, mcse_sd = {}, {}, {}, {}
        for site in self.target.quantities:
            v, j = values[site.name], self.coordinate_of[site.name]
            m = np.asarray(np.tensordot(weights, v, axes=1))
            s = np.asarray(np.sqrt(np.tensordot(weights, (v - m) ** 2, axes=1)))
            error_m, error_s = np.zeros_like(m), np.zeros_like(m)
            if self.mcse_loc is not None:
                # d E[f] / d loc = E[f'] = E[x f] / s_j, by Stein's identity
                slope = np.tensordot(weights * nodes, v, axes=1) / self.scale[np.maximum(j, 0)]
                error_m = np.asarray(np.abs(slope) * self.mcse_loc[np.maximum(j, 0)])
            several = j < 0
            if several.any():
                drawn = self._moment_draws[site.name][:, several]
                m[several], s[several] = drawn.mean(0), drawn.std(0, ddof=1)
                error_m[several], error_s[several] = errors_of_draws(drawn, paired=True)
            mean[site.name], sd[site.name] = m, s
            mcse_mean[site.name], mcse_sd[site.name] = error_m, error_s
        return Moments(mean, sd, mcse_mean, mcse_sd)


@dataclass(frozen=True)
class MatchedPosterior(GaussianPosterior):
    """A Gaussian whose scale was estimated too, with its relative Monte Carlo errors, shape (dim,).

    An sd on the constrained scale is taken to be off by the same share.
    """

    mcse_log_scale: Float[np.ndarray, " dim"] = field(default_factory=lambda: np.zeros(0))

    @override
    def mcse_sd(self) -> Sites:
        of_draws, sd = super().mcse_sd(), self.sd()
        shares: dict[str, Any] = {}
        for name, j in self.coordinate_of.items():
            share = self.mcse_log_scale[np.maximum(j, 0)]
            shares[name] = np.where(j < 0, self.mcse_log_scale.max(), share)
        return {name: np.asarray(np.hypot(of_draws[name], sd[name] * shares[name])) for name in sd}
