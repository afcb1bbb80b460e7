"""What the tables and figures of a comparison show: fits, rows, blocks, flags."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from vi_recipes.comparison.fits import Fits
from vi_recipes.core import Status
from vi_recipes.fit import Fit, population
from vi_recipes.report import Flag

type Column = Mapping[str, float]
"""Row -> number."""


MEAN_OFF = 0.5
"""A mean this many reference sds from the reference's is flagged."""


SD_OFF = 1.25
"""An sd that differs from the reference's by more than this factor, up or down, is flagged."""


ROOM = 30
"""Scalars of a parameter of the population that pages and figures have room for among the others:
a longer one, such as a field, is shown where members are."""


# -- which fits, which parameters ----------------------------------------------------------------


def all_fits(comparison: Fits) -> dict[str, Fit]:
    """Return every fit by name, the reference first."""
    fits = comparison.columns
    return {name: fits[name] for name in reference_first(fits, comparison)}


def heading(name: str, comparison: Fits) -> str:
    """Return a method's name, marked where its numbers are provisional."""
    fit = all_fits(comparison)[name]
    return f"{name}†" if fit.has_result and fit.status is not Status.OK else name


def order(comparison: Fits, sites: Sequence[str] | None = None) -> list[str]:
    """Return the sites with those of the population first, and of these the small ones."""
    first, size = set(population_sites(comparison)), sizes(comparison)
    named = [name for name in size if sites is None or name in sites]
    return sorted(named, key=lambda name: (name not in first, size[name]))


def select(
    comparison: Fits, limit: int | None = None, sites: Sequence[str] | None = None
) -> tuple[list[str], int]:
    """Return the labels of the parameters to show, and how many are left out.

    Those of the population come first, of them the small ones, in the model's order among equals;
    then as much of the rest as fits.
    Every table and every figure shows the parameters that this function picks.

    Parameters
    ----------
    comparison
        Whose parameters.
    limit
        How many at most; ``None`` for all.
    sites
        Only these.
    """
    names = order(comparison, sites)
    fit = next((f for f in all_fits(comparison).values() if f.sites), None)
    labels = fit.labels(names) if fit is not None and names else []
    shown = labels if limit is None else labels[:limit]
    return shown, len(labels) - len(shown)


def sizes(comparison: Fits) -> dict[str, int]:
    """Return site -> how many scalars it has; nothing where no fit knows."""
    fit = next((f for f in all_fits(comparison).values() if f.sites), None)
    return {site.name: site.size for site in fit.sites} if fit is not None else {}


def population_sites(comparison: Fits) -> list[str]:
    """Return the parameters of the population that there is room for, the small ones first."""
    fit = next((f for f in all_fits(comparison).values() if f.sites), None)
    known = {site.name: site.size for site in fit.sites} if fit is not None else {}
    named = population(fit.sites) if fit is not None else []
    return sorted((name for name in named if known[name] <= ROOM), key=known.__getitem__)


def member_sites(comparison: Fits) -> list[str]:
    """Return the sites of members, and those too long to stand among others, in their order."""
    first = population_sites(comparison)
    return [name for name in order(comparison) if name not in first]


def block(comparison: Fits, limit: int) -> list[str]:
    """Return the first sites in their order whose joint covariance has at most ``limit`` rows."""
    size = sizes(comparison)
    chosen: list[str] = []
    total = 0
    for name in order(comparison):
        total += size[name]
        if total > limit:
            break
        chosen.append(name)
    return chosen


# -- parts -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judgement:
    """How one scalar of a fit compares with the reference's (see :meth:`Fits.accuracy`).

    It has no flags where the reference is one that nobody can be measured by.
    """

    within_error: bool
    difference: float
    difference_mcse: float
    sd_ratio: float
    sd_ratio_mcse: float
    held: bool

    @property
    def mean_flag(self) -> Flag:
        """How its mean is shown."""
        if not self.held:
            return ""
        if self.within_error:
            return "inside"
        return "off" if abs(self.difference) > MEAN_OFF else ""

    @property
    def sd_flag(self) -> Flag:
        """How its sd is shown."""
        if not self.held:
            return ""
        if not self.sd_ratio > 0:
            return "off" if self.sd_ratio == 0 else ""
        if abs(self.sd_ratio - 1) <= 2 * self.sd_ratio_mcse:
            return "inside"
        return "off" if max(self.sd_ratio, 1 / self.sd_ratio) > SD_OFF else ""


NO_JUDGEMENT = Judgement(False, math.nan, math.nan, math.nan, math.nan, held=False)
"""Of a scalar that one of the two lacks."""


def judgements(comparison: Fits) -> Mapping[tuple[str, str], Judgement]:
    """Return (label, fit) -> how they compare; nothing without a reference."""
    return comparison.once("judgements", lambda: _judge(comparison))


def _judge(comparison: Fits) -> dict[tuple[str, str], Judgement]:
    if comparison.reference is None:
        return {}
    frame, held = comparison.accuracy(), comparison.measures
    fields = ("difference", "difference_mcse", "sd_ratio", "sd_ratio_mcse")
    numbers = frame[list(fields)].to_numpy(float).tolist()
    within = frame["within_error"].to_numpy(bool).tolist()
    return {
        (str(label), str(name)): Judgement(inside, away, error, ratio, ratio_error, held)
        for (label, name), inside, (away, error, ratio, ratio_error) in zip(
            frame.index, within, numbers, strict=True
        )
        if name != comparison.reference_name
    }


def numbers(comparison: Fits, what: Callable[[Fits], pd.DataFrame]) -> Mapping[str, Column]:
    """Return column -> row -> number of one of the comparison's frames; what is none is NaN."""
    return comparison.once(("numbers", what), lambda: _numbers(what(comparison)))


def _numbers(frame: pd.DataFrame) -> dict[str, Column]:
    rows = [str(label) for label in frame.index]
    values = frame.apply(pd.to_numeric, errors="coerce")
    return {
        str(name): dict(zip(rows, map(float, column), strict=True))
        for name, column in values.items()
    }


def reference_first(names: Iterable[Any], comparison: Fits) -> list[str]:
    """Return names of fits with that of the reference in front."""
    listed = [str(name) for name in names]
    return sorted(listed, key=lambda name: name != comparison.reference_name)


def flags_note(comparison: Fits) -> str:
    """Return what the flags mean, for the notes of tables; nothing where there are none."""
    if not comparison.measures:
        return ""
    return (
        "Marked ~ or grey: inside Monte Carlo error, |difference| at most 2 standard errors. "
        f"Marked * or red: a mean more than {MEAN_OFF} reference sds off, or an sd off by more "
        f"than a factor {SD_OFF}"
    )
