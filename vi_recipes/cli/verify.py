"""The command ``vi-recipes verify``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vi_recipes.cli import interrupts
from vi_recipes.cli.arguments import (
    DebugOption,
    NoCacheOption,
    NoReportOption,
    SchedulerOption,
    SeedOption,
    WorkersOption,
    check_together,
    check_workers,
    executor_for,
    out_option,
)
from vi_recipes.cli.group import ALL_FAILED, keep_code
from vi_recipes.cli.output import output_folder, refused_report, report_folder

if TYPE_CHECKING:
    from vi_recipes.comparison import Row

EPILOG = """\b
Examples:
  vi-recipes verify
  vi-recipes verify --models radon,seeds --methods lrvb,nuts
  vi-recipes verify --references my_answers --out verified

\b
Exit codes: 0; 1 if a verdict is contradicted or a method raised an error; 2 for bad usage or
input; 130 on Ctrl-C (143 on SIGTERM), after which the same command goes on from there.
"""


def command(
    models: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C",
            help="Shipped models, or those of --references. [default: all with answers]",
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,C",
            help="Methods. [default: those that apply, but structured, forward_kl, svgd and "
            "pathfinder, and svi with a full covariance]",
        ),
    ] = None,
    references: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="More answers: DIR/MODEL/data.json and DIR/MODEL/reference.json.",
        ),
    ] = None,
    workers: WorkersOption = 1,
    scheduler: SchedulerOption = None,
    seed: SeedOption = 0,
    out: Annotated[Path | None, out_option("./verification")] = None,
    no_report: NoReportOption = False,
    no_cache: NoCacheOption = False,
    debug: DebugOption = False,
) -> None:
    """Set what every fit says of itself beside reference answers that it never saw."""
    from vi_recipes.cli import show
    from vi_recipes.cli.options import parse_methods
    from vi_recipes.comparison import failed, faults, problems, verify
    from vi_recipes.comparison import verification_page as page
    from vi_recipes.core import progress_bar, unknown, write_whole

    check_together(("--out", out is not None, "--no-report", no_report))
    check_workers(workers, scheduler)
    known = problems(references)
    names = list(known) if models is None else [n.strip() for n in models.split(",")]
    for name in names:
        if name not in known:
            raise ValueError(f"--models: {unknown('model with reference answers', name, known)}")
    entries = parse_methods(methods) if methods is not None else None
    keep_code(no_cache)
    folder = report_folder(out, "verification", no_report)
    console = show.make_console()

    def tell_of(name: str, rows: Sequence[Row]) -> None:
        show.show_table(console, page.table(rows, name))

    kept = (
        f"models that were done are in {folder}, and the same command goes on from there"
        if folder is not None
        else ""
    )
    with (
        interrupts.keeping(kept),
        output_folder(folder),
        executor_for(workers, scheduler) as executor,
    ):
        rows = verify(
            {name: known[name] for name in names},
            methods=entries,
            seed=seed,
            path=folder,
            executor=executor,
            progress=progress_bar,
            done=tell_of,
        )
    refused = []
    if folder is not None:
        refused = refused_report(
            folder, lambda to: write_whole(to / "verification.md", page.markdown(rows))
        )
    show.show_table(console, page.confusion_table(rows))
    for row in faults(rows):
        console.print(f"contradicted: {row.method} on {row.model}: {row.verdict}")
    if refused:
        raise ValueError("; ".join(refused))
    if folder is not None:
        console.print(f"\nReport: {folder / 'verification.md'}")
    if faults(rows) or any(map(failed, rows)):
        raise typer.Exit(ALL_FAILED)
