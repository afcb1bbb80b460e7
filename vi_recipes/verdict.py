"""How far a fit can be trusted, in plain words with the evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vi_recipes.fit import Fit
from vi_recipes.status import Status

if TYPE_CHECKING:
    import pandas as pd

GOOD_MEAN = 0.1
"""Reference sds that a mean may be off and still be called right."""
POOR_MEAN = 0.5
GOOD_SD = 0.1
"""Relative error of an sd that is still called right."""
POOR_SD = 2.0


def audit(reference: Fit) -> list[str]:
    """Return what is wrong with a reference; empty for one that met its own criteria."""
    if not reference.has_result or reference.status is Status.OK:
        return []
    return [
        f"The reference, {reference.method}, did not meet its own convergence criteria: "
        f"{reference.message}. Read every difference from it with that in mind; "
        f"{reference.advice or 'run it for longer'}."
    ]


def verdict(fit: Fit, accuracy: pd.DataFrame | None, *, is_reference: bool) -> str:
    """Return one sentence on how far ``fit`` can be trusted.

    Parameters
    ----------
    fit
        The fit.
    accuracy
        :meth:`Comparison.accuracy` of all fits; ``None`` or without the fit when there is no
        reference.
    is_reference
        Whether the fit is what the others are measured against.
    """
    if not fit.has_result:
        return f"No result: {fit.explanation}."
    caution = "" if fit.status.ok else f"Provisional ({fit.message}). "
    if is_reference:
        trust = "it met its own criteria" if fit.status.ok else "use it with caution"
        return f"{caution}The reference: {trust}" + (f" ({fit.message})." if fit.status.ok else ".")
    if accuracy is None or fit.method not in accuracy.index.get_level_values("method"):
        own = "" if caution or not fit.message else f" ({fit.message})"
        return f"{caution}Nothing to check it against: there is no reference{own}."
    rows = accuracy[accuracy.index.get_level_values("method") == fit.method]
    return caution + _measured(rows.droplevel("method").astype(float))


def _measured(rows: pd.DataFrame) -> str:
    difference, ratio = rows["difference"].dropna(), rows["sd_ratio"].dropna()
    if difference.empty:
        return "No parameter in common with the reference."
    # what Monte Carlo error explains is not held against a method
    excess = (difference.abs() - 2 * rows["difference_mcse"].fillna(0.0)).clip(lower=0).dropna()
    worst = str(excess.idxmax()) if excess.max() > 0 else str(difference.abs().idxmax())
    mean_part = (
        f"means differ by at most {difference.abs().max():.2g} reference sd "
        f"(beyond Monte Carlo error: {excess.max():.2g}, at {worst})"
    )
    if ratio.empty:
        judged = "close to the means" if excess.max() <= GOOD_MEAN else "not the posterior means"
        return f"A point, without spread: {judged}; {mean_part}."
    low, high = ratio.idxmin(), ratio.idxmax()
    sd_part = (
        f"sds are {ratio.min():.2g} ({low}) to {ratio.max():.2g} ({high}) times the reference's"
    )
    noise = 2 * rows["sd_ratio_mcse"].fillna(0.0)
    off = np.maximum(ratio, 1 / ratio.clip(lower=1e-300)) - noise.reindex(ratio.index)
    if excess.max() <= GOOD_MEAN and off.max() <= 1 + GOOD_SD:
        lead = "Trustworthy here"
    elif excess.max() > POOR_MEAN or off.max() > POOR_SD:
        lead = "Not to be trusted here"
    else:
        lead = "Usable with care"
    if ratio.min() < 1 / (1 + GOOD_SD) - noise.max() and lead != "Trustworthy here":
        lead += ", understates uncertainty"
    return f"{lead}: {mean_part}; {sd_part}."
