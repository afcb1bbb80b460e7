"""A calibration as figures: ECDF differences with their band, ranks, and ranks beside their mirror.

Figures are made without ``pyplot``, so a caller's open figures and style are left alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import binom

from vi_recipes.calibration.ranked import Ranked, RankJudgement
from vi_recipes.calibration.ranks import LOG_LIKELIHOOD
from vi_recipes.calibration.uniformity import LEVEL, centres
from vi_recipes.report import COLOURS, GREY, Exhibit, shorten, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_PANELS = 12
"""Quantities in a figure."""

COLUMNS = 4

PER_BIN = 10
"""Ranks expected in a bin of a histogram, at least."""

MAX_BINS = 20


def draw(calibration: Ranked) -> list[Exhibit]:
    """Return the figures; none where no fit has a result."""
    if not calibration.judgements:
        return []
    shown = select(calibration)
    left_out = len(calibration.judgements) - len(shown)
    more = f" {left_out} more, with larger p-values, are not drawn." if left_out else ""
    figures: dict[str, tuple[Callable[..., Figure], str, str]] = {
        "ecdf": (
            ecdf_differences,
            "ECDF of ranks less the uniform distribution's",
            "Exact draws stay within the grey band, at all points at once, in 95 % of "
            "calibrations, one quantity each. An S that is first above and then below 0: draws "
            "too narrow; first below, then above: too wide; all below 0: draws lie below the "
            "truth; all above: above it. Orange: outside." + more,
        ),
        "ranks": (
            rank_histograms,
            "Ranks of the truth among the draws",
            "The grey band holds each bar by itself in 95 % of calibrations of exact draws. A U: "
            "too narrow; a hump: too wide; a slope: shifted." + more,
        ),
        "symmetry": (
            symmetry,
            "Probability of less than the truth, beside its mirror image",
            "Yao et al. (2018): where the distribution of p = P(theta < truth) differs from that "
            "of 1 - p, the mean is biased, whatever the spread. Above each panel: the p-value of "
            "their largest difference." + more,
        ),
    }
    return [
        Exhibit(name=name, title=title, caption=caption, content=function(calibration, shown))
        for name, (function, title, caption) in figures.items()
    ]


def select(calibration: Ranked) -> list[int]:
    """Return the quantities to draw: all, or the log likelihood and those with the least p."""
    judged = calibration.judgements
    if len(judged) <= MAX_PANELS:
        return list(range(len(judged)))
    by_p = sorted(
        range(len(judged)),
        key=lambda i: (judged[i].label != LOG_LIKELIHOOD, judged[i].p_value),
    )
    return sorted(by_p[:MAX_PANELS])


def ecdf_differences(calibration: Ranked, shown: list[int]) -> Figure:
    """Draw every quantity's ECDF of ranks minus the uniform one, within its simultaneous band."""
    band = calibration.band
    lower, upper = (np.concatenate([[0.0], edge, [0.0]]) for edge in band.limits)
    points = np.concatenate([[0.0], band.points, [1.0]])

    def panel(axes: Axes, judged: RankJudgement, ranks: np.ndarray) -> None:
        difference = np.concatenate([[0.0], band.difference(ranks), [0.0]])
        axes.fill_between(points, lower, upper, color=GREY, alpha=0.2, lw=0)
        axes.axhline(0, color=GREY, lw=0.6)
        axes.plot(points, difference, color=_colour(judged), lw=1.3)

    return _panels(calibration, shown, panel, "rank, as a share of the draws", share_y=True)


def rank_histograms(calibration: Ranked, shown: list[int]) -> Figure:
    """Draw histograms of ranks, with the interval that holds one bar."""
    num_bins, edges = _bins(calibration)
    n = len(calibration.ranks)
    widths = np.diff(np.searchsorted(np.arange(calibration.num_draws + 1), edges))
    shares = widths / (calibration.num_draws + 1)
    low, high = binom.interval(LEVEL, n, shares)
    places = np.linspace(0, 1, num_bins + 1)

    def panel(axes: Axes, judged: RankJudgement, ranks: np.ndarray) -> None:
        counts, _ = np.histogram(ranks, edges)
        axes.stairs(high, places, baseline=low, fill=True, color=GREY, alpha=0.2)
        axes.stairs(counts, places, fill=True, color=_colour(judged), alpha=0.55)

    return _panels(calibration, shown, panel, "rank, as a share of the draws", share_y=True)


def symmetry(calibration: Ranked, shown: list[int]) -> Figure:
    """Draw the histogram of p = P(theta < truth) over that of 1 - p."""
    num_bins, _ = _bins(calibration)
    places = np.linspace(0, 1, num_bins + 1)

    def panel(axes: Axes, judged: RankJudgement, ranks: np.ndarray) -> None:
        p = centres(ranks, calibration.num_draws)
        colour = COLOURS[1] if judged.symmetry < 1 - LEVEL else COLOURS[0]
        axes.stairs(np.histogram(p, places)[0], places, fill=True, color=colour, alpha=0.55)
        axes.stairs(np.histogram(1 - p, places)[0], places, color="black", lw=1)
        axes.set_title(f"{shorten(judged.label, 24)}: {judged.symmetry:.2g}", fontsize=9)

    return _panels(calibration, shown, panel, "p (filled) and 1 - p (line)", share_y=True)


def _panels(
    calibration: Ranked,
    shown: list[int],
    panel: Callable[[Axes, RankJudgement, np.ndarray], None],
    xlabel: str,
    *,
    share_y: bool,
) -> Figure:
    columns = min(COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    with style():
        figure = Figure(figsize=(2.3 * columns + 0.6, 1.75 * rows + 0.5), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=share_y).ravel()
        for axes, i in zip(grid, shown, strict=False):
            judged = calibration.judgements[i]
            axes.set_title(shorten(judged.label, 30), fontsize=9)
            panel(axes, judged, calibration.ranks[:, i])
            axes.set_xlim(0, 1)
        for axes in grid[len(shown) :]:
            axes.remove()
        for axes in grid[max(len(shown) - columns, 0) : len(shown)]:
            axes.xaxis.set_tick_params(labelbottom=True)
        figure.supxlabel(xlabel, fontsize=9)
    return figure


def _bins(calibration: Ranked) -> tuple[int, np.ndarray]:
    """Return the number of bins, and their edges among the ranks, none of which lies on one."""
    n, ranks = len(calibration.ranks), calibration.num_draws + 1
    num_bins = int(np.clip(n // PER_BIN, 2, min(MAX_BINS, ranks)))
    return num_bins, np.round(np.linspace(0, ranks, num_bins + 1)) - 0.5


def _colour(judged: RankJudgement) -> str:
    return COLOURS[1] if judged.outside else COLOURS[0]
