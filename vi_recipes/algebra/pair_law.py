"""The normal law of one number for every pair of coordinates, by a block-arrow precision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.linalg import solve_triangular
from scipy.sparse import csr_array

from vi_recipes.algebra.block_arrow import BlockArrow


@dataclass(frozen=True)
class PairLaw:
    """The law of a combination of coordinates (0, 1), of (2, 3), ..., of (dim - 2, dim - 1).

    Parameters
    ----------
    border, local
        Which pairs are in the border, and which are each member's, shape (T, k).
    factor
        Lower Cholesky factor of the border's precision: its Schur complement, shape (G, G).
    slopes
        Of the border's pairs in the border's coordinates, shape (G, pairs).
    gain
        What the border's coordinates take from the members' pairs, shape (G, T k).
    roots
        Roots of every member's covariance given the border, shape (T, k, k).
    """

    border: Int[np.ndarray, " border"]
    local: Int[np.ndarray, "members k"]
    factor: Float[np.ndarray, "G G"]
    slopes: csr_array
    gain: np.ndarray | csr_array
    roots: Float[np.ndarray, "members k k"]

    @classmethod
    def of(cls, matrix: BlockArrow, slopes: Float[np.ndarray, "pairs 2"]) -> PairLaw:
        """Return the law of slopes[j] @ (x[2 j], x[2 j + 1]) where x is N(0, H^-1).

        Parameters
        ----------
        matrix
            H, positive definite, of a structure widened by 2.
        slopes
            Of every pair.
        """
        border, local = matrix.structure.border, matrix.structure.local
        scaled = slopes.ravel() / np.sqrt(matrix.metric)
        values, vectors, _ = matrix.spectral
        # from a member's coordinates to its pairs, shape (T, d, k)
        combined = scaled[local][:, :, None] * np.repeat(np.eye(local.shape[1] // 2), 2, axis=0)
        half = np.swapaxes(combined, 1, 2) @ vectors / np.sqrt(values)[:, None, :]
        upper = np.linalg.qr(np.swapaxes(half, 1, 2), mode="r")  # it may be of less than full rank
        at = np.arange(border.size), np.arange(border.size) // 2
        return cls(
            border=border[::2] // 2,
            local=local[:, ::2] // 2,
            factor=matrix.positive_factor,
            slopes=csr_array((scaled[border], at), shape=(border.size, border.size // 2)),
            gain=matrix.gain_of(combined),
            roots=np.swapaxes(upper, 1, 2),
        )

    def draws(self, num_draws: int, rng: np.random.Generator) -> Float[np.ndarray, "draws pairs"]:
        """Return independent draws of all pairs."""
        members, width = self.local.shape
        noise = rng.standard_normal((len(self.factor), num_draws))
        border = solve_triangular(self.factor, noise, lower=True, trans="T").T
        local = rng.standard_normal((num_draws, members, width))
        if width == 1:
            local *= self.roots[:, 0]
        else:
            local = np.einsum("tij,ntj->nti", self.roots, local)
        local -= (border @ self.gain).reshape(local.shape)
        out = np.empty((num_draws, self.border.size + self.local.size))
        out[:, self.border], out[:, self.local] = border @ self.slopes, local
        return out
