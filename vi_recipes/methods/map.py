"""Maximum a posteriori: the joint mode, by a second-order or quasi-Newton solver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, override

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize

from vi_recipes.methods.base import Method, Result, require
from vi_recipes.newton import trust_region_newton
from vi_recipes.posterior import PointPosterior
from vi_recipes.progress import Progress
from vi_recipes.status import MethodFailure, Status
from vi_recipes.target import Target
from vi_recipes.timing import Timing

Space = Literal["constrained", "unconstrained"]
Solver = Literal["auto", "newton", "l-bfgs"]

MAX_DENSE = 300
"""Up to this dimension "auto" takes Newton steps with the dense Hessian."""

ESCAPE = 1e8
"""A coordinate of any site that has moved this far, in units of where it began, escapes."""

PATIENCE = {"newton": 25, "l-bfgs": 250}
"""Steps that a coordinate may spend that far out before the solver is stopped."""

FLAT = 1e-10
"""Smallest over largest eigenvalue of a Hessian that counts as zero."""

NEWTON_STOP = 1e-4
"""Newton's method converges quadratically: stop this far below the tolerance, at no cost."""

RUNAWAY = 15.0
"""A coordinate of a bounded site that has moved this far, unconverged, runs to an edge of its
support: exp(15) is 3 million and expit(-15) is 3e-7."""


def check_search(solver: str, max_steps: int, tolerance: float, num_restarts: int) -> None:
    """Check the options that say how a mode is found."""
    solvers = ("auto", "newton", "l-bfgs")
    require(solver in solvers, "solver", solver, f"one of {', '.join(solvers)}")
    require(max_steps > 0, "max_steps", max_steps, "a positive integer")
    require(tolerance > 0, "tolerance", tolerance, "a positive number")
    require(num_restarts >= 0, "num_restarts", num_restarts, "a non-negative integer")


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
        dimension 300, else L-BFGS.
    max_steps
        Iterations allowed in each run.
    tolerance
        The Newton decrement sqrt(g' H^-1 g) to reach, which is the length of the Newton step in
        posterior standard deviations; where no Hessian is formed, the largest absolute
        component of the gradient, divided by ``max(1, |log density|)`` at its smaller end.
    num_restarts
        Runs from scattered starting points besides the first; the best mode is kept.
    """

    summary: ClassVar[str] = (
        "joint mode: fast; no spread, and biased or absent where scales can collapse"
    )

    space: Space = "constrained"
    solver: Solver = "auto"
    max_steps: int = 2_000
    tolerance: float = 1e-4
    num_restarts: int = 0

    def __post_init__(self) -> None:
        require(
            self.space in ("constrained", "unconstrained"),
            "space",
            self.space,
            "'constrained' or 'unconstrained'",
        )
        check_search(self.solver, self.max_steps, self.tolerance, self.num_restarts)

    @property
    @override
    def name(self) -> str:
        return "map"

    @override
    def _fit(self, target: Target, key: jax.Array, timing: Timing, progress: Progress) -> Result:
        objective = Objective(target, timing, jacobian=self.space == "unconstrained")
        mode = find_mode(
            objective,
            key,
            solver=self.solver,
            max_steps=self.max_steps,
            tolerance=self.tolerance,
            num_restarts=self.num_restarts,
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


class Objective:
    """-log density of a target, compiled ahead of time for one precision, with counts.

    Parameters
    ----------
    target
        The model conditioned on data.
    timing
        Charged with compilations and evaluations.
    jacobian
        Whether the density is over the unconstrained scale.
    """

    def __init__(self, target: Target, timing: Timing, *, jacobian: bool) -> None:
        self.target = target
        self.timing = timing
        self._arrays = target.arrays()
        self._compiled: dict[str, Callable[..., Any]] = {}
        self._memo: tuple[bytes, tuple[float, np.ndarray]] | None = None

        def value(z: jax.Array, arrays: Any) -> jax.Array:
            return -target.log_density_fn(z, arrays, jacobian=jacobian)

        self._value = value

    def _call(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        args = tuple(jnp.asarray(a, float) for a in args)
        if name not in self._compiled:
            self._compiled[name] = self.timing.compile(function, *args, self._arrays)
        return self._compiled[name](*args, self._arrays)

    def value_and_grad(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        """Return value and gradient; remembers the last point."""
        key = z.tobytes()
        if self._memo is None or self._memo[0] != key:
            value, gradient = self._call("grad", jax.value_and_grad(self._value), z)
            self.timing.gradient_evaluations += 1
            self._memo = key, (float(value), np.asarray(gradient, float))
        return self._memo[1]

    def hessian(self, z: np.ndarray) -> np.ndarray:
        """Return the dense Hessian, symmetrised."""
        hessian = np.asarray(self._call("hessian", jax.hessian(self._value), z))
        self.timing.hvp_evaluations += z.size
        return (hessian + hessian.T) / 2


@dataclass
class Mode:
    """Where an optimisation ended, on the unconstrained scale."""

    z: np.ndarray
    value: float
    gradient_max: float
    decrement: float
    trace: list[float]
    status: Status
    message: str
    advice: str = ""


def find_mode(
    objective: Objective,
    key: jax.Array,
    *,
    solver: Solver,
    max_steps: int,
    tolerance: float,
    num_restarts: int,
    progress: Progress,
) -> Mode:
    """Minimise ``objective`` from one or more starting points and judge the best.

    Raises
    ------
    MethodFailure
        ``DEGENERATE`` where the objective has no minimum, ``DIVERGED`` where it is not finite.
    """
    target = objective.target
    if solver == "auto":
        solver = "newton" if target.dim <= MAX_DENSE else "l-bfgs"
    best: Mode | None = None
    failure: MethodFailure | None = None
    for restart in range(num_restarts + 1):
        with objective.timing.running_compiled():
            start = target.start(
                jax.random.fold_in(key, restart),
                scatter=1.0 if restart else 0.0,
                value_and_grad=objective.value_and_grad,
            )
        try:
            mode = _descend(objective, start, solver, max_steps, tolerance, progress)
        except MethodFailure as error:
            failure = error
            continue
        if best is None or mode.value < best.value:
            best = mode
    # A density without a maximum has none from any start.
    if failure is not None and (best is None or failure.status is Status.DEGENERATE):
        raise failure
    assert best is not None
    return best


def _descend(
    objective: Objective,
    start: np.ndarray,
    solver: Solver,
    max_steps: int,
    tolerance: float,
    progress: Progress,
) -> Mode:
    trace: list[float] = []
    displaced: list[float] = []
    patience = PATIENCE[solver]
    bounded = np.zeros(start.size, bool)
    for site in objective.target.latents:
        bounded[objective.target.slices[site.name]] = site.bounded

    def callback(z: np.ndarray) -> bool:
        trace.append(-objective.value_and_grad(z)[0])
        progress(len(trace), max_steps, f"log density {trace[-1]:.6g}")
        displaced.append(float(np.abs(z - start)[bounded].max(initial=0.0)))
        lingering = len(displaced) > patience and min(displaced[-patience:]) > RUNAWAY
        return displaced[-1] > 3 * RUNAWAY or lingering or bool(_escaped(z, start).any())

    with objective.timing.running_compiled(), np.errstate(all="ignore"):
        first = objective.value_and_grad(start)[0]
        if solver == "newton":
            z, why = trust_region_newton(
                objective.value_and_grad,
                objective.hessian,
                start,
                max_steps=max_steps,
                tolerance=NEWTON_STOP * tolerance,
                callback=callback,
            )
        else:
            z, why = _l_bfgs(objective, start, max_steps, callback)
        far = bounded & (np.abs(z - start) > RUNAWAY) | _escaped(z, start)
        mode = _judge(objective, z, far, first, trace, solver, tolerance, why)
    return mode


def _escaped(z: np.ndarray, start: np.ndarray) -> np.ndarray:
    return np.abs(z - start) > ESCAPE * np.maximum(1.0, np.abs(start))


def _l_bfgs(
    objective: Objective,
    start: np.ndarray,
    max_steps: int,
    callback: Callable[[np.ndarray], bool],
) -> tuple[np.ndarray, str]:
    """Minimise by SciPy's L-BFGS-B; return the last point and why it stopped."""
    last = [start]

    def watch(z: np.ndarray) -> None:
        last.append(z.copy())
        if callback(z):
            raise StopIteration

    options = {"maxiter": max_steps, "maxcor": 20, "ftol": 0.0, "gtol": 1e-9, "maxfun": 10**9}
    outcome = minimize(
        objective.value_and_grad,
        start,
        jac=True,
        method="L-BFGS-B",
        callback=watch,
        options=options,
    )
    return np.asarray(outcome.x if outcome.success else last[-1], float), str(outcome.message)


def _judge(
    objective: Objective,
    z: np.ndarray,
    far: np.ndarray,
    first: float,
    trace: list[float],
    solver: Solver,
    tolerance: float,
    message: str,
) -> Mode:
    """Say whether ``z`` is a minimum, from the gradient and curvature rather than the solver."""
    value, gradient = objective.value_and_grad(z)
    if not (np.isfinite(value) and np.isfinite(gradient).all()):
        raise MethodFailure(
            Status.DIVERGED,
            f"log density {-value}, gradient {np.abs(gradient).max()} after {len(trace)} steps",
            "rescale the data, or start elsewhere with Model(init=...)",
        )
    gradient_max = float(np.abs(gradient).max())
    decrement = float("nan")
    if solver == "newton":
        eigenvalues, vectors = np.linalg.eigh(objective.hessian(z))
        decrement = float("inf")
        if eigenvalues[0] > 0:
            decrement = float(np.sqrt((((vectors.T @ gradient) ** 2) / eigenvalues).sum()))
        converged = decrement <= tolerance
        measure = f"Newton decrement {decrement:.2g}"
        flat = abs(eigenvalues[0]) <= FLAT * eigenvalues[-1]
        if flat and not converged and not far.any() and gradient_max <= tolerance:
            along = ", ".join(objective.target.sites_along(vectors[:, 0]))
            return Mode(
                z,
                value,
                gradient_max,
                decrement,
                trace,
                Status.UNCONVERGED,
                f"the density is flat along {along} (eigenvalue {eigenvalues[0]:.2g}), so the mode "
                "is one of many",
                "give the site a prior that curves, or use space='unconstrained'",
            )
    else:
        # the first value bounds the scale: a density that grows without end does not excuse slopes
        relative = gradient_max / max(1.0, min(abs(value), abs(first)))
        converged = relative <= tolerance
        measure = f"relative gradient {relative:.2g}"
    if converged:
        return Mode(
            z,
            value,
            gradient_max,
            decrement,
            trace,
            Status.OK,
            f"{measure} after {len(trace)} steps",
        )
    if far.any():
        raise _collapse(objective.target, z, far, value, gradient_max)
    return Mode(
        z,
        value,
        gradient_max,
        decrement,
        trace,
        Status.UNCONVERGED,
        f"{measure} after {len(trace)} steps, tolerance {tolerance:.2g}; the solver said: "
        f"{message.strip().rstrip('.')}",
        "raise max_steps or num_restarts, or try another solver",
    )


class NoMode(MethodFailure):
    """The density has no maximum; ``z`` is where the solver stopped."""

    z: np.ndarray


def _collapse(
    target: Target, z: np.ndarray, far: np.ndarray, value: float, gradient_max: float
) -> NoMode:
    """Return the failure that says which sites run to the edge of their support."""
    values = target.constrain(z)
    reports = []
    for site in target.latents:
        moved = far[target.slices[site.name]]
        if moved.any():
            constrained = np.ravel(values[site.name])
            index = int(np.argmax(moved)) if constrained.size == moved.size else 0
            label = target.labels([site.name], coords=True)[index]
            reports.append(f"{label} runs to {constrained[index]:.2g}")
    failure = NoMode(
        Status.DEGENERATE,
        f"{'; '.join(reports)} while the log density still rises (now {-value:.6g}, gradient "
        f"{gradient_max:.2g}): the joint density has no maximum there",
        "integrate the latent variables instead of maximising over them (EM, SVI, NUTS), "
        "or use a prior that keeps the scale from zero",
    )
    failure.z = z
    return failure
