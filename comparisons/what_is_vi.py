"""What is variational inference: which methods are argmins of a divergence over a family."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpyro.distributions import constraints
from scipy.optimize import minimize
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import vi_recipes as vr
from vi_recipes.core import Progress
from vi_recipes.report import COLOURS, GREY

NUM_ROWS = 20
"""Rows of the skewed sample that the methods are fitted to."""

REACH, NUM_GRID = 14.0, 281
"""The grid of the posterior, in sds of a normal at its mode, and its points a dimension."""

MAX_ERROR = 1e-6
"""By how much a grid half as fine may change log p(y)."""

SIZES = (10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)
NUM_SAMPLES = 1_000
"""Sizes of samples, and samples of each, whose maximum likelihood is looked at."""

NUM_STEPS = 400
NUM_STATES = 81
"""Steps of Metropolis's rule whose law is followed, and states that it goes between."""


def flat_normal(y: Any) -> None:
    """Sample normal rows, priors flat: the mode of mu and sigma is the maximum likelihood."""
    mu = numpyro.sample("mu", dist.ImproperUniform(constraints.real, (), ()))
    sigma = numpyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


MODEL = vr.Model(
    function=flat_normal,
    name="flat_normal",
    # rows of an exponential law with mean 1: the normal is the wrong model
    data=lambda: {"y": np.random.default_rng(14).exponential(size=NUM_ROWS)},
    init=lambda key, **data: {"mu": 1.0, "sigma": 1.0},
    parameters=("mu", "sigma"),
)


@dataclass(frozen=True)
class Normal:
    """A normal over mu and log sigma.

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


def normal_of(fit: vr.Fit) -> Normal:
    """Return a fit's normal over mu and log sigma, from the moments of mu and sigma.

    If log sigma is normal with variance v, sigma has sd / mean = (exp(v) - 1)^(1/2), and its
    covariance with mu is its mean times that of log sigma.
    """
    mean, cov = fit.mean(), fit.cov(["mu", "sigma"]).to_numpy()
    centre = float(mean["sigma"])
    v = float(np.log1p(cov[1, 1] / centre**2))
    c = cov[0, 1] / centre
    return Normal(
        np.array([float(mean["mu"]), np.log(centre) - v / 2]), np.array([[cov[0, 0], c], [c, v]])
    )


class Posterior:
    """The posterior of mu and log sigma on a grid.

    Parameters
    ----------
    target
        The model with its rows.
    """

    def __init__(self, target: vr.Target) -> None:
        y = np.asarray(target.data["y"], float)
        self.y = y
        # the mode of the unconstrained density, and the curvature there
        n = y.size
        scale = np.sqrt(np.square(y - y.mean()).sum() / (n - 1))
        self.laplace = Normal(
            np.array([y.mean(), np.log(scale)]), np.diag([scale**2 / n, 1 / (2 * (n - 1))])
        )
        sds = np.sqrt(np.diagonal(self.laplace.covariance))
        steps = np.linspace(-REACH, REACH, NUM_GRID)
        unit = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2)
        self.x = self.laplace.mean + sds * unit
        self.cell = float((steps[1] - steps[0]) ** 2 * sds.prod())
        with jax.enable_x64(True):
            arrays = target.arrays()
            density = jax.jit(jax.vmap(lambda x: target.log_density_fn(x, arrays)))
            joint = np.asarray(density(jnp.asarray(self.x)))
        self.log_evidence = float(logsumexp(joint) + np.log(self.cell))
        coarse = joint.reshape(NUM_GRID, NUM_GRID)[::2, ::2]
        off = abs(float(logsumexp(coarse) + np.log(4 * self.cell)) - self.log_evidence)
        if off > MAX_ERROR:
            raise ValueError(f"target: on the grid log p(y) is off by {off:.1g}")
        self.log_p = joint - self.log_evidence
        self.mass = np.exp(self.log_p) * self.cell

    def reverse(self, q: Normal) -> float:
        """Return KL(q || p)."""
        log_q = q.log_density(self.x)
        return float(np.exp(log_q) @ (log_q - self.log_p) * self.cell)

    def forward(self, q: Normal) -> float:
        """Return KL(p || q)."""
        return float(self.mass @ (self.log_p - q.log_density(self.x)))

    def likelihood(self, theta: np.ndarray) -> float:
        """Return minus the mean log likelihood of a row.

        That is the KL divergence of the law of the rows from the model's, but for the entropy of
        that law, which no parameter changes.
        """
        mu, log_sigma = theta
        z = (self.y - mu) / np.exp(log_sigma)
        return float(0.5 * np.square(z).mean() + log_sigma + 0.5 * np.log(2 * np.pi))

    def least(self, measure: Callable[[Normal], float], *, independent: bool) -> float:
        """Return the least of a divergence over normals."""

        def loss(eta: np.ndarray) -> float:
            root = np.diag(np.exp(eta[2:4]))
            root[1, 0] = 0.0 if independent else eta[4] * root[1, 1]
            return measure(Normal(eta[:2], root @ root.T))

        sds = 0.5 * np.log(np.diagonal(self.laplace.covariance))
        start = np.concatenate([self.laplace.mean, sds, [] if independent else [0.0]])
        return float(minimize(loss, start, method="BFGS", options={"gtol": 1e-7}).fun)

    def chain(self) -> np.ndarray:
        """Return KL(q_t || p) of the law of Metropolis's rule for log sigma after t steps.

        On a few states, so that the law is known and not drawn: it starts on the first, and a
        neighbour within 3 states is proposed at each step.
        """
        marginal = self.mass.reshape(NUM_GRID, NUM_GRID).sum(axis=0)
        middle = NUM_GRID // 2
        near = slice(middle - NUM_STATES // 2, middle + NUM_STATES // 2 + 1)
        p = marginal[near] / marginal[near].sum()
        states = np.arange(p.size)
        propose = (np.abs(states[:, None] - states) <= 3) / 7.0
        move = propose * np.minimum(1, p / p[:, None])
        np.fill_diagonal(move, 0.0)
        move += np.diag(1 - move.sum(axis=1))
        q, found = (states == 0).astype(float), []
        for _ in range(NUM_STEPS + 1):
            there = q > 0
            found.append(float(q[there] @ np.log(q[there] / p[there])))
            q = q @ move
        return np.array(found)


def excess(samples: np.ndarray) -> np.ndarray:
    """Return KL(p || normal of greatest likelihood), less the least over normals.

    p is exponential with mean 1. KL(p || N(m, s)) is -1 + log(2 pi s^2) / 2 + ((1 - m)^2 + 1) /
    (2 s^2), least at m = s = 1, the moments of p.
    """
    m, s = samples.mean(axis=1), samples.std(axis=1)
    return np.asarray(np.log(s) + ((1 - m) ** 2 + 1) / (2 * s**2) - 0.5)


LEAST = -1 + 0.5 * np.log(2 * np.pi) + 0.5
"""The least KL(p || normal) of an exponential p."""

RATE = (2 + 6 / 2) / 2
"""n times the mean excess for large n: half the trace of the scores' covariance over the
curvature, 2 + kurtosis / 2, with an excess kurtosis of 6. Of a normal p it would be 1."""


# -- exhibits ---------------------------------------------------------------------------------


def exhibits(
    comparison: vr.Comparison, target: vr.Target, seed: int, progress: Progress
) -> Iterator[vr.Exhibit]:
    """Minimise every divergence directly, and lay the methods beside the minima."""
    progress(0, 3, "minima")
    posterior = Posterior(target)
    table = argmins(posterior, comparison)
    noisy = table[table["method"].isin(("svi", "forward_kl"))]
    above = "".join(
        f" {method} goes by draws, and ends {above:.1g} nats above the least."
        for method, above in zip(noisy["method"], noisy["difference"], strict=True)
    )
    yield vr.Exhibit(
        name="argmins",
        title="Which methods minimise what over which family",
        caption=(
            "p is the posterior of mu and log sigma, flat priors, on a grid; objectives are worked "
            "out there from each fit's own normal. Least: by BFGS over the family, with no method "
            "of the library in it. A method is inference by optimisation, of that divergence over "
            f"that family, where the two agree.{above} Laplace optimises too, but for the mode "
            "alone: its covariance is read off the curvature, and neither divergence from p is "
            "least there. Of the normals the best one has no covariance of mu and log sigma here, "
            "p being symmetric in mu, so that both families have one least. MCMC minimises nothing "
            "over a family: its draws have p as the limit of their law."
        ),
        content=table,
    )
    progress(1, 3, "samples")
    rng = np.random.default_rng(seed)
    found = {n: excess(rng.exponential(size=(NUM_SAMPLES, n))) for n in SIZES}
    progress(2, 3, "chain")
    chain = posterior.chain()
    last = SIZES[-1]
    yield vr.Exhibit(
        name="misspecified",
        title="Maximum likelihood minimises KL, also where the model is wrong; MCMC approaches p",
        caption=(
            "Left: an exponential law p, the normal of least KL(p || normal), and those of "
            "greatest likelihood of two samples of 20. No normal comes nearer than "
            f"{LEAST:.4f} nats. Middle: what the normal of greatest likelihood is above that, "
            f"mean, median and 90 % of {NUM_SAMPLES:,} samples of each size; line, "
            f"{RATE:g} / n, from the curvature and the variance of the scores. At n = {last:,} the "
            f"mean is {found[last].mean() * last:.2f} / n, with a Monte Carlo error of "
            f"{found[last].std() * last / NUM_SAMPLES**0.5:.2f} / n; were the normal "
            "right it would be 1 / n. "
            "Right: KL(q_t || p) of the law q_t of Metropolis's rule after t steps, for log sigma "
            f"on {NUM_STATES} states from the first of them. It falls "
            f"{'with every step' if (np.diff(chain) < 0).all() else 'with most steps'}, from "
            f"{chain[0]:.3g} to {chain[-1]:.2g} nats, though nothing is minimised."
        ),
        content=picture(found, chain, seed),
    )


def argmins(posterior: Posterior, comparison: vr.Comparison) -> pd.DataFrame:
    """Return every method as an argmin, ours beside the least."""
    mode = minimize(posterior.likelihood, posterior.laplace.mean, options={"gtol": 1e-9})
    reverse, forward = posterior.reverse, posterior.forward
    rows: list[tuple[str, str, str, Callable[[Normal], float], float]] = [
        ("laplace", "normals", "KL(q || p)", reverse, posterior.least(reverse, independent=False)),
        (
            "meanfield",
            "independent normals",
            "KL(q || p)",
            reverse,
            posterior.least(reverse, independent=True),
        ),
        (
            "svi",
            "normals",
            "KL(q || p)",
            reverse,
            posterior.least(reverse, independent=False),
        ),
        (
            "forward_kl",
            "normals",
            "KL(p || q)",
            forward,
            posterior.least(forward, independent=False),
        ),
    ]
    table = []
    if "mle" in comparison and comparison["mle"].has_result:
        at = comparison["mle"].mean()
        theta = np.array([float(at["mu"]), np.log(float(at["sigma"]))])
        table.append(
            {
                "method": "mle",
                "family": "the model's laws",
                "objective": "KL(rows || model), but for a constant",
                "ours": posterior.likelihood(theta),
                "least": float(mode.fun),
            }
        )
    table += [
        {
            "method": name,
            "family": family,
            "objective": objective,
            "ours": measure(normal_of(comparison[name])),
            "least": least,
        }
        for name, family, objective, measure, least in rows
        if name in comparison and comparison[name].has_result
    ]
    frame = pd.DataFrame(table)
    frame["difference"] = frame["ours"] - frame["least"]
    none = {"method": "nuts", "family": "none", "objective": "none", "ours": np.nan}
    none |= {"least": np.nan, "difference": np.nan}
    return pd.concat([frame, pd.DataFrame([none])], ignore_index=True)


def picture(found: dict[int, np.ndarray], chain: np.ndarray, seed: int) -> Figure:
    """Draw p with normals, KL against n, and KL against steps."""
    figure = Figure(figsize=(10.4, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    normals(left, seed)
    n = np.array(list(found))
    low, median, high = np.array([np.quantile(v, (0.05, 0.5, 0.95)) for v in found.values()]).T
    middle.fill_between(n, low, high, color=COLOURS[0], alpha=0.2, lw=0)
    middle.plot(n, median, color=COLOURS[0], lw=1.2, label="median")
    middle.plot(n, [v.mean() for v in found.values()], "o", color=COLOURS[0], ms=4, label="mean")
    middle.plot(n, RATE / n, color=GREY, lw=1.2, label=f"{RATE:g} / n")
    middle.set(xscale="log", yscale="log", xlabel="rows n", ylabel="KL above the least, nats")
    middle.legend()
    middle.set_title("maximum likelihood and KL")
    right.plot(np.arange(chain.size), chain, color=COLOURS[1], lw=1.4)
    right.set(yscale="log", xlabel="steps t", ylabel="KL(q_t || p), nats")
    right.set_title("a chain: no family, KL falls")
    return figure


def normals(axes: Axes, seed: int) -> None:
    """Draw an exponential law and normals fitted to it and to samples."""
    x = np.linspace(-2, 4, 601)
    axes.fill_between(x, np.where(x >= 0, np.exp(-x), 0), color="#dddddd", lw=0)
    rng = np.random.default_rng(seed)
    for k in range(2):
        y = rng.exponential(size=20)
        line = np.exp(-0.5 * ((x - y.mean()) / y.std()) ** 2) / (y.std() * np.sqrt(2 * np.pi))
        label = None if k else "of samples of 20"
        axes.plot(x, line, color=COLOURS[0], lw=1.0, label=label)
    axes.plot(
        x, np.exp(-0.5 * (x - 1) ** 2) / np.sqrt(2 * np.pi), color=COLOURS[1], label="least KL"
    )
    axes.set(xlim=(-2, 4), ylim=(0, 1.05), yticks=[], xlabel="y")
    axes.legend(loc="upper right")
    axes.set_title("a wrong model")
    axes.spines["left"].set_visible(False)


STUDY = vr.Study(
    name="what_is_vi",
    model=MODEL,
    methods={
        "mle": vr.MAP(space="constrained"),
        "laplace": vr.Laplace(),
        "meanfield": vr.MeanField(),
        "svi": vr.SVI(guide="multivariate_normal"),
        "forward_kl": vr.ForwardKL(),
        "nuts": vr.NUTS(num_samples=2_000),
    },
    reference="nuts",
    description=(
        "A normal is fitted to 20 rows of an exponential law. Maximum likelihood, mean field, SVI "
        "and forward KL are each the argmin of a divergence over a family, found here a second "
        "time without them; Laplace takes its mode by optimisation and its spread from the "
        "curvature, and another normal is nearer to the posterior; MCMC has no family and nothing "
        "to minimise. That the normal is the wrong model does not keep maximum likelihood from the "
        "least KL divergence: it comes to it as 2.5 / n."
    ),
    exhibits=exhibits,
)
