"""What chunks of SVI's steps take of the data, one after another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, override

import jax
import jax.numpy as jnp
import numpy as np

from vi_recipes.data import Prefetch
from vi_recipes.methods.minibatch.members import view_of
from vi_recipes.methods.minibatch.rows import Rows
from vi_recipes.methods.minibatch.view import BatchView, View
from vi_recipes.model import Arrays, Target

MAX_STACK = 2**26
"""Bytes of minibatches that are handed to one chunk of steps."""


class Feed:
    """What the chunks of a fit take of the data: all of them, at every step.

    Parameters
    ----------
    view
        What a step sees.
    size
        Steps of a chunk.
    """

    num_rows = 0
    """Number of rows, where they come in minibatches."""

    chunks_per_epoch = 1
    """Chunks of steps that show every row once, where a chunk is part of an epoch."""

    def __init__(self, view: View, size: int) -> None:
        self.view, self.size = view, size
        self._ahead: Any = None

    @cached_property
    def _all(self) -> Arrays:
        return self.view.target.arrays()

    def take(self) -> Any:
        """Return what another chunk of steps takes."""
        return self._all

    def peek(self) -> Any:
        """Return what the next chunk of steps takes, which stays the next."""
        if self._ahead is None:
            self._ahead = self.take()
        return self._ahead

    def next(self) -> Any:
        """Return what the next chunk of steps takes."""
        arrays, self._ahead = self.peek(), None
        return arrays

    def skip(self, count: int) -> None:
        """Pass over what the next ``count`` chunks took when they were run, at the same size."""

    def singles(self, count: int) -> Sequence[Any]:
        """Return what ``count`` chunks of one step each take."""
        return [self._all] * count

    def close(self) -> None:
        """Let go of what reads ahead."""


def in_epochs(most: int, steps: float) -> int:
    """Return a number of steps, up to ``most``, that is made of epochs or that epochs are made of.

    What is drawn without replacement is noise that cancels over an epoch, but over no part of it.
    ``steps`` are those of an epoch; where they are no whole number, ``most`` it is.
    """
    if steps != round(steps):
        return most
    if steps <= most:
        return most - most % round(steps)
    return next(size for size in range(most, 0, -1) if steps % size == 0)


class Minibatches(Feed):
    """What the chunks of a fit take of the data: other rows of a plate at every step.

    Parameters
    ----------
    view
        What a step sees.
    size
        Steps of a chunk, at most: minibatches of a chunk are in memory together.
    seed
        Of the order of the rows.
    """

    def __init__(self, view: BatchView, size: int, seed: int) -> None:
        most = max(1, min(size, MAX_STACK // view.batch_bytes))
        super().__init__(view, in_epochs(most, view.factor))
        self.chunks_per_epoch = max(1, round(view.factor) // self.size)
        self._view, self._rows, self.num_rows = view, view.rows, view.num_rows
        self._ranges: dict[str, tuple[int, int]] = {}
        self._seed = seed

    @cached_property
    def _stacks(self) -> Prefetch:
        return Prefetch(self._rows.batches, self.size, self._seed)

    @cached_property
    def _fixed(self) -> tuple[Arrays, Arrays | None]:
        return self._view.fixed()

    @override
    def skip(self, count: int) -> None:
        for _ in range(count):
            next(self._stacks)

    @override
    def take(self) -> Any:
        stack = next(self._stacks)
        if not self._rows.in_memory:
            self._check_indices(stack)
        return jnp.int32(0), jax.tree.map(jnp.asarray, stack), self._fixed

    @override
    def singles(self, count: int) -> Sequence[Any]:
        arrays: list[Any] = []
        while len(arrays) < count:
            _, *rest = self.next()
            arrays += [(jnp.int32(k), *rest) for k in range(self.size)]
        return arrays[:count]

    @override
    def close(self) -> None:
        if "_stacks" in self.__dict__:
            self._stacks.close()

    def _check_indices(self, stack: Mapping[str, np.ndarray]) -> None:
        """Raise on an index out of bounds, which JAX would quietly clamp.

        What reaches further than any before is looked at: the smallest and largest integers.
        """
        suspects = set()
        for name, array in stack.items():
            if array.dtype.kind not in "iu":
                continue
            low, high = self._ranges.get(name, (0, -1))
            each = array.reshape(len(array), -1)
            for extremes, beyond in ((each.min(axis=1), -1), (each.max(axis=1), 1)):
                k = int((beyond * extremes).argmax())
                value = int(extremes[k])
                if high < low or value < low or value > high:
                    suspects.add(k)
            both = [int(array.min()), int(array.max()), *([low, high] if low <= high else [])]
            self._ranges[name] = min(both), max(both)
        shown = self._view.shown
        for k in suspects:
            with jax.enable_x64(True):
                batch = {name: jnp.asarray(array[k]) for name, array in stack.items()}
                shown.check_indices(self._view.merge(batch, shown.arrays()))


def make_feed(target: Target, rows: Rows | None, size: int, seed: int) -> Feed:
    """Return what the chunks of a fit take of the data.

    Parameters
    ----------
    target
        What is fitted.
    rows
        Where minibatches come from; ``None`` shows all data at every step.
    size
        Steps of a chunk, at most.
    seed
        Of the order of the rows.
    """
    view = view_of(target, rows, seed)
    return Minibatches(view, size, seed) if isinstance(view, BatchView) else Feed(view, size)
