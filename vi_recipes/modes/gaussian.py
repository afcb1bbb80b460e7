"""The Gaussian at a mode."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from vi_recipes.algebra import BlockArrow, Dense
from vi_recipes.core import MethodFailure, Status
from vi_recipes.modes.objective import JointObjective
from vi_recipes.posterior import GaussianPosterior


@dataclass(frozen=True)
class GaussianAtMode:
    """The Gaussian of a positive-definite Hessian, with its log determinant and eigenvalues."""

    posterior: GaussianPosterior
    log_det: float
    smallest: float
    largest: float


def gaussian_at(
    objective: JointObjective, z: Float[np.ndarray, " dim"], condition_limit: float = 1e9
) -> GaussianAtMode:
    """Return the Gaussian centred at ``z`` whose precision is the Hessian there.

    Raises
    ------
    MethodFailure
        ``SINGULAR`` when the Hessian is not positive definite, with its eigenvalues and the sites
        they belong to.
    """
    target, timing = objective.target, objective.timing
    with timing.running_compiled():
        bend = objective.curvature(z)
        if bend is None:
            raise MethodFailure(
                Status.SINGULAR, "the Hessian at the mode is not finite", "use NUTS"
            )
        smallest, largest, vector = bend.extreme_eigenvalues()
        condition = np.inf
        if bend.positive:
            condition = _condition(bend)
        if not bend.positive or condition > condition_limit:
            along = ", ".join(target.sites_along(vector))
            kind = "indefinite" if smallest < -1e-10 * largest else "singular"
            raise MethodFailure(
                Status.SINGULAR,
                f"the Hessian is {kind}: smallest eigenvalue {smallest:.3g} along {along}, largest "
                f"{largest:.3g}, condition number {condition:.2g} at unit diagonal",
                "use mean-field VB with linear response, or NUTS; no Gaussian is fitted here",
            )
    if isinstance(bend, BlockArrow):
        posterior = GaussianPosterior(target, z, None, np.zeros(target.dim), precision=bend)
        return GaussianAtMode(posterior, bend.log_det, smallest, largest)
    posterior = GaussianPosterior(target, z, bend.root(), np.zeros(target.dim))
    return GaussianAtMode(posterior, bend.log_det, smallest, largest)


def _condition(bend: Dense | BlockArrow) -> float:
    """Return the condition number at unit diagonal: the units of parameters are no singularity.

    For a block-arrow matrix it is that of the border's Schur complement and of the worst block.
    """
    if isinstance(bend, BlockArrow):
        return bend.condition()
    scale = 1 / np.sqrt(bend.diagonal())
    return float(np.linalg.cond(bend.matrix * np.outer(scale, scale)))
