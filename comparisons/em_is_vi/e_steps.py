"""When a finite-dimensional q(z) is enough, and what an E-step gives away.

The model is y_t ~ Poisson(lambda_t) with lambda_t ~ Gamma(a, b) or with lambda_t one of two rates:
both conjugate, so that p(z | theta, y) is of a known family with known numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from scipy.integrate import quad
from scipy.optimize import minimize
from scipy.special import digamma, gammaln, logsumexp
from scipy.stats import gamma, nbinom, poisson

COUNTS = np.array([0, 1, 1, 2, 3, 5, 9])
"""Days of a Poisson-gamma model."""

PATH = ((0.5, 2.0), (1.0, 1.0), (1.5, 0.6), (2.0, 0.5), (6.0, 1.5))
"""Thetas: shape a and rate b of the gamma distribution."""


def families() -> pd.DataFrame:
    """Return along thetas the KL that each family of q leaves, of a gamma posterior a member.

    The posterior is Gamma(a + y, b + 1): two numbers a member. The best log-normal is the normal of
    q on the unconstrained scale, which is what VariationalEM and MeanField have by default; a point
    leaves an infinite KL.
    """
    rows = []
    for a, b in PATH:
        left = [log_normal_gap(a + y, b + 1) for y in COUNTS]
        log_p = nbinom(a, b / (b + 1)).logpmf(COUNTS).sum()
        rows.append(
            {
                "a": a,
                "b": b,
                "log p(y | theta)": f"{log_p:.5f}",
                "KL, q gamma": f"{sum(gamma_gap(a + y, b + 1) for y in COUNTS):.1e}",
                "KL, q log-normal": f"{sum(left):.5f}",
                "largest of a member": f"{max(left):.5f}",
                "at y": int(COUNTS[int(np.argmax(left))]),
            }
        )
    return pd.DataFrame(rows)


def log_normal_gap(shape: float, rate: float) -> float:
    """Return the least KL(q || Gamma(shape, rate)) over normal laws of log lambda.

    With log lambda ~ N(m, s^2), E[log density] = shape (log rate + m) - rate exp(m + s^2 / 2) -
    log Gamma(shape), and the best has rate exp(m + s^2 / 2) = shape and s^2 = 1 / shape.
    """
    s2 = 1 / shape
    m = np.log(shape / rate) - s2 / 2
    expected = shape * (np.log(rate) + m) - rate * np.exp(m + s2 / 2) - gammaln(shape)
    return float(-0.5 * np.log(2 * np.pi * np.e * s2) - expected)


def gamma_gap(shape: float, rate: float) -> float:
    """Return the least KL over gamma laws, found by a search that does not know the answer."""

    def kl(x: np.ndarray) -> float:
        k, r = np.exp(x)
        return float(
            (k - shape) * digamma(k)
            - gammaln(k)
            + gammaln(shape)
            + shape * (np.log(r) - np.log(rate))
            + k * (rate - r) / r
        )

    return float(max(0.0, minimize(kl, np.log([shape + 0.3, rate + 0.2]), tol=1e-14).fun))


def given_away() -> pd.DataFrame:
    """Return log p(y | theta) of two models from their E-steps alone, by three routes.

    At any z, log p(y | theta) = log p(z, y | theta) - log p(z | theta, y). In an exponential family
    with a conjugate prior it is a difference of log partition functions. And there is what SciPy
    says, by its own mass function or by quadrature.
    """
    a, b = 1.5, 0.6
    rows = []
    for y in COUNTS:
        joint, law = poisson_gamma(a, b, int(y))
        at = [joint(z) - law.logpdf(z) for z in (0.3, 1.0, 4.0)]
        partition = log_partition(a + y, b + 1) - log_partition(a, b) - gammaln(y + 1)
        area = np.log(quad(lambda z, f=joint: np.exp(f(z)), 0, np.inf, epsabs=1e-13)[0])
        right = nbinom(a, b / (b + 1)).logpmf(y)
        rows.append(told("Poisson-gamma", int(y), at, partition, area, right))
    pi, rates = np.array([0.36, 0.64]), np.array([1.26, 2.66])
    for y in (0, 3, 9):
        natural = np.log(pi) - rates + y * np.log(rates)
        joint_k = np.log(pi) + poisson(rates).logpmf(y)
        posterior = np.exp(natural - natural.max())
        posterior = posterior / posterior.sum()
        at = list(joint_k - np.log(posterior))
        partition = logsumexp(natural) - gammaln(y + 1)
        right = np.log((pi * np.exp(-rates) * rates**y).sum()) - gammaln(y + 1)
        area = np.log((pi * poisson(rates).pmf(y)).sum())
        rows.append(told("mixture of two", y, at, partition, area, right))
    return pd.DataFrame(rows)


def log_partition(shape: float, rate: float) -> float:
    """Return the log partition function of Gamma(shape, rate)."""
    return float(gammaln(shape) - shape * np.log(rate))


def poisson_gamma(a: float, b: float, y: int) -> tuple[Callable[..., float], Any]:
    """Return log p(z, y | theta) and p(z | theta, y)."""
    prior = gamma(a, scale=1 / b)
    return (
        lambda z: prior.logpdf(z) + poisson(z).logpmf(y),
        gamma(a + y, scale=1 / (b + 1)),
    )


def told(
    model: str, y: int, at: list[float], partition: float, area: float, right: float
) -> dict[str, object]:
    """Return one row: the value by the identity, how it varies with z, and the other routes."""
    return {
        "model": model,
        "y": y,
        "by the identity": f"{at[0]:.10f}",
        "spread over z": f"{np.ptp(at):.1e}",
        "by log partition functions": f"{partition:.10f}",
        "by summing or integrating": f"{area:.10f}",
        "largest difference": f"{max(abs(v - right) for v in (*at, partition, area)):.1e}",
    }
