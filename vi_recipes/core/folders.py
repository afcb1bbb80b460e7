"""Folders that a command writes: of one kind, and through no link."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

MARKS = {
    "comparison.json": "a comparison",
    "calibration.npz": "a calibration",
    "verification.md": "a verification",
}
"""File -> what a folder that has it holds."""


def check_folder(directory: Path, mark: str, folders: Iterable[str] = ()) -> None:
    """Raise a :class:`ValueError` for a folder that holds something else, or a link in it.

    Parameters
    ----------
    directory
        Where files are to be written; it need not be there.
    mark
        The file that says what they are of, a key of :data:`MARKS`.
    folders
        Folders in it that are written to.
    """
    for name, what in MARKS.items():
        if name != mark and os.path.lexists(directory / name):
            raise ValueError(
                f"{directory}: it holds {what} ({name}); give another folder, or delete this one"
            )
    for name in folders:
        if (directory / name).is_symlink():
            raise ValueError(
                f"{directory / name} is a symbolic link, through which nothing is written; "
                "remove it, or give another folder"
            )
