"""What differences of moments come to, in words: thresholds and the sentences made of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
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

    def held(self, why: str) -> Verdict:
        """Return the verdict with a reason, a sentence, for which it is trustworthy no more."""
        trust = Trust.CARE if self.trust is Trust.TRUSTWORTHY else self.trust
        text = self.text
        if trust is not self.trust:
            text = text.replace(self.trust.lead, trust.lead, 1)
        return Verdict(trust, f"{text} {why}.")


@dataclass(frozen=True)
class Measured:
    """What the differences of a fit from a yardstick come to.

    Parameters
    ----------
    trust
        What it is by them alone.
    error
        The largest Monte Carlo error of a difference, in sds, or of a ratio of sds.
    parts
        The differences in words.
    aside
        What else is to be known of them.
    point
        Whether the fit has no spread.
    close
        Whether its means are right beyond Monte Carlo error.
    understates
        Whether an sd is too small by more than what counts as right.
    """

    trust: Trust
    error: float
    parts: tuple[str, ...]
    aside: str = ""
    point: bool = False
    close: bool = False
    understates: bool = False

    @property
    def vouched_for(self) -> bool:
        """Whether the differences are known well enough to vouch for anything."""
        return not self.error > MAX_ERROR

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
            held.insert(0, f"known to {self.error:.2g} sds only")
        if held and trust is Trust.TRUSTWORTHY:
            trust = Trust.CARE
        said = "; ".join((*held, *self.parts)) + source + self.aside
        if self.point:
            lead = "close to the means" if self.close else "not the posterior means"
            return Verdict(trust, f"A point, without spread: {lead}; {said}.")
        less = ", understates uncertainty" if self.understates else ""
        return Verdict(trust, f"{trust.lead} {where}{less}: {said}.")


def measure(rows: pd.DataFrame, yardstick: str, medians: Collection[str] = ()) -> Measured | None:
    """Return what differences come to; ``None`` where nothing can be compared.

    What twice the Monte Carlo error explains is not held against a fit.

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
    excess = (difference.abs() - 2 * errors).clip(lower=0)
    worst = str(excess.idxmax()) if excess.max() > 0 else str(difference.abs().idxmax())
    mean_part = (
        f"means differ by at most {difference.abs().max():.2g} {yardstick} sds "
        f"(beyond Monte Carlo error: {excess.max():.2g}, at {worst})"
    )
    named = [label for label in medians if label in difference.index]
    aside = (
        f"; of {_listed(named)} medians and half-widths of the central 68 % are compared"
        if named
        else ""
    )
    close = bool(excess.max() <= GOOD_MEAN)
    if ratio.empty:
        trust = Trust.UNTRUSTED if excess.max() > POOR_MEAN else Trust.CARE
        error = float(errors.max())
        return Measured(trust, error, (mean_part,), aside, point=True, close=close)
    low, high = ratio.idxmin(), ratio.idxmax()
    sd_part = (
        f"sds are {ratio.min():.2g} ({low}) to {ratio.max():.2g} ({high}) times the {yardstick}'s"
    )
    noise = rows["sd_ratio_mcse"].fillna(0.0).reindex(ratio.index)
    off = np.maximum(ratio - 2 * noise, 1 / (ratio + 2 * noise).clip(lower=1e-300))
    if close and off.max() <= 1 + GOOD_SD:
        trust = Trust.TRUSTWORTHY
    elif excess.max() > POOR_MEAN or off.max() > POOR_SD:
        trust = Trust.UNTRUSTED
    else:
        trust = Trust.CARE
    small = bool((ratio < 1 / (1 + GOOD_SD) - 2 * noise).any())
    return Measured(
        trust,
        float(max(errors.max(), noise.max())),
        (mean_part, sd_part),
        aside,
        close=close,
        understates=small and trust is not Trust.TRUSTWORTHY,
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
