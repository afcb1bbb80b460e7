"""Nodes of the members' integrals, and the monomials whose moments they give."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from vi_recipes.latent import HALF_LOG_2PI, hermite

ROOM = 25
"""Nodes a dimension that there is room for, where a block has its own within weighed points."""

MOST_NODES = (159, 39, 25)
"""The same of members of one, two and three coordinates: several modes, and kinks, need many."""

LADDER = (9, 15, 25, 39, 79, 159)
"""Nodes a dimension; each number is checked by the next that there is room for."""

POWERS = 3
"""Degree up to which the members' moments are taken, where they are not normal."""


def powers(d: int) -> Int[np.ndarray, "powers {d}"]:
    """Return the exponents of the monomials of degree 1 to 3 in d coordinates."""
    each = [p for p in product(range(POWERS + 1), repeat=d) if 1 <= sum(p) <= POWERS]
    return np.array(each, int).reshape(-1, d)


@dataclass(frozen=True)
class MemberNodes:
    """Nodes of the members' integrals, padded to a fixed number.

    Parameters
    ----------
    num_nodes
        A dimension.
    points, log_weights, powers
        Standard coordinates x, log(weight / kernel), and monomials of x.
    count
        Nodes of the tensor product.
    inner
        Nodes of blocks whose border has weighed points: of those the points are the lattice, and
        log_weights say how far each theta shifts it, 0 or 1.
    """

    num_nodes: int
    points: Float[np.ndarray, "most d"]
    log_weights: Float[np.ndarray, " most"]
    powers: Float[np.ndarray, "most powers"]
    count: int
    inner: MemberNodes | None = None

    @property
    def tables(self) -> tuple[Any, ...]:
        """What compiled code takes of them, but for the count."""
        if self.inner is None:
            return self.points, self.log_weights, self.powers
        return self.points, self.log_weights, self.powers, *self.inner.tables, self.inner.count


def next_nodes(num_nodes: int, d: int) -> int:
    """Return the nodes a dimension that check so many of members of d coordinates.

    Those after them, or a few less where there is no room for more.
    """
    most = MOST_NODES[d - 1]
    return next((n for n in LADDER if num_nodes < n <= most), num_nodes - 4)


def member_nodes(num_nodes: int, d: int) -> MemberNodes:
    """Return the nodes of members of d coordinates that are not normal, at most `MOST_NODES`."""
    return make_nodes(num_nodes, d, False, MOST_NODES[d - 1])


def make_nodes(num_nodes: int, d: int, normal: bool, room: int = ROOM) -> MemberNodes:
    """Return the nodes of a member's integral.

    Parameters
    ----------
    num_nodes, d
        Nodes a dimension, and dimensions of a member.
    normal
        Whether members are normal given theta: the nodes are then one for all of a member's
        coordinates, each of which has its own marginal law.
    room
        Nodes a dimension to which all are padded.
    """
    axes = 1 if normal else d
    points, log_weights = hermite(num_nodes, axes)
    if normal:
        log_weights = log_weights - (points**2).sum(1) / 2 - HALF_LOG_2PI
        points = np.repeat(points, d, axis=1)
        monomials = np.zeros((len(points), 0))
    else:
        monomials = np.prod(points[:, None, :] ** powers(d), axis=2)
    padding = ((0, room**axes - len(points)), (0, 0))
    return MemberNodes(
        num_nodes,
        np.pad(points, padding),
        np.pad(log_weights, padding[0]),
        np.pad(monomials, padding),
        len(points),
    )
