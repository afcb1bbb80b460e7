"""Cells, each done once, whatever becomes of those that do them."""

from __future__ import annotations

import pickle
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from enum import Enum, auto
from queue import Empty, SimpleQueue
from typing import Protocol

from vi_recipes.cells.engines import Engine, engine, is_closed
from vi_recipes.cells.packed import Packed, this_process
from vi_recipes.cells.processes import LostError, NotBegunError, Processes
from vi_recipes.cells.sending import NotSentError, pack
from vi_recipes.cells.worker import Reply, ordered
from vi_recipes.core import Beside, ModelError, Progress, SharedCode, silent, told

PAUSE = 0.2
"""Seconds between two looks at what is done."""

TRIES = 3
"""How often a cell is begun whose process dies each time."""

IN_FLIGHT = 256
"""Cells that an executor is given at a time, at most."""

BYTES_IN_FLIGHT = 64_000_000
"""Of jobs: every cell carries its own."""

FEWEST = 8

SILENCE = 5.0
"""Seconds without a result after which an executor is asked whether it still takes something."""


class Job[C: Hashable, R](Protocol):
    """What all cells of a run share."""

    @property
    def label(self) -> str:
        """What is done, in words: ``"model 'radon' by method 'map'"``."""

    @property
    def shares_code(self) -> bool:
        """Whether cells use what one of them compiled, where that says the same."""

    def __call__(self, cell: C, progress: Progress, /) -> R:
        """Do one cell."""

    def lost(self, cell: C, why: str, /) -> R:
        """Return what stands in for a cell that nobody could do."""


@dataclass(frozen=True)
class Place:
    """Where a cell ran, and when.

    Parameters
    ----------
    host, process
        The machine's name and the process's number there.
    began, ended
        By the machine's clock, in seconds; NaN for a cell that nobody could do.
    """

    host: str
    process: int
    began: float = float("nan")
    ended: float = float("nan")


def most_at_once(places: Iterable[Place]) -> dict[str, int]:
    """Return, by machine, how many cells ran there at once, at most."""
    moves: dict[str, list[tuple[float, int]]] = {}
    for place in places:
        if place.host and place.ended >= place.began:
            moves.setdefault(place.host, []).extend([(place.began, 1), (place.ended, -1)])
    found = {}
    for host, several in moves.items():
        running = most = 0
        for _, change in sorted(several):  # one that ends as another begins comes first
            running += change
            most = max(most, running)
        found[host] = most
    return found


def run_cells[C: Hashable, R](
    job: Job[C, R],
    cells: Iterable[C],
    keep: Callable[[C, R, Place], None],
    executor: Engine = None,
    *,
    exclusive: bool = False,
) -> None:
    """Do cells, and have each kept as soon as it is done.

    Parameters
    ----------
    job
        Does a cell. Elsewhere it is made anew from what :func:`pack` makes of it.
    cells
        What is to be done, each of them plain data.
    keep
        ``keep(cell, result, place)``, called here, in the order in which they are done.
    executor
        Where: see :data:`Engine`.
    exclusive
        Whether one cell runs at a time, so that seconds are those of a machine that does no other;
        of a number of processes, one is begun.

    Raises
    ------
    ValueError
        For a job that cannot be sent, workers with other versions of what decides numbers, and
        whatever the job raises.
    KeyboardInterrupt
        What is done is kept; what has not begun is cancelled.
    """
    if isinstance(executor, int) and exclusive:
        executor = min(executor, 1)
    with engine(executor) as where:
        if where is None:
            with SharedCode().used() if job.shares_code else nullcontext():
                for cell in cells:
                    began = time.time()
                    result = job(cell, silent)
                    keep(cell, result, Place(*this_process(), began, time.time()))
            return
        try:
            packed = pack(job)
        except NotSentError as error:
            raise ValueError(
                f"executor: {job.label} cannot be sent to another process ({error}), or leave "
                "executor out"
            ) from None
        run = _Run(job, deque(cells), keep, where, packed, exclusive)
        if isinstance(where, Processes):
            run.stop = where.stop
        run.run()


class Wish(Enum):
    """How a run is to end that is not done."""

    EARLY = auto()
    """With what the cells have that are under way."""
    NOW = auto()


class _Run[C: Hashable, R]:
    """Cells under way in an executor."""

    def __init__(
        self,
        job: Job[C, R],
        waiting: deque[C],
        keep: Callable[[C, R, Place], None],
        executor: Executor,
        packed: Packed,
        exclusive: bool,
    ) -> None:
        self.job, self.waiting, self.keep = job, waiting, keep
        self.executor, self.packed = executor, packed
        most = max(FEWEST, min(IN_FLIGHT, BYTES_IN_FLIGHT // len(packed.content)))
        self.most = 1 if exclusive else most
        self.pending: dict[Future[Reply], C] = {}
        self.ended: SimpleQueue[Future[Reply] | None] = SimpleQueue()
        """What the executor is done with."""
        self.begun: Counter[C] = Counter()
        self.stillborn = 0
        """Processes that ended before they had begun, since a cell was last done."""
        self.stop: Callable[[], None] | None = None
        """Has cells that run end early, with what they have; ``None`` for workers of others."""
        self.closed = False
        """Whether the executor was found to take nothing any more."""
        self.done: deque[tuple[C, R, Place]] = deque()
        """What is to be kept; it is taken out once it is."""
        self.arrived: SimpleQueue[None] = SimpleQueue()
        """Wakes who keeps it."""
        self.wish: Wish | None = None
        self.at_it = self.over = False
        self.error: BaseException | None = None
        """Why it ended."""

    # -- where the cells were asked for ------------------------------------------------------------

    def run(self) -> None:
        """Keep cells as they come.

        Only here does an interrupt strike, which is always in the thread that Python began with:
        all that has to do with the executor is another one's. In the midst of that, locks of the
        executor's would stay taken, for which its own threads then wait for ever.
        """
        try:
            Beside(self.carry, "cells").start()
            self.keep_done()
        except KeyboardInterrupt:
            self.end(Wish.EARLY)
            try:
                if self.at_it:
                    self.keep_done()
            except KeyboardInterrupt:
                self.end(Wish.NOW)
                self.keep_done()
            raise
        except BaseException:
            self.end(Wish.NOW)
            if self.at_it:  # there may be no room for its thread
                while not self.over:
                    self.pause()
                self.keep_done()  # which may fail, on a full disk
            raise

    def keep_done(self) -> None:
        """Keep what is done until all is over, and raise what ended it."""
        while self.done or not self.over:
            while self.done:  # one that an interrupt comes upon is kept again
                self.keep(*self.done[0])
                self.done.popleft()
            if not self.over:
                self.pause()
        if self.error is not None:
            try:
                raise self.error
            finally:
                self.error = None

    def pause(self) -> None:
        """Wait until something is done, or for a moment, which lets interrupts through."""
        with suppress(Empty):
            self.arrived.get(timeout=PAUSE)

    def end(self, wish: Wish) -> None:
        """Have it end."""
        self.wish = wish
        self.ended.put(None)

    # -- beside, where no interrupt strikes --------------------------------------------------------

    def carry(self) -> None:
        """Have the executor do the cells."""
        self.at_it = True
        try:
            try:
                self.hand_out_and_take()
            except KeyboardInterrupt:
                self.end_early()
                raise
            finally:
                self.salvage()
        except BaseException as error:
            self.error = error
        finally:
            self.over = True
            self.arrived.put(None)

    def hand_out_and_take(self) -> None:
        heard = time.monotonic()
        while self.waiting or self.pending:
            if self.wish is Wish.EARLY:
                self.end_early()
            if self.wish is not None:
                return
            self.hand_out()
            if future := self.next_ended():
                self.take(future)
                heard = time.monotonic()
            elif time.monotonic() - heard > SILENCE:
                if is_closed(self.executor):
                    self.closed = True
                    raise ValueError(f"executor: it has lost its scheduler; {GOES_ON}")
                heard = time.monotonic()

    def next_ended(self) -> Future[Reply] | None:
        """Return one that ended, or ``None`` after a pause."""
        try:
            return self.ended.get(timeout=PAUSE)
        except Empty:
            return None

    def end_early(self) -> None:
        """Wait for what cells under way have, where they can be told to stop."""
        if self.stop is not None:
            self.stop()
            running = {f for f in self.pending if not f.cancel() and not f.done()}
            while running and self.wish is not Wish.NOW:
                running.discard(self.next_ended())

    def hand_out(self) -> None:
        while self.waiting and len(self.pending) < self.most and self.wish is None:
            cell = self.waiting[0]
            try:
                order, content = ordered(self.packed, cell), self.packed.content
                future = self.executor.submit(pickle.loads, order, buffers=[content])
            except Exception as error:  # every library has its own for one that is shut down
                self.closed = True
                raise ValueError(f"executor: it takes no more ({told(error)}); {GOES_ON}") from None
            self.begun[cell] += 1
            self.pending[future] = self.waiting.popleft()
            future.add_done_callback(self.ended.put)

    def give(self, cell: C, result: R, place: Place) -> None:
        """Have a cell kept."""
        self.done.append((cell, result, place))
        self.arrived.put(None)

    def take(self, future: Future[Reply]) -> None:
        """Keep what a cell came to, or have it tried again."""
        cell = self.pending[future]
        try:
            reply = future.result()
        except NotBegunError:
            self.stillborn += 1
            if self.stillborn >= TRIES:
                raise ValueError(
                    "executor: a process ended before it had begun. A script must call this below "
                    "`if __name__ == '__main__':`, because every process loads it; or the memory "
                    "is used up"
                ) from None
            self.begun[cell] -= 1  # no try of it: the process never knew of it
            self.waiting.appendleft(cell)
        except LostError:
            self.again(cell, "the process that was at it died")
        except BrokenExecutor as error:
            raise ValueError(f"executor: it has broken down ({told(error)}); {GOES_ON}") from None
        except CancelledError:  # Dask does so with all of them where its scheduler is gone
            if self.begun[cell] >= TRIES:
                raise ValueError(
                    f"executor: it cancels what it is given ({TRIES} times); {GOES_ON}"
                ) from None
            self.waiting.append(cell)
        except ImportError as error:  # this package itself: what a job needs is told of in a reply
            raise ValueError(
                f"executor: a worker cannot import what cells need ({error}); install vi_recipes "
                "there, in the same versions as here"
            ) from None
        except Exception as error:
            # Dask has tried again by itself, and this is its last word
            if type(error).__name__ != "KilledWorker":
                raise ValueError(f"executor: it raised {told(error)}; {GOES_ON}") from None
            self.begun[cell] = TRIES
            self.again(cell, "the workers that were at it died")
        else:
            self.stillborn = 0
            self.read(cell, reply)
        del self.pending[future]

    def again(self, cell: C, why: str) -> None:
        if self.begun[cell] < TRIES:
            self.waiting.append(cell)
            return
        times = f"{TRIES} times: killed, or out of memory"
        self.give(cell, self.job.lost(cell, f"{why}, {times}"), Place("", 0))

    def read(self, cell: C, reply: Reply) -> None:
        if reply.versions is not None:
            mine = self.packed.versions
            other = ", ".join(
                f"{name} {theirs} (here {mine.get(name, 'none')})"
                for name, theirs in reply.versions.items()
                if theirs != mine.get(name)
            )
            raise ValueError(
                f"executor: the workers on {reply.host} have {other}, and numbers would not be "
                "those of one program; install the same versions there"
            )
        if reply.stopped:
            raise KeyboardInterrupt
        if reply.error:
            raise (ModelError if reply.of_model else ValueError)(reply.error)
        self.give(cell, reply.result, _place(reply))

    def salvage(self) -> None:
        """Cancel what has not begun, and keep what was done as the run ended."""
        if not self.closed:  # else it logs that it cannot
            for future in self.pending:
                future.cancel()
        for future, cell in self.pending.items():
            if not future.done() or future.cancelled():
                continue
            reply = None if future.exception() else future.result()
            if reply is not None and reply.is_done:
                self.give(cell, reply.result, _place(reply))


def _place(reply: Reply) -> Place:
    return Place(reply.host, reply.process, reply.began, reply.ended)


GOES_ON = "what is done is kept where a folder was given, and another run goes on from there"
