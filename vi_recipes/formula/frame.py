"""The user's data as a frame: the columns that formulas use, complete, and the response in them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from vi_recipes.core import require, unknown
from vi_recipes.data import read_frame
from vi_recipes.formula.designs import response_values
from vi_recipes.formula.families import SUPPORTS, Family, outside
from vi_recipes.formula.groups import levels_of, places_in
from vi_recipes.formula.parse import tokens_of
from vi_recipes.formula.plain import WIDEST, one_form, plain, whole_again

LARGEST = 1e100
"""Numbers beyond it have squares that are none."""

MOST_LEVELS = 12
"""Of an ordered response that are all listed."""

DROP_OR_FILL = (
    "missing='drop' (--missing drop) leaves these rows out and counts them, or fill them in"
)
"""What can be done about missing values of the rows that are to be fitted."""

TRIALS = re.compile(r"\s*(p|prop|proportion|cbind)\s*\((.*)\)\s*", re.DOTALL)


def as_frame(data: Any) -> pd.DataFrame:
    """Return data as a frame with rows numbered from 0; a mapping to single values is one row.

    Raises
    ------
    ValueError
        For what is no frame, mapping of columns or file, and for no rows.
    """
    if isinstance(data, str | Path):
        data = read_frame(data)
    elif isinstance(data, Mapping):
        columns = {name: _as_given(values) for name, values in data.items()}
        single = bool(columns) and all(pd.api.types.is_scalar(v) for v in columns.values())
        try:
            data = pd.DataFrame([columns] if single else columns)
        except ValueError as error:
            raise ValueError(f"data: {error}; expected columns of one length") from None
    elif hasattr(data, "to_pandas") and not isinstance(data, pd.DataFrame):
        data = data.to_pandas()  # polars, pyarrow
    elif isinstance(data, pd.Series):  # a row of a frame
        data = data.to_frame().T.infer_objects()
    if not isinstance(data, pd.DataFrame):
        raise ValueError(
            f"data: got {type(data).__name__}, expected a data frame, a mapping of columns, or "
            "the name of a file"
        )
    if data.columns.nlevels > 1:
        raise ValueError(
            f"data: its columns have names of {data.columns.nlevels} levels (a MultiIndex), "
            "expected one name each"
        )
    # a file may have a space behind its commas
    names = pd.Index([one_form(str(name)).strip() for name in data.columns])
    if twice := list(names[names.duplicated()]):
        raise ValueError(f"data: several columns are called '{twice[0]}', expected one of a name")
    if data.empty:
        raise ValueError(f"data: got a frame of shape {data.shape}, expected rows and columns")
    return plain(data.set_axis(names, axis=1).reset_index(drop=True))


def _as_given(values: Any) -> Any:
    """Return a list as objects: pandas would make floats of whole numbers that are beside None."""
    if not isinstance(values, list):
        return values
    made = np.empty(len(values), object)
    made[:] = values
    return made


def complete(
    frame: pd.DataFrame,
    columns: Sequence[str],
    missing: Literal["error", "drop"],
    cure: str = DROP_OR_FILL,
) -> tuple[pd.DataFrame, str]:
    """Return the columns without missing values, and what was dropped, in words.

    Infinite numbers count as missing: no model takes them.

    Raises
    ------
    ValueError
        Where there are some and they are not to be dropped; the counts are in it.
    """
    require(missing in ("error", "drop"), "missing", missing, "'error' or 'drop'")
    frame = frame[list(dict.fromkeys(columns))]
    numbers = frame.select_dtypes("number")
    _check_kinds(frame, numbers)
    holes, infinite = frame.isna(), np.isinf(numbers.astype(float))
    holes[numbers.columns] |= infinite
    rows = holes.any(axis=1)
    if not rows.any():
        return _ordered(frame), ""
    kind = "missing or infinite values" if infinite.any(axis=None) else "missing values"
    counts = holes.sum()
    by_column = ", ".join(f"{name} {n}" for name, n in counts.items() if n)
    if missing == "error":
        raise ValueError(
            f"data: {rows.sum()} of {len(rows)} rows have {kind} ({by_column}; the first "
            f"is row {int(rows.argmax()) + 1}); {cure}"
        )
    if rows.all():
        raise ValueError(f"data: all {len(rows)} rows have {kind} ({by_column})")
    kept = plain(frame[~rows].reset_index(drop=True))
    had_holes = {str(n): whole_again(kept[n]) for n in numbers.columns if holes[n].any()}
    return (
        _ordered(kept.assign(**had_holes)),
        f"{rows.sum()} of {len(rows)} rows left out for {kind} ({by_column})",
    )


def _check_kinds(frame: pd.DataFrame, numbers: pd.DataFrame) -> None:
    for name, column in frame.items():
        if column.dtype.kind in "mM":
            raise ValueError(
                f"data: column '{name}' holds dates or times, expected numbers or text; make a "
                "number of it, such as days since the first, or text where its values are levels"
            )
        held = pd.api.types.infer_dtype(column) if column.dtype.kind == "O" else column.dtype.kind
        if held in ("c", "complex"):
            raise ValueError(
                f"data: column '{name}' holds complex numbers, expected real ones; take np.real, "
                "np.imag or np.abs of it"
            )
        if held == "integer" and column.dropna().abs().max() >= WIDEST:
            raise ValueError(
                f"data: column '{name}' holds whole numbers too large for a computer's integers, "
                f"such as {column.max()}; divide them, or make text of them where they are levels"
            )
    far = (numbers.astype(float).abs() > LARGEST) & np.isfinite(numbers.astype(float))
    if far.any(axis=None):
        name = far.columns[int(far.any().to_numpy().argmax())]
        raise ValueError(
            f"data: column '{name}' has numbers beyond {LARGEST:g}; give it in another unit"
        )


def _ordered(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the frame with categories in their own order, those that do not occur left out.

    formulae would sort the values of a category that is not ordered.
    """
    changed = {
        str(name): column.cat.remove_unused_categories().cat.as_ordered()
        for name, column in frame.items()
        if isinstance(column.dtype, pd.CategoricalDtype)
    }
    return frame.assign(**changed)


@dataclass(frozen=True)
class Response:
    """The response of a formula.

    Parameters
    ----------
    text
        As the formula has it.
    name
        Of its column, or its text.
    y
        Its values; codes from 0 of levels.
    trials
        Of successes, else ``None``.
    levels
        What the codes stand for, where it has levels.
    """

    text: str
    name: str
    y: np.ndarray
    trials: np.ndarray | None = None
    levels: tuple[str, ...] = ()

    def at(self, rows: np.ndarray) -> Response:
        """Return those of some rows."""
        trials = None if self.trials is None else self.trials[rows]
        return replace(self, y=self.y[rows], trials=trials)


def levels_said(response: Response, family: Family) -> str:
    """Return what the levels of a response are to its model; empty where it has none."""
    if not response.levels or family.takes_trials:
        return ""
    first, *rest = response.levels
    if family.response == "binary":
        return f"1 is {rest[0]}, 0 is {first}"
    if family.is_ordinal:
        shown = list(response.levels)
        if len(shown) > MOST_LEVELS:
            shown[3:-1] = ["..."]
        return " < ".join(shown)
    return f"each level beside {first}"


def response_of(
    text: str, frame: pd.DataFrame, family: Family, weights: np.ndarray | None = None
) -> Response:
    """Return the response, checked against what its family knows; rows of weight 0 do not count.

    Raises
    ------
    ValueError
        For values outside the family's support, the first row named.
    """
    pair = TRIALS.fullmatch(text)
    if pair is not None and family.of_levels:
        response = _counts(text, _parts(pair[2]), frame)
    elif pair is not None:
        response = _successes(text, pair[1], _parts(pair[2]), frame)
    else:
        response = _plain(text, frame, family)
    if family.takes_trials != (response.trials is not None):
        raise ValueError(
            f"response: got '{text}' for family '{family.name}', expected "
            f"{SUPPORTS[family.response]}"
        )
    if response.trials is not None:
        _check_whole("trials", response.trials)
    y = response.y if weights is None else response.y[weights > 0]
    if family.response in ("real", "positive", "unit") and np.ptp(y) == 0:
        which = "" if len(y) == len(response.y) else " of weight above 0"
        if len(y) == 1:
            raise ValueError(f"response '{text}': got one row{which}, expected several")
        raise ValueError(
            f"response '{text}': got {y[0]:g} in every row{which}, expected values that differ"
        )
    if family.has_hurdle and not (y > 0).any():
        raise ValueError(
            f"response '{text}': got 0 in every row, expected some counts above 0 (family "
            f"'{family.name}'), of which alone the mean is told"
        )
    bad = outside(family, response.y, response.trials)
    if bad.any():
        row = int(bad.argmax())
        among = ""
        if response.trials is not None and not family.of_levels:
            among = f" among {response.trials[row]:g} trials"
        got = ", ".join(f"{v:g}" for v in np.atleast_1d(response.y[row]))
        raise ValueError(
            f"response '{text}', row {row + 1}: got {got}{among}, expected "
            f"{SUPPORTS[family.response]} (family '{family.name}'); {bad.sum()} of {len(bad)} rows "
            "are outside"
        )
    return response


def trials_of(formula: str, frame: pd.DataFrame) -> np.ndarray | None:
    """Return the trials that new rows have; ``None`` where they do not say."""
    pair = TRIALS.fullmatch(formula.partition("~")[0])
    if pair is None:
        return None
    parts = _parts(pair[2])
    needed = parts if pair[1] == "cbind" else parts[1:]
    if len(needed) == 2 and (rest := re.fullmatch(r"(.+?)\s*-\s*(.+)", parts[1])):
        needed = [rest[1]] if rest[2] == parts[0] else needed  # of cbind(s, n - s) it is n
    if any(t.named not in frame for p in needed for t in tokens_of(p) if t.named):
        return None
    trials = np.sum([_number(part, frame) for part in needed], axis=0)
    _check_whole("trials", trials)
    return trials


def _plain(text: str, frame: pd.DataFrame, family: Family) -> Response:
    name = text.strip("`")
    column = frame[name] if name in frame else response_values(text, frame)
    is_number = pd.api.types.is_numeric_dtype(column)
    if family.response == "levels":
        return _any_levels(text, name, column)
    if family.response in ("binary", "ordered") and (
        not is_number or isinstance(column.dtype, pd.CategoricalDtype)
    ):
        return _of_levels(text, name, column, family)
    if not is_number:
        values = column.astype(object)
        lost = pd.to_numeric(values, errors="coerce").isna().to_numpy()
        row = int(lost.argmax())  # of text it is the first that reads as no number
        raise ValueError(
            f"response '{text}', row {row + 1}: got {values.iloc[row]!r}, expected "
            f"{SUPPORTS[family.response]} (family '{family.name}')"
        )
    y = np.asarray(column, float)
    if family.is_ordinal:
        if (y % 1 != 0).any():
            row = int((y % 1 != 0).argmax())
            raise ValueError(
                f"response '{text}', row {row + 1}: got {y[row]:g}, expected "
                f"{SUPPORTS[family.response]} (family '{family.name}')"
            )
        levels, y = np.unique(y, return_inverse=True)
        return Response(text, name, y.astype(float), None, tuple(f"{v:g}" for v in levels))
    return Response(text, name, y)


def _of_levels(text: str, name: str, column: pd.Series, family: Family) -> Response:
    if isinstance(column.dtype, pd.CategoricalDtype):
        levels = [str(v) for v in column.cat.categories]
        codes = np.asarray(column.cat.codes, float)
    elif family.is_ordinal:
        raise ValueError(
            f"response '{text}': got text, whose order is not known; make it an ordered "
            "category (pandas.Categorical(..., ordered=True)) or whole numbers"
        )
    else:
        found, places = np.unique(column.astype(str), return_inverse=True)
        levels, codes = found.tolist(), places.astype(float)
    if not family.is_ordinal and len(levels) != 2:
        raise ValueError(
            f"response '{text}': got {len(levels)} levels ({', '.join(levels[:6])}), expected two "
            "for family 'bernoulli', of which the second counts as 1"
        )
    return Response(text, name, codes, None, tuple(levels))


def _any_levels(text: str, name: str, column: pd.Series) -> Response:
    levels = levels_of(column)
    if len(levels) < 2:
        raise ValueError(f"response '{text}': got one level ({levels[0]}), expected two or more")
    codes = places_in(levels, column).astype(float)
    return Response(text, name, codes, None, tuple(str(v) for v in levels))


def _counts(text: str, parts: list[str], frame: pd.DataFrame) -> Response:
    if len(parts) < 2 or not text.lstrip().startswith("cbind"):
        raise ValueError(f"response '{text}': expected the counts of two levels or more, as "
                         "cbind(a, b, c)")  # fmt: skip
    y = np.column_stack([_number(part, frame) for part in parts])
    return Response(text, "counts", y, y.sum(axis=1), tuple(p.strip("`") for p in parts))


def _successes(text: str, function: str, parts: list[str], frame: pd.DataFrame) -> Response:
    if len(parts) != 2:
        raise ValueError(
            f"response '{text}': got {len(parts)} argument(s), expected two: p(y, n) or "
            "cbind(y, n - y)"
        )
    y, second = (_number(part, frame) for part in parts)
    name = parts[0].strip("`")
    return Response(text, name, y, y + second if function == "cbind" else second)


def _number(text: str, frame: pd.DataFrame) -> np.ndarray:
    name = text.strip("`")
    if name in frame:
        return np.asarray(frame[name], float)
    if text.isdigit():
        return np.full(len(frame), float(text))
    return np.asarray(response_values(f"I({text})", frame), float)


def _parts(text: str) -> list[str]:
    """Return the arguments of a call, told apart at commas outside parentheses."""
    depth, parts, start = 0, [], 0
    for token in tokens_of(text):
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(token.text, 0)
        if token.text == "," and depth == 0:
            parts.append(text[start : token.place].strip())
            start = token.end
    return [*parts, text[start:].strip()]


def row_numbers(what: str, given: Any, full: pd.DataFrame) -> np.ndarray | None:
    """Return weights or offsets of rows: a column's name or an array.

    Raises
    ------
    ValueError
        For a name that is no column, another number of rows, or what is no number.
    """
    if given is None:
        return None
    if isinstance(given, str):
        given = one_form(given)
        if given not in full:
            raise ValueError(f"{what}: {unknown('column', given, full.columns)}")
        given = full[given]
    try:
        values = np.asarray(given, float)
    except (TypeError, ValueError):
        raise ValueError(f"{what}: got {given!r}, expected numbers, one a row") from None
    if values.shape != (len(full),):
        raise ValueError(f"{what}: got shape {values.shape}, expected ({len(full)},), one a row")
    return values


def check_weights(weights: np.ndarray) -> None:
    """Refuse weights that are no numbers of rows.

    Raises
    ------
    ValueError
        For negative ones and those that are not whole, the first row named, and for zeros alone.
    """
    _check_whole("weights", weights)
    if not weights.any():
        raise ValueError("weights: got 0 in every row, so that no row counts")


def _check_whole(what: str, values: np.ndarray) -> None:
    bad = (values < 0) | (values % 1 != 0)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(
            f"{what}, row {row + 1}: got {values[row]:g}, expected whole numbers from 0: how often "
            "a row counts"
            if what == "weights"
            else f"{what}, row {row + 1}: got {values[row]:g}, expected whole numbers from 0"
        )
