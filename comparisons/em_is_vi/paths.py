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


def steps_taken(comparison: vr.Comparison) -> str:
    """Say how many iterations every method took that has a path."""
    words = [
        f"{name} {fit.diagnostics['iterations']:,.0f}"
        for name, fit in comparison.items()
        if {"log_likelihood", "free_energy"} & set(fit.trace) and "iterations" in fit.diagnostics
    ]
    return f" Iterations: {', '.join(words)}." if words else ""


def against_the_reference(comparison: vr.Comparison, name: str = "marginal_mle") -> str:
    """Say how far an estimate of theta and its standard errors are from the reference."""
    fit, reference = comparison.get(name), comparison.reference
    if fit is None or reference is None or reference is fit or not fit.has_result:
        return ""
    away, ratio = [], []
    for site in ("pi", "log_lam"):
        sd = np.ravel(reference.sd()[site])
        away.append(np.abs(np.ravel(fit.mean()[site]) - np.ravel(reference.mean()[site])) / sd)
        ratio.append(np.ravel(fit.sd()[site]) / sd)
    far, wide = np.max(np.concatenate(away)), np.concatenate(ratio)
    return (
        f" {name}'s estimates are up to {far:.2f} posterior sds off {comparison.reference_name}'s "
        f"means and its standard errors {wide.min():.2f} to {wide.max():.2f} of its sds: the "
        "posterior is skewed and has a prior."
    )
