"""What each method gets wrong against what it costs: one small picture."""

from __future__ import annotations

import itertools
import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vi_recipes.comparison.figures.marks import fit_styles
from vi_recipes.comparison.fits import Fits
from vi_recipes.comparison.recommend import Standing, ranked
from vi_recipes.report import GREY, drawn, plain_log_ticks, style
from vi_recipes.trust import GOOD_MEAN, POOR_MEAN

LEAST = 0.01
"""Errors below this are drawn at it: in sds, they are nothing."""

LINE = 0.075
"""Height of a name, as a share of the picture's."""


def merit(comparison: Fits) -> Figure | None:
    """Draw every method's worst error of a mean against its seconds, both on log scales.

    There is no picture where fewer than two methods have an error that is known.
    """
    known = [
        one
        for one in ranked(comparison)
        if one.errors is not None and math.isfinite(one.errors.mean) and one.seconds > 0
    ]
    if len(known) < 2:
        return None
    styles = fit_styles(comparison)
    x = np.array([one.seconds for one in known])
    y = np.array([max(abs(one.errors.mean), LEAST) for one in known if one.errors is not None])
    timed = comparison.timings()["alone_seconds"]
    reference = comparison.reference_name or ""
    beside = float(timed[reference]) if reference in timed.index else math.nan
    ends = np.append(x, beside if beside > 0 else x[0])
    with style():
        figure = Figure(figsize=(4.4, 3.3), layout="constrained")
        axes = figure.subplots()
        axes.set(xscale="log", yscale="log")
        # room on the right for the names
        low, high = ends.min() / 1.5, ends.max() * 1.5 * (ends.max() / ends.min() * 2.0) ** 0.45
        axes.set_xlim(low, high)
        axes.set_ylim(LEAST / 1.6, max(y.max() * 1.8, 1.0))
        bottom, top = axes.get_ylim()
        axes.axhspan(bottom, GOOD_MEAN, color="#e8f3ec", lw=0)
        axes.axhspan(POOR_MEAN, top, color="#fbe9eb", lw=0)
        for edge, said in ((GOOD_MEAN, "right below"), (POOR_MEAN, "wrong above")):
            axes.axhline(edge, color=GREY, lw=0.7, ls=":")
            axes.annotate(
                said,
                (0.0, edge),
                xycoords=("axes fraction", "data"),
                xytext=(3, -3 if edge == GOOD_MEAN else 3),
                textcoords="offset points",
                ha="left",
                va="top" if edge == GOOD_MEAN else "bottom",
                fontsize=7.5,
                color=GREY,
            )
        if beside > 0:
            axes.axvline(beside, color="black", lw=0.8, ls="--")
            axes.annotate(
                drawn(f"{reference}, the reference"),
                (beside, 0.0),
                xycoords=("data", "axes fraction"),
                xytext=(3, 3),
                textcoords="offset points",
                rotation=90,
                va="bottom",
                fontsize=7.5,
            )
        for one, across, up in zip(known, x, y, strict=True):
            colour, marker = styles[one.method]
            axes.plot(across, up, marker, color=colour, ms=6, mec="white", mew=0.5)
        _name(axes, known, x, y)
        plain_log_ticks(axes.xaxis, low, high)
        plain_log_ticks(axes.yaxis, bottom, top)
        axes.set(xlabel="seconds, alone", ylabel="worst error of a mean (sds)")
    return figure


def _name(axes: Axes, known: list[Standing], x: np.ndarray, y: np.ndarray) -> None:
    """Write names beside their marks, moved up or down where they would lie on one another."""
    low, high = np.log(axes.get_ylim())
    height = (np.log(y) - low) / (high - low)
    order = np.argsort(height, kind="stable")
    place = height.copy()
    for before, k in itertools.pairwise(order):
        place[k] = max(place[k], place[before] + LINE)
    ceiling = 1.0 - LINE / 2
    for k in order[::-1]:  # no higher than the picture
        place[k] = min(place[k], ceiling)
        ceiling = place[k] - LINE
    for k, one in enumerate(known):
        up = math.exp(low + place[k] * (high - low))
        axes.annotate(
            drawn(one.method),
            (x[k], y[k]),
            xytext=(x.max() * 1.25, up),
            textcoords="data",
            va="center",
            fontsize=8,
            arrowprops={"arrowstyle": "-", "color": "#b5b5b5", "lw": 0.6, "shrinkB": 4},
        )
