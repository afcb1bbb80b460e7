"""The edge of a block-arrow matrix, border with local: dense, or in blocks where nearly empty."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import bsr_array, csr_array

type Edge = np.ndarray | bsr_array
"""Shape (G, T, d); or (G, T d) with a block for each member that a row touches, shape (1, d)."""

WIDE = 200

SPARSE = 0.1
"""An edge of so many rows, and at most this share of entries that are not zero, is sparse."""


def thinned(edge: Float[np.ndarray, "border members width"]) -> Edge:
    """Return an edge in blocks where it is large and nearly empty, else as it is."""
    if len(edge) < WIDE or not edge.size or np.count_nonzero(edge) > SPARSE * edge.size:
        return edge
    return csr_array(edge.reshape(len(edge), -1)).tobsr(blocksize=(1, edge.shape[2]))


def edge_of(flat: csr_array, width: int) -> Edge:
    """Return the edge that a sparse matrix of shape (G, T d) has, in the form that suits it."""
    if flat.shape[0] >= WIDE and flat.nnz <= SPARSE * flat.shape[0] * flat.shape[1]:
        return flat.tobsr(blocksize=(1, width))
    return np.asarray(flat.toarray().reshape(flat.shape[0], -1, width))


def flattened(edge: Edge) -> np.ndarray | csr_array:
    """Return an edge as a matrix of shape (G, T d), to multiply by."""
    if isinstance(edge, np.ndarray):
        return edge.reshape(len(edge), edge.shape[1] * edge.shape[2])
    return edge.tocsr()


def filled(edge: Edge) -> Float[np.ndarray, "border members width"]:
    """Return an edge with its zeros, dense."""
    if isinstance(edge, np.ndarray):
        return edge
    return np.asarray(edge.toarray().reshape(edge.shape[0], -1, edge.blocksize[1]))


def turned(
    edge: Edge, scale: Float[np.ndarray, " border"], turn: Float[np.ndarray, "members width k"]
) -> Edge:
    """Return the edge with every row times its scale, and every member's part times its matrix."""
    if isinstance(edge, np.ndarray):
        out = np.empty((*edge.shape[:2], turn.shape[2]))
        for row, by, its in zip(edge, scale, out, strict=True):  # in a processor's cache
            np.einsum("ti,tij->tj", by * row, turn, out=its)
        return out
    rows = np.repeat(scale, np.diff(edge.indptr))
    data = np.einsum("pi,pij->pj", rows[:, None] * edge.data[:, 0], turn[edge.indices])
    shape = edge.shape[0], turn.shape[0] * turn.shape[2]
    return bsr_array((data[:, None], edge.indices, edge.indptr), shape=shape)


def by_member(
    edge: bsr_array,
) -> tuple[
    Int[np.ndarray, " members_and_end"],
    Int[np.ndarray, " touched"],
    Float[np.ndarray, "touched width"],
]:
    """Return where each member's part begins, the rows that touch it, and what they have there."""
    turned = edge.transpose()
    return turned.indptr, turned.indices, turned.data[:, :, 0]
