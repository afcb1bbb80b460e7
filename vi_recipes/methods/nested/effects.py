"""Means and variances of crossed effects beside those of Laplace's approximation, over theta.

At the centre by weighed points of the border and Stein's identity: what points are to tell is how
far the density's gradient is from that of the normal, which has far less noise than where they are.
Along the axes of theta by fewer of the same points: how that bends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import solve_triangular

from vi_recipes.methods.nested.correction import (
    AXIS,
    FEWEST,
    INNER_NODES,
    NUM_LOTS,
    WeighedPoints,
    enough,
    level,
)
from vi_recipes.methods.nested.nodes import MemberNodes, make_nodes
from vi_recipes.methods.nested.rounds import Integral

GRADIENT = 4
"""Times the work of a point that it is with its gradient."""

MOST_BENT = 2e8
"""Numbers that points along the axes of theta may read: a few seconds' work."""

FEW_LOTS = 2
"""Lattices that they are of where those of all would read more."""

RATIO = 5.0
"""Times by which a variance is made larger or smaller, at most."""


class MemberMoments(NamedTuple):
    """Means and variances of the member's coordinates at a point of theta, by each lattice."""

    mean: Float[np.ndarray, "lots d"]
    """Less the mode, in sds of the normal there."""
    variance: Float[np.ndarray, "lots d"]
    """Over that normal's."""

    @property
    def errors(self) -> Float[np.ndarray, "2 d"]:
        """Standard errors of means, in sds, and relative ones of sds."""
        share = 1 / np.sqrt(len(self.mean))
        return np.stack([self.mean.std(0, ddof=1), self.variance.std(0, ddof=1) / 2]) * share


class Sums:
    """Sums over weighed points at one point of theta.

    Parameters
    ----------
    of
        Where the points are.
    place
        Which of its thetas.
    nodes
        Over the largest family.
    lots
        Lattices independent of one another.

    References
    ----------
    Oates, C. J., Girolami, M. and Chopin, N. (2017). Control functionals for Monte Carlo
    integration. JRSS B 79(3). doi:10.1111/rssb.12185
    """

    def __init__(self, of: WeighedPoints, place: int, nodes: MemberNodes, lots: int) -> None:
        self.of, self.place, self.nodes = of, place, nodes
        dim = of.density.arrow.dim
        self._sums = np.zeros((lots, 6, dim))
        self._squares = np.zeros((dim, 4, 6))
        self._taken = 0

    def moments(self, num_pairs: int) -> MemberMoments:
        """Return the moments by so many pairs of each lattice, or more."""
        of, arrow = self.of, self.of.density.arrow
        factor = of.found[self.place].factor
        assert factor is not None
        size, order = arrow.local.size, arrow.order
        variance = factor.variances()[order]
        own = np.zeros(arrow.dim)
        roots = factor.inverse
        own[:size] = np.diagonal(roots.swapaxes(1, 2) @ roots, axis1=1, axis2=2).ravel()
        # what the border has of a variance, which is all where nothing else has any
        unit = np.sqrt(np.maximum(variance - own, 1e-12 * variance))
        middle = np.concatenate([v.ravel() for v in of.spread(factor, of.top[None])])
        for lot, sums in enumerate(self._sums):
            more = of.lattice(num_pairs, lot)[self._taken :]
            for logs, at, known in of.weighed(self.place, more, self.nodes, wanted=True):
                y = np.concatenate(of.spread(factor, at - of.top), axis=1)
                # of the border, in its units: how far its gradient is from the normal's
                turned = solve_triangular(factor.root, known[0].T, lower=True).T + at - of.top
                r = np.concatenate(of.spread(factor, turned), axis=1)
                mean, square = r.copy(), r * y - own
                first, second = (v.reshape(len(at), -1) for v in known[1:])
                mean[:, :size] += first
                square[:, :size] += 2 * y[:, :size] * first + second
                y, left = y / unit, (r - y) / unit
                # the mean of each of these is 0, whatever the density
                zeros = left, 1 + y * left, 2 * y + y**2 * left
                table = np.stack([np.ones_like(y), *zeros, mean, square], axis=1)
                w = np.exp(logs)
                sums += np.tensordot(w, table, 1)
                table *= w[:, None, None]
                self._squares += np.einsum("nad,nbd->dab", table[:, :4], table)
        self._taken = max(self._taken, num_pairs)
        squares = self._squares
        regular = (
            squares[:, :4, :4]
            + 1e-9 * np.eye(4) * np.trace(squares[:, :4, :4], axis1=1, axis2=2)[:, None, None]
        )
        slopes = np.linalg.solve(regular, squares[:, :4, 4:])[:, 1:]
        means = self._sums[:, 1:] / self._sums[:, :1]
        means = means[:, 3:] - np.einsum("dab,lad->lbd", slopes, means[:, :3])
        mean, square = means[:, 0], means[:, 1]
        back = np.empty(arrow.dim, int)
        back[order] = np.arange(arrow.dim)
        variances = 1 + (square - mean**2) / variance
        return MemberMoments(((middle + mean) / np.sqrt(variance))[:, back], variances[:, back])


@dataclass(frozen=True)
class Effects:
    """What means and variances of the member have beside Laplace's.

    Means in sds of the normal at the mode, and variances as logarithms of their ratio to its; a
    quadratic along every axis of theta, without products of two.

    Parameters
    ----------
    of
        Where it was found.
    moments
        At the centre.
    bends
        By some lattices: what whitened coordinates of theta are to be multiplied by, and their
        squares, for means and for variances.
    by_nodes
        What more nodes over the largest family change of both at the centre.
    """

    of: WeighedPoints
    moments: MemberMoments
    bends: Float[np.ndarray, "lots terms 2 d"]
    by_nodes: Float[np.ndarray, "2 d"]

    @property
    def moved(self) -> float:
        """Sds by which more nodes change a mean at the centre, at most, or relative an sd."""
        return _moved(self.by_nodes)

    def _terms(self, theta: Float[np.ndarray, "rows G"]) -> Float[np.ndarray, "rows terms"]:
        x = level(self.of.whitened(theta))
        return np.concatenate([x, x**2], axis=1)

    def at(
        self, theta: Float[np.ndarray, " G"]
    ) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, " d"]]:
        """Return what is added to means, in sds of the normal, and what multiplies its sds."""
        bent = np.tensordot(self._terms(theta[None])[0], self.bends.mean(0), 1)
        ratio = _log_ratio(self.moments.variance.mean(0)) + bent[1]
        return self.moments.mean.mean(0) + bent[0], np.sqrt(_within(np.exp(ratio)))

    def errors(
        self, found: Integral, coordinate: Int[np.ndarray, " scalars"]
    ) -> Float[np.ndarray, "2 scalars"]:
        """Return errors that it leaves in means, in posterior sds, and relative ones of sds.

        Parameters
        ----------
        found
            The integral over theta that has it.
        coordinate
            Of the member, that each scalar is.
        """
        used = found.weights != 0
        w, terms = found.weights[used], self._terms(found.theta[used])
        mean, variance = found.swept.mean[used], found.swept.variance[used]
        sd = np.where(found.sd > 0, found.sd, np.inf)
        given = np.sqrt(np.maximum(w @ variance, 0.0)) / sd
        middle = w @ terms
        along = (w[:, None] * (terms - middle)).T @ ((mean - found.mean) / sd)
        parts = []
        for bend in self.bends - self.bends.mean(0):
            shift, ratio = (v[coordinate] for v in np.tensordot(middle, bend, 1))
            turn = (along * bend[:, 0][:, coordinate]).sum(0)
            parts.append([given * shift, given**2 * ratio / 2 + given * turn])
        noise = np.std(parts, axis=0, ddof=1) / np.sqrt(len(parts))
        shift, ratio = self.by_nodes[:, coordinate]
        nodes = np.stack([given * shift, given**2 * ratio / 2])
        centre = self.moments.errors[:, coordinate]
        return np.asarray(np.sqrt(noise**2 + nodes**2 + centre**2))


def effects_of(made: WeighedPoints, variance: float, moved: float) -> Effects:
    """Find what means and variances of the member have beside Laplace's.

    Parameters
    ----------
    made
        Where.
    variance
        Squared errors in sds that points at the centre may leave, unless they read too much.
    moved
        Sds that more nodes may change.
    """
    work, width = 2 * made.work * GRADIENT, made.density.arrow.local.shape[1]
    nodes = made.finer
    here = Sums(made, 0, nodes, 1).moments(FEWEST)
    while True:
        more = next((n for n in INNER_NODES if n > nodes.num_nodes), INNER_NODES[-2])
        others = make_nodes(more, width, False)
        there = Sums(made, 0, others, 1).moments(FEWEST)
        change = _departure(there)[0] - _departure(here)[0]
        if _moved(change) <= moved or more < nodes.num_nodes:
            break
        nodes, here = others, there
    sums = Sums(made, 0, nodes, NUM_LOTS)
    moments = sums.moments(FEWEST)
    pairs = enough(FEWEST, moments.errors.max() ** 2 / variance, work)
    if pairs > FEWEST:
        moments = sums.moments(pairs)
    return Effects(made, moments, _bends(made, pairs, work), change)


def _bends(made: WeighedPoints, pairs: int, work: float) -> Float[np.ndarray, "lots terms 2 d"]:
    """Return how both bend along the axes of theta, by fewer nodes: differences need no more."""
    dim = made.density.dim
    lots, work = NUM_LOTS, work * (2 * dim + 1)
    while pairs > FEWEST and pairs * work > MOST_BENT:
        pairs //= 2
    if pairs * work > MOST_BENT:
        lots = FEW_LOTS
    known = [
        _departure(Sums(made, place, made.inner, lots).moments(pairs))
        for place in range(1 + 2 * dim if dim else 0)
    ]
    if not known:
        return np.zeros((lots, 0, 2, made.density.arrow.dim))
    here, up, down = known[0], np.stack(known[1 : 1 + dim]), np.stack(known[1 + dim :])
    slope, bend = (up - down) / (2 * AXIS), (up + down - 2 * here) / (2 * AXIS**2)
    return np.concatenate([slope, bend]).swapaxes(0, 1)


def _moved(change: Float[np.ndarray, "2 d"]) -> float:
    return float(max(np.abs(change[0]).max(), np.abs(change[1]).max() / 2))


def _departure(moments: MemberMoments) -> Float[np.ndarray, "lots 2 d"]:
    return np.stack([moments.mean, _log_ratio(moments.variance)], axis=1)


def _log_ratio(variance: np.ndarray) -> np.ndarray:
    return np.asarray(np.log(_within(variance)))


def _within(ratio: np.ndarray) -> np.ndarray:
    return np.clip(ratio, 1 / RATIO, RATIO)
