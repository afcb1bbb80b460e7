"""Tables as CSV, for programs that take some text for a formula."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from vi_recipes.core import visible

if TYPE_CHECKING:
    import pandas as pd

FORMULA = "=+-@\t\r"
"""What a spreadsheet takes for the beginning of a formula, in the first cell or any other."""

NUMBER = re.compile(r"[+-]?[\d.]+(e[+-]?\d+)?( \([\d.]+\)| ± [\d.]+)?")
"""What begins as a formula does and is a number, with its error behind it or without."""

QUOTE = "'"
"""Put before such text; spreadsheets show the rest as it is."""


def csv_text(frame: pd.DataFrame, *, index: str | None = None, with_index: bool = True) -> str:
    """Return a frame as CSV, with every digit of its numbers.

    Text that a spreadsheet would run as a formula has an apostrophe before it, and control
    characters are spelled out.

    Parameters
    ----------
    frame
        The table; labels of rows and columns are text too.
    index
        What heads the column of its index; by default the index's own names.
    with_index
        Whether there is such a column.
    """
    safe = frame.rename(columns=_safe)
    for k, kind in enumerate(safe.dtypes):
        if kind.kind not in "biufcmM":
            safe.isetitem(k, [_safe(value) for value in safe.iloc[:, k]])
    if with_index:
        safe.index = _safe_index(frame.index)
    return safe.to_csv(index=with_index, index_label=index, lineterminator="\n")


def read_text(value: Any) -> Any:
    """Return text of a CSV that :func:`csv_text` wrote as it was."""
    if isinstance(value, str) and value.startswith(QUOTE) and _is_formula(value[1:]):
        return value[1:]
    return value


def _safe_index(index: pd.Index) -> pd.Index:
    import pandas as pd

    rows = [_safe(row) if not isinstance(row, tuple) else tuple(map(_safe, row)) for row in index]
    if index.nlevels > 1:
        return pd.MultiIndex.from_tuples(rows, names=index.names)
    return pd.Index(rows, name=index.name, dtype=object if not rows else None)


def _safe(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return QUOTE + visible(value) if _is_formula(value) else visible(value)


def _is_formula(text: str) -> bool:
    return text[:1] in FORMULA and text != "" and not NUMBER.fullmatch(text)
