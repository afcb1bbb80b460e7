"""Coordinate-ascent variational inference by the closed-form updates a conjugate model supplies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, override

import jax
import numpy as np

from vi_recipes.ascent import check_monotone, stacked_starts
from vi_recipes.fit import LogEvidence
from vi_recipes.methods.base import Method, Result, require
from vi_recipes.model import VBSteps
from vi_recipes.posterior import DrawsPosterior
from vi_recipes.progress import Progress
from vi_recipes.status import MethodFailure, Status
from vi_recipes.target import Target
from vi_recipes.timing import Timing

CHUNK = 25
MAX_DRAWS = 10_000
DRAWN_NUMBERS = 20_000_000
"""Draws that stand for the factors: as many as this makes of all scalars together, at most."""


@dataclass(frozen=True, kw_only=True)
class CAVI(Method):
    """Mean-field VB of a conjugate model: every factor in its turn, in closed form.

    q(z) q(theta) maximises the ELBO, the free energy of EM with a distribution over theta in place
    of a point. All restarts run side by side in one compiled loop; the one of the largest ELBO is
    kept. The ELBO must not fall from one iteration to the next; if it does the fit has failed.

    Parameters
    ----------
    max_steps
        Iterations allowed; one updates every factor.
    tolerance
        Rise of the ELBO in one iteration, relative to its size, that counts as none.
    num_restarts
        Starts from the model's own ``start``, each with its own seed.

    References
    ----------
    Attias, H. (1999). A variational Bayesian framework for graphical models. NeurIPS 12.
    Bishop, C. M. (2006). Pattern Recognition and Machine Learning, chapter 10.
    """

    summary: ClassVar[str] = (
        "mean-field VB of conjugate models in closed form: fast, sds too small where factors lean "
        "on each other; its ELBO chooses the number of components"
    )

    max_steps: int = 2_000
    tolerance: float = 1e-10
    num_restarts: int = 5

    def __post_init__(self) -> None:
        require(self.max_steps > 0, "max_steps", self.max_steps, "a positive integer")
        require(self.tolerance > 0, "tolerance", self.tolerance, "a positive number")
        require(self.num_restarts > 0, "num_restarts", self.num_restarts, "a positive integer")

    @property
    @override
    def name(self) -> str:
        return "cavi"

    @override
    def applies(self, target: Target) -> str | None:
        if target.model.vb is None:
            return (
                f"model '{target.name}' supplies no closed-form updates (Model(vb=VBSteps(...))), "
                "which exist where every factor is conjugate; MeanField needs none"
            )
        return None

    @override
    def _fit(self, target: Target, key: jax.Array, timing: Timing, progress: Progress) -> Result:
        steps = target.model.vb
        assert steps is not None
        arrays = target.arrays()
        with timing.running():
            eta = stacked_starts(steps.start, target, key, self.num_restarts)
        run = timing.compile(_chunk(steps, target), eta, arrays)
        history: list[np.ndarray] = []
        still = np.zeros(self.num_restarts, bool)
        while not still.all() and len(history) * CHUNK < self.max_steps:
            with timing.running():
                eta, elbos = run(eta, arrays)
                history.append(np.asarray(elbos))
            path = np.concatenate(history)
            with np.errstate(invalid="ignore"):
                rise = path[-1] - path[-2]
            still = rise <= self.tolerance * np.maximum(1.0, np.abs(path[-1]))
            progress(len(path), self.max_steps, f"ELBO {np.nanmax(path[-1]):.6g}")
        check_monotone(
            path,
            list(range(self.num_restarts)),
            "the ELBO",
            "coordinate ascent",
            "the model's step does not update its factors to their optimum: check it",
        )
        if not np.isfinite(path[-1]).any():
            raise MethodFailure(
                Status.FAILED,
                f"the ELBO is not finite in any of {self.num_restarts} starts",
                "check the data for NaN, infinite values and columns that do not vary",
            )
        best = int(np.nanargmax(path[-1]))
        chosen = jax.tree.map(lambda v: v[best], eta)
        with timing.running():
            posterior = self._posterior(steps, target, chosen)
            diagnostics = steps.diagnostics(chosen, **target.data) if steps.diagnostics else {}
        near = int((path[-1] > path[-1, best] - 1e-3).sum())
        return Result(
            posterior,
            Status.OK if still[best] else Status.UNCONVERGED,
            f"{len(path)} iterations, ELBO {path[-1, best]:.5f}, reached by {near} of "
            f"{self.num_restarts} starts",
            "" if still[best] else "raise max_steps",
            trace={"elbo": path.T, "elbo_step": np.arange(1, len(path) + 1)},
            diagnostics={
                "elbo": float(path[-1, best]),
                "iterations": float(len(path)),
                "restarts": float(self.num_restarts),
                **{name: float(value) for name, value in diagnostics.items()},
            },
            log_evidence=LogEvidence(float(path[-1, best]), 0.0, "lower bound (ELBO)"),
        )

    def _posterior(self, steps: VBSteps, target: Target, eta: Any) -> DrawsPosterior:
        size = sum(int(np.prod(s.shape)) for s in target.quantities)
        num_draws = int(np.clip(DRAWN_NUMBERS // max(size, 1), 200, MAX_DRAWS))
        values = steps.draws(jax.random.key(20_161), eta, num_draws, **target.data)
        samples = {
            site.name: np.asarray(values[site.name], float).reshape(1, num_draws, *site.shape)
            for site in target.quantities
        }
        return DrawsPosterior(samples, independent=True)


def _chunk(steps: VBSteps, target: Target) -> Callable[..., Any]:
    """Return ``(eta of all restarts, arrays) -> (eta, ELBO by iteration)``."""

    def chunk(eta: Any, arrays: Any) -> tuple[Any, jax.Array]:
        def one(eta: Any, arrays: Any) -> tuple[Any, jax.Array]:
            return steps.step(eta, **target.keywords(arrays))

        step = jax.vmap(one, in_axes=(0, None))
        return jax.lax.scan(lambda e, _: step(e, arrays), eta, None, length=CHUNK)

    return chunk
