"""Text from outside, such as a site's name: how it may be shown, and whether it is a number."""

from __future__ import annotations

import unicodedata
from typing import Any

_DIRECTIONS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Signs that turn the direction of what follows, so that it reads as what it is not."""


def reads_as_number(value: Any) -> bool:
    """Whether Python makes a number of text or of another value.

    Examples
    --------
    >>> reads_as_number("-1e3"), reads_as_number("1,5"), reads_as_number(None)
    (True, False, False)
    """
    try:
        float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return True


def numbered(number: int, what: str) -> str:
    """Return how many there are of what; its plural is by an s.

    Examples
    --------
    >>> numbered(1, "fit"), numbered(2_000, "fit")
    ('1 fit', '2000 fits')
    """
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def visible(text: str, *, lines: bool = False) -> str:
    r"""Return ``text`` with its control characters spelled out, as Python would write them.

    A terminal obeys control characters, and a name from a file must not give it orders.

    Parameters
    ----------
    text
        What is to be shown.
    lines
        Whether its line breaks and tabs stay.

    Examples
    --------
    >>> visible("a\x1b[2J")
    'a\\x1b[2J'
    """
    if text.isprintable():
        return text
    return "".join(c if _harmless(c, lines) else repr(c)[1:-1] for c in text)


def _harmless(character: str, lines: bool) -> bool:
    if lines and character in "\n\t":
        return True
    kind = unicodedata.category(character)
    return kind not in ("Cc", "Cs", "Zl", "Zp") and character not in _DIRECTIONS
