"""NumPyro's SVI in compiled chunks of steps, with the moments of the iterates of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.infer import SVI as Engine

from vi_recipes.methods.minibatch.view import View
from vi_recipes.methods.svi.stopping import Stationarity

NUM_CHUNKS = 40
MAX_CHUNK = 250
MAX_CHUNKS = 400

THIN = 10
"""Steps from one iterate to the next whose moments are taken: neighbours are nearly the same, and
taking all costs a fifth of a small model's steps."""

MIN_LEVEL = 8
"""Chunks after which the answer is read at a new step size."""


class Taken(NamedTuple):
    """What the compiled code of a chunk hands back, on the device."""

    state: Any
    """The engine's after the steps."""
    losses: Any
    """Minus the objective at every step; zeros beyond the steps that were asked for."""
    mean: Any
    """Of the unconstrained parameters, over every :data:`THIN` steps."""
    variance: Any
    """The same, of the parameters watched."""


class Chunk(NamedTuple):
    """What some steps have come to."""

    state: Any
    """The engine's after the steps; ``None`` once another chunk has followed."""
    elbo: np.ndarray
    """The objective at every step."""
    mean: Any
    """Of the unconstrained parameters, over every :data:`THIN` steps."""
    variance: Any
    """The same, of the parameters watched."""
    closes: bool = False
    """Whether the step size falls after it."""


@dataclass
class Run:
    """What a run of SVI has done so far.

    Parameters
    ----------
    first
        The engine's state before any step.
    chunks
        What has been done; finite throughout.
    iterates
        What the rule last saw, after ``looked`` steps.
    stopped
        Whether the rule ended the run.
    diverged
        The objective over the chunk in which it was no longer finite, which is not kept.
    ahead
        What the next chunk comes to, where it has been set off already.
    """

    first: Any
    chunks: list[Chunk] = field(default_factory=list)
    iterates: Stationarity | None = None
    looked: int = 0
    stopped: bool = False
    diverged: np.ndarray | None = None
    ahead: Taken | None = None

    def add(self, chunk: Chunk) -> None:
        """Take in a chunk: at once, so that an interrupt finds either all of it or nothing."""
        self.chunks.append(chunk)
        if len(self.chunks) > 1:
            self.chunks[-2] = self.chunks[-2]._replace(state=None)

    @property
    def state(self) -> Any:
        """The engine's state after the last good step."""
        return self.chunks[-1].state if self.chunks else self.first

    @property
    def steps(self) -> int:
        """Good steps."""
        return sum(len(chunk.elbo) for chunk in self.chunks)

    @property
    def elbo(self) -> np.ndarray:
        """The objective at every step, up to where it was no longer finite."""
        if self.diverged is None:
            return series(self.chunks)
        start = self.diverged[: int(np.argmin(np.isfinite(self.diverged)))]
        return np.concatenate([series(self.chunks), start])

    @property
    def levels(self) -> list[list[Chunk]]:
        """The chunks, apart by step size."""
        ends = [k for k, chunk in enumerate(self.chunks, start=1) if chunk.closes]
        return [
            self.chunks[a:b] for a, b in zip([0, *ends], [*ends, len(self.chunks)], strict=True)
        ]

    @property
    def level(self) -> list[Chunk]:
        """The chunks of the last step size that has lasted for a while."""
        *before, last = self.levels
        return last if len(last) >= MIN_LEVEL or not before else before[-1]

    @property
    def late(self) -> list[Any]:
        """Means of the parameters over the second half of that level."""
        return [chunk.mean for chunk in self.level[len(self.level) // 2 :]]


def series(chunks: Iterable[Chunk]) -> np.ndarray:
    """Return the objective at every step of some chunks."""
    return np.concatenate([np.zeros(0), *(chunk.elbo for chunk in chunks)])


def by_epoch(chunks: Sequence[Chunk], count: int) -> tuple[list[Any], list[Any]]:
    """Return means and variances of the iterates, ``count`` chunks at a time, which are an epoch.

    What the rows of a minibatch are is noise that cancels over an epoch. Of fewer than
    :data:`MIN_LEVEL` epochs, and of epochs of one chunk, chunks are returned as they are.
    """
    epochs = len(chunks) // count
    if count == 1 or epochs < MIN_LEVEL:
        return [c.mean for c in chunks], [c.variance for c in chunks]
    means, variances = [], []
    for first in range(len(chunks) - epochs * count, len(chunks), count):
        part = chunks[first : first + count]
        means.append(jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *(c.mean for c in part)))
        variances.append(
            {
                name: np.mean([c.variance[name] for c in part], axis=0)
                + np.var([c.mean[name] for c in part], axis=0)
                for name in part[0].variance
            }
        )
    return means, variances


def chunk_size(num_steps: int) -> int:
    """Return the steps of a chunk: few enough to stop in time, and not too many chunks to keep."""
    return max(1, min(MAX_CHUNK, -(-num_steps // NUM_CHUNKS)), num_steps // MAX_CHUNKS)


def make_chunk(
    engine: Engine, view: View, size: int, watched: Iterable[str]
) -> Callable[..., Taken]:
    """Return ``(state, n, arrays) -> what n steps come to``; ``arrays`` are those of a feed.

    Parameters
    ----------
    engine
        NumPyro's.
    view
        What a step sees of the data.
    size
        Steps, at most.
    watched
        Parameters whose variances are asked for.
    """
    names = tuple(watched)

    def chunk(state: Any, n: jax.Array, arrays: Any) -> Taken:
        # moments about the first iterate, for the sake of single precision
        origin = engine.optim.get_params(state.optim_state)

        def step(i: jax.Array, carry: Any) -> Any:
            state, losses = carry
            state, loss = view.update(engine, state, arrays, i)
            return state, losses.at[i].set(loss)

        def stride(k: jax.Array, carry: Any) -> Any:
            state, losses, total, squares = carry
            last = jnp.minimum((k + 1) * THIN, n)
            state, losses = jax.lax.fori_loop(k * THIN, last, step, (state, losses))
            away = jax.tree.map(jnp.subtract, engine.optim.get_params(state.optim_state), origin)
            total = jax.tree.map(jnp.add, total, away)
            squares = {name: squares[name] + away[name] ** 2 for name in names}
            return state, losses, total, squares

        zeros = jax.tree.map(jnp.zeros_like, origin)
        first = (state, jnp.zeros(size), zeros, {name: zeros[name] for name in names})
        count = (n + THIN - 1) // THIN
        state, losses, total, squares = jax.lax.fori_loop(0, count, stride, first)
        away = jax.tree.map(lambda t: t / count, total)
        variances = {
            name: jnp.maximum(squares[name] / count - away[name] ** 2, 0) for name in names
        }
        return Taken(state, losses, jax.tree.map(jnp.add, origin, away), variances)

    return chunk
