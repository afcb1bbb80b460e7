"""Crossed families: several large plates whose members share terms of the log density.

Students rate lecturers: neither family is local, since every member of one meets many of the other.
Within a family members are still independent given the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from vi_recipes.algebra.block_arrow import VERIFIED, BlockArrow
from vi_recipes.algebra.local_structure import LocalStructure

MIN_FAMILY = 32
"""Members from which a plate is a family; smaller ones go into the border."""

MULTIPLE = 16
"""Directions are padded to a multiple of this, so that one compilation serves any number."""


class SparseEntries(NamedTuple):
    """Entries of a sparse matrix, in arrays of one shape.

    Parameters
    ----------
    rows, columns
        Where they are.
    values
        What they are.
    """

    rows: Int[np.ndarray, "*shape"]
    columns: Int[np.ndarray, "*shape"]
    values: Float[np.ndarray, "*shape"]


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

    def basis(self) -> Float[np.ndarray, "directions dim"]:
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
            directions = np.zeros((width + 1, structure.dim))
            for k in range(width):
                directions[k, members[:, k]] = 1.0
            directions[-1, members.ravel()] = rng.standard_normal(members.size)
            rows.append(directions)
        return pad(np.concatenate(rows))

    def assemble(
        self, products: Float[np.ndarray, "directions dim"], metric: Float[np.ndarray, " dim"]
    ) -> tuple[BlockArrow, float]:
        """Return the matrix without the coupling of families, and the error of that within one."""
        structure = self.structure
        size, width = structure.border.size, structure.local.shape[1]
        basis = self.basis()
        blocks, error = [], 0.0
        first = size
        for members in self._members():
            block = np.moveaxis(products[first : first + width][:, members], 0, -1)
            blocks.append((block + np.swapaxes(block, -1, -2)) / 2)
            product = products[first + width][members]
            expected = np.einsum("tij,tj->ti", block, basis[first + width][members])
            scale = max(float(np.abs(product).max()), 1e-300)
            error = max(error, float(np.abs(product - expected).max()) / scale)
            first += width + 1
        corner = products[:size, structure.border]
        edge = products[:size][:, structure.local]
        matrix = BlockArrow(
            structure, (corner + corner.T) / 2, edge, np.concatenate(blocks), metric
        )
        return matrix, error

    def full(
        self, products: Float[np.ndarray, "directions dim"], couplings: Sequence[SparseEntries]
    ) -> csr_array:
        """Return the whole matrix, sparse.

        Parameters
        ----------
        products
            Along :meth:`basis`.
        couplings
            The entries between members of unlike families, each once; those of one family are
            left out, and equal places are added up.
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
            block = np.moveaxis(products[first : first + width][:, members], 0, -1)
            add(members[:, :, None], members[:, None, :], block)
            first += width + 1
        for i, j, v in couplings:
            apart = (family[i] != family[j]) & (family[i] >= 0) & (family[j] >= 0)
            add(i[apart], j[apart], v[apart])
            add(j[apart], i[apart], v[apart])
        entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
        return csr_array(entries, shape=(structure.dim, structure.dim))

    def _members(self) -> list[np.ndarray]:
        """Return every family's part of the local coordinates."""
        return np.split(self.structure.local, np.cumsum(self.sizes)[:-1])


def pad(rows: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "padded dim"]:
    """Return ``rows`` with rows of zeros, up to a multiple of :data:`MULTIPLE`."""
    missing = -len(rows) % MULTIPLE
    return np.concatenate([rows, np.zeros((missing, rows.shape[1]))])


def verified(error: float) -> bool:
    """Whether the members of every family are independent given the rest."""
    return bool(np.isfinite(error) and error <= VERIFIED)
