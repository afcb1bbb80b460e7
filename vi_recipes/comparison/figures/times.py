"""Seconds, compilation apart."""

from __future__ import annotations

import math

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vi_recipes.comparison.fits import Fits
from vi_recipes.comparison.speed import apart
from vi_recipes.comparison.view import all_fits
from vi_recipes.report import format_seconds, plain_log_ticks, style


def times(comparison: Fits) -> Figure | None:
    """Draw compile and run seconds as bars on a log scale, the total beside them."""
    fits = {n: f for n, f in all_fits(comparison).items() if f.timing.total_seconds > 0}
    if not fits:
        return None
    names = list(fits)
    colours = {"compile": "#E69F00", "run": "#0072B2"}
    timings = {name: fit.timing for name, fit in fits.items()}
    whole = [n for n, fit in fits.items() if n == comparison.outside and not apart(fit)]
    seconds = {
        "compile": [0.0 if n in whole else t.compile_seconds for n, t in timings.items()],
        "run": [0.0 if n in whole else t.run_seconds for n, t in timings.items()],
    }
    longest = max(t.total_seconds for t in timings.values())
    parts = [value for values in seconds.values() for value in values if value > 0]
    shortest = min(parts, default=longest)
    # what takes less than 1e-5 of the longest is not worth more of the axis
    low = 10.0 ** math.floor(math.log10(max(shortest, longest / 1e5)))
    with style():
        figure = Figure(figsize=(7.6, 0.55 * len(names) + 1.1), layout="constrained")
        axes = figure.subplots()
        for offset, part in ((-0.19, "compile"), (0.19, "run")):
            for row, value in enumerate(seconds[part]):
                if value > low:
                    axes.barh(row + offset, value - low, 0.36, left=low, color=colours[part])
        for row, timing in enumerate(timings.values()):
            value = timing.total_seconds
            axes.plot([value, value], [row - 0.4, row + 0.4], color="black", lw=1.5)
            axes.annotate(
                f"{format_seconds(value)} s",
                (value, row),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
            )
        axes.set_xscale("log")
        axes.set_xlim(low, longest * 4)
        plain_log_ticks(axes.xaxis, low, longest * 4)
        axes.grid(axis="x", color="#e5e5e5", lw=0.6)
        labels = [n if fits[n].has_result else f"{n} (no result)" for n in names]
        labels = [f"{n} (stored)" if n == comparison.outside else n for n in labels]
        axes.set(
            xlabel="seconds (log scale)",
            yticks=range(len(names)),
            yticklabels=labels,
            ylim=(len(names) - 0.45, -0.55),
        )
        axes.tick_params(axis="y", length=0)
        handles = [
            Line2D([], [], color=colour, lw=6, label=part) for part, colour in colours.items()
        ]
        handles.append(
            Line2D([], [], color="black", lw=0, marker="|", ms=11, mew=1.5, label="total")
        )
        figure.legend(handles=handles, loc="outside upper right", ncols=3)
    return figure
