"""A sweep with its report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vi_recipes.sweeps.page import write
from vi_recipes.sweeps.swept import Swept


@dataclass(frozen=True, repr=False)
class Sweep(Swept):
    """Fits of models by methods over seeds. Made by :func:`~vi_recipes.sweep`.

    ``frame`` has a row a scalar of every fit, ``performance()`` bias, sds and coverage over seeds,
    ``times()`` seconds; ``report(path)`` writes all of it, with figures. Parameters are those of
    :class:`~vi_recipes.sweeps.swept.Swept`.
    """

    def report(self, path: str | Path) -> Path:
        """Write a report to a folder: HTML, Markdown, tables and figures; return the folder."""
        return write(self, Path(path))
