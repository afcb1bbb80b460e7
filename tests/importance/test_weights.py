"""Pareto's khat: of weights whose tail is known, and of SVI's guides."""

from __future__ import annotations

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats
from scipy.special import softmax

import vi_recipes as vr
from vi_recipes.importance.bounds import importance_sampled
from vi_recipes.importance.weights import LEVEL, khat, sd_of_weights, smooth


@pytest.mark.parametrize("shape", [0.25, 0.6, 1.0])
def test_the_tail_of_pareto_weights_is_found(shape: float) -> None:
    """The sign matters: of minus these log weights it is below -0.8."""
    uniform = np.random.default_rng(1).random(20_000)
    # sd of the estimate: (1 + k) / sqrt(number of weights in the tail, 3 sqrt(n))
    assert khat(-shape * np.log(uniform)) == pytest.approx(shape, abs=3 * (1 + shape) / 424**0.5)


@pytest.mark.parametrize(("sd", "shape"), [(2.0, 0.75), (2**0.5, 0.5)])
def test_a_wide_normal_and_a_narrow_proposal(sd: float, shape: float) -> None:
    """Target N(0, sd^2), proposal N(0, 1): weights exp(z^2 (1 - 1/sd^2) / 2), of shape 1 - 1/sd^2.

    Their tail is a Pareto's but for a factor of 1 / sqrt(log), which lowers the estimate.
    """
    found, reverse = [], []
    for seed in range(6):
        z = np.random.default_rng(seed).standard_normal(100_000)
        found.append(khat(z**2 / 2 * (1 - 1 / sd**2)))
        reverse.append(khat(-(z**2) / 2 * (sd**2 - 1)))  # target N(0, 1), proposal N(0, sd^2)
    se = (1 + shape) / (3 * 100_000**0.5) ** 0.5 / 6**0.5
    assert shape - 0.06 - 3 * se < np.mean(found) < shape + 3 * se
    assert max(reverse) < 0  # weights with an upper bound


def test_weights_without_a_tail() -> None:
    rng = np.random.default_rng(0)
    assert khat(np.full(200, -3.0)) == -np.inf
    assert khat(np.where(np.arange(200) < 120, 5.0, -rng.random(200))) == -np.inf
    # q is uniform on twice p's support
    assert khat(np.where(rng.random(400) < 0.5, 0.0, -np.inf)) == -np.inf
    lengths = rng.standard_normal(400)
    assert khat(lengths + 1e5) == pytest.approx(khat(lengths), abs=1e-6)


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        (np.zeros(99), r"shape \(99,\)"),
        (np.zeros((2, 200)), r"shape \(2, 200\)"),
        (np.r_[np.zeros(200), np.nan], "1 of 201 are NaN"),
        (np.r_[np.zeros(200), np.inf], "1 of 201 are NaN or plus infinity"),
        (np.full(200, -np.inf), "no density at any draw"),
    ],
)
def test_bad_weights(weights: np.ndarray, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        khat(weights)


def correlated() -> None:
    numpyro.sample("x", dist.MultivariateNormal(np.zeros(2), np.array([[1.0, 0.95], [0.95, 1.0]])))


@pytest.mark.slow
def test_guides_that_can_and_cannot_represent_the_posterior() -> None:
    """Mean field's weights are exp(r z_1 z_2), z standard normal, whose k is r = 0.95."""
    target = vr.Target(correlated)
    found = {
        guide: vr.SVI(guide=guide, num_steps=3_000).fit(target, key=0, throw=True).diagnostics
        for guide in ("normal", "multivariate_normal")
    }
    assert found["multivariate_normal"]["khat"] < 0.5
    assert found["normal"]["khat"] > 0.5
    several = vr.SVI(num_particles=2, num_steps=200).fit(target, key=0)
    assert "khat" not in several.diagnostics  # of averages there are no weights
    assert "khat" not in vr.SVI(guide="delta", num_steps=200).fit(target, key=0).diagnostics


def rates(a: int) -> np.ndarray:
    """Log weights of the log of a Gamma(a, 1), drawn by a normal of its own mean and scale."""
    x = np.log(a) - 0.5 / a + np.random.default_rng(0).standard_normal(4_000) / np.sqrt(a)
    return stats.loggamma.logpdf(x, a) - stats.norm.logpdf(x, np.log(a) - 0.5 / a, a**-0.5)


@pytest.mark.parametrize("a", [3, 5, 20, 1_000])
def test_a_maximum_of_the_weights_within_q_is_no_tail(a: int) -> None:
    """A Pareto fitted to the excesses over a threshold by it has a shape of 3, for every a."""
    assert khat(rates(a)) < 0.7
    assert importance_sampled(rates(a)).value == pytest.approx(0.0, abs=0.05)


def test_weights_that_are_level_have_no_tail() -> None:
    assert sd_of_weights(softmax(rates(1_000))) < LEVEL < sd_of_weights(softmax(rates(5)))
    assert khat(rates(1_000)) == -np.inf
    assert importance_sampled(rates(1_000)).kind == (
        "estimate (importance sampling, weights without a tail)"
    )


def test_level_weights_leave_every_mean_within_a_tenth_of_an_sd() -> None:
    """What the limit is derived from, at its worst: a mean that is off by the sd of the weights."""
    z = np.random.default_rng(0).standard_normal(100_000)
    off = np.sqrt(np.log(1 + LEVEL**2))  # where that sd is the limit
    weights = smooth(0.98 * off * z)
    assert weights.khat == -np.inf
    assert 0.09 < weights.values @ z < LEVEL


@pytest.mark.parametrize("share", [0.01, 0.02, 0.05, 0.5])
@pytest.mark.parametrize("above", [0, 1, 3, 10])
def test_tied_weights(share: float, above: int) -> None:
    """Some draws have one large weight, others as many more, and the rest is spread below."""
    rng = np.random.default_rng(0)
    log_weights = -2 * rng.random(4_000) - 1
    log_weights[: int(4_000 * share)] = 0.0
    log_weights[:above] = 0.1 * rng.random(above)
    assert khat(log_weights) < 0.7
    assert np.isfinite(importance_sampled(log_weights).value)


def test_few_draws_with_weight_at_all() -> None:
    log_weights = np.full(4_000, -np.inf)
    log_weights[:30] = 0.0
    assert khat(log_weights) > 0.7
