"""A comparison at a glance, as Python prints it and a notebook shows it: the verdict first."""

from __future__ import annotations

from html import escape

import numpy as np
import pandas as pd

from vi_recipes.comparison.fits import Fits
from vi_recipes.comparison.notes import NoteKind, of_kind
from vi_recipes.comparison.page import answer
from vi_recipes.comparison.recommend import recommend
from vi_recipes.comparison.verdicts import displayed
from vi_recipes.comparison.view import select
from vi_recipes.core import attempt, numbered, visible
from vi_recipes.report import format_number

MOST_ROWS = 12
"""Parameters that a notebook shows."""


def as_text(comparison: Fits) -> str:
    """Return what it is, and the answer, in three lines at most.

    A fourth says of fits in its folder that they were of another target, and are gone.
    """
    reference = f", reference {comparison.reference_name}" if comparison.reference_name else ""
    lead = f"{type(comparison).__name__}({comparison.target_name!r}{reference})"
    replaced = of_kind(comparison.notes, NoteKind.REPLACED)
    return "\n".join([lead, *_answer(comparison), *replaced])


def as_html(comparison: Fits) -> str:
    """Return the answer, the verdicts, and means with sds of a dozen parameters at most."""
    first, *rest = _answer(comparison)
    lines = [f"<p><b>{_shown(first)}</b></p>", *(f"<p>{_shown(line)}</p>" for line in rest)]
    replaced = of_kind(comparison.notes, NoteKind.REPLACED)
    lines += [f"<p>{_shown(note)}</p>" for note in replaced]
    lines += [f"<p>Warning: {_shown(text)}</p>" for text in comparison.warnings]
    lines.append(displayed(comparison.verdicts()).to_html())
    labels, left_out = select(comparison, MOST_ROWS)
    more = f"; {numbered(left_out, 'more parameter')} in means() and sds()" if left_out else ""
    lines.append(f"<p>Means, with sds in parentheses{more}</p>")
    lines.append(_moments(comparison, labels).to_html())
    return "".join(lines)


def _answer(comparison: Fits) -> list[str]:
    rest = attempt(lambda: recommend(comparison).rest, lambda _: "")
    return [answer(comparison), *([rest] if rest else [])]


def _moments(comparison: Fits, labels: list[str]) -> pd.DataFrame:
    means, sds = comparison.means().loc[labels], comparison.sds().loc[labels]
    columns = {}
    for name, fit in comparison.columns.items():
        if fit.has_result:
            columns[visible(name)] = [
                format_number(mean) + ("" if np.isnan(sd) else f" ({format_number(sd, 2)})")
                for mean, sd in zip(means[name], sds[name], strict=True)
            ]
    return pd.DataFrame(columns, index=[visible(label) for label in labels])


def _shown(text: str) -> str:
    return escape(visible(text), quote=False)
