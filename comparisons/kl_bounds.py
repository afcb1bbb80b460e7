"""KL in numbers: never below 0, 0 for one q alone, not symmetric; and what bounds what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import multivariate_normal

import vi_recipes as vr
from vi_recipes.core import Progress, find
from vi_recipes.report import COLOURS, GREY

REACH, NUM_GRID = 16.0, 1_281
"""The grid in p's own units, and its points a dimension: fine enough for a q of a tenth of them."""

MAX_ERROR = 1e-8
"""By how much integrals of p and q, which are 1, may be off on the grid, and KL off its formula."""

NUM_RANDOM, RANDOM_GRID = 200, 321
"""Normals drawn at random, and points a dimension for each of them."""


@dataclass(frozen=True)
class Normal:
    """A normal of two variables.

    Parameters
    ----------
    mean, covariance
        Shapes (2,) and (2, 2).
    """

    mean: np.ndarray
    covariance: np.ndarray

    def log_density(self, x: np.ndarray) -> np.ndarray:
        """Return the log density at points, shape (points,)."""
        return np.asarray(multivariate_normal(self.mean, self.covariance).logpdf(x))


@dataclass(frozen=True)
class Measures:
    """How far q is from p, in every way.

    Parameters
    ----------
    kl_qp, kl_pq
        KL(q || p) and KL(p || q), in nats.
    hellinger
        Root of the integral of (sqrt q - sqrt p)^2, at most sqrt 2.
    tv
        Total variation, half the integral of |q - p|.
    chi2_qp, chi2_pq
        Integrals of (q - p)^2 / p and of (q - p)^2 / q.
    """

    kl_qp: float
    kl_pq: float
    hellinger: float
    tv: float
    chi2_qp: float
    chi2_pq: float

    def bounds(self) -> list[tuple[str, float, float]]:
        """Return inequalities: words, the smaller side, the larger side."""
        h, tv = self.hellinger, self.tv
        rows = [("H^2 / 2 <= TV", h**2 / 2, tv), ("TV <= H", tv, h)]
        for name, kl, chi2 in (
            ("(q || p)", self.kl_qp, self.chi2_qp),
            ("(p || q)", self.kl_pq, self.chi2_pq),
        ):
            rows += [
                (f"TV <= (KL{name} / 2)^(1/2)", tv, (kl / 2) ** 0.5),
                (f"H <= KL{name}^(1/2)", h, kl**0.5),
                (f"KL{name} <= log(1 + chi2{name})", kl, float(np.log1p(chi2))),
                (f"TV <= chi2{name}^(1/2) / 2", tv, chi2**0.5 / 2),
                (f"H <= 2^(1/2) chi2{name}^(1/4)", h, 2**0.5 * chi2**0.25),
            ]
        return rows


def measure(log_p: np.ndarray, log_q: np.ndarray, cell: float, p: Normal, q: Normal) -> Measures:
    """Return all measures from log densities on a grid; the tails say which are infinite.

    Parameters
    ----------
    log_p, log_q
        At the points of the grid, normalised.
    cell
        Area of a cell.
    p, q
        Normals with the same tails.
    """
    mass_p, mass_q = np.exp(log_p) * cell, np.exp(log_q) * cell
    apart = log_q - log_p

    def chi2(over: Normal, under: Normal, log_ratio: np.ndarray, mass: np.ndarray) -> float:
        # the square of one over the other falls in every direction, or has no integral
        left = 2 * np.linalg.inv(over.covariance) - np.linalg.inv(under.covariance)
        if np.linalg.eigvalsh(left).min() <= 0:
            return np.inf
        # of small differences the squares are summed, not the difference of sums
        return float(mass @ np.square(np.expm1(log_ratio)))

    # integrals of q and p are 1: what they are off by is taken out of sums that cancel
    return Measures(
        kl_qp=float(mass_q @ apart - mass_q.sum() + mass_p.sum()),
        kl_pq=float(-(mass_p @ apart) - mass_p.sum() + mass_q.sum()),
        hellinger=float(np.sqrt(mass_p @ np.square(np.expm1(apart / 2)))),
        tv=float(np.abs(mass_q - mass_p).sum() / 2),
        chi2_qp=chi2(q, p, apart, mass_p),
        chi2_pq=chi2(p, q, -apart, mass_q),
    )


def kl(q: Normal, p: Normal) -> float:
    """Return KL(q || p) of two normals by its formula."""
    ratio = np.linalg.solve(p.covariance, q.covariance)
    away = p.mean - q.mean
    square = away @ np.linalg.solve(p.covariance, away)
    return float(0.5 * (np.trace(ratio) - 2 - np.linalg.slogdet(ratio)[1] + square))


class Pairs:
    """The target as p, and a grid in its units.

    Parameters
    ----------
    target
        A normalised density of two real coordinates, normal in its tails.
    """

    def __init__(self, target: vr.Target) -> None:
        data = target.data
        sds, r = np.asarray(data["sds"], float), float(data["correlation"])
        self.p = Normal(
            np.asarray(data["mean"], float), np.outer(sds, sds) * np.array([[1, r], [r, 1]])
        )
        with jax.enable_x64(True):
            arrays = target.arrays()
            density = jax.jit(jax.vmap(lambda x: target.log_density_fn(x, arrays)))
            self.grid, self.cell = self.points(NUM_GRID)
            self.log_p = np.asarray(density(jnp.asarray(self.grid)))

    def points(self, num: int) -> tuple[np.ndarray, float]:
        """Return a grid along the axes of p, shape (points, 2), and the area of its cells."""
        steps = np.linspace(-REACH, REACH, num)
        unit = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
        variances, axes = np.linalg.eigh(self.p.covariance)
        root = axes * np.sqrt(variances)
        return self.p.mean + unit @ root.T, float((steps[1] - steps[0]) ** 2 * root_det(root))

    def measure(self, q: Normal) -> Measures:
        """Return how far a normal is from the target's own density, by quadrature.

        Raises
        ------
        ValueError
            If the grid is too coarse or too small for it.
        """
        log_q = q.log_density(self.grid)
        found = measure(self.log_p, log_q, self.cell, self.p, q)
        off = max(abs(np.exp(log).sum() * self.cell - 1) for log in (self.log_p, log_q))
        off = max(off, abs(found.kl_qp - kl(q, self.p)), abs(found.kl_pq - kl(self.p, q)))
        if off > MAX_ERROR:
            raise ValueError(
                f"q: on the grid its integrals are off by {off:.1g}: too narrow or far"
            )
        return found

    def named(self, comparison: vr.Comparison) -> dict[str, Normal]:
        """Return the q of the exercises: what methods make of p, and p shifted and scaled."""
        p = self.p
        precision = np.diagonal(np.linalg.inv(p.covariance))
        found = {"p itself": p}
        for name, fit in comparison.items():
            if fit.has_result:
                found[name] = Normal(fit.mean()["x"], fit.cov(["x"]).to_numpy())
        return found | {
            "independent, least KL(q || p)": Normal(p.mean, np.diag(1 / precision)),
            "independent, least KL(p || q)": Normal(p.mean, np.diag(np.diagonal(p.covariance))),
            "both sds 0.1": Normal(p.mean, 0.01 * np.eye(2)),
            "p, sds doubled": Normal(p.mean, 4 * p.covariance),
            "p, sds halved": Normal(p.mean, p.covariance / 4),
            "p, moved by an sd of x[0]": Normal(
                p.mean + np.array([p.covariance[0, 0] ** 0.5, 0.0]), p.covariance
            ),
        }

    def random(self, seed: int) -> list[Measures]:
        """Return the measures of normals drawn at random, near and far."""
        rng = np.random.default_rng(seed)
        grid, cell = self.points(RANDOM_GRID)
        log_p, root, found = self.p.log_density(grid), np.linalg.cholesky(self.p.covariance), []
        for size in np.geomspace(0.05, 1.0, NUM_RANDOM):
            turn, _ = np.linalg.qr(rng.normal(size=(2, 2)))
            own = turn * np.exp(0.7 * size * rng.normal(size=2)).clip(0.25, 2.5)
            mean = self.p.mean + root @ (1.5 * size * rng.normal(size=2)).clip(-2.5, 2.5)
            q = Normal(mean, root @ own @ own.T @ root.T)
            found.append(measure(log_p, q.log_density(grid), cell, self.p, q))
        return found


def root_det(root: np.ndarray) -> float:
    """Return the area that a unit square has after ``root``."""
    return float(abs(np.linalg.det(root)))


# -- exhibits ---------------------------------------------------------------------------------


def exhibits(
    comparison: vr.Comparison, target: vr.Target, seed: int, progress: Progress
) -> Iterator[vr.Exhibit]:
    """Measure every pair in every way, and check every bound on it."""
    progress(0, 2, "named pairs")
    pairs = Pairs(target)
    named = pairs.named(comparison)
    found = {name: pairs.measure(q) for name, q in named.items()}
    progress(1, 2, "pairs at random")
    random = pairs.random(seed)
    least = min(min(m.kl_qp, m.kl_pq) for m in random)
    ratios = [m.kl_qp / m.kl_pq for m in random]
    held = [
        a <= b * (1 + 1e-9) + 1e-12 for m in [*found.values(), *random] for _, a, b in m.bounds()
    ]
    yield vr.Exhibit(
        name="kl",
        title="Never below 0, 0 at p alone, and not symmetric",
        caption=(
            "Left: both divergences of p with its sds multiplied by a factor; they touch 0 where "
            f"q is p and nowhere else. {wide_and_narrow(found)} "
            f"Middle: {NUM_RANDOM} normals drawn at random; the least KL among them is {least:.1g} "
            f"nats, and KL(q || p) is {min(ratios):.2g} to {max(ratios):.2g} times KL(p || q). "
            "Right: total variation against Hellinger's distance H; it lies between H^2 / 2 and "
            f"H. All {len(held)} bounds of these pairs and of the table below "
            f"{'hold' if all(held) else f'but {len(held) - sum(held)} hold'}."
        ),
        content=picture(pairs, random),
    )
    yield vr.Exhibit(
        name="measures",
        title="Every pair, every measure",
        caption=(
            "KL in nats; H is Hellinger's distance, TV total variation, chi2(a || b) the integral "
            "of (a - b)^2 / b. By quadrature on the target's own density, where KL agrees with "
            f"its formula for normals to {MAX_ERROR:g}. chi2(a || b) is infinite where a^2 / b "
            "does not fall in every direction, as where a is far wider than b."
        ),
        content=pd.DataFrame(
            [
                {
                    "q": name,
                    "KL(q || p)": m.kl_qp,
                    "KL(p || q)": m.kl_pq,
                    "H": m.hellinger,
                    "TV": m.tv,
                    "chi2(q || p)": m.chi2_qp,
                    "chi2(p || q)": m.chi2_pq,
                }
                for name, m in found.items()
            ]
        ).map(clean),
    )
    shown = {name: dict(zip(*sides(m), strict=True)) for name, m in found.items() if m.kl_qp > 1e-6}
    yield vr.Exhibit(
        name="bounds",
        title="What bounds what",
        caption=(
            "The smaller side over the larger one, for every q that is not p: 1 is a bound that is "
            "reached, 0 one that says nothing (its larger side may be infinite). Gibbs, A. L. and "
            "Su, F. E. (2002). On choosing and bounding probability metrics. International "
            "Statistical Review 70(3). doi:10.1111/j.1751-5823.2002.tb00178.x. TV is at most 1 "
            "whatever the bounds say."
        ),
        content=pd.DataFrame(
            [
                {"bound": name} | {q: ratios[name] for q, ratios in shown.items()}
                for name, _, _ in next(iter(found.values())).bounds()
            ]
        ),
    )


def wide_and_narrow(found: dict[str, Measures]) -> str:
    """Return how far sds that are doubled and halved are, by either divergence."""
    wide, narrow = found["p, sds doubled"], found["p, sds halved"]
    return (
        f"With its sds doubled q is {wide.kl_qp:.2f} nats off by KL(q || p) and {wide.kl_pq:.2f} "
        f"by KL(p || q), with its sds halved {narrow.kl_qp:.2f} and {narrow.kl_pq:.2f}."
    )


def clean(value: float | str) -> float | str:
    """Return a number with what is below the quadrature's error as 0."""
    return 0.0 if isinstance(value, float) and abs(value) < MAX_ERROR else value


def sides(m: Measures) -> tuple[list[str], list[float]]:
    """Return the bounds' names, and the smaller side over the larger."""
    rows = m.bounds()
    return [name for name, _, _ in rows], [low / high for _, low, high in rows]


def picture(pairs: Pairs, random: list[Measures]) -> Figure:
    """Draw strictness, asymmetry, and a bound from both sides."""
    figure = Figure(figsize=(10.4, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    factors = np.geomspace(0.3, 3, 121)
    wide = [Normal(pairs.p.mean, f**2 * pairs.p.covariance) for f in factors]
    left.plot(factors, [kl(q, pairs.p) for q in wide], color=COLOURS[0], label="KL(q || p)")
    left.plot(factors, [kl(pairs.p, q) for q in wide], color=COLOURS[1], label="KL(p || q)")
    left.axhline(0, color=GREY, lw=0.9)
    left.set(xscale="log", ylim=(-0.3, 6), xlabel="sds of q over those of p", ylabel="nats")
    left.set_xticks([0.3, 0.5, 1, 2, 3], labels=["0.3", "0.5", "1", "2", "3"])
    left.minorticks_off()
    left.legend(loc="upper center")
    left.set_title("0 at p alone")
    cloud(middle, [m.kl_pq for m in random], [m.kl_qp for m in random])
    ends = np.array(middle.get_xlim())
    middle.plot(ends, ends, color=GREY, lw=0.9)
    middle.set(xscale="log", yscale="log", xlabel="KL(p || q)", ylabel="KL(q || p)")
    middle.set_title("not symmetric")
    cloud(right, [m.hellinger for m in random], [m.tv for m in random])
    h = np.linspace(0, 2**0.5, 101)
    right.plot(h, h**2 / 2, color=GREY, lw=0.9)
    right.plot(h, np.minimum(h, 1), color=GREY, lw=0.9)
    right.annotate("H", (0.62, 0.68), color=GREY)
    right.annotate("H$^2$ / 2", (0.95, 0.33), color=GREY)
    right.set(xlabel="Hellinger's distance H", ylabel="total variation")
    right.set_title("bounded from both sides")
    return figure


def cloud(axes: Axes, x: list[float], y: list[float]) -> None:
    """Draw pairs as dots."""
    axes.plot(x, y, ".", color=COLOURS[0], ms=4)


STUDY = vr.Study(
    name="kl_bounds",
    model="bivariate_normal",
    methods={"laplace": vr.Laplace(), "meanfield": vr.MeanField()},
    reference=find("models")["bivariate_normal"].with_name("reference.json"),
    description=(
        "The pairs of kl_exercises, measured in every way: KL(q || p) is never below 0, is 0 at "
        "q = p alone, and is not KL(p || q); Hellinger's distance, total variation and chi2 bound "
        "it and one another. Mean field loses 0.51 nats by KL(q || p), and 1.27 by KL(p || q), in "
        "which its chi2 is infinite."
    ),
    exhibits=exhibits,
)
