"""The picture of each method's page: its draws, or its point, over a posterior known exactly.

Two models, small enough for a grid. ``groups`` has a mean for each of eight groups and a scale of
their spread; with the means integrated out, which normals allow in closed form, two coordinates are
left. ``pair`` has the mean and the standard deviation of five numbers, and no latent variable.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
from matplotlib.figure import Figure
from scipy import stats

import vi_recipes as vr

YIELDS = np.array([-2.1, -0.6, 0.3, 0.5, 1.2, 1.4, 2.9, 4.4])
"""Means of eight groups of four observations each, whose sd is 2: each known to 1."""

FAR = (-25.0, 25.0, 1e-3, 40.0)
"""Limits of both coordinates beyond which there is nothing."""

FIVE = np.array([-1.2, -0.3, 0.1, 0.8, 3.1])


def groups(y: Any) -> None:
    """Give groups means, ``y`` known to 1; ``between`` is the sd of their spread."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    between = numpyro.sample("between", dist.HalfNormal(5.0))
    with numpyro.plate("group", len(y)):
        theta = numpyro.sample("theta", dist.Normal(mu, between))
        numpyro.sample("y", dist.Normal(theta, 1.0), obs=y)


def pair(y: Any) -> None:
    """Give a few numbers a mean and an sd."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    sd = numpyro.sample("sd", dist.HalfNormal(5.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(mu, sd), obs=y)


class Picture(Figure):
    """A figure that pages show."""

    def _repr_png_(self) -> bytes:
        content = BytesIO()
        self.savefig(content, format="png", dpi=130)
        return content.getvalue()


@dataclass(frozen=True)
class Known:
    """A model of two coordinates whose posterior a grid knows."""

    target: vr.Target
    names: tuple[str, str]
    log_density: Callable[[Any, Any], Any]
    limits: tuple[float, float, float, float]
    """What the picture shows of both."""

    def exact(
        self, limits: tuple[float, float, float, float] = FAR, num: int = 1_500
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return both axes and the density on their grid, adding up to 1."""
        left, right, bottom, top = limits
        x, s = np.linspace(left, right, num), np.linspace(bottom, top, num)
        log_p = self.log_density(x[None, :], s[:, None])
        p = np.exp(log_p - log_p.max())
        return x, s, p / p.sum()

    def moments(self) -> dict[str, tuple[float, float]]:
        """Return the exact mean and sd of both coordinates."""
        x, s, p = self.exact()
        found = {}
        for name, values, share in zip(self.names, (x, s), (p.sum(0), p.sum(1)), strict=True):
            mean = float(share @ values)
            found[name] = (mean, float(np.sqrt(share @ (values - mean) ** 2)))
        return found


def log_groups(mu: Any, between: Any) -> Any:
    """Return log p(y, mu, between), the groups' means integrated out."""
    total = stats.norm.logpdf(mu, 0, 5) + stats.halfnorm.logpdf(between, scale=5)
    return total + sum(stats.norm.logpdf(y, mu, np.sqrt(1 + between**2)) for y in YIELDS)


def log_pair(mu: Any, sd: Any) -> Any:
    """Return log p(y, mu, sd)."""
    total = stats.norm.logpdf(mu, 0, 5) + stats.halfnorm.logpdf(sd, scale=5)
    return total + sum(stats.norm.logpdf(y, mu, sd) for y in FIVE)


GROUPS = Known(
    vr.Target(vr.Model(function=groups, name="groups", latents=("theta",)), y=YIELDS),
    ("mu", "between"),
    log_groups,
    (-3.0, 5.0, 0.01, 7.0),
)
PAIR = Known(
    vr.Target(vr.Model(function=pair, name="pair"), y=FIVE), ("mu", "sd"), log_pair, (-4, 5, 0.3, 7)
)


def picture(fit: vr.Fit, known: Known = GROUPS, num_draws: int = 800) -> Picture:
    """Draw a fit over the exact posterior, whose contours hold 50, 80 and 95 % of the mass."""
    figure = Picture(figsize=(5.2, 3.6), layout="constrained")
    axes = figure.subplots()
    x, s, p = known.exact(known.limits, 400)
    ordered = np.sort(p.ravel())[::-1]
    levels = [ordered[np.searchsorted(ordered.cumsum(), mass)] for mass in (0.95, 0.8, 0.5)]
    axes.contour(x, s, p, levels=levels, colors="0.45", linewidths=1)
    axes.plot([], [], color="0.45", label="exact: 50, 80, 95 %")
    first, second = known.names
    if fit.is_point:
        mean = fit.mean()
        axes.plot(mean[first], mean[second], "o", color="C3", label=f"{fit.method}: its point")
    else:
        draws = fit.draws(num_draws, 0)
        axes.plot(draws[first], draws[second], ".", ms=2.5, alpha=0.5, color="C0")
        axes.plot([], [], "o", ms=4, color="C0", label=f"{fit.method}: draws")
    axes.set(xlabel=first, ylabel=second, xlim=known.limits[:2], ylim=known.limits[2:])
    axes.legend(frameon=False, loc="upper right", fontsize=9)
    return figure


def beside(fit: vr.Fit, known: Known = GROUPS) -> Any:
    """Return the fit's means and sds beside the exact ones."""
    import pandas as pd

    mean, sd = fit.mean(), fit.sd()
    rows = {
        name: {
            "mean": float(mean[name]),
            "exact mean": exact_mean,
            "sd": float(sd[name]) if name in sd else np.nan,
            "exact sd": exact_sd,
        }
        for name, (exact_mean, exact_sd) in known.moments().items()
    }
    return pd.DataFrame(rows).T.round(2)
