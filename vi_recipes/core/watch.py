"""Hosts that hear of one another's end, so that none waits for one that will never come.

JAX misses a host that is gone after 100 seconds, and one that has raised, and waits at its end for
the others, after five minutes; after as many it ends one that still writes, if others are done.
Here every host has a connection to the first one, which passes on what it is told, and misses a
host as soon as the connection ends.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from vi_recipes.core.errors import told
from vi_recipes.core.status import MethodFailure, ModelError

SHORT = 2.0
"""Seconds that a host has to end for its own reason once another has said that it ends."""

LONG = 10.0
"""Seconds that a host has to come out of what another one has left."""


@dataclass(frozen=True)
class HostLeft:
    """What another host has left, or that it has ended, and since when this is known."""

    number: int
    what: str
    since: float


class Watch:
    """What this host hears of the others, and tells them.

    Parameters
    ----------
    index, count
        Number of this one, and how many there are.
    peers
        Number -> the connection to it: the first host's to all, and all others' to the first one.
    whole
        Whether every host has such a connection.
    leave
        Ends the process.
    """

    def __init__(
        self,
        index: int,
        count: int,
        peers: dict[int, socket.socket],
        whole: bool = True,
        leave: Callable[[int], Any] = os._exit,
    ) -> None:
        self.index, self.count, self.peers, self._exit = index, count, peers, leave
        self.whole, self.process = whole, os.getpid()
        self.begun = 0
        self.inside = ""
        """What this host is at together with the others; empty where it is at nothing of that."""
        self.done: Counter[int] = Counter()
        """Of every host, how much of what all do together it has come out of."""
        self.left: dict[int, HostLeft] = {}
        self.last_word: tuple[str, float] | None = None
        """Why all end, as another host has it, and when it said so."""
        self.over = self._deaf = False
        self._lock = threading.RLock()
        self._unread: dict[int, bytes] = dict.fromkeys(peers, b"")
        self._open = set(peers)
        self._thread = threading.Thread(target=self._hear, daemon=True)
        self._thread.start()
        # of its own, because another thread may be stuck in the middle of a line; none can be
        # begun as Python ends
        self._ending, self._flushed = threading.Event(), threading.Event()
        threading.Thread(target=self._flush, daemon=True).start()

    # -- what this host is at ----------------------------------------------------------------------

    @contextmanager
    def together(self, what: str) -> Iterator[None]:
        """Run what every host runs, at the same place in its program.

        A :class:`ModelError` and a :class:`MethodFailure` are every host's, which come to them
        from the same numbers. Any other error may be this one's alone: the others have some
        seconds to raise it too.
        """
        if self.inside:  # a part of what all are at
            yield
            return
        with self._lock:
            self.begun += 1
            for host, left in self.left.items():
                if not left.number:
                    raise ModelError(
                        f"host {host} has ended, and host {self.index} goes on to {what}"
                    )
            self.inside = what
        try:
            yield
        except (ModelError, MethodFailure, KeyboardInterrupt):
            self._out()
            raise
        except BaseException as error:
            self._out(f"has failed in {what} ({told(error)})")
            others = set(range(self.count)) - {self.index}
            until = time.monotonic() + LONG + 2 * SHORT
            while time.monotonic() < until and any(self.done[k] < self.begun for k in others):
                time.sleep(0.05)
            raise
        else:
            self._out()

    def _out(self, why: str = "") -> None:
        with self._lock:
            self.inside = ""
            self._say(kind="out", host=self.index, number=self.begun, text=why)

    # -- how this host ends ------------------------------------------------------------------------

    def raised(self, error: BaseException) -> None:
        """Tell the others what ends this host."""
        with self._lock:
            if self.over or os.getpid() != self.process:
                return
            self.over = True
            why = f"host {self.index} has failed ({told(error)})"
            if self.last_word is not None:  # which is why this one could not go on
                why = self.last_word[0]
            self._say(kind="over", text=why)
        _print(f"{why}, and all end with it; start the program on all hosts anew")

    def ends(self) -> None:
        """Let the program end: at once where one has failed, else when all others end too."""
        if os.getpid() != self.process:
            return
        with self._lock:
            if not self.over and self.last_word is None:
                self._say(kind="end", host=self.index)
        while not self.over and self.last_word is None:
            if not self.whole or self._all_end():
                return
            time.sleep(0.05)
        if self.over:
            self._leave()
        elif self.last_word is not None:
            self._end(self.last_word[0])

    def _all_end(self) -> bool:
        """Whether every other host has said that it ends, without a failure."""
        others = set(range(self.count)) - {self.index}
        with self._lock:
            return others <= {host for host, left in self.left.items() if not left.number}

    def _end(self, why: str) -> None:
        """End this process, whatever it is at: what it waits for cannot be interrupted."""
        with self._lock:
            if self.over:
                return
            self.over = True
            self._say(kind="over", text=why)
        _print(f"{why}, and all end with it; start the program on all hosts anew")
        self._leave()

    def _leave(self) -> None:
        """End without JAX's own wait, when the others have heard why.

        The first host is the last to end: JAX ends the others with a trace as soon as it is gone.
        """
        until = time.monotonic() + 3 * SHORT
        while self._open and time.monotonic() < until:
            if self.index and self.last_word is not None:
                break
            if threading.current_thread() is self._thread:
                self._listen(0.05)
            else:
                time.sleep(0.05)
        self._ending.set()
        self._flushed.wait(1.0)
        self._exit(1)

    def _flush(self) -> None:
        self._ending.wait()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        self._flushed.set()

    # -- what is said ------------------------------------------------------------------------------

    def _say(self, besides: int = -1, **message: Any) -> None:
        line = json.dumps(message).encode() + b"\n"
        with self._lock:
            for host, peer in self.peers.items():
                if host != besides and host in self._open:
                    with suppress(OSError):
                        peer.sendall(line)

    def _hear(self) -> None:
        while not self._deaf:
            self._listen(0.2)
            self._look()
            if not self._open:
                time.sleep(0.2)

    def _listen(self, seconds: float) -> None:
        """Read what has come within so many seconds."""
        with selectors.DefaultSelector() as selector:
            for host in self._open:
                selector.register(self.peers[host], selectors.EVENT_READ, host)
            ready = selector.select(seconds) if self._open else []
        for one, _ in ready:
            host = one.data
            try:
                said = self.peers[host].recv(65_536)
            except OSError:
                said = b""
            if not said:
                self._open.discard(host)
                self._gone(host)
                continue
            *lines, self._unread[host] = (self._unread[host] + said).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if self.index == 0:  # an answer to who says that all is over
                    self._say(besides=-1 if message["kind"] == "over" else host, **message)
                self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        now = time.monotonic()
        with self._lock:
            if message["kind"] == "over":
                if self.last_word is None:
                    self.last_word = message["text"], now
                return
            host = message["host"]
            if message["kind"] == "end":
                self.left[host] = HostLeft(0, "has ended", now)
                return
            self.done[host] = message["number"]
            self.left.pop(host, None)
            if message["text"]:
                self.left[host] = HostLeft(message["number"], message["text"], now)

    def _gone(self, host: int) -> None:
        """Take the end of a connection for that of a host, unless it had said that it ends."""
        with self._lock:
            if host in self.left and not self.left[host].number:
                return
            if self.last_word is None:
                why = f"host {host} is gone (killed, out of memory, or cut off)"
                # of the first one's end JAX makes a trace in a moment
                self.last_word = why, time.monotonic() if host else 0.0
                if self.index == 0:
                    self._say(kind="over", text=why)

    def _look(self) -> None:
        """End where one has failed, or this host waits for one that has left."""
        now = time.monotonic()
        with self._lock:
            if self.over:
                return
            why = ""
            if self.last_word is not None and now - self.last_word[1] > SHORT:
                why = self.last_word[0]
            for host, left in self.left.items():
                if why or not self.inside or now - left.since < LONG:
                    continue
                if left.number == self.begun:
                    why = f"host {host} {left.what}"
                elif not left.number and self.begun > self.done[host]:
                    waits = f"and host {self.index} waits for it in {self.inside}"
                    why = f"host {host} has ended, {waits}"
        if why:
            self._end(why)

    def close(self) -> None:
        """Hang up, and hear no more."""
        self.over = self._deaf = True
        self._ending.set()
        self._thread.join()
        for peer in self.peers.values():
            peer.close()


def _print(text: str) -> None:
    with suppress(OSError, ValueError):  # a closed one
        print(f"vi_recipes: {text}", file=sys.stderr, flush=True)


# -- the watch of this process ---------------------------------------------------------------------

_watch: Watch | None = None


def together(what: str) -> Any:
    """Return a context for what all hosts do at this place; none where one is alone."""
    return nullcontext() if _watch is None else _watch.together(what)


def begin_watch(index: int, count: int, peers: dict[int, socket.socket], *, whole: bool) -> None:
    """Watch the other hosts until this process ends, and tell them how it does."""
    global _watch
    watch = _watch = Watch(index, count, peers, whole=whole)
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        before(kind, error, trace)
        if not (sys.flags.interactive or hasattr(sys, "ps1")):  # else the program goes on
            watch.raised(error)

    sys.excepthook = hook
    atexit.register(watch.ends)  # before JAX's own, which was there first
