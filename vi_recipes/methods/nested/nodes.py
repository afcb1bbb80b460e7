"""Nodes of the members' integrals, and the monomials whose moments they give."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from vi_recipes.latent import HALF_LOG_2PI, hermite

MOST_NODES = 25
"""Nodes a dimension that there is room for."""

POWERS = 3
"""Degree up to which the members' moments are taken, where they are not normal."""


def powers(d: int) -> Int[np.ndarray, "powers {d}"]:
    """Return the exponents of the monomials of degree 1 to 3 in d coordinates."""
    each = [p for p in product(range(POWERS + 1), repeat=d) if 1 <= sum(p) <= POWERS]
    return np.array(each, int).reshape(-1, d)


@dataclass(frozen=True)
class Nodes:
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
    inner: Nodes | None = None

    @property
    def tables(self) -> tuple[Any, ...]:
        """What compiled code takes of them, but for the count."""
        if self.inner is None:
            return self.points, self.log_weights, self.powers
        return self.points, self.log_weights, self.powers, *self.inner.tables, self.inner.count


def make_nodes(num_nodes: int, d: int, normal: bool) -> Nodes:
    """Return the nodes of a member's integral.

    Parameters
    ----------
    num_nodes, d
        Nodes a dimension, and dimensions of a member.
    normal
        Whether members are normal given theta: the nodes are then one for all of a member's
        coordinates, each of which has its own marginal law.
    """
    axes = 1 if normal else d
    points, log_weights = hermite(num_nodes, axes)
    if normal:
        log_weights = log_weights - (points**2).sum(1) / 2 - HALF_LOG_2PI
        points = np.repeat(points, d, axis=1)
        monomials = np.zeros((len(points), 0))
    else:
        monomials = np.prod(points[:, None, :] ** powers(d), axis=2)
    most = MOST_NODES**axes
    room = ((0, most - len(points)), (0, 0))
    return Nodes(
        num_nodes,
        np.pad(points, room),
        np.pad(log_weights, room[0]),
        np.pad(monomials, room),
        len(points),
    )
