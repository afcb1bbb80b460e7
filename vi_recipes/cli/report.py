"""``vi-recipes report``: a report again from its saved fits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vi_recipes.cli.arguments import (
    AllOption,
    DebugOption,
    JsonOption,
    PdfOption,
)
from vi_recipes.cli.group import tell
from vi_recipes.cli.output import check_json, check_pdf, output_folder, show_and_write

EPILOG = """\b
Example:
  vi-recipes report radon-report
"""


def command(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="A folder written by compare, fit or run.")
    ],
    everything: AllOption = False,
    pdf: PdfOption = False,
    json: JsonOption = None,
    debug: DebugOption = False,
) -> None:
    """Rebuild a report from its saved fits, without fitting anything."""
    if not directory.is_dir():
        what = "is a file" if directory.exists() else "does not exist"
        raise ValueError(f"{directory} {what}; expected a folder written by compare, fit or run")
    from vi_recipes.comparison import Comparison, unfinished, write_all

    check_json(json)
    check_pdf(pdf)
    comparison = Comparison.load(directory)
    for place in unfinished(directory):
        tell(f"note: {place} holds fits of a run that has not ended; 'report' shows them too")
    with output_folder(directory):
        # leaves the fits as they are
        show_and_write(comparison, directory, json, write_all, everything=everything, pdf=pdf)
