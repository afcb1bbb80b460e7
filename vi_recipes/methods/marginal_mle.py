"""Maximum marginal likelihood: latent variables integrated out, parameters by Newton's method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, get_args, override

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize

from vi_recipes.algebra import trust_region_newton
from vi_recipes.core import Progress, Status, Timing, require, require_count
from vi_recipes.latent import (
    MAX_DENSE,
    RULES,
    EStepRule,
    LatentLaw,
    MarginalObjective,
    exact_posterior,
    free_energy_of,
    judge_estimate,
    law_from_vector,
    marginal_of,
    starting_point,
    vector_from_law,
)
from vi_recipes.methods.base import Method, Result
from vi_recipes.methods.likelihood import check_options, no_likelihood, result, why_not
from vi_recipes.model import Arrays, Target

Rule = Literal["auto", EStepRule]

FAR = 40.0
"""A coordinate of a bounded site that has moved this far has run to an edge of its support: its
scale is that of logarithms or logits. The others may go anywhere."""

STOP = 1e-6
"""Newton decrement at which the ascent stops; the judge is content with less."""


class _Run(NamedTuple):
    """An ascent from one starting point."""

    path: list[float]
    """The objective by step."""
    theta: Float[np.ndarray, " G"]
    """Where it ended."""
    modes: Float[np.ndarray, "members d"]
    """The members' modes there."""
    why: str
    """Why it ended."""


@dataclass(frozen=True, kw_only=True)
class MarginalMLE(Method):
    """The maximum of log p(y | theta), the latent variables integrated out, with standard errors.

    What EM climbs member by member, climbed directly in theta. Without latent variables it is plain
    maximum likelihood.

    Parameters
    ----------
    latent
        Sites to integrate out; see :func:`vi_recipes.latent.members.split_target`. By default those
        the model declares, else its discrete sites, else the sites in plates whose members do not
        touch one another given the rest.
    e_step
        How: ``"enumerate"`` (discrete), ``"forward_backward"`` (discrete states of a ``scan``, each
        depending on the one before), ``"gaussian"`` (exact where the log joint is quadratic in
        them), ``"quadrature"`` (adaptive Gauss-Hermite, one or two scalars a member), or
        ``"auto"``.
    num_nodes
        Nodes a dimension of quadrature; 1 is Laplace's approximation, as ``nAGQ=1`` in lme4.
    objective
        ``"mle"`` leaves the priors of theta out; ``"map"`` adds log p(theta), over the parameters
        as the model names them.
    ascent
        ``"theta"`` climbs log p(y | theta); ``"joint"`` climbs the free energy F(q, theta) in q and
        theta together, by L-BFGS: another way up to the same maximum, for E-steps that are exact.
    solver
        Of ``"theta"``: ``"newton"`` (trust region, up to 300 parameters), ``"l-bfgs"``, or
        ``"auto"``.
    max_steps
        Iterations allowed in each run.
    num_starts
        Starting points in all; those after the first are scattered.

    References
    ----------
    Pinheiro, J. C. and Bates, D. M. (1995). Approximations to the log-likelihood function in the
    nonlinear mixed-effects model. JCGS 4(1). doi:10.1080/10618600.1995.10474663
    """

    key: ClassVar[str] = "marginal_mle"

    summary: ClassVar[str] = (
        "maximises the likelihood with latent variables integrated out; standard errors from the "
        "observed information"
    )

    rules: ClassVar[Mapping[str, str]] = RULES

    integrates: ClassVar[bool] = True

    latent: tuple[str, ...] | None = None
    e_step: Rule = "auto"
    num_nodes: int = 9
    objective: Literal["mle", "map"] = "mle"
    ascent: Literal["theta", "joint"] = "theta"
    solver: Literal["auto", "newton", "l-bfgs"] = "auto"
    max_steps: int = 500
    num_starts: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self)
        require(self.ascent in ("theta", "joint"), "ascent", self.ascent, "'theta' or 'joint'")
        rules = get_args(Rule)
        require(self.e_step in rules, "e_step", self.e_step, f"one of {', '.join(rules)}")
        solvers = ("auto", "newton", "l-bfgs")
        require(self.solver in solvers, "solver", self.solver, f"one of {', '.join(solvers)}")
        require_count("num_starts", self.num_starts)

    @property
    @override
    def where_it_jumps(self) -> Status | None:
        return Status.NOT_APPLICABLE

    @override
    def applies(self, target: Target) -> str | None:
        exact = self.ascent == "joint"
        return why_not(target, self.latent, self.e_step, self.num_nodes, exact=exact)

    @override
    def _fit(self, target: Target, key: jax.Array, timing: Timing, progress: Progress) -> Result:
        with timing.running_compiled():
            marginal = marginal_of(
                target, self.latent, self.e_step, self.num_nodes, self.objective == "map", timing
            )
        runs: list[_Run] = []
        for number in range(self.num_starts):
            with timing.running_compiled():
                flat = starting_point(target, jax.random.fold_in(key, number), number)
                border, local = flat[marginal.split.border], flat[marginal.split.local]
                objective = MarginalObjective(marginal, timing, local)
                ascend = self._ascend if self.ascent == "theta" else self._ascend_jointly
                runs.append(ascend(objective, border, progress))
        best = max(runs, key=lambda run: run.path[-1])
        with timing.running_compiled():
            objective = MarginalObjective(marginal, timing, best.modes)
            estimate = judge_estimate(objective, best.theta)
        length = max(len(run.path) for run in runs)
        rows = np.array([run.path + [run.path[-1]] * (length - len(run.path)) for run in runs])
        how = f"{len(best.path)} steps ({best.why})"
        return result(estimate, marginal, rows, how, free_energy=self.ascent == "joint")

    def _ascend(
        self, objective: MarginalObjective, start: Float[np.ndarray, " G"], progress: Progress
    ) -> _Run:
        """Return an ascent of log p(y | theta)."""
        path = [-objective.value_and_grad(start)[0]]
        if not np.isfinite(path[0]):
            raise no_likelihood(objective)

        def callback(theta: np.ndarray) -> bool:
            path.append(-objective.value_and_grad(theta)[0])
            progress(len(path), self.max_steps, f"log-likelihood {path[-1]:.6g}")
            return bool(np.abs(theta - start)[bounded].max(initial=0.0) > FAR)

        bounded = objective.bounded
        newton = self.solver == "newton" or (self.solver == "auto" and start.size <= MAX_DENSE)
        with np.errstate(all="ignore"):
            if newton:
                theta, why = trust_region_newton(
                    objective.value_and_grad,
                    objective.curvature,
                    start,
                    max_steps=self.max_steps,
                    tolerance=STOP,
                    callback=callback,
                )
            else:
                unit = objective.units
                theta, why = self._quasi_newton(objective.value_and_grad, start, unit, callback)
        return _Run(path, theta, objective.modes, why)

    def _ascend_jointly(
        self, objective: MarginalObjective, start: Float[np.ndarray, " G"], progress: Progress
    ) -> _Run:
        """Return an ascent of F(q, theta), in both."""
        marginal = objective.marginal

        def posterior(theta: jax.Array, z: jax.Array, arrays: Arrays) -> LatentLaw:
            return exact_posterior(marginal, theta, z, arrays)

        def slope(both: jax.Array, arrays: Arrays) -> Any:
            def value(both: jax.Array) -> jax.Array:
                theta, eta = jnp.split(both, [start.size])
                return -free_energy_of(marginal, theta, law_from_vector(marginal, eta), arrays)

            return jax.value_and_grad(value)(both)

        def evaluate(both: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = objective.call("joint slope", slope, both)
            objective.timing.gradient_evaluations += 1
            return float(value), np.asarray(gradient)

        q = objective.call("posterior", posterior, start, objective.modes)
        q = type(q)(*(np.asarray(v) for v in q))
        both = np.concatenate([start, vector_from_law(marginal, q)])
        path = [-evaluate(both)[0]]
        if not np.isfinite(path[0]):
            raise no_likelihood(objective)

        def callback(both: np.ndarray) -> None:
            path.append(-evaluate(both)[0])
            progress(len(path), self.max_steps, f"free energy {path[-1]:.6g}")

        with np.errstate(all="ignore"):
            unit = np.ones(both.size)
            unit[: start.size] = objective.units
            both, why = self._quasi_newton(evaluate, both, unit, callback)
        return _Run(path, both[: start.size], objective.modes, why)

    def _quasi_newton(
        self,
        value_and_grad: Callable[[np.ndarray], tuple[float, np.ndarray]],
        start: np.ndarray,
        unit: np.ndarray,
        callback: Callable[[np.ndarray], Any],
    ) -> tuple[np.ndarray, str]:
        """Return where L-BFGS ends, and why; it goes by coordinates in their units."""

        def guarded(x: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = value_and_grad(unit * x)
            finite = np.isfinite(value) and np.isfinite(gradient).all()
            return (value, unit * gradient) if finite else (np.inf, np.zeros_like(x))

        def watch(x: np.ndarray) -> None:
            if callback(unit * x):
                raise StopIteration

        outcome = minimize(
            guarded,
            start / unit,
            jac=True,
            method="L-BFGS-B",
            callback=watch,
            options={"maxiter": self.max_steps, "maxcor": 20, "ftol": 0.0, "gtol": 1e-7},
        )
        return unit * np.asarray(outcome.x), str(outcome.message)
