"""Tables of cells, and how numbers are printed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from vi_recipes.core import visible

if TYPE_CHECKING:
    import pandas as pd


Flag = Literal["", "inside", "off", "failed"]

Badge = Literal["", "good", "care", "bad", "unknown", "none"]

MARKS: dict[Badge, str] = {"good": "+", "care": "!", "bad": "x", "unknown": "?", "none": "-"}
"""Badge -> the sign for it where there are neither shapes nor colours."""


DASH = "–"
"""Shown where there is no number."""


NUM_SIGNIFICANT = 3
"""Digits of a posterior sd worth reading; its mean is shown to the same decimal place."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table.

    Parameters
    ----------
    text
        What it says, formatted; control characters are spelled out.
    flag
        ``"inside"`` for a difference inside Monte Carlo error, ``"off"`` for one that matters,
        ``"failed"`` where a method has no number to show.
    badge
        How good what it says is, where it is a verdict: marked by a sign, a shape and a colour.
    """

    text: str
    flag: Flag = ""
    badge: Badge = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", visible(self.text))

    @property
    def marked(self) -> str:
        """The text with its badge and its flag as marks, for output without colour."""
        sign = f"{MARKS[self.badge]} " if self.badge else ""
        return sign + self.text + {"off": " *", "inside": " ~"}.get(self.flag, "")


@dataclass(frozen=True)
class Table:
    """A table ready to print.

    Parameters
    ----------
    title
        What it shows.
    columns
        Headings; a line break separates a method's name from the quantity.
    rows
        One list of cells per row, as long as ``columns``.
    note
        How to read it; may be empty.
    left
        Indices of the columns that hold words, to be aligned left.
    wraps
        Whether its last column holds sentences, which may be broken into lines.
    mixed
        Whether its rows are different quantities, whose decimals need not stand below one another.
    drops
        What one of its columns is, if those that a terminal has no room for are left out there.
    """

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    note: str = ""
    left: tuple[int, ...] = (0,)
    wraps: bool = False
    mixed: bool = False
    drops: str = ""

    def __post_init__(self) -> None:
        shown = ["\n".join(map(visible, title.split("\n", 1))) for title in self.columns]
        object.__setattr__(self, "columns", shown)


# -- numbers ---------------------------------------------------------------------------------


def format_number(value: float, digits: int = 4) -> str:
    """Return ``value`` to ``digits`` significant digits; integers in full, NaN as a dash.

    Examples
    --------
    >>> format_number(0.00123456), format_number(61895.0), format_number(2.5e-9)
    ('0.001235', '61,895', '2.50e-09')
    """
    if math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if float(value).is_integer() and abs(value) < 1e9:
        return f"{int(value):,}" if abs(value) >= 10_000 else str(int(value))
    size = abs(value)
    if not 1e-4 <= size < 1e9:
        return f"{value:.{min(digits, 3) - 1}e}"
    decimals = max(digits - 1 - _magnitude(size), 0)
    return f"{value:,.{decimals}f}" if size >= 10_000 else f"{value:.{decimals}f}"


def format_value(value: float, mcse: float = 0.0, scale: float = math.nan) -> str:
    """Return ``value`` to the digits that mean something.

    Parameters
    ----------
    value
        A mean or an sd.
    mcse
        Its Monte Carlo standard error; the last digit shown is the first one it touches.
    scale
        The posterior sd, which ends the digits worth reading: its third significant one.

    Examples
    --------
    >>> format_value(0.68812, mcse=0.002), format_value(0.68812, scale=0.041)
    ('0.688', '0.6881')
    """
    if not math.isfinite(value):
        return format_number(value)
    limits = []
    if mcse > 0 and math.isfinite(mcse):
        limits.append(-_magnitude(mcse))
    if scale > 0 and math.isfinite(scale):
        limits.append(NUM_SIGNIFICANT - 1 - _magnitude(scale))
    if not limits:
        return format_number(value)
    decimals = min(limits)
    if decimals > 6 or abs(value) >= 1e9:
        digits = max(decimals + _magnitude(abs(value)), 0) if value else 0
        return f"{value:.{min(digits, 6)}e}"
    text = f"{value:.{max(decimals, 0)}f}"
    return text.removeprefix("-") if not float(text) else text  # no "-0.00"


def format_seconds(seconds: float) -> str:
    """Return seconds, to three decimals at most and fewer as they grow."""
    if math.isnan(seconds):
        return DASH
    if seconds < 0.0005:
        return "0" if seconds == 0 else "<0.001"
    if seconds >= 100:
        return f"{seconds:,.0f}"
    return f"{seconds:.{min(max(1 - _magnitude(seconds), 1), 3)}f}"


def format_count(count: float) -> str:
    """Return a count with thousands separated, 0 and NaN as a dash."""
    return DASH if math.isnan(count) or count == 0 else f"{int(count):,}"


def format_speed_up(ratio: float) -> str:
    """Return a speed-up as a multiple of the reference's speed."""
    if math.isnan(ratio):
        return DASH
    return f"{ratio:,.0f}×" if ratio >= 10 else f"{ratio:.1f}×" if ratio >= 1 else f"{ratio:.2g}×"


def _magnitude(value: float) -> int:
    """Return the power of ten of the leading digit of a positive number."""
    return math.floor(math.log10(value)) if value > 0 else 0


def from_frame(frame: pd.DataFrame, title: str, note: str) -> Table:
    """Return the columns of any frame; numbers are rounded, columns of words aligned left."""
    import pandas as pd

    words = {name for name in frame if not pd.api.types.is_any_real_numeric_dtype(frame[name])}
    rows = [
        [
            Cell(str(value) if name in words else format_number(float(value)))
            for name, value in zip(frame.columns, values, strict=True)
        ]
        for values in frame.itertuples(index=False, name=None)
    ]
    left = tuple(i for i, name in enumerate(frame.columns) if name in words)
    return Table(title, [str(name) for name in frame.columns], rows, note, left)


def sentences(*parts: str) -> str:
    """Return the parts that say something as sentences, one after the other."""
    return " ".join(f"{part}." for part in parts if part)


def listed(names: Sequence[str]) -> str:
    """Return names as a part of a sentence.

    Examples
    --------
    >>> listed(["map", "em", "nuts"])
    'map, em and nuts'
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


MAX_LINE = 140
"""Letters of what stands in a line for a longer text."""


def short(text: str, length: int = MAX_LINE) -> str:
    """Return as many clauses of a text as stand in a line; of a very long one its first words.

    Examples
    --------
    >>> short("It failed: no mode. Try another.", 20)
    'It failed: no mode'
    >>> short("It failed (see: above) at once; try another", 30)
    'It failed (see: above) at once'
    """
    depth, ends = 0, [len(text)]
    for at, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0 and letter in ".:;" and text[at + 1 : at + 2] == " ":
            ends.append(at)
    within = [end for end in ends if end <= length]
    if within:
        return text[: max(within)].rstrip(" .:;")
    if min(ends) <= 1.25 * length:
        return text[: min(ends)].rstrip(" .:;")
    return text[:length].rpartition(" ")[0].rstrip(" .:;,(")
