"""How far below the maximum each method is, step by step."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

import vi_recipes as vr
from vi_recipes.comparison import fit_styles

GAP = 1e-7
"""Nats below the top at which the plots end."""


def paths(comparison: vr.Comparison) -> Figure:
    """Draw by iteration how far every method is below the highest point that any reached."""
    found = {
        name: np.atleast_2d(fit.trace[quantity])
        for name, fit in comparison.items()
        for quantity in ("log_likelihood", "free_energy")
        if quantity in fit.trace
    }
    best = max(float(np.nanmax(path)) for path in found.values())
    figure = Figure(figsize=(7.6, 3.8), layout="constrained")
    axes = figure.subplots()
    styles = fit_styles(comparison)
    for name, path in found.items():
        run = path[np.nanargmax(path[:, -1])]
        gap = np.maximum(best - run, GAP / 10)
        seconds = comparison[name].timing.run_seconds
        label = f"{name} ({seconds:.2f} s)"
        axes.plot(np.arange(1, run.size + 1), gap, color=styles[name][0], lw=1.4, label=label)
    axes.set(
        xlabel="iteration", ylabel="nats below the maximum", xscale="log", yscale="log",
        ylim=(GAP, None),
    )  # fmt: skip
    axes.legend(loc="upper right")
    return figure
