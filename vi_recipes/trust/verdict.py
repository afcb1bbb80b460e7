"""How far a fit can be trusted, in plain words with the evidence.

The thresholds, of which ``docs/trust.md`` says when they were fixed:

- means within 0.1 posterior sds and sds within 10 % are right; means more than 0.5 sds off, or sds
  off by more than a factor of 2, are wrong; what lies between is usable with care. Twice the Monte
  Carlo error of the comparison is not held against a fit, and one known to no better than 0.1 sds,
  or 10 % of an sd, vouches for none.
- importance weights are relied on below khat = min(1 - 1 / log10(draws), 0.7): Vehtari et al.
  (2024), JMLR 25(72). The same for each site alone.
- a sampler stands by R-hat at most 1.01, 100 effective draws a chain in bulk and tail, E-BFMI at
  least 0.3, at most 1 % of trees at the depth limit and few divergences: Vehtari et al. (2021),
  doi:10.1214/20-BA1221; Betancourt (2017), arXiv:1701.02434. Its status says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from vi_recipes.core import Status
from vi_recipes.fit import Assessment, Correction, Fit, differences
from vi_recipes.importance import KHAT_LIMIT, khat_limit, shape_in_words
from vi_recipes.trust.assess import num_block_draws

if TYPE_CHECKING:
    import pandas as pd

GOOD_MEAN = 0.1
"""Posterior sds that a mean may be off and still be called right."""
POOR_MEAN = 0.5
GOOD_SD = 0.1
"""Relative error of an sd that is still called right."""
POOR_SD = 2.0
MAX_R_HAT = 1.1
"""R-hat above which chains have not found the same distribution. Gelman and Rubin (1992),
doi:10.1214/ss/1177011136."""
MAX_ERROR = 0.1
"""Monte Carlo error, in sds or relative of an sd, of a comparison that can vouch for a fit."""


class Trust(Enum):
    """What a verdict comes to. The value is how it is put."""

    TRUSTWORTHY = "trustworthy"
    CARE = "usable with care"
    UNTRUSTED = "not to be trusted"
    UNKNOWN = "cannot be told"
    NO_RESULT = "no result"


@dataclass(frozen=True)
class Verdict:
    """How far a fit can be trusted.

    Parameters
    ----------
    trust
        What it comes to.
    text
        The same in a sentence or two, with the evidence.
    """

    trust: Trust
    text: str

    def __str__(self) -> str:
        return self.text


def audit(reference: Fit) -> list[str]:
    """Return what is wrong with a reference; empty for one that met its own criteria."""
    if not reference.has_result or reference.status is Status.OK:
        return []
    return [
        f"The reference, {reference.method}, did not meet its own convergence criteria: "
        f"{reference.message}. Read every difference from it with that in mind; "
        f"{reference.advice or 'run it for longer'}."
    ]


def verdict(fit: Fit, accuracy: pd.DataFrame | None, *, is_reference: bool) -> Verdict:
    """Return how far ``fit`` can be trusted: by a reference, else by its own evidence.

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
        return Verdict(Trust.NO_RESULT, f"No result: {fit.explanation}.")
    if is_reference:
        trust = "it met its own criteria" if fit.status.ok else "use it with caution"
        text = f"The reference: {trust}" + (f" ({fit.message})." if fit.status.ok else ".")
        judged = Verdict(Trust.TRUSTWORTHY, text)
    elif accuracy is None or fit.method not in accuracy.index.get_level_values("method"):
        judged = _by_itself(fit)
    else:
        rows = accuracy[accuracy.index.get_level_values("method") == fit.method]
        judged = _measured(rows.droplevel("method").astype(float), "here", "reference")
    return judged if fit.status.ok else _provisional(judged, fit.message)


def judge(fit: Fit) -> Verdict:
    """Return how far ``fit`` can be trusted by its own evidence alone (see :func:`assess`)."""
    return verdict(fit, None, is_reference=False)


def _provisional(judged: Verdict, why: str) -> Verdict:
    """Hold a verdict down to what a fit that did not converge may have."""
    capped = Trust.CARE if judged.trust is Trust.TRUSTWORTHY else judged.trust
    return Verdict(capped, f"Provisional ({why}). {judged.text}")


def _measured(rows: pd.DataFrame, where: str, yardstick: str) -> Verdict:
    difference, ratio = rows["difference"].dropna(), rows["sd_ratio"].dropna()
    if difference.empty:
        return Verdict(Trust.UNKNOWN, f"No parameter in common with the {yardstick}.")
    # what Monte Carlo error explains is not held against a method
    excess = (difference.abs() - 2 * rows["difference_mcse"].fillna(0.0)).clip(lower=0).dropna()
    worst = str(excess.idxmax()) if excess.max() > 0 else str(difference.abs().idxmax())
    mean_part = (
        f"means differ by at most {difference.abs().max():.2g} {yardstick} sd "
        f"(beyond Monte Carlo error: {excess.max():.2g}, at {worst})"
    )
    if ratio.empty:
        close = excess.max() <= GOOD_MEAN
        judged = "close to the means" if close else "not the posterior means"
        trust = Trust.UNTRUSTED if excess.max() > POOR_MEAN else Trust.CARE
        return Verdict(trust, f"A point, without spread: {judged}; {mean_part}.")
    low, high = ratio.idxmin(), ratio.idxmax()
    sd_part = (
        f"sds are {ratio.min():.2g} ({low}) to {ratio.max():.2g} ({high}) times the {yardstick}'s"
    )
    noise = 2 * rows["sd_ratio_mcse"].fillna(0.0)
    off = np.maximum(ratio, 1 / ratio.clip(lower=1e-300)) - noise.reindex(ratio.index)
    if excess.max() <= GOOD_MEAN and off.max() <= 1 + GOOD_SD:
        trust = Trust.TRUSTWORTHY
    elif excess.max() > POOR_MEAN or off.max() > POOR_SD:
        trust = Trust.UNTRUSTED
    else:
        trust = Trust.CARE
    lead = f"{trust.value[0].upper()}{trust.value[1:]} {where}"
    if ratio.min() < 1 / (1 + GOOD_SD) - noise.max() and trust is not Trust.TRUSTWORTHY:
        lead += ", understates uncertainty"
    return Verdict(trust, f"{lead}: {mean_part}; {sd_part}.")


# -- without a reference ---------------------------------------------------------------------


def _by_itself(fit: Fit) -> Verdict:
    if fit.is_sampler:
        if fit.status.ok:
            return Verdict(Trust.TRUSTWORTHY, f"Trustworthy by its own diagnostics: {fit.message}.")
        if not fit.diagnostics.get("r_hat_max", np.nan) <= MAX_R_HAT:
            return Verdict(Trust.UNTRUSTED, "Not to be trusted: its chains do not agree.")
        return Verdict(Trust.CARE, "Its own diagnostics do not vouch for it.")
    if fit.status is Status.COLLAPSED:
        return Verdict(Trust.UNTRUSTED, f"Not to be trusted: {fit.status.value}.")
    assessment = fit.assessment
    if assessment is None:
        return Verdict(Trust.UNKNOWN, "Cannot be told: there is no reference, nor was it assessed.")
    if np.isposinf(assessment.khat):
        return Verdict(Trust.UNTRUSTED, f"Not to be trusted: {assessment.unknown['correction']}.")
    if assessment.correction is not None:
        return _corrected(fit, assessment, assessment.correction)
    unknown = assessment.unknown
    why = "; ".join(unknown.get(name, "") for name in ("weights", "correction")).strip("; ")
    blame = _blame(assessment)
    ratio = {k: float(np.nanmax(v)) for k, v in assessment.response_ratio.items() if v.size}
    site = max(ratio, key=ratio.__getitem__, default="")
    if site and ratio[site] > POOR_SD:
        return Verdict(
            Trust.UNTRUSTED,
            "Not to be trusted, understates uncertainty: by linear response an sd of "
            f"{site} is {ratio[site]:.2g} times as large ({why}{blame}).",
        )
    aside = f"; by linear response sds are up to {ratio[site]:.2g} times as large" if site else ""
    return Verdict(
        Trust.UNKNOWN, f"Cannot be told without a reference, such as NUTS: {why}{aside}{blame}."
    )


def _corrected(fit: Fit, assessment: Assessment, correction: Correction) -> Verdict:
    rows = differences(fit, correction.moments)
    measured = _measured(rows, "by its own evidence", "posterior")
    text = measured.text.removesuffix(".") + (
        f", by {correction.source} ({shape_in_words(correction.khat)}, effectively "
        f"{correction.ess:.0f} draws){_blame(assessment)}."
    )
    error = max(rows["difference_mcse"].max(), rows["sd_ratio_mcse"].max())
    if measured.trust is Trust.TRUSTWORTHY and error > MAX_ERROR:
        text = f"Usable with care: known to {error:.2g} sds only. {text}"
        return Verdict(Trust.CARE, text)
    if measured.trust is Trust.TRUSTWORTHY and _blame(assessment):
        return Verdict(Trust.CARE, f"Usable with care. {text}")
    return Verdict(measured.trust, text)


def _blame(assessment: Assessment) -> str:
    """Return which sites have the wrong shape on their own, as the end of a sentence."""
    num_draws = assessment.num_draws
    limit = khat_limit(num_block_draws(num_draws)) if num_draws else KHAT_LIMIT
    bad = {name: k for name, k in assessment.block_khat.items() if k >= limit}
    if not bad:
        return ""
    listed = ", ".join(f"{name} ({k:.2f})" for name, k in sorted(bad.items(), key=lambda x: -x[1]))
    return f"; khat is above {limit:.2g} for {listed} alone: the shape is wrong there"
