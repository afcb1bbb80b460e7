"""A run of SVI: chunk after chunk, until the rule or the steps end it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

from vi_recipes.methods.guides.family import Scales
from vi_recipes.methods.minibatch.feed import Feed
from vi_recipes.methods.svi.chunks import Chunk, Run, Taken, by_epoch, series
from vi_recipes.methods.svi.stopping import (
    MIN_CHUNKS,
    MIN_STEPS,
    SLACK,
    judge_iterates,
    judge_series,
)

FALL = 4.0
"""By how much the step size falls at a time.

What constant steps cost at stationarity is in proportion to their size, to first order: Dieuleveut,
A., Durmus, A. and Bach, F. (2020). Bridging the gap between constant step size stochastic gradient
descent and Markov chains. Annals of Statistics 48(3). doi:10.1214/19-AOS1850
"""

MIN_FALLS, MAX_FALLS = 2, 3
"""How often it falls: at least, where the iterates come to rest, and at most. On a Gaussian sds are
5 % too large at 0.01, which the objective hardly shows."""

NEARLY = 1.5
"""R-hat below which the step size falls after half of the steps: iterates that still travel would
travel the slower."""


@dataclass(frozen=True)
class Runner:
    """How runs are taken on.

    Parameters
    ----------
    advance
        The compiled chunk.
    feed
        What the steps see of the data.
    constrain
        From unconstrained to constrained parameters of the guide.
    scales
        The guide's locations and their scales; ``None`` where it has none.
    num_steps
        Steps of a run, at most.
    tolerance
        Of the rule; ``None`` takes all steps.
    falling
        Whether the step size may fall: it is the ``learning_rate`` in the optimiser's state.
    """

    advance: Callable[..., Taken]
    feed: Feed
    constrain: Callable[..., Any]
    scales: Scales | None
    num_steps: int
    tolerance: float | None
    falling: bool

    def goes_on(self, run: Run) -> bool:
        """Whether there is more to do."""
        return run.steps < self.num_steps and not run.stopped and run.diverged is None

    def step(self, run: Run) -> int:
        """Take a chunk and ask the rule; return the steps taken.

        Where the objective ceases to be finite the run is marked as diverged, its state that of the
        chunk before.
        """
        n = self._steps_from(run.steps)
        taken = run.ahead or self._begin(run.state, n)
        self.feed.next()  # what the chunk has taken
        run.ahead = None
        if (more := self._steps_from(run.steps + n)) and not self._asks(run, n):
            # the device goes on while this chunk is read
            run.ahead = self._begin(taken.state, more)
        elbo = -np.asarray(taken.losses, float)[:n]
        if np.isfinite(elbo).all():
            mean, variance = jax.tree.map(np.asarray, (taken.mean, taken.variance))
            run.add(Chunk(taken.state, elbo, mean, variance))
            self.look(run)
        else:
            run.diverged, run.ahead = elbo, None
        return n

    def _steps_from(self, done: int) -> int:
        """Return the steps of the chunk that comes after ``done`` steps."""
        return min(self.feed.size, self.num_steps - done)

    def _begin(self, state: Any, n: int) -> Taken:
        """Set off a chunk of ``n`` steps; what is returned may be on its way still."""
        return self.advance(state, np.int32(n), self.feed.peek())

    def _asks(self, run: Run, more: int = 0) -> bool:
        """Whether the rule is asked, once ``more`` steps have made another chunk of the level.

        That is every time a tenth later: asking costs as much as hundreds of steps of a small
        model.
        """
        if self.tolerance is None or not self.scales:
            return False
        lengths = [len(chunk.elbo) for chunk in run.levels[-1]] + [more] * (more > 0)
        enough = sum(lengths) >= MIN_STEPS and len(lengths) >= MIN_CHUNKS
        return enough and run.steps + more >= 1.1 * run.looked

    def look(self, run: Run) -> None:
        """Ask the rule, where the guide has locations and there are steps enough."""
        steps = run.steps
        last = steps >= self.num_steps
        level = run.level if last else run.levels[-1]
        due = self._asks(run)
        if not self.scales or len(level) < 2 or not (last or due):
            return
        means, variances = by_epoch(level, self.feed.chunks_per_epoch)
        fallen = FALL ** (len(run.levels) - 1)
        iterates = judge_iterates(self.scales, means, variances, self.constrain).after(fallen)
        if due and self.tolerance is not None and judge_series(series(level)).may_be_flat:
            late = len(run.levels) == 1 and 2 * steps >= self.num_steps
            # large steps scatter the iterates: the error of their average is no matter yet
            still = iterates.within(np.inf) or (late and iterates.r_hat < NEARLY)
            if still and self._falls(run):
                run.chunks[-1] = _slower(run.chunks[-1])
            else:
                run.stopped = iterates.within(self.tolerance)
        run.iterates, run.looked = iterates, steps

    def _falls(self, run: Run) -> bool:
        """Whether a smaller step size is due: it may fall, has the steps, and matters."""
        levels = run.levels
        if not self.falling or self.num_steps - run.steps < MIN_STEPS or len(levels) > MAX_FALLS:
            return False
        if len(levels) <= MIN_FALLS:
            return True
        before, after = (series(level[len(level) // 2 :]) for level in levels[-2:])
        # what constant steps cost is in proportion to their size, so this much is still lost
        return bool((after.mean() - before.mean()) / (FALL - 1) > SLACK)


def last_step_size(run: Run) -> float:
    """Return the step size that a run came to."""
    return float(optax.tree.get(run.state.optim_state, "learning_rate"))


def _slower(chunk: Chunk) -> Chunk:
    """Return a chunk that closes its level, the step size of its state smaller."""
    size = optax.tree.get(chunk.state.optim_state, "learning_rate") / FALL
    optim_state = optax.tree.set(chunk.state.optim_state, learning_rate=size)
    return chunk._replace(state=chunk.state._replace(optim_state=optim_state), closes=True)
