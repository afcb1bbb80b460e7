"""Sentences about bad input: closest names, arguments and what was expected."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from numbers import Integral, Real
from typing import Any

MOST_SHOWN = 400
"""Characters of a list of known names."""

MOST = 10**9
"""Most steps, draws, starts and the like: what compiled code counts in 32 bits."""

LOOSEST_STEP = 0.1
"""Largest tolerance of a Newton step, in sds: beyond it what is no optimum would count as one."""

LOOSEST_RISE = 0.01
"""Largest tolerance of the rise of an objective in one iteration, relative to its size."""

WIDEST_SCATTER = 100.0
"""Largest scatter of starting points: on the scale of logarithms and logits nothing is beyond."""


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Return the message for a name that does not exist: the closest one, and all there are.

    Examples
    --------
    >>> unknown("model", "raddon", ["gmm", "radon"])
    "unknown model 'raddon'; did you mean 'radon'? Known: gmm, radon"
    """
    names = list(known)
    close = closest(name, names)
    hint = f"did you mean '{close}'? " if close else ""
    return f"unknown {what} '{name}'; {hint}Known: {enumerated(names)}"


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that another was meant for, as it seems; ``None`` where none is near.

    Examples
    --------
    >>> closest("Rado", ["gmm", "radon"]), closest("x", ["gmm", "radon"])
    ('radon', None)
    """
    folded = {n.casefold(): n for n in known}
    close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    return folded[close[0]] if close else None


def enumerated(names: Sequence[str]) -> str:
    """Return names one after the other, as many as are read in a sentence.

    Examples
    --------
    >>> enumerated(["gmm", "radon"]), enumerated([])
    ('gmm, radon', 'none')
    """
    ends = accumulate(len(n) + 2 for n in names)
    shown = [n for n, end in zip(names, ends, strict=True) if end <= MOST_SHOWN]
    rest = len(names) - len(shown)
    return f"{', '.join(shown) or 'none'}{f' and {rest} more' if rest else ''}"


def as_names(argument: str, given: Any) -> list[str]:
    """Return names that were given as one or as several.

    Raises
    ------
    ValueError
        For what are none.

    Examples
    --------
    >>> as_names("sites", "beta"), as_names("sites", ("beta", "tau"))
    (['beta'], ['beta', 'tau'])
    """
    if isinstance(given, str):
        return [given]
    names = list(given) if isinstance(given, Iterable) else [given]
    if odd := [name for name in names if not isinstance(name, str)]:
        raise ValueError(f"{argument}: got {odd[0]!r}, expected a name, or a list of names")
    return names


def require(condition: bool, argument: str, got: object, expected: str) -> None:
    """Raise a :class:`ValueError` that names the argument unless ``condition`` holds."""
    if not condition:
        raise ValueError(f"{argument}: got {got!r}, expected {expected}")


def require_by_site(values: object) -> None:
    """Raise a :class:`ValueError` for values that are no mapping of sites to them."""
    if not isinstance(values, Mapping):
        raise ValueError(f"values: got {type(values).__name__}, expected site -> value")


def require_count(argument: str, got: object, *, least: int = 1, most: int = MOST) -> None:
    """Raise a :class:`ValueError` that names the argument unless it is an integer in a range.

    Examples
    --------
    >>> require_count("num_starts", 0)
    Traceback (most recent call last):
    ValueError: num_starts: got 0, expected a positive integer
    """
    expected = {0: "a non-negative integer", 1: "a positive integer"}
    sentence = expected.get(least, f"an integer of {least} or more")
    count = int(got) if isinstance(got, Integral) and not isinstance(got, bool) else least - 1
    require(least <= count, argument, got, sentence)
    require(count <= most, argument, got, f"{sentence}, at most {most:,}")


def require_number(
    argument: str, got: object, *, above: float = 0.0, most: float = math.inf
) -> None:
    """Raise a :class:`ValueError` that names the argument unless it is a finite number in a range.

    Parameters
    ----------
    argument, got
        The argument's name and its value.
    above
        What it has to be larger than.
    most
        The largest that it may be.
    """
    sentence = "a positive number" if above == 0 else f"a number above {above:g}"
    sentence += ", and a finite one" if math.isinf(most) else f" and at most {most:g}"
    number = float(got) if isinstance(got, Real) and not isinstance(got, bool) else math.nan
    require(math.isfinite(number) and above < number <= most, argument, got, sentence)
