"""What fits predict, side by side: exhibits that a comparison can have."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vi_recipes.comparison.figures.marks import fit_styles
from vi_recipes.comparison.fits import Fits
from vi_recipes.comparison.view import all_fits
from vi_recipes.core import Progress, ProgressFactory, silent
from vi_recipes.fit import loo_table, posterior_predictive
from vi_recipes.model import MAX_NUMBERS, Target, observed_data
from vi_recipes.report import GREY, Exhibit, shorten, style

if TYPE_CHECKING:
    from arviz_stats.utils import ELPDDataLOO

NUM_REPLICATIONS = 400
"""Replications of the data behind a band."""

MAX_SITES = 4
"""Observed sites that are drawn."""

MAX_COUNTS = 30
"""Distinct whole numbers up to which each has a bar of its own."""

NUM_BINS = (8, 40)
"""Bins of a histogram, at least and at most."""

MARGIN = 0.25
"""How far beyond the data, in their range, replications are drawn."""

NUM_COLUMNS = 3
"""Panels side by side."""

MANY = 2_000
"""Dots from which they are an image in an SVG file."""

LOO_CAPTION = (
    "The sum over observations of log p(y_i | the others), in nats, by Pareto-smoothed importance "
    "sampling (ArviZ), with its standard error over observations; p, the effective number of "
    "parameters. An approximation's draws are weighted by p / q as well, so that every method "
    "estimates the same, the posterior's own: a difference is an error of the approximation and "
    "not another prediction. Where k exceeds its limit the draws cannot be weighted into those of "
    "the posterior without that observation, and where it does for many, the number is not to be "
    "used. In many dimensions that is so of every approximation."
)

POINTWISE_CAPTION = (
    "Left: Pareto's k of every observation's weights; dashed, the limit up to which they can be "
    "relied on for that many draws; open dots exceed it. Right, where there are several: log "
    "p(y_i | the others) less that of {centre}. Observations are in the order of the data."
)


def predictive_exhibits(
    comparison: Fits, target: Target, *, seed: int = 0, progress: Progress = silent
) -> list[Exhibit]:
    """Return the exhibits of what the fits of a comparison predict.

    They are a histogram of the data beside those of replications, by fit and observed site, and
    leave-one-out cross-validation, as a table and observation by observation.

    Parameters
    ----------
    comparison
        Fits of ``target``.
    target
        The model with its data.
    seed
        Seeds the replications.
    progress
        Told how far it has got.

    Raises
    ------
    ValueError
        For a target that is not that of the fits.
    """
    steps = len(comparison.columns) + 1
    data = dict(list(observed_data(target).items())[:MAX_SITES])
    bins = {name: make_bins(values) for name, values in data.items()}
    counted: dict[str, dict[str, Histograms]] = {name: {} for name in data}
    left_out = []
    for done, (name, fit) in enumerate(all_fits(comparison).items()):
        progress(done, steps, f"replications of {name}")
        if not fit.has_result or not data:
            continue
        size = sum(values.size for values in data.values())
        number = max(min(NUM_REPLICATIONS, MAX_NUMBERS // size), 1)
        try:
            replicated = posterior_predictive(fit, target, num_draws=number, key=seed)
        except ValueError as reason:  # moments without draws, laws that cannot be sampled
            left_out.append(f"{name} is not shown: {reason}.")
            continue
        for site, edges in bins.items():
            counted[site][name] = count(replicated[site], edges)
    with style():
        exhibits = [
            _check(comparison, site, k, bins[site], data[site], panels, left_out)
            for k, (site, panels) in enumerate(counted.items())
            if panels
        ]
        progress(steps - 1, steps, "leave-one-out cross-validation")
        exhibits += _cross_validation(comparison, target)
    return exhibits


def add_predictive(comparison: Fits, target: Target, seed: int, progress: ProgressFactory) -> None:
    """Give a comparison these exhibits; an interrupt leaves it without, and marked so."""
    try:
        with progress("predictions") as report:
            comparison.exhibits += predictive_exhibits(
                comparison, target, seed=seed, progress=report
            )
    except KeyboardInterrupt:
        comparison.interrupted = True


# -- posterior predictive checks -------------------------------------------------------------


@dataclass(frozen=True)
class Histograms:
    """Histograms of replications.

    Parameters
    ----------
    counts
        Numbers in each bin, shape (replication, bin).
    outside
        Share of all numbers that lie beyond the bins.
    """

    counts: np.ndarray
    outside: float


def make_bins(values: np.ndarray) -> np.ndarray:
    """Return edges of bins for the data and their replications.

    Whole numbers of which there are few have a bin each.
    """
    flat = np.ravel(values).astype(float)
    low, high = float(flat.min()), float(flat.max())
    spread = (high - low) or max(abs(low), 1.0)
    if _are_whole(values) and high - low <= MAX_COUNTS:
        beyond = math.ceil(MARGIN * spread) if high - low > 1 else 0
        first = low - beyond if low < 0 else max(low - beyond, 0.0)
        return np.arange(first, high + beyond + 2) - 0.5
    number = np.histogram_bin_edges(flat, "auto").size - 1
    number = int(np.clip(number, *NUM_BINS) * (1 + 2 * MARGIN))
    return np.linspace(low - MARGIN * spread, high + MARGIN * spread, number + 1)


def _are_whole(values: np.ndarray) -> bool:
    """Whether they are whole numbers, as counts given as floating-point ones are too."""
    return bool((values == np.round(values)).all())


def count(replications: np.ndarray, edges: np.ndarray) -> Histograms:
    """Return the histograms of replications shaped (chain, draw, ...)."""
    rows = replications.reshape(replications.shape[0] * replications.shape[1], -1)
    counts = np.stack([np.histogram(row, edges)[0] for row in rows])
    return Histograms(counts, 1 - float(counts.sum()) / rows.size)


def _check(
    comparison: Fits,
    site: str,
    place: int,
    edges: np.ndarray,
    data: np.ndarray,
    panels: Mapping[str, Histograms],
    left_out: list[str],
) -> Exhibit:
    number = max(len(panel.counts) for panel in panels.values())
    caption = (
        "Dots and grey: how many of the observed numbers lie in each bin, on a square-root scale, "
        f"on which counts scatter alike. Line and band: the median of up to {number} replications "
        "drawn from the fit, and the range of nine in ten of them. Where dots leave the band, the "
        "fit does not predict what was seen. A point predicts with its noise alone, and so too "
        "narrowly."
    )
    return Exhibit(
        name=f"predictive_check_{place + 1}",
        title=f"Replications of {site} beside the data",
        caption=" ".join([caption, *left_out]),
        content=check_figure(comparison, site, edges, data, panels),
    )


def draw_counts(
    axes: Axes, edges: np.ndarray, seen: np.ndarray, made: Histograms, colour: str
) -> None:
    """Draw how many of the data lie in each bin, and the median and nine in ten of other sets."""
    low, middle, high = np.quantile(made.counts, [0.05, 0.5, 0.95], axis=0)
    axes.stairs(seen, edges, fill=True, color="#d8d8d8")
    axes.stairs(high, edges, baseline=low, fill=True, color=colour, alpha=0.3, lw=0)
    axes.stairs(middle, edges, color=colour, lw=1.2)
    axes.plot((edges[1:] + edges[:-1]) / 2, seen, ".", color="black", ms=3)
    axes.set_yscale("function", functions=(np.sqrt, np.square))
    axes.set_ylim(bottom=0)


def check_figure(
    comparison: Fits,
    site: str,
    edges: np.ndarray,
    data: np.ndarray,
    panels: Mapping[str, Histograms],
) -> Figure:
    """Draw the data's histogram and the replications', a panel a fit on common axes."""
    styles = fit_styles(comparison)
    columns = min(NUM_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(2.7 * columns + 0.6, 2.0 * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    seen = np.histogram(np.ravel(data).astype(float), edges)[0]
    for place, axes in enumerate(grid.flat):
        if place >= len(panels):
            axes.set_axis_off()
        elif place + columns >= len(panels):  # none below it
            axes.tick_params(labelbottom=True)
    for axes, (name, panel) in zip(grid.flat, panels.items(), strict=False):
        draw_counts(axes, edges, seen, panel, styles[name][0])
        axes.set_title(name, loc="left")
        if _are_whole(data):
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if panel.outside > 0.001:
            text = f"{panel.outside:.1%} beyond"
            axes.text(1, 0.97, text, transform=axes.transAxes, ha="right", va="top", color=GREY)
    figure.supxlabel(shorten(site, 60), fontsize=9)
    figure.supylabel("count", fontsize=9)
    return figure


# -- leave-one-out cross-validation ----------------------------------------------------------


def _cross_validation(comparison: Fits, target: Target) -> list[Exhibit]:
    sites = [site.name for site in target.observed[:MAX_SITES]]
    several, exhibits = len(sites) > 1, []
    for k, site in enumerate(sites or [None], start=1):
        base = comparison.reference_name
        fits = {n: fit for n, fit in all_fits(comparison).items() if fit.has_result}
        table, by_name = loo_table(fits, target, base=base, observed=site)
        centre = base if base in by_name else str(table["elpd_loo"].idxmax()) if by_name else ""
        title = "Leave-one-out cross-validation" + (f" of {site}" if several else "")
        exhibits.append(
            Exhibit(
                name=f"loo_{k}",
                title=title,
                caption=LOO_CAPTION + (f" Differences are from {centre}." if centre else ""),
                content=_shown(table),
            )
        )
        if by_name:
            exhibits.append(
                Exhibit(
                    name=f"loo_pointwise_{k}",
                    title=f"{title}, observation by observation",
                    caption=POINTWISE_CAPTION.format(centre=centre),
                    content=pointwise_figure(comparison, by_name, centre),
                )
            )
    return exhibits


def _shown(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table in a reader's words."""
    names = {
        "elpd_loo": "elpd",
        "se": "se",
        "p_loo": "p",
        "elpd_diff": "difference",
        "dse": "its se",
        "max_k": "largest k",
        "num_high_k": "too high",
        "good_k": "limit of k",
        "num_draws": "draws",
        "reason": "why there is none",
    }
    shown = table[list(names)].rename(columns=names)
    shown.insert(0, "method", table.index)
    if (table["reason"] == "").all():
        shown = shown.drop(columns="why there is none")
    return shown.reset_index(drop=True)


def pointwise_figure(comparison: Fits, by_name: Mapping[str, ELPDDataLOO], centre: str) -> Figure:
    """Draw Pareto's k and the differences from ``centre`` by observation, a row a fit."""
    styles = fit_styles(comparison)
    columns = 2 if len(by_name) > 1 else 1
    height = 1.35 * len(by_name) + 0.6
    figure = Figure(figsize=(4.2 * columns, height), layout="constrained")
    grid = figure.subplots(len(by_name), columns, squeeze=False, sharex=True, sharey="col")
    base = by_name[centre].elpd_i.to_numpy().ravel()
    for row, (name, result) in zip(grid, by_name.items(), strict=True):
        k = result.pareto_k.to_numpy().ravel()
        high = k > result.good_k
        _dots(row[0], k, high, styles[name][0])
        row[0].axhline(result.good_k, color="black", lw=0.8, ls="--")
        row[0].set_title(name, loc="left")
        if columns == 1:
            continue
        row[1].axhline(0.0, color="black", lw=0.8)
        _dots(row[1], result.elpd_i.to_numpy().ravel() - base, high, styles[name][0])
    grid[-1][0].set_xlabel("observation")
    figure.supylabel("Pareto's k", fontsize=9)
    if columns == 2:
        grid[0][1].set_title(f"log density less {centre}'s", loc="left")
        grid[-1][1].set_xlabel("observation")
    return figure


def _dots(axes: Axes, values: np.ndarray, high: np.ndarray, colour: str) -> None:
    """Draw a dot an observation, open where its k is too high."""
    x = np.arange(values.size)
    size = float(np.clip(3000 / values.size, 2, 14))
    shared: Any = {"s": size, "linewidths": 0.7, "rasterized": values.size > MANY}
    axes.scatter(x[~high], values[~high], color=colour, **shared)
    axes.scatter(x[high], values[high], facecolors="none", edgecolors=colour, **shared)
