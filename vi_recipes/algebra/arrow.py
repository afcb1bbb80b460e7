"""Symmetric matrices of small blocks, each of which touches a border in a few places.

Crossed effects with many members in both families are so: a student is rated by few of all
lecturers. Blocks are eliminated and what is left of the border, its Schur complement, is one dense
matrix. Factorised outside compiled code: products of sparse matrices are SciPy's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.linalg import cholesky, solve_triangular
from scipy.linalg.lapack import dpotri
from scipy.sparse import bsr_array, csr_array, vstack

from vi_recipes.algebra.block_arrow import BlockArrow
from vi_recipes.algebra.bordered import Parts
from vi_recipes.algebra.edges import edge_of
from vi_recipes.algebra.local_structure import LocalStructure

Vectors = Float[np.ndarray, "dim *many"]


@dataclass(frozen=True)
class Arrow:
    """Where the entries of such a matrix are.

    Parameters
    ----------
    local
        Coordinates of the blocks, shape (blocks, w).
    border
        All others.
    rows, columns
        Places of the entries that :meth:`factorise` is given, on one side of the diagonal or on it;
        -1 for none.
    """

    local: Int[np.ndarray, "blocks w"]
    border: Int[np.ndarray, " border"]
    rows: Int[np.ndarray, " entries"]
    columns: Int[np.ndarray, " entries"]

    @property
    def dim(self) -> int:
        """Rows of the matrix."""
        return self.local.size + self.border.size

    @cached_property
    def order(self) -> Int[np.ndarray, " dim"]:
        """Coordinates, those of blocks first."""
        return np.concatenate([self.local.ravel(), self.border])

    @cached_property
    def _back(self) -> Int[np.ndarray, " dim"]:
        return np.argsort(self.order)

    def split(self, vector: Float[Array, " dim"]) -> Parts:
        """Return a vector in parts; pure."""
        return Parts(vector[self.local], vector[self.border])

    def join(self, parts: Parts) -> Float[Array, " dim"]:
        """Return the vector that the parts are of; pure."""
        return jnp.concatenate([parts.local.ravel(), parts.border])[self._back]

    @cached_property
    def _sides(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Entries that are real, and both their places, the lower one first."""
        place = np.empty(self.dim, int)
        place[self.order] = np.arange(self.dim)
        real = np.flatnonzero((self.rows >= 0) & (self.columns >= 0))
        a, b = place[self.rows[real]], place[self.columns[real]]
        return real, np.minimum(a, b), np.maximum(a, b)

    @cached_property
    def _touched(self) -> tuple[Int[np.ndarray, " pairs"], Int[np.ndarray, " pairs"]]:
        """Blocks and coordinates of the border that they touch, block by block."""
        _, a, b = self._sides
        size, (w, g) = self.local.size, (self.local.shape[1], self.border.size)
        met = (a < size) & (b >= size)
        found = np.unique(a[met] // w * g + b[met] - size)
        return found // g, found % g

    @property
    def pairs(self) -> int:
        """Products that the Schur complement is the sum of, about."""
        return int(np.square(np.bincount(self._touched[0])).sum()) * self.local.shape[1]

    @property
    def entries(self) -> int:
        """Numbers that a factor has, about."""
        w = self.local.shape[1]
        return self.local.size * w + self._touched[0].size * w + self.border.size**2

    @cached_property
    def _kinds(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where entries are within a block, between blocks and border, and within the border."""
        _, a, b = self._sides
        size = self.local.size
        return b < size, (a < size) & (b >= size), a >= size

    @cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of the entries of each kind, in tables of their own."""
        _, a, b = self._sides
        inside, between, corner = self._kinds
        size, (w, g) = self.local.size, (self.local.shape[1], self.border.size)
        block, touched = self._touched
        pair = np.searchsorted(block * g + touched, a[between] // w * g + b[between] - size)
        return (
            b[inside] * w + a[inside] % w,
            pair * w + a[between] % w,
            (b[corner] - size) * g + a[corner] - size,
        )

    def factorise(
        self, entries: Float[np.ndarray, " entries"], more: float = 0.0, scale: float = 0.0
    ) -> ArrowFactor | None:
        """Return the factor of the matrix; ``None`` where it is not positive definite.

        Parameters
        ----------
        entries
            Added up where they share a place.
        more
            Added to the diagonal.
        scale
            And such a share of it.
        """
        real = entries[self._sides[0]]
        if not np.isfinite(real).all():
            return None
        (blocks, w), g = self.local.shape, self.border.size
        tables = [
            np.bincount(place, weights=real[kind], minlength=size)
            for place, kind, size in zip(
                self._places,
                self._kinds,
                (blocks * w * w, self._touched[0].size * w, g * g),
                strict=True,
            )
        ]
        own = tables[0].reshape(blocks, w, w)
        own = np.tril(own) + np.swapaxes(np.tril(own, -1), 1, 2)
        corner = tables[2].reshape(g, g)
        on_diagonal = np.arange(w), np.arange(w)
        own[:, on_diagonal[0], on_diagonal[1]] *= 1 + scale
        own[:, on_diagonal[0], on_diagonal[1]] += more
        corner[np.arange(g), np.arange(g)] *= 1 + scale
        corner[np.arange(g), np.arange(g)] += more
        try:
            inverse = _inverse_roots(own)
            carried = self._carried(inverse, tables[1].reshape(-1, w))
            left = corner - (carried.T @ carried).toarray()
            root = cholesky(left, lower=True, overwrite_a=True, check_finite=False)
        except np.linalg.LinAlgError:
            return None
        return ArrowFactor(self, inverse, carried, root)

    @cached_property
    def _csr(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where the numbers of pairs go in a sparse matrix with a row for each local coordinate."""
        block, touched = self._touched
        blocks, w = self.local.shape
        rows = (block[:, None] * w + np.arange(w)).ravel()
        order = np.argsort(rows, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=blocks * w))])
        return order, np.repeat(touched, w)[order].astype(np.int32), starts.astype(np.int32)

    def _carried(self, inverse: np.ndarray, edge: np.ndarray) -> csr_array:
        block = self._touched[0]
        numbers = np.einsum("pij,pj->pi", inverse[block], edge)
        order, columns, starts = self._csr
        shape = self.local.size, self.border.size
        return csr_array((numbers.ravel()[order], columns, starts), shape=shape)


@dataclass(frozen=True)
class ArrowFactor:
    """The lower factor L of a matrix, blocks before border.

    Parameters
    ----------
    arrow
        Where entries are.
    inverse
        The inverses of L's diagonal blocks.
    carried
        The transpose of L's border rows.
    root
        L's corner.
    """

    arrow: Arrow
    inverse: Float[np.ndarray, "blocks w w"]
    carried: csr_array
    root: Float[np.ndarray, "border border"]

    @property
    def half_log_det(self) -> float:
        """Half the logarithm of the matrix's determinant."""
        local = np.log(np.diagonal(self.inverse, axis1=1, axis2=2)).sum()
        return float(np.log(np.diag(self.root)).sum() - local)

    def _blocks(self, vectors: np.ndarray, *, transposed: bool = False) -> np.ndarray:
        """Return the inverses of L's blocks, or their transposes, times vectors."""
        blocks, w = self.arrow.local.shape
        if w == 1:
            return np.asarray(self.inverse[:, 0] * vectors)
        turned = vectors.reshape(blocks, w, -1)
        how = "tji,tjm->tim" if transposed else "tij,tjm->tim"
        return np.einsum(how, self.inverse, turned).reshape(vectors.shape)

    def backward(
        self, local: Float[np.ndarray, "local many"], border: Float[np.ndarray, "border many"]
    ) -> tuple[Float[np.ndarray, "local many"], Float[np.ndarray, "border many"]]:
        """Return L'^-1 times vectors in parts: of standard normals, draws with that covariance."""
        moved = solve_triangular(self.root, border, lower=True, trans="T", check_finite=False)
        return self._blocks(local - self.carried @ moved, transposed=True), moved

    def solve(self, vectors: Vectors) -> Vectors:
        """Return the matrix's inverse times vectors, in the order of coordinates."""
        many = vectors.reshape(len(vectors), -1)
        size = self.arrow.local.size
        turned = many[self.arrow.order]
        local = self._blocks(turned[:size])
        border = turned[size:] - self.carried.T @ local
        border = solve_triangular(self.root, border, lower=True, check_finite=False)
        return self.join(*self.backward(local, border)).reshape(vectors.shape)

    def join(self, local: np.ndarray, border: np.ndarray) -> np.ndarray:
        """Return vectors in the order of coordinates."""
        made = np.empty((self.arrow.dim, local.shape[1]))
        made[self.arrow.order] = np.concatenate([local, border])
        return made

    def times(self, vector: Float[np.ndarray, " dim"]) -> Float[np.ndarray, " dim"]:
        """Return the matrix times a vector, as its factor has it."""
        size = self.arrow.local.size
        turned = vector[self.arrow.order][:, None]
        roots = np.linalg.inv(self.inverse)
        blocks, w = self.arrow.local.shape

        def own(x: np.ndarray, how: str) -> np.ndarray:
            return np.einsum(how, roots, x.reshape(blocks, w)).reshape(-1, 1)

        border = turned[size:]
        y = own(turned[:size], "tji,tj->ti") + self.carried @ border
        low = self.carried.T @ y + self.root @ (self.root.T @ border)
        return self.join(own(y, "tij,tj->ti"), low)[:, 0]

    def joined(
        self,
        slopes: Float[np.ndarray, "dim others"],
        information: Float[np.ndarray, "others others"],
        structure: LocalStructure,
    ) -> BlockArrow:
        """Return the precision of other variables and these, whose precision given those it is.

        Parameters
        ----------
        slopes
            Of the mean of these in the others.
        information
            The precision of the others alone.
        structure
            Blocks as here; the others come first in its border, and then the border here.
        """
        size, (blocks, w) = self.arrow.local.size, self.arrow.local.shape
        roots = np.linalg.inv(self.inverse)
        own = bsr_array((roots, np.arange(blocks), np.arange(blocks + 1)), shape=(size, size))
        pushed = np.stack([self.times(slope) for slope in slopes.T], axis=1)
        first = information + slopes.T @ pushed
        turned = pushed[self.arrow.order]
        mixed = -turned[size:].T
        last = self.root @ self.root.T + (self.carried.T @ self.carried).toarray()
        corner = np.block([[(first + first.T) / 2, mixed], [mixed.T, last]])
        edge = vstack([csr_array(-turned[:size].T), csr_array((own @ self.carried).T)])
        return BlockArrow(
            structure,
            corner,
            edge_of(csr_array(edge), w),
            roots @ np.swapaxes(roots, 1, 2),
            np.ones(structure.dim),
        )

    @cached_property
    def _inverses(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The inverse of the matrix: its blocks, all blocks with the border, and the corner."""
        lower, _ = dpotri(self.root, lower=True)
        corner = np.tril(lower) + np.tril(lower, -1).T
        blocks, w = self.arrow.local.shape
        through = self.carried @ corner
        block = np.repeat(np.arange(blocks * w), np.diff(self.carried.indptr))
        own = np.zeros((blocks, w, w))
        for b in range(w):
            # of row a of a block with its row b, both of which touch the same of the border
            other = through.reshape(blocks, w, -1)[block // w, b, self.carried.indices]
            sums = np.bincount(block, weights=self.carried.data * other, minlength=blocks * w)
            own[:, :, b] = sums.reshape(blocks, w)
        own += np.eye(w)
        own = np.einsum("tji,tjk,tkl->til", self.inverse, own, self.inverse)
        return own, -self._blocks(through, transposed=True), corner

    def variances(self) -> Float[np.ndarray, " dim"]:
        """Return the diagonal of the matrix's inverse."""
        own, _, corner = self._inverses
        made = np.empty(self.arrow.dim)
        local = np.diagonal(own, axis1=1, axis2=2).ravel()
        made[self.arrow.order] = np.concatenate([local, np.diag(corner)])
        return made

    def slopes_of_log_det(self) -> Float[np.ndarray, " entries"]:
        """Return the derivatives of the logarithm of the determinant by the entries."""
        real, a, b = self.arrow._sides
        size, w = self.arrow.local.size, self.arrow.local.shape[1]
        own, between, corner = self._inverses
        inside, mixed, outside = self.arrow._kinds
        found = np.empty(len(real))
        found[inside] = own[a[inside] // w, a[inside] % w, b[inside] % w]
        found[mixed] = between[a[mixed], b[mixed] - size]
        found[outside] = corner[a[outside] - size, b[outside] - size]
        slopes = np.zeros(len(self.arrow.rows))
        slopes[real] = np.where(a == b, 1.0, 2.0) * found
        return slopes


def _inverse_roots(matrices: Float[np.ndarray, "blocks w w"]) -> Float[np.ndarray, "blocks w w"]:
    """Return the inverses of the lower Cholesky factors."""
    if matrices.shape[1] == 1:
        if not (matrices > 0).all():
            raise np.linalg.LinAlgError
        return np.asarray(1 / np.sqrt(matrices))
    return np.asarray(np.linalg.inv(np.linalg.cholesky(matrices)))
