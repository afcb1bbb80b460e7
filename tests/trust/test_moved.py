"""Lower bounds by short chains: closed forms, never above the true error, silent where right."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vi_recipes as vr
from vi_recipes.posterior.gaussian import GaussianPosterior

DIM, RHO = 50, 0.9
COVARIANCE = RHO * np.ones((DIM, DIM)) + (1 - RHO) * np.eye(DIM)
ROOT = np.linalg.cholesky(COVARIANCE)


def correlated() -> None:
    numpyro.sample("x", dist.MultivariateNormal(jnp.zeros(DIM), scale_tril=ROOT))


@cache
def target() -> vr.Target:
    return vr.Target(correlated)


@cache
def exact() -> vr.Fit:
    return vr.Laplace().fit(target(), throw=True)


def independent(mean: float, sd: float) -> vr.Fit:
    """A fit of independent normals, off by so much in every mean, with such sds."""
    loc = np.full(DIM, mean)
    return replace(exact(), posterior=GaussianPosterior(target(), loc, None, np.full(DIM, sd)))


@pytest.mark.slow
@pytest.mark.parametrize("key", range(2))
def test_mean_field_is_too_narrow_by_a_known_factor_and_no_more_is_claimed(key: int) -> None:
    """Every conditional sd is 1 / sqrt of the precision, which mean field's are."""
    factor = np.sqrt(np.linalg.inv(COVARIANCE)[0, 0])
    found = vr.lower_bounds(independent(0.0, 1 / factor), target(), key=key)
    assert found is not None
    assert 2.0 < found.sd_ratio < factor
    assert found.mean < 0.1  # means are right; a twentieth of sds may be claimed once in 100 keys
    assert "make its sd of x[" in str(found)


@pytest.mark.slow
@pytest.mark.parametrize("key", range(2))
def test_of_what_is_right_nothing_is_claimed(key: int) -> None:
    found = vr.lower_bounds(exact(), target(), key=key)
    assert found is not None
    assert (found.mean, found.sd_ratio, found.factor) == (0.0, 1.0, 1.0)
    assert str(found).endswith("move nothing beyond Monte Carlo error")


def plain() -> None:
    with numpyro.plate("unit", 5):
        numpyro.sample("x", dist.Normal(3.0, 2.0))


@pytest.mark.parametrize(("shift", "ratio"), [(2.0, 1.0), (0.0, 0.5), (0.0, 2.0), (1.0, 2.0)])
def test_no_error_is_claimed_to_be_larger_than_it_is(shift: float, ratio: float) -> None:
    simple = vr.Target(plain)
    fit = vr.Laplace().fit(simple, throw=True)
    loc, sd = np.full(5, 3.0 + 2 * shift), np.full(5, 2 * ratio)
    fit = replace(fit, posterior=GaussianPosterior(simple, loc, None, sd))
    for key in range(3):
        found = vr.lower_bounds(fit, simple, key=key)
        assert found is not None
        assert found.mean <= shift
        assert (found.mean > 0) == (shift > 0)
        assert found.factor <= max(ratio, 1 / ratio)
        assert (found.sd_ratio < 1) == (ratio > 1)
        assert (found.sd_ratio > 1) == (ratio < 1)


def test_where_there_are_no_chains() -> None:
    assert vr.lower_bounds(vr.MAP().fit(target()), target()) is None
    with pytest.raises(ValueError, match="num_chains: got 3, expected at least 50"):
        vr.lower_bounds(exact(), target(), num_chains=3)


def funnel() -> None:
    v = numpyro.sample("v", dist.Normal(0.0, 2.0))
    with numpyro.plate("unit", 9):
        numpyro.sample("x", dist.Normal(0.0, jnp.exp(v / 2)))


def test_what_has_overshot_and_turns_back_is_not_claimed() -> None:
    """Of v, q has the mean and the sd; of x it is far too wide, and drags v up while it is."""
    wide = vr.Target(funnel)
    fit = vr.MeanField().fit(wide)
    law = GaussianPosterior(wide, np.zeros(10), None, np.array([2.0] + [30.0] * 9))
    found = vr.lower_bounds(replace(fit, posterior=law), wide)
    assert found is not None
    assert found.mean == 0 or found.mean_at != "v"
