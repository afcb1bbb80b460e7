"""Stochastic variational inference: NumPyro's SVI in compiled chunks, with iterate averaging."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, override

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpyro.infer import SVI as Engine
from numpyro.infer import autoguide

from vi_recipes.core import Progress, Status, Timing
from vi_recipes.data import Batches
from vi_recipes.importance import LogEvidence, khat
from vi_recipes.methods.base import Method, Result
from vi_recipes.methods.guides.families import GUIDES, default_step_size
from vi_recipes.methods.guides.posterior import flat_order, read_guide
from vi_recipes.methods.guides.scales import location_scales
from vi_recipes.methods.guides.structured import BLOCK_FAMILIES, STEADY, is_point, split_sites
from vi_recipes.methods.minibatch.feed import Feed, make_feed
from vi_recipes.methods.minibatch.rows import find_rows
from vi_recipes.methods.svi import outcome
from vi_recipes.methods.svi.checkpoint import checkpoint_of
from vi_recipes.methods.svi.chunks import Run, chunk_size, make_chunk
from vi_recipes.methods.svi.climb import Climb, last_step_size
from vi_recipes.methods.svi.launch import Launcher, guide_centre, mode_or_default
from vi_recipes.methods.svi.objectives import DEFAULT_ALPHA, OBJECTIVES, Objective
from vi_recipes.methods.svi.options import check_options, clash, no_minibatches
from vi_recipes.model import Target
from vi_recipes.modes import JointObjective, gaussian_at
from vi_recipes.posterior import Posterior

ObjectiveName = Literal["elbo", "sticking", "score", "renyi", "iwae"]


@dataclass(frozen=True, kw_only=True)
class SVI(Method):
    """Maximise the ELBO over a family of guides by stochastic gradients.

    The reported guide averages every tenth iterate of the second half of the run (Polyak-Ruppert
    averaging), whose batch means also give the standard error that the optimiser's noise leaves
    on every mean; the last iterate stands in where its ELBO is better. The message of a fit says
    whether its rule ended the run, or the steps did. With the ELBO of one particle the diagnostics
    have Pareto's ``khat`` of the guide's draws (:func:`vi_recipes.importance.weights.khat`).

    Averages of constant steps keep a bias in the guide's scales. So Adam's step size falls to a
    quarter once the iterates are stationary, or nearly so after half of the steps, and again while
    that still gains; the average is then of the last step size. On radon, with independent normals,
    the mean of sigma_a is 0.84 reference sds off with steps of 0.01 throughout and 0.55 with steps
    that fall from 0.04, the optimum being 0.34 off in a flat valley of the ELBO.

    Parameters
    ----------
    guide
        A name (``"normal"``, ``"multivariate_normal"``, ``"lowrank_normal"``, ``"delta"``,
        ``"laplace"``, ``"iaf"``, ``"bnaf"``, ``"dais"``); a mapping of site patterns to families,
        as in ``{"beta*": "multivariate_normal", "tau": "gamma"}``; or any NumPyro autoguide class,
        autoguide or guide function. Each pattern makes a block of one of the families
        ``"normal"``, ``"multivariate_normal"``, ``"lowrank_normal"``, ``"conditional_normal"``,
        ``"gamma"``, ``"beta"``, ``"dirichlet"``, ``"delta"`` and ``"amortised"`` (an encoder of
        rows); sites that no pattern matches are independent normals. Blocks are independent of each
        other, but for conditional normals: ``{"u": "conditional_normal"}`` lets the means of the
        local variables u move with the global ones.
    init
        Where guides are centred at first: ``"median"`` at the model's ``init``, else at prior
        medians; ``"map"`` at the mode of the density over the unconstrained scale, on which guides
        live. Where that has no maximum, or has collapsed, the default stands in and the message
        says so. A guide function, or a guide made by the user, begins where it says itself.
    num_starts
        Starting points in all, the first where ``init`` says and the others scattered, each with
        its own seed, one run after the other by the same compiled code. The one with the best
        objective, from fresh draws, is kept; the message says how many came up to it, and the trace
        has a row for each, the best first.
    num_steps
        Gradient steps of a run, at most. A run of them all has converged when the objective's last
        quarter no longer rises on the one before, beyond its Monte Carlo error (itself at most
        1 nat) and 0.05 nats, and the averaged locations are known to ``tolerance``.
    tolerance
        A run stops sooner once its second half is stationary (split R-hat of the guide's
        locations below 1.1, the objective no longer rising) and the Monte Carlo error of every
        averaged location is below this many of the guide's sds. With a falling step size that is
        asked of the last, whose iterates scatter less: R-hat squared less one may then be larger
        by as much as the step size is smaller. ``None`` takes all steps at one step size, as
        guides without locations and scales do: points, flows, functions.
    step_size
        Of Adam: a number, from which it falls, or an optax schedule (step -> step size), which is
        kept to. ``None`` takes 0.04 where it falls, else 0.01, and 0.002 for ``"iaf"``. Ignored
        with ``optimizer``.
    optimizer
        Any optax gradient transformation; Adam by default.
    objective
        ``"elbo"`` (default) maximises E_q[log p - log q] by reparametrised gradients;
        ``"sticking"`` the same without the guide's score, which leaves no noise where the guide is
        exact; ``"score"`` by score-function gradients with a leave-one-out baseline; ``"renyi"``
        Renyi's bound of order ``alpha``; ``"iwae"`` the importance-weighted bound of
        ``num_particles`` draws. Only the ELBO and the importance-weighted bound are reported as
        lower bounds on the log evidence.
    alpha
        Order of Renyi's divergence, 1 excepted; ``None`` takes 0.5. Only with ``"renyi"``.
    num_particles
        Draws for each gradient; ``None`` takes 1 for ``"elbo"`` and ``"sticking"``, 10 for the
        others.
    batch_size
        Rows of the data in each step, of those in ``plate``; ``None`` takes all. Their log
        densities are scaled up, so that gradients are unbiased; every row comes once an epoch.
        Latent sites in the plate need ``"amortised"`` guides.
    plate
        Plate whose rows are drawn; ``None`` takes the one that holds all observed sites.
    batches
        Rows that need not fit in memory, in place of ``batch_size``: see
        :func:`batches_from_parquet`. The target then needs to hold a few rows only, and the
        sizes of what is not drawn.
    dtype
        ``"float64"`` or ``"float32"``.
    checkpoint
        A file to which the runs are written between chunks, every few seconds, and at the end or on
        Ctrl-C. A fit whose file exists goes on from there, to the answer that it would have had
        without the interruption; more steps, or another tolerance, may be asked for. A file of
        another model, data, guide, objective, optimiser, precision, start or seed is refused by a
        ``ValueError``.

    References
    ----------
    Kucukelbir, A. et al. (2017). Automatic differentiation variational inference. JMLR 18(14).
    Li, Y. and Turner, R. E. (2016). Renyi divergence variational inference. NeurIPS 29.
    Burda, Y., Grosse, R. and Salakhutdinov, R. (2016). Importance weighted autoencoders. ICLR.
    Dhaka, A. et al. (2020). Robust, accurate stochastic optimization for variational inference.
    NeurIPS 33.
    """

    summary: ClassVar[str] = (
        "maximises the ELBO over a guide: scales to anything; as good as its guide and its steps"
    )

    choices: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "Guides": {name: family.about for name, family in GUIDES.items()},
        "Families of blocks, in a mapping of site patterns": {
            name: family.about for name, family in BLOCK_FAMILIES.items()
        },
        "Objectives": {name: objective.about for name, objective in OBJECTIVES.items()},
    }

    guide: Any = "normal"
    init: Literal["median", "map"] = "median"
    num_starts: int = 1
    num_steps: int = 20_000
    tolerance: float | None = 0.05
    step_size: float | Callable[[Any], Any] | None = None
    optimizer: optax.GradientTransformation | None = None
    objective: ObjectiveName = "elbo"
    alpha: float | None = None
    num_particles: int | None = None
    batch_size: int | None = None
    plate: str | None = None
    batches: Batches | None = None
    dtype: Literal["float64", "float32"] = "float64"
    checkpoint: str | Path | None = None

    def __post_init__(self) -> None:
        check_options(self)

    @property
    @override
    def name(self) -> str:
        if self.guide == "normal":
            return "svi"
        if isinstance(self.guide, Mapping):
            return "svi_structured"
        label = (
            self.guide
            if isinstance(self.guide, str)
            else getattr(self.guide, "__name__", type(self.guide).__name__)
        )
        return f"svi_{label}"

    @property
    def first_step_size(self) -> float | Callable[[Any], Any]:
        """Step size, from which it falls where it is a number, or its schedule."""
        if self.step_size is not None:
            return self.step_size
        size = default_step_size(self.guide)
        return size if self.tolerance is not None else min(size, STEADY)

    @property
    def _falling(self) -> bool:
        """Whether the step size falls of itself."""
        return self.optimizer is None and not callable(self.first_step_size)

    def _optimizer(self) -> optax.GradientTransformation:
        if not self._falling:
            return self.optimizer or optax.adam(self.first_step_size)
        # the step size is then part of the optimiser's state
        fixed = ("b1", "b2", "eps", "eps_root")
        return optax.inject_hyperparams(optax.adam, fixed)(learning_rate=self.first_step_size)

    @property
    def _objective(self) -> Objective:
        return OBJECTIVES[self.objective]

    @property
    def draws(self) -> int:
        """Draws for each gradient."""
        return self.num_particles or self._objective.num_particles

    @property
    @override
    def dtype_used(self) -> str:
        return self.dtype

    @override
    def applies(self, target: Target) -> str | None:
        flow = self.guide in ("iaf", "bnaf") if isinstance(self.guide, str) else False
        if flow and target.dim < 2:
            return "a flow needs two coordinates or more, and the model has one: use guide='normal'"
        if flow and target.has_scan:
            return (
                "NumPyro's scan cannot be replayed under a guide with neural networks: use "
                "guide='multivariate_normal'"
            )
        if isinstance(self.guide, Mapping):
            split_sites(self.guide, target)  # raises where it cannot
        by_numpyro = isinstance(self.guide, str | Mapping | type | autoguide.AutoGuide)
        if by_numpyro and target.moving_supports:
            return (
                f"the support of {', '.join(target.moving_supports)} depends on other sites, and "
                "NumPyro's automatic guides keep supports fixed: write the site as a transform of "
                "one with a fixed support (x = lo + (hi - lo) * share), or give a guide function"
            )
        return clash(self, target) or no_minibatches(self, target) or super().applies(target)

    def _engine(self, feed: Feed, guide: Any) -> Engine:
        return Engine(
            feed.function,
            guide,
            self._optimizer(),
            self._objective.make(self.draws, DEFAULT_ALPHA if self.alpha is None else self.alpha),
        )

    @override
    def _fit(self, target: Target, key: jax.Array, timing: Timing, progress: Progress) -> Result:
        rows = find_rows(target, self.batch_size, self.plate, self.batches)
        seed = int(jax.random.bits(jax.random.fold_in(key, 1), (), "uint32"))
        with timing.running():
            feed = make_feed(target, rows, chunk_size(self.num_steps), seed)
        with closing(feed):
            return self._run(target, feed, key, timing, progress)

    def _run(
        self, target: Target, feed: Feed, key: jax.Array, timing: Timing, progress: Progress
    ) -> Result:
        start_key, init_key, elbo_key, read_key = jax.random.split(key, 4)
        with timing.compiling():
            default = guide_centre(target, start_key, 0)
            feed.verify(default)
            launcher = Launcher(self.guide, feed.shown, partial(self._engine, feed), target)
            first = launcher.state(feed.start(default), init_key)
            engine = launcher.engine
            saved = checkpoint_of(self, target, key, default, engine, first)
        begun = jax.tree.map(np.asarray, engine.optim.get_params(first.optim_state))
        runs = saved.runs(first, begun) if saved else []
        facts = dict(saved.header) if saved else {}
        if self.init == "map" and not runs:
            start, facts["note"] = mode_or_default(target, start_key, default, timing)
            with timing.compiling():
                first = launcher.state(feed.start(start), init_key)
        scales = location_scales(engine.guide)
        feed.size = int(facts.get("chunk_size", feed.size))
        feed.skip(sum(len(run.chunks) + (run.diverged is not None) for run in runs))
        chunk = make_chunk(engine, feed, scales or {})
        advance = timing.compile(chunk, first, jnp.int32(1), feed.peek())
        constrain = engine.constrain_fn
        if scales:  # the rule asks for it time and again
            constrain = timing.compile(constrain, begun)
        climb = Climb(
            advance,
            feed,
            constrain,
            scales,
            self.num_steps,
            self.tolerance,
            falling=self._falling,
        )
        if facts.get("tolerance", self.tolerance) != self.tolerance:
            for run in runs:  # the rule is asked again
                run.stopped, run.looked = False, 0
                climb.look(run)
        facts = {
            "chunk_size": feed.size,
            "note": facts.get("note", ""),
            "tolerance": self.tolerance,
        }
        title, total = self._objective.title, self.num_starts * self.num_steps
        interrupted = False
        try:
            for r in range(self.num_starts):
                if r == len(runs):
                    with timing.running():
                        if r:
                            start = guide_centre(target, start_key, r)
                            begin_key = jax.random.fold_in(init_key, r)
                            first = launcher.state(feed.start(start), begin_key)
                        runs.append(Run(first))
                run = runs[r]
                climb.look(run)  # an interrupt may have come just before
                while climb.goes_on(run):
                    with timing.running():
                        taken = climb.step(run)
                        if saved:
                            saved.save(runs, facts)
                    timing.gradient_evaluations += taken * self.draws
                    if run.diverged is None:
                        done = r * self.num_steps + run.steps
                        progress(done, total, f"{title} {run.chunks[-1].elbo.mean():.6g}")
        except KeyboardInterrupt:
            interrupted = True
        if saved:
            with timing.running():
                saved.save(runs, facts, now=True)
        good = [run for run in runs if run.diverged is None and len(run.chunks) > interrupted]
        if interrupted and not good:
            raise KeyboardInterrupt
        if not good:
            return outcome.diverged(runs, self._objective, saved.path if saved else None)
        count = 0 if isinstance(engine.guide, outcome.POINTS) else outcome.NUM_ELBO_DRAWS
        with timing.running():
            data = feed.singles(count)
            candidates = [outcome.candidate(run, engine, elbo_key, advance, data) for run in good]
        timing.gradient_evaluations += 2 * count * self.draws * len(good)
        best, reached = outcome.pick(candidates)
        status, message, advice = outcome.judge_run(
            best.run, title, self.tolerance, feed.max_error, interrupted
        )
        message += f"; the answer is {best.which}{outcome.among(runs, best, reached, title)}"
        if facts["note"]:
            message += f"; {facts['note']}"
        if interrupted and saved:
            message += f"; '{saved.path}' holds what was done: fit again to go on"
        return self._result(best, runs, engine, target, timing, read_key, (status, message, advice))

    def _result(
        self,
        best: outcome.Candidate,
        runs: Sequence[Run],
        engine: Engine,
        target: Target,
        timing: Timing,
        key: jax.Array,
        verdict: tuple[Status, str, str],
    ) -> Result:
        guide, quantity = engine.guide, self._objective.quantity
        params = engine.constrain_fn(jax.tree.map(jnp.asarray, best.params))
        posterior: Posterior
        if isinstance(guide, autoguide.AutoLaplaceApproximation):
            # NumPyro's own would zero the covariance of a singular Hessian
            z = np.asarray(params[f"{guide.prefix}_loc"], float)[flat_order(guide, target)]
            with jax.enable_x64(True):
                posterior = gaussian_at(JointObjective(target, timing, jacobian=True), z).posterior
        else:
            with timing.running():
                posterior = read_guide(guide, params, target, key, best.noise)
        iterates = best.run.iterates
        others = [run for run in runs if run is not best.run]
        # with a mass at a point it bounds the density there, not the evidence
        point = is_point(guide) or outcome.draws_points(posterior, target)
        bounds = best.drawn is not None and not point and bool(self._objective.bound)
        # then each draw is its own log weight, log p - log q, of all rows
        all_rows = self.batch_size is None and self.batches is None
        one = self.objective in ("elbo", "sticking") and self.draws == 1 and all_rows
        return Result(
            posterior,
            *verdict,
            trace=outcome.make_trace([best.run, *others], self._objective),
            diagnostics={
                quantity: best.value,
                f"{quantity}_se": best.se,
                **(
                    {"khat": khat(best.drawn)} if bounds and one and np.isfinite(best.value) else {}
                ),
                "num_steps": float(best.run.steps),
                **({"r_hat": iterates.r_hat} if iterates else {}),
                **({"step_size": last_step_size(best.run)} if self._falling else {}),
                **({"starts": float(self.num_starts)} if self.num_starts > 1 else {}),
            },
            log_evidence=LogEvidence(best.value, best.se, self._objective.bound)
            if bounds
            else None,
        )
