"""Old Faithful: EM, coordinate-ascent VB, SVI and NUTS on one two-component normal mixture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from matplotlib.ticker import MaxNLocator

import vi_recipes as vr
from vi_recipes.core import Progress
from vi_recipes.report import COLOURS, GREY

NUM_COMPONENTS = (1, 2, 3, 4, 5, 6)
NUM_STARTS = 10
NUM_DRAWS = 40
"""Draws of every component that are drawn as ellipses."""

COLUMNS = 4


def exhibits(
    comparison: vr.Comparison, target: vr.Target, seed: int, progress: Progress
) -> Iterator[vr.Exhibit]:
    """Draw the fitted components over the data, and the ELBO by the number of components."""
    y = np.asarray(target.data["y"])
    yield vr.Exhibit(
        name="components",
        title="The components by method",
        caption=(
            "Ellipses hold the points within two sds of a component's mean: at the means of mu and "
            f"Sigma (thick) and at {NUM_DRAWS} draws from each method's posterior (thin; EM's is "
            "normal with the observed information, MAP has none). A component has one colour "
            "throughout, labels being aligned. Dashed: NUTS."
        ),
        content=components(comparison, y, seed),
    )
    fits = []
    for done, k in enumerate(NUM_COMPONENTS):
        progress(done, len(NUM_COMPONENTS), f"CAVI with {k} component(s)")
        bigger = vr.Target(target.model, **{**target.data, "num_components": k})
        fits.append(vr.CAVI(num_starts=NUM_STARTS).fit(bigger, key=seed, throw=True))
    yield vr.Exhibit(
        name="choice_of_k",
        title="How many components",
        caption=(
            f"Coordinate-ascent VB with K components from {NUM_STARTS} starts. Left: the ELBO "
            "each start ended at (circles), and the best plus log K! (line), as the K! "
            "relabellings of a solution are equally good and the factors hold one of them. Right: "
            "the effective number of components at the best, the exponential of the entropy of "
            "their expected weights; dashed, K."
        ),
        content=choice(fits),
    )


def components(comparison: vr.Comparison, y: np.ndarray, seed: int) -> Figure:
    """Draw a panel per method with its components over the data."""
    fits = {name: fit for name, fit in comparison.items() if fit.has_result}
    num_rows = math.ceil(len(fits) / COLUMNS)
    figure = Figure(figsize=(9.2, 2.5 * num_rows + 0.3), layout="constrained")
    grid = figure.subplots(num_rows, COLUMNS, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (name, fit) in zip(grid, fits.items(), strict=False):
        axes.plot(*y.T, ".", color=GREY, ms=2, alpha=0.5)
        point = fit.mean()
        if not np.isnan(fit.sd()["mu"]).any():
            draws = fit.draws(NUM_DRAWS, seed)
            for mu, sigma in zip(draws["mu"], draws["Sigma"], strict=True):
                ellipses(axes, mu, sigma, lw=0.5, alpha=0.3)
        ellipses(axes, point["mu"], point["Sigma"], lw=1.6)
        if comparison.reference is not None and name != comparison.reference_name:
            nuts = comparison.reference.mean()
            ellipses(axes, nuts["mu"], nuts["Sigma"], lw=0.9, ls="--", color="black")
        axes.set_title(name)
    for axes in grid[len(fits) :]:
        axes.set_axis_off()
    figure.supxlabel("length of the eruption (minutes)", fontsize=9)
    figure.supylabel("wait for the next (minutes)", fontsize=9)
    return figure


def ellipses(
    axes: Axes, mu: np.ndarray, sigma: np.ndarray, *, color: str = "", **line: float | str
) -> None:
    """Draw each component's points at two sds from its mean."""
    for k, (centre, covariance) in enumerate(zip(mu, sigma, strict=True)):
        values, vectors = np.linalg.eigh(covariance)
        if values.min() > 0:  # a normal approximation may draw what is no covariance
            width, height = 4 * np.sqrt(values)
            turned = np.degrees(np.arctan2(vectors[1, 0], vectors[0, 0]))
            edge = color or COLOURS[k]
            axes.add_patch(
                Ellipse(tuple(centre), width, height, angle=turned, fill=False, ec=edge, **line)  # type: ignore[arg-type]
            )
    axes.autoscale_view()


def choice(fits: Sequence[vr.Fit]) -> Figure:
    """Draw the ELBO and the effective number of components against K."""
    figure = Figure(figsize=(8.6, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    best = [fit.diagnostics["elbo"] for fit in fits]
    for k, fit in zip(NUM_COMPONENTS, fits, strict=True):
        ends = np.asarray(fit.trace["elbo"])[:, -1]
        left.plot(np.full(ends.size, k), ends, "o", color=COLOURS[0], mfc="none", ms=5, alpha=0.7)
    corrected = [b + math.lgamma(k + 1) for b, k in zip(best, NUM_COMPONENTS, strict=True)]
    left.plot(NUM_COMPONENTS, corrected, color=COLOURS[1], marker="D", ms=4, lw=1.2)
    # one component is far below the rest: the axis is for telling those apart
    later = np.concatenate([np.asarray(fit.trace["elbo"])[:, -1] for fit in fits[1:]])
    low, high = later.min(), max(corrected)
    left.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))
    if best[0] < low:
        below = f"{best[0]:.0f} ↓".replace("-", "−")
        left.text(NUM_COMPONENTS[0], low, below, ha="center", color=GREY)
    left.set(xlabel="components, K", ylabel="ELBO (nats)")
    used = [fit.diagnostics["effective_components"] for fit in fits]
    right.plot(NUM_COMPONENTS, NUM_COMPONENTS, color=GREY, lw=0.8, ls="--")
    right.plot(NUM_COMPONENTS, used, color=COLOURS[0], marker="s", ms=4)
    right.set(xlabel="components, K", ylabel="effective number of components", ylim=(0, None))
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlim(min(NUM_COMPONENTS) - 0.7, max(NUM_COMPONENTS) + 0.5)
    return figure


STUDY = vr.Study(
    name="gmm",
    model="gmm",
    methods={
        "em": vr.EM(num_starts=10),
        "em_map": vr.EM(objective="map", num_starts=10),
        "map": vr.MAP(),
        "laplace": vr.Laplace(),
        "cavi": vr.CAVI(num_starts=10),
        "svi": vr.SVI(),
        "svi_full": vr.SVI(guide="multivariate_normal"),
        "nuts": vr.NUTS(num_samples=2_000),
    },
    reference="nuts",
    description=(
        "272 eruptions, two components with full covariances. Labels are exchangeable and are "
        "matched before anything is compared. All methods agree on weights and means, to 0.1 of "
        "NUTS's sds. They differ in the covariances, whose posteriors are skewed: at the maximum "
        "likelihood (em) they are up to 0.55 sds too small, at the joint mode (em_map and map, "
        "which meet) up to 0.45. Coordinate-ascent VB, whose factors have the right skewed form, "
        "is within 0.03 sds for every mean with 0.94 to 1.01 of the sds, at about the cost of EM; "
        "SVI with independent normals has 0.85 to 1.00 of the sds. The ELBO chooses the number of "
        "components: two, 4 nats ahead of three and 141 of one."
    ),
    exhibits=exhibits,
)
