"""Nested quadrature: error against seconds, for every method that has sds, on two models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import vi_recipes as vr
from vi_recipes.core import Progress, find
from vi_recipes.report import (
    COLOURS,
    GREY,
    MARKERS,
    format_number,
    format_seconds,
    plain_log_ticks,
    style,
)

LARGE = {"meanfield": vr.MeanField(), "lrvb": vr.LinearResponse(), "nested": vr.NestedQuadrature()}

SMALL = {
    "meanfield": vr.MeanField(),
    "lrvb": vr.LinearResponse(),
    "nested": vr.NestedQuadrature(),
    "svi": vr.SVI(guide="multivariate_normal"),
    "nuts": vr.NUTS(),
}

FLOOR = 1e-3
"""Errors below this are drawn here."""


@dataclass(frozen=True)
class Panel:
    """One model's methods.

    Parameters
    ----------
    name
        Of the model.
    rows
        A row a method: ``seconds``, ``mean_error`` and where, ``sd_error``, ``verdict``.
    known
        Reference sds that the reference's own means are known to, at worst.
    reference_seconds
        What the reference took; NaN where that is not known.
    """

    name: str
    rows: pd.DataFrame
    known: float
    reference_seconds: float


def panel(name: str, comparison: vr.Comparison) -> Panel:
    """Return the largest errors of all methods of a comparison, beside their seconds."""
    accuracy, verdicts = comparison.accuracy(), comparison.verdict_of
    seconds = comparison.timings()["alone_seconds"]
    rows = {}
    for method in comparison:
        if method not in accuracy.index.get_level_values("method"):
            continue
        mine = accuracy.xs(method, level="method")[["difference", "sd_ratio"]].astype(float)
        off, ratio = mine["difference"].abs().dropna(), mine["sd_ratio"].dropna()
        apart = np.maximum(ratio, 1 / ratio) - 1
        rows[method] = {
            "seconds": float(seconds[method]),
            "mean_error": float(off.max()),
            "mean_at": str(off.idxmax()),
            "sd_error": float(apart.max()),
            "sd_at": str(apart.idxmax()),
            "verdict": verdicts[method].trust.value,
            "ok": comparison[method].status.ok,
        }
    reference = comparison.reference
    assert reference is not None
    names = [s.name for s in reference.sites]
    mcse, sd = reference.flat(reference.mcse(), names), reference.flat(reference.sd(), names)
    with np.errstate(divide="ignore", invalid="ignore"):
        known = np.nanmax(np.where(sd > 0, mcse / sd, np.nan))
    total = reference.timing.total_seconds
    return Panel(name, pd.DataFrame(rows).T, float(known), total if total > 0 else float("nan"))


def picture(panels: list[Panel]) -> Figure:
    """Draw errors of means and of sds against seconds, a column a model."""
    methods = list(dict.fromkeys(m for p in panels for m in p.rows.index))
    figure = Figure(figsize=(4.4 * len(panels), 6.0), layout="constrained")
    grid = figure.subplots(2, len(panels), squeeze=False, sharex="col")
    for column, found in zip(grid.T, panels, strict=True):
        for axes, what in zip(column, ("mean_error", "sd_error"), strict=True):
            for method, row in found.rows.iterrows():
                k = methods.index(str(method))
                face = COLOURS[k % len(COLOURS)] if row["ok"] else "white"
                axes.plot(row["seconds"], max(row[what], FLOOR), MARKERS[k % len(MARKERS)], ms=8,
                          color=COLOURS[k % len(COLOURS)], mfc=face,
                          label=str(method))  # fmt: skip
            axes.axhline(0.1, color=GREY, lw=0.8, ls=":")
            axes.set(xscale="log", yscale="log")
            axes.grid(color="#e5e5e5", lw=0.6)
            if np.isfinite(found.reference_seconds):
                axes.axvline(found.reference_seconds, color="black", lw=1,
                             label="the reference's seconds")  # fmt: skip
            seconds = [*found.rows["seconds"], found.reference_seconds]
            ends = float(np.nanmin(seconds)) / 1.5, 1.5 * float(np.nanmax(seconds))
            axes.set_xlim(*ends)
            plain_log_ticks(axes.xaxis, *ends)
        column[0].axhspan(FLOOR / 10, found.known, color="#eeeeee", label="the reference's error")
        column[0].set_ylim(bottom=FLOOR)
        column[0].set_title(found.name)
        column[1].set_xlabel("seconds, compilation included")
    grid[0, 0].set_ylabel("largest error of a mean (sds)")
    grid[1, 0].set_ylabel("largest relative error of an sd")
    handles = {
        label: handle
        for axes in grid.ravel()
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
    return figure


def table(panels: list[Panel]) -> pd.DataFrame:
    """Return seconds, errors and verdicts, a row a model and method."""
    rows = []
    for found in panels:
        for method, row in found.rows.iterrows():
            rows.append(
                {
                    "model": found.name,
                    "method": str(method) if row["ok"] else f"{method} (provisional)",
                    "seconds": format_seconds(row["seconds"]),
                    "largest error of a mean (sds)": format_number(row["mean_error"], 2),
                    "at": row["mean_at"],
                    "largest error of an sd": f"{row['sd_error']:.0%}",
                    "at ": row["sd_at"],
                    "verdict": row["verdict"],
                }
            )
    return pd.DataFrame(rows)


def caption(panels: list[Panel]) -> str:
    """Say what every model's picture shows, by its numbers."""
    said = []
    for found in panels:
        if "nested" not in found.rows.index:
            continue
        nested = found.rows.loc["nested"]
        others = found.rows.drop(index="nested")
        text = (
            f"{found.name}: nested quadrature takes {format_seconds(nested['seconds'])} s; its "
            f"means are at most {format_number(nested['mean_error'], 2)} sds off, its sds "
            f"{nested['sd_error']:.0%}, of a reference that is known to "
            f"{format_number(found.known, 2)} sds"
        )
        if len(others):
            errors = others["mean_error"].astype(float)
            text += (
                f". Of the others {errors.idxmin()} is nearest, "
                f"{format_number(float(errors.min()), 2)} sds off in "
                f"{format_seconds(others.loc[errors.idxmin(), 'seconds'])} s"
            )
        said.append(text)
    marks = "An open mark is a fit that did not meet its own criterion; dotted, a tenth."
    return ". ".join([*said, marks])


def exhibits(
    comparison: vr.Comparison, target: vr.Target, seed: int, progress: Progress
) -> Iterator[vr.Exhibit]:
    """Show errors against seconds on radon and criteo."""
    radon = vr.Target(vr.load_model("radon"))
    answers = vr.load_reference(find("models")["radon"].with_name("reference.json"), radon)
    progress(0, 1, "radon")
    small = vr.compare(radon, SMALL, reference=answers, key=seed, assessed=False)
    panels = [panel("radon", small), panel("criteo", comparison)]
    with style():
        figure = picture(panels)
    yield vr.Exhibit(
        name="error_and_seconds",
        title="Error against seconds",
        caption=caption(panels),
        content=figure,
    )
    yield vr.Exhibit(
        name="errors",
        title="The same in numbers",
        caption=(
            "Each method alone, compilation included. Errors are against answers that were "
            "computed elsewhere (radon) and a stored run of NUTS (criteo)."
        ),
        content=table(panels),
    )


STUDY = vr.Study(
    name="nested",
    model="criteo",
    methods=LARGE,
    reference=Path(__file__).with_name("criteo.json"),
    exhibits=exhibits,
    description=(
        "Can the fast method be trusted? Where local latent variables are independent given a "
        "few parameters, nested quadrature knows the posterior with an error, and tells. Each "
        "member is integrated out by itself, then the parameters by weighed points. Beside it are "
        "mean field, which understates, linear response, which repairs sds and not means, and on "
        "radon SVI with a full covariance and NUTS."
    ),
)
