"""Whole processes timed from outside, and the tables that the figures are printed in.

Only the standard library is imported here: a process that starts another hands it its own size,
and the peak memory of a child is no less.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import math
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MIXED = Path(__file__).with_name("mixed.R")
POLL_SECONDS = 0.01
SPARED = 4 * 1024.0
"""MB that a large process leaves to the others."""

PACKAGES = ("vi_recipes", "jax", "numpyro", "scipy", "numpy")

Estimates = Mapping[str, Mapping[str, Sequence[float | None]]]
"""Row -> parameter -> estimate and its sd."""


@dataclass(frozen=True)
class Row:
    """One line of a table; ``None`` is what was not measured.

    Parameters
    ----------
    name
        What was run.
    process
        Wall seconds of a fresh process, from its start to its end.
    cpu
        Processor seconds of it: more than the wall seconds where threads help, less where others
        held the cores.
    peak
        Its largest resident memory, MB.
    read
        Seconds to read or to simulate the data.
    compile
        Seconds of tracing and compilation.
    fit
        Seconds of the fit alone.
    note
        How it ended.
    ok
        Whether it ended well; there are no ratios to what did not, nor of it.
    """

    name: str
    process: float | None = None
    cpu: float | None = None
    peak: float | None = None
    read: float | None = None
    compile: float | None = None
    fit: float | None = None
    note: str = ""
    ok: bool = True


@dataclass
class Run:
    """A process that has ended."""

    process: float
    cpu: float
    peak: float
    output: str
    failure: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    """What the last line of its output says, where that is JSON: see :func:`emit`."""

    def row(self, name: str, **fields: Any) -> Row:
        """Return the line that the process makes; a failure stands in for a missing note."""
        fields["note"] = fields.get("note") or self.failure
        return Row(name, self.process, self.cpu, self.peak, ok=not self.failure, **fields)


def measure(
    command: Sequence[str],
    *,
    repeats: int = 1,
    time_limit: float = 600.0,
    memory_limit: float = float("inf"),
) -> Run:
    """Run a command in fresh processes, one after the other; return the one of median seconds.

    Parameters
    ----------
    command
        Program and arguments.
    repeats
        Number of processes; one that fails is the last.
    time_limit, memory_limit
        Seconds and MB at which a process is ended.
    """
    runs: list[Run] = []
    while len(runs) < repeats and not (runs and runs[-1].failure):
        runs.append(_measure(command, time_limit, memory_limit))
    if runs[-1].failure:
        return runs[-1]
    middle = statistics.median_low(run.process for run in runs)
    return next(run for run in runs if run.process == middle)


def _measure(command: Sequence[str], time_limit: float, memory_limit: float) -> Run:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err, start_new_session=True)
        if memory_limit < float("inf"):
            # where memory runs out all the same, this process is the one to go
            with contextlib.suppress(OSError):
                Path(f"/proc/{process.pid}/oom_score_adj").write_text("1000")
        stopped = ""
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            seconds = time.perf_counter() - start
            if pid:
                break
            if not stopped:
                if seconds > time_limit:
                    stopped = f"stopped after {time_limit:.0f} s"
                elif memory_limit < float("inf") and resident(process.pid) > memory_limit:
                    stopped = f"stopped at {memory_limit:,.0f} MB"
                if stopped:
                    os.killpg(process.pid, signal.SIGKILL)
            time.sleep(POLL_SECONDS)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0), err.seek(0)
        output, errors = out.read(), err.read()
    run = Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, output, stopped)
    if process.returncode and not stopped:
        last = errors.strip().splitlines()[-1:] or ["no message"]
        run.failure = f"failed ({process.returncode}): {last[0][:200]}"
    lines = output.strip().splitlines()
    if lines and lines[-1].startswith("{"):
        run.result = json.loads(lines[-1])
    return run


def resident(pid: int) -> float:
    """Return the resident memory of a process in MB; zero where that cannot be read."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def available_memory() -> float:
    """Return the memory that a new process can have, in MB; zero where that cannot be read."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return 0.0
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) / 1024 if found else 0.0


def memory_limit() -> float:
    """Return the MB at which a large process is ended: what there is, less some for the others."""
    return available_memory() - SPARED


# -- processes of a script's own -------------------------------------------------------------------


def worker(script: str, name: str, *args: str | Path) -> list[str]:
    """Return the command that runs one of a script's workers in a fresh process."""
    return [sys.executable, script, "--worker", name, *map(str, args)]


def is_worker(workers: Mapping[str, Any]) -> bool:
    """Run the worker that the command line names, if it names one."""
    if sys.argv[1:2] != ["--worker"]:
        return False
    workers[sys.argv[2]](*sys.argv[3:])
    return True


def emit(rows: Iterable[Row], estimates: Estimates | None = None) -> None:
    """Print what a worker found as its last line; fields that are ``None`` are left out."""
    known = [{k: v for k, v in vars(row).items() if v is not None} for row in rows]
    print(json.dumps({"rows": known, "estimates": estimates or {}}), flush=True)


def collect(run: Run, estimates: dict[str, Any]) -> list[Row]:
    """Return the rows that a worker emitted and add its estimates to ``estimates``."""
    estimates.update(run.result.get("estimates", {}))
    return [Row(**fields) for fields in run.result.get("rows", [])]


def one(run: Run, name: str, estimates: dict[str, Any]) -> Row:
    """Return the one row that a worker emitted, called ``name``, with the costs of the process."""
    rows = collect(run, estimates)
    if not rows:
        return run.row(name)
    return replace(rows[0], name=name, process=run.process, cpu=run.cpu, peak=run.peak)


def chosen(parser: argparse.ArgumentParser, text: str, parts: Mapping[str, Any]) -> list[str]:
    """Return the parts that ``--only`` lists, in its order."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in parts]
    if unknown:
        parser.error(f"--only: {', '.join(unknown)} unknown; the parts are {', '.join(parts)}")
    return names


# -- vi_recipes ------------------------------------------------------------------------------------


def compare(model: str, methods: str, *, repeats: int, time_limit: float = 600.0) -> Row:
    """Measure ``vi-recipes compare`` in a fresh process; seconds are sums over its methods."""
    program = Path(sys.executable).with_name("vi-recipes")
    command = [str(program), "compare", model, "--methods", methods, "--no-report"]
    run = measure(command, repeats=repeats, time_limit=time_limit)
    timings = list(_timings(run.output))
    return run.row(
        f"`vi-recipes compare` {methods}",
        compile=sum(seconds[0] for _, _, seconds in timings) if timings else None,
        fit=sum(seconds[1] for _, _, seconds in timings) if timings else None,
        note=", ".join(f"{method} {status}" for method, status, _ in timings),
    )


def _timings(output: str) -> Iterable[tuple[str, str, list[float]]]:
    """Read method, status and seconds of compilation and run from the tables printed."""
    lines = iter(output.splitlines())
    for line in lines:
        if line.startswith("| method ") and "compile (s)" in line:
            break
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) < 4:
            return
        if not cells[0].startswith("-"):
            numbers = [float(cell) if cell[:1].isdigit() else 0.0 for cell in cells[2:4]]
            yield cells[0], cells[1], numbers


# -- R ---------------------------------------------------------------------------------------------


def r_version(package: str) -> str | None:
    """Return the version of an R package; ``None`` where it or R is not installed."""
    if shutil.which("Rscript") is None:
        return None
    program = f'cat(as.character(packageVersion("{package}")))'
    found = subprocess.run(["Rscript", "-e", program], capture_output=True, text=True, check=False)
    return found.stdout if found.returncode == 0 else None


def mixed_model(
    name: str,
    package: str,
    data: Path,
    formula: str,
    groups: Sequence[str],
    estimates: dict[str, Any],
    *options: str,
    repeats: int,
    time_limit: float = 600.0,
) -> Row:
    """Measure a mixed model fitted in R, the data handed over as a CSV file.

    Parameters
    ----------
    name
        What the row is called.
    package
        ``"lme4"`` or ``"glmmTMB"``.
    data
        The file.
    formula
        In R's notation.
    groups
        Columns that are factors.
    estimates
        Where the estimates are added.
    *options
        ``family=binomial`` (Gaussian by default), ``nAGQ=0``, ``optimizer=bobyqa``.
    repeats, time_limit
        As for :func:`measure`.
    """
    if r_version(package) is None:
        return Row(name, note="not installed")
    arguments = [package, str(data), formula, ",".join(groups), *options]
    run = measure(["Rscript", str(MIXED), *arguments], repeats=repeats, time_limit=time_limit)
    found: dict[str, Any] = {}
    row = one(run, name, found)
    if found:
        estimates[name] = found.popitem()[1]
    return row


# -- tables ----------------------------------------------------------------------------------------


def heading(title: str) -> None:
    """Print what was measured, on what machine, with what versions."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    versions |= {name: found for name in ("lme4", "glmmTMB") if (found := r_version(name))}
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    print(f"{title}\n")
    print(f"{os.cpu_count()} cores ({platform.machine()}), {memory:.0f} GiB, {load()}")
    print(
        f"Python {platform.python_version()}, {', '.join(f'{k} {v}' for k, v in versions.items())}"
    )


def load() -> str:
    """Return the date and the mean load of the last 1, 5 and 15 minutes."""
    averages = " ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{time.strftime('%Y-%m-%d %H:%M')}, load {averages}"


def print_costs(
    rows: Sequence[Row], process: str = "", fit: str = "", *, ours: str = "ours"
) -> None:
    """Print seconds, memory and ratios.

    Parameters
    ----------
    rows
        The lines.
    process, fit
        Names of the lines whose process and fit seconds the others are divided by.
    ours
        What those lines are called in the header.
    """
    base_process = next((row.process for row in rows if row.name == process and row.ok), None)
    base_fit = next((row.fit for row in rows if row.name == fit and row.ok), None)
    header = ("what", "process, s", "CPU, s", "peak, MB", "read, s", "compile, s", "fit, s")
    body = [
        (
            row.name,
            _seconds(row.process),
            _seconds(row.cpu),
            "–" if row.peak is None else f"{row.peak:,.0f}",
            *map(_seconds, (row.read, row.compile, row.fit)),
            _ratio(row.process if row.ok else None, base_process),
            _ratio(row.fit if row.ok else None, base_fit),
            row.note,
        )
        for row in rows
    ]
    print_table((*header, f"process ÷ {ours}", f"fit ÷ {ours}", "how it ended"), body)


def print_estimates(title: str, estimates: Estimates, names: Sequence[str] = ()) -> None:
    """Print the estimates of the rows that have any, with their sds in brackets.

    Parameters
    ----------
    title
        Stands above.
    estimates
        What was found.
    names
        The parameters to show; all by default.
    """
    if not estimates:
        return
    print(f"\n{title}")
    names = names or list(dict.fromkeys(name for values in estimates.values() for name in values))
    body = [
        (row, *(_estimate(values.get(name, ())) for name in names))
        for row, values in estimates.items()
    ]
    print_table(("what", *names), body)


def print_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> None:
    """Print a table in Markdown, all columns but the first aligned to the right but the last."""
    lines = [header, *body]
    widths = [max(len(line[k]) for line in lines) for k in range(len(header))]
    print()
    for number, line in enumerate(lines):
        print("| " + " | ".join(f"{c:<{w}}" for c, w in zip(line, widths, strict=True)) + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    print(flush=True)


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _ratio(value: float | None, base: float | None) -> str:
    return "–" if value is None or not base else f"{value / base:.3g}"


def _estimate(pair: Sequence[float | None]) -> str:
    numbers = [f"{v:.4g}" for v in pair if v is not None and math.isfinite(v)]
    return f"{numbers[0]} ({numbers[1]})" if len(numbers) == 2 else "".join(numbers) or "–"
