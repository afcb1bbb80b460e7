"""Expectation-maximisation by the closed-form steps a model supplies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, override

import jax
import jax.numpy as jnp
import numpy as np

from vi_recipes.methods.base import Method, Result, require
from vi_recipes.model import EMSteps
from vi_recipes.posterior import PointPosterior
from vi_recipes.progress import Progress
from vi_recipes.status import MethodFailure, Status
from vi_recipes.target import Target
from vi_recipes.timing import Timing

CHUNK = 50
ROUNDING = 1e-9
"""Relative decrease of the objective that rounding explains."""


@dataclass(frozen=True, kw_only=True)
class EM(Method):
    """Coordinate ascent on the free energy: E-step over q(z), M-step over theta.

    All restarts run side by side in one compiled loop; the best is kept. The objective must not
    fall from one iteration to the next; if it does the fit has failed.

    Parameters
    ----------
    objective
        ``"mle"`` maximises log p(y | theta), ``"map"`` adds the log prior over the parameters as
        the model names them.
    max_steps
        Iterations allowed.
    tolerance
        Rise of the objective in one iteration, relative to its size, that counts as none.
    num_restarts
        Starts from the model's own ``start`` (k-means for mixtures), each with its own seed.

    References
    ----------
    Dempster, A. P., Laird, N. M. and Rubin, D. B. (1977). JRSS B 39(1), 1-38.
    Neal, R. M. and Hinton, G. E. (1998). A view of the EM algorithm that justifies incremental,
    sparse, and other variants. doi:10.1007/978-94-011-5014-9_12
    """

    summary: ClassVar[str] = (
        "maximises the likelihood with latent variables summed out: a point, without spread"
    )

    objective: Literal["mle", "map"] = "mle"
    max_steps: int = 2_000
    tolerance: float = 1e-10
    num_restarts: int = 5

    def __post_init__(self) -> None:
        require(self.objective in ("mle", "map"), "objective", self.objective, "'mle' or 'map'")
        require(self.max_steps > 0, "max_steps", self.max_steps, "a positive integer")
        require(self.tolerance > 0, "tolerance", self.tolerance, "a positive number")
        require(self.num_restarts > 0, "num_restarts", self.num_restarts, "a positive integer")

    @property
    @override
    def name(self) -> str:
        return "em"

    @override
    def applies(self, target: Target) -> str | None:
        steps = target.model.em
        if steps is None:
            return (
                f"model '{target.name}' supplies no closed-form EM steps (Model(em=EMSteps(...))); "
                "variational inference or Laplace serve where they cannot be derived"
            )
        if self.objective == "map" and steps.log_prior is None:
            return f"model '{target.name}' supplies no log_prior for objective='map'"
        return None

    @override
    def _fit(self, target: Target, key: jax.Array, timing: Timing, progress: Progress) -> Result:
        steps = target.model.em
        assert steps is not None
        arrays = target.arrays()
        with timing.running():
            starts = [
                jax.tree.map(lambda v: jnp.asarray(v, float), steps.start(k, **target.data))
                for k in jax.random.split(key, self.num_restarts)
            ]
            theta = jax.tree.map(lambda *v: jnp.stack(v), *starts)
        run = timing.compile(self._chunk(steps, target), theta, arrays)
        history: list[np.ndarray] = []
        done = np.zeros(self.num_restarts, bool)
        while not done.all() and len(history) * CHUNK < self.max_steps:
            with timing.running():
                theta, values = run(theta, arrays)
                history.append(np.asarray(values))
                done = self._converged(np.concatenate(history))
            progress(
                len(history) * CHUNK, self.max_steps, f"log-likelihood {history[-1][-1].max():.6f}"
            )
        path = np.concatenate(history)
        alive = self._alive(target, steps, theta, path[-1])
        self._check_monotone(path, alive)
        best = max(alive, key=lambda r: path[-1, r])
        chosen = jax.tree.map(lambda v: v[best], theta)
        with timing.running():
            log_likelihood = float(steps.e_step(chosen, **target.keywords(arrays))[1])
            point = steps.complete(chosen, **target.data) if steps.complete else chosen
        converged = bool(done[best])
        return Result(
            PointPosterior(_on_sites(target, point)),
            Status.OK if converged else Status.UNCONVERGED,
            f"{self._count(path[:, best])} iterations, {
                'log-likelihood' if self.objective == 'mle' else 'log posterior'
            } {path[-1, best]:.5f}, reached by "
            f"{int((path[-1] > path[-1, best] - 1e-3).sum())} of {self.num_restarts} starts",
            "" if converged else "raise max_steps",
            trace={
                (name := "log_likelihood" if self.objective == "mle" else "log_posterior"): path.T,
                f"{name}_step": np.arange(1, len(path) + 1),
            },
            diagnostics={
                "log_likelihood": log_likelihood,
                "iterations": float(self._count(path[:, best])),
                "restarts": float(self.num_restarts),
            },
            log_likelihood=log_likelihood,
        )

    def _chunk(self, steps: EMSteps, target: Target) -> Callable[..., Any]:
        """Return ``(theta of all restarts, arrays) -> (theta, objective by iteration)``."""

        def one(theta: Any, arrays: Any) -> tuple[Any, jax.Array]:
            data = target.keywords(arrays)
            stats, value = steps.e_step(theta, **data)
            if self.objective == "map":
                assert steps.log_prior is not None
                value = value + steps.log_prior(theta, **data)
            return steps.m_step(stats, self.objective, **data), value

        def chunk(theta: Any, arrays: Any) -> tuple[Any, jax.Array]:
            step = jax.vmap(one, in_axes=(0, None))
            return jax.lax.scan(lambda t, _: step(t, arrays), theta, None, length=CHUNK)

        return chunk

    def _converged(self, path: np.ndarray) -> np.ndarray:
        """Return which starts rise no more, or have no finite objective any more."""
        with np.errstate(invalid="ignore"):
            rise = path[-1] - path[-2]
        still = np.abs(rise) <= self.tolerance * np.maximum(1.0, np.abs(path[-1]))
        return np.asarray(still | ~np.isfinite(path[-1]))

    def _count(self, path: np.ndarray) -> int:
        """Return the iteration from which the objective no longer rises."""
        flat = np.diff(path) <= self.tolerance * np.maximum(1.0, np.abs(path[1:]))
        return int(np.argmax(flat)) + 1 if flat.any() else path.size

    def _check_monotone(self, path: np.ndarray, alive: list[int]) -> None:
        """Fail if the objective falls; in a start that collapses it may, by rounding."""
        fall = path[:-1, alive] - path[1:, alive]
        relative = fall / np.maximum(1.0, np.abs(path[1:, alive]))
        if relative.max() > ROUNDING:
            iteration, place = np.unravel_index(relative.argmax(), fall.shape)
            raise MethodFailure(
                Status.FAILED,
                f"the objective fell by {fall[iteration, place]:.3g} at iteration "
                f"{int(iteration) + 1} of start {alive[int(place)] + 1}; EM cannot do that",
                "the model's e_step and m_step do not belong together: check them",
            )

    def _alive(self, target: Target, steps: EMSteps, theta: Any, final: np.ndarray) -> list[int]:
        """Return the starts that have not collapsed; fail if there is none."""
        collapsed: dict[int, str] = {}
        for restart in range(self.num_restarts):
            values = jax.tree.map(lambda v, r=restart: v[r], theta)
            if not all(np.isfinite(v).all() for v in jax.tree.leaves(values)):
                collapsed[restart] = "NaN or infinite parameters"
            elif steps.collapse is not None:
                for name, (measure, floor) in steps.collapse(values, **target.data).items():
                    smallest = float(np.min(measure))
                    if not smallest > floor:
                        collapsed[restart] = f"{name} {smallest:.3g} (floor {floor:.3g})"
        alive = [
            r for r in range(self.num_restarts) if r not in collapsed and np.isfinite(final[r])
        ]
        if not alive:
            raise MethodFailure(
                Status.DEGENERATE,
                f"a component collapsed in every one of {self.num_restarts} starts: "
                f"{next(iter(collapsed.values()), 'the objective is not finite')}",
                "use objective='map', fewer components, or a tied covariance",
            )
        return alive


def _on_sites(target: Target, values: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the values of the target's reported sites; NaN for sites EM says nothing of."""
    point = {}
    for site in target.quantities:
        value = np.asarray(values.get(site.name, np.full(site.shape, np.nan)), float)
        point[site.name] = value.reshape(site.shape)
    return point
