"""How compilation, solve and memory grow with the data: criteo at 1, 10 and 100 times its size.

Rows and groups grow together, so that groups keep their sizes. Each line is a fresh process, in
which one method is fitted twice: the second fit compiles nothing.

    python benchmarks/scaling.py [--factors 1,10,100] [--methods map,lrvb]

A hundred times is 6.2 million rows in 500,000 groups; it is run only when asked for.
"""

from __future__ import annotations

import argparse
import time

import common
from common import Row

NUM_ROWS, NUM_GROUPS = 61_895, 5_000


def fit_twice(method_name: str, factor: str) -> None:
    """Fit a method twice to data of ``factor`` times the published size."""
    import vi_recipes as vr
    from vi_recipes.methods import make_method

    model = vr.load_model("criteo")
    assert model.simulate is not None
    start = time.perf_counter()
    size = {"num_rows": int(factor) * NUM_ROWS, "num_groups": int(factor) * NUM_GROUPS}
    data = model.simulate(**size)
    read = time.perf_counter() - start
    target = vr.Target(model, **data)
    built = time.perf_counter() - start - read
    method = make_method(method_name, target)
    first, second = (method.fit(target, key=0) for _ in range(2))
    note = (
        f"{second.status.name.lower()}, {second.diagnostics.get('iterations', 0):.0f} steps, "
        f"{second.timing.hvp_evaluations} products; target built in {built:.2f} s; "
        f"the first fit ran {first.timing.run_seconds:.2f} s"
    )
    if not second.has_result:
        note = f"{second.status.name.lower()}: {second.message}"[:200]
    seconds = first.timing.compile_seconds, second.timing.run_seconds
    common.emit([Row("", read=read, compile=seconds[0], fit=seconds[1], note=note)])


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--factors", default="1,10", help="multiples of the size, %(default)s")
    parser.add_argument("--methods", default="map,lrvb", help="of ours, %(default)s")
    parser.add_argument("--repeats", type=int, default=1, help="processes per line; the median")
    options = parser.parse_args()
    factors = [int(factor) for factor in options.factors.split(",")]
    common.heading(f"criteo, {NUM_ROWS:,} rows in {NUM_GROUPS:,} groups, times a factor")
    for method in options.methods.split(","):
        rows = []
        for factor in factors:
            run = common.measure(
                common.worker(__file__, "fit_twice", method, str(factor)),
                repeats=options.repeats,
                time_limit=1_800,
                memory_limit=common.memory_limit(),
            )
            rows.append(common.one(run, f"{method}, times {factor}", {}))
        common.print_costs(rows, rows[0].name, rows[0].name, ours=f"times {factors[0]}")
    print(common.load())


if __name__ == "__main__":
    if not common.is_worker({"fit_twice": fit_twice}):
        main()
