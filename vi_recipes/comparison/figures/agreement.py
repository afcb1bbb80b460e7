"""Means and sds of every fit against those of the reference, fits over one another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from vi_recipes.comparison.figures.marks import (
    FAR_OUT,
    MANY,
    finite,
    fit_styles,
    handle,
    with_result,
)
from vi_recipes.comparison.fits import Fits
from vi_recipes.comparison.view import all_fits, heading, population_sites
from vi_recipes.report import GREY, plain_log_ticks, shorten, style

MAX_NAMED = 16
"""Parameters that are named along the top of a panel, at most."""

APART = 0.058
"""Least distance of two such names, as a share of the panel's width."""

MAX_NAME = 18
"""Letters of a name."""

NAME_SIZE = 7.5
"""Its font size, in points."""

IN_A_ROW = 4
"""Fits in a row of the legend."""

STEM = 0.06
"""Share of the panel's height that a line takes from a name to above its marks."""


def agreement(comparison: Fits, sites: Sequence[str] | None = None) -> Figure | None:
    """Draw means against the reference's means and sds against its sds.

    A mark is a parameter by a fit. Marks of later fits are smaller and lie on those of earlier
    ones, so that both are seen where they coincide. Those of the population are named where they
    are few; the legend says of a fit without a result or without sds that it is one.

    Parameters
    ----------
    comparison
        Whose fits.
    sites
        Whose parameters; by default all.

    Returns
    -------
    Figure
        ``None`` where there is no reference, or nothing to hold against it.
    """
    fits = with_result(comparison)
    reference = comparison.reference_name
    others = [name for name in fits if name != reference]
    if reference not in fits or not others:
        return None
    constants = set(comparison.constants())
    labels = [label for label in fits[reference].labels(sites) if label not in constants]
    frames = {
        what: finite(frame.loc[labels])
        for what, frame in (("mean", comparison.centres()), ("sd", comparison.spreads()))
    }
    named = _named(comparison, labels)
    medians = [label for label in comparison.unsettled if label in labels]
    with style():
        # as tall as keeps the panels' width what limits them: Matplotlib lays out such ones at once
        rows = -(-(len(all_fits(comparison)) - 1) // IN_A_ROW)
        height = 4.4 + (_room(named) / 72 if named else 0.0) + 0.2 * bool(medians) + 0.2 * rows
        figure = Figure(figsize=(8.6, height), layout="constrained")
        for axes, (what, frame) in zip(figure.subplots(1, 2), frames.items(), strict=True):
            _panel(axes, comparison, what, frame, named, medians)
        figure.legend(
            handles=_legend(comparison, frames["sd"]),
            loc="outside lower center",
            ncols=IN_A_ROW,
        )
    return figure


# -- which parameters, which fits ------------------------------------------------------------


def _named(comparison: Fits, labels: Sequence[str]) -> list[str]:
    """Return the parameters to name: all where they are few, else those of the population."""
    if len(labels) <= MAX_NAMED:
        return list(labels)
    fit = next(f for f in all_fits(comparison).values() if f.sites)
    small = set(fit.labels(population_sites(comparison)))
    chosen = [label for label in labels if label in small]
    return chosen if len(chosen) <= MAX_NAMED else []


def _legend(comparison: Fits, sds: pd.DataFrame) -> list[Line2D]:
    """Return an entry a fit; that of one whose marks are missing says why."""
    styles = fit_styles(comparison)
    entries = []
    for name, fit in all_fits(comparison).items():
        if name == comparison.reference_name:
            continue
        text, look = heading(name, comparison), styles[name]
        if not fit.has_result:
            look = (look[0], "")  # no mark of it is drawn
            text += f": no result ({fit.status.name.lower().replace('_', ' ')})"
        elif not sds[name].notna().any():
            text += ": a point, no sds" if fit.is_point else ": no sds"
        entries.append(handle(text, look, line=False))
    return entries


# -- a panel ---------------------------------------------------------------------------------


def _panel(
    axes: Axes,
    comparison: Fits,
    what: str,
    frame: pd.DataFrame,
    named: Sequence[str],
    medians: Sequence[str],
) -> None:
    """Draw the means, or the sds, of all fits."""
    reference = comparison.reference_name
    known = frame[reference].notna()
    others = [n for n in with_result(comparison) if n != reference]
    shown = [name for name in others if (frame[name].notna() & known).any()]
    if not shown:
        axes.set_axis_off()
        said = f"no {what}s to compare"
        axes.text(0.5, 0.5, said, ha="center", transform=axes.transAxes, color=GREY)
        return
    x = frame[reference].to_numpy(float)
    values = frame[shown].to_numpy(float)
    drawn, outside = _into_view(x, values)
    styles = fit_styles(comparison)
    many = x.size > MANY
    large = frame.index.isin(named) if many else np.ones(x.size, bool)
    for rows, small in ((~large, True), (large, False)):
        for k, (name, size) in enumerate(zip(shown, _sizes(len(shown), small), strict=True)):
            colour, marker = styles[name]
            if rows.any():
                axes.plot(
                    x[rows],
                    drawn[rows, k],
                    marker,
                    color=colour,
                    ms=size,
                    mfc=colour if small else "none",
                    mew=0.0 if small else 1.0,
                    rasterized=x.size > 1_000,
                )
    below = _say_medians(medians, what)
    axes.set(
        xlabel=f"posterior {what}, {reference} (reference){below}",
        ylabel=f"posterior {what}, method",
        title=f"{what.capitalize()}s",
    )
    _square(axes, np.column_stack([x, drawn]))
    if named:
        rows = np.flatnonzero(known & frame[shown].notna().any(axis=1) & frame.index.isin(named))
        marks = np.column_stack([x, drawn])[rows]
        ends = np.stack([np.nanmax(marks, axis=1), np.nanmin(marks, axis=1)], axis=1)
        _name(axes, [str(label) for label in frame.index[rows]], x[rows], ends)
    if outside.any():
        _say_beyond(axes, frame.index, shown, values, outside)


def _say_medians(medians: Sequence[str], what: str) -> str:
    if not medians:
        return ""
    more = f" and {len(medians) - 2} more" if len(medians) > 2 else ""
    instead = "median" if what == "mean" else "half of the central 68 %"
    return f"\n{', '.join(medians[:2])}{more}: {instead}"


def _sizes(fits: int, small: bool) -> np.ndarray:
    """Return sizes of the fits' marks, each smaller than the one before, which it lies on."""
    largest, smallest = (6.5, 1.2) if small else (8.0, 3.5)
    return np.linspace(largest, smallest, fits) if fits > 1 else np.array([smallest + 1])


def _into_view(x: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move values very far from the reference's to the edge of the frame; return which."""
    low, high = np.nanmin(x), np.nanmax(x)
    room = FAR_OUT * max(high - low, 1e-12)
    # positive values may get a log axis, which has room for small ones
    outside = (values > high + room) | ((low <= 0) & (values < low - room))
    outside &= np.isfinite(x)[:, None]
    kept = values[~outside & np.isfinite(values)]
    low, high = np.min([low, *kept]), np.max([high, *kept])
    return np.where(outside, np.clip(values, low, high), values), outside


def _say_beyond(
    axes: Axes, labels: pd.Index, names: Sequence[str], values: np.ndarray, outside: np.ndarray
) -> None:
    """Say how many values lie far outside, and of one or two which they are."""
    found = np.argwhere(outside)
    said = f"{len(found)} far outside, at the edge"
    if len(found) <= 2:
        each = [
            f"{names[k]}: {shorten(str(labels[row]), MAX_NAME)} = {values[row, k]:.4g}"
            for row, k in found
        ]
        said = "\n".join([*each, "far outside, at the edge"])
    axes.text(0.98, 0.02, said, ha="right", transform=axes.transAxes, color=GREY, fontsize=7.5)


def _square(axes: Axes, values: np.ndarray) -> None:
    """Give both axes the same limits and scale, and draw the diagonal."""
    values = values[np.isfinite(values)]
    low, high = float(values.min()), float(values.max())
    if low > 0 and high / low > 30:
        axes.set(xscale="log", yscale="log")
        low, high = low / 1.3, high * 1.3
        plain_log_ticks(axes.xaxis, low, high)
        plain_log_ticks(axes.yaxis, low, high)
    else:
        pad = 0.05 * (high - low) or 0.1 * abs(high) or 1.0
        low, high = low - pad, high + pad
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.plot([low, high], [low, high], color="black", lw=0.8, zorder=0)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")


def _name(axes: Axes, labels: Sequence[str], x: np.ndarray, ends: np.ndarray) -> None:
    """Write labels along the top, and draw a line from each through its marks, between ``ends``."""
    order = np.argsort(x)
    to_axes = axes.transData + axes.transAxes.inverted()
    across = to_axes.transform(np.column_stack([x, ends[:, 0]]))[order]
    down = to_axes.transform(np.column_stack([x, ends[:, 1]]))[order, 1]
    at = _apart(across[:, 0], APART)
    for (place, top), bottom, name_at in zip(across, down, at, strict=True):
        bend = max(1 - STEM, top)
        corners = [(name_at, 1.0), (place, bend), (place, bottom)]
        axes.plot(*to_axes.inverted().transform(corners).T, color="#bbbbbb", lw=0.6, zorder=0)
    for k, name_at in zip(order, at, strict=True):
        axes.text(
            name_at,
            1.01,
            shorten(labels[k], MAX_NAME),
            transform=axes.transAxes,
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=NAME_SIZE,
        )
    axes.set_title(axes.get_title(), pad=_room(labels))


def _room(labels: Sequence[str]) -> float:
    """Return the height of what stands along the top, in points."""
    return 6 + 0.65 * NAME_SIZE * max(len(shorten(label, MAX_NAME)) for label in labels)


def _apart(places: np.ndarray, least: float) -> np.ndarray:
    """Return sorted places within (0, 1) moved as little as keeps neighbours ``least`` apart."""
    least = min(least, 1 / max(len(places), 1))
    steps = least * np.arange(len(places))
    # with each name shifted left by what those before it need, order is all that must hold
    groups = [[value, 1] for value in places - steps]
    merged: list[list[float]] = []
    for value, count in groups:
        merged.append([value, count])
        while len(merged) > 1 and merged[-2][0] > merged[-1][0]:
            second, first = merged.pop(), merged.pop()
            total = first[1] + second[1]
            merged.append([(first[0] * first[1] + second[0] * second[1]) / total, total])
    moved = np.repeat([m for m, _ in merged], [int(count) for _, count in merged])
    return np.clip(moved, 0.0, 1.0 - (steps[-1] if len(steps) else 0.0)) + steps
