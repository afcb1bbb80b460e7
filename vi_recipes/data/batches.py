"""Rows in minibatches: what gives them, and how they are drawn, each row once an epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol, runtime_checkable
from weakref import finalize

import numpy as np

from vi_recipes.core import Beside, ModelError

RowBlock = Mapping[str, np.ndarray]
"""Argument of the model -> its rows, the row leading."""


@runtime_checkable
class Batches(Protocol):
    """What minibatches are drawn from: rows in blocks, of which a few are in memory at a time.

    :func:`batches_from_parquet` and :func:`batches_from_csv` make one from files; anything with
    these members will do.
    """

    @property
    def num_rows(self) -> int:
        """Number of all rows."""
        ...

    @property
    def batch_size(self) -> int:
        """Rows of a minibatch."""
        ...

    def blocks(self, rng: np.random.Generator) -> Iterator[RowBlock]:
        """Yield every row once, in blocks of any number of rows, shuffled as far as it can.

        Parameters
        ----------
        rng
            What to shuffle by.
        """
        ...


@dataclass(frozen=True)
class ArrayBatches:
    """Minibatches of arrays in memory: one block, of which every epoch is a random order.

    Parameters
    ----------
    arrays
        Argument of the model -> its rows.
    num_rows, batch_size
        Number of rows, and of those in a minibatch.
    """

    arrays: RowBlock
    num_rows: int
    batch_size: int

    def blocks(self, rng: np.random.Generator) -> Iterator[RowBlock]:
        """Yield the arrays."""
        yield self.arrays


def draw(batches: Batches, rng: np.random.Generator) -> Iterator[RowBlock]:
    """Yield minibatches for ever, of ``batch_size`` rows each, every row once an epoch.

    The rows of a block come in random order. Where the size does not divide the number of rows, a
    minibatch holds the last rows of one epoch and the first of the next: all have one size, and
    every row is in as many.

    Raises
    ------
    ModelError
        For no rows, arguments, shapes or types that change, NaN, and another number of rows than
        was said.
    """
    if (own := getattr(batches, "draw", None)) is not None:
        yield from own(rng)
    size = batches.batch_size
    schema: Schema | None = None
    rest: RowBlock = {}
    while True:
        count = 0
        for number, block in enumerate(batches.blocks(rng)):
            schema = schema or Schema.of(block)
            block = {name: np.asarray(value) for name, value in block.items()}
            rows = schema.check(block, f"block {number}")
            count += rows
            order, first = rng.permutation(rows), 0
            while first < rows:
                chosen = order[first : first + size - num_rows(rest)]
                part = {name: block[name][chosen] for name in schema.columns}
                batch = {n: np.concatenate([rest[n], part[n]]) for n in part} if rest else part
                first += len(chosen)
                rest = batch if num_rows(batch) < size else {}
                if not rest:
                    yield batch
        if count != batches.num_rows or not count:
            raise ModelError(
                f"batches: an epoch had {count} row(s), and num_rows says {batches.num_rows}; "
                "every epoch must have all rows, at least one, and each of them once"
            )


def num_rows(block: RowBlock) -> int:
    """Return the rows of a block; none where it has no arguments."""
    return len(next(iter(block.values()))) if block else 0


@dataclass(frozen=True)
class Schema:
    """What the rows are made of: every block has to agree.

    Parameters
    ----------
    columns
        Argument -> the shape of one row and its type.
    """

    columns: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]

    @classmethod
    def of(cls, block: RowBlock) -> Schema:
        """Return the schema of a block."""
        if not isinstance(block, Mapping) or not block:
            raise ModelError(
                f"batches: got a block of {type(block).__name__}, expected a mapping from the "
                "model's arguments to arrays of rows"
            )
        arrays = {name: np.asarray(value) for name, value in block.items()}
        for name, array in arrays.items():
            if array.ndim == 0 or array.dtype.kind not in "biuf":
                raise ModelError(
                    f"batches: argument '{name}' has shape {array.shape} and dtype {array.dtype}; "
                    "expected numbers, one or more a row"
                )
        return cls({name: (array.shape[1:], array.dtype) for name, array in arrays.items()})

    def check(self, block: RowBlock, where: str) -> int:
        """Return the rows of ``block``; raise a :class:`ModelError` unless it agrees."""
        if set(block) != set(self.columns):
            raise ModelError(
                f"batches: {where} has arguments {', '.join(block)}, the first one had "
                f"{', '.join(self.columns)}"
            )
        rows = num_rows(block)
        for name, (shape, dtype) in self.columns.items():
            array = block[name]
            if array.shape != (rows, *shape):
                raise ModelError(
                    f"batches: {where}: argument '{name}' has shape {array.shape}, expected "
                    f"{(rows, *shape)}, as in the first block"
                )
            if array.dtype != dtype:
                raise ModelError(
                    f"batches: {where}: argument '{name}' has dtype {array.dtype}, and had {dtype} "
                    "in the first block; give every block the same"
                )
            # a sum is finite where all its terms are, and takes no memory
            if dtype.kind == "f" and not np.isfinite(array.sum(dtype=float)):
                bad = np.argwhere(~np.isfinite(array))
                if len(bad):
                    raise ModelError(
                        f"batches: {where}, row {bad[0][0]}: argument '{name}' is "
                        f"{array[tuple(bad[0])]}; drop or impute such rows"
                    )
        return rows


class Prefetch:
    """Minibatches stacked, the next stack being made by a thread while one is in use.

    Parameters
    ----------
    batches
        Where they come from.
    count
        Minibatches in a stack.
    seed
        Of the order of the rows.
    """

    def __init__(self, batches: Batches, count: int, seed: int) -> None:
        drawn = draw(batches, np.random.default_rng(seed))
        # not by futures: an interrupt in the midst of them leaves their locks taken
        self._wanted: SimpleQueue[bool] = SimpleQueue()
        self._made: SimpleQueue[RowBlock | BaseException] = SimpleQueue()
        finalize(self, self._wanted.put, False)  # where nobody closes it
        make = partial(_make, drawn, count, self._wanted, self._made)
        self._making = Beside(make, "batches")
        self._making.start()
        self._wanted.put(True)

    def __next__(self) -> RowBlock:
        """Return argument -> array of shape (count, batch_size, ...)."""
        self._wanted.put(True)  # the next one; an interrupt after it leaves one more to come
        made = self._making.handed(self._made)
        if isinstance(made, BaseException):
            raise made
        return made

    def close(self) -> None:
        """End the thread."""
        self._wanted.put(False)
        self._making.wait()


def _make(
    drawn: Iterator[RowBlock],
    count: int,
    wanted: SimpleQueue[bool],
    made: SimpleQueue[RowBlock | BaseException],
) -> None:
    """Make a stack of minibatches whenever one is wanted."""
    failed: BaseException | None = None
    while wanted.get():
        try:
            made.put(failed or _stack(drawn, count))
        except BaseException as error:
            made.put(failed := error)


def _stack(drawn: Iterator[RowBlock], count: int) -> RowBlock:
    first = next(drawn)
    stack = {n: np.empty((count, *a.shape), a.dtype) for n, a in first.items()}
    for k in range(count):
        batch = first if k == 0 else next(drawn)
        for name, array in batch.items():
            stack[name][k] = array
    return stack
