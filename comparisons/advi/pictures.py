"""Pictures and tables of races."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from vi_recipes.report import COLOURS, GREY

from .races import Race

LEVELS = (0.5, 0.1)
"""Errors, in posterior sds, whose times are in the table."""

FLOOR = 1e-3
"""Errors below this are drawn here."""


def curves(races: list[Race]) -> Figure:
    """Draw every model's errors against seconds of run, and where a first fit ends."""
    columns = 3
    lines = -(-(len(races) + 1) // columns)
    figure = Figure(figsize=(10.0, 3.1 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, found in zip(panels, races, strict=False):
        for curve, look, label in (
            (found.last, {"color": COLOURS[4], "lw": 1}, "plain SVI, last iterate"),
            (found.average, {"color": COLOURS[0], "lw": 1.8}, "plain SVI, average"),
            (
                found.own_rule,
                {"color": COLOURS[2], "lw": 1.4, "marker": "D", "ms": 4},
                "SVI by its own rule",
            ),
            (found.nuts, {"color": COLOURS[3], "lw": 1.4}, "NUTS, mean of draws so far"),
        ):
            errors = np.maximum(curve.errors, FLOOR)
            axes.plot(curve.seconds, errors, label=label, **look)
            if errors.size:
                end = (curve.since_start[-1], errors[-1])
                axes.plot(*end, "o", color=look["color"], mfc="white", ms=6)
                axes.plot([curve.seconds[-1], end[0]], [end[1]] * 2, ":", color=look["color"], lw=1)
        for fit, colour, label in (
            (found.first, COLOURS[1], "mean field by Newton's method, first fit"),
            (found.response, "black", "linear response, first fit"),
        ):
            if fit.has_result:
                seconds = fit.timing.alone_seconds
                axes.axvline(seconds, color=colour, lw=1.4, label=label)
        axes.axvline(found.meanfield.timing.run_seconds, color=COLOURS[1], lw=1.2, ls=":",
                     label="mean field again, compiled")  # fmt: skip
        if np.isfinite(found.bias):
            axes.axhline(found.bias, color=GREY, lw=1, ls="--",
                         label="mean-field optimum from NUTS's mean")  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel="seconds", ylabel="largest error (sd)")
        axes.set_title(f"{found.name} ({found.dim:,})")
    for axes in panels[len(races) :]:
        axes.set_axis_off()
    panels[len(races)].legend(*panels[0].get_legend_handles_labels(), loc="center")
    return figure


def told(races: list[Race]) -> str:
    """Say what each way came to in its first fit, model by model."""
    return " ".join(f"{found.name}: {'; '.join(ends(found))}." for found in races)


def ends(found: Race) -> list[str]:
    """Return where a first fit of each way ends, and after which seconds."""
    parts = [f"Newton's optimum after {found.first.timing.alone_seconds:.3g} s"]
    for way, curve in (
        ("plain SVI's last iterate", found.last),
        ("its average", found.average),
        ("SVI by its own rule", found.own_rule),
    ):
        if curve.seconds.size:
            parts.append(
                f"{way} {sds(curve.errors[-1])} from it after {curve.since_start[-1]:.3g} s"
            )
    if np.isfinite(found.bias):
        timing = found.sampler.timing
        parts.append(f"NUTS {timing.alone_seconds:.3g} s, {sds(found.bias)} from that optimum")
    return parts


def sds(error: float) -> str:
    """Return an error in words."""
    return f"{error:,.0f} sds" if error >= 100 else f"{error:.2g} sds"


def table(races: list[Race]) -> pd.DataFrame:
    """Return the seconds of every model and way."""
    return pd.DataFrame([row for found in races for row in rows_of(found)])


def rows_of(found: Race) -> list[dict[str, Any]]:
    """Return a row for every way to fit a model."""
    rows = []

    def add(way: str, compiling: float, run: float, **more: str) -> None:
        empty = {f"within {level:g} sd (s)": "" for level in LEVELS}
        rows.append(
            {
                "model": found.name if not rows else "",
                "way": way,
                "compile (s)": f"{compiling:.1f}",
                "run (s)": f"{run:.2f}",
                **empty,
                "error at the end (sd)": "",
                "end": "",
            }
            | more
        )

    for way, fit in (("mean field, Newton", found.first), ("linear response", found.response)):
        timing = fit.timing
        add(way, timing.alone_seconds - timing.run_seconds, timing.run_seconds, end=fit.status.name)
    for way, curve, end in (
        ("SVI, plain", found.average, f"sd ratio furthest from 1: {found.sd_error:.2f}"),
        ("SVI, own rule", found.own_rule, ending(found)),
        ("NUTS", found.nuts, found.sampler.status.name),
    ):
        if not curve.seconds.size:
            add(way, 0.0, 0.0, end=end)
            continue
        whole = found.sampler.timing.run_seconds if way == "NUTS" else float(curve.seconds[-1])
        more = {f"within {level:g} sd (s)": reached(curve.reached(level)) for level in LEVELS}
        more["error at the end (sd)"] = f"{curve.errors[-1]:.3f}"
        add(way, curve.compile_seconds, whole, **more, end=end)
    return rows


def ending(found: Race) -> str:
    """Return how the run by its own rule began and ended."""
    fit = found.own_fit
    if not fit.has_result:
        return fit.status.name
    begun = "mode" if "it began at the MAP" in fit.message else "default start, there being no mode"
    return f"{fit.status.name} after {fit.diagnostics['num_steps']:,.0f} steps from the {begun}"


def reached(seconds: float) -> str:
    """Return seconds, or that they were too few."""
    return f"{seconds:.2f}" if np.isfinite(seconds) else "not in time"
