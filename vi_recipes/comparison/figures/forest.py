"""Forest plots: every scalar with its interval, fit by fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vi_recipes.comparison.figures.marks import (
    FAR_OUT,
    MAX_ROWS,
    finite,
    fit_styles,
    handle,
    say_left_out,
    with_result,
)
from vi_recipes.comparison.fits import Fits
from vi_recipes.comparison.view import all_fits, heading, member_sites, population_sites, select
from vi_recipes.fit import Fit
from vi_recipes.report import GREY, shorten, style

LEGIBLE = 1 / 25
"""A forest plot's intervals span at least this share of their axis; else they get another."""


# -- figures ---------------------------------------------------------------------------------


def forest(comparison: Fits) -> Figure | None:
    """Draw mean ± 2 sd by parameter, the methods one below the other; points have no bar.

    It is of the population's parameters where there are some: members have a figure of their own.
    """
    fits = with_result(comparison)
    labels, left_out = select(comparison, MAX_ROWS, population_sites(comparison) or None)
    if not fits or not labels:
        return None
    constants = set(comparison.constants())
    labels = [label for label in labels if label not in constants]
    mean = finite(comparison.centres()).loc[labels, list(fits)].dropna(how="all")
    sd = finite(comparison.spreads()).loc[mean.index, list(fits)]
    if mean.empty:
        return None
    labels = [str(label) for label in mean.index]
    mean, beyond = _points_into_view(mean, sd)
    panels = _panels(mean.to_numpy(float), sd.to_numpy(float), _owners(comparison, labels))
    styles = fit_styles(comparison)
    row_height = 0.095 * len(fits) + 0.11
    heights = [len(rows) * row_height + 0.1 for rows in panels]
    with style():
        size = (7.6, sum(heights) + 0.42 * len(panels) + 0.75)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, rows in zip(grid, panels, strict=True):
            _forest_panel(axes, mean.iloc[rows], sd.iloc[rows], fits, styles)
            for place, row in enumerate(rows):
                for name, value in beyond.get(str(mean.index[row]), {}).items():
                    _say_value(axes, float(mean[name].iloc[row]), place, name, value, list(fits))
        said = "mean ± 2 sd; a point estimate has no bar"
        if named := [label for label in comparison.unsettled if label in labels]:
            said += f"\n{', '.join(named[:3])}: median ± 2 half-widths of the central 68 %"
        grid[-1].set_xlabel(said)
        say_left_out(figure, left_out)
        figure.legend(
            handles=[handle(heading(n, comparison), styles[n]) for n in fits],
            loc="outside lower center",
            ncols=min(len(fits), 5),
        )
    return figure


# -- forest ----------------------------------------------------------------------------------


def _owners(comparison: Fits, labels: Sequence[str]) -> list[str]:
    """Return for each label the site of members it belongs to; "" for the population's."""
    fit = next(f for f in all_fits(comparison).values() if f.sites)
    owner = {label: name for name in member_sites(comparison) for label in fit.labels([name])}
    return [owner.get(label, "") for label in labels]


def _points_into_view(
    mean: pd.DataFrame, sd: pd.DataFrame
) -> tuple[pd.DataFrame, dict[str, dict[str, float]]]:
    """Move points without an sd that lie far from all intervals near them; return their values."""
    low = (mean - 2 * sd).min(axis=1)
    high = (mean + 2 * sd).max(axis=1)
    room = FAR_OUT * (high - low)
    moved, beyond = mean.copy(), dict[str, dict[str, float]]()
    for name in mean.columns:
        far = sd[name].isna() & ((mean[name] > high + room) | (mean[name] < low - room))
        edge = np.where(mean[name] > high, high + 0.1 * (high - low), low - 0.1 * (high - low))
        moved[name] = mean[name].where(~far, edge)
        for label in mean.index[far]:
            beyond.setdefault(str(label), {})[name] = float(mean.loc[label, name])
    return moved, beyond


def _say_value(
    axes: Axes, x: float, row: int, name: str, value: float, names: Sequence[str]
) -> None:
    """Write the value of a point that is far outside beside where it is drawn."""
    offsets = np.linspace(-0.34, 0.34, len(names)) if len(names) > 1 else np.zeros(1)
    axes.annotate(
        f"{value:.4g}, far outside",
        (x, row + offsets[list(names).index(name)]),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        color=GREY,
        fontsize=7,
        annotation_clip=False,
    )


def _panels(mean: np.ndarray, sd: np.ndarray, owners: Sequence[str]) -> list[list[int]]:
    """Group rows of one owner so that on each group's axis every interval is wide enough to see."""
    spread = 2 * np.nan_to_num(sd)
    lows = np.nanmin(np.where(np.isnan(mean), np.inf, mean - spread), axis=1)
    highs = np.nanmax(np.where(np.isnan(mean), -np.inf, mean + spread), axis=1)
    widths = highs - lows
    panels: list[list[int]] = []
    for row in range(len(mean)):
        for panel in panels:
            if owners[panel[0]] != owners[row]:
                continue
            rows = [*panel, row]
            span = highs[rows].max() - lows[rows].min()
            if not np.isfinite(span) or widths[rows].min() >= LEGIBLE * span:
                panel.append(row)
                break
        else:
            panels.append([row])
    return panels


def _forest_panel(
    axes: Axes,
    mean: pd.DataFrame,
    sd: pd.DataFrame,
    fits: Mapping[str, Fit],
    styles: Mapping[str, tuple[str, str]],
) -> None:
    offsets = np.linspace(-0.34, 0.34, len(fits)) if len(fits) > 1 else np.zeros(1)
    rows = np.arange(len(mean))
    for row in rows[::2]:
        axes.axhspan(row - 0.5, row + 0.5, color="#f4f4f4", lw=0)
    for offset, name in zip(offsets, fits, strict=True):
        colour, marker = styles[name]
        x, s = mean[name].to_numpy(float), sd[name].to_numpy(float)
        axes.hlines(rows + offset, x - 2 * s, x + 2 * s, color=colour, lw=1.3)
        point = np.isnan(s)
        axes.plot(x[~point], (rows + offset)[~point], marker, color=colour, ms=3.6)
        axes.plot(x[point], (rows + offset)[point], marker, color=colour, ms=5, mfc="white")
    axes.set(
        ylim=(len(mean) - 0.5, -0.5),
        yticks=rows,
        yticklabels=[shorten(str(label), 26) for label in mean.index],
    )
    axes.tick_params(axis="y", length=0, labelsize=8.5)
    axes.xaxis.set_major_locator(MaxNLocator(7))
