"""Heat maps of correlations and covariances."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize, SymLogNorm, TwoSlopeNorm
from matplotlib.figure import Figure

from vi_recipes.comparison.figures.marks import say_left_out
from vi_recipes.comparison.fits import Fits
from vi_recipes.comparison.view import all_fits, block, heading, select
from vi_recipes.report import shorten, style

MAX_SIDE = 20
"""Parameters along one side."""

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
    columns = min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    side = 1.5 + 0.062 * len(labels)
    size = (side * columns + 1.7, side * rows + 1.3)
    with style():
        figure = Figure(figsize=size, layout="compressed")
        grid = figure.subplots(rows, columns, squeeze=False)
        short = [shorten(label, 24 if len(labels) <= 15 else 18) for label in labels]
        image = None
        for k, (axes, (name, matrix)) in enumerate(zip(grid.ravel(), panels.items(), strict=False)):
            image = axes.imshow(matrix, cmap="RdBu_r", norm=norm, interpolation="nearest")
            axes.set_title(heading(name, comparison))
            axes.set(xticks=[], yticks=[])  # ticks are slow to draw, and many
            if k // columns == rows - 1:
                axes.set_xticks(range(len(labels)), short, rotation=90)
            if k % columns == 0:
                axes.set_yticks(range(len(labels)), short)
            axes.tick_params(length=0, labelsize=6.5 if len(labels) > 15 else 8)
            axes.spines[:].set_visible(False)
        for axes in grid.ravel()[len(panels) :]:
            axes.set_axis_off()
        if image is not None:
            bar = figure.colorbar(image, ax=grid, shrink=0.7, pad=0.02, label=f"posterior {what}")
            if isinstance(norm, SymLogNorm):
                _symmetric_ticks(bar, norm)
        say_left_out(figure, left_out)
    return figure


def _norm(values: np.ndarray, what: str) -> Normalize:
    """Return the colour scale: linear for correlations and covariances of one size, else log."""
    if what == "correlation":
        return TwoSlopeNorm(0.0, -1.0, 1.0)
    sizes = np.abs(values[np.isfinite(values)])
    largest = float(sizes.max(initial=0.0)) or 1.0
    typical = float(np.median(sizes[sizes > 0])) if (sizes > 0).any() else largest
    if largest / typical < 30:
        return TwoSlopeNorm(0.0, -largest, largest)
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
