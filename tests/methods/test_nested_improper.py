"""Posteriors that are none, and what cannot be integrated out: what is said of them, and to do."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vi_recipes as vr

RNG = np.random.default_rng(5)
GROUP = np.repeat(np.arange(4), 5)
MIXED = RNG.integers(0, 2, 20)
REAL = dist.constraints.real


def by_groups(y: Any, g: Any, flat: bool) -> None:
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    law = dist.ImproperUniform(REAL, (), ()) if flat else dist.Normal(0.0, 50.0)
    with numpyro.plate("group", 4):
        u = numpyro.sample("u", law)
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=b + u[g]), obs=y)


@pytest.mark.parametrize("method", [vr.NestedQuadrature(), vr.NUTS(marginal=True)])
def test_a_separated_member_under_a_flat_prior_is_told(method: Any) -> None:
    # curvature of 1e-15 counted as a mode: "errors of up to 0.043 sds are left", "use NUTS"
    y = np.where(GROUP == 2, 1, MIXED)
    fit = method.fit(vr.Target(by_groups, y=y, g=GROUP, flat=True), key=0)
    assert fit.status is vr.Status.UNCONVERGED
    assert "the density of u levels out in member 2" in fit.message
    assert "improper" in fit.message
    assert "give u a prior that falls" in fit.advice


def test_a_separated_member_under_a_wide_prior_is_no_doubt() -> None:
    y = np.where(GROUP == 2, 1, MIXED)
    fit = vr.NestedQuadrature().fit(vr.Target(by_groups, y=y, g=GROUP, flat=False), key=0)
    # given b what is left of member 2 is a normal law cut off softly; b ~ N(0, 1) moves it little
    z = np.linspace(-150.0, 400.0, 200_001)
    weight = np.exp(-(z**2) / 5_000 - 5 * np.logaddexp(0.0, -z))
    assert fit.status is vr.Status.OK, fit.explanation
    assert fit.mean()["u"][2] == pytest.approx(z @ weight / weight.sum(), rel=0.03)


def test_without_counts_in_a_member_the_prior_is_named() -> None:
    def model(y: Any, g: Any) -> None:
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        with numpyro.plate("group", 4):
            u = numpyro.sample("u", dist.ImproperUniform(REAL, (), ()))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.Poisson(jnp.exp(b * jnp.cos(jnp.arange(20.0)) + u[g])), obs=y)

    y = np.where(GROUP == 0, 0, MIXED)
    fit = vr.NestedQuadrature().fit(vr.Target(model, y=y, g=GROUP), key=0)
    assert fit.status is vr.Status.DIVERGED
    assert fit.advice.startswith("give u a prior that falls")  # it was "start elsewhere" alone


def test_points_that_rounding_loses_at_an_edge_are_told_as_such() -> None:
    # a prior of 1 / tau: "log p(y, theta) was not found", and NUTS was to find it
    def model(y: Any) -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        tau = numpyro.sample("tau", dist.ImproperUniform(dist.constraints.positive, (), ()))
        numpyro.factor("flat in log tau", -jnp.log(tau))
        with numpyro.plate("group", 6):
            u = numpyro.sample("u", dist.Normal(mu, tau))
            numpyro.sample("y", dist.Normal(u, 1.0), obs=y)

    fit = vr.NestedQuadrature().fit(vr.Target(model, y=RNG.normal(size=6)), key=0)
    assert fit.status is vr.Status.UNCONVERGED
    assert "tau lies within 1e-11 of an edge of its support there" in fit.message
    assert "proper" in fit.advice


def of_both_kinds(y: Any, g: Any, groups: int) -> None:
    sd = numpyro.sample("sd", dist.HalfNormal(1.0))
    with numpyro.plate("group", groups):
        u = numpyro.sample("u", dist.Normal(0.0, sd))
    with numpyro.plate("row", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(0.4), infer={"enumerate": "parallel"})
        numpyro.sample("y", dist.Normal(u[g] + 3.0 * z, 1.0), obs=y)


@pytest.mark.slow
@pytest.mark.parametrize("key", [0, 1])
def test_latent_variables_of_both_kinds_are_named(key: int) -> None:
    # one of these ended in "zero-size array to reduction operation maximum", the other said nothing
    y = np.random.default_rng(1).normal(size=20) + 3.0 * MIXED
    fit = vr.NestedQuadrature().fit(vr.Target(of_both_kinds, y=y, g=GROUP, groups=4), key=key)
    assert fit.status is vr.Status.DIVERGED
    assert "z is discrete and u continuous" in fit.message
    assert "MixtureSameFamily" in fit.advice


def test_more_latent_variables_of_both_kinds_are_refused_by_name() -> None:
    y, groups = RNG.normal(size=40), np.repeat(np.arange(20), 2)
    target = vr.Target(of_both_kinds, y=y, g=groups, groups=20)
    reason = vr.NestedQuadrature().applies(target)
    assert reason is not None
    assert "21 parameters are left" in reason
    assert "z is discrete and u continuous" in reason


def test_two_groups_under_a_flat_prior_of_their_sd_are_told_as_that() -> None:
    """It was "only 0.064 of them are effective", without a cause or what to do."""

    def model(y: Any) -> None:
        mu = numpyro.sample("mu", dist.ImproperUniform(REAL, (), ()))
        tau = numpyro.sample("tau", dist.ImproperUniform(dist.constraints.positive, (), ()))
        with numpyro.plate("group", 2):
            u = numpyro.sample("u", dist.Normal(mu, tau))
            numpyro.sample("y", dist.Normal(u, 1.0), obs=y)

    fit = vr.NestedQuadrature().fit(vr.Target(model, y=np.array([0.3, 1.2])), key=0)
    assert fit.status is vr.Status.UNCONVERGED
    assert "improper" in fit.message
    assert "give mu, tau a prior" in fit.advice
