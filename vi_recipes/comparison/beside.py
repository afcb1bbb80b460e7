"""A comparison written beside the one that a folder holds, and put in its place as a whole.

So a folder never has the report of one run beside the fits of another, and a run that ends early
leaves what was there.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from vi_recipes.core import drop_others

HEADER = "comparison.json"
"""What binds the fits of a folder together."""

FILES = ("report.html", "report.md", "report.pdf", "result.json")

FOLDERS = {
    "fits": (".nc",),
    "tables": (".csv", ".tex"),
    "figures": (".svg",),
    "exhibits": (".csv", ".tex", ".svg"),
}
"""Folder -> the suffixes of what is written there; files of others are the user's own."""

UNFINISHED = "unfinished"
"""Where a run into a folder that is in use keeps what it has done, with the process's number."""


def place_for(directory: Path) -> Path:
    """Return where a new comparison is to be written: beside the one that is there, if any."""
    if not any(os.path.lexists(directory / name) for name in (HEADER, *FILES, *FOLDERS)):
        return directory
    place = directory / f"{UNFINISHED}.{os.getpid()}"
    discard(place)
    place.mkdir(parents=True)
    return place


def holds_comparison(directory: Path) -> bool:
    """Whether a folder holds a comparison that is whole."""
    return (directory / HEADER).exists()


def unfinished(directory: Path) -> list[Path]:
    """Return the folders of runs into a folder that did not end, or have not yet."""
    return sorted(p for p in directory.glob(f"{UNFINISHED}.*") if holds_comparison(p))


def discard(place: Path) -> None:
    """Remove what was written beside."""
    if place.is_symlink():
        place.unlink()
    shutil.rmtree(place, ignore_errors=True)


def put_in_place(place: Path, directory: Path) -> None:
    """Put what was written beside in the place of what a folder holds, the header last.

    An interrupt in the middle comes when all is done.
    """
    try:
        _move(place, directory)
    except KeyboardInterrupt:
        _move(place, directory)
        raise


def _move(place: Path, directory: Path) -> None:
    if not (place / HEADER).exists():
        return
    kept = {path.relative_to(place) for path in place.rglob("*") if path.is_file()}
    (directory / HEADER).unlink(missing_ok=True)
    drop_stale(directory, kept)
    for path in sorted(kept, key=lambda path: path.name == HEADER):
        (directory / path).parent.mkdir(exist_ok=True)
        (place / path).replace(directory / path)
    discard(place)
    for other in directory.glob(f"{UNFINISHED}.*"):
        if not _runs(other.suffix[1:]):
            discard(other)


def drop_stale(directory: Path, kept: set[Path]) -> None:
    """Remove reports, tables, figures and fits of an earlier run, but those that are ``kept``."""
    for name in FILES:
        if Path(name) not in kept:
            (directory / name).unlink(missing_ok=True)
    drop_others(directory, FOLDERS, kept)


def _runs(number: str) -> bool:
    """Whether there is a process of that number."""
    try:
        os.kill(int(number), 0)
    except (ValueError, ProcessLookupError):
        return False
    except OSError:
        return True
    return True
