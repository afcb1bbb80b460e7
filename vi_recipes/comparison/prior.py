"""What a model's prior makes of its data: exhibits that a report can have."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from vi_recipes.comparison.predictive import MAX_SITES, count, draw_counts, make_bins
from vi_recipes.fit import prior_predictive
from vi_recipes.model import MAX_NUMBERS, Target, observed_data
from vi_recipes.report import GREY, Exhibit, format_number, shorten, style

NUM_SETS = 400
"""Sets of data from the prior."""

LEAST_SETS = 20
"""Sets from which quantiles of them are shown."""

ZEROS = "share of zeros"
"""The statistic that is left out where nothing is zero."""

STATISTICS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": lambda rows: rows.mean(axis=1),
    "sd": lambda rows: rows.std(axis=1),
    "smallest": lambda rows: rows.min(axis=1),
    "median": lambda rows: np.median(rows, axis=1),
    "largest": lambda rows: rows.max(axis=1),
    ZEROS: lambda rows: (rows == 0).mean(axis=1),
}
"""Of a set of data, shape (sets, numbers)."""


def prior_exhibits(target: Target, *, seed: int = 0) -> list[Exhibit]:
    """Return a histogram and a table of statistics of data from the prior, beside the data.

    Parameters
    ----------
    target
        The model with its data.
    seed
        Seeds the sets of data.

    Raises
    ------
    ValueError
        As :func:`prior_predictive`, for an improper prior above all.
    """
    data = dict(list(observed_data(target).items())[:MAX_SITES])
    size = max(sum(values.size for values in data.values()), 1)
    number = max(min(NUM_SETS, MAX_NUMBERS // size), LEAST_SETS)
    drawn = prior_predictive(target, num_draws=number, key=seed)
    exhibits = []
    for k, (site, values) in enumerate(data.items(), start=1):
        sets = np.reshape(drawn[site], (number, -1)).astype(float)
        seen = np.ravel(values).astype(float)
        with style():
            exhibits += [_drawn(site, k, seen, sets), _table(site, k, seen, sets)]
    return exhibits


def _drawn(site: str, place: int, seen: np.ndarray, sets: np.ndarray) -> Exhibit:
    finite = sets[np.isfinite(sets)]
    middle = np.quantile(finite, [0.05, 0.95], method="nearest") if finite.size else seen
    edges = make_bins(np.concatenate([seen, middle]))
    if edges[0] < -0.5 and min(seen.min(), finite.min(initial=0.0)) >= 0:
        edges = np.concatenate([[-0.5], edges[edges > 0]])  # none is below 0
    made = count(sets[None], edges)
    figure = Figure(figsize=(4.4, 2.6), layout="constrained")
    axes = figure.subplots()
    draw_counts(axes, edges, np.histogram(seen, edges)[0], made, "C0")
    axes.set_xlabel(shorten(site, 60))
    axes.set_ylabel("count")
    if made.outside > 0.001:
        text = f"{made.outside:.1%} beyond"
        axes.text(1, 1.02, text, transform=axes.transAxes, ha="right", color=GREY)
    caption = (
        "Dots and grey: how many of the observed numbers lie in each bin, on a square-root scale. "
        f"Line and band: the median of {len(sets)} sets of data that the model makes with its "
        "parameters drawn from their prior, and the range of nine in ten of them. Such sets need "
        "not look like the data; where they hold what cannot occur, the prior is worth a second "
        "look."
    )
    return Exhibit(
        name=f"prior_check_{place}",
        title=f"{site} by the prior, beside the data",
        caption=caption,
        content=figure,
    )


def _table(site: str, place: int, seen: np.ndarray, sets: np.ndarray) -> Exhibit:
    rows = []
    for name, statistic in STATISTICS.items():
        own, theirs = float(statistic(seen[None])[0]), statistic(sets)
        if name == ZEROS and not (own or theirs.any()):
            continue
        ends = np.quantile(theirs, [0.05, 0.5, 0.95])
        below = float((theirs < own).mean() + (theirs == own).mean() / 2)
        shown = [format_number(value) for value in (own, *ends)]
        rows.append([name, *shown, f"{below:.0%}"])
    columns = ["statistic", "data", "prior, 5 %", "prior, 50 %", "prior, 95 %", "below the data's"]
    caption = (
        f"Each statistic of the data, and quantiles of it over {len(sets)} sets of data from the "
        "prior. Last: the share of these sets in which it is smaller, ties counting half. Shares "
        "of 0 % or 100 % say that the prior did not expect such data."
    )
    return Exhibit(
        name=f"prior_statistics_{place}",
        title=f"Statistics of {site} by the prior",
        caption=caption,
        content=pd.DataFrame(rows, columns=columns),
    )
