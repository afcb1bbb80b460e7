"""Pictures and tables of variances and of ways up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import norm

from vi_recipes.report import COLOURS, MARKERS

from .climbs import GAP, WINDOW, Climb
from .clock import Clocked
from .estimators import DIM, DIMS, ESTIMATORS, NOTHING, Measured


def look(name: str) -> dict[str, Any]:
    """Return an estimator's colour and marker, and whether its line is dashed: scores are."""
    place = list(ESTIMATORS).index(name)
    return {
        "color": COLOURS[place],
        "marker": MARKERS[place],
        "ls": "--" if name.startswith("score") else "-",
    }


def variance_picture(measured: dict[str, list[list[Measured]]]) -> Figure:
    """Draw variances against the dimension: in means above, in log sds below."""
    figure = Figure(figsize=(9.0, 6.6), layout="constrained")
    rows = figure.subplots(2, 2, sharex=True, sharey=True)
    for j, where in enumerate(("q at the prior", "q at its best")):
        for i, what in enumerate(("means", "log sds")):
            axes = rows[i][j]
            for name, by_dim in measured.items():
                values = np.array([at[j].variance[i] for at in by_dim])
                values[values < NOTHING] = np.nan
                wide = {"ms": 9, "mfc": "none"} if name == "pathwise_kl" else {"ms": 5}
                axes.plot(DIMS, values, label=ESTIMATORS[name], lw=1.4, **wide, **look(name))
            axes.set(xscale="log", yscale="log")
            axes.set_title(f"{where}: gradient in the {what}")
        rows[1][j].set_xlabel("coefficients")
        rows[1][j].set_xticks(DIMS, [str(dim) for dim in DIMS], minor=False)
        rows[1][j].minorticks_off()
    for row in rows:
        row[0].set_ylabel("variance")
    figure.legend(*rows[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def variance_table(measured: dict[str, list[list[Measured]]]) -> pd.DataFrame:
    """Return the variances in one dimension, and their growth."""
    rows = []
    span = np.log(DIMS[-1] / DIMS[-2])
    for name, by_dim in measured.items():
        row: dict[str, Any] = {"estimator": ESTIMATORS[name]}
        for j, where in enumerate(("prior", "best")):
            variances = np.array([at[j].variance.mean() for at in by_dim])
            row[f"means, {where}"], row[f"log sds, {where}"] = by_dim[DIMS.index(DIM)][j].variance
            row[f"growth, {where}"] = float(np.log(variances[-1] / variances[-2]) / span)
        row["bias"] = max(m.bias for at in by_dim for m in at)
        row["by chance, 1 in 100"] = by_chance(0.01)
        rows.append(row)
    return pd.DataFrame(rows)


def num_scores() -> int:
    """Return of how many differences the bias is the largest: two a coefficient and a place."""
    return 4 * sum(DIMS)


def by_chance(share: float) -> float:
    """Return what the largest of as many standard normal scores exceeds in a share of samples."""
    return float(norm.isf((1 - (1 - share) ** (1 / num_scores())) / 2))


def coincidence(measured: dict[str, list[list[Measured]]]) -> float:
    """Return the largest relative difference of two variances with q at the prior.

    Those of sticking the landing, and of the closed-form KL.
    """
    pairs = zip(measured["sticking"], measured["pathwise_kl"], strict=True)
    return max(float(np.abs(a[0].variance / b[0].variance - 1).max()) for a, b in pairs)


def climb_picture(climbs: dict[str, Climb], times: Clocked) -> Figure:
    """Draw the gaps against steps, and against seconds if noise is below what they show."""
    figure = Figure(figsize=(9.0, 4.6), layout="constrained")
    panels = figure.subplots(1, 1 + times.settled, sharey=True, squeeze=False)[0]
    for name, climb in climbs.items():
        steps = WINDOW * np.arange(1, len(climb.gaps) + 1)
        style = {**look(name), "marker": None, "lw": 1.3}
        each = times.seconds[name].median / climb.shown
        label = f"{ESTIMATORS[name]}; steps of {climb.step_size:g}"
        for axes, unit in zip(panels, (1.0, each), strict=False):
            axes.plot(steps * unit, climb.gaps, label=label, **style)
    for axes, label in zip(panels, ("steps", "seconds"), strict=False):
        axes.axhline(GAP, color="black", ls=":", lw=0.9)
        axes.set(xscale="log", yscale="log", xlabel=label)
    panels[0].set_ylabel("nats below the best ELBO")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def climb_table(climbs: dict[str, Climb], times: Clocked) -> pd.DataFrame:
    """Return when every estimator arrives; seconds only where noise is below what they show."""
    rows = []
    for name, climb in climbs.items():
        row = {
            "estimator": ESTIMATORS[name],
            "step size": f"{climb.step_size:g}",
            "steps": "not in time" if climb.steps is None else f"{climb.steps:,}",
        }
        if times.settled:
            each = times.seconds[name] * (1e6 / climb.shown)
            seconds = times.seconds[name]
            row |= {
                "microseconds a step": f"{each.median:.4g} ± {each.error:.1g}",
                "seconds": f"{seconds.median:.3g} ± {seconds.error:.1g}" if climb.steps else "",
                "not told from": ", ".join(ESTIMATORS[n] for n in times.not_told_from(name)),
            }
        rows.append(row)
    return pd.DataFrame(rows)
