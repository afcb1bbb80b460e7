"""Where the seconds of a cold fit go, in a fresh process for every model and method.

    python benchmarks/cold.py radon zoo.py:betabin --methods map,meanfield --repeats 5 --programs

A model is the name of a shipped one, or FILE.py:NAME. Seconds are those of the processor, of all
threads together, so that a busy machine tells them too; ``wall`` is the whole process by the clock,
and ``told`` what the fit's own timing calls compilation, by the clock. ``programs`` were compiled
by XLA; ``small`` are those among them that took it less than 0.05 s: mostly single operations
outside of compiled code. A line is the process of median total seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import common

STAGES = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    "/jax/core/compile/backend_compile_duration": "xla",
}
"""JAX's events -> what they are called here."""

SMALL = 0.05
"""Seconds of XLA up to which a program counts as small."""

EVERY = 0.002
"""Seconds between two looks at the processor's clock."""


MOST = 25
"""Programs that are named, those that take longest."""


class Event(NamedTuple):
    """A stage that a program went through, with its times by ``time.perf_counter``."""

    stage: str
    program: str
    begin: float
    end: float


class Clock:
    """Processor seconds of this process at any time in its past, by looks at short intervals."""

    def __init__(self) -> None:
        self.wall = [time.perf_counter()]
        self.cpu = [time.process_time()]
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while True:
            time.sleep(EVERY)
            self.wall.append(time.perf_counter())
            self.cpu.append(time.process_time())

    def at(self, wall: Any) -> Any:
        """Return the processor seconds at times of ``time.perf_counter``."""
        import numpy as np

        known = min(len(self.wall), len(self.cpu))
        return np.interp(wall, self.wall[:known], self.cpu[:known])


def stages(events: list[Event], clock: Clock) -> dict[str, float]:
    """Return the processor seconds of every stage; of what is nested, the last stage counts."""
    import numpy as np

    order = list(STAGES.values())
    edges = np.unique([edge for event in events for edge in (event.begin, event.end)])
    middles, stage = (edges[1:] + edges[:-1]) / 2, np.zeros(max(len(edges) - 1, 0), int)
    for event in events:
        inside = (middles > event.begin) & (middles < event.end)
        stage[inside] = np.maximum(stage[inside], 1 + order.index(event.stage))
    spent = np.diff(clock.at(edges))
    return {name: float(spent[stage == 1 + k].sum()) for k, name in enumerate(order)}


def fit(model: str, method: str) -> None:
    """Fit one model by one method in this process, and print what it took."""
    clock, cpu = Clock(), time.process_time

    import jax.monitoring

    import vi_recipes as vr
    from vi_recipes.methods import METHODS

    marks = {"import": cpu()}
    events: list[Event] = []

    def heard(name: str, seconds: float, **about: Any) -> None:
        if name in STAGES:
            end, program = time.perf_counter(), str(about.get("fun_name", "?"))
            events.append(Event(STAGES[name], program, end - seconds, end))

    jax.monitoring.register_event_duration_secs_listener(heard)
    known = vr.load_model(model)
    marks["data"] = cpu()
    loaded = len(events)
    found = METHODS[method]().fit(vr.Target(known), key=0)
    marks["run"], fitted = cpu(), len(events)
    with tempfile.TemporaryDirectory() as folder:
        if found.has_result:
            found.save(Path(folder) / "fit.nc")
    marks["save"] = cpu()
    time.sleep(2 * EVERY)
    seconds = {
        name: at - before
        for (name, at), before in zip(marks.items(), [0.0, *marks.values()], strict=False)
    }
    compiled = stages(events, clock)
    seconds["run"] -= sum(stages(events[loaded:fitted], clock).values())
    seconds["save"] -= sum(stages(events[fitted:], clock).values())
    names: dict[str, dict[str, float]] = defaultdict(lambda: dict.fromkeys(STAGES.values(), 0.0))
    number: Counter[str] = Counter(event.program for event in events if event.stage == "xla")
    for event in events:
        names[event.program][event.stage] += event.end - event.begin
    result = {
        **seconds,
        **compiled,
        "total": marks["save"],
        "told": found.timing.compile_seconds,
        "programs": number.total(),
        "small": sum(
            bool(clock.at(e.end) - clock.at(e.begin) < SMALL) for e in events if e.stage == "xla"
        ),
        "ended": found.status.name,
        "by name": {name: {"number": number[name], **names[name]} for name in number},
    }
    print(json.dumps(result))


COLUMNS = ("import", "data", "trace", "lower", "xla", "run", "save", "total", "told")
"""Seconds that are shown, in this order."""


def main() -> None:
    """Run every pair in processes of their own and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--methods", default="map,laplace,meanfield,lrvb,marginal_mle")
    parser.add_argument("--repeats", type=int, default=1, help="processes a line, %(default)s")
    parser.add_argument("--programs", action="store_true", help="name the programs too")
    options = parser.parse_args()
    common.heading("Cold fits: processor seconds, a fresh process each")
    rows = []
    for model in options.models:
        for method in options.methods.split(","):
            command = common.worker(__file__, "fit", model, method)
            runs = [common.measure(command) for _ in range(options.repeats)]
            if failed := next((run for run in runs if run.failure), None):
                rows.append((model, method, *["–"] * (len(COLUMNS) + 3), failed.failure))
                continue
            middle = statistics.median_low(run.result["total"] for run in runs)
            run = next(run for run in runs if run.result["total"] == middle)
            found = run.result
            rows.append(
                (
                    model.rpartition("/")[2],
                    method,
                    *(f"{found[name]:.2f}" for name in COLUMNS),
                    f"{run.process:.2f}",
                    str(found["programs"]),
                    str(found["small"]),
                    found["ended"],
                )
            )
            if options.programs:
                print_programs(f"{model}, {method}", found["by name"])
    header = ("model", "method", *COLUMNS, "wall", "programs", "small", "how it ended")
    common.print_table(header, rows)


def print_programs(title: str, programs: dict[str, dict[str, float]]) -> None:
    """Print the programs that took longest, in seconds by the clock."""
    print(f"\n{title}")
    ordered = sorted(programs.items(), key=lambda item: -item[1]["lower"] - item[1]["xla"])
    body = [
        (name, *(f"{about[stage]:.2f}" for stage in STAGES.values()), f"{about['number']:.0f}")
        for name, about in ordered[:MOST]
    ]
    common.print_table(("program", *STAGES.values(), "number"), body)


if __name__ == "__main__":
    if not common.is_worker({"fit": fit}):
        main()
