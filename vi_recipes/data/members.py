"""Minibatches of whole groups: all rows of some members of a plate, padded to one size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

import numpy as np

from vi_recipes.core import ModelError
from vi_recipes.data.batches import Batches, RowBlock, Schema

MEMBERS = "members of the plate"
"""Key of a minibatch under which the numbers of its members are."""

WEIGHTS = "weights of the rows"
"""Key of a minibatch under which its rows have 1, and what fills it up 0."""


class MemberBatches:
    """Minibatches of the members of a plate with all their rows, every member once an epoch.

    Members are numbered anew in each, from 0. Rows are filled up to the number that the largest
    members would have together, with rows of no weight, so that all minibatches have one shape.

    Parameters
    ----------
    source
        The rows. Those of a member have to be in one block.
    argument
        Argument that holds the number of each row's member.
    batch_size
        Members of a minibatch.
    """

    def __init__(self, source: Batches, argument: str, batch_size: int) -> None:
        self.source, self.argument, self.batch_size = source, argument, batch_size
        self._num_members = 0

    @property
    def num_rows(self) -> int:
        """Number of all rows."""
        return self.source.num_rows

    @property
    def num_members(self) -> int:
        """Number of members; the last ones may have no rows."""
        return max(self._num_members, len(self._counts))

    def cover(self, num_members: int) -> None:
        """Take in that there are so many members.

        Raises
        ------
        ModelError
            For rows of members beyond.
        """
        if len(self._counts) > num_members:
            raise ModelError(
                f"argument '{self.argument}': a row is of member {len(self._counts) - 1}, and the "
                f"plate has {num_members}, which are numbered from 0"
            )
        self._num_members = num_members

    @property
    def num_padded(self) -> int:
        """Rows of a minibatch, those of no weight included."""
        most = np.concatenate([[0], np.cumsum(np.sort(self._counts)[::-1])])
        # where it has the last members of an epoch and the first of the next, some come twice
        parts = [self.batch_size]
        if self.num_members % self.batch_size:
            parts = [self.batch_size // 2, -(-self.batch_size // 2)]
        return max(2, sum(int(most[min(part, len(most) - 1)]) for part in parts))

    @cached_property
    def _counts(self) -> np.ndarray:
        """Rows of each member."""
        counts = np.zeros(0, int)
        for block in self.source.blocks(np.random.default_rng(0)):
            of_block = np.bincount(self._codes(block))
            size = max(len(counts), len(of_block))
            counts = np.pad(counts, (0, size - len(counts)))
            counts += np.pad(of_block, (0, size - len(of_block)))
        return counts

    def _codes(self, block: RowBlock) -> np.ndarray:
        codes = np.asarray(block[self.argument])
        if codes.dtype.kind not in "iu" or codes.ndim != 1 or (codes.size and codes.min() < 0):
            raise ModelError(
                f"argument '{self.argument}': got {codes.dtype} of shape {codes.shape} from "
                f"{codes.min() if codes.size else 'nothing'} on, expected the number of each row's "
                "member, whole and from 0"
            )
        return codes

    def head(self, num_rows: int | None = None) -> dict[str, np.ndarray]:
        """Return the first rows: what to make a target with.

        Parameters
        ----------
        num_rows
            How many; ``None`` takes as many as a minibatch has members, and two at least.
        """
        block = next(iter(self.source.blocks(np.random.default_rng(0))))
        size = num_rows or max(self.batch_size, 2)
        return {name: np.asarray(value)[:size] for name, value in block.items()}

    def blocks(self, rng: np.random.Generator) -> Iterator[RowBlock]:
        """Yield every row once, in blocks."""
        return self.source.blocks(rng)

    def draw(self, rng: np.random.Generator) -> Iterator[dict[str, np.ndarray]]:
        """Yield minibatches for ever; those of an epoch have every member once.

        Besides the rows they have :data:`MEMBERS` and :data:`WEIGHTS`. Where the size does not
        divide the number of members, a minibatch has the last ones of one epoch and the first of
        the next.

        Raises
        ------
        ModelError
            For a member with rows in several blocks, and as :func:`vi_recipes.data.draw`.
        """
        size, padded = self.batch_size, self.num_padded
        schema: Schema | None = None
        held = _Held({}, np.zeros(0, int), np.zeros(0, int))
        bare = np.setdiff1d(np.arange(self.num_members), np.flatnonzero(self._counts))
        while True:
            seen = np.zeros(self.num_members, bool)
            for number, raw in enumerate(self.source.blocks(rng)):
                block = {name: np.asarray(value) for name, value in raw.items()}
                schema = schema or Schema.of(block)
                schema.check(block, f"block {number}")
                new = _Held.of(block, self._codes(block), bare if number == 0 else bare[:0], rng)
                if again := new.codes[seen[new.codes]].tolist():
                    raise ModelError(
                        f"batches: rows of member {again[0]} of '{self.argument}' are in several "
                        "blocks of an epoch, and minibatches have all rows of a member; sort the "
                        "files by it, so that a member's rows are in one piece of a file"
                    )
                seen[new.codes] = True
                held = held.and_then(new)
                while len(held.codes) >= size:
                    taken, held = held.split(size)
                    yield taken.padded(padded, self.argument)


class _Held:
    """Members in order with their rows, in that order too.

    Parameters
    ----------
    rows
        Argument -> rows.
    codes, counts
        Number of each member, and how many rows it has.
    """

    def __init__(self, rows: Mapping[str, np.ndarray], codes: np.ndarray, counts: np.ndarray):
        self.rows, self.codes, self.counts = rows, codes, counts

    @classmethod
    def of(
        cls, block: RowBlock, codes: np.ndarray, bare: np.ndarray, rng: np.random.Generator
    ) -> _Held:
        """Return the members of a block in random order, and some that have no rows."""
        order = np.argsort(codes, kind="stable")
        members, counts = np.unique(codes, return_counts=True)
        members = np.concatenate([members, bare])
        counts = np.concatenate([counts, np.zeros(len(bare), int)])
        starts = np.cumsum(counts) - counts
        shuffled = rng.permutation(len(members))
        members, counts, starts = members[shuffled], counts[shuffled], starts[shuffled]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        places = order[np.repeat(starts, counts) + within]
        return cls({name: array[places] for name, array in block.items()}, members, counts)

    def and_then(self, other: _Held) -> _Held:
        """Return these, and then those of another."""
        if not len(self.codes):
            return other
        return _Held(
            {name: np.concatenate([self.rows[name], other.rows[name]]) for name in other.rows},
            np.concatenate([self.codes, other.codes]),
            np.concatenate([self.counts, other.counts]),
        )

    def split(self, size: int) -> tuple[_Held, _Held]:
        """Return the first members, and the others."""
        cut = int(self.counts[:size].sum())
        return (
            _Held(
                {n: a[:cut] for n, a in self.rows.items()}, self.codes[:size], self.counts[:size]
            ),
            _Held(
                {n: a[cut:] for n, a in self.rows.items()}, self.codes[size:], self.counts[size:]
            ),
        )

    def padded(self, num_rows: int, argument: str) -> dict[str, np.ndarray]:
        """Return them as a minibatch of ``num_rows`` rows, numbered from 0 in ``argument``."""
        used = int(self.counts.sum())
        batch = {}
        for name, array in self.rows.items():
            batch[name] = np.zeros((num_rows, *array.shape[1:]), array.dtype)
            batch[name][:used] = array
            if used:
                batch[name][used:] = array[0]  # values that the model takes
        number = np.repeat(np.arange(len(self.codes)), self.counts)
        batch[argument] = np.zeros(num_rows, batch[argument].dtype)
        batch[argument][:used] = number
        batch[MEMBERS] = self.codes.astype(np.int64)
        batch[WEIGHTS] = np.zeros(num_rows, np.float32)
        batch[WEIGHTS][:used] = 1.0
        return batch
