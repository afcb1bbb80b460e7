"""Expectation-maximisation for any model, by the model's closed forms or by weighted nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, override

import jax
import jax.numpy as jnp
import numpy as np

from vi_recipes.ascent import check_monotone, stacked_starts
from vi_recipes.em_steps import State, Step, general_step, squarem
from vi_recipes.estimate import (
    CLOSE,
    MAX_DENSE,
    Estimate,
    MarginalObjective,
    decrement,
    judge,
)
from vi_recipes.marginal import marginal_of, starting_point
from vi_recipes.methods.base import Method, Result, require
from vi_recipes.methods.marginal_mle import (
    check_options,
    no_likelihood,
    result,
    why_not,
)
from vi_recipes.model import EMSteps
from vi_recipes.posterior import PointPosterior
from vi_recipes.progress import Progress
from vi_recipes.splitting import split
from vi_recipes.status import MethodFailure, Status
from vi_recipes.target import Target
from vi_recipes.timing import Timing

CHUNK = 50
"""Iterations of closed forms in one call of compiled code."""

GENERAL_CHUNK = 10
"""Iterations of the general route in one call of compiled code."""

MAX_ALIKE = 0.05
"""Newton decrement up to which a closed form's end is a maximum of the model's own likelihood."""

RESTARTS = 5


@dataclass(frozen=True, kw_only=True)
class EM(Method):
    """Coordinate ascent on the free energy: E-step over q(z), M-step over theta.

    The E-step is the model's closed form where it supplies one. Else it is made from the NumPyro
    model: enumeration of discrete latent variables, or forward-backward along chains of them;
    Gaussian cubature, exact where the log joint is quadratic in z (which is checked); or adaptive
    Gauss-Hermite quadrature for one or two scalars a member of a plate. The M-step is the model's
    closed form, else Newton's method on Q(theta). All restarts run side by side in one compiled
    loop; the best is kept. The objective must not fall from one iteration to the next; if it does
    the fit has failed.

    Standard errors come from the observed information, the Hessian of the marginal log-likelihood
    by automatic differentiation.

    Parameters
    ----------
    latent
        Sites that are latent variables; see :func:`vi_recipes.splitting.split`. By default those
        the model declares, else its discrete sites, else the sites in plates whose members do not
        touch one another given the rest.
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
    num_restarts
        Starts, each with its own seed: the model's own ``start`` (k-means for mixtures) or
        ``init``, else prior medians and points scattered around 0 on the unconstrained scale. By
        default 5 where a likelihood has several maxima (closed forms and discrete latent
        variables), else 1.
    accelerate
        Extrapolate by SQUAREM; what loses ground is not kept. An iteration then is three.

    References
    ----------
    Dempster, A. P., Laird, N. M. and Rubin, D. B. (1977). JRSS B 39(1), 1-38.
    Neal, R. M. and Hinton, G. E. (1998). A view of the EM algorithm that justifies incremental,
    sparse, and other variants. doi:10.1007/978-94-011-5014-9_12
    """

    summary: ClassVar[str] = (
        "maximises the likelihood with latent variables summed or integrated out: enumeration, "
        "Gaussian or quadrature E-steps; standard errors from the observed information"
    )

    latent: tuple[str, ...] | None = None
    e_step: Literal[
        "auto", "closed_form", "enumerate", "forward_backward", "gaussian", "quadrature"
    ] = "auto"
    num_nodes: int = 9
    objective: Literal["mle", "map"] = "mle"
    max_steps: int = 2_000
    tolerance: float = 1e-10
    num_restarts: int | None = None
    accelerate: bool = False

    def __post_init__(self) -> None:
        check_options(self)
        rules = (
            "auto", "closed_form", "enumerate", "forward_backward", "gaussian", "quadrature"
        )  # fmt: skip
        require(self.e_step in rules, "e_step", self.e_step, f"one of {', '.join(rules)}")
        require(self.tolerance > 0, "tolerance", self.tolerance, "a positive number")
        require(
            self.num_restarts is None or self.num_restarts > 0,
            "num_restarts",
            self.num_restarts,
            "a positive integer, or None",
        )

    @property
    @override
    def name(self) -> str:
        return "em"

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
            return None
        if self.e_step == "closed_form":
            return (
                f"model '{target.name}' supplies no closed-form EM steps (Model(em=EMSteps(...)))"
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
        if found.border.size > MAX_DENSE:
            return (
                f"the M-step would need a dense Hessian of {found.border.size} parameters (at most "
                f"{MAX_DENSE}): {', '.join(found.parameters)}. MarginalMLE climbs the same "
                "likelihood by L-BFGS"
            )
        if not found.border.size:
            return (
                f"every latent site of model '{target.name}' is integrated out "
                f"({', '.join(found.latents)}): there is no parameter left to estimate. Name fewer "
                "(latent=...), or use Laplace or NUTS"
            )
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
            count = self.num_restarts or (RESTARTS if found.kind == "discrete" else 1)
            flat = np.stack(
                [starting_point(target, k, r) for r, k in enumerate(jax.random.split(key, count))]
            )
            state = (jnp.asarray(flat[:, found.border]), jnp.asarray(flat[:, found.local]))
            objective = MarginalObjective(marginal, timing, flat[0, found.local])
            step = general_step(marginal, forward=objective.forward)
            compiler = Cached(target, timing, ("em", marginal.key))

            def best_is_close(state: State, path: np.ndarray) -> bool:
                best = int(np.argmax(np.where(np.isfinite(path[-1]), path[-1], -np.inf)))
                objective.modes = np.asarray(state[1][best])
                return decrement(objective, np.asarray(state[0][best])) <= CLOSE

            state, path, _ = self._iterate(
                step, state, count, compiler, target, GENERAL_CHUNK, progress, best_is_close
            )
            alive = [r for r in range(count) if np.isfinite(path[-1, r])]
            if not alive:
                raise no_likelihood(objective)
            advice = (
                "raise num_nodes"
                if marginal.rule == "quadrature"
                else "the model's density is not what its sites say it is: report this"
            )
            check_monotone(path, alive, "the objective", "EM", advice)
            best = max(alive, key=lambda r: path[-1, r])
            objective.modes = np.asarray(state[1][best])
            estimate = judge(objective, np.asarray(state[0][best]))
        reached = int((path[-1] > path[-1, best] - 1e-3).sum())
        how = f"{self._count(path[:, best])} iterations, reached by {reached} of {count} starts"
        made = result(estimate, marginal, path.T, how)
        made.diagnostics = {
            **made.diagnostics,
            "iterations": float(self._count(path[:, best])),
            "restarts": float(count),
        }
        return made

    # -- closed forms ------------------------------------------------------------------------------

    def _fit_closed(
        self,
        target: Target,
        steps: EMSteps,
        key: jax.Array,
        timing: Timing,
        progress: Progress,
    ) -> Result:
        count = self.num_restarts or RESTARTS
        arrays = target.arrays()
        with timing.running():
            theta = stacked_starts(steps.start, target, key, count)
        compiler = Cached(target, timing, ("closed form", self.objective))
        with timing.running_compiled():
            theta, path, done = self._iterate(
                self._closed_step(steps, target),
                theta,
                count,
                compiler,
                target,
                CHUNK,
                progress,
                None,
            )
        alive = self._alive(target, steps, theta, path[-1])
        advice = "the model's e_step and m_step do not belong together: check them"
        check_monotone(path, alive, "the objective", "EM", advice)
        best = max(alive, key=lambda r: path[-1, r])
        chosen = jax.tree.map(lambda v: v[best], theta)
        with timing.running():
            log_likelihood = float(steps.e_step(chosen, **target.keywords(arrays))[1])
            point = steps.complete(chosen, **target.data) if steps.complete else chosen
        point = _on_sites(target, point)
        with timing.running_compiled():
            estimate = self._standard_errors(target, point, log_likelihood, timing)
        converged = bool(done[best])
        name = "log_likelihood" if self.objective == "mle" else "log_posterior"
        ok = converged and estimate.status in (Status.OK, Status.UNCONVERGED)
        return Result(
            estimate.posterior,
            Status.OK if ok else Status.UNCONVERGED if not converged else estimate.status,
            f"closed-form steps; {self._count(path[:, best])} iterations, "
            f"{name.replace('_', ' ').replace('log likelihood', 'log-likelihood')} "
            f"{path[-1, best]:.5f}, reached by "
            f"{int((path[-1] > path[-1, best] - 1e-3).sum())} of {count} starts; "
            f"{estimate.message}",
            estimate.advice if converged else "raise max_steps",
            trace={name: path.T, f"{name}_step": np.arange(1, len(path) + 1)},
            diagnostics={
                "log_likelihood": log_likelihood,
                "newton_decrement": estimate.decrement,
                "iterations": float(self._count(path[:, best])),
                "restarts": float(count),
            },
            log_likelihood=log_likelihood,
            latents=estimate.latents,
        )

    def _standard_errors(
        self, target: Target, point: dict[str, np.ndarray], log_likelihood: float, timing: Timing
    ) -> Estimate:
        """Return the estimate with the model's own observed information, where it has one."""

        def bare(reason: str) -> Estimate:
            message = f"no standard errors: {reason}"
            posterior = PointPosterior(point)
            return Estimate(posterior, Status.OK, message, "", np.nan, log_likelihood, {})

        try:
            marginal = marginal_of(
                target, None, "auto", self.num_nodes, self.objective == "map", timing
            )
        except MethodFailure as failure:
            return bare(failure.message)
        names = marginal.split.parameters
        unknown = [n for n in names if not np.isfinite(point[n]).all()]
        if unknown:
            return bare(f"EM says nothing of {', '.join(unknown)}")
        flat = starting_point(target, jax.random.key(0), 0)
        given = target.constrain(flat) | {n: point[n] for n in names}
        try:
            theta = target.unconstrain(given)
        except ValueError as error:
            return bare(f"the estimate is at an edge of a support ({error})")
        objective = MarginalObjective(marginal, timing, flat[marginal.split.local])
        if theta.size - marginal.split.local.size > MAX_DENSE:
            return bare(f"more than {MAX_DENSE} parameters")
        theta = theta[marginal.split.border]
        away = decrement(objective, theta)
        if away > MAX_ALIKE:
            return bare(
                "where the closed form ends the model's own likelihood is no maximum with a "
                f"regular information matrix (Newton decrement {away:.2g})"
            )
        return judge(objective, theta)

    def _closed_step(self, steps: EMSteps, target: Target) -> Step:
        """Return one iteration of the model's own steps on the constrained parameters."""

        def step(theta: State, arrays: Any) -> tuple[State, jax.Array]:
            data = target.keywords(arrays)
            stats, value = steps.e_step(theta, **data)
            if self.objective == "map":
                assert steps.log_prior is not None
                value = value + steps.log_prior(theta, **data)
            return steps.m_step(stats, self.objective, **data), value

        return step

    # -- the loop ----------------------------------------------------------------------------------

    def _iterate(
        self,
        step: Step,
        state: State,
        count: int,
        compiler: Cached,
        target: Target,
        length: int,
        progress: Progress,
        is_close: Any,
    ) -> tuple[State, np.ndarray, np.ndarray]:
        """Return the last states, the objective (iterations, starts), and which have converged."""
        once = squarem(step) if self.accelerate else step

        def chunk(state: State, arrays: Any) -> tuple[State, jax.Array]:
            many = jax.vmap(once, in_axes=(0, None)) if count > 1 else _alone(once)
            return jax.lax.scan(lambda s, _: many(s, arrays), state, None, length=length)

        arrays = target.arrays()
        run = compiler(("accelerated" if self.accelerate else "plain", count), chunk, state, arrays)
        history: list[np.ndarray] = []
        done = np.zeros(count, bool)
        while len(history) * length < self.max_steps:
            state, values = run(state, arrays)
            history.append(np.asarray(values))
            path = np.concatenate(history)
            done = self._converged(path)
            progress(len(path), self.max_steps, f"log-likelihood {path[-1].max():.6f}")
            if done.all() and (
                is_close is None or not np.isfinite(path[-1]).any() or is_close(state, path)
                or self._still(path)
            ):  # fmt: skip
                break
        return state, np.concatenate(history), done

    def _converged(self, path: np.ndarray) -> np.ndarray:
        """Return which starts rise no more, or have no finite objective any more."""
        with np.errstate(invalid="ignore"):
            rise = path[-1] - path[-2]
        still = np.abs(rise) <= self.tolerance * np.maximum(1.0, np.abs(path[-1]))
        return np.asarray(still | ~np.isfinite(path[-1]))

    def _still(self, path: np.ndarray) -> bool:
        """Whether ten iterations have gained nothing beyond rounding."""
        gained = path[-1] - path[-min(10, len(path))]
        return bool((np.nan_to_num(gained) <= 1e-13 * np.abs(np.nan_to_num(path[-1]))).all())

    def _count(self, path: np.ndarray) -> int:
        """Return the iteration from which the objective no longer rises."""
        flat = np.diff(path) <= self.tolerance * np.maximum(1.0, np.abs(path[1:]))
        return int(np.argmax(flat)) + 1 if flat.any() else path.size

    def _alive(self, target: Target, steps: EMSteps, theta: Any, final: np.ndarray) -> list[int]:
        """Return the starts that have not collapsed; fail if there is none."""
        collapsed: dict[int, str] = {}
        count = len(final)
        for restart in range(count):
            values = jax.tree.map(lambda v, r=restart: v[r], theta)
            if not all(np.isfinite(v).all() for v in jax.tree.leaves(values)):
                collapsed[restart] = "NaN or infinite parameters"
            elif steps.collapse is not None:
                for name, (measure, floor) in steps.collapse(values, **target.data).items():
                    smallest = float(np.min(measure))
                    if not smallest > floor:
                        collapsed[restart] = f"{name} {smallest:.3g} (floor {floor:.3g})"
        alive = [r for r in range(count) if r not in collapsed and np.isfinite(final[r])]
        if not alive:
            raise MethodFailure(
                Status.DEGENERATE,
                f"a component collapsed in every one of {count} starts: "
                f"{next(iter(collapsed.values()), 'the objective is not finite')}",
                "use objective='map', fewer components, or a tied covariance",
            )
        return alive


class Cached:
    """Compiles once for a target; the time is charged to the fit that asked first."""

    def __init__(self, target: Target, timing: Timing, key: tuple[Any, ...]) -> None:
        self.target, self.timing, self.key = target, timing, key

    def __call__(self, key: tuple[Any, ...], function: Any, state: State, arrays: Any) -> Any:
        """Return ``function`` compiled for its arguments."""
        compiled = self.target.compiled
        full = (*self.key, *key)
        if full not in compiled:
            compiled[full] = self.timing.compile(function, state, arrays)
        return compiled[full]


def _alone(step: Step) -> Step:
    """Return ``step`` for states with a leading axis of one: no vectorised branches."""

    def one(state: State, arrays: Any) -> tuple[State, jax.Array]:
        new, value = step(jax.tree.map(lambda v: v[0], state), arrays)
        return jax.tree.map(lambda v: v[None], new), value[None]

    return one


def _on_sites(target: Target, values: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the values of the target's reported sites; NaN for sites EM says nothing of."""
    point = {}
    for site in target.quantities:
        value = np.asarray(values.get(site.name, np.full(site.shape, np.nan)), float)
        point[site.name] = value.reshape(site.shape)
    return point
