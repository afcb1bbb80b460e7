"""Whether the Renyi bound has a value: normals, and laws of thinner and of thicker tails."""

from __future__ import annotations

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vi_recipes as vr
from vi_recipes.methods.svi.existence import _in_draws, _in_tails
from vi_recipes.posterior import GaussianPosterior


def one(law: dist.Distribution) -> vr.Target:
    return vr.Target(lambda: numpyro.sample("x", law))


@pytest.mark.parametrize(
    ("law", "alpha", "sd", "infinite"),
    [
        # with q ~ Normal(0, sd), q^a p^(1 - a) falls where a / sd^2 + 1 - a is positive
        (dist.Normal(0.0, 1.0), 2.0, 1.41, ""),
        (dist.Normal(0.0, 1.0), 2.0, 1.42, "along x"),
        (dist.Normal(0.0, 1.0), -1.0, 0.71, ""),
        (dist.Normal(0.0, 1.0), -1.0, 0.70, "along x"),
        (dist.StudentT(3.0), 2.0, 5.0, ""),
        (dist.StudentT(3.0), -1.0, 50.0, "whatever the normal"),
        # log x has a tail as exp(-exp(log x)) on the right, and as x on the left
        (dist.Gamma(3.0, 1.0), 2.0, 0.02, "whatever the normal"),
        (dist.Gamma(3.0, 1.0), -1.0, 5.0, "whatever the normal"),
        (dist.InverseGamma(3.0, 1.0), 2.0, 0.02, "whatever the normal"),
    ],
)
def test_tails_decide(law: dist.Distribution, alpha: float, sd: float, infinite: str) -> None:
    q = GaussianPosterior(one(law), np.zeros(1), None, np.array([sd]))
    found = _in_tails(q, alpha, q.target)
    assert infinite in found
    assert bool(found) == bool(infinite)


def test_a_direction_that_is_no_coordinates_own_decides_too() -> None:
    """p has sds of 1 and correlation 0.9: across it, precision 10, q is too wide from 0.447 on."""
    cov = np.array([[1.0, 0.9], [0.9, 1.0]])
    this = one(dist.MultivariateNormal(np.zeros(2), cov))
    for sd, infinite in ((0.42, False), (0.6, True)):
        q = GaussianPosterior(this, np.zeros(2), None, np.full(2, sd))
        assert bool(_in_tails(q, 2.0, this)) == infinite


def test_the_tail_of_estimates_decides_where_nothing_else_does() -> None:
    steep = np.random.default_rng(0).exponential(size=400)
    assert not _in_draws(-0.4 * steep, 2.0)
    assert "khat 1." in _in_draws(-1.5 * steep, 2.0)
    assert "khat 1." in _in_draws(0.75 * steep, -1.0)


def test_a_fit_says_that_its_bound_has_no_value() -> None:
    this = one(dist.Exponential(1.0))
    options = {"objective": "renyi", "num_particles": 20, "num_steps": 3_000}
    fit = vr.SVI(alpha=2.0, **options).fit(this, key=0)
    assert fit.status is vr.Status.UNCONVERGED
    assert "the mean of (p / q)^-1 under q is infinite" in fit.message
    assert "moves with their number; stopped by its rule" in fit.message
    assert "alpha between 0 and 1" in fit.explanation
    assert fit.has_result
