"""Responses that columns tell apart without error: along these the likelihood rises for ever."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linprog

from vi_recipes.formula.families import PROBABILITY, Family
from vi_recipes.formula.frame import Response

NAMED = 1e-6
"""Share of the largest coefficient from which a column is named."""

FEW = 2_000
"""Rows that are looked at first: if these are not separated, all are not."""


@dataclass(frozen=True)
class Sides:
    """Which way the linear predictor of every row goes where its likelihood rises.

    Parameters
    ----------
    matrix
        Shape (rows, columns); of thresholds and of several levels a row may stand there more than
        once, with columns of its own for each of them.
    low, high
        Rows that go down and up; those that are neither stay.
    """

    matrix: np.ndarray
    low: np.ndarray
    high: np.ndarray


def separated(matrix: np.ndarray, family: Family, link: str, response: Response) -> list[int]:
    """Return the columns whose combination tells all responses of a mean apart; none else.

    Of a response of levels these are columns of its second level, behind them those of its third,
    and so on.

    Parameters
    ----------
    matrix
        The design with its intercept, shape (rows, columns), of rows that count.
    family, link, response
        What the rows are responses of.
    """

    def sides(rows: np.ndarray) -> Sides | None:
        return _sides(matrix[rows], family, link, response, rows)

    every = np.arange(len(matrix))
    some = np.random.default_rng(0).permutation(every)[:FEW]
    few = sides(some)
    if few is None or (len(some) == FEW and not len(_columns(few))):
        return []  # more rows are separated less
    found = few if len(some) < FEW else sides(every)
    width = matrix.shape[1] * (len(response.levels) - 1 if family.of_levels else 1)
    return [] if found is None else [k for k in _columns(found) if k < width]


def zeros_separated(matrix: np.ndarray, y: np.ndarray) -> list[int]:
    """Return the columns whose combination tells zeros from other counts; none where none does."""
    return _columns(Sides(matrix, y > 0, y == 0))


def _sides(
    matrix: np.ndarray, family: Family, link: str, response: Response, rows: np.ndarray
) -> Sides | None:
    y = response.y[rows]
    none = np.zeros(len(y), bool)
    if link in PROBABILITY and family.response in ("binary", "trials"):
        top = 1 if response.trials is None else response.trials[rows]
        return Sides(matrix, y == 0, y == top)
    if family.response == "count" and link == "log":
        # of counts above zero a hurdle's mean makes all of them one
        return Sides(matrix, y == (1 if family.has_hurdle else 0), none)
    if family.is_ordinal:
        return _of_thresholds(matrix, y.astype(int), len(response.levels))
    if family.of_levels:
        counts = y if y.ndim > 1 else np.eye(len(response.levels))[y.astype(int)]
        return _of_levels(matrix, counts)
    return None


def _of_thresholds(matrix: np.ndarray, y: np.ndarray, levels: int) -> Sides:
    """Return rows below the threshold above them, and above the one below; these may move too."""
    thresholds = np.eye(levels - 1)
    below, above = y < levels - 1, y > 0
    lower = np.column_stack([matrix[below], -thresholds[y[below]]])
    upper = np.column_stack([matrix[above], -thresholds[y[above] - 1]])
    high = np.arange(len(lower) + len(upper)) >= len(lower)
    return Sides(np.concatenate([lower, upper]), ~high, high)


def _of_levels(matrix: np.ndarray, counts: np.ndarray) -> Sides:
    """Return, of every level that occurs, its predictor less those of all others (the first: 0)."""
    levels, columns = counts.shape[1], matrix.shape[1]
    parts = []
    for one in range(levels):
        rows = matrix[counts[:, one] > 0]
        for other in set(range(levels)) - {one}:
            wide = np.zeros((len(rows), levels, columns))
            wide[:, one], wide[:, other] = rows, -rows
            parts.append(wide[:, 1:].reshape(len(rows), -1))
    stacked = np.concatenate(parts)
    high = np.ones(len(stacked), bool)
    return Sides(stacked, ~high, high)


def _columns(sides: Sides) -> list[int]:
    """Return the columns whose combination separates; none where there is none.

    References
    ----------
    Konis, K. (2007). Linear programming algorithms for detecting separated data in binary logistic
    regression models. DPhil thesis, University of Oxford.
    """
    low, high = sides.low, sides.high
    scale = np.abs(sides.matrix).max(axis=0, initial=0.0)
    scaled = sides.matrix / np.where(scale > 0, scale, 1.0)
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
