"""The command ``vi-recipes calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vi_recipes.cli import interrupts
from vi_recipes.cli.arguments import (
    DebugOption,
    JsonOption,
    ModelArgument,
    ModelDataOption,
    NoCacheOption,
    NoReportOption,
    SchedulerOption,
    SeedOption,
    SetOption,
    WorkersOption,
    check_together,
    check_workers,
    executor_for,
    out_option,
)
from vi_recipes.cli.group import ALL_FAILED, keep_code, printing, tell
from vi_recipes.cli.output import (
    check_json,
    end_of_many,
    output_folder,
    refused_json,
    report_folder,
    write_json,
    write_report,
)

if TYPE_CHECKING:
    from rich.console import Console

    from vi_recipes.calibration import Calibration

EPILOG = """\b
Examples:
  vi-recipes calibrate eight_schools --method nuts --simulations 200
  vi-recipes calibrate eight_schools --method meanfield --simulations 200 --workers 2
  vi-recipes calibrate my_model.py --data my_data.csv --method svi --quantities beta

\b
A second run with the same folder goes on from there: with more simulations, or after Ctrl-C.

\b
Exit codes: 0, whatever the verdict; 1 if no fit gave a result; 2 for bad usage or input;
130 on Ctrl-C (143 on SIGTERM), after which the simulations that were done are printed and
reported.
"""


def command(
    model: ModelArgument,
    method: Annotated[str, typer.Option(metavar="M", help="The method (see: vi-recipes methods).")],
    simulations: Annotated[
        int, typer.Option(min=1, metavar="N", help="Data sets that are simulated and fitted.")
    ] = 200,
    draws: Annotated[
        int,
        typer.Option(min=2, metavar="N", help="Draws of a fit among which the truth is ranked."),
    ] = 99,
    quantities: Annotated[
        str | None,
        typer.Option(metavar="A,B,C", help="Sites that are ranked. [default: all]"),
    ] = None,
    workers: WorkersOption = 1,
    scheduler: SchedulerOption = None,
    data: ModelDataOption = None,
    seed: SeedOption = 0,
    out: Annotated[Path | None, out_option("./MODEL-METHOD-calibration")] = None,
    no_report: NoReportOption = False,
    json: JsonOption = None,
    settings: SetOption = None,
    no_cache: NoCacheOption = False,
    debug: DebugOption = False,
) -> None:
    """Check on simulated data that a method's posteriors hold the truth as often as they say."""
    from vi_recipes.cli import options, show
    from vi_recipes.cli.prepare import prepare

    check_together(("--out", out is not None, "--no-report", no_report))
    check_workers(workers, scheduler)
    entries = options.parse_methods(method)
    if len(entries) > 1:
        raise ValueError(f"--method: got {method!r}, expected one")
    keep_code(no_cache)
    target, methods = prepare(model, data, entries, settings or [], tell)
    ((name, built),) = methods.items()
    folder = report_folder(out, f"{target.name}-{name}-calibration", no_report)
    check_json(json)
    sites = None if quantities is None else [q.strip() for q in quantities.split(",") if q.strip()]

    from vi_recipes.calibration import calibrate
    from vi_recipes.core import progress_bar

    with output_folder(folder), executor_for(workers, scheduler) as executor:
        calibration = calibrate(
            target,
            built,
            num_simulations=simulations,
            num_draws=draws,
            key=seed,
            path=folder,
            executor=executor,
            quantities=sites,
            progress=progress_bar,
        )
    if calibration.interrupted and not calibration.outcomes:
        raise KeyboardInterrupt("nothing was done yet")
    from vi_recipes.calibration import dumps

    report, refused = "", list[str]()
    if folder is not None and calibration.outcomes:
        kept = f"{folder} has the simulations, and the same command goes on there"
        report, refused = write_report(folder, calibration.report, kept)
    if json is not None and str(json) != "-":
        refused += refused_json(json, dumps(calibration))
    with printing(f"; {report}" if report else ""), interrupts.keeping(report):
        console = show.make_console(stderr=str(json) == "-")
        _show(console, calibration)
        if json is not None and str(json) == "-":
            write_json(dumps(calibration), json)
        if report:
            console.print(f"\n{report}")
    end_of_many(refused, interrupted=calibration.interrupted)
    if not len(calibration.ranks):
        tell("error: no fit gave a result; the reasons are above")
        raise typer.Exit(ALL_FAILED)


def _show(console: Console, calibration: Calibration) -> None:
    from vi_recipes.calibration import page as report
    from vi_recipes.cli.show import show_item, show_table

    console.print(f"{calibration.method} on {calibration.model}: {len(calibration.outcomes)} of "
                  f"{calibration.num_simulations} simulations")  # fmt: skip
    for warning in calibration.warnings:
        console.print(f"warning: {warning}")
    for table in report.tables(calibration)[1:]:
        if table.rows:
            show_table(console, table)
    console.print("\nVerdict")
    show_item(console, calibration.method, calibration.verdict, len(calibration.method))
    for note in calibration.notes:
        console.print(f"Note: {note}")
