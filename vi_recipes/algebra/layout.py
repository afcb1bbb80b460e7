"""How to lay out a sparse symmetric matrix: a border and blocks, and the products that tell it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, reverse_cuthill_mckee

from vi_recipes.algebra.bordered import Bordered, Parts

STEP = 5e3
"""Operations that one step along a chain costs beside those of its block."""

PRODUCT = 5e3, 30.0
"""Operations that a product with a direction costs, and each of its entries, about."""

NUM_CUTS = 12
"""Numbers of neighbours from which coordinates may go into the border that are tried."""


class _Places(NamedTuple):
    """For every entry its number in the products, flat; after them come a zero and a one."""

    blocks: Int[np.ndarray, "blocks w w"]
    below: Int[np.ndarray, "couplings w w"]
    edge: Int[np.ndarray, "blocks w border"]
    corner: Int[np.ndarray, "border border"]


@dataclass(frozen=True)
class Layout:
    """Where the coordinates of a sparse symmetric matrix are in :class:`Bordered`.

    Parameters
    ----------
    pattern
        Which entries are not zero.
    local
        Coordinates of the blocks, -1 where a place is not taken; empty where all is border.
    border
        Coordinates of the border.
    chained
        Whether a block is coupled with the next.
    """

    pattern: Bool[np.ndarray, "dim dim"]
    local: Int[np.ndarray, "blocks w"]
    border: Int[np.ndarray, " border"]
    chained: bool

    @property
    def dim(self) -> int:
        """Rows of the matrix."""
        return len(self.pattern)

    @property
    def places(self) -> int:
        """Places of coordinates, those not taken included."""
        return self.local.size + self.border.size

    @property
    def entries(self) -> int:
        """Numbers that a factor has, about."""
        (blocks, w), g = self.local.shape, self.border.size
        return blocks * w * (2 * w + g) + g**2

    @property
    def cost(self) -> float:
        """Operations of a factorisation and of the products that it needs, about."""
        (blocks, w), g = self.local.shape, self.border.size
        steps = STEP * blocks if self.chained else 0.0
        directions = g + (2 * w + 1 if self.chained else w)
        steps += directions * (PRODUCT[0] + PRODUCT[1] * self.dim)
        return steps + blocks * w * (3 * w * w + 2 * w * g + g * g) + g**3

    @cached_property
    def directions(self) -> Float[np.ndarray, "directions dim"]:
        """Vectors whose products with the matrix hold all its entries.

        One for every coordinate of the border, and one for all local coordinates that share no row.
        """
        return np.asarray(self._coloured[0])

    @cached_property
    def _coloured(self) -> tuple[np.ndarray, np.ndarray]:
        """The directions, and the one that each coordinate is in."""
        colour = np.full(self.dim, -1)
        colour[self.border] = np.arange(self.border.size)
        order = self.local[self.local >= 0]
        near = csr_array(self.pattern[np.ix_(order, order)].astype(np.int32))
        meet = (near @ near).tocsr()
        taken = np.full(order.size, -1)
        for i in range(order.size):
            others = taken[meet.indices[meet.indptr[i] : meet.indptr[i + 1]]]
            free = np.setdiff1d(np.arange(others.size + 1), others)
            taken[i] = free[0]
        colour[order] = self.border.size + taken
        directions = np.zeros((int(colour.max(initial=-1)) + 1, self.dim))
        directions[colour, np.arange(self.dim)] = 1.0
        return directions, colour

    @cached_property
    def _places(self) -> _Places:
        directions, colour = self._coloured
        zero = directions.size
        padded = np.append(self.pattern, np.zeros((1, self.dim), bool), axis=0)
        padded = np.append(padded, np.zeros((self.dim + 1, 1), bool), axis=1)

        def entries(i: np.ndarray, j: np.ndarray) -> np.ndarray:
            """Read from column j's product; -1 is a place not taken."""
            return np.where(padded[i, j], colour[j] * self.dim + i, zero)

        local, border = self.local, self.border
        blocks = entries(local[:, :, None], local[:, None, :])
        empty = np.nonzero(local < 0)
        blocks[empty[0], empty[1], empty[1]] = zero + 1
        after, before = (local[1:], local[:-1]) if self.chained else (local[:0], local[:0])
        return _Places(
            blocks,
            entries(after[:, :, None], before[:, None, :]),
            entries(local[:, :, None], border[None, None, :]),
            entries(border[:, None], border[None, :]),
        )

    def assemble(self, products: Float[Array, "directions dim"]) -> Bordered:
        """Return the matrix from its products with the directions; pure."""
        table = jnp.concatenate([products.ravel(), jnp.array([0.0, 1.0])])
        return Bordered(*(table[place] for place in self._places))

    def split(self, vector: Float[Array, " dim"]) -> Parts:
        """Return a vector in parts, with zeros where a place is not taken; pure."""
        return Parts(jnp.append(vector, 0.0)[self.local], vector[self.border])

    def join(self, parts: Parts) -> Float[Array, " dim"]:
        """Return the vector that the parts are of; pure."""
        return jnp.concatenate([parts.local.ravel(), parts.border])[self.order]

    @cached_property
    def order(self) -> Int[np.ndarray, " dim"]:
        """Place of every coordinate among the parts, local ones before the border."""
        at = np.concatenate([self.local.ravel(), self.border])
        place = np.zeros(self.dim, int)
        place[at[at >= 0]] = np.flatnonzero(at >= 0)
        return place


def find_layout(pattern: Bool[np.ndarray, "dim dim"], groups: Sequence[np.ndarray] = ()) -> Layout:
    """Return the layout by which a factorisation costs least.

    Parameters
    ----------
    pattern
        Which entries of the matrix are not zero; symmetric.
    groups
        Numbers of coordinates, each lot of which may be local with all others in the border:
        families that are crossed.
    """
    dim = len(pattern)
    every = np.arange(dim)
    best = Layout(pattern, np.zeros((0, 1), int), every, False)
    neighbours = pattern.sum(1)
    cuts = np.unique(np.quantile(neighbours, np.linspace(0, 1, NUM_CUTS), method="nearest"))
    kept = [np.flatnonzero(neighbours <= cut) for cut in cuts]
    for some in [*kept, *groups]:
        if not some.size:
            continue
        border = np.setdiff1d(every, some)
        among = csr_array(pattern[np.ix_(some, some)])
        for local, chained in (_components(among), _band(among)):
            at = np.where(local >= 0, some[np.maximum(local, 0)], -1)
            found = Layout(pattern, at, border, chained)
            if found.cost < best.cost:
                best = found
    return best


def _components(among: csr_array) -> tuple[np.ndarray, bool]:
    """Return coordinates that hang together, a row for each lot."""
    count, lot = connected_components(among, directed=False)
    sizes = np.bincount(lot, minlength=count)
    local = np.full((count, sizes.max()), -1)
    order = np.argsort(lot, kind="stable")
    within = np.concatenate([np.arange(s) for s in sizes])
    local[lot[order], within] = order
    return local, False


def _band(among: csr_array) -> tuple[np.ndarray, bool]:
    """Return coordinates in an order in which they touch their neighbours only."""
    order = np.asarray(reverse_cuthill_mckee(among, symmetric_mode=True), int)
    place = np.empty_like(order)
    place[order] = np.arange(order.size)
    rows, columns = among.nonzero()
    width = max(int(np.abs(place[rows] - place[columns]).max(initial=0)), 1)
    padded = np.append(order, np.full(-order.size % width, -1))
    return padded.reshape(-1, width), True
