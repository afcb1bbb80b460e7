"""A comparison's report as a document."""

from __future__ import annotations

from vi_recipes.comparison.fits import Fits
from vi_recipes.comparison.recommend import recommend
from vi_recipes.comparison.sections import SECTIONS
from vi_recipes.comparison.view import all_fits, order, select
from vi_recipes.core import attempt
from vi_recipes.model import listed
from vi_recipes.report import Document


def compose(comparison: Fits) -> Document:
    """Return the contents of the report on ``comparison``."""
    made = [(section.leads, section.on_page(comparison)) for section in SECTIONS]
    shown = [(leads, part) for leads, part in made if part is not None]
    return Document(
        title=f"{comparison.target_name or 'Model'}: methods side by side",
        intro=attempt(lambda: _intro(comparison), lambda error: f"No introduction: {error}"),
        description=comparison.description,
        warnings=_warnings(comparison),
        parts=[part for leads, part in shown if not leads],
        answer=answer(comparison),
        lead=[block for leads, part in shown if leads for block in part.blocks],
    )


def answer(comparison: Fits) -> str:
    """Return what opens every report, in a line: which method to use."""
    return attempt(
        lambda: recommend(comparison).text, lambda error: f"No method is recommended: {error}"
    )


def _intro(comparison: Fits) -> str:
    fits = all_fits(comparison)
    labels, _ = select(comparison)
    sites = next((fit.sites for fit in fits.values() if fit.sites), ())
    shapes = {site.name: site.shape for site in sites}
    named = listed((name, shapes[name]) for name in order(comparison))
    failed = [name for name, fit in fits.items() if not fit.has_result]
    many = len(comparison.fits) > 1
    parts = [
        f"{len(comparison.fits)} method{'s' if many else ''} on the model "
        f"{comparison.target_name}: {', '.join(comparison.fits)}.",
        f"It has {len(labels)} parameter{'s' if len(labels) != 1 else ''}: {named}.",
    ]
    reference = comparison.reference_name
    if reference is None:
        parts.append("There is no reference: every fit is judged by its own evidence.")
    elif not comparison.measures:
        parts.append(
            f"Every fit is judged by its own evidence; differences from {reference} are shown and "
            "not held against it."
        )
    else:
        parts.append(f"The others are measured against {reference}.")
    if failed:
        parts.append(f"Without a result: {', '.join(failed)}.")
    return " ".join(parts)


def _warnings(comparison: Fits) -> list[str]:
    warnings = list(comparison.warnings)
    if comparison.interrupted:
        said = "The comparison was interrupted: only what was done by then is here."
        warnings.insert(0, " ".join([said, *comparison.left.said()]))
    return warnings
