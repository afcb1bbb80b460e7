"""Members of groups: a panel a method, all with the same limits, over the reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vi_recipes.comparison.figures.marks import FAR_OUT, finite, fit_styles, with_result
from vi_recipes.comparison.fits import Fits
from vi_recipes.comparison.view import heading, member_sites, sizes
from vi_recipes.report import GREY, shorten, style, text_width

FEW = 12
"""Members of a site that are drawn at first: those on which methods differ most."""

ALL = 120
"""Members of a site that a figure of all of them has at most."""

MAX_SITES = 3
"""Sites that are drawn, the short ones first."""

PER_ROW = 5
"""Panels side by side, at most."""

ABOVE, BELOW, BESIDE = 0.28, 0.24, 0.13
"""Inches above a panel, for its title; below it, for numbers; and to its right."""

SIZE = 7.5
"""Of names and numbers, in points."""


def few_members(comparison: Fits) -> Figure | None:
    """Draw the members of each site on which methods differ most, sorted."""
    return _draw(comparison, FEW)


def all_members(comparison: Fits) -> Figure | None:
    """Draw all members, sorted; nothing where few of them are all or too many."""
    size = sizes(comparison)
    if not any(FEW < size[name] <= ALL for name in _sites(comparison)):
        return None
    return _draw(comparison, ALL)


def _sites(comparison: Fits) -> list[str]:
    return member_sites(comparison)[:MAX_SITES]


def _draw(comparison: Fits, most: int) -> Figure | None:
    fits = with_result(comparison)
    reference = comparison.reference_name if comparison.reference_name in fits else None
    constants = set(comparison.constants())
    mean, sd = finite(comparison.centres()), finite(comparison.spreads())
    first = next(iter(fits.values()), None)
    if first is None:
        return None
    groups: list[tuple[str, list[str], int]] = []
    for name in _sites(comparison):
        labels = [label for label in first.labels([name]) if label not in constants]
        labels = list(mean.loc[labels, list(fits)].dropna(how="all").index)
        if labels and (most == FEW or len(labels) <= ALL):
            chosen = _chosen(mean.loc[labels], sd.loc[labels], list(fits), reference, most)
            groups.append((name, chosen, len(labels)))
    if not groups:
        return None
    shown = [name for name in fits if name != reference] or list(fits)
    down = math.ceil(len(shown) / PER_ROW)
    across = math.ceil(len(shown) / down)
    styles = fit_styles(comparison)
    with style():
        # laid out here, in inches: Matplotlib takes as long for it as for drawing
        names = [[shorten(label, 24) for label in labels] for _, labels, _ in groups]
        heads = [
            f"{len(labels)} of {total} of {shorten(name, 24)}" if total > len(labels) else ""
            for name, labels, total in groups
        ]
        room = text_width(chain(heads, *names), SIZE) + 0.12
        heights = [0.145 * len(labels) + 0.2 for _, labels, _ in groups]
        width, height = 7.6, down * (sum(heights) + len(groups) * (ABOVE + BELOW))
        figure = Figure(figsize=(width, height))
        panel = (width - room) / across
        top = height
        for (_, labels, _), head, rows, tall in zip(groups, heads, names, heights, strict=True):
            limits = _limits(mean.loc[labels, list(fits)], sd.loc[labels, list(fits)])
            for k, one in enumerate(shown):
                if k % across == 0:
                    top -= ABOVE + tall + BELOW
                place = (room + (k % across) * panel, top + BELOW, panel - BESIDE, tall)
                w, h = width, height
                axes = figure.add_axes((place[0] / w, place[1] / h, place[2] / w, place[3] / h))
                if reference is not None and one != reference:
                    _intervals(axes, mean.loc[labels, reference], sd.loc[labels, reference])
                colour, marker = styles[one]
                _marks(axes, mean.loc[labels, one], sd.loc[labels, one], colour, marker, limits)
                axes.set_title(heading(one, comparison), fontsize=8.5)
                axes.set(xlim=limits, ylim=(len(labels) - 0.4, -0.6), yticks=[])
                axes.tick_params(axis="x", labelsize=SIZE)
                axes.xaxis.set_major_locator(MaxNLocator(3))
                if k % across == 0:  # ticks are slow to draw
                    beside: dict[str, Any] = {
                        "transform": axes.get_yaxis_transform(),
                        "size": SIZE,
                        "ha": "right",
                    }
                    for row, text in enumerate(rows):
                        axes.text(-0.07 / place[2], row, text, va="center_baseline", **beside)
                if k == 0 and head:
                    axes.text(-0.07 / place[2], -0.75, head, color=GREY, va="bottom", **beside)
    return figure


def _chosen(
    mean: pd.DataFrame, sd: pd.DataFrame, names: Sequence[str], reference: str | None, most: int
) -> list[str]:
    """Return the labels to draw, by the reference's means, or the median of the methods'."""
    centre = mean[reference] if reference is not None else mean[list(names)].median(axis=1)
    if len(mean) > most:
        scale = sd[reference] if reference is not None else sd[list(names)].median(axis=1)
        away = mean[list(names)].sub(centre, axis=0).abs().div(scale, axis=0).to_numpy(float)
        size = np.where(np.isfinite(away), away, 0.0).max(axis=1)
        centre = centre.iloc[np.argsort(-size, kind="stable")[:most]]
    return [str(label) for label in centre.sort_values(kind="stable", ascending=False).index]


def _limits(mean: pd.DataFrame, sd: pd.DataFrame) -> tuple[float, float]:
    """Return the ends of the axis: those of all intervals, and points that are not far outside."""
    x, s = mean.to_numpy(float), sd.to_numpy(float)
    ends = np.concatenate([(x - 2 * s).ravel(), (x + 2 * s).ravel()])
    ends = ends[np.isfinite(ends)] if np.isfinite(ends).any() else x[np.isfinite(x)]
    low, high = float(ends.min()), float(ends.max())
    far = FAR_OUT * (high - low)
    points = x[np.isfinite(x)]
    points = points[(points >= low - far) & (points <= high + far)]
    low, high = min([low, *points.tolist()]), max([high, *points.tolist()])
    room = 0.04 * (high - low) or 1.0
    return low - room, high + room


def _intervals(axes: Axes, mean: pd.Series, sd: pd.Series) -> None:
    """Draw the reference behind: its interval, and its mean as a stroke."""
    x, s = mean.to_numpy(float), np.nan_to_num(sd.to_numpy(float))
    _bars(axes, x, s, color="#dddddd", lw=7, solid_capstyle="butt")
    axes.plot(x, np.arange(x.size), "|", color="#777777", ms=7, mew=1.0)


def _marks(
    axes: Axes,
    mean: pd.Series,
    sd: pd.Series,
    colour: str,
    marker: str,
    limits: tuple[float, float],
) -> None:
    """Draw intervals and means; what lies outside is a triangle at the edge that points there."""
    rows = np.arange(len(mean))
    x, s = mean.to_numpy(float), sd.to_numpy(float)
    _bars(axes, x, s, color=colour, lw=1.2)
    low, high = limits
    point, inside = np.isnan(s), (x >= low) & (x <= high)
    axes.plot(x[~point & inside], rows[~point & inside], marker, color=colour, ms=3)
    axes.plot(x[point & inside], rows[point & inside], marker, color=colour, ms=3.6, mfc="white")
    for sign, edge, beyond in (("<", low, x < low), (">", high, x > high)):
        if beyond.any():  # an empty line upsets the layout
            at = np.full(int(beyond.sum()), edge)
            axes.plot(at, rows[beyond], sign, color=colour, ms=5, mfc="white", clip_on=False)


def _bars(axes: Axes, x: np.ndarray, s: np.ndarray, **look: Any) -> None:
    """Draw intervals as one line with gaps, which is small as an image."""
    gap = np.full(x.size, np.nan)
    rows = np.arange(x.size)
    across = np.column_stack([x - 2 * s, x + 2 * s, gap]).ravel()
    axes.plot(across, np.column_stack([rows, rows, gap]).ravel(), **look)
