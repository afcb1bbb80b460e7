"""Components that may change places, though the model does not say so."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vi_recipes as vr
from vi_recipes.model import other_labelling

RNG = np.random.default_rng(4)
Y = np.concatenate([RNG.normal(-2.0, 1.0, 30), RNG.normal(2.0, 1.0, 70)])
POINTS = np.column_stack([Y, RNG.standard_normal(100)])


def mixture(y: np.ndarray, own_sds: bool = False, ordered: bool = False) -> None:
    w = numpyro.sample("w", dist.Dirichlet(jnp.full(2, 2.0)))
    if ordered:
        prior = dist.Normal(0.0, 5.0).expand([2]).to_event(1)
        order = dist.transforms.OrderedTransform()
        mu = numpyro.sample("mu", dist.TransformedDistribution(prior, order))
    else:
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    s = numpyro.sample("s", dist.HalfNormal(2.0).expand([2] if own_sds else []).to_event(own_sds))
    with numpyro.plate("n", len(y)):
        part = dist.Normal(mu, s if own_sds else jnp.full(2, s))
        numpyro.sample("y", dist.MixtureSameFamily(dist.Categorical(w), part), obs=y)


def in_the_plane(y: np.ndarray) -> None:
    """Two components in two dimensions: axes of one length."""
    w = numpyro.sample("w", dist.Beta(2.0, 2.0))
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0).expand([2, 2]).to_event(2))
    part = dist.Normal(mu, 1.0).to_event(1)
    weights = dist.Categorical(jnp.full(2, 0.5) + 0.0 * w)
    with numpyro.plate("n", len(y)):
        numpyro.sample("y", dist.MixtureSameFamily(weights, part), obs=y)


def regression(y: np.ndarray) -> None:
    beta = numpyro.sample("beta", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    numpyro.sample("y", dist.Normal(beta[0] + beta[1] * jnp.arange(len(y)), 1.0), obs=y)


@cache
def target(kind: str) -> vr.Target:
    if kind == "plane":
        return vr.Target(in_the_plane, y=POINTS)
    if kind == "regression":
        return vr.Target(regression, y=Y)
    return vr.Target(mixture, y=Y, own_sds=kind == "own sds", ordered=kind == "ordered")


def around(kind: str, apart: float = 4.0) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return means, with those of the two components so far apart, and sds of 0.1."""
    shapes = {site.name: site.shape for site in target(kind).latents}
    mean = {name: np.full(shape, 0.5) for name, shape in shapes.items()}
    for name in mean.keys() & {"mu", "beta"}:
        mean[name] = mean[name] + apart * np.arange(2.0).reshape(2, *[1] * (mean[name].ndim - 1))
    return mean, {name: np.full(shape, 0.1) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("kind", "sites"),
    [
        ("one sd", {"w": 0, "mu": 0}),
        ("own sds", {"w": 0, "mu": 0, "s": 0}),
        ("plane", {"mu": 0}),
    ],
)
def test_components_that_may_change_places_are_found(kind: str, sites: dict[str, int]) -> None:
    group = other_labelling(target(kind), *around(kind))
    assert group is not None
    assert group.sites == sites


@pytest.mark.parametrize("kind", ["ordered", "regression"])
def test_what_may_not_change_places_is_not_taken_for_components(kind: str) -> None:
    assert other_labelling(target(kind), *around(kind)) is None


def test_components_that_lie_together_have_one_mode() -> None:
    assert other_labelling(target("one sd"), *around("one sd", apart=0.1)) is None


SAID = "components of w, mu may change places without changing the density"
CURE = "Model(exchangeable=[Exchangeable(sites={'w': 0, 'mu': 0})])"


@pytest.mark.slow
def test_points_around_one_order_of_components_are_not_the_posterior() -> None:
    fit = vr.NestedQuadrature().fit(target("one sd"), key=0)
    assert fit.status is vr.Status.UNCONVERGED
    assert SAID in fit.message
    assert CURE in fit.advice


@pytest.mark.slow
def test_chains_in_several_orders_of_components_say_so_and_agree_once_these_are_declared() -> None:
    method = vr.NUTS(num_warmup=300, num_samples=300)
    fit = method.fit(target("one sd"), key=1)
    assert fit.diagnostics["r_hat_max"] > 1.1
    assert SAID in fit.message
    assert CURE in fit.advice
    declared = vr.Model(
        function=mixture, exchangeable=[vr.Exchangeable(sites={"w": 0, "mu": 0})], name="declared"
    )
    assert method.fit(vr.Target(declared, y=Y), key=1).diagnostics["r_hat_max"] < 1.05
