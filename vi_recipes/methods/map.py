"""Maximum a posteriori: the joint mode, by a second-order or quasi-Newton solver."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, override

import jax
import numpy as np

from vi_recipes.core import Progress, Status, Timing, require
from vi_recipes.methods.base import Method, Result
from vi_recipes.model import Target
from vi_recipes.modes import JointObjective, Solver, check_search, find_mode
from vi_recipes.posterior import PointPosterior

ModeSpace = Literal["constrained", "unconstrained"]


@dataclass(frozen=True, kw_only=True)
class MAP(Method):
    """The joint mode of latent variables and parameters.

    Minimises -log p(y, theta, z), and judges the outcome by gradient and curvature. Where the
    density has no maximum (a scale that collapses to zero, as in many hierarchical models) the
    fit's status is ``DEGENERATE`` and names the sites that run away.

    Parameters
    ----------
    space
        Which density is maximised: ``"constrained"`` (the default) the posterior density of the
        parameters as the model names them; ``"unconstrained"`` the density of the transformed
        parameters, which has the Jacobian in it. The two modes differ; both are reported on the
        constrained scale.
    solver
        ``"newton"`` (trust region, dense Hessian), ``"l-bfgs"``, or ``"auto"``: Newton up to
        dimension 300, beyond that Newton where the Hessian has local structure (see
        :class:`~vi_recipes.algebra.block_arrow.LocalStructure`), else L-BFGS.
    max_steps
        Iterations allowed in each run.
    tolerance
        The Newton decrement sqrt(g' H^-1 g) to reach, which is the length of the Newton step in
        posterior standard deviations; where no Hessian is formed, the largest absolute
        component of the gradient, divided by ``max(1, |log density|)`` at its smaller end.
    num_starts
        Starting points in all; those after the first are scattered, and the best mode is kept. By
        default 5 where discrete latent variables are summed out, else 1.
    """

    key: ClassVar[str] = "map"
    over_hosts: ClassVar[bool] = True

    summary: ClassVar[str] = (
        "joint mode: fast; no spread, and biased or absent where scales can collapse"
    )

    space: ModeSpace = "constrained"
    solver: Solver = "auto"
    max_steps: int = 2_000
    tolerance: float = 1e-4
    num_starts: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.space in ("constrained", "unconstrained"),
            "space",
            self.space,
            "'constrained' or 'unconstrained'",
        )
        check_search(self.solver, self.max_steps, self.tolerance, self.num_starts)

    @property
    @override
    def is_point(self) -> bool:
        return True

    @property
    @override
    def where_it_jumps(self) -> Status | None:
        return Status.UNCONVERGED

    @override
    def _fit(self, target: Target, key: jax.Array, timing: Timing, progress: Progress) -> Result:
        objective = JointObjective(target, timing, jacobian=self.space == "unconstrained")
        mode = find_mode(
            objective,
            key,
            solver=self.solver,
            max_steps=self.max_steps,
            tolerance=self.tolerance,
            num_starts=self.num_starts,
            progress=progress,
        )
        with timing.running():
            point = target.constrain(mode.z)
        trace = np.asarray(mode.trace)
        return Result(
            PointPosterior(point),
            mode.status,
            mode.message,
            mode.advice,
            trace={"log_density": trace, "log_density_step": np.arange(trace.size)},
            diagnostics={
                "log_density": -mode.value,
                "gradient_max": mode.gradient_max,
                "newton_decrement": mode.decrement,
                "iterations": float(trace.size),
            },
        )
