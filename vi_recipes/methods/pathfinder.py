"""Pathfinder: normals along quasi-Newton paths, and draws of the best by importance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar, NamedTuple, override

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import logsumexp, softmax

from vi_recipes.core import (
    WIDEST_SCATTER,
    MethodFailure,
    Progress,
    Status,
    Timing,
    generator,
    require_count,
    require_number,
    shapes_of,
    split_key,
)
from vi_recipes.importance import (
    GOOD_SHARE,
    KHAT_LIMIT,
    MIN_DRAWS,
    Weights,
    shape_in_words,
    smooth,
)
from vi_recipes.methods.base import Method, Result
from vi_recipes.model import Sites, Target
from vi_recipes.posterior import ResampledPosterior, WeighedDraws, relabel_draws

MAX_NUMBERS = 5e8
"""Numbers that the normals along one path may hold: 4 GB."""

NEAR = 10.0
"""Nats below the best ELBO within which a normal takes part in the mixture like the best."""

TOLERANCE = 1e-10
"""Relative change of the log density at which a path ends; blackjax's own 1e-5 ends it far from a
mode where one coordinate matters little."""

MAX_LINE_SEARCH = 50
"""Points along one direction, at most."""


@dataclass(frozen=True, kw_only=True)
class Pathfinder(Method):
    """Follow quasi-Newton paths towards modes, and keep the best normal on the way of each.

    At every step of L-BFGS, on the unconstrained scale, the path has a normal: the inverse Hessian
    that it has made out so far, around the Newton step from there. Of each path the normal of
    highest ELBO is kept, which often lies before the mode. Draws come from the mixture of these
    normals and are resampled by Pareto-smoothed importance weights. A normal whose ELBO is more
    than 10 nats below the best takes a part in the mixture that falls with it; the others take
    equal parts. Where fewer than a quarter of the draws count, the fit has not converged; where the
    weights cannot be relied on at all, the draws are those of the mixture as they are.

    The paths are blackjax's. Its normals are centred on the wrong side of each point (it adds the
    gradient of minus the log density where the log density's belongs), so that their centres and
    ELBOs are computed here. Multi-path Pathfinder as published weighs each draw by the density of
    its own path's normal; that of the mixture has less variance.

    Parameters
    ----------
    num_paths
        Paths. The first begins at the model's own ``init``, or prior medians; the others scattered.
    max_steps
        Steps of L-BFGS, at most.
    history
        Steps of which the inverse Hessian is made: it is diagonal but for twice as many directions.
    num_elbo_draws
        Draws that an ELBO is estimated from.
    num_draws
        Draws of the mixture, and of the answer.
    scatter
        Half-width of the uniform scatter of the starts on the unconstrained scale, in units of the
        coordinates (:mod:`vi_recipes.model.units`).

    References
    ----------
    Zhang, L., Carpenter, B., Gelman, A. and Vehtari, A. (2022). Pathfinder: parallel quasi-Newton
    variational inference. JMLR 23(306). arXiv:2108.03782.
    """

    key: ClassVar[str] = "pathfinder"

    summary: ClassVar[str] = (
        "normals along quasi-Newton paths, resampled by importance: quick, and right where khat "
        "is low; needs the extra blackjax"
    )
    by_default: ClassVar[bool] = False

    num_paths: int = 8
    max_steps: int = 100
    history: int = 10
    num_elbo_draws: int = 25
    num_draws: int = 4_000
    scatter: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("num_paths", self.num_paths)
        require_count("max_steps", self.max_steps)
        require_count("history", self.history)
        require_count("num_elbo_draws", self.num_elbo_draws, least=2)
        require_count("num_draws", self.num_draws, least=MIN_DRAWS)
        require_number("scatter", self.scatter, most=WIDEST_SCATTER)

    @property
    @override
    def where_it_jumps(self) -> Status | None:
        return Status.UNCONVERGED

    @override
    def applies(self, target: Target) -> str | None:
        if find_spec("blackjax") is None:
            return (
                "it needs the package blackjax, which is not installed: "
                "python -m pip install blackjax"
            )
        if (self.max_steps + 1) * 2 * self.history * target.dim > MAX_NUMBERS:
            return (
                f"the normals along a path of {self.max_steps} steps with a history of "
                f"{self.history} in {target.dim} coordinates take more than 4 GB: lower max_steps, "
                "or history"
            )
        return super().applies(target)

    @override
    def _fit(self, target: Target, key: jax.Array, timing: Timing, progress: Progress) -> Result:
        start_key, path_key, draw_key = split_key(key, 3)
        arrays = target.arrays()
        normals: list[PathNormal] = []
        steps = 0
        for k in range(self.num_paths):
            with timing.running():
                scatter = self.scatter if k else 0.0
                z = target.start(jax.random.fold_in(start_key, k), scatter=scatter)
                start = jnp.asarray(z / target.units)
            one = jax.random.fold_in(path_key, k), start, arrays
            follow = self._compiled(target, timing, one)
            with timing.running():
                best, length = jax.tree.map(np.asarray, follow(*one))
            # at least: a line search may have looked at more points
            timing.gradient_evaluations += 3 * int(length)
            timing.density_evaluations += int(length) * self.num_elbo_draws
            steps += int(length) - 1
            if np.isfinite(best.elbo):
                normals.append(best)
            progress(k + 1, self.num_paths, f"{len(normals)} paths with a normal")
        if not normals:
            raise MethodFailure(
                Status.DIVERGED,
                f"none of {self.num_paths} paths came by a normal with a finite ELBO",
                "use NUTS, or tighter priors that keep the sites from where they run to",
            )
        with timing.running():
            result = self._answer(target, NormalMixture(normals), draw_key)
        timing.density_evaluations += self.num_draws
        result.diagnostics = {
            **result.diagnostics,
            "num_steps": float(steps),
            "num_paths": float(len(normals)),
        }
        return result

    def _compiled(
        self, target: Target, timing: Timing, example: tuple[Any, ...]
    ) -> Callable[..., Any]:
        sizes = self.max_steps, self.history, self.num_elbo_draws
        return target.compiled_once(
            ("path of Pathfinder", *sizes, shapes_of(*example)),
            lambda: timing.compile(self._make_path(target), *example),
        )

    def _make_path(self, target: Target) -> Callable[..., Any]:
        """Return ``(key, start, arrays) -> (best normal, number of points of the path)``."""
        from blackjax.optimizers.lbfgs import bfgs_sample
        from blackjax.vi.pathfinder import approximate

        def follow(key: jax.Array, start: jax.Array, arrays: Any) -> tuple[PathNormal, jax.Array]:
            def density(x: jax.Array) -> jax.Array:
                return target.density_in_units(x, arrays)

            path_key, elbo_key = jax.random.split(key)
            # it estimates ELBOs of its own normals, of which nothing is used here: one draw will do
            _, info = approximate(
                path_key,
                density,
                start,
                1,
                maxiter=self.max_steps,
                maxcor=self.history,
                maxls=MAX_LINE_SEARCH,
                ftol=TOLERANCE,
            )
            path = info.path
            # once it has stopped, the path stays where it is
            moved = jnp.any(jnp.diff(path.position, axis=0) != 0, axis=1)
            on_path = jnp.concatenate([jnp.ones(1, bool), moved])

            def normal(point: Any) -> PathNormal:
                x, alpha, beta, gamma, visited, k = point

                def weigh(_: Any) -> tuple[jax.Array, jax.Array]:
                    slope = jax.grad(density)(x)
                    mean = x + alpha * slope + beta @ (gamma @ (beta.T @ slope))
                    own = jax.random.fold_in(elbo_key, k)
                    drawn, log_q = bfgs_sample(
                        own, self.num_elbo_draws, x, slope, alpha, beta, gamma
                    )
                    elbo = jnp.mean(jax.vmap(density)(drawn) - log_q)
                    usable = jnp.isfinite(elbo) & jnp.isfinite(mean).all()
                    return mean, jnp.where(usable, elbo, -jnp.inf)

                none = jnp.full_like(x, jnp.nan), jnp.asarray(-jnp.inf, x.dtype)
                mean, elbo = jax.lax.cond(visited, weigh, lambda _: none, None)
                return PathNormal(elbo, mean, alpha, beta, gamma)

            places = jnp.arange(self.max_steps + 1)
            points = (path.position, path.alpha, path.beta, path.gamma, on_path, places)
            elbos = jax.lax.map(lambda point: normal(point)[:2], points)
            best = jnp.argmax(elbos[0])
            factors = path.alpha[best], path.beta[best], path.gamma[best]
            return PathNormal(elbos[0][best], elbos[1][best], *factors), on_path.sum()

        return follow

    def _answer(self, target: Target, mixture: NormalMixture, key: jax.Array) -> Result:
        x, log_q = mixture.draws(self.num_draws, generator(key))
        z = x * target.units
        log_q = log_q - float(np.sum(np.log(np.abs(target.units))))
        log_p = target.log_densities(z)
        ratios = log_p - log_q
        values = target.constrain(z)
        if not np.isfinite(ratios).any() or np.isnan(ratios).any() or np.isposinf(ratios).any():
            raise MethodFailure(
                Status.DIVERGED,
                "the log density is not finite at the draws of its normals",
                "use NUTS, or tighter priors",
            )
        weights = smooth(ratios)
        reliable = weights.khat < KHAT_LIMIT and weights.ess >= MIN_DRAWS
        good = reliable and weights.ess >= GOOD_SHARE * len(z)
        used = weights if reliable else Weights(np.full(len(z), 1 / len(z)))
        rows = resample(used.values, generator(jax.random.fold_in(key, 1)))
        samples = {name: value[rows][None] for name, value in values.items()}
        samples, relabelled = _matched(samples, log_p[rows], target)
        elbos = mixture.elbos
        message = (
            f"normals of {len(elbos)} of {self.num_paths} paths with ELBOs from "
            f"{elbos.min():.4g} to {elbos.max():.4g}; {shape_in_words(weights.khat)} (limit "
            f"{KHAT_LIMIT}), effectively {weights.ess:.0f} of {len(z)} draws"
        )
        if not reliable:
            message += ": these weights cannot be relied on, and the draws are not weighed"
        elif not good:
            message += f": fewer than {GOOD_SHARE:.0%} of them count"
        return Result(
            ResampledPosterior(
                samples, independent=True, weighed=WeighedDraws(z, log_q, values), ess=used.ess
            ),
            Status.OK if good else Status.UNCONVERGED,
            message + relabelled,
            ""
            if good
            else "use NUTS, mean-field VB with linear response, or another scale "
            "(non-centre the hierarchy)",
            diagnostics={"khat": weights.khat, "ess": weights.ess},
        )


class PathNormal(NamedTuple):
    """A normal along a path; its covariance is diag(alpha) + beta gamma beta'."""

    elbo: Any
    mean: Any
    alpha: Any
    """Shape (dim,)."""
    beta: Any
    """Shape (dim, 2 history)."""
    gamma: Any
    """Shape (2 history, 2 history)."""


class NormalMixture:
    """A mixture of normals: alike but for those whose ELBO is far below the best.

    A covariance is D (I + Q (L L' - I) Q') D with D = diag(alpha)^(1/2) and orthonormal columns Q,
    of which there are few.

    Parameters
    ----------
    normals
        With finite ELBOs.
    """

    def __init__(self, normals: list[PathNormal]) -> None:
        self.elbos = np.array([float(one.elbo) for one in normals])
        parts = np.minimum(self.elbos - self.elbos.max() + NEAR, 0.0)
        self._log_shares = parts - logsumexp(parts)
        self._parts = []
        for one in normals:
            scale = np.sqrt(one.alpha)
            q, r = np.linalg.qr(one.beta / scale[:, None])
            root = np.linalg.cholesky(np.eye(len(r)) + r @ one.gamma @ r.T)
            self._parts.append((np.asarray(one.mean), scale, q, root))

    def draws(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return independent draws, shape (count, dim), and their log density, shape (count,)."""
        which = rng.choice(len(self._parts), count, p=softmax(self._log_shares))
        noise = rng.standard_normal((count, len(self._parts[0][0])))
        drawn = np.empty_like(noise)
        for k, (mean, scale, q, root) in enumerate(self._parts):
            u = noise[which == k]
            within = u @ q
            drawn[which == k] = mean + scale * (u + (within @ root.T - within) @ q.T)
        return drawn, self.log_density(drawn)

    def log_density(self, x: np.ndarray) -> np.ndarray:
        """Return the log density at rows of ``x``, shape (rows,)."""
        each = []
        for log_share, (mean, scale, q, root) in zip(self._log_shares, self._parts, strict=True):
            u = (x - mean) / scale
            within = u @ q
            inner = solve_triangular(root, within.T, lower=True).T
            squares = np.square(u - within @ q.T).sum(1) + np.square(inner).sum(1)
            log_scale = np.log(scale).sum() + np.log(np.diagonal(root)).sum()
            each.append(log_share - 0.5 * squares - log_scale - 0.5 * len(mean) * np.log(2 * np.pi))
        total: np.ndarray = logsumexp(each, axis=0)
        return total


def resample(weights: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return rows in proportion to weights, as many as there are: systematic resampling."""
    count = len(weights)
    places = (np.arange(count) + rng.uniform()) / count
    rows: np.ndarray = np.searchsorted(np.cumsum(weights), places)
    return rng.permutation(np.minimum(rows, count - 1))


def _matched(samples: Sites, log_p: np.ndarray, target: Target) -> tuple[Sites, str]:
    """Return draws with the labels of exchangeable components matched, and what to say of it."""
    if not target.exchangeable:
        return samples, ""
    best = int(np.argmax(log_p))
    pivot = {name: value[0, best] for name, value in samples.items()}
    samples, share = relabel_draws(samples, target.exchangeable, pivot)
    return samples, f"; {share:.0%} of draws relabelled"
