"""What Laplace's approximation misses of a log-likelihood, and what is said of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from vi_recipes.core import Progress, Status
from vi_recipes.importance import khat, khat_limit, sobol_normals
from vi_recipes.latent import Estimate
from vi_recipes.methods.coupled_likelihood import CoupledObjective
from vi_recipes.methods.nested.corrected import Added, correct
from vi_recipes.methods.nested.correction import NUM_LOTS
from vi_recipes.methods.nested.crossed_density import CrossedDensity
from vi_recipes.methods.nested.mode import ThetaMode
from vi_recipes.methods.nested.wide_density import NOISE, WideDensity

TOLERANCE = 0.05
"""Standard errors by which the noise of weighed points may move the estimates."""

LIMIT = 0.1
"""And those from which it is said that an estimate is not what it should be."""


@dataclass(frozen=True)
class LaplaceError:
    """What Laplace's approximation misses of a log-likelihood near its maximum.

    Parameters
    ----------
    shift, shift_error
        Nats that it is short there, and the standard error of that.
    moved, unsure
        Standard errors by which that moves the estimates, and what is not known of it.
    few
        Whether so few of the points count that neither is known.
    added
        What may be added to have it, of crossed effects.
    """

    shift: float
    shift_error: float
    moved: float
    unsure: float
    few: bool
    added: Added | None = None

    def told_of(self, estimate: Estimate, *, taken: bool) -> Estimate:
        """Return an estimate with what is known of it, the correction taken or not."""
        by = f"{self.moved:.2g} standard errors (known to {self.unsure:.1g})"
        short = f"{self.shift:.2g} nats short (known to {self.shift_error:.1g})"
        if taken:
            said = (
                f"corrected by weighed points: Laplace's approximation alone is {short}, and its "
                f"estimates {by} away"
            )
        else:
            said = (
                f"weighed points say that Laplace's approximation is {short}, and its estimates "
                f"{by} from where they should be"
            )
        said += "; few of them count, so that is not sure" if self.few else ""
        left = self.unsure if taken else self.moved + self.unsure
        good = left <= LIMIT and not self.few
        return replace(
            estimate,
            status=estimate.status if good else Status.UNCONVERGED,
            message=f"{estimate.message}; {said}",
            advice=estimate.advice or ("" if good else self._advice(taken=taken)),
        )

    def _advice(self, *, taken: bool) -> str:
        if self.added is None or taken or self.few:
            return "use NestedQuadrature or NUTS"
        return "leave num_nodes at 'auto'"


def laplace_error(
    objective: CoupledObjective,
    theta: Float[np.ndarray, " G"],
    estimate: Estimate,
    progress: Progress,
) -> LaplaceError | None:
    """Return what Laplace's approximation misses at its maximum.

    ``None`` where that has no error, and where there is no maximum or no curvature.
    """
    density, curvature = objective.density, objective.curvature(theta)
    if objective.is_exact or curvature is None or not estimate.status.ok:
        return None
    objective.value_and_grad(theta)
    cov = np.linalg.inv(curvature.matrix)
    mode = ThetaMode(theta, (cov + cov.T) / 2, estimate.decrement)
    if isinstance(density, CrossedDensity):
        added = correct(density, mode, TOLERANCE, progress)
        fits = np.stack([added.fit(lot)[0] for lot in range(NUM_LOTS)])
        error = fits[:, 0].std(ddof=1) * (NUM_LOTS - 1) / np.sqrt(NUM_LOTS)
        fitted = added.fit()[0]
        return LaplaceError(
            shift=float(fitted[0]),
            shift_error=float(np.hypot(error, added.inner.mean)),
            moved=float(np.linalg.norm(fitted[1 : 1 + density.dim])),
            unsure=added.tilting,
            few=not khat(added.logs) < khat_limit(len(added.logs)),
            added=added,
        )
    assert isinstance(density, WideDensity)
    away = sobol_normals(density.dim, density.num_looked // 2, [5]) @ np.linalg.cholesky(mode.cov).T
    rows = theta + np.concatenate([away, -away])
    noise = density.noise_at(rows, density.sweep(rows))
    share = 1 / np.sqrt(len(rows))
    unsure = noise.sd * share * np.sqrt(density.dim)
    return LaplaceError(noise.shift, noise.sd * share, noise.tilt, unsure, few=noise.sd > NOISE)
