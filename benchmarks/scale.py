"""Many fits past one process: calibrations on every engine, the cost of an executor, comparisons.

``python benchmarks/scale.py [--only engines,overhead,compare] [--repeats 1]`` runs every line in a
fresh process, start-up included, and prints Markdown. All numbers of a part must be the same.

- ``engines``: calibrations by mean field here, in processes and on Dask, one of whose workers is
  killed in the middle.
- ``overhead``: seconds a cell, of cells that take more than one, here and by one worker of as many
  threads, from the end of the first cell to the end of the last.
- ``compare``: a comparison here, by one worker, and by two with methods side by side.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import common

MODEL, METHOD = "eight_schools", "meanfield"
CELLS = 10
SECONDS = 3.0
"""The most that a cell of ``overhead`` takes; less by what does not grow with its draws."""

ONE_THREAD = ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def mark(values: Any) -> str:
    """Return what tells one array from another, to the last bit."""
    import numpy as np

    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:12]


@contextmanager
def executor(engine: str) -> Iterator[Any]:
    """Yield what runs cells: ``here``, ``processes-N`` or ``dask-N``, with what kills a worker."""
    kind, _, rest = engine.partition("-")
    number = int(rest.partition("-")[0] or 1)
    if kind == "here":
        yield None, None
    elif kind == "processes":
        yield number, None
    else:
        from distributed import Client, LocalCluster

        options = {"n_workers": number, "threads_per_worker": 1, "dashboard_address": ":0"}
        with LocalCluster(**options) as cluster, Client(cluster) as client:

            def kill() -> None:
                """Kill one worker, and have another beside those that are left."""
                os.kill(next(iter(cluster.workers.values())).pid, signal.SIGKILL)
                cluster.scale(number + 1)

            yield client.get_executor(), kill if engine.endswith("killed") else None


# -- calibrations ----------------------------------------------------------------------------------


def calibrate(engine: str, simulations: str) -> None:
    """Calibrate on an engine; print a mark of all ranks."""
    import vi_recipes as vr
    from vi_recipes.methods import make_method

    target = vr.Target(vr.load_model(MODEL))
    with executor(engine) as (where, kill):
        killed = False

        def report(done: int, total: int, text: str = "") -> None:
            nonlocal killed
            if kill is not None and not killed and done >= total // 3:
                killed = True
                kill()

        @contextmanager
        def progress(title: str) -> Iterator[Any]:
            yield report

        found = vr.calibrate(
            target,
            make_method(METHOD, target),
            num_simulations=int(simulations),
            executor=where,
            progress=progress,
        )
    told = f"{len(found.outcomes)} done, {len(found.failures)} without a result"
    print(json.dumps({"mark": mark(found.ranks), "told": told + ", a worker killed" * killed}))


def engines(options: argparse.Namespace) -> None:
    """Calibrate on every engine."""
    number = str(options.simulations)
    common.heading(f"{number} calibrations of {MODEL} by {METHOD}, start-up included")
    _table(
        [(engine, ("calibrate", engine, number)) for engine in options.engines.split(",")], options
    )


# -- what an executor costs ------------------------------------------------------------------------


@dataclass(frozen=True)
class Sampling:
    """Cells of so many draws by NUTS."""

    target: Any
    num_samples: int

    label = "sampling"
    shares_code = True

    def __call__(self, cell: int, progress: Any = None) -> tuple[float, float]:
        """Return a sum of draws, and the seconds that they took."""
        import vi_recipes as vr

        start = time.perf_counter()
        method = vr.NUTS(num_warmup=500, num_samples=self.num_samples, num_chains=1)
        fit = method.fit(self.target, key=cell)
        return float(fit.mean()["mu"]), time.perf_counter() - start

    def lost(self, cell: int, why: str) -> tuple[float, float]:
        """Say that there is none."""
        return float("nan"), float("nan")


def pace(engine: str, samples: str, cells: str) -> None:
    """Do cells; print the seconds from the end of the first to that of the last, a cell."""
    import vi_recipes as vr
    from vi_recipes.cells import run_cells

    job = Sampling(vr.Target(vr.load_model(MODEL)), int(samples))
    ends: list[float] = []
    found: dict[int, tuple[float, float]] = {}

    def keep(cell: int, result: tuple[float, float], place: Any) -> None:
        ends.append(time.perf_counter())
        found[cell] = result

    with executor(engine) as (where, _):
        run_cells(job, range(int(cells)), keep, where)
    each = (ends[-1] - ends[0]) / (len(ends) - 1)
    within = sum(seconds for cell, (_, seconds) in found.items() if cell) / (len(found) - 1)
    print(
        json.dumps(
            {
                "mark": mark([found[k][0] for k in sorted(found)]),
                "each": each,
                "within": within,
                "told": f"{each:.3f} s a cell, {within:.3f} s of it its own",
            }
        )
    )


def overhead(options: argparse.Namespace) -> None:
    """Measure seconds a cell here and by one worker."""
    for name in ONE_THREAD:  # here as there
        os.environ[name] = "1"
    probe = common.measure(common.worker(__file__, "pace", "here", "2000", "3"), time_limit=300.0)
    if probe.failure:
        print(probe.failure)
        return
    samples = str(int(2_000 * max(options.seconds / probe.result["within"], 1.0)))
    common.heading(f"{options.cells} cells of {samples} draws of {MODEL} by NUTS, one thread each")
    found = _table(
        [
            (engine, ("pace", engine, samples, str(options.cells)))
            for engine in ("here", "processes-1", "dask-1")
        ],
        options,
    )
    alone = found.get("here")
    for engine, run in found.items():
        if alone is not None and engine != "here":
            more = run.result["each"] / alone.result["each"] - 1
            own = run.result["each"] / run.result["within"] - 1
            print(f"{engine}: {more:+.1%} a cell against none; {own:.1%} of it outside the cell.")


# -- methods side by side --------------------------------------------------------------------------


def beside(engine: str, exclusive: str) -> None:
    """Compare the methods that apply; print a mark of their means and sds."""
    import numpy as np

    import vi_recipes as vr

    target = vr.Target(vr.load_model(MODEL))
    with executor(engine) as (where, _):
        c = vr.compare(target, executor=where, exclusive=exclusive == "True")
    values = np.concatenate([c.means().to_numpy().ravel(), c.sds().to_numpy().ravel()])
    done = sum(fit.has_result for fit in c.values())
    total = c.timings()["total_seconds"].sum()
    told = f"{done} of {len(c)} methods with a result, {total:.1f} s of fits"
    print(json.dumps({"mark": mark(values), "told": told}))


def comparisons(options: argparse.Namespace) -> None:
    """Compare here, by one worker, and by two."""
    common.heading(f"A comparison of {MODEL} by the methods that apply, start-up included")
    _table(
        [
            ("here", ("beside", "here", "True")),
            ("processes-2", ("beside", "processes-2", "True")),
            ("processes-2, side by side", ("beside", "processes-2", "False")),
        ],
        options,
    )


# -- all of them -----------------------------------------------------------------------------------


def _table(
    lines: list[tuple[str, tuple[str, ...]]], options: argparse.Namespace
) -> dict[str, common.Run]:
    """Measure every line, print them, and say whether their numbers are the same."""
    rows, found = [], {}
    for name, (worker, *arguments) in lines:
        command = common.worker(__file__, worker, *arguments)
        run = common.measure(command, repeats=options.repeats, time_limit=1800.0)
        print(f"{name}: {run.process:.1f} s", file=sys.stderr, flush=True)
        if run.failure:
            rows.append((name, "–", "–", "–", "–", run.failure))
            continue
        found[name] = run
        alone = found.get("here")
        ratio = f"{run.process / alone.process:.2f}" if alone else "–"
        numbers = run.result["mark"]
        rows.append(
            (name, f"{run.process:.1f}", f"{run.cpu:.1f}", ratio, numbers, run.result["told"])
        )
    titles = ("engine", "wall, s", "processor, s", "÷ here", "numbers", "how it ended")
    common.print_table(titles, rows)
    same = len({run.result["mark"] for run in found.values()}) == 1
    print("All numbers are the same.\n" if same else "Numbers differ between engines.\n")
    return found


PARTS = {"engines": engines, "overhead": overhead, "compare": comparisons}


def main() -> None:
    """Run the parts and print their tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS), help="parts, %(default)s")
    parser.add_argument("--simulations", type=int, default=200, help="of each engine, %(default)s")
    parser.add_argument("--cells", type=int, default=CELLS, help="of overhead, %(default)s")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="a cell, %(default)s")
    parser.add_argument("--repeats", type=int, default=1, help="processes a line, %(default)s")
    parser.add_argument(
        "--engines", default="here,processes-1,processes-2,dask-2,dask-2-killed", help="%(default)s"
    )
    options = parser.parse_args()
    for name in common.chosen(parser, options.only, PARTS):
        PARTS[name](options)


if __name__ == "__main__":
    if not common.is_worker({"calibrate": calibrate, "pace": pace, "beside": beside}):
        main()
