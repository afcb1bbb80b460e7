"""Threads that an interrupt finds whole, wherever it strikes.

Python raises :class:`KeyboardInterrupt` in the thread that it began with, between any two steps of
whatever that is at. In the midst of ``Thread.start``, of a future's methods or of any other lock
that is written in Python, this leaves the lock taken for ever, or released twice. So what has to
do with such locks is done beside, and who waits for it does so by a queue that is one step of C.
"""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue

PAUSE = 0.1
"""Seconds of waiting after which an interrupt is let through where the system does not do so."""


class Beside[T]:
    """A function that a thread of its own calls, once :meth:`start` is called.

    Parameters
    ----------
    function
        What is called.
    name
        Of the thread.
    daemon
        Whether the process may end meanwhile.
    """

    def __init__(self, function: Callable[[], T], name: str, *, daemon: bool = True) -> None:
        self._thread = threading.Thread(target=self._run, name=name, daemon=daemon)
        self._function = function
        self._ended: SimpleQueue[None] = SimpleQueue()
        self._made: list[T] = []
        self._error: BaseException | None = None
        self.begun = self.over = False

    def start(self) -> None:
        """Have it called; where an interrupt is raised here, it may be or not."""
        _thread.start_new_thread(self._start, ())

    def _start(self) -> None:
        try:
            self._thread.start()
        except BaseException as error:  # no room for another
            self._end(error)

    def _run(self) -> None:
        self.begun = True
        try:
            self._made.append(self._function())
        except BaseException as error:
            self._end(error)
        else:
            self._end(None)

    def _end(self, error: BaseException | None) -> None:
        self._error = error
        del self._function  # and what it holds
        self.over = True
        self._ended.put(None)

    def wait(self) -> None:
        """Wait until it has returned or raised."""
        while not self.over:
            with suppress(Empty):
                self._ended.get(timeout=PAUSE)

    def handed[H](self, queue: SimpleQueue[H]) -> H:
        """Return the next of what it puts into a queue as it runs.

        Parameters
        ----------
        queue
            Where nobody else takes anything.

        Raises
        ------
        EOFError
            Where it has returned, and nothing is left. What it raised is raised.
        """
        while True:
            over = self.over  # before the look: what it put last is found
            with suppress(Empty):
                return queue.get(timeout=0 if over else PAUSE)
            if over:
                self.result()
                raise EOFError(f"thread '{self._thread.name}' has ended")

    def result(self) -> T:
        """Return what it returned, or raise what it raised, once it has."""
        self.wait()
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # which would hold on to this
        return self._made[0]
