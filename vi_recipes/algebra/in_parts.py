"""A block-arrow matrix whose members are divided over processes that know its border."""

from __future__ import annotations

from typing import Protocol, override

import numpy as np
from jaxtyping import Float

from vi_recipes.algebra.block_arrow import BlockArrow


class MemberProcesses(Protocol):
    """The processes that have members each; what is asked of one is asked of all at once."""

    @property
    def index(self) -> int:
        """Number of this one, from 0."""

    def add(self, numbers: np.ndarray) -> np.ndarray:
        """Return the sum over processes of an array of the same shape on each."""


class BlockArrowInParts(BlockArrow):
    """The blocks of this process's members, and the border of all.

    Flat vectors have the border, which every process has alike, and this one's members. What is
    summed over members is summed over processes: G numbers for a product and a solution, G x G for
    a Schur complement, and one for a length.

    Parameters
    ----------
    own
        What this process's members and rows make of the matrix: the corners of all add up to its
        corner.
    processes
        All of them.
    """

    def __init__(self, own: BlockArrow, processes: MemberProcesses) -> None:
        super().__init__(own.structure, own.corner, own.edge, own.blocks, own.metric)
        self._processes = processes

    @override
    def _sum(self, over_members: np.ndarray) -> np.ndarray:
        return self._processes.add(over_members)

    @override
    def _not_positive(self) -> None:
        size = self.structure.border.size
        self._sum(np.full((size, size), np.nan))  # in place of a Schur complement

    @override
    def inner(self, x: Float[np.ndarray, " dim"], y: Float[np.ndarray, " dim"]) -> float:
        (border, local), (other, its_local) = self.split(x), self.split(y)
        of_members = np.array([np.vdot(local, its_local)])
        return float(border @ other + self._sum(of_members)[0])

    @override
    def norm(self, vector: Float[np.ndarray, " dim"]) -> float:
        return float(np.sqrt(self.inner(self.metric * vector, vector)))

    @override
    def noise(self) -> Float[np.ndarray, " dim"]:
        size, shape = self.structure.border.size, self.structure.local.shape
        border = np.random.default_rng(0).standard_normal(size)
        own = np.random.default_rng([1, self._processes.index]).standard_normal(shape)
        return self.join(border, own)
