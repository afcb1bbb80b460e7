"""What Laplace's approximation misses over crossed effects, by weighed points at a few thetas.

The largest family is integrated out by quadrature and points of all others weigh, around the mean
of their marginal density: the same points at every theta, so that noise hardly tilts what is added.
A quadratic in theta has it, and means and variances of all scalars are corrected along.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.linalg import solve_triangular
from scipy.special import logsumexp

from vi_recipes.algebra import ArrowFactor, Factor, Parts
from vi_recipes.core import Progress
from vi_recipes.importance import sobol_normals
from vi_recipes.latent import HALF_LOG_2PI
from vi_recipes.methods.nested.crossed_density import CrossedDensity, LaplaceAtTheta
from vi_recipes.methods.nested.lattice import WIDER
from vi_recipes.methods.nested.nodes import MemberNodes, make_nodes
from vi_recipes.methods.nested.over_border import InnerNodes, OverBorder
from vi_recipes.methods.nested.records import InnerError
from vi_recipes.model import Arrays

NUM_LOTS = 8
"""Lattices independent of one another: how much they differ is the error."""

AT_ONCE = 16
"""Points that one call computes."""

A_POINT = 1e4
"""Numbers that one reads, at least."""

AXIS, CORNER = 1.5, 1.0
"""Sds of theta along its axes at which Laplace's approximation is corrected, and of corners."""

MOST_CORNERS = 3
"""Coordinates of theta up to which they are all taken."""

SPARE = 4
"""Corners beside those that a quadratic needs, where they are not."""

FEWEST, MOST = 8, 8_192
"""Pairs of points of each lattice, powers of two."""

MOST_WORK = 5e8
"""Numbers that points at all thetas may read, and those at their centre: ten seconds' work."""

REACH = 15.0
"""Sds of theta towards which the correction levels off."""

INNER_NODES = (4, 6, 9, 15, 25)
"""Nodes a dimension of the largest family; each number is checked by the next."""

INNER = 0.01
"""Nats: sd over theta of what more of them change, up to which they are enough."""

NUM_STEPS = 3
"""Steps to the mean of the border, each by the average gradient over some points."""


class WeighedPoints:
    """Weighed points at a few thetas.

    Parameters
    ----------
    density
        Laplace's approximation.
    centre, cov
        Of theta, about.
    """

    def __init__(
        self,
        density: CrossedDensity,
        centre: Float[np.ndarray, " G"],
        cov: Float[np.ndarray, "G G"],
    ) -> None:
        self.density, self.centre, self.root = density, centre, np.linalg.cholesky(cov)
        arrow, family = density.arrow, density.columns.largest
        assert family is not None
        self.over = OverBorder(density.split, arrow, family, np.zeros(0, int))
        self.dim = arrow.border.size
        self.scale = 1 + WIDER / np.sqrt(self.dim)
        self.inner = make_nodes(INNER_NODES[0], family.width, False)
        """Over the largest family, for weights; and more of them, for its moments."""
        self.finer = make_nodes(INNER_NODES[1], family.width, False)
        self.places = places_of(density.dim)
        self.found: list[LaplaceAtTheta] = []
        for x in self.places:
            self.found.append(density.at(self.centre + self.root @ x))
        self.top = np.zeros(self.dim)
        self._logs: dict[tuple[int, int], np.ndarray] = {}  # of points so far, by place and lattice

    @property
    def failed(self) -> bool:
        """Whether a point has no mode."""
        return any(f.factor is None for f in self.found)

    def whitened(self, theta: Float[np.ndarray, "rows G"]) -> Float[np.ndarray, "rows G"]:
        """Return rows of theta in sds, from the centre."""
        return np.linalg.solve(self.root, (theta - self.centre).T).T

    @property
    def work(self) -> float:
        """Numbers that a point of every lattice reads, about."""
        rows = sum(s.size for s in self.density.target.observed) + self.density.arrow.dim
        return float(NUM_LOTS * max(rows * self.inner.count, A_POINT))

    # -- points of the border ----------------------------------------------------------------------

    def _placed(
        self, found: LaplaceAtTheta, x: Float[np.ndarray, "points border"]
    ) -> tuple[Any, ...]:
        """Return points of the border by their units, with the blocks where they then are."""
        assert found.factor is not None
        arrow = self.density.arrow
        size = arrow.local.size
        local, border = self.spread(found.factor, x)
        centre = found.z[arrow.order]
        local = (centre[:size] + local).reshape(len(x), *arrow.local.shape)
        return local, centre[size:] + border

    def _tables(self, nodes: MemberNodes) -> InnerNodes:
        return InnerNodes(*map(jnp.asarray, (nodes.points, nodes.log_weights, nodes.count)))

    def _traced(
        self,
        theta: jax.Array,
        at: tuple[jax.Array, jax.Array],
        inverse: jax.Array,
        nodes: InnerNodes,
        wanted: jax.Array,
        arrays: Arrays,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array, jax.Array]]:
        over, factor = self.over, _factor(inverse)
        shapes = at[1].shape[1], at[0].shape[1:], at[0].shape[1:]

        def of(at: tuple[jax.Array, jax.Array]) -> Any:
            value, logs = over.at_nodes(theta, Parts(*at), factor, nodes, arrays)
            weights = jax.nn.softmax(logs, axis=0)

            def known(_: None) -> tuple[jax.Array, ...]:
                away = jnp.einsum("tji,nj->nti", inverse, nodes.points)
                first = jnp.einsum("nt,nti->ti", weights, away)
                second = jnp.einsum("nt,nti->ti", weights, away**2)
                slope = over.slope_by(theta, Parts(*at), factor, (nodes, weights), arrays)
                return slope, first, second

            none = tuple(jnp.zeros(shape) for shape in shapes)
            return value, jax.lax.cond(wanted, known, lambda _: none, None)

        made: tuple[jax.Array, Any] = jax.lax.map(of, at)
        return made

    def _at(
        self, place: int, x: Float[np.ndarray, "points border"], inner: MemberNodes, *, wanted: bool
    ) -> tuple[Any, ...]:
        """Return log p(y, theta, border) at points in their units; that and what is known there.

        Some points, :data:`AT_ONCE`: gradients in the border, and the means and mean squares of
        blocks less where they are placed.
        """
        found = self.found[place]
        assert found.factor is not None
        theta = self.centre + self.root @ self.places[place]
        with jax.enable_x64(True):
            numbers = theta, self._placed(found, x), found.factor.inverse
            numbers = jax.tree.map(jnp.asarray, numbers)
            given = (*numbers, self._tables(inner), jnp.array(wanted), self.density.target.arrays())
            known = self.density.compiled("points", self._traced, *given)(*given)
        value, others = jax.tree.map(np.asarray, known)
        return value, *others

    def lean(self) -> None:
        """Put points around the mean of the border at the centre of theta."""
        found, top = self.found[0], np.zeros(self.dim)
        assert found.factor is not None
        half = sobol_normals(self.dim, AT_ONCE // 2, [77])
        away = np.concatenate([half, -half])
        for _ in range(NUM_STEPS):
            slope = self._at(0, top + away, self.inner, wanted=True)[1].mean(0)
            top = top + solve_triangular(found.factor.root, slope, lower=True)
        self.top = top

    def log_weights(
        self, place: int, normal: Float[np.ndarray, "pairs border"], inner: MemberNodes
    ) -> Float[np.ndarray, " points"]:
        """Return log weights of pairs of points, less Laplace's log p(y, theta)."""
        return np.concatenate([v[0] for v in self.weighed(place, normal, inner, wanted=False)])

    def weighed(
        self, place: int, normal: np.ndarray, inner: MemberNodes, *, wanted: bool
    ) -> Iterator[tuple[np.ndarray, np.ndarray, tuple[Any, ...]]]:
        """Yield log weights of points, the points in their units, and what is known there."""
        found = self.found[place]
        assert found.factor is not None
        constant = self.dim * (HALF_LOG_2PI + np.log(self.scale)) - found.log_p
        constant -= np.log(np.diag(found.factor.root)).sum()
        for first in range(0, len(normal), AT_ONCE // 2):
            half = normal[first : first + AT_ONCE // 2]
            x = np.concatenate([half, -half])
            at = self.top + self.scale * x
            value, *known = self._at(place, at, inner, wanted=wanted)
            logs = value + (x**2).sum(1) / 2 + constant
            yield np.where(np.isnan(logs), -np.inf, logs), at, tuple(known)

    def spread(
        self, factor: ArrowFactor, x: Float[np.ndarray, "points border"]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return steps of the border by their units, after those of the blocks that follow them."""
        local, border = factor.backward(np.zeros((self.density.arrow.local.size, len(x))), x.T)
        return local.T, border.T

    def lattice(self, num_pairs: int, lot: int) -> Float[np.ndarray, "pairs border"]:
        """Return points of the border of a lattice, one of each pair."""
        return sobol_normals(self.dim, num_pairs, [100 + lot])

    def choose_inner(self) -> InnerError:
        """Take as many nodes over the largest family as are needed, and return what more change."""
        normal = sobol_normals(self.dim, AT_ONCE // 2, [78])
        few = range(min(len(self.places), 1 + 2 * self.density.dim))
        w = self.density.arrow.local.shape[1]

        def log_means(nodes: MemberNodes) -> np.ndarray:
            return logsumexp([self.log_weights(k, normal, nodes) for k in few], axis=1)

        here = log_means(self.inner)
        for more in INNER_NODES[1:]:
            self.finer = make_nodes(more, w, False)
            there = log_means(self.finer)
            change = there - here
            if change.std() <= INNER or more == INNER_NODES[-1]:
                break
            self.inner, here = self.finer, there
        return InnerError.of(self.inner.num_nodes, more, change)

    def lots(
        self, num_pairs: int, progress: Progress
    ) -> tuple[Float[np.ndarray, "places lots"], Float[np.ndarray, " points"]]:
        """Return log mean weights at every theta by each lattice, and all at the centre."""
        count = len(self.places)
        for lot in range(NUM_LOTS):
            taken = len(self._logs.get((0, lot), ())) // 2
            more = self.lattice(num_pairs, lot)[taken:]
            for k in range(count):
                known = self._logs.get((k, lot), np.zeros(0))
                if len(more):
                    known = np.concatenate([known, self.log_weights(k, more, self.inner)])
                self._logs[k, lot] = known
                done = lot * count + k + 1
                progress(done, NUM_LOTS * count, "weighed points at a few points of the parameters")
        logs = np.stack([[self._logs[k, lot] for lot in range(NUM_LOTS)] for k in range(count)])
        every = logs[0].ravel()
        table = logsumexp(logs, axis=2) - np.log(logs.shape[2])
        return table, every


def _factor(inverse: jax.Array) -> Factor:
    """Return as much of a factor as nodes of the blocks take."""
    none = jnp.zeros((0, 0))
    return Factor(inverse, none, none, none)


def places_of(dim: int) -> Float[np.ndarray, "places dim"]:
    """Return points in whitened coordinates that tell a quadratic, the centre first."""
    axes = AXIS * np.concatenate([np.eye(dim), -np.eye(dim)])
    corners: np.ndarray
    if dim == 1:
        corners = CORNER / 2 * np.array([[1.0], [-1.0]])
    elif dim <= MOST_CORNERS:
        corners = CORNER * np.array(list(product((-1.0, 1.0), repeat=dim)))
    else:
        count = dim * (dim - 1) // 2 + SPARE
        corners = CORNER * np.random.default_rng(13).choice([-1.0, 1.0], (count, dim))
    return np.concatenate([np.zeros((1, dim)), axes, corners])


def level(x: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, "points dim"]:
    """Return whitened coordinates that level off far out."""
    far = np.sqrt(np.square(x).sum(1, keepdims=True)) / REACH
    return x * np.where(far > 0, np.tanh(far) / np.where(far > 0, far, 1.0), 1.0)


def enough(pairs: int, times: float, work: float) -> int:
    """Return pairs that make a variance so many times smaller, or the most that can be had."""
    while times > 1 and 2 * pairs <= MOST and 2 * pairs * work <= MOST_WORK:
        pairs, times = 2 * pairs, times / 2
    return pairs
