"""The command ``vi-recipes sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vi_recipes.cli import interrupts
from vi_recipes.cli.arguments import (
    DebugOption,
    NoCacheOption,
    NoReportOption,
    SchedulerOption,
    WorkersOption,
    check_together,
    check_workers,
    executor_for,
    out_option,
)
from vi_recipes.cli.group import ALL_FAILED, keep_code, printing, tell
from vi_recipes.cli.output import end_of_many, output_folder, report_folder, write_report

EPILOG = """\b
Examples:
  vi-recipes sweep grid.toml --out study
  vi-recipes sweep grid.toml --out study --workers 2
  vi-recipes sweep grid.toml --out study --scheduler tcp://127.0.0.1:8786

\b
A grid, with 100 data sets simulated from parameters that are drawn from the prior:
  models = ["eight_schools", "my_model.py"]
  methods = ["laplace", "meanfield", "lrvb"]
  seeds = 100
  truth = "prior"

\b
A second run with the same folder goes on from there, with whatever runs it.

\b
Exit codes: 0; 1 if no fit gave a result; 2 for bad usage or input; 130 on Ctrl-C (143 on SIGTERM),
after which the fits that were done are printed and reported.
"""


def command(
    grid: Annotated[
        Path, typer.Argument(metavar="GRID", help="A TOML file: models, methods, seeds, truth.")
    ],
    workers: WorkersOption = 1,
    scheduler: SchedulerOption = None,
    out: Annotated[Path | None, out_option("./GRID-sweep")] = None,
    no_report: NoReportOption = False,
    no_cache: NoCacheOption = False,
    debug: DebugOption = False,
) -> None:
    """Fit a grid of models, methods and seeds: bias, coverage and time with their errors."""
    from vi_recipes.cli import show
    from vi_recipes.core import progress_bar
    from vi_recipes.sweeps import page, read_grid, sweep

    check_together(("--out", out is not None, "--no-report", no_report))
    check_workers(workers, scheduler)
    asked = read_grid(grid)
    keep_code(no_cache)
    folder = report_folder(out, f"{grid.stem}-sweep", no_report)
    with output_folder(folder), executor_for(workers, scheduler) as executor:
        swept = sweep(
            asked.models,
            asked.methods,
            executor=executor,
            path=folder,
            progress=progress_bar,
            **asked.arguments,
        )
    if swept.interrupted and not swept.results:
        raise KeyboardInterrupt("nothing was done yet")
    report, refused = "", list[str]()
    if folder is not None and swept.results:
        kept = f"{folder} has what was done, and the same command goes on there"
        report, refused = write_report(folder, swept.report, kept)
    with printing(f"; {report}" if report else ""), interrupts.keeping(report):
        console = show.make_console()
        for warning in page.warnings(swept):
            console.print(f"warning: {warning}")
        for table in page.tables(swept):
            if table.rows:
                show.show_table(console, table)
        for note in page.notes(swept):
            console.print(f"Note: {note}")
        if report:
            console.print(f"\n{report}")
    end_of_many(refused, interrupted=swept.interrupted)
    if not any(one.labels for one in swept.results.values()):
        tell("error: no fit gave a result; the reasons are above")
        raise typer.Exit(ALL_FAILED)
