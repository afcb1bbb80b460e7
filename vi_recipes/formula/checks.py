"""What is wrong with a design, said with names: rank, separation, groups."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.optimize import linprog

from vi_recipes.core import reads_as_number
from vi_recipes.formula.groups import Factor

DEPENDENT = 1e-9
"""Share of a column's length that the columns before it leave, down to which it is their
combination."""

NAMED = 1e-6
"""Share of the largest coefficient from which a column is named."""

FEW = 2_000
"""Rows that are looked at first: if these are not separated, all are not."""

MOST_TEXT_LEVELS, FEW_WORDS = 10, 0.2
"""Levels up to which a column of text is taken for categories, and the share of words among them
from which it is too."""

GROUPED = re.compile(r"[\s\u202f',%$€£]+")
"""What stands within numbers that are read as text: commas, signs of thousands, units."""

DATE = re.compile(r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}(?:[ T]\d{1,2}:.*)?")
"""A date as text, with a time or without."""


def check_rank(matrix: np.ndarray, labels: Sequence[str], what: str) -> None:
    """Refuse columns that are combinations of others.

    Raises
    ------
    ValueError
        With the column and those that make it.
    """
    if matrix.shape[1] == 0:
        return
    lengths = np.linalg.norm(matrix, axis=0)
    if (zero := np.flatnonzero(lengths == 0)).size:
        raise ValueError(
            f"{what}: column {labels[zero[0]]} is zero in every row, so that its coefficient "
            "cannot be told; leave it out"
        )
    scaled = matrix / lengths
    if len(scaled) > scaled.shape[1]:
        scaled = np.linalg.qr(scaled, mode="r")
    for k in range(1, scaled.shape[1]):
        before = np.linalg.lstsq(scaled[:, :k], scaled[:, k], rcond=None)[0]
        left = np.linalg.norm(scaled[:, k] - scaled[:, :k] @ before)
        if left <= DEPENDENT:
            makers = [labels[j] for j in range(k) if abs(before[j]) > NAMED * abs(before).max()]
            raise ValueError(
                f"{what}: column {labels[k]} is a combination of {', '.join(makers)}, so that "
                "their coefficients cannot be told apart; leave one of them out"
            )


def separated(matrix: np.ndarray, low: np.ndarray, high: np.ndarray) -> list[int]:
    """Return the columns whose combination tells all responses apart; none where there is none.

    Along that combination the likelihood rises for ever: there is no maximum.

    Parameters
    ----------
    matrix
        Shape (rows, columns).
    low, high
        Rows whose response is at the lower and the upper end of its support; along a separating
        combination they go down and up, and rows of neither stay.

    References
    ----------
    Konis, K. (2007). Linear programming algorithms for detecting separated data in binary logistic
    regression models. DPhil thesis, University of Oxford.
    """
    scale = np.abs(matrix).max(axis=0, initial=0.0)
    scaled = matrix / np.where(scale > 0, scale, 1.0)
    some = np.random.default_rng(0).permutation(len(scaled))[:FEW]
    if len(some) == FEW and not _separating(scaled[some], low[some], high[some]).any():
        return []  # more rows are separated less
    toward = _separating(scaled, low, high)
    named = [int(k) for k in np.argsort(np.abs(toward)) if abs(toward[k]) > NAMED]
    for k in list(named):  # what is not needed is not named
        others = [j for j in named if j != k]
        if np.abs(_separating(scaled[:, others], low, high)).max(initial=0.0) > NAMED:
            named = others
    return sorted(named)


def _separating(matrix: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return a combination of columns that separates, all zeros where there is none."""
    ends = low | high
    none = np.zeros(matrix.shape[1])
    if not ends.any() or matrix.shape[1] == 0:
        return none
    toward = np.where(high, 1.0, -1.0)[ends, None] * matrix[ends]
    between = matrix[~ends]
    found = linprog(
        -toward.sum(axis=0),
        A_ub=-toward,
        b_ub=np.zeros(len(toward)),
        A_eq=between if len(between) else None,
        b_eq=np.zeros(len(between)) if len(between) else None,
        bounds=(-1.0, 1.0),
        method="highs",
    )
    return np.asarray(found.x) if found.success and -found.fun > NAMED else none


def check_groups(factor: Factor, rows: int, *, own_scale: bool) -> None:
    """Refuse a factor whose sd cannot be told.

    Parameters
    ----------
    factor
        The grouping factor.
    rows
        Number of rows.
    own_scale
        Whether the family has a scale of its own, which a group a row repeats.

    Raises
    ------
    ValueError
        For one member, and for a group a row beside a scale of rows.
    """
    members = len(factor.members)
    if members == 1:
        raise ValueError(
            f"group '{factor.name}' has one member ({factor.labels[0]}), expected two or more: an "
            "sd between groups cannot be told from one; leave the term out"
        )
    if own_scale and members >= rows:
        raise ValueError(
            f"group '{factor.name}' has {members} members in {rows} rows: its sd cannot be told "
            "from that of the rows; leave the term out"
        )


def numbers_as_text(frame: pd.DataFrame, columns: Sequence[str], text: str) -> list[str]:
    """Return a sentence on each column of text with many levels that are nearly all numbers.

    A file with a word among its numbers is read so, and one of numbers with commas or units, or of
    dates. What the formula calls ``C(column)`` is meant.
    """
    said = []
    for name in columns:
        levels = pd.Series(frame[name].unique())
        if levels.dtype.kind in "biuf" or isinstance(frame[name].dtype, pd.CategoricalDtype):
            continue
        if len(levels) <= MOST_TEXT_LEVELS or f"C({name}" in text:
            continue
        levels = levels.astype(str)
        numbers = levels.map(reads_as_number)
        grouped = levels.map(lambda level: reads_as_number(GROUPED.sub("", level)))
        for kind, are, cure in (
            ("numbers", numbers, "numbers"),
            ("numbers with commas, spaces or units", grouped, "numbers without them"),
            ("dates", levels.map(lambda v: bool(DATE.fullmatch(v))), "numbers, such as days,"),
        ):
            words = levels[~are]
            if len(words) < FEW_WORDS * len(levels):
                but = f" but {', '.join(words[:3])}" if len(words) else ""
                said.append(
                    f"column '{name}' is text with {len(levels)} levels, all of them {kind}{but}, "
                    f"and has a coefficient for each but one; make {cure} of it, or write C({name})"
                )
                break
    return said
