"""A sweep as figures: bias, sds and coverage by method, and seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from vi_recipes.core import numbered
from vi_recipes.report import (
    COLOURS,
    GREY,
    MARKERS,
    Exhibit,
    file_name,
    plain_log_ticks,
    shorten,
    style,
)
from vi_recipes.sweeps.measures import coverage_interval
from vi_recipes.sweeps.swept import Swept

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

MOST = 14
"""Scalars of a figure."""

NORMAL = 1.96


def draw(sweep: Swept) -> list[Exhibit]:
    """Return the figures: one a model and data set with a known truth, and one of seconds."""
    exhibits: list[Exhibit] = []
    performance = sweep.performance()
    known = performance[performance["bias"].notna()]
    methods = list(dict.fromkeys(cell.method for cell in sweep.results))
    for (model, data), part in known.groupby(["model", "data"], sort=False):
        if sweep.simulated:
            title = f"{model} ({data})"
            name = file_name(f"performance {title}", [one.name for one in exhibits])
            exhibits.append(_performance(sweep, part, name, title, methods))
    times = sweep.times()
    if len(times) and times["seconds"].notna().any():
        exhibits.append(_seconds(sweep, methods))
    return exhibits


def _performance(
    sweep: Swept, part: pd.DataFrame, name: str, what: str, methods: list[str]
) -> Exhibit:
    largest = (part["bias"].abs() / part["error_sd"]).groupby(part["parameter"]).max()
    kept = set(largest.sort_values(ascending=False).index[:MOST])
    labels = [label for label in dict.fromkeys(part["parameter"]) if label in kept]
    left_out = part["parameter"].nunique() - len(labels)
    with style():
        figure = Figure(figsize=(8.4, 1.5 + 0.38 * len(labels)), layout="constrained")
        panels = figure.subplots(1, 3, sharey=True)
        for axes, title in zip(
            panels, ("bias, in sds of the error", "fits' sd over that of errors", "coverage"),
            strict=True,
        ):  # fmt: skip
            axes.set_xlabel(title)
        panels[0].axvline(0, color=GREY, lw=0.8)
        panels[1].axvline(1, color=GREY, lw=0.8)
        panels[2].axvline(sweep.level, color=GREY, lw=0.8)
        panels[2].set_xlim(-0.03, 1.03)
        rows = part.set_index(["method", "parameter"])
        shown = [m for m in methods if m in set(part["method"])]
        step = min(0.22, 0.7 / len(shown))
        for k, method in enumerate(shown):
            at = [y + step * (k - (len(shown) - 1) / 2) for y in range(len(labels))]
            found = [rows.loc[(method, label)] if (method, label) in rows.index else None
                     for label in labels]  # fmt: skip
            _dots(panels, at, found, methods.index(method), method)
        panels[0].set_yticks(range(len(labels)), [shorten(label, 26) for label in labels])
        panels[0].invert_yaxis()
        handles, texts = panels[0].get_legend_handles_labels()
        figure.legend(handles, texts, loc="outside upper center", ncols=min(len(shown), 5))
    most = f" {left_out} more scalars, of less bias, are not drawn." if left_out else ""
    caption = (
        "Left: mean error over the sd of errors, with 95 % Monte Carlo intervals. Middle: root "
        "mean variance of the fits over the sd of their errors; below 1, a method is too sure. "
        f"Right: share of {100 * sweep.level:g} % intervals that hold the truth, with exact 95 % "
        "intervals; a method without sds has none." + most
    )
    title = f"{what}: bias, sds and coverage over {numbered(int(part['n'].max()), 'data set')}"
    return Exhibit(name=name, title=title, caption=caption, content=figure)


def _dots(
    panels: list[Axes], at: list[float], found: list[pd.Series | None], k: int, method: str
) -> None:
    look: dict[str, Any] = {
        "color": COLOURS[k % len(COLOURS)],
        "marker": MARKERS[k % len(MARKERS)],
        "ls": "none",
        "ms": 4.5,
        "lw": 1.0,
        "elinewidth": 1.0,
    }
    label = method
    for y, row in zip(at, found, strict=True):
        if row is None:
            continue
        spread = row["error_sd"]
        if spread > 0:
            panels[0].errorbar(
                row["bias"] / spread,
                y,
                xerr=NORMAL * row["bias_mcse"] / spread,
                label=label,
                **look,
            )
            label = ""
        if row["sd_ratio"] == row["sd_ratio"]:
            panels[1].errorbar(row["sd_ratio"], y, xerr=NORMAL * row["sd_ratio_mcse"], **look)
        if row["coverage"] == row["coverage"]:
            low, high = coverage_interval(row["coverage"], row["n"])
            ends = [[row["coverage"] - low], [high - row["coverage"]]]
            panels[2].errorbar(row["coverage"], y, xerr=np.maximum(ends, 0), **look)


def _seconds(sweep: Swept, methods: list[str]) -> Exhibit:
    groups: dict[tuple[str, str], dict[str, list[float]]] = {}
    for cell, found in sweep.results.items():
        if found.labels:
            by = groups.setdefault((cell.model, cell.data), {})
            run = max(found.seconds - found.compile_seconds, 1e-4)
            by.setdefault(cell.method, []).append(run)
    rows = [(name, m) for name, by in groups.items() for m in methods if m in by]
    values = [groups[name][m] for name, m in rows]
    several = len(groups) > 1
    with style():
        figure = Figure(figsize=(7.6, 1.0 + 0.28 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for y, ((_, method), seconds) in enumerate(zip(rows, values, strict=True)):
            k = methods.index(method)
            axes.plot(seconds, [y] * len(seconds), color=COLOURS[k % len(COLOURS)], alpha=0.35,
                      marker="o", ms=3.5, ls="none", mew=0)  # fmt: skip
            axes.plot(np.mean(seconds), y, color="black", marker="|", ms=11, ls="none")
        axes.set_xscale("log")
        low, high = min(map(min, values)), max(map(max, values))
        axes.set_xlim(low / 1.3, high * 1.3)
        plain_log_ticks(axes.xaxis, low / 1.3, high * 1.3)
        names = [f"{m}, {n[0]} ({n[1]})" if several else m for n, m in rows]
        axes.set_yticks(range(len(rows)), [shorten(name, 44) for name in names])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel("seconds a fit, without compilation")
    caption = "A dot a fit; the bar is their mean."
    return Exhibit(name="seconds", title="Seconds by method", caption=caption, content=figure)
