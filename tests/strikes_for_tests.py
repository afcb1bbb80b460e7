"""Ctrl-C at any moment that Python has for it, one after another.

Python hears a signal in its main thread as a function begins, as a loop goes back, and after each
call; in none of the other places, such as between a lock's being taken by ``with`` and the block.
So the moments are known and can be counted, and an interrupt at each of them is no matter of luck.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import CodeType
from typing import Any

TOOL = 4
"""Number of a tool among those that may watch: 0 to 2, and 5, have names of others."""


def is_struck(function: Callable[[], Any], at: int, when: Callable[[], Any] = lambda: True) -> bool:
    """Call a function with Ctrl-C at the moment of that number; return whether it came.

    Parameters
    ----------
    function
        What is called. An interrupt that it raises, as it should, ends here.
    at
        Which moment, from 0.
    when
        Whether moments count yet; all do by default.
    """
    events, mine = sys.monitoring.events, threading.get_ident()
    left, struck = at, False

    def heard(code: CodeType, *_: Any) -> None:
        nonlocal left, struck
        if struck or threading.get_ident() != mine or code.co_filename == __file__ or not when():
            return
        left -= 1
        if left < 0:
            struck = True
            signal.raise_signal(signal.SIGINT)  # what its handler raises is raised at the moment

    def jumped(code: CodeType, there: int, to: int) -> None:
        if to <= there:
            heard(code)

    watched = {
        events.PY_START: heard,
        events.PY_RESUME: heard,
        events.C_RETURN: heard,
        events.JUMP: jumped,
    }
    sys.monitoring.use_tool_id(TOOL, "strikes")
    try:
        for event, callback in watched.items():
            sys.monitoring.register_callback(TOOL, event, callback)
        # those of C's functions come with what calls them
        sys.monitoring.set_events(
            TOOL, events.PY_START | events.PY_RESUME | events.CALL | events.JUMP
        )
        function()
    except KeyboardInterrupt:
        if not struck:
            raise
    finally:
        sys.monitoring.set_events(TOOL, 0)
        sys.monitoring.free_tool_id(TOOL)
    return struck
