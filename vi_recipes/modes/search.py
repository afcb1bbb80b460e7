"""The search for a joint mode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax
import numpy as np
from jaxtyping import Bool, Float
from scipy.optimize import minimize

from vi_recipes.algebra import SAME, trust_region_newton
from vi_recipes.core import (
    LOOSEST_STEP,
    SEVERAL,
    MethodFailure,
    Progress,
    Status,
    fold_key,
    require,
    require_count,
    require_number,
)
from vi_recipes.modes.judge import Mode, Solver, Stop, judge_stop
from vi_recipes.modes.objective import JointObjective

MAX_DENSE = 300
"""Up to this dimension "auto" takes Newton steps with the dense Hessian."""


ESCAPE = 1e8
"""A coordinate of any site that has moved this far, in units of itself or of its start, escapes."""

LEAST_STEP = 1e-3
"""Largest change of a coordinate, relative to their sizes, of a step that is of some size."""


PATIENCE = {"newton": 25, "l-bfgs": 250}
"""Steps that a coordinate may spend that far out before the solver is stopped."""


NEWTON_STOP = 1e-4
"""Newton's method converges quadratically: stop this far below the tolerance, at no cost."""


RUNAWAY = 15.0
"""A coordinate of a bounded site that has moved this far, unconverged, runs to an edge of its
support: exp(15) is 3 million and expit(-15) is 3e-7."""


def check_search(solver: str, max_steps: int, tolerance: float, num_starts: int | None) -> None:
    """Check the options that say how a mode is found."""
    solvers = ("auto", "newton", "l-bfgs")
    require(solver in solvers, "solver", solver, f"one of {', '.join(solvers)}")
    require_count("max_steps", max_steps)
    require_number("tolerance", tolerance, most=LOOSEST_STEP)
    if num_starts is not None:
        require_count("num_starts", num_starts)


def find_mode(
    objective: JointObjective,
    key: jax.Array,
    *,
    solver: Solver,
    max_steps: int,
    tolerance: float,
    num_starts: int | None,
    progress: Progress,
) -> Mode:
    """Minimise ``objective`` from one or more starting points and judge the best.

    Where nothing is said, several where discrete latent variables are summed out: such a density
    has several modes more often than not.

    Raises
    ------
    MethodFailure
        ``DEGENERATE`` where the objective has no minimum, ``DIVERGED`` where it is not finite.
    """
    target = objective.target
    if solver == "auto":
        solver = "newton" if target.dim <= MAX_DENSE else "l-bfgs"
        if solver == "l-bfgs":
            with objective.timing.running_compiled():
                solver = "l-bfgs" if objective.discover() else "newton"
    summed = any(site.kind == "discrete" for site in target.sites.values())
    count = num_starts or (SEVERAL if summed else 1)
    modes: list[Mode] = []
    failure: MethodFailure | None = None
    for number in range(count):
        with objective.timing.running_compiled():
            start = target.start(
                fold_key(key, number),
                scatter=1.0 if number else 0.0,
                value_and_grad=objective.value_and_grad,
            )
        try:
            modes.append(_descend(objective, start, solver, max_steps, tolerance, progress))
        except MethodFailure as error:
            failure = error
    # A density without a maximum has none from any start.
    if failure is not None and (not modes or failure.status is Status.DEGENERATE):
        raise failure
    best = min(modes, key=lambda mode: mode.value)
    if count == 1:
        return best
    reached = sum(mode.value < best.value + SAME for mode in modes)
    return replace(best, message=f"{best.message}, reached by {reached} of {count} starts")


def _descend(
    objective: JointObjective,
    start: Float[np.ndarray, " dim"],
    solver: Solver,
    max_steps: int,
    tolerance: float,
    progress: Progress,
) -> Mode:
    trace: list[float] = []
    displaced: list[float] = []
    patience = PATIENCE[solver]
    bounded = objective.target.edged
    before, last_step = start, np.zeros(start.size)

    def callback(z: np.ndarray) -> bool:
        nonlocal before, last_step
        if np.abs(z - before).max() > LEAST_STEP * min(1.0, float(np.abs(z).max())):
            last_step = z - before
        before = z.copy()
        trace.append(-objective.value_and_grad(z)[0])
        progress(len(trace), max_steps, f"log density {trace[-1]:.6g}")
        displaced.append(float(np.abs(z - start)[bounded].max(initial=0.0)))
        lingering = len(displaced) > patience and min(displaced[-patience:]) > RUNAWAY
        return displaced[-1] > 3 * RUNAWAY or lingering or bool(_escaped(objective, z, start).any())

    with objective.timing.running_compiled(), np.errstate(all="ignore"):
        first = objective.value_and_grad(start)[0]
        if solver == "newton":
            z, why, _ = trust_region_newton(
                objective.value_and_grad,
                objective.curvature,
                start,
                max_steps=max_steps,
                tolerance=NEWTON_STOP * tolerance,
                callback=callback,
            )
        else:
            z, why = _l_bfgs(objective, start, max_steps, callback)
        far = bounded & (np.abs(z - start) > RUNAWAY) | _escaped(objective, z, start)
        stop = Stop(
            z=z,
            start=start,
            last_step=last_step,
            far=far,
            first=first,
            trace=trace,
            solver=solver,
            why=why,
        )
        return judge_stop(objective, stop, tolerance)


def _escaped(
    objective: JointObjective, z: Float[np.ndarray, " dim"], start: Float[np.ndarray, " dim"]
) -> Bool[np.ndarray, " dim"]:
    away = np.abs(z - start) > ESCAPE * np.maximum(1.0, np.abs(start))
    if away.any():  # units are looked for where they are needed
        away &= np.abs(z - start) > ESCAPE * objective.target.units
    return np.asarray(away)


def _l_bfgs(
    objective: JointObjective,
    start: Float[np.ndarray, " dim"],
    max_steps: int,
    callback: Callable[[np.ndarray], bool],
) -> tuple[Float[np.ndarray, " dim"], str]:
    """Minimise by SciPy's L-BFGS-B, in units; return the last point and why it stopped."""
    last = [start]

    unit = objective.target.units

    def in_units(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = objective.value_and_grad(unit * x)
        return value, unit * gradient

    def watch(x: np.ndarray) -> None:
        last.append(unit * x)
        if callback(unit * x):
            raise StopIteration

    options = {"maxiter": max_steps, "maxcor": 20, "ftol": 0.0, "gtol": 1e-9, "maxfun": 10**9}
    outcome = minimize(
        in_units,
        start / unit,
        jac=True,
        method="L-BFGS-B",
        callback=watch,
        options=options,
    )
    end = unit * outcome.x if outcome.success else last[-1]
    return np.asarray(end, float), str(outcome.message)
