"""Two identities of the free energy as numbers: log p = F + KL, and why EM does not go down."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

import vi_recipes as vr
from vi_recipes.latent import StateProbabilities

SHOWN = (1, 2, 3, 10, 30, 100, 300)
"""Iterations of EM whose rise is taken apart."""


def identity(target: vr.Target, seed: int) -> pd.DataFrame:
    """Return F, KL, their sum and log p at random q and theta."""
    energy, rng = vr.FreeEnergy(target), np.random.default_rng(seed)
    rows = []
    for what in ("p(z | y, theta)", "p(z | y, another theta)", "random", "even", "one state"):
        theta = energy.start + 0.3 * rng.standard_normal(energy.start.size)
        exact = energy.posterior(theta)
        assert isinstance(exact, StateProbabilities)
        T, K = exact.probabilities.shape
        table = {
            "p(z | y, theta)": exact.probabilities,
            "p(z | y, another theta)": energy.posterior(energy.start)[0],
            "random": rng.dirichlet(np.ones(K), T),
            "even": np.full((T, K), 1 / K),
            "one state": np.eye(K)[rng.integers(K, size=T)],
        }[what]
        F, kl = (
            energy(StateProbabilities(table), theta),
            energy.divergence(StateProbabilities(table), theta),
        )
        right = energy.log_likelihood(theta)
        rows.append(
            {
                "q": what,
                "F(q, theta)": f"{F:.6f}",
                "KL": f"{kl:.6f}",
                "F + KL": f"{F + kl:.6f}",
                "log p(y | theta)": f"{right:.6f}",
                "difference": f"{F + kl - right:.1e}",
            }
        )
    return pd.DataFrame(rows)


def rises(target: vr.Target, seed: int) -> tuple[pd.DataFrame, float]:
    """Return how log p rises from one theta to the next, by Q and by KL, and KL / Q in the end.

    Along EM on a mixture of Poisson distributions by its own closed forms, and from EM's last theta
    to a random one.
    """
    energy, y = vr.FreeEnergy(target), np.asarray(target.data["y"])
    rows = []
    thetas = em(energy, y)
    theta = next(thetas)
    for step in range(1, max(SHOWN) + 1):
        after = next(thetas)
        if step in SHOWN:
            rows.append({"step": f"EM's iteration {step}"} | rise(energy, theta, after))
        theta = after
    last = rows[-1]
    share = float(last["KL(q || p(z | y, theta'))"]) / float(last["Q(theta') - Q(theta)"])
    away = 0.3 * np.random.default_rng(seed).standard_normal(theta.size)
    rows.append({"step": "to a theta at random"} | rise(energy, theta, theta + away))
    return pd.DataFrame(rows), share


def em(energy: vr.FreeEnergy, y: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the thetas of EM on a mixture of Poisson distributions."""
    theta = energy.start
    while True:
        yield theta
        q = energy.posterior(theta)
        assert isinstance(q, StateProbabilities)
        shares = np.asarray(q.probabilities).mean(axis=0)
        rates = y @ q.probabilities / (len(y) * shares)
        theta = energy.unconstrain({"pi": shares, "log_lam": np.log(rates)})


def rise(energy: vr.FreeEnergy, theta: np.ndarray, after: np.ndarray) -> dict[str, str]:
    """Return both sides of log p(theta') - log p(theta) = [Q(theta') - Q(theta)] + KL."""
    q = energy.posterior(theta)
    left = energy.log_likelihood(after) - energy.log_likelihood(theta)
    gain, kl = energy.q(q, after) - energy.q(q, theta), energy.divergence(q, after)
    return {
        "log p(y | theta') - log p(y | theta)": f"{left:.5e}",
        "Q(theta') - Q(theta)": f"{gain:.5e}",
        "KL(q || p(z | y, theta'))": f"{kl:.5e}",
        "difference": f"{gain + kl - left:.1e}",
    }
