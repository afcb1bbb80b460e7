"""Where cells run: here, in processes of this machine, or wherever an executor takes them."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing.context import BaseContext
from typing import Any

from vi_recipes.cells.processes import Processes
from vi_recipes.cells.worker import FORKED, is_loading, preparation, ready
from vi_recipes.core import Beside

type Engine = Executor | int | None
"""An executor, a number of processes on this machine, or ``None`` for this process itself."""

SECONDS = 10
"""How long a scheduler has to answer, and to have a worker."""

A_PROCESS = 300_000_000
"""Bytes that a process takes for itself before it does anything: Python, NumPyro and JAX."""

MOST_PREPARED = 16
"""Workers of others that begin ahead, at most: an executor does not say how many it has."""

TRACES = ("distributed", "tornado")
"""Packages that log pages of traces where a scheduler is gone, which is then said in a sentence."""


@contextmanager
def engine(executor: Engine, needs: str = "") -> Iterator[Executor | None]:
    """Yield what runs cells; processes begun for the block end with it, an executor stays.

    Parameters
    ----------
    executor
        Where: see :data:`Engine`.
    needs
        A module of this package that is imported where cells will run, from now on, while the
        caller makes ready what they are to do.

    Raises
    ------
    ValueError
        For what is none, for a pool of forks, for more processes than the memory has room for, and
        within a file that a worker loads.
    """
    if is_loading():
        raise ValueError(
            "the file calls for fits itself as a worker loads it; put that below "
            "`if __name__ == '__main__':`"
        )
    if executor is None or isinstance(executor, Executor):
        if _forks(executor):
            raise ValueError(FORKED)
        if executor is not None and needs:
            with suppress(Exception):  # who hands out cells hears of it, and says what it is
                _prepare(executor, needs, MOST_PREPARED)
        yield executor
        return
    if not isinstance(executor, int) or isinstance(executor, bool) or executor < 1:
        raise ValueError(
            f"executor: got {executor!r}, expected a concurrent.futures.Executor, a positive "
            "number of processes, or None"
        )
    if (room := _memory()) and executor * A_PROCESS > room:
        raise ValueError(
            f"executor: got {executor} processes, which take {A_PROCESS / 1e9:g} GB each before "
            f"they do anything, and this machine has {room / 1e9:.0f} GB; expected no more than it "
            f"has processors, {os.cpu_count()}"
        )
    processes = Processes(executor)
    try:
        if needs:
            _prepare(processes, needs, executor)
        yield processes
    except BaseException:
        processes.stop()
        raise
    finally:
        processes.shutdown()


def _prepare(executor: Executor, module: str, number: int) -> None:
    """Have so many processes begin, and import a module."""
    for _ in range(number):
        executor.submit(pickle.loads, preparation(module))


def _memory() -> int:
    """Return the bytes of this machine's memory; 0 where that is not known."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not on every system
        return 0


def _forks(executor: Executor | None) -> bool:
    """Whether a pool's processes are forks of this one, which may hang before they do anything."""
    held = vars(executor).values() if isinstance(executor, ProcessPoolExecutor) else ()
    return any(isinstance(v, BaseContext) and v.get_start_method() == "fork" for v in held)


@contextmanager
def _without(packages: Iterable[str]) -> Iterator[None]:
    """Have the loggers of packages, each module's own, say nothing in the block."""
    roots = tuple(packages)
    known = [name for name in logging.root.manager.loggerDict if name.split(".")[0] in roots]
    changed = [log for log in map(logging.getLogger, known) if not log.disabled]
    for log in changed:
        log.disabled = True
    try:
        yield
    finally:
        for log in changed:
            log.disabled = False


def is_closed(executor: Executor) -> bool:
    """Whether an executor of others takes nothing any more.

    Dask's has lost its scheduler, then, and what was on its way back never comes.
    """
    if isinstance(executor, Processes):
        return False
    try:
        executor.submit(ready).cancel()
    except Exception:  # every library has its own for one that is shut down
        return True
    return False


@contextmanager
def cluster(address: str) -> Iterator[Executor]:
    """Yield the executor of a Dask scheduler that runs already; it and its workers stay.

    Raises
    ------
    ValueError
        Where Dask is not installed, no scheduler answers at the address, or no worker is there.
    """
    try:
        from distributed import Client, Security, rpc
    except ImportError:
        raise ValueError(
            "scheduler: it needs the package 'distributed'; pip install 'vi_recipes[cluster]'"
        ) from None

    async def asked() -> Any:
        secured = Security().get_connection_args("client")  # type: ignore[no-untyped-call]
        async with rpc(address, connection_args=secured) as there:  # type: ignore[no-untyped-call]
            return await asyncio.wait_for(there.identity(), SECONDS)

    try:
        # a client waits for ever where something else answers; and a notebook has a loop that runs
        with _without(TRACES):
            asking = Beside(lambda: asyncio.run(asked())["type"], "scheduler")
            asking.start()
            kind = asking.result()
        if kind != "Scheduler":
            raise ValueError(f"it is a {kind.lower()}")
        client: Any = Client(address, timeout=SECONDS, set_as_default=False)  # type: ignore[no-untyped-call]
    except Exception as error:  # what another server's answer is taken for may be anything
        why = str(error).split("\n", maxsplit=1)[0] or type(error).__name__
        known = "" if isinstance(error, TimeoutError) else f" ({why})"
        raise ValueError(
            f"scheduler: no scheduler of Dask's answers at {address!r} within {SECONDS} s{known}; "
            "give the address that 'dask scheduler' prints, such as tcp://127.0.0.1:8786"
        ) from None
    with _without(TRACES), client:  # closing it has traces too
        try:
            client.wait_for_workers(1, timeout=SECONDS)
        except TimeoutError:
            raise ValueError(
                f"scheduler: {address} has no worker within {SECONDS} s; start one with "
                f"'dask worker {address} --nthreads 1'"
            ) from None
        yield client.get_executor()
