"""Coordinate-ascent variational inference by the closed-form updates a conjugate model supplies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, override

import jax
import jax.numpy as jnp
import numpy as np

from vi_recipes.core import (
    LOOSEST_RISE,
    MethodFailure,
    Progress,
    Status,
    Timing,
    require_count,
    require_number,
)
from vi_recipes.importance import Bound, LogEvidence
from vi_recipes.latent import (
    Ascent,
    State,
    TargetCompiler,
    best_of,
    check_monotone,
    reached_by,
    stacked_starts,
)
from vi_recipes.methods.base import Method, Result
from vi_recipes.model import Arrays, Target, VBSteps
from vi_recipes.posterior import DrawsPosterior

CHUNK = 25
MAX_DRAWS = 10_000
DRAWN_NUMBERS = 20_000_000
"""Draws that stand for the factors: as many as this makes of all scalars together, at most."""


@dataclass(frozen=True, kw_only=True)
class CAVI(Method):
    """Mean-field VB of a conjugate model: every factor in its turn, in closed form.

    q(z) q(theta) maximises the ELBO, the free energy of EM with a distribution over theta in place
    of a point. All starts run side by side in one compiled loop; the one of the largest ELBO is
    kept. The ELBO must not fall from one iteration to the next; if it does the fit has failed.

    Parameters
    ----------
    max_steps
        Iterations allowed; one updates every factor.
    tolerance
        Rise of the ELBO in one iteration, relative to its size, that counts as none.
    num_starts
        Starting points in all, from the model's own ``start``, each with its own seed.

    References
    ----------
    Attias, H. (1999). A variational Bayesian framework for graphical models. NeurIPS 12.
    Bishop, C. M. (2006). Pattern Recognition and Machine Learning, chapter 10.
    """

    key: ClassVar[str] = "cavi"

    summary: ClassVar[str] = (
        "mean-field VB of conjugate models in closed form: fast, sds too small where factors lean "
        "on each other; its ELBO chooses the number of components"
    )

    max_steps: int = 2_000
    tolerance: float = 1e-10
    num_starts: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("max_steps", self.max_steps)
        require_number("tolerance", self.tolerance, most=LOOSEST_RISE)
        require_count("num_starts", self.num_starts)

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
        ascent = Ascent(
            max_steps=self.max_steps, tolerance=self.tolerance, length=CHUNK, progress=progress
        )

        def update(eta: State, arrays: Arrays) -> tuple[State, jax.Array]:
            return steps.step(eta, **target.keywords(arrays))

        with timing.running():
            eta = stacked_starts(steps.start, target, key, self.num_starts)
        with timing.running_compiled():
            eta, path = ascent.run(update, eta, TargetCompiler(target, timing, ("cavi",)))
        check_monotone(
            path,
            list(range(self.num_starts)),
            "the ELBO",
            "coordinate ascent",
            "the model's step does not update its factors to their optimum: check it",
        )
        if not np.isfinite(path[-1]).any():
            raise MethodFailure(
                Status.FAILED,
                f"the ELBO is not finite in any of {self.num_starts} starts",
                "check the data for NaN, infinite values and columns that do not vary",
            )
        best = best_of(path[-1])
        converged = bool(ascent.converged(path)[best])
        chosen = jax.tree.map(lambda v: jnp.asarray(np.asarray(v)[best]), eta)
        with timing.running():
            posterior = self._posterior(steps, target, chosen)
            diagnostics = steps.diagnostics(chosen, **target.data) if steps.diagnostics else {}
        return Result(
            posterior,
            Status.OK if converged else Status.UNCONVERGED,
            f"{len(path)} iterations, ELBO {path[-1, best]:.5f}, reached by "
            f"{reached_by(path, best)}",
            "" if converged else "raise max_steps",
            trace={"elbo": path.T, "elbo_step": np.arange(1, len(path) + 1)},
            diagnostics={
                "elbo": float(path[-1, best]),
                "iterations": float(len(path)),
                "starts": float(self.num_starts),
                **{name: float(value) for name, value in diagnostics.items()},
            },
            log_evidence=LogEvidence(float(path[-1, best]), 0.0, Bound.LOWER, "ELBO"),
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
