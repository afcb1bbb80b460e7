"""Posteriors of scales with all else integrated out, and how nearly each is a point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.polynomial.hermite_e import hermegauss
from scipy import stats
from scipy.optimize import minimize_scalar

from vi_recipes.report import COLOURS, GREY, MARKERS

NUM_OBSERVATIONS = (10, 30, 100, 300, 1_000, 3_000, 10_000)
"""Observations in all; with 6 groups the nearest multiple of 6."""

FEW_GROUPS = 6

NEAR = 0.01
"""Sd of a normal that is nearly a point: what is known to 1 % of its value, which is 1."""

SHRINKING = (0.1, 0.03, 0.01, 0.003, 0.001)
"""Sds of the normals that narrow to a point on sigma."""

LOG_SCALES = np.linspace(-20, 12, 64_001)
"""Logarithms of a scale at which its posterior is summed: 20 a posterior sd at the narrowest."""


@dataclass(frozen=True)
class Scale:
    """The posterior of a scale with a flat prior, all else integrated out.

    log p(y | scale) = -k / 2 (log v + (top^2 + noise) / v), v = scale^2 + noise, and a constant.

    Parameters
    ----------
    k
        Deviations that tell of the scale.
    noise
        Variance that they have besides.
    top
        The maximum likelihood estimate.
    """

    k: int
    noise: float = 0.0
    top: float = 1.0

    def log_likelihood(self, scale: Any) -> Any:
        """Return log p(y | scale), less a constant."""
        v = scale**2 + self.noise
        return -self.k / 2 * (np.log(v) + (self.top**2 + self.noise) / v)

    def masses(self) -> tuple[np.ndarray, float]:
        """Return posterior masses at :data:`LOG_SCALES`, and the log of the normalising integral.

        The integrand falls off at both ends, so equal weights are exact but for rounding.
        """
        logs = self.log_likelihood(np.exp(LOG_SCALES)) + LOG_SCALES
        highest = logs.max()
        masses = np.exp(logs - highest)
        total = masses.sum()
        step = LOG_SCALES[1] - LOG_SCALES[0]
        return masses / total, float(highest + np.log(total * step))

    def moment(self, power: int) -> float:
        """Return the posterior mean of a power of the scale."""
        return float(self.masses()[0] @ np.exp(power * LOG_SCALES))

    @property
    def mean(self) -> float:
        """The posterior mean."""
        return self.moment(1)

    @property
    def sd(self) -> float:
        """The posterior sd."""
        masses = self.masses()[0]
        return float(np.sqrt(masses @ (np.exp(LOG_SCALES) - self.mean) ** 2))

    @property
    def entropy(self) -> float:
        """Entropy of the posterior, in nats."""
        masses, log_total = self.masses()
        return float(log_total - masses @ self.log_likelihood(np.exp(LOG_SCALES)))

    def near_point(self, sd: float) -> tuple[float, float]:
        """Return the centre of the normal of this sd with the least KL(q || p), and that KL."""
        found = minimize_scalar(
            lambda centre: -normal_mean(self.log_likelihood, centre, sd),
            bounds=(0.7 * self.top, 1.4 * self.top), options={"xatol": 1e-10},
        )  # fmt: skip
        return float(found.x), float(found.fun + self.masses()[1] - stats.norm.entropy(0, sd))

    def near_point_of_log(self, sd: float) -> float:
        """Return exp of the centre of the best such normal over the log scale, flat in that."""
        found = minimize_scalar(
            lambda centre: -normal_mean(lambda u: self.log_likelihood(np.exp(u)), centre, sd),
            bounds=(np.log(self.top) - 0.3, np.log(self.top) + 0.3), options={"xatol": 1e-10},
        )  # fmt: skip
        return float(np.exp(found.x))


def normal_mean(function: Callable[[np.ndarray], np.ndarray], centre: float, sd: float) -> float:
    """Return the mean of a function under a normal, by Gauss-Hermite quadrature."""
    nodes, weights = hermegauss(16)
    return float(weights @ function(centre + sd * nodes) / weights.sum())


def pairs(n: int) -> Scale:
    """Return the posterior of sigma for n / 2 pairs with a mean each."""
    return Scale(n // 2)


def many_groups(n: int) -> Scale:
    """Return the posterior of tau for n / 2 groups of two."""
    return Scale(n // 2, 1 / 2)


def few_groups(n: int) -> Scale:
    """Return the posterior of tau for 6 groups of n / 6."""
    return Scale(FEW_GROUPS, FEW_GROUPS / n)


def few(n: int) -> int:
    """Return the multiple of 6 that is nearest."""
    return FEW_GROUPS * max(round(n / FEW_GROUPS), 2)


def nearly_points() -> pd.DataFrame:
    """Return how nearly each posterior is a point, by observations."""
    rows = []
    for n in NUM_OBSERVATIONS:
        sigma, few_n = pairs(n), few(n)
        for name, size, scale in (
            ("sigma of n / 2 pairs", n, sigma),
            ("tau of n / 2 groups", n, many_groups(n)),
            (f"tau of {FEW_GROUPS} groups", few_n, few_groups(few_n)),
        ):
            rows.append(
                {
                    "what": name,
                    "n": size,
                    "sd": scale.sd,
                    "entropy": scale.entropy,
                    "KL of the best near-point": scale.near_point(NEAR)[1],
                    "mean": (scale.top - scale.mean) / scale.sd,
                    "sd ratio": scale.top / np.sqrt(scale.moment(2)),
                }
            )
        # sigma integrated out, z_n has Student's law; at points z, S remains and 2 terms a pair
        z = stats.t(sigma.k - 1, scale=np.sqrt(sigma.k / (2 * (sigma.k - 1))))
        plugged = Scale(2 * sigma.k, top=np.sqrt(0.5))
        rows.append(
            {
                "what": "each z of n / 2 pairs",
                "n": n,
                "sd": z.std(),
                "entropy": z.entropy(),
                "KL of the best near-point": -normal_mean(z.logpdf, 0.0, NEAR)
                - stats.norm.entropy(0, NEAR),
                "mean": (plugged.mean - sigma.mean) / sigma.sd,
                "sd ratio": plugged.sd / sigma.sd,
            }
        )
    return pd.DataFrame(rows).sort_values("what", kind="stable", ignore_index=True)


def shown_sizes() -> list[int]:
    """Return the sizes that the table has: powers of ten, and multiples of 6 next to them."""
    tens = [n for n in NUM_OBSERVATIONS if np.log10(n) % 1 == 0]
    return [*tens, *map(few, tens)]


def near_picture(measured: pd.DataFrame) -> Figure:
    """Draw all four measures against observations."""
    figure = Figure(figsize=(8.6, 6.8), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True).ravel()
    for k, (name, rows) in enumerate(measured.groupby("what")):
        look = {"color": COLOURS[k], "marker": MARKERS[k], "ms": 4, "lw": 1.4, "label": name}
        panels[0].plot(rows["n"], rows["entropy"], **look)
        panels[1].plot(rows["n"], rows["KL of the best near-point"], **look)
        panels[2].plot(rows["n"], rows["mean"].abs(), **look)
        panels[3].plot(rows["n"], rows["sd ratio"], **look)
    panels[0].set(xscale="log", ylabel="entropy (nats)")
    panels[1].set(ylabel="KL of the best near-point (nats)", ylim=(0, None))
    panels[2].set(yscale="log", ylabel="error of the mean (posterior sds)")
    panels[3].set(ylabel="sd with the point / right sd", ylim=(0, 1.05))
    panels[3].axhline(1, color=GREY, lw=0.8, ls="--", zorder=0)
    for axes in panels[2:]:
        axes.set_xlabel("observations, n (log scale)")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def towards_a_point(scale: Scale) -> pd.DataFrame:
    """Return the centres of ever narrower normals on a scale."""
    rows = []
    for sd in SHRINKING:
        centre, kl = scale.near_point(sd)
        rows.append(
            {
                "sd of q": sd,
                "centre, over sigma": f"{centre:.6f}",
                "centre, over log sigma": f"{scale.near_point_of_log(sd):.6f}",
                "KL(q || p), over sigma": kl,
                "KL + entropy of q": kl + stats.norm.entropy(0, sd),
            }
        )
    return pd.DataFrame(rows)
