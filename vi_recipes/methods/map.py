"""Maximum a posteriori: the joint mode, by a second-order or quasi-Newton solver."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, override

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize

from vi_recipes.algebra.block_arrow import VERIFIED, BlockArrow, LocalStructure, candidates
from vi_recipes.algebra.newton import Dense, trust_region_newton
from vi_recipes.core.progress import Progress
from vi_recipes.core.status import MethodFailure, Status
from vi_recipes.core.timing import Timing
from vi_recipes.methods.base import Method, Result, require
from vi_recipes.model.target import Target
from vi_recipes.model.terms import trace_sites
from vi_recipes.posterior.base import PointPosterior

Space = Literal["constrained", "unconstrained"]
Solver = Literal["auto", "newton", "l-bfgs"]

MAX_DENSE = 300
"""Up to this dimension "auto" takes Newton steps with the dense Hessian."""

MAX_BORDER = 300
"""Largest border of a Hessian with local structure that is recovered at every step."""

COLLAPSED = 0.25
"""Members of a plate that differ by less than this, in the sd of each given the rest, are one."""

STIRRED = 0.2
"""Relative change of a member's curvature by which a hyperparameter counts as its scale."""

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
        dimension 300, beyond that Newton where the Hessian has local structure (see
        :class:`~vi_recipes.algebra.block_arrow.LocalStructure`), else L-BFGS.
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

    Notes
    -----
    Compiled code belongs to the target: what one fit has compiled, the next one of the same
    target need not.
    """

    def __init__(self, target: Target, timing: Timing, *, jacobian: bool) -> None:
        self.target = target
        self.timing = timing
        self.structure: LocalStructure | None = None
        self._arrays = target.arrays()
        self._weight = jnp.asarray(float(jacobian))
        self._memo: dict[str, tuple[bytes, Any]] = {}

    def _value(self, z: jax.Array, weight: jax.Array, arrays: Any) -> jax.Array:
        inner = self.target.log_density_fn(z, arrays, jacobian=False)
        outer = self.target.log_density_fn(z, arrays, jacobian=True)
        # not weight * outer + (1 - weight) * inner, where one may be infinite
        return -jnp.where(weight > 0, outer, inner)

    def _products(
        self, z: jax.Array, basis: jax.Array, weight: jax.Array, arrays: Any
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return value, gradient, and the Hessian times each row of ``basis``."""

        def value_and_grad(z: jax.Array) -> tuple[jax.Array, jax.Array]:
            return jax.value_and_grad(self._value)(z, weight, arrays)

        (value, gradient), push = jax.linearize(value_and_grad, z)
        rows = jax.lax.map(lambda v: push(v)[1], basis)
        return value, gradient, rows

    def _call(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        args = (*(jnp.asarray(a, float) for a in args), self._weight, self._arrays)
        shapes = tuple(np.shape(a) for a in args[:-1])
        compiled = self.target.compiled
        key = (name, shapes, str(args[0].dtype))
        if key not in compiled:
            compiled[key] = self.timing.compile(function, *args)
        return compiled[key](*args)

    def _once(self, name: str, z: np.ndarray, make: Callable[[], Any]) -> Any:
        """Return ``make()``, or what it was at the same point just before."""
        key = z.tobytes()
        if name not in self._memo or self._memo[name][0] != key:
            self._memo[name] = key, make()
        return self._memo[name][1]

    def use(self, structure: LocalStructure) -> None:
        """Recover Hessians by this structure from now on."""
        self.structure = structure
        self._basis = structure.basis()

    def structured(self, z: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Return value, gradient and the Hessian-vector products along the structure's basis."""

        def make() -> tuple[float, np.ndarray, np.ndarray]:
            value, gradient, rows = self._call("products", self._products, z, self._basis)
            self.timing.gradient_evaluations += 1
            self.timing.hvp_evaluations += len(self._basis)
            return float(value), np.asarray(gradient, float), np.asarray(rows, float)

        return self._once("products", z, make)

    def value_and_grad(self, z: np.ndarray) -> tuple[float, np.ndarray]:
        """Return value and gradient; remembers the last point."""
        if self.structure is not None:
            return self.structured(z)[:2]

        def make() -> tuple[float, np.ndarray]:
            value, gradient = self._call("grad", jax.value_and_grad(self._value), z)
            self.timing.gradient_evaluations += 1
            return float(value), np.asarray(gradient, float)

        return self._once("grad", z, make)

    def hessian(self, z: np.ndarray) -> np.ndarray:
        """Return the dense Hessian, symmetrised; remembers the last point."""

        def make() -> np.ndarray:
            hessian = np.asarray(self._call("hessian", jax.hessian(self._value), z))
            self.timing.hvp_evaluations += z.size
            return np.asarray((hessian + hessian.T) / 2)

        return self._once("hessian", z, make)

    def curvature(self, z: np.ndarray) -> Dense | BlockArrow | None:
        """Return the Hessian, dense or by its structure; ``None`` where it is not finite."""
        if self.structure is not None:
            rows = self.structured(z)[2]
            return self.structure.assemble(rows) if np.isfinite(rows).all() else None
        hessian = self.hessian(z)
        return Dense(hessian) if np.isfinite(hessian).all() else None

    def own_curvature(self, site: str, z: np.ndarray) -> np.ndarray:
        """Return the curvature of a site's own log density along its coordinates together."""
        direction = np.zeros(z.size)
        direction[self.target.slices[site]] = 1.0

        def bend(z: jax.Array, direction: jax.Array, weight: jax.Array, arrays: Any) -> jax.Array:
            def own(z: jax.Array) -> jax.Array:
                return trace_sites(self.target, z, arrays)[site].total

            return jax.jvp(jax.grad(own), (z,), (direction,))[1]

        return np.asarray(self._call(f"own curvature of {site}", bend, z, direction))

    def discover(self) -> str:
        """Find the local structure of the Hessian and use it, or say why there is none.

        What the plates suggest is verified by a Hessian-vector product in a random direction.
        """
        target = self.target
        if target.structure is not None:
            self.use(target.structure)
            return ""
        rng = np.random.default_rng(5)
        reasons = []
        for structure in candidates(target.latents, target.slices):
            if structure.border.size > MAX_BORDER:
                reasons.append(
                    f"with {', '.join(structure.sites)} as blocks the border has "
                    f"{structure.border.size} coordinates (at most {MAX_BORDER})"
                )
                continue
            self.use(structure)
            z = target.start(jax.random.key(0), value_and_grad=self.value_and_grad)
            products = self.structured(z + 0.1 * rng.standard_normal(z.size))[2]
            error = structure.error(products)
            if np.isfinite(error).all() and error.max() <= VERIFIED:
                target.structure = structure
                return ""
            self.structure = None
            names = [n for n, place in target.slices.items() if not error[place].max() <= VERIFIED]
            reasons.append(
                f"members of plate {structure.plate} are coupled through {', '.join(names)}"
            )
        return "; ".join(reasons) or "no latent site is in a plate"


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
        if solver == "l-bfgs":
            with objective.timing.running_compiled():
                solver = "l-bfgs" if objective.discover() else "newton"
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
                objective.curvature,
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
        curvature = objective.curvature(z)
        assert curvature is not None
        decrement = curvature.decrement(gradient)
        converged = decrement <= tolerance
        measure = f"Newton decrement {decrement:.2g}"
        stuck = not converged and not far.any() and gradient_max <= tolerance
        smallest, largest, vector = curvature.extreme_eigenvalues() if stuck else (1.0, 1.0, z)
        if stuck and abs(smallest) <= FLAT * largest:
            along = ", ".join(objective.target.sites_along(vector))
            return Mode(
                z,
                value,
                gradient_max,
                decrement,
                trace,
                Status.UNCONVERGED,
                f"the density is flat along {along} (eigenvalue {smallest:.2g}), so the mode "
                "is one of many",
                "give the site a prior that curves, or use space='unconstrained'",
            )
    else:
        # the first value bounds the scale: a density that grows without end does not excuse slopes
        relative = gradient_max / max(1.0, min(abs(value), abs(first)))
        converged = relative <= tolerance
        measure = f"relative gradient {relative:.2g}"
    if converged:
        if solver == "newton" and (collapse := _one_value(objective, z)):
            return Mode(
                z,
                value,
                gradient_max,
                decrement,
                trace,
                Status.COLLAPSED,
                f"{collapse} ({measure} after {len(trace)} steps)",
                "integrate over the members (mean-field VB with linear response, NUTS); or use "
                "space='unconstrained', a non-centred model, or a prior that keeps the scale up",
            )
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


def _one_value(objective: Objective, z: np.ndarray) -> str:
    """Say which plates have all their members at one value with a scale that allows no other.

    That is so where the members differ by far less than the sd each has given everything else, and
    that sd is set by a hyperparameter.
    """
    target = objective.target
    curvature = objective.curvature(z)
    assert curvature is not None
    diagonal = curvature.diagonal()
    found = []
    for site in target.latents:
        if not site.plates or site.unconstrained_shape != site.shape:
            continue
        place = target.slices[site.name]
        axis = max(site.plates, key=lambda p: p[1])[2]
        members = z[place].reshape(site.shape)
        spread = members.std(axis=axis, ddof=1)
        own = 1 / np.sqrt(np.median(diagonal[place].reshape(site.shape), axis=axis))
        share = float(np.max(spread / own))
        if share > COLLAPSED:
            continue
        scales, prior = [], objective.own_curvature(site.name, z)[place]
        for other in target.latents:
            if other.plates or other.name == site.name:
                continue
            moved = z.copy()
            moved[target.slices[other.name]] += 1.0
            stirred = np.abs(objective.own_curvature(site.name, moved)[place] / prior - 1)
            if np.median(stirred) > STIRRED:
                scales.append(other)
        if scales:
            point = target.constrain(z)
            values = ", ".join(f"{s.name} = {np.ravel(point[s.name])[0]:.4g}" for s in scales)
            found.append(
                f"the {members.size} values of {site.name} are one, to {share:.1g} of the sd that "
                f"each has given the rest, at {values}: the joint mode has collapsed, and says "
                "nothing about the spread of a typical draw"
            )
    return "; ".join(found)


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
            if constrained.size != moved.size:
                reports.append(f"{site.name} runs to an edge of its support")
                continue
            index = int(np.argmax(moved))
            label = target.labels([site.name], coords=True)[index]
            reports.append(f"{label} runs to {constrained[index]:.2g}")
    failure = NoMode(
        Status.DEGENERATE,
        f"{'; '.join(reports)} while the log density still rises (now {-value:.6g}, gradient "
        f"{gradient_max:.2g}): the joint density has no maximum there",
        "integrate the latent variables instead of maximising over them (EM, mean-field VB with "
        "linear response, NUTS), "
        "or use a prior that keeps the scale from zero",
    )
    failure.z = z
    return failure
