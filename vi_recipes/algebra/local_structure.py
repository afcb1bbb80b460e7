"""Which coordinates are local, one small block per member of a plate, and which are not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


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

    border: Int[np.ndarray, " border"]
    local: Int[np.ndarray, "members width"]
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

    def basis(self, seed: int = 0) -> Float[np.ndarray, "directions dim"]:
        """Return the directions of the Hessian-vector products that recover the matrix.

        Shape (G + d + 1, dim): one for each coordinate of the border, one for each local coordinate
        of all members at once, and a random one for verification.
        """
        num_border, width = self.border.size, self.local.shape[1]
        rows = np.zeros((num_border + width + 1, self.dim))
        rows[np.arange(num_border), self.border] = 1.0
        for k in range(width):
            rows[num_border + k, self.local[:, k]] = 1.0
        rows[-1] = np.random.default_rng(seed).standard_normal(self.dim)
        return rows


def dense_structure(dim: int) -> LocalStructure:
    """Return the structure of a matrix that has none: all border."""
    return LocalStructure(np.arange(dim), np.zeros((0, 0), int))
