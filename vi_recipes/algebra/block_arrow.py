"""Block-arrow matrices: one small block per member of a plate, with a border.

In y_n ~ p(. | theta, u_g(n)), u_t ~ p(. | theta) no two members of the plate of u share a term of
the log joint density. Its Hessian is then a block-arrow matrix: a d x d block for each of the T
members, and a dense border for the G other coordinates. Everything that is needed of it costs
O(T d^3 + T d G^2), and no T x T matrix is formed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import solve_triangular
from scipy.linalg.lapack import dpotri
from scipy.sparse import csr_array
from scipy.sparse.linalg import LinearOperator, eigsh

from vi_recipes.algebra.edges import Edge, by_member, edge_of, flattened, turned
from vi_recipes.algebra.factorised import Factorised
from vi_recipes.algebra.local_structure import LocalStructure
from vi_recipes.algebra.newton import shifted_step

VERIFIED = 1e-8
"""Relative error of a Hessian-vector product up to which a structure counts as verified."""

AT_ONCE = 4_000_000
"""Covariances of the border that are read side by side."""

SparseRow = tuple[Int[np.ndarray, " _"], Float[np.ndarray, " _"]]
"""A row of a matrix: the columns at which it is not zero, and its values there."""


class BlockArrow(Factorised):
    """A symmetric block-arrow matrix H: recovered, inverted, and stepped by.

    Parameters
    ----------
    structure, corner, edge, blocks, metric
        As for :class:`Factorised`.
    """

    @classmethod
    def recover(
        cls,
        structure: LocalStructure,
        products: Float[np.ndarray, "directions dim"],
        metric: Float[np.ndarray, " dim"] | None = None,
    ) -> BlockArrow:
        """Return the matrix from the Hessian-vector products along the structure's basis.

        Parameters
        ----------
        structure
            Gives the basis, :meth:`LocalStructure.basis`.
        products
            Shape (G + d + 1, dim); the last row is not used.
        metric
            Diagonal of the matrix that measures steps; ones by default.
        """
        num_border = structure.border.size
        corner = products[:num_border, structure.border]
        edge = products[:num_border][:, structure.local]
        blocks = np.moveaxis(products[num_border:-1][:, structure.local], 0, -1)
        return cls(
            structure,
            (corner + corner.T) / 2,
            edge,
            (blocks + np.swapaxes(blocks, -1, -2)) / 2,
            np.ones(structure.dim) if metric is None else metric,
        )

    @classmethod
    def from_sparse(
        cls, structure: LocalStructure, matrix: csr_array, metric: Float[np.ndarray, " dim"]
    ) -> BlockArrow:
        """Return a sparse matrix that has the structure in block-arrow form."""
        border = matrix[structure.border]
        members, width = structure.local.shape
        edge = edge_of(border[:, structure.local.ravel()], width)
        blocks = np.empty((members, width, width))
        for k in range(width):
            for j in range(width):
                blocks[:, k, j] = matrix[structure.local[:, k], structure.local[:, j]]
        return cls(structure, border[:, structure.border].toarray(), edge, blocks, metric)

    @property
    def log_det(self) -> float:
        """Log determinant of H, for positive-definite H."""
        diagonal = np.diag(self.positive_factor)
        values = self.spectral[0]
        return float(2 * np.log(diagonal).sum() + np.log(values).sum() + np.log(self.metric).sum())

    def condition(self) -> float:
        """Return the larger condition number of the Schur complement and of the worst block.

        Each scaled to unit diagonal; for positive-definite H.
        """
        factor = self.positive_factor
        schur = factor @ factor.T
        scale = 1 / np.sqrt(np.diag(schur))
        worst = float(np.linalg.cond(schur * np.outer(scale, scale))) if scale.size else 1.0
        if self.blocks.shape[-1] > 1:
            scale = 1 / np.sqrt(np.einsum("tii->ti", self.blocks))
            scaled = np.linalg.eigvalsh(self.blocks * scale[:, :, None] * scale[:, None, :])
            worst = max(worst, float((scaled[:, -1] / scaled[:, 0]).max()))
        return worst

    def num_negative(self) -> int:
        """Return how many eigenvalues are negative (Haynsworth's inertia additivity)."""
        values = self.spectral[0]
        negative = int(self._sum(np.array([(values < 0).sum()], float))[0])
        if self.structure.border.size:
            negative += int((np.linalg.eigvalsh(self.schur(0.0)) < 0).sum())
        return negative

    def extreme_eigenvalues(self) -> tuple[float, float, Float[np.ndarray, " dim"]]:
        """Return the smallest and largest eigenvalue, and the vector of the smallest."""
        size = self.structure.dim
        if size <= 300 or not self.structure.local.size:
            dense = np.column_stack([self.dot(row) for row in np.eye(size)])
            values, vectors = np.linalg.eigh((dense + dense.T) / 2)
            return float(values[0]), float(values[-1]), vectors[:, 0]
        operator = LinearOperator((size, size), matvec=self.dot, dtype=float)
        start = np.random.default_rng(0).standard_normal(size)
        largest = eigsh(operator, 1, which="LA", v0=start, return_eigenvectors=False, tol=1e-3)
        if self.positive:
            inverse = LinearOperator((size, size), matvec=self.solve, dtype=float)
            value, vector = eigsh(inverse, 1, which="LA", v0=start, tol=1e-6)
            return float(1 / value[0]), float(largest[0]), vector[:, 0]
        value, vector = eigsh(operator, 1, which="SA", v0=start, tol=1e-3, maxiter=50 * size)
        return float(value[0]), float(largest[0]), vector[:, 0]

    # -- its inverse, a covariance ---------------------------------------------------------------

    @cached_property
    def _gain(self) -> Edge:
        """Blocks^-1 times the edge, in the metric and turned back, shaped as the edge."""
        values, vectors, edge = self.spectral
        turn = np.swapaxes(vectors, 1, 2) / values[:, :, None]
        return turned(edge, np.ones(self.structure.border.size), turn)

    @cached_property
    def _flat_gain(self) -> np.ndarray | csr_array:
        """The gain as a matrix."""
        return flattened(self._gain)

    def gain_of(
        self, combined: Float[np.ndarray, "members width k"]
    ) -> Float[np.ndarray, "border columns"] | csr_array:
        """Return the gain of combinations of each member's coordinates, all in the metric.

        Their mean, given the border, is minus the border times it; shape (G, T k).
        """
        return flattened(turned(self._gain, np.ones(self.structure.border.size), combined))

    @cached_property
    def _border_cov(self) -> np.ndarray:
        """Covariance of the border in the metric: the inverse Schur complement."""
        factor = self.positive_factor
        if not factor.size:
            return factor
        upper, _ = dpotri(factor.T, lower=False)  # transposed it is as LAPACK has it
        cov = np.asarray(upper.T + upper)
        cov[np.diag_indices(len(cov))] /= 2
        return cov

    def _spread(self, gain: np.ndarray) -> np.ndarray:
        """Return L^-1 of a dense gain, whose products add up over the border, shape (G, T, d)."""
        spread = solve_triangular(self.positive_factor, flattened(gain), lower=True)
        return np.asarray(spread.reshape(gain.shape))

    def _through_border(self) -> Float[np.ndarray, "members width width"]:
        """Return what the border adds to the covariance of every member, shape (T, d, d)."""
        if isinstance(self._gain, np.ndarray):
            spread = self._spread(self._gain)
            return np.asarray(np.einsum("gti,gtj->tij", spread, spread))
        # of the border only what a member's edge touches counts
        starts, rows, parts = by_member(self._gain)
        counts = np.diff(starts)
        out = np.zeros_like(self.blocks)
        for count in np.unique(counts[counts > 0]):
            alike = np.flatnonzero(counts == count)
            for some in np.array_split(alike, -(-alike.size * count**2 // AT_ONCE)):
                places = starts[some][:, None] + np.arange(count)
                touched, gain = rows[places], parts[places]
                cov = self._border_cov[touched[:, :, None], touched[:, None, :]]
                out[some] = np.swapaxes(gain, 1, 2) @ (cov @ gain)
        return out

    def variances(self) -> Float[np.ndarray, " dim"]:
        """Return the diagonal of H^-1, shape (dim,)."""
        values, vectors, _ = self.spectral
        if isinstance(self._gain, np.ndarray):
            added = (self._spread(self._gain) ** 2).sum(axis=0)
        else:
            added = np.einsum("tii->ti", self._through_border())
        local = np.einsum("tij,tj->ti", vectors**2, 1 / values) + added
        return np.asarray(self.join(np.diag(self._border_cov), local) / self.metric)

    def covariance_parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return parts of H^-1: the border (G, G), members with it (T, d, G), members (T, d, d)."""
        values, vectors, _ = self.spectral
        border, local = self.split(self.metric**-0.5)
        cross = -(self._flat_gain.T @ self._border_cov).reshape(*local.shape, border.size)
        members = np.einsum("tij,tj,tkj->tik", vectors, 1 / values, vectors)
        members += self._through_border()
        return (
            self._border_cov * np.outer(border, border),
            cross * local[:, :, None] * border,
            members * local[:, :, None] * local[:, None, :],
        )

    def pair_covariances(self) -> Float[np.ndarray, "pairs 2 2"]:
        """Return the 2 x 2 blocks of H^-1 of coordinates (0, 1), (2, 3), ..., (dim / 2, 2, 2)."""
        values, vectors, _ = self.spectral
        size, (members, width) = self.structure.border.size, self.structure.local.shape
        alone = np.einsum("tij,tj,tkj->tik", vectors, 1 / values, vectors)
        place = np.empty((self.structure.dim, 2), int)
        place[self.structure.border] = [[-1, 0]]
        place[self.structure.border, 1] = np.arange(size)
        if members:
            grid = np.indices((members, width))
            place[self.structure.local] = np.moveaxis(grid, 0, -1)
        first, second = place[0::2], place[1::2]
        out = np.empty((self.structure.dim // 2, 2, 2))
        in_border = first[:, 0] < 0
        rows = np.stack([first[in_border, 1], second[in_border, 1]], axis=1)
        out[in_border] = self._border_cov[rows[:, :, None], rows[:, None, :]]
        t, k, j = first[~in_border, 0], first[~in_border, 1], second[~in_border, 1]
        both = np.stack([k, j], axis=1)
        pairs = t[:, None, None], both[:, :, None], both[:, None, :]
        out[~in_border] = (alone + self._through_border())[pairs]
        scale = np.stack([self.metric[0::2], self.metric[1::2]], axis=1) ** -0.5
        return np.asarray(out * scale[:, :, None] * scale[:, None, :])

    def sandwich_diagonal(self, slopes: Sequence[SparseRow]) -> Float[np.ndarray, " rows"]:
        """Return the diagonal of J H^-1 J' for the rows of J."""
        out = np.empty(len(slopes))
        for k, (columns, values) in enumerate(slopes):
            full = np.zeros(self.structure.dim)
            full[columns] = values
            out[k] = full @ self.solve(full)
        return out

    def covariance(self, rows: Int[np.ndarray, " rows"]) -> Float[np.ndarray, "rows rows"]:
        """Return the block of H^-1 that belongs to the coordinates ``rows``."""
        return self.sandwich(_selection(rows))

    def sandwich(self, slopes: Sequence[SparseRow]) -> Float[np.ndarray, "rows rows"]:
        """Return J H^-1 J' for a sparse J, given as (columns, values) of each row."""
        factor = self.positive_factor
        values, vectors, _ = self.spectral
        position, member = self._places
        size = len(factor)
        gain = self._flat_gain
        gain = gain if isinstance(gain, np.ndarray) else gain.tocsc()  # whose columns are asked for
        width = self.structure.local.shape[1]
        scaled = [(c, v / np.sqrt(self.metric[c])) for c, v in slopes]
        # x = (x_b, x_l): x' H^-1 y = (x_b - gain x_l)' S^-1 (y_b - gain y_l) + x_l' blocks^-1 y_l
        reduced = np.zeros((size, len(scaled)))
        by_member: dict[int, list[tuple[int, np.ndarray]]] = {}
        for row, (columns, slope) in enumerate(scaled):
            in_border = member[columns] < 0
            np.add.at(reduced[:, row], position[columns[in_border]], slope[in_border])
            local, local_slope = position[columns[~in_border]], slope[~in_border]
            if local.size:
                reduced[:, row] -= gain[:, local] @ local_slope
                for t in np.unique(local // width):
                    of_member = local // width == t
                    vector = np.zeros(width)
                    np.add.at(vector, local[of_member] % width, local_slope[of_member])
                    by_member.setdefault(int(t), []).append((row, vector))
        half = solve_triangular(factor, reduced, lower=True)
        result = half.T @ half
        for t, entries in by_member.items():
            rows = np.array([row for row, _ in entries])
            turned = np.stack([vector for _, vector in entries]) @ vectors[t]
            result[np.ix_(rows, rows)] += (turned / values[t]) @ turned.T
        return np.asarray(result)

    @cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray]:
        """Where each coordinate is: its place in its part, and its member (-1 in the border)."""
        border, local = self.structure.border, self.structure.local
        position, member = np.empty(self.structure.dim, int), np.full(self.structure.dim, -1)
        position[border] = np.arange(border.size)
        position[local.ravel()] = np.arange(local.size)
        if local.size:
            member[local] = np.arange(len(local))[:, None]
        return position, member

    def colour(self, noise: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, "n dim"]:
        """Return R times each row of ``noise``, shape (n, dim), for a root R with R R' = H^-1."""
        factor = self.positive_factor
        values, vectors, _ = self.spectral
        border = solve_triangular(factor, noise[:, self.structure.border].T, lower=True, trans="T")
        local = noise[:, self.structure.local] / np.sqrt(values)
        local = np.einsum("tij,ntj->nti", vectors, local)
        local -= (border.T @ self._flat_gain).reshape(local.shape)
        out = np.empty_like(noise)
        out[:, self.structure.border], out[:, self.structure.local] = border.T, local
        return np.asarray(out / np.sqrt(self.metric))

    # -- steps ------------------------------------------------------------------------------------

    def step(self, gradient: Float[np.ndarray, " dim"], radius: float) -> Float[np.ndarray, " dim"]:
        """Return the minimiser of g'x + x'Hx / 2 among |x| <= radius in the metric, nearly."""
        return shifted_step(self, gradient, radius)


def recovery_error(
    structure: LocalStructure, products: Float[np.ndarray, "directions dim"]
) -> Float[np.ndarray, " dim"]:
    """Return the relative error of the recovered matrix along the random direction, by row.

    ``products`` are those of :meth:`BlockArrow.recover`; their last row is along that direction.
    """
    direction = structure.basis()[-1]
    missed = products[-1] - BlockArrow.recover(structure, products).dot(direction)
    return np.asarray(np.abs(missed) / max(float(np.abs(products[-1]).max()), 1e-300))


def _selection(rows: Int[np.ndarray, " rows"]) -> list[SparseRow]:
    return [(np.array([row]), np.ones(1)) for row in rows]
