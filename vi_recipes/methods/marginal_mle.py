"""Maximum marginal likelihood: latent variables integrated out, parameters by Newton's method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal, get_args, override

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.optimize import minimize

from vi_recipes.core import (
    Progress,
    Status,
    Timing,
    fold_key,
    from_starts,
    require,
)
from vi_recipes.latent import (
    MAX_DENSE,
    RULES,
    STOP,
    Ended,
    EStepRule,
    Estimate,
    LatentLaw,
    Marginal,
    MarginalObjective,
    NumNodes,
    climb,
    exact_posterior,
    free_energy_of,
    judge_best,
    law_from_vector,
    marginal_of,
    num_starts_of,
    reached_by,
    starting_point,
    vector_from_law,
)
from vi_recipes.methods.base import Method, Result
from vi_recipes.methods.coupled_likelihood import (
    STOP_COUPLED,
    CoupledObjective,
    coupled_of,
    is_coupled,
)
from vi_recipes.methods.laplace_error import laplace_error
from vi_recipes.methods.likelihood import (
    ascended,
    check_options,
    no_likelihood,
    result,
    why_not,
    with_more_nodes,
)
from vi_recipes.model import Arrays, Target

IntegralRule = Literal["auto", EStepRule]

FLAT = 0.02
"""Nats that two steps of L-BFGS gain below which Newton's method goes on, where its Hessians are
differences."""

FAR = 40.0
"""A coordinate of a bounded site that has moved this far has run to an edge of its support: its
scale is that of logarithms or logits. The others may go anywhere."""


@dataclass(frozen=True, kw_only=True)
class _Run(Ended):
    """An ascent from one starting point."""

    path: list[float]
    """The objective by step."""
    why: str
    """Why it ended."""
    objective: MarginalObjective
    """What was climbed."""

    @classmethod
    def of(
        cls,
        objective: MarginalObjective,
        theta: Float[np.ndarray, " G"],
        path: list[float],
        why: str,
    ) -> _Run:
        """Return the end at theta, where the objective was looked at last."""
        return cls(
            value=path[-1],
            theta=theta,
            modes=objective.modes,
            path=path,
            why=why,
            objective=objective,
        )


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
        them), ``"quadrature"`` (adaptive Gauss-Hermite, one to three scalars a member; Laplace's
        approximation where more are coupled), or ``"auto"``.
    num_nodes
        Nodes a dimension of quadrature; 1 is Laplace's approximation, as ``nAGQ=1`` in lme4.
        ``"auto"`` begins with 9 and takes more until that moves the estimates by less than 0.1
        standard errors, up to 159 for one scalar a member and 39 for two. What twice as many nodes
        would change is in the message, and beyond 0.1 standard errors the fit has not converged.
        Where latent variables are coupled, as crossed effects, ``"auto"`` is Laplace's
        approximation and what weighed points add to it; what they add is in the message.
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
        Starting points in all; those after the first are scattered, and the best end is kept. By
        default 5 where a likelihood has several maxima (discrete latent variables) and where they
        cost next to nothing, else 1.

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

    rules: ClassVar[Mapping[str, str]] = {
        **RULES,
        "quadrature": (
            f"{RULES['quadrature']}; Laplace's approximation with its error where more than three "
            "scalars are coupled: up to 300, or 20,000 of crossed families"
        ),
    }

    integrates: ClassVar[bool] = True

    latent: tuple[str, ...] | None = None
    e_step: IntegralRule = "auto"
    num_nodes: NumNodes = "auto"
    objective: Literal["mle", "map"] = "mle"
    ascent: Literal["theta", "joint"] = "theta"
    solver: Literal["auto", "newton", "l-bfgs"] = "auto"
    max_steps: int = 500
    num_starts: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_options(self)
        require(self.ascent in ("theta", "joint"), "ascent", self.ascent, "'theta' or 'joint'")
        rules = get_args(IntegralRule)
        require(self.e_step in rules, "e_step", self.e_step, f"one of {', '.join(rules)}")
        solvers = ("auto", "newton", "l-bfgs")
        require(self.solver in solvers, "solver", self.solver, f"one of {', '.join(solvers)}")

    @property
    @override
    def where_it_jumps(self) -> Status | None:
        return Status.NOT_APPLICABLE

    @override
    def applies(self, target: Target) -> str | None:
        exact = self.ascent == "joint"
        return why_not(
            target,
            self.latent,
            self.e_step,
            self.num_nodes,
            objective=self.objective,
            exact=exact,
            coupled=not exact,
        )

    @override
    def _fit(self, target: Target, key: jax.Array, timing: Timing, progress: Progress) -> Result:
        with timing.running_compiled():
            with_prior = self.objective == "map"
            of = marginal_of if self.ascent == "joint" else coupled_of
            choose = partial(
                of, target, self.latent, self.e_step, self.num_nodes, with_prior, timing
            )
            marginal, (runs, objective) = ascended(
                choose, lambda marginal: self._ascended(marginal, key, timing, progress)
            )
            estimate, best = judge_best(objective, runs)
            if isinstance(objective, CoupledObjective):
                marginal = objective.marginal
                estimate, run = self._corrected(objective, estimate, best, progress)
                runs, best = (runs, best) if run is best else ([run], run)
            while more := with_more_nodes(self.num_nodes, marginal, estimate):
                marginal = more
                objective = MarginalObjective(marginal, timing, best.modes)
                runs = [self._ascend(objective, best.theta, progress)]
                estimate, best = judge_best(objective, runs)
        length = max(len(run.path) for run in runs)
        rows = np.array([run.path + [run.path[-1]] * (length - len(run.path)) for run in runs])
        how = f"{len(best.path)} steps ({best.why})"
        if len(runs) > 1:
            how += f", reached by {reached_by(rows.T, runs.index(best))}"
        return result(estimate, marginal, rows, how, free_energy=self.ascent == "joint")

    def _corrected(
        self,
        objective: CoupledObjective,
        estimate: Estimate,
        best: _Run,
        progress: Progress,
    ) -> tuple[Estimate, _Run]:
        """Return the estimate with what Laplace's approximation misses, and the ascent to it."""
        error = laplace_error(objective, best.theta, estimate, progress)
        if error is None:
            return estimate, best
        if self.num_nodes == 1 or error.added is None or error.few:
            return error.told_of(estimate, taken=False), best
        objective.add(error.added)
        run = self._ascend(objective, best.theta, progress)
        objective.look_anew()
        run = replace(run, path=best.path + run.path)
        return error.told_of(judge_best(objective, [run])[0], taken=True), run

    def _ascended(
        self, marginal: Marginal, key: jax.Array, timing: Timing, progress: Progress
    ) -> tuple[tuple[list[_Run], MarginalObjective], MarginalObjective, np.ndarray]:
        """Return the ascents with their objective, and that and theta at the highest end."""
        runs = self._runs(marginal, key, timing, progress)
        highest = max(runs, key=lambda run: np.nan_to_num(run.value, nan=-np.inf))
        return (runs, highest.objective), highest.objective, highest.theta

    def _runs(
        self, marginal: Marginal, key: jax.Array, timing: Timing, progress: Progress
    ) -> list[_Run]:
        """Return the ascents from all starts where the likelihood is finite.

        Raises
        ------
        MethodFailure
            ``DIVERGED`` if there is none.
        """
        split = marginal.split
        ascend = self._ascend if self.ascent == "theta" else self._ascend_jointly

        def from_start(number: int) -> _Run:
            flat = starting_point(split.target, fold_key(key, number), number)
            objective = (
                CoupledObjective(marginal, timing, flat)
                if coupled
                else MarginalObjective(marginal, timing, flat[split.local])
            )
            return ascend(objective, flat[split.border], progress)

        coupled = is_coupled(marginal) and self.ascent == "theta"
        fewest = 1 if coupled else num_starts_of(marginal)
        return from_starts(self.num_starts or fewest, from_start)

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

        def rough(theta: np.ndarray) -> bool:
            return callback(theta) or path[-1] - path[max(len(path) - 3, 0)] < FLAT

        bounded, unit = objective.bounded, objective.units
        newton = self.solver == "newton" or (self.solver == "auto" and start.size <= MAX_DENSE)
        if newton:
            near, tolerance = start, STOP
            if isinstance(objective, CoupledObjective):
                tolerance = STOP_COUPLED
                if objective.added is None:
                    near, _ = self._quasi_newton(objective.value_and_grad, start, unit, rough)
            theta, why = climb(
                objective,
                near,
                max_steps=self.max_steps,
                tolerance=tolerance,
                callback=callback,
            )
        else:
            with np.errstate(all="ignore"):
                theta, why = self._quasi_newton(objective.value_and_grad, start, unit, callback)
        return _Run.of(objective, theta, path, why)

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
        theta = both[: start.size]
        return _Run.of(objective, theta, path, why)

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
