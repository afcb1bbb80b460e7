"""Polynomials in place of log p(y, theta), against integrals over a lattice."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp, ndtri

from vi_recipes.importance import scrambled_sobol
from vi_recipes.methods.nested.surrogate import RESIDUAL, Surrogate, fit_surrogate

ROOT = np.array([[0.5, 0.0], [0.2, 0.4]])


def bent(theta: np.ndarray) -> np.ndarray:
    """Return a log density that no cubic has."""
    e = theta @ np.linalg.inv(ROOT).T
    return (
        3.0
        - (e**2).sum(-1) / 2
        + 0.06 * e[..., 0] ** 3
        - 0.03 * e[..., 0] ** 4
        - 0.02 * (e[..., 0] * e[..., 1]) ** 2
    )


def answer() -> tuple[float, np.ndarray, np.ndarray]:
    """Return the integral, the mean and the second moments."""
    axis = np.linspace(-4.0, 4.0, 401)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    logs = bent(grid)
    total = logsumexp(logs)
    w = np.exp(logs - total)
    return total + 2 * np.log(axis[1] - axis[0]), w @ grid, (grid * w[:, None]).T @ grid


def fitted(lots: np.ndarray | None = None, noise: np.ndarray | float = 0.0) -> Surrogate | None:
    """Return the surrogate by 128 normal points."""
    theta, log_q = points()
    few, log_p = theta[:128], bent(theta[:128])
    w = np.exp(log_p - log_q[:128])
    return fit_surrogate(few, log_p + noise, w / w.sum(), theta, log_q, lots)


def points() -> tuple[np.ndarray, np.ndarray]:
    """Return points wider than the posterior, and their log density."""
    x = np.sqrt(2.0) * ndtri(scrambled_sobol(2, 2**14, [3]))
    return x @ ROOT.T, -(x**2).sum(1) / 4 - np.log(4 * np.pi * np.linalg.det(ROOT))


def moments(found: Surrogate) -> tuple[np.ndarray, np.ndarray]:
    theta = points()[0][:128]
    return found.weights @ theta, (theta * found.weights[:, None]).T @ theta


def test_a_quartic_of_two_coordinates_has_its_integral_and_moments() -> None:
    found = fitted()
    assert found is not None
    assert found.residual < 1e-6
    log_evidence, mean, square = answer()
    assert found.log_evidence == pytest.approx(log_evidence, abs=2e-3)
    got = moments(found)
    np.testing.assert_allclose(got[0], mean, atol=2e-3)
    np.testing.assert_allclose(got[1], square, atol=2e-3)


def test_lots_with_a_constant_of_their_own_hardly_tilt_it() -> None:
    lots = np.arange(128) // 16
    constants = np.random.default_rng(2).normal(0.0, 0.5, 8)
    found, blind = fitted(lots, constants[lots]), fitted(noise=constants[lots])
    assert found is not None
    assert found.residual < 1e-6
    log_evidence, mean, _ = answer()
    # a mean weight has no bias: its average over lots has none, and that of logarithms has
    by_mean = log_evidence + np.log(np.exp(constants).mean())
    assert found.log_evidence == pytest.approx(by_mean, abs=3e-3)
    np.testing.assert_allclose(moments(found)[0], mean, atol=3e-3)
    assert blind is None or blind.residual > 10 * RESIDUAL
