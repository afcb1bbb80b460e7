"""``vi-recipes run``: a scripted comparison."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vi_recipes.cli.arguments import (
    MAX_SEED,
    AllOption,
    DebugOption,
    JsonOption,
    NoCacheOption,
    NoReportOption,
    PdfOption,
    SchedulerOption,
    SideBySideOption,
    WorkersOption,
    check_side_by_side,
    check_together,
    executor_for,
    out_option,
    tell_one_at_a_time,
)
from vi_recipes.cli.group import keep_code, tell
from vi_recipes.cli.lists import print_list
from vi_recipes.cli.output import (
    check_json,
    check_pdf,
    exit_with,
    output_folder,
    report_folder,
    show_and_write,
)

EPILOG = """\b
Examples:
  vi-recipes run radon
  vi-recipes run my_study.py --out results
  vi-recipes run my_study.py --workers 2 --side-by-side

\b
Exit codes: those of compare.
"""


def command(
    study: Annotated[
        str | None,
        typer.Argument(
            metavar="STUDY", help="A shipped study's name, or your own: file.py, file.py:NAME."
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=MAX_SEED, metavar="N", help="In place of the study's own seed."),
    ] = None,
    workers: WorkersOption = 1,
    scheduler: SchedulerOption = None,
    side_by_side: SideBySideOption = False,
    out: Annotated[Path | None, out_option("./STUDY-report")] = None,
    no_report: NoReportOption = False,
    everything: AllOption = False,
    pdf: PdfOption = False,
    json: JsonOption = None,
    no_cache: NoCacheOption = False,
    debug: DebugOption = False,
) -> None:
    """Run a study: a scripted comparison. Without a name, list them."""
    check_together(
        ("--out", out is not None, "--no-report", no_report),
        ("--pdf", pdf, "--no-report", no_report),
    )
    check_side_by_side(workers, scheduler, side_by_side)
    if study is None:
        from vi_recipes.core import list_studies

        print_list("study", list_studies())
        return
    from vi_recipes.comparison import holds_comparison, load_study
    from vi_recipes.core import progress_bar

    loaded = load_study(study)
    keep_code(no_cache)
    tell_one_at_a_time(workers, side_by_side, tell)
    folder = report_folder(out, f"{loaded.name}-report", no_report)
    check_json(json)
    check_pdf(pdf)
    earlier = folder is not None and holds_comparison(folder)
    with output_folder(folder), executor_for(workers, scheduler) as executor:
        comparison = loaded.run(
            folder,
            seed=seed,
            progress=progress_bar,
            executor=executor,
            exclusive=not side_by_side,
        )
    show_and_write(comparison, folder, json, earlier=earlier, everything=everything, pdf=pdf)
    exit_with(comparison)
