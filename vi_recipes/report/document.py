"""What a report says, in order; how it looks is up to :mod:`html` and :mod:`markdown`."""

from __future__ import annotations

from dataclasses import dataclass

from vi_recipes.report.cells import Table
from vi_recipes.report.exhibit import Exhibit

NUM_OPEN = 40
"""Rows of a table shown at once; the rest are folded away."""


@dataclass(frozen=True)
class Document:
    """The contents of a report.

    Parameters
    ----------
    title, intro, description
        Headline, what was compared, and what its author says of it.
    warnings
        What a reader must know before any number.
    exhibits
        Figures and tables of the study's own; there may be none.
    verdicts
        A row per method.
    results
        Tables of what was found; figures follow them.
    drawings
        The figures.
    evidence
        Log evidence, which not every method has; it may have no rows.
    record
        Tables of how it was made.
    notes
        On scales and labels.
    """

    title: str
    intro: str
    description: str
    warnings: list[str]
    exhibits: list[Exhibit]
    verdicts: Table
    results: list[Table]
    drawings: list[Exhibit]
    evidence: Table
    record: list[Table]
    notes: list[str]
