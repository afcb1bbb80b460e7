"""What commands print and write of a comparison."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vi_recipes.cli.group import ALL_FAILED, INTERRUPTED, tell

if TYPE_CHECKING:
    from vi_recipes.comparison.fits import Comparison


def report_folder(out: Path | None, default: str, no_report: bool) -> Path | None:
    """Return the folder for the report; ``None`` for none."""
    if no_report and out is not None:
        raise ValueError("--out and --no-report: expected at most one of them")
    return None if no_report else out or Path(default)


def show_and_write(
    comparison: Comparison,
    folder: Path | None,
    json: Path | None,
    write: Callable[[Comparison, Path], object] | None = None,
) -> None:
    """Print what a comparison found, and write what was asked for."""
    from vi_recipes.cli import show

    console = show.make_console(stderr=str(json) == "-")
    show.show_comparison(console, comparison)
    if json is not None:
        from vi_recipes.comparison.json import dumps

        write_json(dumps(comparison), json)
    if folder is not None:
        write(comparison, folder) if write else comparison.save(folder)
        console.print(f"\nReport: {folder / 'report.html'}")


def exit_with(comparison: Comparison) -> None:
    """Exit with the code that says how it went, unless it went well."""
    if comparison.interrupted:
        tell("interrupted; what was done is above")
        raise typer.Exit(INTERRUPTED)
    if not any(fit.has_result for fit in comparison.fits.values()):
        tell("error: no method gave a result; the verdicts above say why and what to try")
        raise typer.Exit(ALL_FAILED)


def write_json(text: str, path: Path) -> None:
    """Write a machine-readable result to a file, or to standard output for ``-``."""
    if str(path) == "-":
        typer.echo(text, nl=False)
    else:
        path.write_text(text, encoding="utf-8")
