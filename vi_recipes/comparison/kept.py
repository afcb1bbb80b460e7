"""Fits that lie on disk already, so that none is written twice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vi_recipes.comparison.labels import Relabelling
from vi_recipes.fit import Fit


@dataclass(frozen=True)
class KeptFit:
    """A fit with the file that holds it.

    Parameters
    ----------
    fit
        As it is compared.
    path
        The file, which holds it as it was fitted.
    stamp
        What tells the file from a later one of the same name.
    labels
        What takes the components from their order in the file to that in ``fit``; ``None`` where
        they are the same.
    """

    fit: Fit
    path: Path
    stamp: tuple[int, ...]
    labels: Relabelling | None = None

    def holds(self, fit: Fit, path: Path) -> bool:
        """Whether the file at ``path`` is this one, as it was written, and of ``fit``."""
        return fit is self.fit and path == self.path and stamp_of(path) == self.stamp


def stamp_of(path: Path) -> tuple[int, ...]:
    """Return what changes when a file is replaced; nothing where there is none."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns
