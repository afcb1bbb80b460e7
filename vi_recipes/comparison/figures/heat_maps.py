"""Heat maps of correlations and covariances."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize, SymLogNorm
from matplotlib.figure import Figure

from vi_recipes.comparison.figures.marks import say_left_out
from vi_recipes.comparison.fits import Fits
from vi_recipes.comparison.view import all_fits, block, heading, select
from vi_recipes.report import shorten, style, text_width

MAX_SIDE = 20
"""Parameters along one side."""

MAX_ACROSS = 3
"""Panels side by side."""

BESIDE, ABOVE = 0.1, 0.28
"""Inches between panels, and above each for its title."""

MAX_BLOCK = 200
"""Scalars whose joint covariance is worth computing for a picture."""


def correlations(comparison: Fits) -> Figure | None:
    """Draw posterior correlations, a panel per method on one colour scale."""
    return _heat_maps(comparison, "correlation", comparison.correlations)


def covariances(comparison: Fits) -> Figure | None:
    """Draw posterior covariances, a panel per method on one colour scale."""
    return _heat_maps(comparison, "covariance", comparison.covariances)


# -- heat maps -------------------------------------------------------------------------------


def _heat_maps(
    comparison: Fits,
    what: str,
    matrices: Callable[[Sequence[str]], Mapping[str, pd.DataFrame]],
) -> Figure | None:
    sites = block(comparison, MAX_BLOCK)
    labels, left_out = select(comparison, MAX_SIDE)
    if not sites or len(labels) < 2:
        return None
    known = {str(n): m for n, m in matrices(sites).items()}
    inside = set().union(*(m.columns for m in known.values()))
    left_out += sum(label not in inside for label in labels)
    constants = set(comparison.constants())
    labels = [label for label in labels if label in inside and label not in constants]
    if len(labels) < 2:
        return None
    known = {n: m.reindex(index=labels, columns=labels) for n, m in known.items()}
    panels = {n: known[n].to_numpy(float) for n in all_fits(comparison) if n in known}
    panels = {n: m for n, m in panels.items() if np.isfinite(m).any()}
    if not panels:
        return None
    norm = _norm(np.concatenate([m.ravel() for m in panels.values()]), what)
    columns = min(len(panels), MAX_ACROSS)
    rows = math.ceil(len(panels) / columns)
    side = 1.4 + 0.062 * len(labels)
    across, down = side + BESIDE, side + ABOVE
    size = 6.5 if len(labels) > 15 else 8.0
    with style():
        short = [shorten(label, 24 if len(labels) <= 15 else 18) for label in labels]
        room, head = text_width(short, size), 0.2 * bool(left_out)
        # in inches: axes cost more than what is in them, so that one has all panels, laid out here
        width, height = room + 0.2 + columns * across + 1.0, room + head + 0.2 + rows * down
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set_axis_off()
        for k, (name, matrix) in enumerate(panels.items()):
            left = room + 0.15 + (k % columns) * across
            top = height - head - ABOVE - (k // columns) * down
            extent = (left, left + side, top - side, top)
            image = axes.imshow(
                matrix, cmap="RdBu_r", norm=norm, interpolation="none", extent=extent
            )
            axes.text(left + side / 2, top + 0.06, heading(name, comparison), ha="center", size=10)
            for row, text in enumerate(short):
                at = (row + 0.5) * side / len(labels)
                if k % columns == 0:
                    axes.text(left - 0.05, top - at, text, size=size, ha="right", va="center")
                if k + columns >= len(panels):
                    axes.text(
                        left + at, top - side - 0.05, text, size=size, ha="center", va="top",
                        rotation=90,
                    )  # fmt: skip
        axes.set(xlim=(0, width), ylim=(0, height))
        long = min(rows * down - ABOVE, 3.5) / height
        beside = (1 - 0.9 / width, 1 - (head + ABOVE) / height - long, 0.16 / width, long)
        bar = figure.colorbar(image, cax=figure.add_axes(beside), label=f"posterior {what}")
        if isinstance(norm, SymLogNorm):
            _symmetric_ticks(bar, norm)
        say_left_out(figure, left_out)
    return figure


def _norm(values: np.ndarray, what: str) -> Normalize:
    """Return the colour scale: linear for correlations and covariances of one size, else log."""
    if what == "correlation":
        return Normalize(-1.0, 1.0)
    sizes = np.abs(values[np.isfinite(values)])
    largest = float(sizes.max(initial=0.0)) or 1.0
    typical = float(np.median(sizes[sizes > 0])) if (sizes > 0).any() else largest
    if largest / typical < 30:
        return Normalize(-largest, largest)
    # the linear part ends three decades down, so that noise around zero stays pale
    return SymLogNorm(max(typical, largest / 1e4), vmin=-largest, vmax=largest)


def _symmetric_ticks(bar: Colorbar, norm: SymLogNorm) -> None:
    """Label zero and a few decades either side; the default crowds zero."""
    last = math.floor(math.log10(float(norm.vmax or 1.0)))
    first = math.floor(math.log10(norm.linthresh)) + 1
    step = max(1, math.ceil((last - first + 1) / 4))
    decades = [10.0**k for k in range(last, first - 1, -step)]
    ticks = [*(-t for t in decades), 0.0, *reversed(decades)]
    bar.set_ticks(
        ticks, labels=[f"{t:g}".replace("-", "−", 1) if t < 0 else f"{t:g}" for t in ticks]
    )
    bar.minorticks_off()
