"""Differences from the reference, a mark a parameter."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, SymmetricalLogLocator

from vi_recipes.comparison.figures.marks import MANY, finite, fit_styles, with_result
from vi_recipes.comparison.fits import Fits
from vi_recipes.comparison.view import MEAN_OFF, SD_OFF, heading
from vi_recipes.report import GREY, plain_log_ticks, style

WILD = 10.0
"""Reference sds beyond which differences are drawn on a log scale."""


def accuracy(comparison: Fits) -> Figure | None:
    """Draw every parameter's difference from the reference in its sds, and its ratio of sds."""
    fits = with_result(comparison)
    reference = comparison.reference_name
    others = [name for name in fits if name != reference]
    if reference not in fits or not others:
        return None
    frame = finite(comparison.accuracy().drop(columns="within_error"))
    by_name = {str(name): part for name, part in frame.groupby(level=1, sort=False)}
    others = [n for n in others if n in by_name and by_name[n]["difference"].notna().any()]
    if not others:
        return None
    styles = fit_styles(comparison)
    with style():
        size = (8.6, 0.5 * len(others) + 1.3)
        figure = Figure(figsize=size, layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        left.axvspan(-MEAN_OFF, MEAN_OFF, color="#eeeeee", lw=0)
        right.axvspan(1 / SD_OFF, SD_OFF, color="#eeeeee", lw=0)
        for axes, column, centre in ((left, "difference", 0.0), (right, "sd_ratio", 1.0)):
            axes.axvline(centre, color="black", lw=0.8)
            for row, name in enumerate(others):
                x = by_name[name][column].to_numpy(float)
                jitter = _spread(x.size) * 0.32 if x.size > 1 else np.zeros(1)
                _points(axes, x, row + jitter, styles[name])
        ratios = frame.loc[frame.index.isin(others, level=1), "sd_ratio"].to_numpy(float)
        ratios = ratios[np.isfinite(ratios) & (ratios > 0)]
        if ratios.size:
            low, high = min(ratios.min(), 1 / 1.5) / 1.1, max(ratios.max(), 1.5) * 1.1
            right.set_xscale("log")
            right.set_xlim(low, high)
            plain_log_ticks(right.xaxis, low, high)
        else:
            right.text(
                0.5, 0.5, "only points: no sds", ha="center", transform=right.transAxes, color=GREY
            )
        low, high = _symmetric(frame["difference"].to_numpy(float), at_least=1.0)
        left.set_xlim(low, high)
        scale = ""
        if high > WILD:
            left.set_xscale("symlog", linthresh=1.0)
            left.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1.0))
            left.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            scale = "; log scale beyond ±1"
        left.set(
            xlabel=f"difference of means ({reference} sds{scale})",
            ylim=(len(others) - 0.4, -0.6),
            yticks=range(len(others)),
            yticklabels=[heading(name, comparison) for name in others],
        )
        right.set_xlabel(f"sd over {reference}'s sd (log scale)")
        for axes in (left, right):
            axes.tick_params(axis="y", length=0)
    return figure


# -- scatter ---------------------------------------------------------------------------------


def _points(axes: Axes, x: np.ndarray, y: np.ndarray, style: tuple[str, str]) -> None:
    colour, marker = style
    many = x.size > MANY
    axes.plot(
        x,
        y,
        marker,
        color=colour,
        ms=3 if many else 4.5,
        mfc="none",
        mew=0.8,
        alpha=0.5 if many else 0.75,
        rasterized=x.size > 1_000,
    )


def _symmetric(values: np.ndarray, at_least: float) -> tuple[float, float]:
    values = np.abs(values[np.isfinite(values)])
    limit = 1.08 * max(at_least, float(values.max(initial=0.0)))
    return -limit, limit


def _spread(size: int) -> np.ndarray:
    """Return numbers spread evenly over (-1, 1) whatever the order: the golden-ratio sequence."""
    return 2 * ((np.arange(size) * 0.6180339887) % 1) - 1
