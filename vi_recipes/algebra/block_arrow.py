"""Local structure: Hessians that are one small block per member of a plate, with a border.

In y_n ~ p(. | theta, u_g(n)), u_t ~ p(. | theta) no two members of the plate of u share a term of
the log joint density. Its Hessian is then a block-arrow matrix: a d x d block for each of the T
members, and a dense border for the G other coordinates. Everything that is needed of it costs
O(T d^3 + T d G^2), and no T x T matrix is formed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import cho_solve, solve_triangular
from scipy.sparse import csr_array, diags_array
from scipy.sparse.linalg import LinearOperator, eigsh

VERIFIED = 1e-8
"""Relative error of a Hessian-vector product up to which a structure counts as verified."""


WIDE = 200

SPARSE = 0.1
"""An edge of so many rows, and at most this share of entries that are not zero, is sparse."""


NUM_SHIFTS = 40
"""Factorisations tried for one trust-region step."""


@dataclass(frozen=True)
class LocalStructure:
    """Which coordinates of a flat vector form the blocks, and which the border.

    Parameters
    ----------
    border
        Indices of the border's coordinates, shape (G,).
    local
        Indices of each member's coordinates, shape (T, d); (0, 0) for a matrix without structure.
    sites
        The latent sites whose coordinates are local.
    plate
        Name of the plate, or of the plates joined by ``x``.
    """

    border: np.ndarray
    local: np.ndarray
    sites: tuple[str, ...] = ()
    plate: str = ""

    @property
    def dim(self) -> int:
        """Length of the flat vector."""
        return int(self.border.size + self.local.size)

    @property
    def num_bytes(self) -> int:
        """Memory that one factorisation takes, about."""
        border, local, width = self.border.size, self.local.size, self.local.shape[1]
        return int(8 * (3 * border**2 + 3 * border * local + 3 * local * width))

    def widened(self, copies: int) -> LocalStructure:
        """Return the structure of a vector that holds ``copies`` parameters per coordinate."""

        def widen(index: np.ndarray) -> np.ndarray:
            wide = copies * index[..., None] + np.arange(copies)
            return wide.reshape(*index.shape[:-1], index.shape[-1] * copies)

        return LocalStructure(widen(self.border), widen(self.local), self.sites, self.plate)

    def basis(self, key: int = 0) -> np.ndarray:
        """Return the directions of the Hessian-vector products that recover the matrix.

        Shape (G + d + 1, dim): one for each coordinate of the border, one for each local coordinate
        of all members at once, and a random one for verification.
        """
        num_border, width = self.border.size, self.local.shape[1]
        rows = np.zeros((num_border + width + 1, self.dim))
        rows[np.arange(num_border), self.border] = 1.0
        for k in range(width):
            rows[num_border + k, self.local[:, k]] = 1.0
        rows[-1] = np.random.default_rng(key).standard_normal(self.dim)
        return rows

    def assemble(self, products: np.ndarray, metric: np.ndarray | None = None) -> BlockArrow:
        """Return the matrix from the Hessian-vector products along :meth:`basis`.

        Parameters
        ----------
        products
            Shape (G + d + 1, dim); the last row is not used.
        metric
            Diagonal of the matrix that measures steps; ones by default.
        """
        num_border = self.border.size
        corner = products[:num_border, self.border]
        edge = products[:num_border][:, self.local]
        blocks = np.moveaxis(products[num_border:-1][:, self.local], 0, -1)
        return BlockArrow(
            self,
            (corner + corner.T) / 2,
            edge,
            (blocks + np.swapaxes(blocks, -1, -2)) / 2,
            np.ones(self.dim) if metric is None else metric,
        )

    def arrow(self, matrix: csr_array, metric: np.ndarray) -> BlockArrow:
        """Return a sparse matrix that has this structure in block-arrow form."""
        border = matrix[self.border]
        edge = border[:, self.local.ravel()].toarray().reshape(self.border.size, *self.local.shape)
        width = self.local.shape[1]
        blocks = np.empty((*self.local.shape, width))
        for k in range(width):
            for j in range(width):
                blocks[:, k, j] = matrix[self.local[:, k], self.local[:, j]]
        return BlockArrow(self, border[:, self.border].toarray(), edge, blocks, metric)

    def error(self, products: np.ndarray) -> np.ndarray:
        """Return the relative error of the assembled matrix along the random direction, by row."""
        direction = self.basis()[-1]
        missed = products[-1] - self.assemble(products).dot(direction)
        return np.asarray(np.abs(missed) / max(float(np.abs(products[-1]).max()), 1e-300))


def dense_structure(dim: int) -> LocalStructure:
    """Return the structure of a matrix that has none: all border."""
    return LocalStructure(np.arange(dim), np.zeros((0, 0), int))


class BlockArrow:
    """A symmetric block-arrow matrix H, and what is wanted of it.

    Parameters
    ----------
    structure
        Where its parts belong.
    corner
        Border with border, shape (G, G).
    edge
        Border with local, shape (G, T, d).
    blocks
        Local with local, shape (T, d, d).
    metric
        Diagonal of the matrix M that measures steps, shape (dim,): |x|^2 = x' M x.
    """

    def __init__(
        self,
        structure: LocalStructure,
        corner: np.ndarray,
        edge: np.ndarray,
        blocks: np.ndarray,
        metric: np.ndarray,
    ) -> None:
        self.structure = structure
        self.corner, self.edge, self.blocks, self.metric = corner, edge, blocks, metric

    # -- the matrix itself -----------------------------------------------------------------------

    def split(self, vector: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the border's part, shape (G,), and the local part, (T, d), of a flat vector."""
        return vector[self.structure.border], vector[self.structure.local]

    def join(self, border: np.ndarray, local: np.ndarray) -> np.ndarray:
        """Return the flat vector of its two parts."""
        vector = np.empty(self.structure.dim)
        vector[self.structure.border], vector[self.structure.local] = border, local
        return vector

    def dot(self, vector: np.ndarray) -> np.ndarray:
        """Return H times a flat vector."""
        border, local = self.split(vector)
        size = border.size
        flat = self.edge.reshape(size, local.size)
        return self.join(
            self.corner @ border + flat @ local.ravel(),
            (border @ flat).reshape(local.shape) + np.einsum("tij,tj->ti", self.blocks, local),
        )

    def diagonal(self) -> np.ndarray:
        """Return the diagonal of H."""
        return self.join(np.diag(self.corner), np.einsum("tii->ti", self.blocks))

    # -- its factorisation ---------------------------------------------------------------------

    @cached_property
    def _spectral(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return eigenvalues (T, d) and vectors of the blocks, and the edge turned to them.

        All in the metric: of M^(-1/2) H M^(-1/2).
        """
        border, local = self.split(1 / np.sqrt(self.metric))
        if not local.size:
            return local, np.zeros((*local.shape, local.shape[1])), self.edge
        blocks = self.blocks * local[:, :, None] * local[:, None, :]
        if local.shape[1] == 1:
            values, vectors = blocks[:, :, 0], np.ones_like(blocks)
        else:
            values, vectors = np.linalg.eigh(blocks)
        edge = self.edge * border[:, None, None] * local
        return values, vectors, np.einsum("gti,tij->gtj", edge, vectors)

    @cached_property
    def _corner_in_metric(self) -> np.ndarray:
        border = 1 / np.sqrt(self.metric[self.structure.border])
        return np.asarray(self.corner * np.outer(border, border))

    def _schur(self, shift: float) -> np.ndarray:
        """Return the Schur complement of the blocks in M^(-1/2) H M^(-1/2) + shift I."""
        values, _, edge = self._spectral
        size = self.structure.border.size
        flat = edge.reshape(size, values.size)
        if self._sparse_edge is None:
            removed = (flat / (values.ravel() + shift)) @ flat.T
        else:
            sparse = self._sparse_edge
            removed = (sparse @ (diags_array(1 / (values.ravel() + shift)) @ sparse.T)).toarray()
        schur = self._corner_in_metric - removed
        schur[np.diag_indices(size)] += shift
        return schur

    @cached_property
    def _sparse_edge(self) -> csr_array | None:
        """The edge in the metric as a sparse matrix, where it is large and nearly empty."""
        _, _, edge = self._spectral
        if len(edge) < WIDE or np.count_nonzero(edge) > SPARSE * edge.size:
            return None
        return csr_array(edge.reshape(len(edge), -1))

    def _factor(self, shift: float) -> np.ndarray | None:
        """Return the lower Cholesky factor of the Schur complement; ``None`` if not positive."""
        values = self._spectral[0]
        if values.size and values.min() + shift <= 0:
            return None
        try:
            factor = np.linalg.cholesky(self._schur(shift))
        except np.linalg.LinAlgError:
            return None
        return factor if np.isfinite(factor).all() else None

    def _solve(self, shift: float, factor: np.ndarray, vector: np.ndarray) -> np.ndarray:
        """Return (H + shift M)^-1 times a flat vector, in the metric: of M^(1/2) x."""
        values, vectors, edge = self._spectral
        border, local = self.split(vector / np.sqrt(self.metric))
        flat = edge.reshape(border.size, local.size)
        turned = np.einsum("tij,ti->tj", vectors, local) / (values + shift)
        solved = cho_solve((factor, True), border - flat @ turned.ravel())
        turned = turned - (solved @ flat).reshape(local.shape) / (values + shift)
        return self.join(solved, np.einsum("tij,tj->ti", vectors, turned))

    @cached_property
    def factor(self) -> np.ndarray | None:
        """Lower Cholesky factor of the Schur complement in the metric; ``None`` if H is not > 0."""
        return self._factor(0.0)

    @property
    def positive(self) -> bool:
        """Whether H is positive definite."""
        return self.factor is not None

    def _positive_factor(self) -> np.ndarray:
        if self.factor is None:
            raise ValueError("the matrix is not positive definite")
        return self.factor

    def positive_with(self, shift: float) -> bool:
        """Whether H + shift M is positive definite."""
        return self._factor(shift) is not None

    def inverse_parts(self, shift: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return what solves with H + shift M, for positive-definite ones.

        The inverse blocks (T, d, d), the edge (G, T, d) and the inverse Schur complement (G, G).
        """
        values, vectors, _ = self._spectral
        border, local = self.split(self.metric**-0.5)
        blocks = np.einsum("tij,tj,tkj->tik", vectors, 1 / (values + shift), vectors)
        blocks = blocks * local[:, :, None] * local[:, None, :]
        factor = self._factor(shift)
        if factor is None:
            raise ValueError("the matrix is not positive definite")
        schur = cho_solve((factor, True), np.eye(len(factor)))
        return blocks, self.edge, schur * np.outer(border, border)

    def solve(self, vector: np.ndarray) -> np.ndarray:
        """Return H^-1 times a flat vector, for positive-definite H."""
        solved = self._solve(0.0, self._positive_factor(), vector)
        return np.asarray(solved / np.sqrt(self.metric))

    def decrement(self, gradient: np.ndarray) -> float:
        """Return the Newton decrement sqrt(g' H^-1 g); infinite unless H is positive definite."""
        if not self.positive:
            return float("inf")
        return float(np.sqrt(max(gradient @ self.solve(gradient), 0.0)))

    @property
    def log_det(self) -> float:
        """Log determinant of H, for positive-definite H."""
        diagonal = np.diag(self._positive_factor())
        values = self._spectral[0]
        return float(2 * np.log(diagonal).sum() + np.log(values).sum() + np.log(self.metric).sum())

    def condition(self) -> float:
        """Return the larger condition number of the Schur complement and of the worst block.

        Each scaled to unit diagonal; for positive-definite H.
        """
        factor = self._positive_factor()
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
        values = self._spectral[0]
        negative = int((values < 0).sum())
        if self.structure.border.size:
            negative += int((np.linalg.eigvalsh(self._schur(0.0)) < 0).sum())
        return negative

    def extreme_eigenvalues(self) -> tuple[float, float, np.ndarray]:
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
    def _gain(self) -> np.ndarray:
        """Blocks^-1 times the edge, in the metric and turned back, shape (G, T, d)."""
        values, vectors, edge = self._spectral
        return np.asarray(np.einsum("tij,gtj->gti", vectors, edge / values))

    @cached_property
    def _border_cov(self) -> np.ndarray:
        """Covariance of the border in the metric: the inverse Schur complement."""
        factor = self._positive_factor()
        return np.asarray(cho_solve((factor, True), np.eye(len(factor))))

    def variances(self) -> np.ndarray:
        """Return the diagonal of H^-1, shape (dim,)."""
        factor = self._positive_factor()
        values, vectors, _ = self._spectral
        size = len(factor)
        # L^-1 (blocks^-1 edge): its squares add up over the border
        spread = solve_triangular(
            factor, self._gain.reshape(size, self.structure.local.size), lower=True
        )
        own = np.einsum("tij,tj->ti", vectors**2, 1 / values)
        local = own + (spread**2).sum(axis=0).reshape(own.shape)
        return np.asarray(self.join(np.diag(self._border_cov), local) / self.metric)

    def covariance_parts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return parts of H^-1: the border (G, G), members with it (T, d, G), members (T, d, d)."""
        values, vectors, _ = self._spectral
        border, local = self.split(self.metric**-0.5)
        cross = -np.einsum("gti,gh->tih", self._gain, self._border_cov)
        own = np.einsum("tij,tj,tkj->tik", vectors, 1 / values, vectors)
        own -= np.einsum("tig,gtk->tik", cross, self._gain)
        return (
            self._border_cov * np.outer(border, border),
            cross * local[:, :, None] * border,
            own * local[:, :, None] * local[:, None, :],
        )

    def pair_covariances(self) -> np.ndarray:
        """Return the 2 x 2 blocks of H^-1 of coordinates (0, 1), (2, 3), ..., (dim / 2, 2, 2)."""
        factor = self._positive_factor()
        values, vectors, _ = self._spectral
        size, (members, width) = len(factor), self.structure.local.shape
        own = np.einsum("tij,tj,tkj->tik", vectors, 1 / values, vectors)
        spread = solve_triangular(
            factor, self._gain.reshape(size, self.structure.local.size), lower=True
        )
        spread = spread.reshape(size, members, width)
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
        chosen = spread[:, t[:, None], both]
        out[~in_border] = own[t[:, None, None], both[:, :, None], both[:, None, :]] + np.einsum(
            "gni,gnj->nij", chosen, chosen
        )
        scale = np.stack([self.metric[0::2], self.metric[1::2]], axis=1) ** -0.5
        return np.asarray(out * scale[:, :, None] * scale[:, None, :])

    def sandwich_diagonal(self, slopes: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """Return the diagonal of J H^-1 J' for the rows of J."""
        out = np.empty(len(slopes))
        for k, (columns, values) in enumerate(slopes):
            full = np.zeros(self.structure.dim)
            full[columns] = values
            out[k] = full @ self.solve(full)
        return out

    def covariance(self, rows: np.ndarray) -> np.ndarray:
        """Return the block of H^-1 that belongs to the coordinates ``rows``."""
        return self.sandwich(_selection(rows, self.structure.dim))

    def sandwich(self, slopes: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """Return J H^-1 J' for a sparse J, given as (columns, values) of each row."""
        factor = self._positive_factor()
        values, vectors, _ = self._spectral
        position, member = self._places
        size = len(factor)
        gain = self._gain.reshape(size, self.structure.local.size)
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
                    own = local // width == t
                    vector = np.zeros(width)
                    np.add.at(vector, local[own] % width, local_slope[own])
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

    def colour(self, noise: np.ndarray) -> np.ndarray:
        """Return R times each row of ``noise``, shape (n, dim), for a root R with R R' = H^-1."""
        factor = self._positive_factor()
        values, vectors, _ = self._spectral
        border = solve_triangular(factor, noise[:, self.structure.border].T, lower=True, trans="T")
        local = noise[:, self.structure.local] / np.sqrt(values)
        local = np.einsum("tij,ntj->nti", vectors, local)
        local -= (border.T @ self._gain.reshape(len(factor), self.structure.local.size)).reshape(
            local.shape
        )
        out = np.empty_like(noise)
        out[:, self.structure.border], out[:, self.structure.local] = border.T, local
        return np.asarray(out / np.sqrt(self.metric))

    # -- steps ------------------------------------------------------------------------------------

    def step(self, gradient: np.ndarray, radius: float) -> np.ndarray:
        """Return the minimiser of g'x + x'Hx / 2 among |x| <= radius in the metric, nearly.

        The multiplier of the constraint is found by bisection, with one small factorisation each.
        """
        root = np.sqrt(self.metric)

        def attempt(shift: float) -> np.ndarray | None:
            factor = self._factor(shift)
            return None if factor is None else -self._solve(shift, factor, gradient)

        found = attempt(0.0) if self.positive else None
        if found is not None and np.linalg.norm(found) <= radius:
            return np.asarray(found / root)
        low = 0.0
        high = max(float(np.linalg.norm(gradient / root)) / radius, 1e-8)
        best = None
        for _ in range(NUM_SHIFTS):
            found = attempt(high)
            if found is not None and np.linalg.norm(found) <= radius:
                best = found
                break
            low, high = high, 4 * high
        if best is None:
            return np.zeros_like(gradient)
        low = max(low, 1e-12 * high)
        for _ in range(NUM_SHIFTS):
            if np.linalg.norm(best) >= 0.9 * radius or high < 1.001 * low:
                break
            middle = float(np.sqrt(low * high))
            found = attempt(middle)
            if found is not None and np.linalg.norm(found) <= radius:
                best, high = found, middle
            else:
                low = middle
        if np.linalg.norm(best) < 0.9 * radius and not self.positive:
            best = best + self._outward(gradient / root, best, high, radius)
        return np.asarray(best / root)

    def _outward(
        self, gradient: np.ndarray, step: np.ndarray, shift: float, radius: float
    ) -> np.ndarray:
        """Return what takes a step to the boundary along the most negative curvature.

        In the metric. The gradient has hardly anything along it, so no multiplier gets there.
        """
        root = np.sqrt(self.metric)
        factor = self._factor(shift)
        assert factor is not None
        along = np.random.default_rng(0).standard_normal(step.size)
        for _ in range(8):
            along = self._solve(shift, factor, along * root)
            along /= np.linalg.norm(along)
        inner = float(step @ along)
        size = np.sqrt(max(inner**2 + radius**2 - float(step @ step), 0.0))

        def value(length: float) -> float:
            x = (step + length * along) / root
            return float(gradient * root @ x + x @ self.dot(x) / 2)

        return np.asarray(min((size - inner, -size - inner), key=value) * along)

    def norm(self, vector: np.ndarray) -> float:
        """Return the length of a flat vector in the metric."""
        return float(np.sqrt((self.metric * vector**2).sum()))


def _selection(rows: np.ndarray, dim: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(np.array([row]), np.ones(1)) for row in rows]
