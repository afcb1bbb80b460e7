"""Columns of every kind that data frames have, as those that designs are made of."""

from __future__ import annotations

import unicodedata
from numbers import Real
from typing import Any

import pandas as pd

WHOLE = 2.0**53
"""Up to it every whole number is a float."""

NUMBERS = ("integer", "floating", "mixed-integer-float", "decimal")
DATES = ("date", "datetime", "datetime64", "time", "timedelta", "period")
"""What pandas calls what objects are."""


WIDEST = 2**63
"""Whole numbers from it on have no type of NumPy's that holds them all."""


def one_form(text: str) -> str:
    """Return text with its accents composed: two files may write one name in two ways."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def plain(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame of NumPy's numbers and booleans, categories, text and dates.

    Nullable columns, Arrow's and those of objects become what they hold. Where values are missing,
    whole numbers are floats, and booleans stay objects. Text is in one form, as names are.
    """
    changed = {
        str(name): _composed(_plain(column) if _is_other(column.dtype) else column)
        for name, column in frame.items()
        if _is_other(column.dtype) or isinstance(column.dtype, pd.CategoricalDtype)
    }
    return frame.assign(**changed)


def _composed(column: pd.Series) -> pd.Series:
    """Return text with its accents composed: else one level would be two that look alike."""
    is_category = isinstance(column.dtype, pd.CategoricalDtype)
    if not is_category and column.dtype.kind in "biufcmM":
        return column
    levels = column.cat.categories if is_category else column.unique()
    forms = {v: one_form(v) for v in levels if isinstance(v, str)}
    if all(form == text for text, form in forms.items()):
        return column
    if not is_category:
        return column.map(lambda value: forms.get(value, value)).astype(column.dtype)
    order = dict.fromkeys(forms.get(level, level) for level in levels)
    values = column.astype(object).map(lambda value: forms.get(value, value))
    dtype = pd.CategoricalDtype(list(order), column.cat.ordered)
    return values.astype(dtype)


def whole_again(column: pd.Series) -> pd.Series:
    """Return floats that are whole as integers: what they were before some were missing."""
    if column.dtype.kind != "f" or not (column.abs() < WHOLE).all() or (column % 1).any():
        return column
    return column.astype(int)


def text_of(value: Any) -> str:
    """Return what a level is called; whole numbers alike, whatever holds them."""
    is_whole = isinstance(value, Real) and not isinstance(value, bool) and float(value).is_integer()
    return str(int(value)) if is_whole else str(value)


def _is_other(dtype: Any) -> bool:
    if isinstance(dtype, pd.CategoricalDtype):
        return False
    return dtype.kind == "O" or isinstance(dtype, pd.api.extensions.ExtensionDtype)


def _plain(column: pd.Series) -> pd.Series:
    held = pd.api.types.infer_dtype(column, skipna=True)
    lacks = column.isna()
    if held in NUMBERS:
        is_whole = held == "integer" and not lacks.any()
        if held == "integer" and column[~lacks].abs().max() >= (WHOLE if lacks.any() else WIDEST):
            return column.astype(object).where(~lacks, None)  # as floats some would be one
        return column.astype(int if is_whole else float)
    if held == "boolean":
        return column.astype(bool if not lacks.any() else object)
    if held in DATES:
        return pd.Series(pd.NaT, column.index, dtype="datetime64[ns]")  # it is refused as such
    if held == "string" and column.dtype == "str":
        return column
    values = column.astype(object)
    if held.startswith("mixed"):  # numbers beside text
        values = values.map(str)
    return values.where(~lacks, None)
