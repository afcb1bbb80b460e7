"""Neyman and Scott's pairs: why a point on each latent variable halves the variance."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import vi_recipes as vr
from vi_recipes.core import Progress
from vi_recipes.report import COLOURS, GREY, plain_log_ticks

NUM_MEMBERS = (10, 30, 100, 300, 1_000, 3_000, 10_000)
NUM_REPLICATES = (2, 3, 5, 10, 20, 50)
FITTED = ((10, 2), (100, 2), (1_000, 2), (10_000, 2), (100, 5), (100, 20))
"""Members and observations of each in the data sets that the methods are run on."""

NUM_DATA_SETS = 200
"""Simulated data sets of each size."""

JOINT, MARGINAL = COLOURS[1], COLOURS[0]


def exhibits(
    comparison: vr.Comparison, target: vr.Target, seed: int, progress: Progress
) -> Iterator[vr.Exhibit]:
    """Follow both maxima as members grow in number, and as observations of each do."""
    sizes = [(n, 2) for n in NUM_MEMBERS] + [(100, m) for m in NUM_REPLICATES]
    steps = len(sizes) + len(FITTED)
    first, spread = {}, {}
    for done, (n, m) in enumerate(sizes):
        progress(done, steps, f"{NUM_DATA_SETS} data sets of {n} x {m}")
        seeds = np.random.SeedSequence([seed, n, m]).generate_state(NUM_DATA_SETS)
        data = [simulated(target.model, int(s), n, m) for s in seeds]
        first[n, m] = data[0]
        spread[n, m] = np.array([closed_forms(y) for y in data])
    rows = []
    for done, (n, m) in enumerate(FITTED):
        progress(len(sizes) + done, steps, f"MAP and marginal MLE of {n} x {m}")
        rows.append(estimates(target.model, first[n, m]))
    fitted = pd.DataFrame(rows)
    yield vr.Exhibit(
        name="growth",
        title="More members, or more observations of each",
        caption=(
            f"Estimates of sigma^2, whose true value is 1, in {NUM_DATA_SETS} simulated data sets "
            "of each size: median and central 90 %. Left: pairs; the joint maximum settles on 1/2, "
            "the marginal one on 1. Right: 100 members; the joint maximum follows (M - 1) / M, "
            "dashed, and the two meet. Crosses: MAP and MarginalMLE on one of the data sets."
        ),
        content=growth(spread, fitted),
    )
    yield vr.Exhibit(
        name="closed_forms",
        title="The methods against the closed forms",
        caption=(
            "Sigma^2 by MAP and MarginalMLE on the data sets with crosses, N members with M "
            "observations each, beside the formulas; S is the sum of squares around the members' "
            "means."
        ),
        content=fitted,
    )


def simulated(model: vr.Model, seed: int, num_members: int, num_replicates: int) -> np.ndarray:
    """Return observations with sigma = 1, members by replicates."""
    assert model.simulate is not None
    return model.simulate(seed=seed, num_members=num_members, num_replicates=num_replicates)["y"]


def closed_forms(y: np.ndarray) -> tuple[float, float]:
    """Return sigma^2 at the joint and at the marginal maximum: S / (N M) and S / (N (M - 1))."""
    within = y.var(axis=1).mean()
    return within, within * y.shape[1] / (y.shape[1] - 1)


def estimates(model: vr.Model, y: np.ndarray) -> dict[str, float]:
    """Return sigma^2 by the methods and by the formulas."""
    target = vr.Target(model, y=y)
    joint, marginal = closed_forms(y)
    variance = {
        method.name: float(method.fit(target, key=0, throw=True).mean()["sigma"] ** 2)
        for method in (vr.MAP(), vr.MarginalMLE())
    }
    return {
        "N": len(y),
        "M": y.shape[1],
        "MAP": variance["map"],
        "S / (N M)": joint,
        "MarginalMLE": variance["marginal_mle"],
        "S / (N (M - 1))": marginal,
        "largest relative difference": max(
            abs(variance["map"] / joint - 1), abs(variance["marginal_mle"] / marginal - 1)
        ),
    }


def growth(spread: dict[tuple[int, int], np.ndarray], fitted: pd.DataFrame) -> Figure:
    """Draw both maxima against the number of pairs and against observations per member."""
    figure = Figure(figsize=(8.6, 3.9), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    by_members = {n: values for (n, m), values in spread.items() if m == 2}
    by_replicates = {m: values for (n, m), values in spread.items() if n == 100}
    for axes, by_size, size, fixed in (
        (left, by_members, "N", fitted["M"] == 2),
        (right, by_replicates, "M", fitted["N"] == 100),
    ):
        band(axes, by_size)
        for name, colour in (("MAP", JOINT), ("MarginalMLE", MARGINAL)):
            x, y = fitted.loc[fixed, size], fitted.loc[fixed, name]
            axes.plot(x, y, "x", color=colour, ms=7, mew=1.8)
        axes.axhline(1.0, color="black", lw=0.8, zorder=0)
        axes.set_xscale("log")
        low, high = min(by_size), max(by_size)
        axes.set_xlim(low / 1.15, high * 1.15)
        plain_log_ticks(axes.xaxis, low, high)
    left.axhline(0.5, color=GREY, lw=0.8, ls="--", zorder=0)
    m = np.geomspace(2, max(by_replicates), 200)
    right.plot(m, (m - 1) / m, color=GREY, lw=0.8, ls="--", zorder=0)
    left.set(xlabel="pairs, N (log scale)", ylabel="estimate of sigma^2 (truth: 1)", ylim=(0, None))
    right.set_xlabel("observations of each of 100 members, M (log scale)")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def band(axes: Axes, by_size: dict[int, np.ndarray]) -> None:
    """Draw the median and the central 90 % of both maxima against a size."""
    x = list(by_size)
    low, middle, high = np.quantile(np.stack(list(by_size.values())), (0.05, 0.5, 0.95), axis=1)
    for k, (name, colour) in enumerate(
        (("joint maximum (z at points)", JOINT), ("marginal maximum (z integrated out)", MARGINAL))
    ):
        axes.fill_between(x, low[:, k], high[:, k], color=colour, alpha=0.2, lw=0)
        axes.plot(x, middle[:, k], "o-", color=colour, ms=3.5, label=name)


STUDY = vr.Study(
    name="neyman_scott",
    model="neyman_scott",
    methods={
        "map": vr.MAP(),
        "em": vr.EM(),
        "marginal_mle": vr.MarginalMLE(),
        "meanfield": vr.MeanField(),
        "lrvb": vr.LinearResponse(),
        "nuts": vr.NUTS(num_samples=2_000),
    },
    reference="nuts",
    description=(
        "100 pairs of observations, each pair with a mean z_n of its own, and one sd, sigma = 1. "
        "All priors are flat, so methods differ only in what they do with z. Points on z (MAP) "
        "leave out that each z_n is itself uncertain: sigma^2 comes out at half its value, 4 "
        "posterior sds too low, and more pairs only make that more certain. With z integrated out "
        "(EM, marginal MLE) the estimate is consistent and agrees with NUTS. Mean field, a "
        "distribution over z that ignores sigma, has the mean of sigma right and 0.7 of its sd; "
        "linear response restores the sd. With more observations of each member a point on z is "
        "as good as its distribution, and the paradox goes away as 1/M."
    ),
    exhibits=exhibits,
)
