"""Where simulations run: here, one after the other, or in processes, several at a time."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vi_recipes.calibration.ranks import Outcome, Quantities, simulate_and_rank
from vi_recipes.calibration.simulate import PriorPredictive
from vi_recipes.core import Progress, SharedCode, import_file, silent
from vi_recipes.methods import Method
from vi_recipes.model import Model, Target

PAUSE = 0.2
"""Seconds between two looks at what the processes have done."""

Keep = Callable[[int, Outcome], None]
"""Told the number and the outcome of every simulation that is done."""


@dataclass
class Job:
    """What every simulation takes."""

    predictive: PriorPredictive
    method: Method
    quantities: Quantities
    num_draws: int
    seed: jax.Array

    def do(self, number: int, progress: Progress = silent) -> Outcome:
        """Do one simulation."""
        return simulate_and_rank(
            self.predictive,
            self.method,
            self.quantities,
            self.num_draws,
            jax.random.fold_in(self.seed, number),
            progress,
        )


def run_here(job: Job, numbers: Iterable[int], keep: Keep) -> None:
    """Do the simulations one after the other."""
    with SharedCode().used():
        for number in numbers:
            keep(number, job.do(number))


def run_apart(job: Job, numbers: Sequence[int], keep: Keep, num_workers: int) -> None:
    """Do the simulations in so many processes.

    Raises
    ------
    ValueError
        If the model or the method cannot be sent to another process.
    KeyboardInterrupt
        Once all processes have stopped.
    """
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    # models' files are modules that only their path finds
    files = [
        str(module.__file__)
        for name, module in list(sys.modules.items())
        if name.startswith("vi_recipes_file_")
    ]
    with ProcessPoolExecutor(
        num_workers, context, initializer=_begin, initargs=(files, _packed(job), stop)
    ) as pool:
        pending = {pool.submit(_do, number): number for number in numbers}
        try:
            while pending:
                _collect(pending, keep)
        except BrokenProcessPool:
            raise ValueError(
                f"num_workers: got {num_workers}, and the processes ended before they were done. A "
                "script must call calibrate below `if __name__ == '__main__':`, and a model must "
                "come from a file; or the memory is used up. Use num_workers=1"
            ) from None
        except BaseException:
            stop.set()
            for future in pending:
                future.cancel()
            raise


def _collect(pending: dict[Future[Outcome | None], int], keep: Keep) -> None:
    for future in wait(pending, PAUSE, FIRST_COMPLETED).done:  # pauses let interrupts through
        outcome = future.result()
        number = pending.pop(future)
        if outcome is not None:
            keep(number, outcome)


def _packed(job: Job) -> bytes:
    target = job.predictive.target
    parts: tuple[Any, ...] = (
        # where its data come from is no matter any more
        replace(target.complete_model, data=None, load=None, simulate=None),
        target.data,
        job.method,
        job.quantities,
        job.num_draws,
        np.asarray(jax.random.key_data(job.seed)),
    )
    try:
        return pickle.dumps(parts)
    except Exception as error:  # what cannot be pickled raises whatever it likes
        raise ValueError(
            f"num_workers: model '{target.name}' or method '{job.method.name}' cannot be sent to "
            f"another process ({error}). Define the model at the top of a file, or use "
            "num_workers=1"
        ) from None


# -- in a process of its own -----------------------------------------------------------------------

_own: dict[str, Any] = {}
"""The job of this process, the code that its fits share, and the order to stop."""


def _begin(files: Sequence[str], packed: bytes, stop: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says when to stop
    for file in files:
        import_file(Path(file))
    model: Model
    model, data, method, quantities, num_draws, seed = pickle.loads(packed)
    predictive = PriorPredictive(Target(model, **data))
    job = Job(predictive, method, quantities, num_draws, jax.random.wrap_key_data(seed))
    _own.update(job=job, code=SharedCode(), stop=stop)


def _do(number: int) -> Outcome | None:
    def watch(done: int, total: int, text: str = "") -> None:
        if _own["stop"].is_set():
            raise KeyboardInterrupt

    if _own["stop"].is_set():
        return None
    try:
        with _own["code"].used():
            return _own["job"].do(number, watch)
    except KeyboardInterrupt:
        return None
