"""What runs where a cell does: it makes the job that was sent anew, once, and does its cells.

It is imported by processes that have just begun.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from vi_recipes.cells.packed import Packed, known_versions, this_process
from vi_recipes.cells.sending import unpack
from vi_recipes.core import ModelError, SharedCode, collect_rarely, keep_freed, precision, told

MOST_JOBS = 2
"""Jobs that a process keeps: those that were used last."""

ONE_THREAD = {
    "NPROC": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
"""What a process is told, unless it was told otherwise: XLA counts processors by ``NPROC``."""

ASKING_TO_END = {
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
}
"""Signals that whoever began a process hears too, where they are sent to all: a terminal does so,
and what ends a job."""

LOADED_BY = os.getpid()
"""The process that has imported this: another one is a fork of it."""

FORKED = (
    "executor: its processes are forks of one that has JAX loaded, and would wait for ever for "
    "threads that a fork lacks; have them begun by spawn: "
    "ProcessPoolExecutor(2, multiprocessing.get_context('spawn'))"
)


@dataclass(frozen=True)
class Reply:
    """What a cell came to, and where it ran.

    Parameters
    ----------
    host, process
        The machine's name and the process's number.
    result
        What the job returned.
    error, of_model
        Why there is no result, in words, and whether it is the model's own fault.
    versions
        Package -> its version there, where that is another one.
    stopped
        Whether the cell was told to stop.
    began, ended
        When it did so, by the machine's clock, in seconds; making the job is no part of it.
    """

    host: str
    process: int
    result: Any = None
    error: str = ""
    of_model: bool = False
    versions: Mapping[str, str] | None = None
    stopped: bool = False
    began: float = float("nan")
    ended: float = float("nan")

    @property
    def is_done(self) -> bool:
        """Whether there is a result."""
        return not (self.error or self.versions or self.stopped)


# -- in the process that sends them ----------------------------------------------------------------


class _Order:
    """What becomes the reply of a cell as it is read."""

    def __init__(self, packed: Packed, cell: Any) -> None:
        self.packed, self.cell = packed, cell

    def __reduce__(self) -> Any:
        return do, (self.packed, self.cell)


class _Preparation:
    """What has a process import a module as it is read."""

    def __init__(self, module: str) -> None:
        self.module, self.sender = module, this_process()

    def __reduce__(self) -> Any:
        return prepare, (self.module, self.sender)


def preparation(module: str) -> bytes:
    """Return what ``pickle.loads`` has a process import a module by: see :func:`ordered`."""
    return pickle.dumps(_Preparation(module))


def ordered(packed: Packed, cell: Any) -> bytes:
    """Return what ``pickle.loads(.., buffers=[packed.content])`` makes a cell's :class:`Reply` of.

    So nothing but the standard library is called where a cell runs. Where this package is missing,
    that is an error like others; a function of ours cannot be received there, and Dask waits then
    for ever.
    """
    apart = replace(packed, content=pickle.PickleBuffer(packed.content))  # type: ignore[arg-type]
    return pickle.dumps(_Order(apart, cell), 5, buffer_callback=lambda _: False)


# -- in the process that does the cells ------------------------------------------------------------

_jobs: OrderedDict[str, tuple[Any, SharedCode]] = OrderedDict()
_making = threading.RLock()
_stop: Any = None
_loads = False


def is_loading() -> bool:
    """Whether this process executes users' files to make a job of them."""
    return _loads


def begin(stop: Any, cached: bool) -> None:
    """Prepare a process of :class:`~vi_recipes.cells.processes.Processes`."""
    global _stop
    _stop = stop
    for asked in ASKING_TO_END:
        signal.signal(asked, signal.SIG_IGN)  # the parent says when to stop
    # who waits for its end need not wait until Python has looked for garbage in it: half a second
    atexit.register(gc.freeze)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKING_TO_END)  # see _without_interrupts
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if cached:
        from vi_recipes.core import use_cache

        use_cache(tell=lambda _: None)  # the parent has said it


def _end_with_parent() -> None:
    """End with the process that began this one, however that ends: nobody else asks for it."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def ready() -> None:
    """Do nothing: whoever asked knows that the process has begun."""


def _watch(done: int, total: int, text: str = "") -> None:
    """Report to nobody, and stop when told to."""
    if _stop is not None and _stop.value:
        raise KeyboardInterrupt


@contextmanager
def _unsampled() -> Iterator[None]:
    """Have a worker of Dask's take no samples of the stack in the block, for its page of profiles.

    It looks 100 times a second, and keeps what it saw of the last 1,000 seconds, twice. JAX's
    stacks are hundreds of calls deep, so that a worker grew by a megabyte a cell.
    """
    dask = sys.modules.get("distributed")
    try:
        worker = None if dask is None else dask.get_worker()
    except ValueError:  # this is none
        worker = None
    sampler = None if worker is None else worker.periodic_callbacks.get("profile")
    if worker is None or sampler is None:
        yield
        return

    def resume() -> None:
        if not sampler.is_running():
            sampler.start()

    worker.loop.add_callback(sampler.stop)
    try:
        yield
    finally:
        worker.loop.add_callback(resume)


def prepare(module: str, sender: tuple[str, int]) -> None:
    """Import what cells need, which takes seconds, before there is a cell."""
    if os.getpid() == LOADED_BY:
        _settle(sender)
        importlib.import_module(module)


def _settle(sender: tuple[str, int]) -> None:
    """Have this process do cells as they are to be done, unless it is the one that sends them."""
    if this_process() != sender:
        for name, value in ONE_THREAD.items():  # read by JAX when it begins
            os.environ.setdefault(name, value)
        keep_freed()
        collect_rarely()


def do(packed: Packed, cell: Any) -> Reply:
    """Do one cell; whatever happens comes back as a reply."""
    here = this_process()
    place: dict[str, Any] = {"host": here[0], "process": here[1]}
    if here[1] != LOADED_BY:
        return Reply(**place, error=FORKED)
    _settle(packed.sender)
    mine = known_versions()
    if mine != dict(packed.versions):
        return Reply(**place, versions=mine)
    try:
        _watch(0, 0)
        with _unsampled(), precision("float64"):
            job, code = _job(packed)
            began = time.time()
            with code.used() if job.shares_code else nullcontext():
                result = job(cell, _watch)
            return Reply(**place, result=result, began=began, ended=time.time())
    except KeyboardInterrupt:
        return Reply(**place, stopped=True)
    except ValueError as error:
        return Reply(**place, error=str(error), of_model=isinstance(error, ModelError))
    except (Exception, SystemExit) as error:  # it may be of a kind that cannot be sent
        return Reply(**place, error=told(error))


def _job(packed: Packed) -> tuple[Any, SharedCode]:
    """Return the job with the code that its cells share; made when it is first asked for."""
    global _loads
    with _making:
        mark = packed.mark
        if mark not in _jobs:
            _loads = True
            try:
                _jobs[mark] = unpack(packed.content), SharedCode()
            finally:
                _loads = False
        _jobs.move_to_end(mark)
        while len(_jobs) > MOST_JOBS:
            _jobs.popitem(last=False)
        return _jobs[mark]
