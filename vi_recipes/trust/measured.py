"""What differences of moments come to, in words: thresholds and the sentences made of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

GOOD_MEAN = 0.1
"""Posterior sds that a mean may be off and still be called right."""
POOR_MEAN = 0.5
GOOD_SD = 0.1
"""Relative error of an sd that is still called right."""
POOR_SD = 2.0
MAX_ERROR = 0.1
"""Monte Carlo error, in sds or relative of an sd, of a comparison that can vouch for a fit."""


def _at_most(difference: float) -> str:
    """Return a bound on a difference in sds, which is not told below 0.001."""
    return f"{max(abs(difference), 1e-3) if difference else 0.0:.2g}"


def _whose(yardstick: str) -> str:
    """Return what a yardstick's Monte Carlo error is that of."""
    return "the weights" if yardstick == "posterior" else f"the {yardstick}"


class Trust(Enum):
    """What a verdict comes to. The value is how it is put."""

    TRUSTWORTHY = "trustworthy"
    CARE = "usable with care"
    UNTRUSTED = "not to be trusted"
    UNKNOWN = "cannot be told"
    NO_RESULT = "no result"

    @property
    def lead(self) -> str:
        """How a sentence begins with it."""
        return f"{self.value[0].upper()}{self.value[1:]}"


@dataclass(frozen=True)
class Errors:
    """What a fit gets wrong at worst, by a yardstick.

    Parameters
    ----------
    yardstick
        Whose sds are the unit, as one word.
    mean, mean_at
        The difference of means, in the yardstick's sds, that is farthest beyond twice the
        yardstick's Monte Carlo error, or the largest where none is beyond; and its scalar.
    sd_ratio, sd_at
        The same of sds over the yardstick's, by how far they are from 1; ``None`` for a point.
    known_to
        The largest Monte Carlo error of a difference, in sds, or of a ratio of sds: that of the
        yardstick and of the fit.
    means_right, sds_right
        Whether all means, and all sds, are right beyond the yardstick's Monte Carlo error.
    within_error
        Whether nothing is wrong beyond the yardstick's Monte Carlo error.
    medians
        Scalars of which medians and half-widths of the central 68 % are compared.
    by
        What says so, as a part of a sentence: ``"by the reference"``.
    """

    yardstick: str
    mean: float
    mean_at: str
    sd_ratio: float | None
    sd_at: str
    known_to: float
    means_right: bool
    sds_right: bool
    within_error: bool
    medians: tuple[str, ...] = ()
    by: str = ""

    def __str__(self) -> str:
        """Return it as a part of a sentence on the fit."""
        aside = ""
        if self.within_error:
            aside = f" (all within Monte Carlo error of {_whose(self.yardstick)})"
        elif self.known_to > GOOD_MEAN:
            aside = f" (Monte Carlo error up to {self.known_to:.2g})"
        centre = "median" if self.mean_at in self.medians else "mean"
        less = "less than " if 0 < abs(self.mean) < 1e-3 else ""
        off = f"{less}{_at_most(self.mean)} {self.yardstick} sds off"
        said = f"at worst its {centre} of {self.mean_at} is {off}"
        if self.sd_at:
            spread = "half-width" if self.sd_at in self.medians else "sd"
            ratio = f"{self.sd_ratio:.2g}"
            ratio += ".0" if len(ratio) == 1 else ""  # about as large is no single time
            times = f"{ratio} times the {self.yardstick}'s"
            said += f" and its {spread} of {self.sd_at} {times}"
        return f"{said}{aside}"


@dataclass(frozen=True)
class Verdict:
    """How far a fit can be trusted.

    Parameters
    ----------
    trust
        What it comes to.
    text
        The same in a sentence or two, with the evidence.
    errors
        What it gets wrong at worst, where something measures it.
    doubts
        What else keeps it from being trustworthy, each as a part of a sentence.
    """

    trust: Trust
    text: str
    errors: Errors | None = None
    doubts: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.text

    @property
    def capped(self) -> Verdict:
        """The verdict, trustworthy no more."""
        if self.trust is not Trust.TRUSTWORTHY:
            return self
        text = self.text.replace(self.trust.lead, Trust.CARE.lead, 1)
        return replace(self, trust=Trust.CARE, text=text)

    def held(self, why: str) -> Verdict:
        """Return the verdict with a reason, a sentence, for which it is trustworthy no more."""
        held = self.capped
        doubt = f"{why[:1].lower()}{why[1:]}"
        return replace(held, text=f"{held.text} {why}.", doubts=(*held.doubts, doubt))


@dataclass(frozen=True)
class Measured:
    """What the differences of a fit from a yardstick come to.

    Parameters
    ----------
    trust
        What it is by them alone.
    errors
        The worst of them.
    parts
        The differences in words.
    aside
        What else is to be known of them.
    understates
        Whether an sd is too small by more than what counts as right.
    outright
        Whether all is right with no Monte Carlo error allowed for.
    """

    trust: Trust
    errors: Errors
    parts: tuple[str, ...]
    aside: str = ""
    understates: bool = False
    outright: bool = False

    @property
    def vouched_for(self) -> bool:
        """Whether the differences are known well enough to vouch for anything."""
        return not self.errors.known_to > MAX_ERROR

    def verdict(self, where: str, *, doubts: Sequence[str] = (), source: str = "") -> Verdict:
        """Return the verdict.

        Parameters
        ----------
        where
            By what it is judged, such as ``"by the reference"``.
        doubts
            What keeps the fit from being trustworthy, each as a part of the sentence.
        source
            How the yardstick was come by, behind the differences.
        """
        held, trust = list(doubts), self.trust
        if not self.vouched_for:
            held.insert(0, f"known to {self.errors.known_to:.2g} sds only")
        if held and trust is Trust.TRUSTWORTHY:
            trust = Trust.CARE
        said = "; ".join((*held, *self.parts)) + source + self.aside
        errors = replace(self.errors, by=where)
        if not errors.sd_at:
            lead = "close to the means" if errors.means_right else "not the posterior means"
            text = f"A point, without spread: {lead}; {said}."
        else:
            less = ", understates uncertainty" if self.understates else ""
            text = f"{trust.lead} {where}{less}: {said}."
        return Verdict(trust, text, errors, tuple(held))


def measure(rows: pd.DataFrame, yardstick: str, medians: Collection[str] = ()) -> Measured | None:
    """Return what differences come to; ``None`` where nothing can be compared.

    What twice the yardstick's Monte Carlo error explains is not held against a fit. Its own is:
    what a fit says is what is used, however it came to be off.

    Parameters
    ----------
    rows
        From :func:`vi_recipes.fit.differences`, of one fit.
    yardstick
        Whose sds are the unit, as one word.
    medians
        Scalars without a mean or sd, of which medians and half-widths are compared.
    """
    difference, ratio = rows["difference"].dropna(), rows["sd_ratio"].dropna()
    if difference.empty:
        return None
    errors = rows["difference_mcse"].fillna(0.0).reindex(difference.index)
    theirs = rows["reference_mcse"].fillna(0.0).reindex(difference.index)
    excess = (difference.abs() - 2 * theirs).clip(lower=0)
    worst = str(excess.idxmax()) if excess.max() > 0 else str(difference.abs().idxmax())
    mean_part = (
        f"means differ by at most {_at_most(difference.abs().max())} {yardstick} sds "
        f"(beyond Monte Carlo error of {_whose(yardstick)}: {_at_most(excess.max())}, at {worst})"
    )
    named = [label for label in medians if label in difference.index]
    aside = (
        f"; of {_listed(named)} medians and half-widths of the central 68 % are compared"
        if named
        else ""
    )
    close = bool(excess.max() <= GOOD_MEAN)
    off_by = Errors(
        yardstick,
        float(difference[worst]),
        worst,
        None,
        "",
        float(errors.max()),
        means_right=close,
        sds_right=False,
        within_error=bool(excess.max() == 0),
        medians=tuple(named),
    )
    if ratio.empty:
        trust = Trust.UNTRUSTED if excess.max() > POOR_MEAN else Trust.CARE
        return Measured(trust, off_by, (mean_part,), aside)
    low, high = ratio.idxmin(), ratio.idxmax()
    sd_part = (
        f"sds are {ratio.min():.2g} ({low}) to {ratio.max():.2g} ({high}) times the {yardstick}'s"
    )
    noise = rows["sd_ratio_mcse"].fillna(0.0).reindex(ratio.index)
    of_theirs = rows["reference_sd_mcse"].fillna(0.0).reindex(ratio.index)
    off = np.maximum(ratio - 2 * of_theirs, 1 / (ratio + 2 * of_theirs).clip(lower=1e-300))
    alike = bool(off.max() <= 1 + GOOD_SD)
    if close and alike:
        trust = Trust.TRUSTWORTHY
    elif excess.max() > POOR_MEAN or off.max() > POOR_SD:
        trust = Trust.UNTRUSTED
    else:
        trust = Trust.CARE
    plain = np.maximum(ratio, 1 / ratio.clip(lower=1e-300))
    label = str(ratio.index[int(np.argmax(off if off.max() > 1 else plain))])
    small = bool((ratio < 1 / (1 + GOOD_SD) - 2 * of_theirs).any())
    off_by = replace(
        off_by,
        sd_ratio=float(ratio[label]),
        sd_at=label,
        known_to=float(max(errors.max(), noise.max())),
        sds_right=alike,
        within_error=off_by.within_error and bool(off.max() <= 1),
    )
    return Measured(
        trust,
        off_by,
        (mean_part, sd_part),
        aside,
        understates=small and trust is not Trust.TRUSTWORTHY,
        outright=bool(difference.abs().max() <= GOOD_MEAN and plain.max() <= 1 + GOOD_SD),
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
