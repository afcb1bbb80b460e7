"""The Laplace approximation: a Gaussian from the curvature at the mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, override

import jax
import numpy as np

from vi_recipes.core import MethodFailure, Progress, Status, Timing, require_count, require_number
from vi_recipes.importance import Bound, LogEvidence
from vi_recipes.methods.base import Method, Result
from vi_recipes.model import Target, candidates
from vi_recipes.modes import (
    MAX_BORDER,
    JointObjective,
    NoMode,
    Solver,
    check_search,
    find_mode,
    gaussian_at,
)


@dataclass(frozen=True, kw_only=True)
class Laplace(Method):
    """A Gaussian on the unconstrained scale: centred at the mode there, covariance H^-1.

    H is the Hessian of -log density with the Jacobian. A singular or indefinite H is reported
    with its eigenvalues and never repaired.

    Parameters
    ----------
    solver, max_steps, tolerance, num_starts
        How the mode is found; see :class:`MAP`.
    max_dim
        Largest dimension for which the dense Hessian is formed (8 * dim^2 bytes, several times).
        Beyond it the Hessian's local structure is used, where there is one.
    condition_limit
        Condition number of H, after scaling to unit diagonal, beyond which H counts as singular:
        sums over data leave about 1e-12 of rounding in H, and a thousandth of an sd then is noise.

    References
    ----------
    Tierney, L. and Kadane, J. B. (1986). Accurate approximations for posterior moments and
    marginal densities. JASA 81(393). doi:10.1080/01621459.1986.10478240
    """

    key: ClassVar[str] = "laplace"
    over_hosts: ClassVar[bool] = True

    summary: ClassVar[str] = (
        "Gaussian at the mode: exact for Gaussians; absent where the mode is singular"
    )

    solver: Solver = "auto"
    max_steps: int = 2_000
    tolerance: float = 1e-4
    num_starts: int | None = None
    max_dim: int = 2_000
    condition_limit: float = 1e9

    def __post_init__(self) -> None:
        super().__post_init__()
        require_count("max_dim", self.max_dim)
        require_number("condition_limit", self.condition_limit, above=1.0, most=1e15)
        check_search(self.solver, self.max_steps, self.tolerance, self.num_starts)

    @property
    @override
    def where_it_jumps(self) -> Status | None:
        return Status.NOT_APPLICABLE

    @override
    def applies(self, target: Target) -> str | None:
        suggested = candidates(target.latents, target.slices)
        if target.dim <= self.max_dim or any(c.border.size <= MAX_BORDER for c in suggested):
            return None
        return self._too_large(target)

    def _too_large(self, target: Target, reason: str = "") -> str:
        gigabytes = 8 * target.dim**2 / 1e9
        return (
            f"the dense Hessian of {target.dim} coordinates would take {gigabytes:.1f} GB a copy; "
            f"max_dim is {self.max_dim}"
        ) + (f". There is no local structure to use instead: {reason}" if reason else "")

    @override
    def _fit(self, target: Target, key: jax.Array, timing: Timing, progress: Progress) -> Result:
        objective = JointObjective(target, timing, jacobian=True)
        if target.dim > self.max_dim:
            with timing.running_compiled():
                reason = objective.discover()
            if reason:
                raise MethodFailure(Status.NOT_APPLICABLE, self._too_large(target, reason))
        try:
            mode = find_mode(
                objective,
                key,
                solver=self.solver,
                max_steps=self.max_steps,
                tolerance=self.tolerance,
                num_starts=self.num_starts,
                progress=progress,
            )
        except NoMode as failure:
            bend = objective.curvature(failure.z)
            nowhere = (np.nan, np.nan, failure.z)
            smallest, largest, _ = nowhere if bend is None else bend.extreme_eigenvalues()
            raise MethodFailure(
                Status.SINGULAR,
                f"there is no mode to expand around: {failure.message}. Where the solver stopped "
                f"the Hessian's eigenvalues run from {smallest:.3g} to {largest:.3g}",
                failure.advice,
            ) from None
        if mode.status is Status.COLLAPSED:
            raise MethodFailure(
                Status.COLLAPSED,
                f"a Gaussian there would be meaningless: {mode.message}",
                mode.advice,
            )
        gaussian = gaussian_at(objective, mode.z, self.condition_limit)
        log_volume = target.dim / 2 * np.log(2 * np.pi) - gaussian.log_det / 2
        return Result(
            gaussian.posterior,
            mode.status,
            mode.message,
            mode.advice,
            trace={
                "log_density": np.asarray(mode.trace),
                "log_density_step": np.arange(len(mode.trace)),
            },
            diagnostics={
                "log_density": -mode.value,
                "newton_decrement": mode.decrement,
                "smallest_eigenvalue": gaussian.smallest,
                "largest_eigenvalue": gaussian.largest,
            },
            log_evidence=LogEvidence(
                float(log_volume - mode.value), 0.0, Bound.APPROXIMATION, "Laplace"
            ),
        )
