"""Densities that end, as that of Uniform(0, theta) does at the largest observed value."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vi_recipes as vr

Y = np.array([0.3, 1.1, 2.6, 1.9, 0.8, 2.2])


def bounded(y: np.ndarray) -> None:
    theta = numpyro.sample("theta", dist.Pareto(0.5, 1.0))
    numpyro.sample("y", dist.Uniform(0.0, theta), obs=y)


def bounded_by_hand(y: np.ndarray) -> None:
    theta = numpyro.sample("theta", dist.Pareto(0.5, 1.0))
    inside = theta > y.max()
    numpyro.factor("y", jnp.where(inside, -len(y) * jnp.log(theta), -jnp.inf))


def kept_inside(y: np.ndarray) -> None:
    distance = numpyro.sample("distance", dist.LogNormal(0.0, 1.0))
    numpyro.sample("y", dist.Uniform(0.0, jnp.max(y) + distance), obs=y)


def far_away(y: np.ndarray) -> None:
    theta = numpyro.sample("theta", dist.LogNormal(4.0, 0.05))
    numpyro.sample("y", dist.Uniform(0.0, theta), obs=y)


@cache
def target(model: Callable[..., None]) -> vr.Target:
    return vr.Target(model, y=Y)


ENDS = "the log density of site y is minus infinity for some values of theta"


@pytest.mark.parametrize(
    "method", [vr.MeanField(), vr.LinearResponse(), vr.StructuredVB(), vr.SVI(num_steps=200)]
)
def test_no_law_has_an_elbo_where_it_reaches_beyond_an_end(method: vr.Method) -> None:
    fit = method.fit(target(bounded), key=0)
    assert not fit.has_result
    assert fit.status is vr.Status.DIVERGED
    assert ENDS in fit.message
    assert "theta = y.max() + distance" in fit.advice


@pytest.mark.parametrize(
    "method", [vr.StructuredVB(), pytest.param(vr.MeanField(), marks=pytest.mark.slow)]
)
def test_an_elbo_whose_nodes_stop_short_of_an_end_is_none(method: vr.Method) -> None:
    fit = method.fit(target(bounded_by_hand), key=0)
    assert fit.status is vr.Status.UNCONVERGED
    assert fit.message.startswith(ENDS)


@pytest.mark.parametrize("method", [vr.MAP(), vr.MarginalMLE()])
def test_a_mode_at_an_end_is_told_from_a_search_that_failed(method: vr.Method) -> None:
    fit = method.fit(target(bounded), key=0)
    assert fit.status is vr.Status.UNCONVERGED
    assert fit.message.startswith(f"{ENDS}: it is highest at that end, where no slope is 0")
    np.testing.assert_allclose(fit.mean()["theta"], Y.max(), rtol=1e-6)


@pytest.mark.parametrize("model", [kept_inside, far_away])
@pytest.mark.parametrize("method", [vr.MAP(), vr.MeanField()])
def test_ends_that_a_fit_does_not_reach_are_nothing_to_it(
    model: Callable[..., None], method: vr.Method
) -> None:
    assert target(model).flows.ending
    assert method.fit(target(model), key=0).status is vr.Status.OK
