"""Cold fits of every model in a file, each over NumPyro's own cold NUTS of the same model.

    python benchmarks/against_nuts.py models.py --repeats 5

FILE.py holds models as ``vi_recipes.Model``; ``--only`` chooses among them. Every cell of the table
is the median of fresh processes, which take turns, so that what else the machine does falls on all
alike. Seconds go from the model and its data, loaded, to means and sds in hand, compilation within:
importing and reading are the same for both sides and are left out. NumPyro runs as it does by
itself: its NUTS with default settings, 4 chains one after the other, in its default precision.
``--clock cpu`` counts processor seconds of all threads, which a busy machine disturbs less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import common

METHODS = "map,laplace,meanfield,lrvb,marginal_mle"
NUTS = "numpyro"
"""What stands for NumPyro's own NUTS among the methods."""

CHAINS, WARMUP, DRAWS = 4, 1_000, 1_000

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


def names(file: str) -> None:
    """Print the names of the models in a file."""
    from vi_recipes import Model
    from vi_recipes.core import instances, load_file

    module, _, _ = load_file("models", file)
    print(json.dumps({"names": list(instances(module, Model))}))


def fit(file: str, name: str, method: str, clock: str) -> None:
    """Fit one model by one method in this process, and print what it took."""
    import vi_recipes as vr
    from vi_recipes.methods import METHODS

    known, now = vr.load_model(f"{file}:{name}"), CLOCKS[clock]
    data = dict(known.data()) if known.data is not None else {}
    start = now()
    found = METHODS[method]().fit(vr.Target(known, **data), key=0)
    if found.has_result:
        found.mean(), found.sd()
    seconds = now() - start
    ended = "OK" if found.status.ok else found.status.name
    print(json.dumps({"seconds": seconds, "ended": ended, "has_result": found.has_result}))


def sample(file: str, name: str, clock: str) -> None:
    """Run NumPyro's NUTS in this process, and print what it took."""
    import jax
    from numpyro.infer import MCMC
    from numpyro.infer import NUTS as Kernel

    import vi_recipes as vr

    known, now = vr.load_model(f"{file}:{name}"), CLOCKS[clock]
    data = dict(known.data()) if known.data is not None else {}
    start = now()
    mcmc = MCMC(
        Kernel(known.function),
        num_warmup=WARMUP,
        num_samples=DRAWS,
        num_chains=CHAINS,
        chain_method="sequential",
        progress_bar=False,
    )
    mcmc.run(jax.random.key(0), **data)
    draws = jax.device_get(mcmc.get_samples())
    _ = {site: (values.mean(axis=0), values.std(axis=0)) for site, values in draws.items()}
    print(json.dumps({"seconds": now() - start, "ended": "OK", "has_result": True}))


Runs = dict[tuple[str, str], list[dict[str, Any]]]
"""Model and method -> what each process printed."""


def measure(file: str, models: list[str], methods: list[str], repeats: int, clock: str) -> Runs:
    """Run all cells, once each before any of them again."""
    runs: Runs = {(model, method): [] for model in models for method in (NUTS, *methods)}
    for _ in range(repeats):
        for (model, method), known in runs.items():
            if known and not known[-1]["has_result"]:
                continue  # it ends so every time
            if method == NUTS:
                command = common.worker(__file__, "sample", file, model, clock)
            else:
                command = common.worker(__file__, "fit", file, model, method, clock)
            run = common.measure(command, time_limit=1_200)
            failed = {"ended": run.failure or "no answer", "has_result": False}
            known.append(failed if run.failure else run.result or failed)
            print(f"{model}, {method}: {known[-1]}", file=sys.stderr, flush=True)
    return runs


def tell(runs: Runs, models: list[str], methods: list[str], clock: str) -> None:
    """Print seconds and ratios, and the ratios' geometric means."""

    def seconds(model: str, method: str) -> float | None:
        taken = [run["seconds"] for run in runs[model, method] if run["has_result"]]
        return statistics.median(taken) if taken else None

    ratios: dict[str, list[float]] = {method: [] for method in methods}
    body, notes = [], []
    for model in models:
        base, cells = seconds(model, NUTS), []
        for method in methods:
            taken, ended = seconds(model, method), runs[model, method][-1]["ended"]
            if taken is None or base is None:
                cells.append("–")
            else:
                ratios[method].append(taken / base)
                cells.append(f"{taken:.1f} ({taken / base:.2f})")
            if ended != "OK":
                notes.append(f"- {model}, {method}: {ended}")
        if base is None:
            notes.append(f"- {model}, {NUTS}: {runs[model, NUTS][-1]['ended']}")
        body.append((model, "–" if base is None else f"{base:.1f}", *cells))
    for what, of in (("geometric mean", statistics.geometric_mean), ("largest", max)):
        body.append((what, "", *(f"({of(r):.2f})" if r else "–" for r in ratios.values())))
    header = ("model", f"NUTS, {clock} s", *(f"{method}, s (ratio)" for method in methods))
    common.print_table(header, body)
    every = [ratio for of_method in ratios.values() for ratio in of_method]
    if every:
        above = sum(ratio > 1 for ratio in every)
        print(
            f"All {len(every)} ratios: geometric mean {statistics.geometric_mean(every):.2f}, "
            f"largest {max(every):.2f}, {above} above 1.\n"
        )
    if notes:
        print("Ended otherwise than OK; without a result there is no ratio:\n")
        print("\n".join(notes))


def main() -> None:
    """Run every cell in processes of their own and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", metavar="FILE.py")
    parser.add_argument("--only", default="", help="names in the file; by default all")
    parser.add_argument("--methods", default=METHODS, help="%(default)s")
    parser.add_argument("--repeats", type=int, default=5, help="processes a cell, %(default)s")
    parser.add_argument("--clock", choices=list(CLOCKS), default="wall", help="%(default)s")
    options = parser.parse_args()
    listed = common.measure(common.worker(__file__, "names", options.file))
    if listed.failure:
        parser.error(f"{options.file}: {listed.failure}")
    known = dict.fromkeys(listed.result["names"])
    models = common.chosen(parser, options.only or ",".join(known), known)
    methods = [name.strip() for name in options.methods.split(",") if name.strip()]
    common.heading(f"Cold fits over NumPyro's cold NUTS, {CHAINS} x ({WARMUP:,} + {DRAWS:,})")
    runs = measure(options.file, models, methods, options.repeats, options.clock)
    tell(runs, models, methods, options.clock)
    print(f"\n{common.load()}")


if __name__ == "__main__":
    if not common.is_worker({"names": names, "fit": fit, "sample": sample}):
        main()
