"""What commands print and write of a comparison."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vi_recipes.cli import interrupts
from vi_recipes.cli.group import ALL_FAILED, printing, tell
from vi_recipes.cli.streams import check_pipe, result_stream, write_pipe

if TYPE_CHECKING:
    from vi_recipes.comparison import Comparison


MAX_FOLDER = 100
"""Characters of the name of a folder."""


def report_folder(out: Path | None, default: str, no_report: bool) -> Path | None:
    """Return the folder for the report; ``None`` for none."""
    return None if no_report else out or Path(folder_name(default))


def folder_name(wanted: str) -> str:
    """Return a name for a folder here, whatever a model is called."""
    safe = "".join(c if c.isalnum() or c in "-_. " else "_" for c in wanted).lstrip(".-")
    return safe[-MAX_FOLDER:] or "report"


def show_and_write(
    comparison: Comparison,
    folder: Path | None,
    json: Path | None,
    write: Callable[[Comparison, Path], object] | None = None,
    *,
    earlier: bool = False,
    everything: bool = False,
    pdf: bool = False,
) -> None:
    """Write what was asked for and print what a comparison found, each whatever becomes of it.

    Where it was interrupted before it had any result, an ``earlier`` one stays in the folder.

    Raises
    ------
    ValueError
        Where something could not be written, once all else is written and printed.
    """
    from vi_recipes.cli import show
    from vi_recipes.comparison import dumps
    from vi_recipes.report import print_page

    refused: list[str] = []
    kept = ""
    done = any(fit.has_result for fit in comparison.fits.values())
    if folder is not None and earlier and comparison.interrupted and not done:
        kept = f"{folder} is as it was: nothing was done that could take its place"
    elif folder is not None:
        again = f"{folder} has the fits, and 'vi-recipes report {folder}' writes the report"
        try:
            with interrupts.keeping(again):
                write(comparison, folder) if write else comparison.save(folder)
            kept = f"Report: {folder / 'report.html'}"
            if pdf:
                with interrupts.keeping(kept):
                    page = print_page(folder / "report.html", folder / "report.pdf")
                kept += f", {page}"
        except (OSError, ValueError) as error:
            refused.append(str(error))
    if json is not None and str(json) != "-":
        refused += refused_json(json, dumps(comparison))
    with printing(f"; {kept}" if kept else ""), interrupts.keeping(kept):
        console = show.make_console(stderr=str(json) == "-")
        show.show_comparison(console, comparison, everything=everything)
        if str(json) == "-":
            write_json(dumps(comparison), Path("-"))
        if kept:
            console.print(kept)
    if refused:
        raise ValueError("; ".join(refused))


def refused_report(folder: Path, write: Callable[[Path], object]) -> list[str]:
    """Write a report; return a complaint where that cannot be done.

    What was found is printed all the same, and what it is made of is kept.
    """
    try:
        write(folder)
    except OSError as error:
        place, why = error.filename or folder, error.strerror or error
        return [
            f"the report cannot be written ({place}: {why}); "
            "make room there, and the same command writes it from what is kept"
        ]
    return []


def write_report(folder: Path, write: Callable[[Path], object], kept: str) -> tuple[str, list[str]]:
    """Write a report; return where it is, and a complaint where that cannot be done.

    ``kept`` is what an interrupt says meanwhile.
    """
    with interrupts.keeping(kept):
        refused = refused_report(folder, write)
    return "" if refused else f"Report: {folder / 'report.html'}", refused


def end_of_many(refused: Sequence[str], *, interrupted: bool) -> None:
    """End a command of many fits that could not write all, or was interrupted."""
    if refused:
        raise ValueError("; ".join(refused))
    if interrupted:
        tell(interrupts.said("what was done is above, and the same command goes on from there"))
        raise typer.Exit(interrupts.exit_code())


def refused_json(path: Path, text: str) -> list[str]:
    """Write a machine-readable result; return a complaint where that cannot be done."""
    try:
        write_json(text, path)
    except OSError as error:
        return [f"--json: cannot write {path} ({error.strerror or error}); choose another place"]
    return []


def exit_with(comparison: Comparison) -> None:
    """Exit with the code that says how it went, unless it went well."""
    if comparison.interrupted:
        done = interrupts.said("what was done is above")
        tell(". ".join([done, *comparison.left.said()]))
        raise typer.Exit(interrupts.exit_code())
    if not any(fit.has_result for fit in comparison.fits.values()):
        tell("error: no method gave a result; --all says why and what to try")
        raise typer.Exit(ALL_FAILED)


def write_json(text: str, path: Path) -> None:
    """Write a machine-readable result to a file, or to standard output for ``-``."""
    from vi_recipes.core import write_whole

    if str(path) == "-":
        stream = result_stream()
        stream.write(text)
        stream.flush()
    elif not write_pipe(text, path):
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")  # a device, say
        else:
            write_whole(path.resolve(), text)


def check_pdf(pdf: bool) -> None:
    """Make sure that there is a browser that prints the report."""
    if not pdf:
        return
    from vi_recipes.report import find_browser

    if find_browser() is None:
        raise ValueError(
            "--pdf: no browser was found (Chromium, Chrome or Edge); install one, or leave --pdf "
            "out and print report.html from any browser"
        )


@contextmanager
def output_folder(path: Path | None) -> Iterator[None]:
    """Make a folder and make sure that it can be written to, before the block fits anything.

    A folder made here goes again if the block fails before it has put anything into it.
    """
    if path is None:
        yield
        return
    existed = path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(
            f"--out: cannot write to folder {path} ({error.strerror}); choose another"
        ) from None
    try:
        yield
    except BaseException:
        if not existed:
            with suppress(OSError):  # not empty: what is there is worth keeping
                path.rmdir()
        raise


def check_json(path: Path | None) -> None:
    """Make sure that a file can be written at ``path``; ``-`` is standard output."""
    if path is None or str(path) == "-":
        return
    if path.is_dir():
        raise ValueError(f"--json: {path} is a directory; expected a file, or - for the screen")
    place = path if path.exists() else path.absolute().parent
    if not os.access(place, os.W_OK):
        raise ValueError(f"--json: cannot write to {path}; choose another place")
    check_pipe(path)
