"""Mean-field means with covariances by linear response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import override

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from vi_recipes.algebra import (
    MAX_DENSE,
    BlockArrow,
    PairLaw,
    block_normal,
    dense_normal,
    filled,
    log_dense_normal,
)
from vi_recipes.core import compiler_options, generator
from vi_recipes.elbo import Factors
from vi_recipes.model import Division, Sites, Target
from vi_recipes.posterior.base import NUM_MOMENT_DRAWS, errors_of_draws
from vi_recipes.posterior.factors import NUM_BATCHES, NUM_SLOPE_DRAWS, FactorPosterior

MAX_SCORES = 2**23
"""Numbers of scores held at once, at most."""


VAGUE = 0.02
"""Relative Monte Carlo error of an sd by slopes from which more draws are taken: where a slope is
large for a few of them, as that of a ratio is, sds come out a fifth too small by 512."""

MOST_ROUNDS, MAX_REDRAWN = 64, 20_000
"""Times as many draws, at most; and numbers of a batch of slopes up to which there are more."""


@dataclass(frozen=True)
class ResponsePosterior(FactorPosterior):
    """The same means, with covariances by linear response: grad m' H^-1 grad m.

    Draws are of the normal law on the unconstrained scale that has the linear-response covariance
    there. Moments of quantities that change by steps, such as probabilities of ``z > 0``, are those
    of 10,000 such draws: the answer of their means to perturbations says little of their spread.

    Parameters
    ----------
    hessian
        Hessian H of the objective (minus the ELBO) in ``eta``, in C order.

    References
    ----------
    Giordano, R., Broderick, T. and Jordan, M. I. (2018). Covariances, robustness, and variational
    Bayes. JMLR 19(51), theorem 1 and definition 3. https://jmlr.org/papers/v19/17-670.html
    """

    hessian: BlockArrow = None  # type: ignore[assignment]

    @override
    def gathered(self, factors: Factors) -> ResponsePosterior:
        division = self.target.part_of
        assert division is not None
        means = super().gathered(factors)
        whole = ResponsePosterior(
            means.target,
            factors,
            means.eta,
            found_with=self.found_with,
            hessian=_gathered(self.hessian, division),
        )
        if "_moments" in means.__dict__ and not self.target.flows.stepped_values:
            whole.__dict__["_moments"] = means.__dict__["_moments"]
            whole.__dict__["_response_sd"] = division.sites(self._response_sd)
        return whole

    def slopes(self, sites: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the gradient in ``eta`` of the mean of every scalar of ``sites``, C order.

        Each as the flat indices it is not zero at, and its values there.
        """
        rows: list[tuple[np.ndarray, np.ndarray]] = []
        for name in sites:
            j = self.coordinate_of[name].ravel()
            single = self._own_slopes(name).reshape(-1, 2)
            joint = iter(self._joint_slopes[name].mean(axis=0)) if (j < 0).any() else iter(())
            for k, slope in zip(j, single, strict=True):
                if k >= 0:
                    rows.append((np.array([2 * k, 2 * k + 1]), slope))
                else:
                    full = next(joint)
                    used = np.flatnonzero(full)
                    rows.append((used, full[used]))
        return rows

    @cached_property
    def _joint_slopes(self) -> dict[str, np.ndarray]:
        """Gradients of the means of scalars of several coordinates, by reparametrised draws.

        Site -> (batches of draws, scalars, parameters).
        """
        target = self.target
        m, s = self.location_scale
        stepped = target.flows.stepped_values
        names = [n for n, j in self.coordinate_of.items() if (j < 0).any() and n not in stepped]
        if not names:
            return self._stepped_slopes
        where = {n: np.flatnonzero(self.coordinate_of[n].ravel() < 0) for n in names}

        def scalars(z: jax.Array, arrays: tuple[jax.Array, ...]) -> jax.Array:
            values = target.constrain_fn(z, arrays)
            return jnp.concatenate([jnp.ravel(values[n])[where[n]] for n in names])

        def slopes(noise: jax.Array, arrays: tuple[jax.Array, ...]) -> jax.Array:
            def total(pair: jax.Array) -> jax.Array:
                # a maximum is compared with the numbers it is of: they are computed once
                z = m + pair[:, 0] + s * noise * jnp.exp(pair[:, 1])
                z = jax.lax.optimization_barrier(z)  # type: ignore[no-untyped-call]
                return scalars(z, arrays)

            few = sum(len(w) for w in where.values()) < target.dim
            jacobian = jax.jacrev(total) if few else jax.jacfwd(total)
            return jnp.asarray(jacobian(jnp.zeros((target.dim, 2))))

        def average(noise: jax.Array, arrays: tuple[jax.Array, ...]) -> jax.Array:
            def add(total: jax.Array, x: jax.Array) -> tuple[jax.Array, None]:
                return total + slopes(x, arrays), None

            shape = jax.eval_shape(slopes, noise[0], arrays).shape
            return jax.lax.scan(add, jnp.zeros(shape), noise)[0] / len(noise)

        rng, shape = generator(3), (NUM_BATCHES, NUM_SLOPE_DRAWS // NUM_BATCHES // 2, target.dim)
        spread = rng.standard_normal(shape)
        options = compiler_options(NUM_SLOPE_DRAWS, (spread[0, 0], target.arrays()))
        compiled = jax.jit(average, compiler_options=options)

        def drawn(half: np.ndarray) -> np.ndarray:
            noise = np.concatenate([half, -half], axis=1)
            with jax.enable_x64(True):
                found = np.stack([np.asarray(compiled(x, target.arrays())) for x in noise])
            # in terms of the laws' own parameters: (mean, log sd) -> eta
            found = np.einsum("brdk,dkl->brdl", found, self._law_slopes)
            return found.reshape(*found.shape[:2], -1)

        batches = drawn(spread)
        rounds = 1
        while rounds < MOST_ROUNDS and batches[0].size <= MAX_REDRAWN and self._is_vague(batches):
            more = sum(drawn(rng.standard_normal(shape)) for _ in range(3 * rounds))
            batches, rounds = (rounds * batches + more) / (4 * rounds), 4 * rounds
        ends = np.cumsum([len(where[n]) for n in names])
        return dict(zip(names, np.split(batches, ends[:-1], axis=1), strict=True)) | (
            self._stepped_slopes
        )

    def _is_vague(self, batches: np.ndarray) -> bool:
        """Whether sds by batches of slopes are known to less than is asked for."""
        sds = np.sqrt(np.maximum([self._joint_variances(slopes) for slopes in batches], 0.0))
        error = sds.std(axis=0, ddof=1) / np.sqrt(len(sds))
        return bool((error > VAGUE * sds.mean(axis=0)).any())

    @cached_property
    def _stepped_slopes(self) -> dict[str, np.ndarray]:
        """The same of quantities that change by steps, by the factors' scores.

        d E[f] / d eta = E[(f - E[f]) d log q / d eta] needs no slope of f.
        """
        stepped = self.target.flows.stepped_values
        if not stepped:
            return {}

        def total(eta: jax.Array, z: jax.Array) -> jax.Array:
            return jnp.sum(self.factors.log_density(eta, z))

        z = self._factor_draws(NUM_MOMENT_DRAWS, jax.random.key(20_161))
        parts: dict[str, list[np.ndarray]] = {name: [] for name in stepped}
        for rows in np.split(np.arange(NUM_MOMENT_DRAWS), NUM_BATCHES):
            sums: dict[str, np.ndarray | float] = dict.fromkeys(stepped, 0.0)
            for few in np.array_split(rows, max(1, rows.size * self.eta.size // MAX_SCORES)):
                with jax.enable_x64(True):
                    eta = jnp.asarray(self.eta)
                    scores = jax.vmap(jax.grad(total), (None, 0))(eta, jnp.asarray(z[few]))
                flat = np.asarray(scores).reshape(len(few), -1)
                for name in stepped:
                    away = self._drawn[name] - self._drawn[name].mean(axis=0)
                    sums[name] = sums[name] + away[few].reshape(len(few), -1).T @ flat
            for name in stepped:
                parts[name].append(np.asarray(sums[name]) / rows.size)
        return {name: np.stack(batches) for name, batches in parts.items()}

    @cached_property
    def _law_draws(self) -> Sites:
        """Draws of all quantities from the law with these covariances."""
        z = self.unconstrained_draws(NUM_MOMENT_DRAWS, jax.random.key(20_163))
        return self.target.constrain(z)

    @property
    def _stepped_draws(self) -> Sites:
        """Those of the quantities that change by steps."""
        return {name: self._law_draws[name] for name in self.target.flows.stepped_values}

    @override
    def mean(self) -> Sites:
        means = {n: np.asarray(v.mean(axis=0)) for n, v in self._stepped_draws.items()}
        return super().mean() | means

    @override
    def mcse_mean(self) -> Sites:
        errors = {n: errors_of_draws(v)[0] for n, v in self._stepped_draws.items()}
        return super().mcse_mean() | errors

    @property
    def location_slopes(self) -> Float[np.ndarray, "dim 2"]:
        """Derivative of each coordinate's mean in its two parameters, shape (dim, 2)."""
        return np.asarray(self._law_slopes[:, 0])

    @cached_property
    def _law_slopes(self) -> np.ndarray:
        """Derivative of each coordinate's (mean, log sd) in its two parameters, (dim, 2, 2)."""
        return self.factors.location_scale_slopes(np.asarray(self.eta, float))

    @override
    def cov(self, sites: Sequence[str]) -> Float[np.ndarray, "scalars scalars"]:
        cov = self.hessian.sandwich(self.slopes(sites))
        stepped = self.target.flows.stepped_values
        drawn = np.concatenate([np.full(self.mean()[n].size, n in stepped) for n in sites])
        if drawn.any():
            flat = [self._law_draws[n].reshape(NUM_MOMENT_DRAWS, -1) for n in sites]
            sampled = np.atleast_2d(np.cov(np.concatenate(flat, axis=1), rowvar=False))
            cov[drawn, :], cov[:, drawn] = sampled[drawn, :], sampled[:, drawn]
        return cov

    @override
    def sd(self) -> Sites:
        return self._response_sd

    @cached_property
    def _response_sd(self) -> Sites:
        pairs = self.hessian.pair_covariances()
        sds = {}
        for site in self.target.quantities:
            j = self.coordinate_of[site.name]
            slopes = self._own_slopes(site.name)
            cov = pairs[np.maximum(j, 0)]
            variance = np.array(np.einsum("...k,...kl,...l->...", slopes, cov, slopes))
            if (j < 0).any():
                variance[j < 0] = self._joint_variances(self._joint_slopes[site.name].mean(axis=0))
            sds[site.name] = np.sqrt(np.maximum(variance, 0.0))
        return sds | {n: np.asarray(v.std(axis=0, ddof=1)) for n, v in self._stepped_draws.items()}

    def _joint_variances(self, slopes: np.ndarray) -> np.ndarray:
        rows = [(np.flatnonzero(full), full[full != 0]) for full in slopes]
        return self.hessian.sandwich_diagonal(rows)

    @override
    def mcse_sd(self) -> Sites:
        return self._response_mcse_sd

    @cached_property
    def _response_mcse_sd(self) -> Sites:
        errors = {name: np.zeros_like(value) for name, value in self.mean().items()}
        for name, batches in self._joint_slopes.items() if self._several else ():
            sds = np.sqrt([self._joint_variances(slopes) for slopes in batches])
            several = self.coordinate_of[name] < 0
            errors[name][several] = sds.std(axis=0, ddof=1) / np.sqrt(len(sds))
        for name, values in self._stepped_draws.items():
            errors[name] = errors_of_draws(values)[1]
        return errors

    @override
    def unconstrained_draws(self, num_draws: int, key: jax.Array) -> Float[np.ndarray, "draws dim"]:
        m, _ = self.location_scale
        return np.asarray(m + self._location_law.draws(num_draws, generator(key)))

    @cached_property
    def _location_law(self) -> PairLaw:
        """How coordinates lie around their means."""
        return PairLaw.of(self.hessian, self.location_slopes)

    @override
    def _log_prob(self, z: np.ndarray) -> np.ndarray | None:
        return log_dense_normal(z - self.location_scale[0], self._location_cov)

    @property
    @override
    def _has_density(self) -> bool:
        return len(self.eta) <= MAX_DENSE

    @cached_property
    def _location_cov(self) -> np.ndarray:
        """Covariance of the unconstrained coordinates, shape (dim, dim)."""
        return self.unconstrained_cov(np.arange(len(self.eta)))

    @override
    def unconstrained_cov(self, rows: Int[np.ndarray, " rows"]) -> Float[np.ndarray, "rows rows"]:
        """Return the covariance of the coordinates ``rows`` of the unconstrained vector."""
        slopes = self.location_slopes
        return self.hessian.sandwich([(np.array([2 * j, 2 * j + 1]), slopes[j]) for j in rows])

    @override
    def block_draws(
        self, place: slice, num_draws: int, key: jax.Array
    ) -> tuple[np.ndarray, np.ndarray] | None:
        m, _ = self.location_scale
        if not self._has_density or self.factors.points.any():
            return None
        rows = np.arange(m.size)[place]
        precision = np.linalg.inv(self._location_cov)[np.ix_(rows, rows)]
        return block_normal(m, rows, precision, num_draws, key)

    @override
    def marginal_draws(
        self, rows: Int[np.ndarray, " rows"], num_draws: int, key: jax.Array
    ) -> tuple[Float[np.ndarray, "draws rows"], Float[np.ndarray, " draws"]] | None:
        if self.factors.points[rows].any():
            return None
        cov = self.unconstrained_cov(rows)
        return dense_normal(self.location_scale[0][rows], cov, num_draws, key)


def _gathered(own: BlockArrow, division: Division[Target]) -> BlockArrow:
    """Return the matrix of all members from each host's part of it; each calls it."""
    structure = division.structure(division.whole).widened(2)
    edge = np.empty((structure.border.size, *structure.local.shape))
    for row, of_own in zip(edge, filled(own.edge), strict=True):  # one at a time: all are large
        row[:] = division.members(of_own)
    return BlockArrow(
        structure,
        division.add(own.corner),
        edge,
        division.members(own.blocks),
        division.gathered(own.metric.reshape(-1, 2)).ravel(),
    )
