"""Crossed families: several large plates whose members share terms of the log density.

Students rate lecturers: neither family is local, since every member of one meets many of the other.
Within a family members are still independent given the rest. The matrix with the coupling of
different families left out is block-arrow, and preconditions conjugate gradients on the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.sparse import csr_array

from vi_recipes.algebra.block_arrow import VERIFIED, BlockArrow, LocalStructure

MIN_FAMILY = 32
"""Members from which a plate is a family; smaller ones go into the border."""


MAX_ITERATIONS = 200

CG_TOLERANCE = 1e-5
"""Relative reduction of the residual, in the preconditioner's norm."""


MULTIPLE = 16
"""Directions are padded to a multiple of this, so that one compilation serves any number."""


Push = Callable[[jax.Array], jax.Array]


@dataclass(frozen=True)
class Families:
    """Several families of members, each independent given the rest, and a border.

    Parameters
    ----------
    structure
        Border, and the members of all families below each other.
    sizes
        Number of members of each family.
    """

    structure: LocalStructure
    sizes: tuple[int, ...]

    def widened(self, copies: int) -> Families:
        """Return the families of a vector that holds ``copies`` parameters per coordinate."""
        return Families(self.structure.widened(copies), self.sizes)

    def basis(self) -> np.ndarray:
        """Return directions: the border's, each family's own coordinates, and random ones.

        Every family has as many directions as a member has coordinates, and a random one.
        """
        structure = self.structure
        size, width = structure.border.size, structure.local.shape[1]
        units = np.zeros((size, structure.dim))
        units[np.arange(size), structure.border] = 1.0
        rows = [units]
        rng = np.random.default_rng(3)
        for members in self._members():
            own = np.zeros((width + 1, structure.dim))
            for k in range(width):
                own[k, members[:, k]] = 1.0
            own[-1, members.ravel()] = rng.standard_normal(members.size)
            rows.append(own)
        return pad(np.concatenate(rows))

    def assemble(self, products: np.ndarray, metric: np.ndarray) -> tuple[BlockArrow, float]:
        """Return the matrix without the coupling of families, and the error of that within one."""
        structure = self.structure
        size, width = structure.border.size, structure.local.shape[1]
        basis = self.basis()
        blocks, error = [], 0.0
        first = size
        for members in self._members():
            own = np.moveaxis(products[first : first + width][:, members], 0, -1)
            blocks.append((own + np.swapaxes(own, -1, -2)) / 2)
            found = products[first + width][members]
            expected = np.einsum("tij,tj->ti", own, basis[first + width][members])
            scale = max(float(np.abs(found).max()), 1e-300)
            error = max(error, float(np.abs(found - expected).max()) / scale)
            first += width + 1
        corner = products[:size, structure.border]
        edge = products[:size][:, structure.local]
        matrix = BlockArrow(
            structure, (corner + corner.T) / 2, edge, np.concatenate(blocks), metric
        )
        return matrix, error

    def full(
        self, products: np.ndarray, couplings: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]
    ) -> csr_array:
        """Return the whole matrix, sparse.

        Parameters
        ----------
        products
            Along :meth:`basis`.
        couplings
            Row, column and value of the entries between members of unlike families, each once;
            those of one family are left out, and equal places are added up.
        """
        structure = self.structure
        size, width = structure.border.size, structure.local.shape[1]
        family = np.full(structure.dim, -1)
        rows: list[np.ndarray] = []
        columns: list[np.ndarray] = []
        values: list[np.ndarray] = []

        def add(i: np.ndarray, j: np.ndarray, v: np.ndarray) -> None:
            for total, part in ((rows, i), (columns, j), (values, v)):
                total.append(np.broadcast_to(part, v.shape).ravel())

        add(structure.border[:, None], structure.border, products[:size, structure.border])
        edge = products[:size][:, structure.local]
        place = structure.border[:, None, None]
        add(place, structure.local, edge)
        add(structure.local, place, edge)
        first = size
        for number, members in enumerate(self._members()):
            family[members] = number
            own = np.moveaxis(products[first : first + width][:, members], 0, -1)
            add(members[:, :, None], members[:, None, :], own)
            first += width + 1
        for i, j, v in couplings:
            apart = (family[i] != family[j]) & (family[i] >= 0) & (family[j] >= 0)
            add(i[apart], j[apart], v[apart])
            add(j[apart], i[apart], v[apart])
        entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
        return csr_array(entries, shape=(structure.dim, structure.dim))

    def _members(self) -> list[np.ndarray]:
        return np.split(self.structure.local, np.cumsum(self.sizes)[:-1])


def pad(rows: np.ndarray) -> np.ndarray:
    """Return ``rows`` with rows of zeros, up to a multiple of :data:`MULTIPLE`."""
    missing = -len(rows) % MULTIPLE
    return np.concatenate([rows, np.zeros((missing, rows.shape[1]))])


class Crossed:
    """A Hessian with crossed families, by its products and a preconditioner.

    Parameters
    ----------
    preconditioner
        The matrix without the coupling of families.
    run
        ``run(gradient, inverse, radius) -> (step, product, curved)``: compiled conjugate gradients
        from :func:`steihaug` at the point in question.
    """

    def __init__(
        self,
        preconditioner: BlockArrow,
        run: Callable[[np.ndarray, Any, float], tuple[Any, Any, Any]],
    ) -> None:
        self._matrix, self._run = preconditioner, run
        self._known: tuple[bytes, np.ndarray, np.ndarray, bool] | None = None

    @cached_property
    def _shift(self) -> float:
        """Multiple of the metric that makes the preconditioner positive definite."""
        shift = 0.0
        while not self._matrix.positive_with(shift):
            shift = max(4 * shift, 1e-3)
        return shift

    @cached_property
    def _inverse(self) -> tuple[np.ndarray, ...]:
        return self._matrix.inverse_parts(self._shift)

    def _newton(self, gradient: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
        key = gradient.tobytes()
        if self._known is None or self._known[0] != key:
            step, product, curved = self._run(gradient, self._inverse, np.inf)
            self._known = key, np.asarray(step), np.asarray(product), bool(curved)
        return self._known[1:]

    def step(self, gradient: np.ndarray, radius: float) -> np.ndarray:
        """Return a step that lowers the quadratic model as far as truncated gradients do."""
        step, product, curved = self._newton(gradient)
        if curved or self.norm(step) > radius:
            found, product, _ = self._run(gradient, self._inverse, radius)
            step = np.asarray(found)
        self._product = step, np.asarray(product)
        return step

    def dot(self, vector: np.ndarray) -> np.ndarray:
        """Return H times the last step."""
        assert vector is self._product[0]
        return self._product[1]

    def norm(self, vector: np.ndarray) -> float:
        """Return the length in the preconditioner's norm."""
        shifted = self._matrix.dot(vector) + self._shift * self._matrix.metric * vector
        return float(np.sqrt(max(vector @ shifted, 0.0)))

    def solve(self, vector: np.ndarray) -> np.ndarray:
        """Return H^-1 times a vector, for positive-definite H."""
        return -self._newton(vector)[0]

    def decrement(self, gradient: np.ndarray) -> float:
        """Return sqrt(g' H^-1 g); infinite where a direction of negative curvature was met."""
        if not gradient.any():
            return 0.0
        step, _, curved = self._newton(gradient)
        return float("inf") if curved else float(np.sqrt(max(-gradient @ step, 0.0)))


def steihaug(
    push: Push,
    structure: LocalStructure,
    gradient: jax.Array,
    inverse: tuple[jax.Array, ...],
    radius: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Minimise g'x + x'Hx / 2 by preconditioned conjugate gradients, stopping at the radius.

    Parameters
    ----------
    push
        x -> Hx.
    structure, inverse
        Of the preconditioner; see :meth:`BlockArrow.inverse_parts`.
    gradient, radius
        g, and the radius in the preconditioner's norm.

    Returns
    -------
    tuple
        x, Hx, and whether negative curvature was met.

    References
    ----------
    Steihaug, T. (1983). The conjugate gradient method and trust regions in large scale
    optimization. SIAM J. Numer. Anal. 20(3). doi:10.1137/0720042
    """
    blocks, edge, corner = inverse
    border, local = structure.border, structure.local

    def precondition(v: jax.Array) -> jax.Array:
        turned = jnp.einsum("tij,tj->ti", blocks, v[local])
        solved = corner @ (v[border] - jnp.einsum("gti,ti->g", edge, turned))
        back = turned - jnp.einsum("tij,tj->ti", blocks, jnp.einsum("gti,g->ti", edge, solved))
        return jnp.zeros_like(v).at[border].set(solved).at[local].set(back)

    y = precondition(gradient)
    zero = jnp.zeros_like(gradient)
    first = gradient @ y
    # x, Hx, r, p, r'y, x'Px, x'Pp, p'Pp, iteration, done, curved
    state = (
        zero,
        zero,
        gradient,
        -y,
        first,
        0.0 * first,
        0.0 * first,
        first,
        0,
        zero[0] != 0,
        zero[0] != 0,
    )

    def going(state: Any) -> jax.Array:
        small = state[4] <= CG_TOLERANCE**2 * first
        return ~state[9] & ~small & (state[8] < MAX_ITERATIONS)

    def body(state: Any) -> Any:
        x, hx, r, p, ry, xx, xp, pp, i, _, _ = state
        hp = push(p)
        curvature = p @ hp
        curved = curvature <= 0
        alpha = ry / jnp.where(curved, 1.0, curvature)
        longer = xx + 2 * alpha * xp + alpha**2 * pp
        stop = curved | (longer >= radius**2)
        bounded = jnp.where(jnp.isfinite(radius), radius, jnp.sqrt(xx + pp))
        root = jnp.sqrt(jnp.maximum(xp**2 + pp * (bounded**2 - xx), 0.0))
        length = jnp.where(stop, (root - xp) / pp, alpha)
        x, hx, r = x + length * p, hx + length * hp, r + length * hp
        y = precondition(r)
        new = r @ y
        beta = new / ry
        xx = xx + 2 * length * xp + length**2 * pp
        xp = beta * (xp + length * pp)
        pp = new + beta**2 * pp
        return x, hx, r, -y + beta * p, new, xx, xp, pp, i + 1, stop, curved

    x, hx, *_, curved = jax.lax.while_loop(going, body, state)
    return x, hx, curved


def verified(error: float) -> bool:
    """Whether the members of every family are independent given the rest."""
    return bool(np.isfinite(error) and error <= VERIFIED)
