"""Interrupts that wait while a block is entered or left, or a module imported.

Python raises :class:`KeyboardInterrupt` at any step of the thread that it began with. Where that is
amid what undoes a setting, the setting stays: the program that JAX writes down, to which whatever
the process calculates from then on is added in place of being done; double precision; a handler of
NumPyro's, under which all later models run.

A command waits for imports likewise from its first moments (:mod:`vi_recipes.cli.interrupts`), when
this room, which takes four times as long to import, is not there yet.
"""

from __future__ import annotations

import _thread
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import FrameType
from typing import Any, override

MOST_WAITS = 20
"""How often an interrupt waits, each time for so many seconds:"""

A_WAIT = 0.05

BLOCKS = ("__enter__", "__exit__")
"""What a block is entered and left by."""


class _Later:
    """Hears Ctrl-C, and passes it on once nothing is half done."""

    def __init__(self, before: Callable[[int, FrameType | None], Any]) -> None:
        self.before = before
        self._waits = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._waits < MOST_WAITS and _half_done(frame):
            self._waits += 1
            _thread.start_new_thread(_send_again, (number,))
            return
        self._waits = 0
        self.before(number, frame)


class whole_blocks(AbstractContextManager[None]):  # noqa: N801  it is called as a function is
    """Have an interrupt in the block wait where it would leave something half done.

    What heard it before still does, for which it waits a second at most. In another thread than
    the first, where none is raised, this does nothing, and within another such block neither.
    """

    inside = False

    def __init__(self) -> None:
        self._outermost = False

    @override
    def __enter__(self) -> None:
        if whole_blocks.inside or threading.current_thread() is not threading.main_thread():
            return
        before = signal.getsignal(signal.SIGINT)
        if callable(before):  # else it is ignored, ends the process, or is not heard by Python
            signal.signal(signal.SIGINT, _Later(before))  # from here on this is whole, too
            self._outermost = whole_blocks.inside = True

    @override
    def __exit__(self, *_: object) -> None:
        if self._outermost:
            whole_blocks.inside = False
            hears = signal.getsignal(signal.SIGINT)
            if isinstance(hears, _Later):  # the model may have put another in its place
                signal.signal(signal.SIGINT, hears.before)


def _half_done(frame: FrameType | None) -> bool:
    while frame is not None:
        code = frame.f_code
        if code.co_name in BLOCKS or code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _send_again(number: int) -> None:
    time.sleep(A_WAIT)
    if hasattr(signal, "pthread_kill"):  # which also ends a wait or a sleep that goes on by then
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        _thread.interrupt_main(signal.Signals(number))
