"""Models run in one thread at a time: NumPyro's handlers are one stack, which all threads share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps

_RUNNING = threading.RLock()


def one_at_a_time[**P, T](function: Callable[P, T]) -> Callable[P, T]:
    """Return ``function``, which waits until no other thread runs a function made so.

    What it calls may be made so too. It must not wait for another thread that calls such a
    function.
    """

    @wraps(function)
    def alone(*args: P.args, **kwargs: P.kwargs) -> T:
        with _RUNNING:
            return function(*args, **kwargs)

    return alone
