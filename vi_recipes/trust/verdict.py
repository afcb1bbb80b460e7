"""How far a fit can be trusted, in plain words with the evidence.

The thresholds, of which ``docs/trust.md`` says when they were fixed:

- means within 0.1 posterior sds and sds within 10 % are right; means more than 0.5 sds off, or sds
  off by more than a factor of 2, are wrong; what lies between is usable with care. Twice the Monte
  Carlo error of what it is compared with is not held against a fit, its own is; and a comparison
  known to no better than 0.1 sds, or 10 % of an sd, vouches for none.
- importance weights are relied on below khat = min(1 - 1 / log10(draws), 0.7): Vehtari et al.
  (2024), JMLR 25(72). The same for each site alone. Nobody is made trustworthy by weights of its
  own draws of which fewer than three quarters count, or by those of adapted draws of which fewer
  than half do, and by these only within the limits outright.
- a sampler stands by R-hat at most 1.01, 100 effective draws a chain in bulk and tail, E-BFMI at
  least 0.3, at most 1 % of trees at the depth limit and few divergences: Vehtari et al. (2021),
  doi:10.1214/20-BA1221; Betancourt (2017), arXiv:1701.02434. Its status says so.
- nested quadrature stands by its own errors: every mean and sd known to 0.01 posterior sds, khat of
  the weights of theta below the limit above, and the members' integrals known to 0.02 nats. Its
  status says so.
- a reference measures others where its own evidence leaves it usable at least. One that is not to
  be trusted, or of which that cannot be told, measures nobody: every fit is then judged by its own
  evidence, and differences from the reference are shown and not held against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from vi_recipes.core import Status, check_arguments
from vi_recipes.fit import (
    Assessment,
    Correction,
    Fit,
    differences,
    doubted,
    none_settled,
    say_unsettled,
)
from vi_recipes.fit import unsettled as no_moments
from vi_recipes.importance import KHAT_LIMIT, khat_limit, shape_in_words
from vi_recipes.posterior import held_draws, per_scalar
from vi_recipes.trust.assess import num_block_draws
from vi_recipes.trust.measured import MAX_ERROR, POOR_MEAN, POOR_SD, Trust, Verdict, measure
from vi_recipes.trust.moved import LowerBounds
from vi_recipes.trust.overlooked import SHARE, Overlooked

if TYPE_CHECKING:
    import pandas as pd

MAX_R_HAT = 1.1
"""R-hat above which chains have not found the same distribution. Gelman and Rubin (1992),
doi:10.1214/ss/1177011136."""
MIN_ESS = 100
"""Effective draws of all chains below which nothing can be told: a mean is known to no better than
0.1 sds by as many."""
BLIND = "None of this sees a part of the posterior where no chain has been."
UNSEEN = "It does not see a mode of the parameters that none of its points came near."


NOTHING: Mapping[str, Overlooked] = MappingProxyType({})


def audit(reference: Fit, found: Mapping[str, Overlooked] = NOTHING) -> list[str]:
    """Return what is wrong with a reference; empty for one that met its own criteria.

    Parameters
    ----------
    reference
        What the fits are measured against.
    found
        Name of a fit -> what that has found where the reference has no draws.
    """
    if not reference.has_result:
        return []
    name, advice = reference.method, reference.advice.rstrip(".")
    cure = f" {advice[0].upper()}{advice[1:]}." if advice else ""
    said = (
        ""
        if reference.status is Status.OK
        else f" did not meet its own convergence criteria: {reference.message.rstrip('.')}."
    )
    if reason := unfit(reference, found):
        return [
            f"The reference, {name},{said}{' It' if said else ''} measures nobody ({reason}). "
            f"Every fit is judged by its own evidence; differences from {name} are shown and not "
            f"held against it.{cure}"
        ]
    if not said:
        return []
    return [f"The reference, {name},{said} Read every difference from it with that in mind.{cure}"]


def unfit(reference: Fit, found: Mapping[str, Overlooked] = NOTHING) -> str:
    """Return why others cannot be measured by a reference, as part of a sentence; "" if they can.

    Answers from outside, which come with no evidence, are taken as given. Parameters are those of
    :func:`audit`.
    """
    if not reference.has_result:
        return "it has no result"
    if reference.is_point:
        return "it is a point, without a spread to measure in"
    if found:
        return _elsewhere(found)
    if _is_given(reference):
        return ""
    own = _by_itself(reference)
    if own.trust in (Trust.TRUSTWORTHY, Trust.CARE):
        return ""
    text = own.text.rstrip(".")
    return f"{text[0].lower()}{text[1:]}"


def _is_given(reference: Fit) -> bool:
    """Whether there is no evidence to judge a reference by."""
    told = (
        reference.is_sampler
        or reference.stated_error is not None
        or reference.status is Status.COLLAPSED
    )
    return not told and reference.assessment is None


def verdict(
    fit: Fit,
    accuracy: pd.DataFrame | None = None,
    *,
    reference: Fit | None = None,
    is_reference: bool = False,
    unsettled: Mapping[str, float] = MappingProxyType({}),
    found: Mapping[str, Overlooked] = NOTHING,
    bounds: LowerBounds | None = None,
) -> Verdict:
    """Return how far ``fit`` can be trusted: by a reference, else by its own evidence.

    Parameters
    ----------
    fit
        The fit.
    accuracy
        :meth:`Comparison.accuracy` of all fits; ``None`` or without the fit when there is no
        reference.
    reference
        What the fits are measured against; ``None`` for no reference.
    is_reference
        Whether it is the fit.
    unsettled
        Label -> khat of scalars that have no mean or sd by what some fit knows of them.
    found
        Name of a fit -> what that has found where the reference has no draws.
    bounds
        How far it is off at least, where short chains from its draws were run (see
        :func:`lower_bounds`). Of a fit that nothing else judges they can say that it is not to be
        trusted, and never that it is trustworthy.
    """
    if not fit.has_result:
        return Verdict(Trust.NO_RESULT, f"No result: {fit.explanation}.")
    if is_reference:
        judged = _reference(fit, found)
    elif reference is None or accuracy is None:
        judged = _by_itself(fit)
    else:
        rows = accuracy[accuracy.index.get_level_values("method") == fit.method]
        judged = _beside(fit, rows.droplevel("method").astype(float), reference, unsettled, found)
    if bounds is not None and judged.trust is Trust.UNKNOWN:
        sampled = reference is not None and reference.is_sampler
        judged = _bounded(judged, bounds, sampled=sampled)
    aside = say_unsettled(no_moments(fit), "its draws do") if fit.is_sampler else ""
    if aside and "khat_draws" not in fit.diagnostics:  # of which its own message speaks
        judged = replace(judged, text=f"{judged.text} {aside}: look at its quantiles.")
    return judged if fit.status.ok else _provisional(judged, fit)


@check_arguments("fit")
def judge(fit: Fit) -> Verdict:
    """Return how far a fit can be trusted by its own evidence alone, without a reference.

    Parameters
    ----------
    fit
        Its ``assessment``, by :func:`assess`, is the evidence of an approximation, its diagnostics
        that of a sampler. Without an assessment the verdict is :attr:`Trust.UNKNOWN`.
    """
    return verdict(fit)


def _provisional(judged: Verdict, fit: Fit) -> Verdict:
    """Hold a verdict down to what a fit that did not converge may have."""
    held = judged.capped
    doubts = (*held.doubts, f"its status is {fit.status.name.lower()}")
    return replace(held, text=f"Provisional ({fit.message}). {held.text}", doubts=doubts)


# -- by a reference --------------------------------------------------------------------------


def _elsewhere(found: Mapping[str, Overlooked], where: str = "none of its draws are") -> str:
    """Return who has found most of what a reference has not, as a part of a sentence."""
    name = max(found, key=lambda name: found[name].missed)
    return f"{name} has found mass where {where}: {found[name]}"


def _reference(fit: Fit, found: Mapping[str, Overlooked]) -> Verdict:
    """Return the verdict on the reference itself, which is by its own evidence."""
    own = _by_itself(fit)
    if found:
        text = f"The reference, which measures nobody. Not to be trusted: {_elsewhere(found)}."
        return Verdict(Trust.UNTRUSTED, text)
    if unfit(fit):
        return replace(own, text=f"The reference, which measures nobody. {own.text}")
    if _is_given(fit):
        text = f"The reference, taken as given. {own.text}"
        return Verdict(Trust.CARE, text, doubts=("it is taken as given",))
    if not fit.is_sampler:
        return replace(own, text=f"The reference. {own.text}")
    if fit.status.ok:
        met = f"The reference: it met its own criteria ({fit.message}). {BLIND}"
        return replace(own, text=met)
    return replace(own, text=f"The reference: use it with caution. {BLIND}")


def _beside(
    fit: Fit,
    rows: pd.DataFrame,
    reference: Fit,
    unsettled: Mapping[str, float],
    found: Mapping[str, Overlooked],
) -> Verdict:
    """Return the verdict on a fit by a reference, if others can be measured by that."""
    measured = measure(rows, "reference", unsettled)
    if measured is None:
        own = _by_itself(fit)
        return replace(own, text=f"{own.text} It shares no parameter with the reference.")
    if unfit(reference, found):
        own = _knowing(_by_itself(fit), fit.method, reference.method, found)
        shown = "; ".join(measured.parts) + measured.aside
        aside = f"Not held against it, as {reference.method} measures nobody: {shown}."
        return replace(own, text=f"{own.text} {aside}")
    sure = reference.status.ok and (
        _is_given(reference) or _by_itself(reference).trust is Trust.TRUSTWORTHY
    )
    doubts = [] if sure else [f"{reference.method} is itself to be used with care"]
    error = reference.stated_error
    stated = error is not None and not none_settled(reference)
    known = f", known to {error:.2g} sds" if stated else ""
    return measured.verdict(f"by the reference{known}", doubts=doubts)


def _knowing(own: Verdict, name: str, reference: str, found: Mapping[str, Overlooked]) -> Verdict:
    """Return a verdict by a fit's own evidence, given what of the posterior that cannot see."""
    if not found or own.trust is Trust.UNTRUSTED:
        return own
    if name in found:
        here = f"It has mass where {reference} has no draws: {found[name]}."
        if found[name].lost < SHARE:
            return replace(own, text=f"{own.text} {here}")
        return Verdict(
            Trust.UNTRUSTED,
            f"Not to be trusted: about {found[name].lost:.0%} of the posterior is where "
            f"{reference} has draws, and it has hardly any mass there. {here}",
        )
    if own.trust not in (Trust.TRUSTWORTHY, Trust.CARE):
        return own
    return Verdict(
        Trust.UNKNOWN,
        f"Cannot be told: {_elsewhere(found, f'{reference} has no draws')}, "
        "and its own evidence does not see whether it has any there.",
    )


# -- without a reference ---------------------------------------------------------------------


def _by_itself(fit: Fit) -> Verdict:
    if fit.is_sampler:
        return _by_its_chains(fit)
    if fit.stated_error is not None:
        return _by_its_errors(fit, fit.stated_error)
    if fit.status is Status.COLLAPSED:
        return Verdict(Trust.UNTRUSTED, f"Not to be trusted: {fit.status.value}.")
    if fit.other_optimum is not None:
        return Verdict(
            Trust.UNTRUSTED,
            "Not to be trusted: it is one part of the posterior, and another of its starts found "
            f"another: {fit.other_optimum}.",
        )
    assessment = fit.assessment
    if assessment is None:
        return Verdict(Trust.UNKNOWN, "Cannot be told by itself: its draws were not weighed.")
    unknown = assessment.unknown
    if np.isposinf(assessment.khat) and assessment.correction is None:
        why = unknown.get("correction", "hardly a draw of it has any weight")
        return Verdict(Trust.UNTRUSTED, f"Not to be trusted: {why}.")
    if assessment.correction is not None:
        return _corrected(fit, assessment, assessment.correction)
    reasons = [unknown[name] for name in ("weights", "correction") if unknown.get(name)]
    why = "; ".join(reasons) or "its weights give no moments to compare with"
    blame = "".join(f"; {doubt}" for doubt in _blame(assessment))
    ratio = {
        name: float(np.nanmax(values))  # that of a constant is NaN
        for name, values in assessment.response_ratio.items()
        if not np.isnan(values).all()
    }
    site = max(ratio, key=ratio.__getitem__, default="")
    if site and ratio[site] > POOR_SD:
        return Verdict(
            Trust.UNTRUSTED,
            "Not to be trusted, understates uncertainty: by linear response an sd of "
            f"{site} is {ratio[site]:.2g} times as large ({why}{blame}).",
        )
    aside = f"; by linear response sds are up to {ratio[site]:.2g} times as large" if site else ""
    return Verdict(Trust.UNKNOWN, f"Cannot be told without a reference: {why}{aside}{blame}.")


def _bounded(judged: Verdict, bounds: LowerBounds, *, sampled: bool) -> Verdict:
    """Return a verdict that leaves open what is right, given how far the fit is off at least."""
    if bounds.mean > POOR_MEAN or bounds.factor > POOR_SD:
        rest = judged.text.removeprefix(Trust.UNKNOWN.lead)
        text = (
            f"Not to be trusted: {bounds}, which leave the posterior as it is. The rest "
            f"{Trust.UNKNOWN.value}{rest}"
        )
        return Verdict(Trust.UNTRUSTED, text)
    said = str(bounds)
    text = f"{judged.text} {said[0].upper()}{said[1:]}, which does not vouch for the rest."
    if not sampled:
        seconds = float(f"{max(bounds.nuts_seconds, 1.0):.2g}")
        text += f" NUTS may tell, in {seconds:,.0f} s or so beside its compilation."
    return replace(judged, text=text)


def _by_its_errors(fit: Fit, error: float) -> Verdict:
    """Return the verdict on a fit that states the errors of its own moments."""
    if fit.status.ok:
        text = f"Trustworthy by its own errors: {fit.message}. {UNSEEN}"
        return Verdict(Trust.TRUSTWORTHY, text)
    if fit.diagnostics.get("covered") and error <= MAX_ERROR:
        some = ", where there are any," if no_moments(fit) else ""
        known = f"its means and sds{some} are known to {error:.2g} sds"
        known = "there are no means and sds" if none_settled(fit) else known
        text = f"Usable with care: {known}. {UNSEEN}"
        return Verdict(Trust.CARE, text)
    return Verdict(Trust.UNKNOWN, "Cannot be told: its own errors do not vouch for it.")


def _by_its_chains(fit: Fit) -> Verdict:
    """Return the verdict on a sampler by its own diagnostics."""
    if fit.diagnostics.get("of_another_density"):
        return Verdict(Trust.UNTRUSTED, f"Not to be trusted: {fit.message}.")
    if fit.status.ok:
        text = f"Trustworthy by its own diagnostics: {fit.message}. {BLIND}"
        return Verdict(Trust.TRUSTWORTHY, text)
    one = _num_chains(fit) == 1
    r_hat = _r_hat_of_halves(fit) if one else fit.diagnostics.get("r_hat_max", np.nan)
    what = "the halves of its one chain" if one else "its chains"
    if not r_hat <= MAX_R_HAT:
        known = f"R-hat up to {r_hat:.3g}, above {MAX_R_HAT}" if r_hat == r_hat else "no R-hat"
        return Verdict(Trust.UNTRUSTED, f"Not to be trusted: {what} do not agree ({known}).")
    ess = min(fit.diagnostics.get(f"ess_{kind}_min", np.nan) for kind in ("bulk", "tail"))
    if not ess >= MIN_ESS:
        return Verdict(
            Trust.UNTRUSTED,
            f"Not to be trusted: effectively {ess:.0f} draws of some parameter are too few to "
            f"tell (at least {MIN_ESS}).",
        )
    doubt = "its own diagnostics do not vouch for it"
    return Verdict(Trust.CARE, f"Usable with care: {doubt}. {BLIND}", doubts=(doubt,))


def _num_chains(fit: Fit) -> int:
    return int(next(iter(fit.sample_stats.values())).shape[0])


def _r_hat_of_halves(fit: Fit) -> float:
    """Return the largest R-hat of the halves of one chain, which has no R-hat itself."""
    draws = held_draws(fit.known_posterior()) or {}
    half = next((v.shape[1] // 2 for v in draws.values()), 0)
    halves = {n: np.concatenate([v[:, :half], v[:, half : 2 * half]]) for n, v in draws.items()}
    free = {n: v for n, v in halves.items() if v.size and np.ptp(v) > 0}
    largest = [np.nanmax(v) for v in per_scalar("rhat", free).values() if not np.isnan(v).all()]
    return float(max(largest, default=np.nan))


def _corrected(fit: Fit, assessment: Assessment, correction: Correction) -> Verdict:
    measured = measure(differences(fit, correction.moments), "posterior", doubted(fit))
    if measured is None:
        return Verdict(Trust.UNKNOWN, "Cannot be told: there is no moment to compare with.")
    source = (
        f", by {correction.source} ({shape_in_words(correction.khat)}, effectively "
        f"{correction.ess:.0f} draws)"
    )
    doubts = _blame(assessment)
    adapted = correction.num_rounds > 0
    if not correction.vouches:
        draws = f"{'the' if adapted else 'its'} {correction.num_draws:,} draws"
        doubts.append(f"fewer than {correction.needed:,.0f} of {draws} count")
    elif adapted and measured.trust is Trust.TRUSTWORTHY and not measured.outright:
        doubts.append("what it gets wrong is too near the limit to be called right")
    return measured.verdict("by its own evidence", doubts=doubts, source=source)


def _blame(assessment: Assessment) -> list[str]:
    """Return which sites are wrong on their own, as a part of a sentence; none if none is."""
    num_draws = assessment.num_draws
    limit = khat_limit(num_block_draws(num_draws)) if num_draws else KHAT_LIMIT
    bad = {name: k for name, k in assessment.block_khat.items() if k >= limit}
    if not bad:
        return []
    listed = ", ".join(f"{name} ({k:.2f})" for name, k in sorted(bad.items(), key=lambda x: -x[1]))
    return [f"khat is above {limit:.2g} for {listed} alone: its shape or scale is wrong there"]
