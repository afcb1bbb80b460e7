"""A block-arrow matrix factorised: blocks by eigenvectors, the border by a Schur complement."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.linalg import cho_solve
from scipy.sparse import csr_array, diags_array

from vi_recipes.algebra.edges import Edge, filled, flattened, thinned, turned
from vi_recipes.algebra.local_structure import LocalStructure


class InverseParts(NamedTuple):
    """What solves with a block-arrow matrix inside compiled code.

    Parameters
    ----------
    blocks
        The inverse of every member's block, shape (T, d, d).
    edge
        Border with local, shape (G, T, d).
    schur
        The inverse Schur complement of the blocks, shape (G, G).
    """

    blocks: np.ndarray
    edge: np.ndarray
    schur: np.ndarray


class Factorised:
    """A symmetric block-arrow matrix H, in a form that is quick to solve with.

    Parameters
    ----------
    structure
        Where its parts belong.
    corner
        Border with border, shape (G, G).
    edge
        Border with local, shape (G, T, d), or sparse: :mod:`vi_recipes.algebra.edges`. A large one
        that is nearly empty is kept sparse.
    blocks
        Local with local, shape (T, d, d).
    metric
        Diagonal of the matrix M that measures steps, shape (dim,): |x|^2 = x' M x.
    """

    def __init__(
        self,
        structure: LocalStructure,
        corner: Float[np.ndarray, "border border"],
        edge: Edge,
        blocks: Float[np.ndarray, "members width width"],
        metric: Float[np.ndarray, " dim"],
    ) -> None:
        self.structure = structure
        self.edge = thinned(edge) if isinstance(edge, np.ndarray) else edge
        self.corner, self.blocks, self.metric = corner, blocks, metric

    # -- the matrix itself -----------------------------------------------------------------------

    def split(
        self, vector: Float[np.ndarray, " dim"]
    ) -> tuple[Float[np.ndarray, " border"], Float[np.ndarray, "members width"]]:
        """Return the border's part, shape (G,), and the local part, (T, d), of a flat vector."""
        return vector[self.structure.border], vector[self.structure.local]

    def join(
        self, border: Float[np.ndarray, " border"], local: Float[np.ndarray, "members width"]
    ) -> Float[np.ndarray, " dim"]:
        """Return the flat vector of its two parts."""
        vector = np.empty(self.structure.dim)
        vector[self.structure.border], vector[self.structure.local] = border, local
        return vector

    def dot(self, vector: Float[np.ndarray, " dim"]) -> Float[np.ndarray, " dim"]:
        """Return H times a flat vector."""
        border, local = self.split(vector)
        crossed = (border @ self._flat).reshape(local.shape)
        return self.join(
            self._sum(self.corner @ border + self._flat @ local.ravel()),
            crossed + np.einsum("tij,tj->ti", self.blocks, local),
        )

    @cached_property
    def _flat(self) -> np.ndarray | csr_array:
        """The edge as a matrix."""
        return flattened(self.edge)

    def diagonal(self) -> Float[np.ndarray, " dim"]:
        """Return the diagonal of H."""
        return self.join(np.diag(self.corner), np.einsum("tii->ti", self.blocks))

    def inner(self, x: Float[np.ndarray, " dim"], y: Float[np.ndarray, " dim"]) -> float:
        """Return x'y of two flat vectors."""
        return float(x @ y)

    def noise(self) -> Float[np.ndarray, " dim"]:
        """Return a flat vector of standard normals, the same each time."""
        return np.random.default_rng(0).standard_normal(self.structure.dim)

    def norm(self, vector: Float[np.ndarray, " dim"]) -> float:
        """Return the length of a flat vector in the metric."""
        return float(np.sqrt((self.metric * vector**2).sum()))

    def _sum(self, over_members: np.ndarray) -> np.ndarray:
        """Return a sum over the members that are here as that over all members: the same here."""
        return over_members

    def _not_positive(self) -> None:
        """Tell whoever has other members that a block of one that is here is not positive."""

    # -- its factorisation ---------------------------------------------------------------------

    @cached_property
    def spectral(
        self,
    ) -> tuple[
        Float[np.ndarray, "members width"],
        Float[np.ndarray, "members width width"],
        Edge,
    ]:
        """Eigenvalues (T, d) and vectors of the blocks, and the edge turned to them.

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
        return values, vectors, turned(self.edge, border, vectors * local[:, :, None])

    @cached_property
    def _flat_in_metric(self) -> np.ndarray | csr_array:
        """The edge of :attr:`spectral` as a matrix."""
        return flattened(self.spectral[2])

    @cached_property
    def _corner_in_metric(self) -> np.ndarray:
        border = 1 / np.sqrt(self.metric[self.structure.border])
        return np.asarray(border[:, None] * self.corner * border)

    def schur(self, shift: float) -> Float[np.ndarray, "border border"]:
        """Return the Schur complement of the blocks in M^(-1/2) H M^(-1/2) + shift I."""
        values, flat = self.spectral[0], self._flat_in_metric
        if isinstance(flat, np.ndarray):
            removed = (flat / (values.ravel() + shift)) @ flat.T
        else:
            removed = (flat @ (diags_array(1 / (values.ravel() + shift)) @ flat.T)).toarray()
        schur = self._sum(np.subtract(self._corner_in_metric, removed, out=removed))
        schur[np.diag_indices(len(schur))] += shift
        return np.asarray(schur)

    def shifted_factor(self, shift: float) -> Float[np.ndarray, "border border"] | None:
        """Return the lower Cholesky factor of :meth:`schur`; ``None`` if H + shift M is not > 0."""
        values = self.spectral[0]
        if values.size and values.min() + shift <= 0:
            self._not_positive()
            return None
        try:
            factor = np.linalg.cholesky(self.schur(shift))
        except np.linalg.LinAlgError:
            return None
        return factor if np.isfinite(factor).all() else None

    def shifted_solve(
        self,
        shift: float,
        factor: Float[np.ndarray, "border border"],
        vector: Float[np.ndarray, " dim"],
    ) -> Float[np.ndarray, " dim"]:
        """Return (H + shift M)^-1 times a flat vector, in the metric: M^(1/2) times it.

        ``factor`` is that of :meth:`shifted_factor`.
        """
        values, vectors, _ = self.spectral
        flat = self._flat_in_metric
        border, local = self.split(vector / np.sqrt(self.metric))
        turned = np.einsum("tij,ti->tj", vectors, local) / (values + shift)
        solved = cho_solve((factor, True), border - self._sum(flat @ turned.ravel()))
        turned = turned - (solved @ flat).reshape(local.shape) / (values + shift)
        return self.join(solved, np.einsum("tij,tj->ti", vectors, turned))

    @cached_property
    def factor(self) -> Float[np.ndarray, "border border"] | None:
        """Lower Cholesky factor of the Schur complement in the metric; ``None`` if H is not > 0."""
        return self.shifted_factor(0.0)

    @property
    def positive(self) -> bool:
        """Whether H is positive definite."""
        return self.factor is not None

    @property
    def positive_factor(self) -> Float[np.ndarray, "border border"]:
        """The factor of a positive-definite H.

        Raises
        ------
        ValueError
            For an H that is not.
        """
        if self.factor is None:
            raise ValueError("the matrix is not positive definite")
        return self.factor

    def positive_with(self, shift: float) -> bool:
        """Whether H + shift M is positive definite."""
        return self.shifted_factor(shift) is not None

    def inverse_parts(self, shift: float) -> InverseParts:
        """Return what solves with H + shift M, for positive-definite ones.

        Raises
        ------
        ValueError
            For one that is not.
        """
        values, vectors, _ = self.spectral
        border, local = self.split(self.metric**-0.5)
        blocks = np.einsum("tij,tj,tkj->tik", vectors, 1 / (values + shift), vectors)
        blocks = blocks * local[:, :, None] * local[:, None, :]
        factor = self.shifted_factor(shift)
        if factor is None:
            raise ValueError("the matrix is not positive definite")
        schur = cho_solve((factor, True), np.eye(len(factor)))
        return InverseParts(blocks, filled(self.edge), schur * np.outer(border, border))

    def solve(self, vector: Float[np.ndarray, " dim"]) -> Float[np.ndarray, " dim"]:
        """Return H^-1 times a flat vector, for positive-definite H."""
        solved = self.shifted_solve(0.0, self.positive_factor, vector)
        return np.asarray(solved / np.sqrt(self.metric))

    def decrement(self, gradient: Float[np.ndarray, " dim"]) -> float:
        """Return the Newton decrement sqrt(g' H^-1 g); infinite unless H is positive definite."""
        if not self.positive:
            return float("inf")
        return float(np.sqrt(max(self.inner(gradient, self.solve(gradient)), 0.0)))
