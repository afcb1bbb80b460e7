"""Many fits past one process: calibrations here, in processes and on Dask, start-up included.

``python benchmarks/scale.py [--simulations 200] [--repeats 1]`` runs each engine in a fresh process
and prints wall and processor seconds, their ratio to one process, and whether ranks are the same.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import common

MODEL, METHOD = "eight_schools", "meanfield"


def calibrate(engine: str, simulations: str) -> None:
    """Calibrate on an engine; print the seconds and a mark of all ranks."""
    import numpy as np

    import vi_recipes as vr
    from vi_recipes.methods import make_method

    target = vr.Target(vr.load_model(MODEL))
    with executor(engine) as where:
        found = vr.calibrate(
            target,
            make_method(METHOD, target),
            num_simulations=int(simulations),
            executor=where,
        )
    mark = hashlib.sha256(np.asarray(found.ranks).tobytes()).hexdigest()[:12]
    print(json.dumps({"done": len(found.outcomes), "failed": len(found.failures), "ranks": mark}))


@contextmanager
def executor(engine: str) -> Iterator[Any]:
    """Yield what runs the simulations: ``here``, ``processes-N`` or ``dask-N``."""
    kind, _, number = engine.partition("-")
    if kind == "here":
        yield None
    elif kind == "processes":
        yield int(number)
    else:
        from distributed import Client, LocalCluster

        options = {"n_workers": int(number), "threads_per_worker": 1, "dashboard_address": None}
        with LocalCluster(**options) as cluster, Client(cluster) as client:
            yield client.get_executor()


def main() -> None:
    """Run every engine in processes of its own and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--simulations", type=int, default=200, help="of each engine, %(default)s")
    parser.add_argument("--repeats", type=int, default=1, help="processes a line, %(default)s")
    parser.add_argument("--engines", default="here,processes-1,processes-2,dask-2")
    options = parser.parse_args()
    common.heading(f"{options.simulations} calibrations of {MODEL} by {METHOD}")
    rows, alone, marks = [], None, set()
    for engine in options.engines.split(","):
        command = common.worker(__file__, "calibrate", engine, str(options.simulations))
        run = common.measure(command, repeats=options.repeats, time_limit=1800.0)
        if run.failure:
            rows.append((engine, "–", "–", "–", "–", run.failure))
            continue
        alone = run.process if engine == "here" else alone
        marks.add(run.result["ranks"])
        rows.append(
            (
                engine,
                f"{run.process:.1f}",
                f"{run.cpu:.1f}",
                f"{run.process / alone:.2f}" if alone else "–",
                run.result["ranks"],
                f"{run.result['done']} done, {run.result['failed']} without a result",
            )
        )
    common.print_table(("engine", "wall", "processor", "ratio", "ranks", "how it ended"), rows)
    print("\nAll ranks are the same." if len(marks) == 1 else "\nRanks differ between engines.")


if __name__ == "__main__":
    if not common.is_worker({"calibrate": calibrate}):
        main()
