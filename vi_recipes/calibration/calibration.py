"""A calibration with its report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vi_recipes.calibration.page import write
from vi_recipes.calibration.ranked import Ranked


@dataclass(frozen=True, repr=False)
class Calibration(Ranked):
    """Ranks of simulated truths among a method's draws, with tables, a verdict and a report.

    Fields, and what is read off them, are those of :class:`Ranked`.
    """

    def report(self, path: str | Path) -> Path:
        """Write a report to a folder: HTML, Markdown, JSON, the table and the figures; return it.

        Parameters
        ----------
        path
            Made if need be; files of the same names are replaced.
        """
        return write(self, Path(path))
