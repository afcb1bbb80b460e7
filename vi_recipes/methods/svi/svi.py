"""Stochastic variational inference: NumPyro's SVI in compiled chunks, with iterate averaging."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, override

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpyro.infer import SVI as Engine

from vi_recipes.core import (
    CALLS_OF_A_SEARCH,
    Progress,
    Status,
    Timing,
    fold_key,
    shapes_of,
    split_key,
)
from vi_recipes.importance import Bound, LogEvidence, khat
from vi_recipes.methods.base import Result
from vi_recipes.methods.guides.coordinates import FittedGuide
from vi_recipes.methods.guides.families import (
    BLOCK_FAMILIES,
    GUIDES,
    is_point,
    location_scales,
    read_guide,
)
from vi_recipes.methods.guides.making import families_in
from vi_recipes.methods.guides.units import guide_units, steps_in_units
from vi_recipes.methods.minibatch.feed import Feed, make_feed
from vi_recipes.methods.minibatch.rows import find_rows
from vi_recipes.methods.svi import outcome
from vi_recipes.methods.svi.applies import why_not
from vi_recipes.methods.svi.checkpoint import Checkpoint, check_checkpoint, checkpoint_of
from vi_recipes.methods.svi.chunks import Run, chunk_size, make_chunk
from vi_recipes.methods.svi.existence import mind_no_value
from vi_recipes.methods.svi.fresh import Fresh
from vi_recipes.methods.svi.objectives import OBJECTIVES
from vi_recipes.methods.svi.options import SVIOptions
from vi_recipes.methods.svi.running import Runner, last_step_size
from vi_recipes.methods.svi.starts import Starts, guide_centre, mode_or_default
from vi_recipes.model import Target


class _Keys(NamedTuple):
    """What seeds the starts, the engine, the fresh draws of the objective, and reading."""

    start: jax.Array
    init: jax.Array
    fresh: jax.Array
    read: jax.Array


@dataclass
class _Session:
    """A fit under way.

    Parameters
    ----------
    target, feed, timing, keys
        What is fitted, what steps take of the data, the clock, and the seeds.
    starts
        First states.
    first
        That of the first run.
    runs
        What has been done, in this fit and before it was interrupted.
    saved, facts
        The checkpoint, if there is one, and what its header says beside the runs.
    runner
        Takes the runs on.
    interrupted
        Whether Ctrl-C has ended the runs.
    """

    target: Target
    feed: Feed
    timing: Timing
    keys: _Keys
    starts: Starts
    first: Any
    runs: list[Run]
    saved: Checkpoint | None
    facts: Mapping[str, Any]
    runner: Runner
    interrupted: bool = False

    @property
    def engine(self) -> Engine:
        """NumPyro's."""
        return self.starts.engine

    def save(self, *, now: bool = False) -> None:
        """Write the checkpoint, if there is one and it is time."""
        if self.saved:
            self.saved.save(self.runs, self.facts, now=now)


@dataclass(frozen=True, kw_only=True)
class SVI(SVIOptions):  # noqa: D101
    __doc__ = SVIOptions.__doc__

    summary: ClassVar[str] = (
        "maximises the ELBO over a guide: scales to anything; as good as its guide and its steps"
    )

    choices: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "Guides": {name: family.about for name, family in GUIDES.items()},
        "Families of blocks, in a mapping of site patterns": {
            name: family.about_block for name, family in BLOCK_FAMILIES.items()
        },
        "Objectives": {name: objective.about for name, objective in OBJECTIVES.items()},
    }

    @override
    def applies(self, target: Target) -> str | None:
        return why_not(self, target) or super().applies(target)

    @override
    def check(self, target: Target) -> None:
        super().check(target)
        check_checkpoint(self, target)

    @override
    def _fit(self, target: Target, key: jax.Array, timing: Timing, progress: Progress) -> Result:
        rows = find_rows(target, self.batch_size, self.plate, self.batches)
        # of the order of the rows, which all data at every step have none of
        seed = int(jax.random.bits(fold_key(key, 1), (), "uint32")) if rows else 0
        with timing.running():
            feed = make_feed(target, rows, chunk_size(self.num_steps), seed)
        with closing(feed):
            session = self._begin(target, feed, key, timing)
            self._take_steps(session, progress)
            return self._answer(session)

    # -- before the first step -------------------------------------------------------------------

    def _optimizer(self) -> optax.GradientTransformation:
        if not self.falling:
            return self.optimizer or optax.adam(self.first_step_size)
        # the step size is then part of the optimiser's state
        fixed = ("b1", "b2", "eps", "eps_root")
        return optax.inject_hyperparams(optax.adam, fixed)(learning_rate=self.first_step_size)

    def _starts(self, target: Target, feed: Feed) -> Starts:
        """Return first states: their code, and the engine's, is kept with the target."""
        view = feed.view

        def engine(guide: Any) -> Engine:
            objective = self.settings.make(self.draws, self.order)
            optimizer = self._optimizer()
            if self.optimizer is None:
                optimizer = steps_in_units(optimizer, lambda: guide_units(guide, target))
            return Engine(view.function, guide, optimizer, objective)

        return target.compiled_once(
            ("starts of SVI", self.step_key, view.key),
            lambda: Starts(self.guide, view.shown, engine, target),
        )

    def _begin(self, target: Target, feed: Feed, key: jax.Array, timing: Timing) -> _Session:
        keys = _Keys(*split_key(key, 4))
        starts = self._starts(target, feed)
        with timing.running() if starts.ready else timing.compiling():
            default = guide_centre(target, keys.start, 0)
            feed.view.verify(default)
            first = starts.state(feed.view.start(default), keys.init)
            saved = checkpoint_of(self, target, key, default, starts.engine, first)
        begun = jax.tree.map(np.asarray, starts.engine.optim.get_params(first.optim_state))
        runs = saved.runs(first, begun) if saved else []
        facts = dict(saved.header) if saved else {}
        if self.init == "map" and not runs:
            start, facts["note"] = mode_or_default(target, keys.start, default, timing)
            with timing.running():
                first = starts.state(feed.view.start(start), keys.init)
        feed.size = int(facts.get("chunk_size", feed.size))
        feed.skip(sum(len(run.chunks) + (run.diverged is not None) for run in runs))
        runner = self._runner(target, feed, starts, first, begun, timing)
        if facts.get("tolerance", self.tolerance) != self.tolerance:
            for run in runs:  # the rule is asked again
                run.stopped, run.looked = False, 0
                runner.look(run)
        facts = {
            "chunk_size": feed.size,
            "note": facts.get("note", ""),
            "tolerance": self.tolerance,
        }
        return _Session(target, feed, timing, keys, starts, first, runs, saved, facts, runner)

    def _runner(
        self,
        target: Target,
        feed: Feed,
        starts: Starts,
        first: Any,
        begun: Any,
        timing: Timing,
    ) -> Runner:
        """Return what takes runs on, with code that is kept with the target.

        ``begun`` are unconstrained parameters, of the form that they all have.
        """
        engine, view, arrays = starts.engine, feed.view, feed.peek()
        scales = location_scales(engine.guide)
        key = self.step_key, view.key
        advance = target.compiled_once(
            ("chunk of SVI", key, feed.size, shapes_of(first, arrays)),
            lambda: timing.compile(
                make_chunk(engine, view, feed.size, scales or {}), first, jnp.int32(1), arrays
            ),
        )
        constrain = target.compiled_once(
            ("constrained parameters of SVI", key, shapes_of(begun)),
            lambda: timing.compile(engine.constrain_fn, begun, calls=CALLS_OF_A_SEARCH),
        )
        return Runner(
            advance,
            feed,
            constrain,
            scales,
            self.num_steps,
            self.tolerance,
            falling=self.falling,
        )

    # -- the steps -------------------------------------------------------------------------------

    def _take_steps(self, session: _Session, progress: Progress) -> None:
        """Take every run on to its end, or to Ctrl-C."""
        title, total = self.settings.title, self.num_starts * self.num_steps
        timing, runner, runs = session.timing, session.runner, session.runs
        try:
            for r in range(self.num_starts):
                if r == len(runs):
                    with timing.running():
                        runs.append(Run(self._restart(session, r) if r else session.first))
                run = runs[r]
                runner.look(run)  # an interrupt may have come just before
                while runner.goes_on(run):
                    with timing.running():
                        taken = runner.step(run)
                        session.save()
                    timing.gradient_evaluations += taken * self.draws
                    if run.diverged is None:
                        done = r * self.num_steps + run.steps
                        progress(done, total, f"{title} {run.chunks[-1].elbo.mean():.6g}")
        except KeyboardInterrupt:
            session.interrupted = True
        with timing.running():
            session.save(now=True)

    def _restart(self, session: _Session, r: int) -> Any:
        """Return the first state of a run besides the first."""
        start = guide_centre(session.target, session.keys.start, r)
        begin_key = fold_key(session.keys.init, r)
        return session.starts.state(session.feed.view.start(start), begin_key)

    # -- the answer ------------------------------------------------------------------------------

    def _answer(self, session: _Session) -> Result:
        """Return the best run's answer, or why there is none."""
        runs, engine, timing, feed = session.runs, session.engine, session.timing, session.feed
        interrupted, saved, title = session.interrupted, session.saved, self.settings.title
        good = [run for run in runs if run.diverged is None and len(run.chunks) > interrupted]
        if interrupted and not good:
            raise KeyboardInterrupt
        if not good:
            return outcome.diverged(runs, self.settings, saved.path if saved else None)
        limit, like = self.elbo_tolerance, good[0].state
        advance, key = session.runner.advance, session.keys.fresh
        with timing.running():
            fresh = Fresh(engine, advance, feed, like, key, self.falling)
            best, reached = outcome.pick(outcome.candidates(good, engine, fresh))
            if not interrupted:
                best = outcome.sharpen(best, fresh, limit)
            plateau = outcome.plateau_of(best, None if interrupted else fresh, limit)
        timing.gradient_evaluations += fresh.count * self.draws
        verdict = outcome.judge_run(best.run, plateau, title, limit, self.tolerance, interrupted)
        message = verdict.message
        message += f"; the answer is {best.which}{outcome.among(runs, best, reached, title)}"
        if note := session.facts["note"]:
            message += f"; {note}"
        if interrupted and saved:
            message += f"; '{saved.path}' holds what was done: fit again to go on"
        result = self._result(best, session)
        status = verdict.status
        if doubts := result.message:
            message += f"; {doubts}"
            status = Status.UNCONVERGED if status is Status.OK else status
        result.status, result.message, result.advice = status, message, verdict.advice
        if not self.settings.takes_alpha:
            return result
        target = session.target
        return mind_no_value(result, self.order, self.draws, best.drawn, target, timing)

    def _result(self, best: outcome.Candidate, session: _Session) -> Result:
        """Return what the best run says of the posterior; the verdict is still to come."""
        target, engine = session.target, session.engine
        guide, quantity = engine.guide, self.settings.quantity
        params = session.runner.constrain(jax.tree.map(jnp.asarray, best.params))
        posterior = read_guide(
            guide,
            fitted := FittedGuide(
                params,
                target,
                session.keys.read,
                best.noise,
                session.timing,
                session.feed.view.sweep,
            ),
        )
        iterates = best.run.iterates
        others: Sequence[Run] = [run for run in session.runs if run is not best.run]
        # with a mass at a point it bounds the density there, not the evidence
        point = is_point(guide) or outcome.draws_points(posterior, target)
        bounds = best.drawn is not None and not point and bool(self.settings.bound)
        # of one draw and all rows each estimate is a log weight, log p - log q
        averaged = any(family.averages for family in families_in(self.guide))
        weights = self.draws == 1 and not averaged and not session.feed.num_rows
        result = Result(
            posterior,
            trace=outcome.make_trace([best.run, *others], self.settings),
            diagnostics={
                quantity: best.value,
                f"{quantity}_se": best.se,
                **(
                    {"khat": khat(best.drawn)}
                    if bounds and weights and np.isfinite(best.value)
                    else {}
                ),
                "num_steps": float(best.run.steps),
                **({"r_hat": iterates.r_hat} if iterates else {}),
                **({"step_size": last_step_size(best.run)} if self.falling else {}),
                **({"starts": float(self.num_starts)} if self.num_starts > 1 else {}),
            },
            log_evidence=LogEvidence(best.value, best.se, Bound.LOWER, self.settings.bound)
            if bounds
            else None,
        )
        result.message = "; ".join(fitted.doubts)
        return result
