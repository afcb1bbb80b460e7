"""The answer first: which method to use, what it costs, and what it gets wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from vi_recipes.comparison.fits import Fits
from vi_recipes.comparison.notes import NoteKind, of_kind
from vi_recipes.core import attempt
from vi_recipes.fit import Fit, none_settled, unsettled
from vi_recipes.report import format_seconds, listed
from vi_recipes.trust import Errors, Trust, Verdict, unfit

ORDER = (Trust.TRUSTWORTHY, Trust.CARE, Trust.UNKNOWN, Trust.UNTRUSTED, Trust.NO_RESULT)
"""Verdicts, the best first."""

GOOD = (Trust.TRUSTWORTHY, Trust.CARE)
"""Verdicts of methods that can be recommended."""


@dataclass(frozen=True)
class Standing:
    """How one method of a comparison has done.

    Parameters
    ----------
    method
        Its name in the comparison.
    verdict
        How far it can be trusted.
    seconds
        What it takes alone, compilation included; NaN where draws made elsewhere do not say.
    wrong
        What it gets wrong at worst, as a part of a sentence; empty where that is not known.
    """

    method: str
    verdict: Verdict
    seconds: float
    wrong: str = ""

    @property
    def trust(self) -> Trust:
        """What its verdict comes to."""
        return self.verdict.trust

    @property
    def errors(self) -> Errors | None:
        """What it gets wrong in numbers; ``None`` where nothing measures it."""
        return self.verdict.errors

    def __str__(self) -> str:
        return f"{self.method} ({_taking(self.seconds)})"


@dataclass(frozen=True)
class Recommendation:
    """Which method of a comparison to use; as text, one line.

    Parameters
    ----------
    best
        The cheapest trustworthy method; else the best that is usable with care; else ``None``.
    others
        The rest: by verdict, then by seconds.
    text
        The answer in one line.
    """

    best: Standing | None
    others: tuple[Standing, ...]
    text: str

    @property
    def method(self) -> str | None:
        """Name of the method to use; ``None`` where none can be recommended."""
        return self.best.method if self.best is not None else None

    @property
    def rest(self) -> str:
        """The others in a line, by verdict and then by seconds; empty where there are none."""
        if all(one.trust is Trust.NO_RESULT for one in (self.best, *self.others) if one):
            return ""
        said = [
            _with_verdict(trust, list(several))
            for trust, several in groupby(self.others, key=lambda one: one.trust)
        ]
        lead = "The others" if self.best is not None else "All of them"
        return f"{lead}, by verdict and seconds: {'; '.join(said)}." if said else ""

    def __str__(self) -> str:
        return self.text


def recommend(comparison: Fits) -> Recommendation:
    """Return which method of a comparison to use.

    Parameters
    ----------
    comparison
        Whose methods.

    Returns
    -------
    Recommendation
        The cheapest trustworthy method. Where none is, the best of those usable with care: one
        right in means and sds before one right in means, before one right in sds, and then by
        seconds. Where none is that either, none, and what would tell.
    """
    return comparison.once("recommendation", lambda: _recommend(comparison))


def ranked(comparison: Fits) -> list[Standing]:
    """Return the methods, the one to use first, then by verdict and seconds."""
    found = recommend(comparison)
    return [*([found.best] if found.best is not None else []), *found.others]


def _recommend(comparison: Fits) -> Recommendation:
    alone = comparison.timings()["alone_seconds"]
    ranked = [
        Standing(name, verdict, float(alone[name]), _wrong(comparison, name, verdict))
        for name, verdict in comparison.verdict_of.items()
    ]
    ranked.sort(key=lambda one: (ORDER.index(one.trust), _cost(one)))
    usable = [one for one in ranked if one.trust in GOOD]
    if not usable:
        return Recommendation(None, tuple(ranked), _none(comparison, ranked))
    best = min(usable, key=_rank)
    others = tuple(one for one in ranked if one is not best)
    stated = comparison[best.method].stated_error is not None
    own = "errors" if stated else "diagnostics"
    return Recommendation(best, others, _use(best, f"by its own {own}", alone=not others))


def _rank(one: Standing) -> tuple[int, int, float]:
    """Return by what methods that can be recommended are put in order, the best first.

    A sampler that is usable with care is as right as anything that is measured by it.
    """
    errors, lacking = one.errors, 0
    if one.trust is Trust.CARE and errors is not None:
        lacking = 4 * (not errors.means_right) + 2 * (not errors.sds_right) + (not errors.sd_at)
    return ORDER.index(one.trust), lacking, _cost(one)


def _cost(one: Standing) -> float:
    """Return the seconds of a method; those that nobody knows are the most."""
    return float("inf") if np.isnan(one.seconds) else one.seconds


def _taking(seconds: float) -> str:
    return "in seconds that are not told" if np.isnan(seconds) else f"{format_seconds(seconds)} s"


# -- in words --------------------------------------------------------------------------------


def _with_verdict(trust: Trust, several: Sequence[Standing]) -> str:
    """Return methods of one verdict, with it, as a part of a sentence."""
    failed = trust is Trust.NO_RESULT
    names = listed([one.method if failed else str(one) for one in several])
    one = len(several) == 1
    if failed:
        return f"{names} {'has' if one else 'have'} no result"
    if trust is Trust.UNKNOWN:
        return f"of {names} it {trust.value}"
    return f"{names} {'is' if one else 'are'} {trust.value}"


def _wrong(comparison: Fits, name: str, verdict: Verdict) -> str:
    """Return what a method gets wrong at worst; of a sampler, how well its means are known."""
    if verdict.errors is not None:
        return str(verdict.errors)
    fit = comparison[name]
    if fit.stated_error is not None and verdict.trust in GOOD:
        if none_settled(fit):
            return "there are no means and sds: take medians and intervals"
        aside = ", where there are any," if unsettled(fit) else ""
        return f"its means and sds{aside} are known to {fit.stated_error:.2g} of its sds"
    if not (fit.has_result and fit.is_sampler):
        return ""
    return attempt(lambda: _known_to(fit, comparison), lambda _: "")


def _known_to(fit: Fit, comparison: Fits) -> str:
    """Return the largest Monte Carlo error of a sampler's means, in its own sds."""
    lost = list(comparison.unsettled)
    gone = {*comparison.constants(), *lost}
    with np.errstate(divide="ignore", invalid="ignore"):
        errors = fit.flat(fit.mcse()) / fit.flat(fit.sd())
    known = {
        label: float(error)
        for label, error in zip(fit.labels(), errors, strict=True)
        if label not in gone and np.isfinite(error)
    }
    if not known:
        return ""
    worst = max(known, key=known.__getitem__)
    error = f"its means are known to {known[worst]:.2g} of its sds (Monte Carlo error, at {worst})"
    if not lost:
        return error
    names = lost if len(lost) <= 3 else [*lost[:3], f"{len(lost) - 3} more"]
    return f"{error}, but of {listed(names)} only quantiles are"


def _use(best: Standing, itself: str, *, alone: bool) -> str:
    """Return the answer where there is a method to use."""
    seconds = _taking(best.seconds)
    by = f" {best.errors.by}" if best.errors is not None else ""
    wrong = f"; {best.wrong}" if best.wrong else ""
    if best.trust is Trust.TRUSTWORTHY:
        by = by or f" {itself}"
        return f"Use {best.method}: {best.trust.value}{by}, {seconds}{wrong}."
    what = _what_for(best)
    doubts = f"; {'; '.join(best.verdict.doubts)}" if best.verdict.doubts else ""
    lead = best.method if alone else f"No method here is trustworthy: the best is {best.method},"
    link = " is" if alone else ""
    return f"{lead}{link} usable with care{by}{what}, {seconds}{wrong}{doubts}."


def _what_for(best: Standing) -> str:
    """Return what a method is usable for, as a part of a sentence."""
    errors = best.errors
    if errors is None:
        return ""
    if errors.means_right and errors.sds_right:
        return " for means and sds"
    if errors.means_right:
        return " for means, not for sds" if errors.sd_at else " for means, having no sds"
    return " for sds, not for means" if errors.sds_right else " for rough figures"


def _none(comparison: Fits, ranked: list[Standing]) -> str:
    """Return the answer where there is no method to use."""
    untold = [one.method for one in ranked if one.trust is Trust.UNKNOWN]
    wrong = [one.method for one in ranked if one.trust is Trust.UNTRUSTED]
    if not untold and not wrong:
        names = listed([one.method for one in ranked])
        cures = {comparison[one.method].advice.rstrip(".") for one in ranked}
        cure = cures.pop() if len(cures) == 1 else ""
        cure = cure or "the verdicts say why, and what to try"
        has = "has" if len(ranked) == 1 else "have"
        return f"There is no method to use: {names} {has} no result. {_sentence(cure)}."
    but = f"{listed(wrong)} {_are(wrong)} not to be trusted" if wrong else ""
    if untold:
        also = f", and {but}" if but else ""
        lead = f"Which method to use cannot be told: nothing here judges {listed(untold)}{also}"
    else:
        lead = f"Use none of these: {but}"
    cure = _cure(comparison)
    return f"{lead}{'. ' if cure else ''}{cure}."


def _cure(comparison: Fits) -> str:
    """Return what would tell, or do better; empty where nothing is known to."""
    if undeclared := of_kind(comparison.notes, NoteKind.UNDECLARED_LABELS):
        return undeclared[0].rstrip(".")
    if comparison.measures:
        name = comparison.reference_name
        return "" if name in comparison.fits else f"What {name} says of the parameters stands"
    samplers = {name: fit for name, fit in comparison.columns.items() if fit.kind == "nuts"}
    if not samplers:
        if any(fit.kind == "nested" for fit in comparison.columns.values()):
            return "A sampler would tell: add nuts to the methods, or give a reference"
        return (
            "Nested quadrature, where it applies, or a sampler would tell: add nested or nuts to "
            "the methods, or give a reference"
        )
    name, fit = next(iter(samplers.items()))
    why = unfit(fit, comparison.overlooked) or "it is not the reference"
    cure = f". {_sentence(fit.advice.rstrip('.'))}" if fit.advice else ""
    return f"{name} would tell, and does not ({why}){cure}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def _are(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"
