"""Models run in one thread at a time: NumPyro's handlers are one stack, which all threads share."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import wraps

from vi_recipes.core.interrupts import whole_blocks

_RUNNING = threading.RLock()


def one_at_a_time[**P, T](function: Callable[P, T]) -> Callable[P, T]:
    """Return ``function``, which waits until no other thread runs a function made so.

    An interrupt finds the handlers of NumPyro, and the settings of JAX, as they were before.

    What it calls may be made so too. It must not wait for another thread that calls such a
    function.
    """

    @wraps(function)
    def alone(*args: P.args, **kwargs: P.kwargs) -> T:
        with _RUNNING, whole_blocks():
            return function(*args, **kwargs)

    return alone
