"""Processes on this machine, each of which may die without taking the others' work along."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from ctypes import c_bool
from dataclasses import dataclass
from functools import partial
from typing import Any, override

import jax

from vi_recipes.cells.worker import ASKING_TO_END, ONE_THREAD, begin, ready


class LostError(Exception):
    """The process that was at it has died."""


class NotBegunError(Exception):
    """A process has died before it could do anything."""


@dataclass
class _Work:
    future: Future[Any]
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class _Slot:
    """One process at a time, and the one after it where that dies."""

    def __init__(self, make: Callable[[], ProcessPoolExecutor]) -> None:
        self._make = make
        self._pool: ProcessPoolExecutor | None = None
        self._begun: Future[None] | None = None

    def submit(self, work: _Work) -> Future[Any]:
        if self._pool is None:
            self._pool = self._make()
            # what is submitted first begins the process
            with _environment(ONE_THREAD), _without_interrupts():
                self._begun = self._pool.submit(ready)
        return self._pool.submit(work.function, *work.args, **work.kwargs)

    def died(self) -> Exception:
        """Have another process begin for what comes next; return what happened to this one."""
        begun, self._begun, self._pool = self._begun, None, None  # a broken pool ends by itself
        alive = begun is not None and begun.done() and begun.exception() is None
        return LostError() if alive else NotBegunError()

    def close(self, *, wait: bool) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=wait, cancel_futures=True)


class Processes(Executor):
    """So many processes, begun by spawn; one thread each, unless the environment says otherwise.

    The standard pool gives up all that it was to do when one of its processes dies. Here that costs
    what the process was at, which fails with :class:`LostError`, and another process begins.

    Parameters
    ----------
    number
        How many.
    """

    def __init__(self, number: int) -> None:
        context = multiprocessing.get_context("spawn")
        # a process that is killed as it looks at an event keeps the event's lock
        self._stop = context.RawValue(c_bool, False)
        cached = jax.config.jax_compilation_cache_dir is not None

        def make() -> ProcessPoolExecutor:
            return ProcessPoolExecutor(1, context, initializer=begin, initargs=(self._stop, cached))

        self._slots = [_Slot(make) for _ in range(number)]
        self._idle = list(self._slots)
        self._waiting: deque[_Work] = deque()
        self._lock = threading.RLock()
        self._closed = False
        # what a dying process is told of holds its pool's locks, and must not begin another
        self._taker = ThreadPoolExecutor(1)

    @override
    def submit[**P, T](
        self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[T]:
        """Have a function called in one of the processes."""
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError("the processes have ended")
            self._waiting.append(_Work(future, function, args, kwargs))
            self._hand_out()
        return future

    def _hand_out(self) -> None:
        with self._lock:
            while self._waiting and self._idle and not self._closed:
                work = self._waiting.popleft()
                if not work.future.set_running_or_notify_cancel():
                    continue
                slot = self._idle.pop()
                try:
                    inner = slot.submit(work)
                except BrokenProcessPool:  # it died while it had nothing to do
                    slot.died()
                    inner = slot.submit(work)
                inner.add_done_callback(partial(self._hand_back, slot, work))

    def _hand_back(self, slot: _Slot, work: _Work, done: Future[Any]) -> None:
        self._taker.submit(self._take, slot, work, done)

    def _take(self, slot: _Slot, work: _Work, done: Future[Any]) -> None:
        """Pass on what came of some work, and give its process the next."""
        if done.cancelled():
            work.future.set_exception(LostError())
        elif isinstance(error := done.exception(), BrokenProcessPool):
            work.future.set_exception(slot.died())
        elif error is not None:
            work.future.set_exception(error)
        else:
            work.future.set_result(done.result())
        with self._lock:
            self._idle.append(slot)
            self._hand_out()

    def stop(self) -> None:
        """Have cells that run stop where they next say how far they are."""
        self._stop.value = True

    @override
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes, once they have done what they are at."""
        with self._lock:
            self._closed = True
            while self._waiting:
                self._waiting.popleft().future.cancel()
        with ExitStack() as all_end:  # an interrupt ends one's waiting, and the others are told
            all_end.callback(self._taker.shutdown, wait=wait)
            for slot in reversed(self._slots):
                all_end.callback(slot.close, wait=wait)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Have a process that begins in the block find ``values``, unless they are set already."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Have a process that begins in the block hear no Ctrl-C until it knows what to do with one.

    It takes seconds to import what it needs, and would else end with a traceback meanwhile.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ASKING_TO_END)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
