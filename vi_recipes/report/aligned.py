"""Columns of numbers aligned at the decimal, by classes that stand for the digits they lack."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

NUMBER = re.compile(r"[−-]?[\d,]*(?:\.(\d+))?×?")
"""A number, with the digits after its decimal point."""

MOST = 7
"""Digits that there is a class for."""

ERROR = " ± "
"""Stands between a number and its error."""


@dataclass(frozen=True, slots=True)
class Aligned:
    """A cell's text in two parts, with the classes that align them.

    Parameters
    ----------
    text
        The number, or the whole text where it is none.
    error
        Its error, with the sign before it; may be empty.
    classes
        Of the cell: the digits after the decimal point that it lacks.
    width
        Class of the error: letters of the longest in the column.
    """

    text: str
    error: str
    classes: str
    width: str


def aligned(texts: Sequence[str]) -> list[Aligned]:
    """Return the cells of a column so that decimal points stand below one another."""
    parts = [text.partition(ERROR) for text in texts]
    digits = [_digits(number) for number, _, _ in parts]
    most = max(digits, default=-1)
    longest = max((len(error) for _, _, error in parts), default=0)
    cells = []
    for (number, sign, error), own in zip(parts, digits, strict=True):
        if own < 0:
            # words are what they are, beside numbers too
            cells.append(Aligned(f"{number}{sign}{error}", "", "", ""))
            continue
        lacks = min(most - own, MOST)
        classes = f"p{lacks}" + (" dot" if own == 0 else "") if lacks else ""
        width = f"e{min(max(longest + 2, 3), 9)}" if longest else ""
        cells.append(Aligned(number, f"± {error}" if error else "", classes, width))
    return cells


def _digits(text: str) -> int:
    """Return the digits after the decimal point; -1 for what is no plain number."""
    found = NUMBER.fullmatch(text)
    return len(found.group(1) or "") if found and re.search(r"\d", text) else -1
