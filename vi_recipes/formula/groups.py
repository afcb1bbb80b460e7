"""Grouping factors as integers: which member every row belongs to, at the data and at new data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from vi_recipes.formula.plain import text_of

MISSING = -1
"""The code of a row whose group is not known."""


@dataclass(frozen=True)
class GroupingFactor:
    """A grouping factor: the combinations of values of some columns that the data have.

    Parameters
    ----------
    columns
        Their names.
    levels
        The values of every column, in order.
    members
        The combinations that occur, shape (members, columns), as places in ``levels``.
    """

    columns: tuple[str, ...]
    levels: tuple[tuple[object, ...], ...]
    members: np.ndarray

    @classmethod
    def of(cls, columns: tuple[str, ...], data: pd.DataFrame) -> GroupingFactor:
        """Return the factor that columns make, its members in sorted order."""
        levels = tuple(tuple(levels_of(data[name])) for name in columns)
        places = _places(columns, levels, data)
        return cls(columns, levels, np.unique(places, axis=0))

    @property
    def name(self) -> str:
        """As formulas write it."""
        return ":".join(self.columns)

    @cached_property
    def labels(self) -> list[str]:
        """Return what every member is called."""
        return [
            ":".join(str(v[k]) for v, k in zip(self.levels, m, strict=True)) for m in self.members
        ]

    def at(self, data: pd.DataFrame) -> tuple[np.ndarray, list[str]]:
        """Return the member of every row, and the labels of those that the data did not have.

        Members that are new come behind the known ones; :data:`MISSING` where a value is missing.
        """
        values = [data[name].tolist() for name in self.columns]
        missing = np.column_stack([data[name].isna() for name in self.columns]).any(axis=1)
        places = _places(self.columns, self.levels, data)
        sizes = tuple(len(values) for values in self.levels)
        known = np.ravel_multi_index(tuple(self.members.T), sizes)  # in rising order
        there = (places >= 0).all(axis=1)
        wanted = np.ravel_multi_index(tuple(places[there].T), sizes)
        found = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        codes = np.full(len(data), MISSING)
        codes[there] = np.where(known[found] == wanted, found, MISSING)
        new: dict[str, int] = {}
        for row in np.flatnonzero((codes == MISSING) & ~missing):
            label = ":".join(str(column[row]) for column in values)
            codes[row] = new.setdefault(label, len(self.members) + len(new))
        return codes, list(new)


def levels_of(column: pd.Series) -> Sequence[object]:
    """Return the values of a column in order: that of a category, else sorted."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return list(column.cat.remove_unused_categories().cat.categories)
    values = column.unique().tolist()
    try:
        return sorted(values)
    except TypeError:  # numbers beside text
        return sorted(values, key=str)


def places_in(levels: Sequence[object], column: pd.Series) -> np.ndarray:
    """Return where every value of a column is in the levels, -1 for nowhere.

    Numbers that are text in one of the two are found by what they are called.
    """
    found = pd.Index(list(levels), dtype=object).get_indexer(pd.Index(column, dtype=object))
    lost = (found < 0) & column.notna().to_numpy()
    if lost.any():
        called = {text_of(level): place for place, level in enumerate(levels)}
        found[lost] = [called.get(text_of(value), -1) for value in column[lost].tolist()]
    return found


def _places(
    columns: Sequence[str], levels: Sequence[Sequence[object]], data: pd.DataFrame
) -> np.ndarray:
    """Return where every row's values are in the levels, shape (rows, columns); -1 for nowhere."""
    return np.column_stack(
        [places_in(known, data[name]) for name, known in zip(columns, levels, strict=True)]
    )
