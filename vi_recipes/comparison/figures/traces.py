"""Traces of what the methods maximise."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from vi_recipes.comparison.figures.marks import (
    fit_styles,
)
from vi_recipes.comparison.fits import Fits
from vi_recipes.comparison.view import all_fits, heading
from vi_recipes.fit import Fit
from vi_recipes.report import GREY, format_number, style

MAX_PANELS = 12
"""Panels in a figure of traces."""


def traces(comparison: Fits) -> Figure | None:
    """Draw what each method followed as it went: ELBO, log-likelihood, log density."""
    found = [
        (name, series) for name, fit in all_fits(comparison).items() for series in _series(fit)
    ][:MAX_PANELS]
    if not found:
        return None
    columns = 2 if len(found) == 4 else min(len(found), 3)
    rows = math.ceil(len(found) / columns)
    styles = fit_styles(comparison)
    with style():
        size = (3.3 * columns + 0.4, 2.5 * rows + 0.2)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, (name, series) in zip(grid, found, strict=False):
            _trace(axes, series, styles[name][0])
            ylabel = _QUANTITIES.get(series.quantity, series.quantity.replace("_", " "))
            axes.set(title=heading(name, comparison), xlabel="iteration", ylabel=ylabel)
        for axes in grid[len(found) :]:
            axes.set_axis_off()
    return figure


# -- traces ----------------------------------------------------------------------------------

_QUANTITIES = {
    "elbo": "ELBO",
    "renyi_bound": "Renyi bound",
    "iwae_bound": "importance-weighted bound",
    "minus_sinkhorn": "negative Sinkhorn divergence",
    "log_likelihood": "log-likelihood",
    "log_density": "log density",
    "loss": "loss",
}


@dataclass(frozen=True)
class _Series:
    """One trace: a row of ``y`` per start, and the Monte Carlo error of each value, if any."""

    quantity: str
    x: np.ndarray
    y: np.ndarray
    se: np.ndarray | None

    @property
    def stochastic(self) -> bool:
        """Whether the values are noisy estimates: so many values are no deterministic ascent."""
        return self.se is not None or (len(self.y) == 1 and self.y.shape[1] >= 200)


def _series(fit: Fit) -> Iterator[_Series]:
    for quantity, values in fit.trace.items():
        if quantity.endswith(("_step", "_se")):
            continue
        y = np.atleast_2d(np.asarray(values, float))
        y = np.where(np.isfinite(y), y, np.nan)
        steps = np.asarray(fit.trace.get(f"{quantity}_step", np.arange(y.shape[1])), float)
        error = fit.trace.get(f"{quantity}_se")
        if np.isfinite(y).sum() > 1:
            x = np.broadcast_to(steps, y.shape)
            yield _Series(quantity, x, y, None if error is None else np.asarray(error, float))


def _trace(axes: Axes, series: _Series, colour: str) -> None:
    noisy = series.stochastic and series.y.shape[1] >= 100
    alpha = 0.25 if noisy else max(0.35, 1 / math.sqrt(len(series.y)))
    for x, y in zip(series.x, series.y, strict=True):
        axes.plot(
            x, y, color=colour, lw=0.5 if noisy else 1.1, alpha=alpha, rasterized=y.size > 2_000
        )
    if noisy:
        axes.plot(*_smooth(series.x[0], series.y[0]), color=colour, lw=1.6)
    if series.se is not None:
        x, y, margin = series.x[0], series.y[0], 2 * series.se
        axes.fill_between(x, y - margin, y + margin, color=colour, alpha=0.15, lw=0)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    if series.stochastic:
        _skip_bad_start(axes, series)
    else:
        _skip_flat_end(axes, series)


def _skip_bad_start(axes: Axes, series: _Series) -> None:
    """Fit the axis to the later part: a start orders of magnitude below it would flatten that."""
    y = series.y[0]
    margin = np.zeros_like(y) if series.se is None else 2 * series.se
    later = slice(y.size // 5, None)
    if not np.isfinite(y[later]).any():
        return
    low = np.nanquantile((y - margin)[later], 0.01)
    high = np.nanmax((y + margin)[later])
    if np.nanmax(y) - np.nanmin(y) <= 3 * (high - low):
        return
    pad = 0.1 * (high - low) or 1e-3 * abs(high) or 1.0
    axes.set_ylim(low - pad, high + pad)
    start = format_number(float(y[np.isfinite(y)][0]))
    axes.text(
        0.98,
        0.04,
        f"starts at {start}",
        ha="right",
        transform=axes.transAxes,
        fontsize=8,
        color=GREY,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5},
    )


def _skip_flat_end(axes: Axes, series: _Series) -> None:
    """End the axis shortly after every run has stopped moving."""
    last = np.array(
        [run[np.isfinite(run)][-1] if np.isfinite(run).any() else np.nan for run in series.y]
    )
    span = np.nanmax(series.y) - np.nanmin(series.y)
    moving = (np.abs(series.y - last[:, None]) > 1e-3 * span).any(axis=0)
    end = int(np.flatnonzero(moving)[-1]) + 4 if moving.any() else 0
    if 4 <= end < series.y.shape[1] - 1:
        left, right = float(series.x[0, 0]), float(series.x[0, end])
        axes.set_xlim(left - 0.04 * (right - left), right)


def _smooth(x: np.ndarray, y: np.ndarray, blocks: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Return medians over blocks of iterations."""
    size = len(y) // blocks or 1
    stop = size * (len(y) // size)
    shape = (-1, size)
    return np.median(x[:stop].reshape(shape), axis=1), np.median(y[:stop].reshape(shape), axis=1)
