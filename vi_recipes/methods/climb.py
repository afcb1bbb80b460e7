"""A run of SVI: chunk after chunk, until the rule or the steps end it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vi_recipes.methods.chunks import Chunk, Run
from vi_recipes.methods.stopping import (
    MIN_CHUNKS,
    MIN_STEPS,
    Scales,
    judge_iterates,
    judge_series,
)


@dataclass(frozen=True)
class Climb:
    """How runs are taken on.

    Parameters
    ----------
    advance
        The compiled chunk.
    arrays
        The data.
    constrain
        From unconstrained to constrained parameters of the guide.
    scales
        The guide's locations and their scales; ``None`` where it has none.
    size
        Steps of a chunk.
    num_steps
        Steps of a run, at most.
    tolerance
        Of the rule; ``None`` takes all steps.
    """

    advance: Callable[..., Any]
    arrays: Any
    constrain: Callable[..., Any]
    scales: Scales | None
    size: int
    num_steps: int
    tolerance: float | None

    def goes_on(self, run: Run) -> bool:
        """Whether there is more to do."""
        return run.steps < self.num_steps and not run.stopped and run.diverged is None

    def step(self, run: Run) -> int:
        """Take a chunk and ask the rule; return the steps taken.

        Where the objective ceases to be finite the run is marked as diverged, its state that of the
        chunk before.
        """
        n = min(self.size, self.num_steps - run.steps)
        state, losses, mean, variance = self.advance(run.state, jnp.int32(n), self.arrays)
        elbo = -np.asarray(losses, float)[:n]
        if np.isfinite(elbo).all():
            mean, variance = jax.tree.map(np.asarray, (mean, variance))
            run.add(Chunk(state, elbo, mean, variance))
            self.look(run)
        else:
            run.diverged = elbo
        return n

    def look(self, run: Run) -> None:
        """Ask the rule, where the guide has locations and there are steps enough."""
        steps = run.steps
        last = steps >= self.num_steps
        # every time a tenth later: looking costs as much as hundreds of steps of a small model
        due = steps >= max(MIN_STEPS, 1.1 * run.looked) and len(run.chunks) >= MIN_CHUNKS
        early = self.tolerance is not None and due
        if not self.scales or len(run.chunks) < 2 or not (last or early):
            return
        run.looked = steps
        means = [chunk.mean for chunk in run.chunks]
        variances = [chunk.variance for chunk in run.chunks]
        run.iterates = judge_iterates(self.scales, means, variances, self.constrain)
        if early and self.tolerance is not None and run.iterates.within(self.tolerance):
            run.stopped = judge_series(run.elbo).flat
