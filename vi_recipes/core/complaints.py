"""Sentences about bad input: closest names, arguments and what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Return the message for a name that does not exist: the closest one, and all there are.

    Examples
    --------
    >>> unknown("model", "raddon", ["gmm", "radon"])
    "unknown model 'raddon'; did you mean 'radon'? Known: gmm, radon"
    """
    names = list(known)
    folded = {n.casefold(): n for n in names}
    close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    hint = f"did you mean '{folded[close[0]]}'? " if close else ""
    return f"unknown {what} '{name}'; {hint}Known: {', '.join(names) or 'none'}"


def require(condition: bool, argument: str, got: object, expected: str) -> None:
    """Raise a :class:`ValueError` that names the argument unless ``condition`` holds."""
    if not condition:
        raise ValueError(f"{argument}: got {got!r}, expected {expected}")
