"""Ctrl-C at any moment that Python has for it, one after another.

Python hears a signal in its main thread as a function begins, after each call, and as a loop goes
back; in none of the other places, such as between a lock's being taken by ``with`` and the block.
So the moments are known and can be counted, and an interrupt at each of them is no matter of luck.
Those of loops are left out: what is raised there is not caught by ``finally`` while Python 3.12
has itself watched. So are those of callbacks of weak references, from which nothing is raised.
"""

from __future__ import annotations

import _weakrefset
import signal
import sys
import threading
import weakref
from collections.abc import Callable
from types import CodeType
from typing import Any

UNHEARD = (__file__, weakref.__file__, _weakrefset.__file__)

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
        if struck or threading.get_ident() != mine or code.co_filename in UNHEARD or not when():
            return
        left -= 1
        if left < 0:
            struck = True
            signal.raise_signal(signal.SIGINT)  # what its handler raises is raised at the moment

    sys.monitoring.use_tool_id(TOOL, "strikes")
    try:
        for event in (events.PY_START, events.PY_RESUME, events.C_RETURN):
            sys.monitoring.register_callback(TOOL, event, heard)
        # a return from C comes with its call
        sys.monitoring.set_events(TOOL, events.PY_START | events.PY_RESUME | events.CALL)
        function()
    except KeyboardInterrupt:
        if not struck:
            raise
    finally:
        sys.monitoring.set_events(TOOL, 0)
        sys.monitoring.free_tool_id(TOOL)
    return struck
