"""Memory that was freed, handed back to the system."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


def give_back() -> None:
    """Hand memory that was freed back to the system, where the C library takes that request.

    What a compiler has freed lies between what it keeps, and stays with the process otherwise:
    large arrays then come on top of it. It takes some milliseconds.
    """
    if (trim := _trim()) is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    """Return the function of the GNU C library; ``None`` under another one."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
