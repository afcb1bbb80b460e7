"""A verification as tables, and as a page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vi_recipes.comparison.verification import Row, confusion, faults
from vi_recipes.report import DASH, Cell, Flag, Table, as_markdown
from vi_recipes.trust import GOOD_MEAN, GOOD_SD, POOR_MEAN, POOR_SD

TRUTH = (
    f"right: every mean within {GOOD_MEAN} reference sds and every sd within {GOOD_SD:.0%}, beyond "
    "twice the Monte Carlo error of the reference; wrong: a mean more than "
    f"{POOR_MEAN} sds off or an sd by more than a factor {POOR_SD:g}; a point has no sds and is "
    "never right"
)


def table(rows: Sequence[Row], model: str = "") -> Table:
    """Return a line a fit: its errors, the truth and what it says of itself."""
    columns = [
        *([] if model else ["model"]), "method", "status", "largest error of a mean, reference sds",
        "sds over the reference's", "truth", "says of itself", "seconds",
    ]  # fmt: skip
    body = []
    for row in rows:
        flag: Flag = "off" if row in faults(rows) else ""
        body.append(
            [
                *([] if model else [Cell(f"{row.model} ({row.dim})")]),
                Cell(row.method),
                Cell(row.status),
                Cell(_error(row)),
                Cell(_sds(row)),
                Cell(row.truth if row.truth != "none" else DASH),
                Cell(row.trust, flag),
                Cell(_seconds(row)),
            ]
        )
    words = range(3 if not model else 2)
    left = (*words, len(columns) - 3, len(columns) - 2)
    note = f"{TRUTH[0].upper()}{TRUTH[1:]}. Seconds: of the fit with compilation, + assessment"
    title = f"{model}: fits beside reference answers" if model else "Fits beside reference answers"
    return Table(title, columns, body, note, left)


def confusion_table(rows: Sequence[Row]) -> Table:
    """Return how often each verdict met each truth."""
    frame = confusion(rows)
    body = [
        [Cell(str(truth)), *(Cell(str(n)) for n in counts)]
        for truth, counts in zip(frame.index, frame.to_numpy(), strict=True)
    ]
    note = (
        "Fits by truth (down) and by what they say of themselves (across); points, which have no "
        "sds, are left out"
    )
    return Table("Verdicts and the truth", ["truth", *frame.columns], body, note)


def markdown(rows: Sequence[Row], about: str = "") -> str:
    """Return the tables as a page, with every verdict in full; ``about`` follows its headline."""
    parts = [
        "# Verification",
        "What every fit says of itself, without a sampler, beside answers that others computed.",
        *([about] if about else []),
        f"## {confusion_table(rows).title}",
        as_markdown(confusion_table(rows)),
    ]
    if found := faults(rows):
        listed = ", ".join(f"{row.method} on {row.model}" for row in found)
        parts.append(f"Contradicted: {listed}.")
    parts += [f"## {table(rows).title}", as_markdown(table(rows), fold=False), "## In words"]
    parts += [f"- **{row.model}, {row.method}**: {row.verdict}" for row in rows]
    return "\n\n".join(parts[: -len(rows)]) + "\n\n" + "\n".join(parts[-len(rows) :]) + "\n"


def _error(row: Row) -> str:
    if np.isnan(row.mean_error):
        return DASH
    return f"{row.mean_error:.2f} ({row.mean_worst})"


def _sds(row: Row) -> str:
    if np.isnan(row.sd_low):
        return DASH
    low, high = f"{row.sd_low:.2f} ({row.sd_low_worst})", f"{row.sd_high:.2f} ({row.sd_high_worst})"
    return f"{low} to {high}"


def _seconds(row: Row) -> str:
    more = "" if np.isnan(row.assess_seconds) else f" + {row.assess_seconds:.1f}"
    return f"{row.seconds:.1f}{more}"
