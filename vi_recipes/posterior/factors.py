"""Posteriors of independent factors, as they are and as corrected by linear response."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import override

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from vi_recipes.core import COMPILED_QUICKLY, generator, split_key
from vi_recipes.elbo import GAMMA, CurvedKL, Factors
from vi_recipes.model import Sites, Target, in_blocks
from vi_recipes.posterior.base import (
    NUM_MOMENT_DRAWS,
    NUM_NODES,
    Posterior,
    WeighedDraws,
    at_known_sds,
    errors_of_draws,
)

NUM_BATCHES = 4

NUM_SLOPE_DRAWS = 512
"""Draws over which the slopes of quantities of several coordinates are averaged."""


@dataclass(frozen=True)
class FactorPosterior(Posterior):
    """Independent laws of the unconstrained coordinates, pushed through the constraining map.

    Scalars that depend on one coordinate have exact moments, by quadrature over its law; others
    use 10,000 draws, in antithetic pairs where all laws are normal, and carry their error.

    Parameters
    ----------
    target
        Gives the constraining map.
    factors, eta
        The laws and their parameters, shape (dim, 2).
    eta_mcse
        Standard errors of ``eta`` where draws took part in the optimisation, shape (dim, 2).
    kl
        The objective that they minimise; ``None`` where others found them.
    found_with
        How many nodes a dimension, and pairs of draws, it had then.
    """

    target: Target
    factors: Factors
    eta: np.ndarray
    eta_mcse: np.ndarray | None = None
    kl: CurvedKL | None = None
    found_with: tuple[int, int] = (0, 0)

    @property
    def objective(self) -> CurvedKL | None:
        """The objective as it was at its optimum, whatever fits have made of it since."""
        return None if self.kl is None else self.kl.as_found(*self.found_with)

    @cached_property
    def location_scale(self) -> tuple[np.ndarray, np.ndarray]:
        """Means and sds of the unconstrained coordinates."""
        return self.factors.location_scale(np.asarray(self.eta, float))

    @cached_property
    def coordinate_of(self) -> dict[str, np.ndarray]:
        """Which single coordinate each scalar depends on, here too; -1 for none or several."""
        return self.target.coordinates_around(*self.location_scale)

    @cached_property
    def _nodes(self) -> tuple[Sites, np.ndarray]:
        """Return every scalar at its coordinate's nodes, and the nodes' weights.

        Shapes (nodes, *site shape) and (nodes, dim). Normal laws share their weights: there may be
        a million coordinates.
        """
        x, w = np.polynomial.hermite_e.hermegauss(NUM_NODES)
        m, s = self.location_scale
        z = m + s * x[:, None]
        weights = np.broadcast_to((w / w.sum())[:, None], z.shape)
        other = ~self.factors.gaussian
        if other.any():
            weights = weights.copy()
            laws = Factors(self.factors.code[other], self.factors.offset[other])
            with jax.enable_x64(True):
                eta = jnp.asarray(self.eta[other])
                nodes = jnp.repeat(jnp.asarray(x)[:, None], len(eta), axis=1)
                z[:, other], ratio = jax.vmap(lambda v: laws.place(eta, v))(nodes)
                tilted = np.asarray(jnp.exp(ratio)) * weights[:, other]
                weights[:, other] = tilted / tilted.sum(axis=0)
        return self.target.constrain(z), weights

    @cached_property
    def _scores(self) -> np.ndarray:
        """The scores of the laws at their nodes, shape (nodes, dim, 2)."""
        x, _ = np.polynomial.hermite_e.hermegauss(NUM_NODES)
        m, s = self.location_scale
        by_scale = np.tile(x[:, None] ** 2 - 1, m.size)
        scores = np.stack([x[:, None] / s, by_scale], axis=-1)
        other = ~self.factors.gaussian
        if other.any():
            laws = Factors(self.factors.code[other], self.factors.offset[other])
            with jax.enable_x64(True):
                eta = jnp.asarray(self.eta[other])
                nodes = jnp.repeat(jnp.asarray(x)[:, None], len(eta), axis=1)
                z, _ = jax.vmap(lambda v: laws.place(eta, v))(nodes)

                def total(eta: jax.Array, z: jax.Array) -> jax.Array:
                    return jnp.sum(laws.log_density(eta, z))

                slopes = jax.vmap(jax.grad(total), (None, 0))(eta, z)
            scores[:, other] = np.asarray(slopes)
        return scores

    def _weights_of(self, j: np.ndarray) -> np.ndarray:
        """Return the weights of the nodes of some coordinates, shape (nodes, *shape of j)."""
        _, weights = self._nodes
        if self.factors.gaussian.all():
            return np.broadcast_to(weights[:, 0].reshape(-1, *[1] * j.ndim), (NUM_NODES, *j.shape))
        return weights[:, j]

    @cached_property
    def _centres(self) -> Sites:
        values, _ = self._nodes
        return {
            name: np.einsum("q...,q...->...", self._weights_of(np.maximum(j, 0)), values[name])
            for name, j in self.coordinate_of.items()
        }

    @cached_property
    def _drawn(self) -> Sites:
        z = self._factor_draws(NUM_MOMENT_DRAWS, jax.random.key(20_161))
        return self.target.constrain(z)

    @cached_property
    def _moments(self) -> tuple[Sites, Sites, Sites, Sites]:
        values, _ = self._nodes
        mean, sd, mcse_mean, mcse_sd = {}, {}, {}, {}
        for site in self.target.quantities:
            j = self.coordinate_of[site.name]
            v, w = values[site.name], self._weights_of(np.maximum(j, 0))
            m = np.array(self._centres[site.name])
            away = v - m
            s = np.array(np.sqrt(np.einsum("q...,q...,q...->...", w, away, away)))
            del away  # it has every node of every member
            error_m, error_s = np.zeros_like(m), np.zeros_like(m)
            if self.eta_mcse is not None:
                error_m = self._mean_errors(self._own_slopes(site.name), np.maximum(j, 0))
            several = j < 0
            if several.any():
                drawn = self._drawn[site.name][:, several]
                m[several], s[several] = drawn.mean(0), drawn.std(0, ddof=1)
                error_m[several], error_s[several] = errors_of_draws(drawn, paired=True)
            mean[site.name], sd[site.name] = m, np.asarray(s)
            mcse_mean[site.name], mcse_sd[site.name] = error_m, error_s
        return mean, sd, mcse_mean, mcse_sd

    @property
    def _several(self) -> bool:
        """Whether some scalar depends on several coordinates, so that draws take part."""
        return any((j < 0).any() for j in self.coordinate_of.values())

    def gathered(self, factors: Factors) -> FactorPosterior:
        """Return the posterior of all members from one host's part; each host calls it.

        Parameters
        ----------
        factors
            The laws of all coordinates.
        """
        division = self.target.part_of
        assert division is not None
        whole = FactorPosterior(
            division.whole, factors, division.gathered(self.eta), found_with=self.found_with
        )
        if not division.any(self._several):  # else draws of all members take part
            whole.__dict__["_moments"] = tuple(map(division.sites, self._moments))
        return whole

    def _mean_errors(self, slopes: np.ndarray, j: np.ndarray) -> np.ndarray:
        """Return the errors of means from their slopes in ``eta[j]``, shape (..., 2)."""
        assert self.eta_mcse is not None
        return np.array(np.sqrt(((slopes * self.eta_mcse[j]) ** 2).sum(axis=-1)))

    def _own_slopes(self, name: str) -> np.ndarray:
        """Return the derivative of E[scalar] in its coordinate's two parameters, shape (..., 2)."""
        values, _ = self._nodes
        j = np.maximum(self.coordinate_of[name], 0)
        away = values[name] - self._centres[name]  # a constant has no slope: less rounding
        if self.factors.gaussian.all():
            x, w = np.polynomial.hermite_e.hermegauss(NUM_NODES)
            w = w / w.sum()
            by_scale = np.einsum("q,q...->...", w * (x**2 - 1), away)
            by_loc = np.einsum("q,q...->...", w * x, away) / self.location_scale[1][j]
            slopes = np.stack([by_loc, by_scale], axis=-1)
        else:
            scores = self._scores[:, j]
            slopes = np.array(np.einsum("q...,q...,q...k->...k", self._weights_of(j), away, scores))
        points = self.factors.points[j]
        if points.any():
            slopes[points, 0], slopes[points, 1] = self._point_slopes[name][points], 0.0
        return slopes

    @cached_property
    def _point_slopes(self) -> Sites:
        return self.target.slopes(self.eta[:, 0])

    @override
    def gaussian(
        self, rows: Int[np.ndarray, " rows"]
    ) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, "rows rows"]] | None:
        if not self.factors.gaussian[rows].all():
            return None
        return self.location_scale[0][rows], self.unconstrained_cov(rows)

    def unconstrained_cov(self, rows: Int[np.ndarray, " rows"]) -> Float[np.ndarray, "rows rows"]:
        """Return the covariance of the coordinates ``rows`` of the unconstrained vector."""
        return np.diag(self.location_scale[1][rows] ** 2)

    @override
    def mean(self) -> Sites:
        return self._moments[0]

    @override
    def sd(self) -> Sites:
        return self._moments[1]

    @override
    def mcse_mean(self) -> Sites:
        return self._moments[2]

    @override
    def mcse_sd(self) -> Sites:
        return self._moments[3]

    @override
    def cov(self, sites: Sequence[str]) -> Float[np.ndarray, "scalars scalars"]:
        j = np.concatenate([self.coordinate_of[n].ravel() for n in sites])
        values, weights = self._nodes
        v = np.concatenate([values[n].reshape(NUM_NODES, -1) for n in sites], axis=1)
        v = v - np.concatenate([self._centres[n].ravel() for n in sites])
        cov = np.zeros((j.size, j.size))
        order = np.argsort(j, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(j[order])) + 1):
            if j[rows[0]] >= 0:
                weighted = v[:, rows] * weights[:, j[rows[0]], None]
                cov[np.ix_(rows, rows)] = weighted.T @ v[:, rows]
        several = j < 0
        if several.any():
            flat = np.concatenate([self._drawn[n].reshape(NUM_MOMENT_DRAWS, -1) for n in sites], 1)
            flat = flat - flat.mean(axis=0)
            sampled = flat.T @ flat / (NUM_MOMENT_DRAWS - 1)
            sampled = at_known_sds(sampled, cov, ~several)
            cov[several, :], cov[:, several] = sampled[several, :], sampled[:, several]
        return cov

    def unconstrained_draws(self, num_draws: int, key: jax.Array) -> Float[np.ndarray, "draws dim"]:
        """Return draws of the unconstrained vector, shape (num_draws, dim)."""
        return self._factor_draws(num_draws, key)

    def _factor_draws(self, num_draws: int, key: jax.Array) -> np.ndarray:
        """Return draws from the factors.

        Where all laws are normal the second half mirrors the first if the number is even.
        """
        m, s = self.location_scale
        rng = generator(key)
        half = -(-num_draws // 2)
        z = np.empty((2 * half, m.size))  # filled in place: it may be large
        rng.standard_normal(out=z[:half])
        z[:half] *= s
        np.negative(z[:half], out=z[half:])
        z += m
        z = z[:num_draws]
        for law in self.factors.kinds:
            rows = np.flatnonzero(self.factors.code == law)
            if self.factors.gaussian[rows].all():
                continue
            a, b = np.exp(self.eta[rows].T)
            shape = (num_draws, rows.size)
            if law == GAMMA:
                z[:, rows] = _log_gamma(rng, a, shape) - self.eta[rows, 1]
            else:
                ratio = _log_gamma(rng, a, shape) - _log_gamma(rng, b, shape)
                z[:, rows] = ratio + self.factors.offset[rows]
        return np.asarray(z)

    @override
    def weighed_draws(self, num_draws: int, key: jax.Array) -> WeighedDraws | None:
        if self.factors.points.any() or not self._has_density:
            return None
        z = self._without_mirror_images(num_draws, key)
        log_q = self._log_prob(z)
        return None if log_q is None else WeighedDraws(z, log_q, self.target.constrain(z))

    @override
    def block_draws(
        self, place: slice, num_draws: int, key: jax.Array
    ) -> tuple[np.ndarray, np.ndarray] | None:
        if self.factors.points[place].any():
            return None
        m, _ = self.location_scale
        drawn = self._without_mirror_images(num_draws, key)[:, place]
        z = np.tile(m, (num_draws, 1))
        z[:, place] = drawn
        return z, self._log_laws(z)[:, place].sum(axis=1)

    @override
    def marginal_draws(
        self, rows: Int[np.ndarray, " rows"], num_draws: int, key: jax.Array
    ) -> tuple[Float[np.ndarray, "draws rows"], Float[np.ndarray, " draws"]] | None:
        if self.factors.points[rows].any():
            return None
        z = self._without_mirror_images(num_draws, key)
        return z[:, rows], self._log_laws(z)[:, rows].sum(axis=1)

    def _without_mirror_images(self, num_draws: int, key: jax.Array) -> np.ndarray:
        """Return independent draws of the unconstrained vector."""
        return self.unconstrained_draws(2 * num_draws, key)[:num_draws].copy()

    @property
    def _has_density(self) -> bool:
        """Whether the joint density is within reach."""
        return True

    def _log_prob(self, z: np.ndarray) -> np.ndarray | None:
        """Return the log density of rows of unconstrained vectors; ``None`` if singular."""
        return self._log_laws(z).sum(axis=1)

    def _log_laws(self, z: np.ndarray) -> np.ndarray:
        """Return the log density of every coordinate's own law, shape (num_draws, dim)."""
        return in_blocks(lambda rows: np.asarray(self._laws_of_rows(self.eta, rows)), z)

    @cached_property
    def _laws_of_rows(self) -> Callable[[np.ndarray, np.ndarray], jax.Array]:
        rows = jax.vmap(self.factors.log_density, (None, 0))
        return jax.jit(rows, compiler_options=COMPILED_QUICKLY)

    @override
    def draws(self, num_draws: int, key: jax.Array) -> Sites:
        shuffle, draw_key = split_key(key)
        z = self.unconstrained_draws(num_draws, draw_key)
        return self.target.constrain(generator(shuffle).permutation(z))


def _log_gamma(rng: np.random.Generator, shape: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return logs of gamma draws, exact where the draws themselves would be 0.

    A gamma draw of shape a is one of shape a + 1 times a uniform one to the power 1 / a (Marsaglia
    and Tsang, 2000, doi:10.1145/358407.358414).
    """
    return np.asarray(np.log(rng.gamma(shape + 1, size=size)) - rng.exponential(size=size) / shape)
