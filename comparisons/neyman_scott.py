"""Neyman and Scott's pairs: why a point on each latent variable halves the variance."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.optimize import minimize_scalar
from scipy.stats import norm

import vi_recipes as vr
from vi_recipes.core import Progress
from vi_recipes.latent import Normals
from vi_recipes.report import COLOURS, GREY, plain_log_ticks

NUM_MEMBERS = (10, 30, 100, 300, 1_000, 3_000, 10_000)
NUM_REPLICATES = (2, 3, 5, 10, 20, 50)
FITTED = ((10, 2), (100, 2), (1_000, 2), (10_000, 2), (100, 5), (100, 20), (100, 50))
"""Members and observations of each in the data sets that the methods are run on."""

EXPLAINED = (2, 5, 20, 50)
"""Observations of each of 100 members where q(z) is looked at; among :data:`FITTED`."""

NEAR_POINTS = (0.1, 0.01, 0.001)
"""Sds of the normals that stand for a point mass, from which every KL divergence is infinite."""

WIDTHS = (0.0, 0.5, 0.8, 1.0)
"""Sds of q(z) over that of p(z | y, sigma); for 0 stands the narrowest near-point."""

TILTED = (2, 20)
"""Observations of each where likelihood and gap are drawn against sigma^2."""

NUM_DATA_SETS = 200
"""Simulated data sets of each size."""

JOINT, MARGINAL = COLOURS[1], COLOURS[0]


def exhibits(
    comparison: vr.Comparison, target: vr.Target, seed: int, progress: Progress
) -> Iterator[vr.Exhibit]:
    """Follow both maxima as members grow in number, and as observations of each do."""
    sizes = [(n, 2) for n in NUM_MEMBERS] + [(100, m) for m in NUM_REPLICATES]
    steps = len(sizes) + len(FITTED) + len(EXPLAINED)
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
    gaps = []
    for done, m in enumerate(EXPLAINED):
        progress(steps - len(EXPLAINED) + done, steps, f"the gap of points, {m} observations")
        gaps.append(Gap(target.model, first[100, m]))
    smallest = NEAR_POINTS[-1]
    yield vr.Exhibit(
        name="gap",
        title="What a point costs: the gap between log p and F",
        caption=(
            "F(q, sigma) = log p(y | sigma) - KL(q || p(z | y, sigma)), both by FreeEnergy, on the "
            "data with crosses, 100 members; h is the marginal maximum, sigma^2 = S / (N (M - 1)). "
            "Top left: p(z_n | y, h), the best q(z_n), narrows towards a point at the member's "
            "mean. Top right: the gap at h, a member, of narrow normals that stand for that point. "
            "It falls as the best q narrows, and grows without bound as the stand-in does. Bottom "
            "left: a member's share of log p, and of F with the near-point of sd "
            f"{smallest:g} (dashed, moved to touch it at h). What lies between is the gap, grey, "
            "which rises by 1/2 for each unit of log sigma^2, whatever M is. It moves the top "
            "(dots) the less, the more sharply log p bends, and that grows with M. Bottom right: "
            "the top of F over sigma^2 for q(z_n) of other sds, relative to h; lines: "
            "(M - 1 + c^2) / M, where c is the sd of q over that of the best q at h."
        ),
        content=gap_picture(gaps),
    )
    yield vr.Exhibit(
        name="gaps",
        title="The joint maximum, read off the gap",
        caption=(
            f"100 members, nats a member; near-points have an sd of {smallest:g}. Slope: the gap's "
            "rise at h for a unit of log sigma^2, by finite differences; the slope of log p is "
            "(M - 1) / 2 (h / sigma^2 - 1), so that both are equal at h (M - 1) / (M - 1 + 2 "
            "slope), which is (M - 1) / M of h for a slope of 1/2. Last: what MAP found, relative "
            "to what MarginalMLE found. The tilt is how much larger the gap is at h than at the "
            "joint maximum: 1/2 log(M / (M - 1)), about 1 / (2 M)."
        ),
        content=gap_table(gaps, fitted),
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


class Gap:
    """The free energy of normal q(z) around the members' means, a member's share.

    Parameters
    ----------
    model
        Of Neyman and Scott.
    y
        Observations, members by replicates.
    """

    def __init__(self, model: vr.Model, y: np.ndarray) -> None:
        self.energy = vr.FreeEnergy(vr.Target(model, y=y))
        self.num_members, self.num_replicates = y.shape
        self.top = closed_forms(y)[1]
        best = self.energy.posterior(self.point(1.0))
        assert isinstance(best, Normals)
        self.best = best

    def point(self, ratio: float) -> np.ndarray:
        """Return sigma on the unconstrained scale, for sigma^2 relative to the marginal maximum."""
        return self.energy.unconstrain({"sigma": np.sqrt(ratio * self.top)})

    @property
    def sd(self) -> float:
        """The sd of the best q(z_n) at the marginal maximum, the same for all members."""
        return float(np.sqrt(self.best.cov.mean()))

    def q(self, sd: float) -> Normals:
        """Return normals around the members' means."""
        return Normals(self.best.mean, np.full_like(self.best.cov, sd**2))

    def kl(self, sd: float, ratio: float = 1.0) -> float:
        """Return KL(q || p(z | y, sigma)), in nats a member."""
        return self.energy.divergence(self.q(sd), self.point(ratio)) / self.num_members

    def log_likelihood(self, ratio: float) -> float:
        """Return log p(y | sigma), in nats a member."""
        return self.energy.log_likelihood(self.point(ratio)) / self.num_members

    def estimate(self, width: float) -> float:
        """Return sigma^2 at the top of F for a q so many times as wide as the best."""
        q = self.q(width * self.sd or NEAR_POINTS[-1])
        found = minimize_scalar(
            lambda v: -self.energy(q, self.point(np.exp(v))), (-0.1, 0.0), tol=1e-9
        )
        return float(np.exp(found.x))

    @property
    def slope(self) -> float:
        """By how much a near-point's gap rises for a unit of log sigma^2."""
        step = 1e-3
        rise = self.kl(NEAR_POINTS[-1], np.exp(step)) - self.kl(NEAR_POINTS[-1], np.exp(-step))
        return rise / (2 * step)


def gap_picture(gaps: list[Gap]) -> Figure:
    """Draw q(z) and its gap as observations of each member grow."""
    figure = Figure(figsize=(8.6, 7.0), layout="constrained")
    (best, kl), (tilt, estimate) = figure.subplots(2, 2)
    away = np.linspace(-2.2, 2.2, 400)
    for gap, colour in zip(gaps, COLOURS, strict=False):
        label = f"M = {gap.num_replicates}, sd {gap.sd:.2f}"
        best.plot(away, norm.pdf(away, 0, gap.sd), color=colour, lw=1.4, label=label)
    best.axvline(0, color="black", lw=1.2, label="point")
    best.set(xlabel="z_n less the member's mean", ylabel="p(z_n | y, h)", ylim=(0, None))
    best.legend(loc="upper left")

    sizes = np.array([gap.num_replicates for gap in gaps])
    for sd, colour in zip(NEAR_POINTS, COLOURS[2:], strict=False):
        kl.plot(sizes, [gap.kl(sd) for gap in gaps], "o-", color=colour, ms=4, label=f"sd {sd:g}")
    kl.set(xlabel="observations of each, M (log scale)", ylabel="KL, nats a member", ylim=(0, 7.5))
    kl.legend(loc="upper right", ncols=3)

    ratios = np.geomspace(0.3, 2.0, 35)
    shown = [gap for gap in gaps if gap.num_replicates in TILTED]
    for gap, colour in zip(shown, (COLOURS[0], COLOURS[2]), strict=False):
        log_p = np.array([gap.log_likelihood(r) for r in ratios]) - gap.log_likelihood(1.0)
        extra = np.array([gap.kl(NEAR_POINTS[-1], r) for r in ratios]) - gap.kl(NEAR_POINTS[-1])
        name = f"M = {gap.num_replicates}"
        tilt.plot(ratios, log_p, color=colour, lw=1.4, label=f"log p, {name}")
        tilt.plot(ratios, log_p - extra, "--", color=colour, lw=1.4, label=f"F, {name}")
        tilt.plot(1, 0, "o", color=colour, ms=5)
        at = gap.estimate(0.0)
        height = gap.log_likelihood(at) - gap.log_likelihood(1.0)
        height -= gap.kl(NEAR_POINTS[-1], at) - gap.kl(NEAR_POINTS[-1])
        tilt.plot(at, height, "o", color=colour, ms=5, mfc="white")
        if gap is shown[0]:
            tilt.plot(ratios, extra, color=GREY, lw=1, label="gap, less the gap at h")
    tilt.set(xlabel="sigma^2 / h", ylabel="nats a member", ylim=(-1.2, 1.2))
    tilt.legend(loc="upper right", ncols=2)

    m = np.geomspace(sizes.min(), sizes.max(), 200)
    for width, colour in zip(WIDTHS, (JOINT, COLOURS[4], COLOURS[3], MARGINAL), strict=True):
        estimate.plot(m, (m - 1 + width**2) / m, color=colour, lw=1)
        found = [gap.estimate(width) for gap in gaps]
        label = f"{width:g} x the best" if width else "near-point"
        estimate.plot(sizes, found, "o", color=colour, ms=5, label=label)
    estimate.set(
        xlabel="observations of each, M (log scale)", ylabel="top of F / h", ylim=(0.4, 1.05)
    )
    estimate.legend(loc="lower right", title="sd of q(z_n)")
    for axes in (kl, estimate):
        axes.set_xscale("log")
        plain_log_ticks(axes.xaxis, sizes.min(), sizes.max())
    return figure


def gap_table(gaps: list[Gap], fitted: pd.DataFrame) -> pd.DataFrame:
    """Return the joint maximum as the gap and as the methods have it."""
    methods = fitted[fitted["N"] == 100].set_index("M")
    rows = []
    for gap in gaps:
        m, slope, joint = gap.num_replicates, gap.slope, gap.estimate(0.0)
        rows.append(
            {
                "M": m,
                "sd of the best q at h": gap.sd,
                "KL of the near-point": gap.kl(NEAR_POINTS[-1]),
                "tilt": gap.kl(NEAR_POINTS[-1]) - gap.kl(NEAR_POINTS[-1], joint),
                "slope": slope,
                "(M - 1) / (M - 1 + 2 slope)": (m - 1) / (m - 1 + 2 * slope),
                "top of F / h": joint,
                "(M - 1) / M": (m - 1) / m,
                "MAP / MarginalMLE": methods.loc[m, "MAP"] / methods.loc[m, "MarginalMLE"],
            }
        )
    return pd.DataFrame(rows)


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
        "as good as its distribution, and the paradox goes away as 1/M. As variational inference: "
        "MAP climbs log p(y | sigma) less the KL divergence of points from p(z | y, sigma). That "
        "gap has no finite value, but a slope, 1/2 a member for each unit of log sigma^2, and the "
        "likelihood bends by (M - 1) / 2 there: they balance at the true value times (M - 1) / M."
    ),
    exhibits=exhibits,
)
