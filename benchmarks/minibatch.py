"""SVI by minibatches from files: criteo times a factor, in a process that never has all the rows.

The files are simulated part by part: each holds 61,895 rows in 5,000 groups of its own, in float32.
A fresh process then fits the mean-field guide from them, and reports its peak memory.

    python benchmarks/minibatch.py [--factor 1] [--steps 20000] [--groups 500] [--reference]

A minibatch is some groups with all their rows, whose effects are at their optima given the global
variables (``optimal_normal``). ``--batch-size 2000`` draws rows instead, by which every effect has
parameters of its own, as they were before.

``--reference`` fits the deterministic mean field too, with all rows in memory, and shows how far
apart the two are, in its sds. A hundred times is 6.2 million rows in 500,000 groups. The first
covariate is standard normal: as published, it is nearly collinear with the groups' mean, and no
method of coordinatewise steps gets far along that direction.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import common
from common import Row

NUM_ROWS, NUM_GROUPS = 61_895, 5_000
COVARIATES = [f"x{k + 1}" for k in range(5)]
LAST_STEP = 1e-4
"""Of Adam, whose step size decays exponentially."""

# -- workers: each runs in a process of its own ----------------------------------------------------


def write_files(folder: str, factor: str) -> None:
    """Simulate the data and write them as Parquet files."""
    import numpy as np
    import pandas as pd

    simulate = _model().simulate
    assert simulate is not None
    for part in range(int(factor)):
        data = simulate(seed=part, collinear=False)
        frame = pd.DataFrame(data["X"].astype(np.float32), columns=COVARIATES)
        frame["y"] = data["y"].astype(np.int8)
        frame["group"] = (data["group"] + part * NUM_GROUPS).astype(np.int32)
        frame.to_parquet(Path(folder, f"{part:03d}.parquet"), index=False)


def fit_minibatches(folder: str, factor: str, steps: str, batch_size: str, step_size: str) -> None:
    """Fit the mean-field guide from files."""
    import optax

    import vi_recipes as vr

    start = time.perf_counter()
    columns = {"y": "y", "X": COVARIATES, "group": "group"}
    rows = vr.batches_from_parquet(folder, columns, batch_size=int(batch_size))
    target = vr.Target(_model(), **rows.head(), num_groups=int(factor) * NUM_GROUPS)
    read = time.perf_counter() - start
    first_step = float(step_size)
    rate = optax.exponential_decay(first_step, int(steps), LAST_STEP / first_step)
    method = vr.SVI(
        batches=rows,
        plate="observation",
        num_steps=int(steps),
        tolerance=None,
        optimizer=optax.adam(rate),
        dtype="float32",
    )
    fit = method.fit(target, key=0, throw=True)
    timing = fit.timing
    epochs = int(steps) * int(batch_size) / rows.num_rows
    note = (
        f"{fit.status.name.lower()}; {int(steps) / timing.run_seconds:.0f} steps/s, each of "
        f"{batch_size} of {rows.num_rows:,} rows, {epochs:.1f} epochs; {fit.message}"
    )
    row = Row("", read=read, compile=timing.compile_seconds, fit=timing.run_seconds, note=note)
    common.emit([row], {"minibatches": _estimates(fit)})


def fit_groups(
    folder: str, factor: str, steps: str, groups: str, step_size: str, tolerance: str
) -> None:
    """Fit groups with all their rows, from files."""
    import vi_recipes as vr

    start = time.perf_counter()
    columns = {"y": "y", "X": COVARIATES, "group": "group"}
    rows = vr.batches_from_parquet(folder, columns, batch_size=int(groups), whole="group")
    target = vr.Target(_model(), **rows.head(), num_groups=int(factor) * NUM_GROUPS)
    read = time.perf_counter() - start
    method = vr.SVI(
        guide={"u": "optimal_normal"},
        batches=rows,
        plate="group",
        num_steps=int(steps),
        step_size=float(step_size),
        tolerance=float(tolerance),
        dtype="float32",
    )
    fit = method.fit(target, key=0, throw=True)
    timing, taken = fit.timing, fit.diagnostics["num_steps"]
    epochs = taken * int(groups) / (int(factor) * NUM_GROUPS)
    note = (
        f"{fit.status.name.lower()}; {taken / timing.run_seconds:.0f} steps/s, each of {groups} "
        f"groups, {epochs:.1f} epochs; {fit.message}"
    )
    row = Row("", read=read, compile=timing.compile_seconds, fit=timing.run_seconds, note=note)
    common.emit([row], {"groups": _estimates(fit)})


def fit_all(folder: str, factor: str) -> None:
    """Fit the deterministic mean field, all rows in memory."""
    import vi_recipes as vr

    start = time.perf_counter()
    columns = {"y": "y", "X": COVARIATES, "group": "group"}
    rows = vr.batches_from_parquet(folder, columns, batch_size=1)
    everything = rows.head(rows.num_rows)
    target = vr.Target(_model(), **everything, num_groups=int(factor) * NUM_GROUPS)
    read = time.perf_counter() - start
    fit = vr.MeanField().fit(target, key=0, throw=True)
    timing, note = fit.timing, f"{fit.status.name.lower()}; {fit.message}"
    row = Row("", read=read, compile=timing.compile_seconds, fit=timing.run_seconds, note=note)
    common.emit([row], {"all rows": _estimates(fit)})


def _model() -> Any:
    import vi_recipes as vr

    return vr.load_model("criteo")


def _estimates(fit: Any) -> dict[str, list[float]]:
    """Return the means and sds of the parameters."""
    mean, sd = fit.mean(), fit.sd()
    found = {
        f"beta[{k}]": [float(mean["beta"][k]), float(sd["beta"][k])] for k in range(len(COVARIATES))
    }
    return found | {name: [float(mean[name]), float(sd[name])] for name in ("mu", "tau")}


WORKERS = {
    "write": write_files,
    "minibatches": fit_minibatches,
    "groups": fit_groups,
    "all": fit_all,
}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--factor", type=int, default=1, help="multiple of the size, %(default)s")
    parser.add_argument("--steps", type=int, default=20_000, help="of SVI, %(default)s")
    parser.add_argument("--groups", type=int, default=500, help="groups a step, %(default)s")
    parser.add_argument("--batch-size", type=int, help="rows a step, in place of groups")
    parser.add_argument("--step-size", type=float, default=0.04, help="the first, %(default)s")
    parser.add_argument("--tolerance", type=float, default=0.05, help="of groups, %(default)s")
    parser.add_argument("--reference", action="store_true", help="fit all rows in memory too")
    options = parser.parse_args()
    factor = str(options.factor)
    common.heading(f"criteo, {NUM_ROWS:,} rows in {NUM_GROUPS:,} groups, times {factor}, in files")
    estimates: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        written = common.measure(common.worker(__file__, "write", folder, factor))
        if written.failure:
            raise SystemExit(f"the data were not written: {written.failure}")
        size = sum(path.stat().st_size for path in Path(folder).iterdir()) / 1e6
        print(f"{options.factor} files, {size:,.0f} MB, written in {written.process:.0f} s")
        kind = "groups" if options.batch_size is None else "minibatches"
        settings: tuple[Any, ...]
        settings = (options.steps, options.batch_size or options.groups, options.step_size)
        settings += (options.tolerance,) if kind == "groups" else ()
        lines = {kind: [folder, factor, *map(str, settings)]}
        if options.reference:
            lines["all"] = [folder, factor]
        rows = []
        for name, arguments in lines.items():
            run = common.measure(
                common.worker(__file__, name, *arguments),
                time_limit=3_600,
                memory_limit=common.memory_limit(),
            )
            rows.append(common.one(run, name, estimates))
    common.print_costs(rows, "all", "all", ours="all rows")
    common.print_estimates("Means, with sds", estimates)
    if len(estimates) == 2:
        ours, theirs = estimates[kind], estimates["all rows"]
        apart = {n: [abs(ours[n][0] - theirs[n][0]) / theirs[n][1]] for n in theirs}
        common.print_estimates("Distance of the means, in sds of all rows", {"distance": apart})
    print(common.load())


if __name__ == "__main__":
    if not common.is_worker(WORKERS):
        main()
