"""What a report says, in order; how it looks is up to :mod:`html` and :mod:`markdown`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vi_recipes.comparison import tables
from vi_recipes.comparison.tables import Table
from vi_recipes.comparison.weights import weights
from vi_recipes.report.exhibit import Exhibit

if TYPE_CHECKING:
    from vi_recipes.comparison.fits import Comparison

MAX_TABLE = 500
"""Parameters listed in a report; the tables beside it have them all."""

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


def compose(comparison: Comparison, drawings: Sequence[Exhibit]) -> Document:
    """Return the contents of the report on ``comparison``, with the figures already drawn."""
    results = [
        tables.means(comparison, MAX_TABLE),
        tables.timings(comparison),
        tables.diagnostics(comparison),
        weights(comparison),
        tables.accuracy_summary(comparison),
        tables.accuracy(comparison, MAX_TABLE),
    ]
    return Document(
        title=f"{comparison.target_name or 'Model'}: methods side by side",
        intro=_intro(comparison),
        description=comparison.description,
        warnings=_warnings(comparison),
        exhibits=list(comparison.exhibits),
        verdicts=tables.verdicts(comparison),
        results=[table for table in results if table.rows],
        drawings=list(drawings),
        evidence=tables.evidence(comparison),
        record=[tables.options(comparison), tables.provenance(comparison)],
        notes=list(comparison.notes),
    )


def _intro(comparison: Comparison) -> str:
    fits = tables.all_fits(comparison)
    labels, _ = tables.select(comparison)
    sites = next((fit.sites for fit in fits.values() if fit.sites), ())
    named = {site.name: site for site in sites}
    listed = ", ".join(
        f"{name}[{', '.join(map(str, named[name].shape))}]" if named[name].shape else name
        for name in tables.order(comparison)
    )
    failed = [name for name, fit in fits.items() if not fit.has_result]
    many = len(comparison.fits) > 1
    parts = [
        f"{len(comparison.fits)} method{'s' if many else ''} on the model "
        f"{comparison.target_name}: {', '.join(comparison.fits)}.",
        f"It has {len(labels)} parameter{'s' if len(labels) != 1 else ''}: {listed}.",
    ]
    if comparison.reference_name is not None:
        parts.append(f"The others are measured against {comparison.reference_name}.")
    else:
        parts.append("There is no reference, so nothing says how far each can be trusted.")
    if failed:
        parts.append(f"Without a result: {', '.join(failed)}.")
    return " ".join(parts)


def _warnings(comparison: Comparison) -> list[str]:
    warnings = list(comparison.warnings)
    if comparison.interrupted:
        warnings.insert(0, "The comparison was interrupted: only what was done by then is here.")
    return warnings
