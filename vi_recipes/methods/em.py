"""Expectation-maximisation for any model, by the model's closed forms or by weighted nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args, override

import jax
import jax.numpy as jnp
import numpy as np

from vi_recipes.core import Progress, Status, Timing, require
from vi_recipes.latent import (
    MAX_DENSE,
    RULES,
    Ascent,
    Cached,
    ClosedForm,
    Compressed,
    EStepRule,
    Marginal,
    MarginalObjective,
    OwnLikelihood,
    State,
    Step,
    agree,
    best_of,
    check_monotone,
    collapsed,
    compress,
    degenerate,
    general_start,
    general_step,
    is_close,
    join,
    judge_estimate,
    marginal_of,
    reached_by,
    split,
    squarem,
    stacked_starts,
)
from vi_recipes.methods.base import Method, Result
from vi_recipes.methods.marginal_mle import (
    check_options,
    no_likelihood,
    result,
    why_not,
)
from vi_recipes.model import EMSteps, Target

Rule = Literal["auto", "closed_form", EStepRule]

CHUNK = 50
"""Iterations of closed forms in one call of compiled code."""

FEW = 5
"""Passes over blocks, and iterations after them, in one call of compiled code."""

GENERAL_CHUNK = 10
"""Iterations of the general route in one call of compiled code."""

STARTS = 5
"""Starts where a likelihood has several maxima."""

MORE = "raise max_steps, or let MarginalMLE climb the same likelihood by Newton's method"
"""What to do where EM has not got to the maximum."""


@dataclass(frozen=True, kw_only=True)
class EM(Method):
    """Coordinate ascent on the free energy: E-step over q(z), M-step over theta.

    The E-step is the model's closed form where it supplies one. Else it is made from the NumPyro
    model: enumeration of discrete latent variables, or forward-backward along chains of them;
    Gaussian cubature, exact where the log joint is quadratic in z (which is checked); or adaptive
    Gauss-Hermite quadrature for one or two scalars a member of a plate. The M-step is the model's
    closed form, else Newton's method on Q(theta). All starts run side by side in one compiled
    loop; the best is kept. The objective must not fall from one iteration to the next; if it does
    the fit has failed.

    Standard errors come from the observed information, the Hessian of the marginal log-likelihood
    by automatic differentiation.

    Parameters
    ----------
    latent
        Sites that are latent variables; see :func:`vi_recipes.latent.members.split`. By default
        those the model declares, else its discrete sites, else the sites in plates whose members do
        not touch one another given the rest.
    e_step
        ``"closed_form"``, ``"enumerate"``, ``"forward_backward"``, ``"gaussian"``,
        ``"quadrature"``, or ``"auto"``: the first of these that applies.
    num_nodes
        Nodes a dimension of quadrature; 1 is Laplace's approximation.
    objective
        ``"mle"`` maximises log p(y | theta), ``"map"`` adds the log prior over the parameters as
        the model names them.
    max_steps
        Iterations allowed.
    tolerance
        Rise of the objective in one iteration, relative to its size, that counts as none.
    num_starts
        Starting points in all, each with its own seed: those of the model's EM steps (k-means for
        mixtures), else its ``init`` or prior medians, then points scattered around ``init`` or
        around 0 on the unconstrained scale. By default 5 where a likelihood has several maxima
        (closed forms and discrete latent variables), else 1.
    accelerate
        Extrapolate by SQUAREM; what loses ground is not kept. An iteration then is three.
    num_blocks
        Blocks of members whose E-steps take turns (incremental EM), for closed forms that have
        partial E-steps; 1 takes all members at once. A partial step renews q(z) for one block,
        keeps the statistics of the others, and ends with an M-step, so that theta moves
        ``num_blocks`` times in a pass over the data. What must rise at every partial step is the
        free energy, which is checked and in the trace; the log-likelihood, which it bounds from
        below, need not, and is not evaluated. When a pass gains nothing more, iterations of full
        E-steps follow, on which the fit ends as it would without blocks: their log-likelihood
        must not fall, and ``accelerate`` is for them.
    m_step
        How Q(theta) is maximised where the model supplies no closed form: ``"newton"``,
        ``"l-bfgs"``, or ``"auto"``: Newton, but L-BFGS beyond 300 parameters and where a few
        members stand for many thousands (:mod:`vi_recipes.latent.compression`), so that Q costs
        little.

    References
    ----------
    Dempster, A. P., Laird, N. M. and Rubin, D. B. (1977). JRSS B 39(1), 1-38.
    Neal, R. M. and Hinton, G. E. (1998). A view of the EM algorithm that justifies incremental,
    sparse, and other variants. doi:10.1007/978-94-011-5014-9_12
    """

    key: ClassVar[str] = "em"

    summary: ClassVar[str] = (
        "maximises the likelihood with latent variables summed or integrated out: enumeration, "
        "Gaussian or quadrature E-steps; standard errors from the observed information"
    )

    rules: ClassVar[Mapping[str, str]] = {
        "closed_form": (
            "the model supplies its own E-step and M-step, Model(em=EMSteps(...)), and latent is "
            "left as it is"
        ),
        **RULES,
    }

    latent: tuple[str, ...] | None = None
    e_step: Rule = "auto"
    num_nodes: int = 9
    objective: Literal["mle", "map"] = "mle"
    max_steps: int = 2_000
    tolerance: float = 1e-10
    num_starts: int | None = None
    accelerate: bool = False
    num_blocks: int = 1
    m_step: Literal["auto", "newton", "l-bfgs"] = "auto"

    def __post_init__(self) -> None:
        check_options(self)
        rules = get_args(Rule)
        require(self.e_step in rules, "e_step", self.e_step, f"one of {', '.join(rules)}")
        require(self.tolerance > 0, "tolerance", self.tolerance, "a positive number")
        require(
            self.num_starts is None or self.num_starts > 0,
            "num_starts",
            self.num_starts,
            "a positive integer, or None",
        )
        ways = ("auto", "newton", "l-bfgs")
        require(self.m_step in ways, "m_step", self.m_step, f"one of {', '.join(ways)}")
        require(self.num_blocks > 0, "num_blocks", self.num_blocks, "a positive integer")

    def _closed(self, target: Target) -> bool:
        """Whether the model's own steps are used."""
        asked = self.e_step == "closed_form" or (self.e_step == "auto" and self.latent is None)
        return asked and target.complete_model.em is not None

    @override
    def applies(self, target: Target) -> str | None:
        steps = target.complete_model.em
        if self._closed(target):
            assert steps is not None
            if self.objective == "map" and steps.log_prior is None:
                return f"model '{target.name}' supplies no log_prior for objective='map'"
            return self._why_no_blocks(target, steps)
        if self.e_step == "closed_form":
            return (
                f"model '{target.name}' supplies no closed-form EM steps (Model(em=EMSteps(...)))"
            )
        if self.num_blocks > 1:
            return (
                f"num_blocks={self.num_blocks}: partial E-steps keep sufficient statistics, which "
                "only closed forms have. Leave num_blocks at 1"
            )
        if reason := why_not(target, self.latent, self.e_step, self.num_nodes):
            return reason
        with jax.enable_x64(True):
            found = split(target, self.latent)
        if found.kind == "none":
            return (
                f"model '{target.name}' has no latent variables: it declares none "
                "(Model(latents=...)), supplies no closed-form EM steps (Model(em=EMSteps(...))), "
                "and no site in a plate is local. MarginalMLE maximises its likelihood; mean-field "
                "variational inference, Laplace and NUTS give a posterior"
            )
        if not found.border.size:
            return (
                f"every latent site of model '{target.name}' is integrated out "
                f"({', '.join(found.latents)}): there is no parameter left to estimate. Name fewer "
                "(latent=...), or use Laplace or NUTS"
            )
        return None

    def _why_no_blocks(self, target: Target, steps: EMSteps) -> str | None:
        if self.num_blocks == 1:
            return None
        if steps.partial is None:
            return (
                f"num_blocks={self.num_blocks}: model '{target.name}' supplies no E-step for some "
                "of its members (EMSteps(partial=PartialEStep(...))). Leave num_blocks at 1"
            )
        members = steps.partial.num_members(**target.data)
        if self.num_blocks > members:
            return f"num_blocks={self.num_blocks}: there are only {members} members"
        return None

    @override
    def _fit(self, target: Target, key: jax.Array, timing: Timing, progress: Progress) -> Result:
        if self._closed(target):
            steps = target.complete_model.em
            assert steps is not None
            return self._fit_closed(target, steps, key, timing, progress)
        return self._fit_general(target, key, timing, progress)

    # -- any model ---------------------------------------------------------------------------------

    def _fit_general(
        self, target: Target, key: jax.Array, timing: Timing, progress: Progress
    ) -> Result:
        with timing.running_compiled():
            marginal = marginal_of(
                target, self.latent, self.e_step, self.num_nodes, self.objective == "map", timing
            )
            found = marginal.split
            count = self.num_starts or (STARTS if found.kind == "discrete" else 1)
            flat = np.stack(
                [general_start(target, k, r) for r, k in enumerate(jax.random.split(key, count))]
            )
            state = (jnp.asarray(flat[:, found.border]), jnp.asarray(flat[:, found.local]))
            ascent = self._ascent(GENERAL_CHUNK, progress)
            few = compress(marginal, flat[0], timing)
            state, path, objective = self._climb(ascent, few, state, timing)
            if not agree(few, marginal, np.asarray(state[0][best_of(path[-1])]), timing):
                state, path, objective = self._climb(ascent, marginal, state, timing)
            finite = [r for r in range(count) if np.isfinite(path[-1, r])]
            if not finite:
                raise no_likelihood(objective)
            ends = {r: join(objective, np.asarray(state[0][r]), None) for r in finite}
            why = {r: collapsed(target, target.constrain(z)) for r, z in ends.items()}
            alive = [r for r in finite if not why[r]]
            if not alive:
                raise degenerate(count, why[finite[0]])
            advice = (
                "raise num_nodes"
                if marginal.rule == "quadrature"
                else "the model's density is not what its sites say it is: report this"
            )
            check_monotone(path, alive, "the objective", "EM", advice)
            best = max(alive, key=lambda r: path[-1, r])
            objective.modes = np.asarray(state[1][best])
            estimate = judge_estimate(objective, np.asarray(state[0][best]))
        how = f"{ascent.count(path[:, best])} iterations, reached by {reached_by(path, best)}"
        made = result(estimate, marginal, path.T, how)
        made.diagnostics = {
            **made.diagnostics,
            "iterations": float(ascent.count(path[:, best])),
            "starts": float(count),
        }
        return made

    def _climb(
        self, ascent: Ascent, marginal: Marginal, state: State, timing: Timing
    ) -> tuple[State, np.ndarray, MarginalObjective]:
        """Return the last states, the path, and the objective climbed with its modes."""
        target = marginal.split.target
        objective = MarginalObjective(marginal, timing, np.asarray(state[1][0]))
        many = marginal.split.border.size > MAX_DENSE or isinstance(marginal, Compressed)
        newton = self.m_step == "newton" or (self.m_step == "auto" and not many)
        step = general_step(marginal, forward=objective.forward, newton=newton)
        compiler = Cached(target, timing, ("em", marginal.key, newton))

        def best_is_close(state: State, path: np.ndarray) -> bool:
            best = best_of(path[-1])
            objective.modes = np.asarray(state[1][best])
            return is_close(objective, np.asarray(state[0][best]))

        state, path = self._run(ascent, step, state, compiler, best_is_close)
        return state, path, objective

    # -- closed forms ------------------------------------------------------------------------------

    def _fit_closed(
        self,
        target: Target,
        steps: EMSteps,
        key: jax.Array,
        timing: Timing,
        progress: Progress,
    ) -> Result:
        count = self.num_starts or STARTS
        closed = ClosedForm(target, steps, self.objective)
        compiler = Cached(target, timing, ("closed form", self.objective))
        with timing.running():
            theta = stacked_starts(steps.start, target, key, count)
        passes = np.zeros((0, count))
        with timing.running_compiled():
            if self.num_blocks > 1:
                theta, passes = self._pass(closed, theta, compiler, progress)
            own = OwnLikelihood(target, self.num_nodes, self.objective == "map", timing)

            def best_is_close(theta: State, path: np.ndarray) -> bool:
                best = best_of(path[-1])
                return own.is_close(closed.on_sites(jax.tree.map(lambda v: v[best], theta)))

            ascent = self._ascent(FEW if self.num_blocks > 1 else CHUNK, progress)
            theta, path = self._run(
                ascent, closed.full_step, theta, compiler, best_is_close, closed.inputs
            )
        alive = closed.alive(theta, path[-1])
        advice = "the model's e_step and m_step do not belong together: check them"
        check_monotone(passes, alive, "the free energy", "a partial step of EM", advice)
        check_monotone(path, alive, "the objective", "EM", advice)
        best = max(alive, key=lambda r: path[-1, r])
        chosen = jax.tree.map(lambda v: v[best], theta)
        with timing.running():
            log_likelihood = float(steps.e_step(chosen, **closed.data(closed.inputs))[1])
            point = closed.on_sites(chosen)
        with timing.running_compiled():
            estimate = own.judge(point, log_likelihood)
        converged = bool(ascent.converged(path)[best])
        name = "log_likelihood" if self.objective == "mle" else "log_posterior"
        status = estimate.status if converged else Status.UNCONVERGED
        num_passes = len(passes) // self.num_blocks
        before = f"{num_passes} passes over {self.num_blocks} blocks of members, then "
        trace = {name: path.T, f"{name}_step": np.arange(1, len(path) + 1)}
        if num_passes:
            visits = np.arange(1, len(passes) + 1) / self.num_blocks
            trace |= {"free_energy": passes.T, "free_energy_step": visits}
        return Result(
            estimate.posterior,
            status,
            f"closed-form steps; {before if num_passes else ''}"
            f"{ascent.count(path[:, best])} iterations, "
            f"{name.replace('_', ' ').replace('log likelihood', 'log-likelihood')} "
            f"{path[-1, best]:.5f}, reached by {reached_by(path, best)}; {estimate.message}",
            (estimate.advice if converged else "") or ("" if status.ok else MORE),
            trace=trace,
            diagnostics={
                "log_likelihood": log_likelihood,
                "newton_decrement": estimate.decrement,
                "iterations": float(num_passes + ascent.count(path[:, best])),
                "starts": float(count),
            },
            log_likelihood=log_likelihood,
            latents=estimate.latents,
        )

    def _pass(
        self, closed: ClosedForm, theta: State, compiler: Cached, progress: Progress
    ) -> tuple[State, np.ndarray]:
        """Return theta of every start after passes over the blocks, and the free energy."""
        state = closed.first_shares(theta, self.num_blocks, compiler)
        compiler = replace(compiler, key=(*compiler.key, self.num_blocks))
        ascent = self._ascent(FEW, progress)
        (theta, _), passes = ascent.run(closed.partial_pass(self.num_blocks), state, compiler)
        return theta, passes

    # -- the loop ----------------------------------------------------------------------------------

    def _ascent(self, length: int, progress: Progress) -> Ascent:
        return Ascent(
            max_steps=self.max_steps, tolerance=self.tolerance, length=length, progress=progress
        )

    def _run(
        self,
        ascent: Ascent,
        step: Step,
        state: State,
        compiler: Cached,
        is_close: Callable[[State, np.ndarray], bool] | None,
        inputs: Any = None,
    ) -> tuple[State, np.ndarray]:
        """Return the last states and the objective of ``step``, accelerated where asked for."""
        compiler = replace(compiler, key=(*compiler.key, self.accelerate))
        step = squarem(step) if self.accelerate else step
        return ascent.run(step, state, compiler, is_close, inputs)
