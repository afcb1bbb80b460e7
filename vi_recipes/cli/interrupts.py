"""What asks a command to end, Ctrl-C above all: heard once, and told by the exit code.

It is imported before all else, so that a command can be ended by a word from its first moments.
"""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ASKED = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""Ctrl-C; what a scheduler or a shutdown sends; the end of the terminal."""

ONE_WISH = 1.0
"""Seconds within which what is asked again is the same wish: ``timeout`` sends its signal twice,
and the second would end the keeping of what the first found done."""

MOST_WAITS = 20
"""How often an interrupt waits for an import's end, each time for so long:"""

A_WAIT = 0.05

_first: int | None = None
_waits = 0
_heard = float("-inf")


def hear() -> None:
    """Have every signal that asks for an end raise :class:`KeyboardInterrupt`, as Ctrl-C does.

    One that is ignored, as those of a command that ``nohup`` began, stays so.
    """
    for number in ASKED:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)
    sys.unraisablehook = _send_again


def _interrupt(number: int, frame: FrameType | None) -> None:
    global _first, _heard, _waits
    if time.monotonic() - _heard < ONE_WISH:
        return
    if _waits < MOST_WAITS and _imports(frame):
        _waits += 1
        _thread.start_new_thread(_send_later, (number,))
        return
    _waits = 0
    _heard = time.monotonic()
    _first = _first or number
    raise KeyboardInterrupt


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported: half of it, and Python's locks, would stay."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _send_later(number: int) -> None:
    time.sleep(A_WAIT)
    if hasattr(signal, "pthread_kill"):  # which also ends a wait or a sleep that goes on by then
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        _thread.interrupt_main(signal.Signals(number))


def _send_again(unraisable: Any) -> None:
    """Send Ctrl-C again where it fell on a garbage collection, which swallows exceptions."""
    global _heard
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    _heard = float("-inf")
    _thread.start_new_thread(_send_later, (signal.SIGINT,))  # without a lock of Python's own


def end_at_once() -> None:
    """Have what asks for an end end the process without a word: there is nothing left to keep."""
    for number in ASKED:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    sys.unraisablehook = sys.__unraisablehook__


def exit_code() -> int:
    """Return the code of a command that was asked to end: 128 and the signal, 130 for Ctrl-C."""
    return 128 + (_first or signal.SIGINT)


def said(*kept: str) -> str:
    """Return what is said of it, and of what is kept."""
    by = "" if _first in (None, signal.SIGINT) else f" by {signal.Signals(_first or 0).name}"
    return "; ".join([f"interrupted{by}", *kept])


@contextmanager
def keeping(what: str) -> Iterator[None]:
    """Have an interrupt in the block say what is kept, where there is something to say."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(*[what] * bool(what)) from None
