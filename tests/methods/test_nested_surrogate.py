"""Polynomials near log p(y, theta), against integrals over a lattice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import logsumexp

from vi_recipes.importance import around
from vi_recipes.methods.nested.polynomial import QUIET_RESIDUAL, by_polynomial
from vi_recipes.methods.nested.records import ThetaRows
from vi_recipes.methods.nested.rounds import Integral, Rounds, weigh
from vi_recipes.methods.nested.surrogate import fit_surrogate

ROOT = np.array([[0.5, 0.0], [0.2, 0.4]])


def bent(theta: np.ndarray, more: float = 0.0) -> np.ndarray:
    """Return a log density that no cubic has, nor any polynomial where ``more`` is not 0."""
    e = theta @ np.linalg.inv(ROOT).T
    return (
        3.0
        - (e**2).sum(-1) / 2
        + 0.06 * e[..., 0] ** 3
        - 0.03 * e[..., 0] ** 4
        - 0.02 * (e[..., 0] * e[..., 1]) ** 2
        + more * np.sin(3 * e[..., 0] + e[..., 1])
    )


def scalars(theta: np.ndarray) -> np.ndarray:
    return np.column_stack([theta, np.exp(theta)])


def answer(more: float) -> tuple[float, np.ndarray, np.ndarray]:
    """Return the log of the integral, means and sds of scalars."""
    axis = np.linspace(-4.0, 4.0, 401)
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    logs = bent(grid, more)
    total = logsumexp(logs)
    w, values = np.exp(logs - total), scalars(grid)
    mean = w @ values
    sd = np.sqrt(w @ (values - mean) ** 2)
    return total + 2 * np.log(axis[1] - axis[0]), mean, sd


def rounds_of(more: float, seed: int, shift: Any = 0.0) -> Rounds:
    """Return two rounds of 128 points of a wide proposal, constants added to their lots."""
    rounds, wide = Rounds(2), around(np.zeros(2), 1.5 * ROOT @ ROOT.T, np.ones(2, bool))
    for _ in range(2):
        theta, _ = rounds.points(wide, 128, seed)
        log_p, values = bent(theta, more), scalars(theta)
        rounds.add(wide, theta, ThetaRows(log_p + shift, values, 0 * values, log_p))
    return rounds


def away(found: Integral, more: float) -> np.ndarray:
    """Return how far means, sds and the log of the integral are off, in sds."""
    log_evidence, mean, sd = answer(more)
    off = (found.mean - mean) / sd, found.sd / sd - 1, [found.log_evidence - log_evidence]
    return np.concatenate(off)


def told(found: Integral) -> np.ndarray:
    errors = found.mean_error / found.sd, found.sd_error / found.sd, [found.log_evidence_error]
    return np.concatenate(errors)


def test_a_quartic_of_two_coordinates_is_found_as_it_is() -> None:
    rounds = rounds_of(0.0, 3)
    theta, log_p = rounds.theta, rounds.swept.log_p
    found = fit_surrogate(theta, log_p, weigh(rounds).weights)
    assert found is not None
    assert found.residual < 1e-6
    np.testing.assert_allclose(found.log_prob(theta[found.used]), log_p[found.used], atol=1e-6)
    # beyond the points it falls on as it does at the edge
    line = found.loc + np.outer([50.0, 60.0, 70.0], [0.6, 0.8])
    falls = np.diff(found.log_prob(line))
    assert found.and_beyond(line)[1].all()
    assert falls[0] < -10
    assert falls[1] == pytest.approx(falls[0])
    integral = by_polynomial(rounds, weigh(rounds))
    assert integral is not None
    off = np.abs(away(integral, 0.0))
    assert off[[0, 1, 2, 3, 4, 5, 8]].max() < 1e-3
    assert off.max() < 0.01  # sds of exponentials are no means of cubics


def test_what_a_polynomial_misses_is_integrated_by_the_points() -> None:
    more, off, errors, plain = 0.1, [], [], []
    for seed in range(8):
        rounds = rounds_of(more, 100 * seed)
        weighed = weigh(rounds)
        found = by_polynomial(rounds, weighed)
        assert found is not None
        assert found.residual is not None
        assert 5 * QUIET_RESIDUAL < found.residual < 0.1
        assert found.weights.sum() == pytest.approx(1.0)
        off.append(away(found, more))
        errors.append(told(found))
        plain.append(away(weighed, more))
    size, told_size, plain_size = (
        np.sqrt(np.mean(np.square(values), axis=0)) for values in (off, errors, plain)
    )
    assert size.max() < 0.02
    assert (plain_size[:6] > 4 * size[:6]).all()
    assert (size < 2 * told_size).all()


def test_what_no_polynomial_comes_near_has_none() -> None:
    rounds = rounds_of(2.0, 3)
    assert by_polynomial(rounds, weigh(rounds)) is None
    flat = Rounds(2)
    wide = around(np.zeros(2), ROOT @ ROOT.T, np.ones(2, bool))
    theta = np.zeros((128, 2))
    flat.add(wide, theta, ThetaRows(bent(theta), theta, theta, bent(theta)))
    assert by_polynomial(flat, weigh(flat)) is None


def test_lots_with_a_constant_of_their_own_hardly_tilt_it() -> None:
    constants = np.random.default_rng(2).normal(0.0, 0.05, 8)
    rounds = rounds_of(0.0, 3, np.repeat(constants, 16))
    found = by_polynomial(rounds, weigh(rounds), lots=True)
    assert found is not None
    assert found.residual is not None
    assert found.residual < 1e-6
    # a mean weight has no bias: its average over lots has none, and that of logarithms has
    shift = np.log(np.exp(constants).mean())
    off = away(found, 0.0)
    assert np.abs(off[:-1]).max() < 4e-3
    assert off[-1] == pytest.approx(shift, abs=3e-3)


def test_large_constants_of_lots_are_told_from_the_density() -> None:
    constants = np.random.default_rng(2).normal(0.0, 0.5, 8)
    rounds = rounds_of(0.0, 3, np.repeat(constants, 16))
    theta, log_p, w = rounds.theta, rounds.swept.log_p, weigh(rounds).weights
    lots = np.tile(np.repeat(np.arange(8), 16), 2)
    found, blind = fit_surrogate(theta, log_p, w, lots), fit_surrogate(theta, log_p, w)
    assert found is not None
    assert found.residual < 1e-6
    assert blind is None or blind.residual > 0.1
