"""Observed values of any kind, whose support depends on latent variables."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import gamma

import vi_recipes as vr


def within(y: Any) -> None:
    theta = numpyro.sample("theta", dist.Gamma(3.0, 1.0))
    numpyro.sample("y", dist.Uniform(0.0, theta), obs=y)


def of_its_own() -> None:
    theta = numpyro.sample("theta", dist.Gamma(3.0, 1.0))
    numpyro.sample("y", dist.Uniform(0.0, theta), obs=np.array(1.5))


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (within, {"y": 1.5}),
        (within, {"y": np.float64(1.5)}),
        (within, {"y": np.array(1.5)}),
        (of_its_own, {}),
    ],
)
def test_numbers_and_arrays_are_held_against_bounds_that_are_latent(
    model: Callable[..., None], data: dict[str, Any]
) -> None:
    target = vr.Target(model, **data)
    theta = np.array([1.4, 1.6, 4.0])
    rows = target.unconstrain_rows({"theta": theta})
    given = [target.log_density(row, jacobian=False) for row in rows]
    expected = gamma(3.0).logpdf(theta) - np.log(theta)
    np.testing.assert_allclose(given[1:], expected[1:], rtol=1e-12)
    assert given[0] == -np.inf


def test_a_whole_number_is_observed() -> None:
    fit = vr.NUTS(num_warmup=100, num_samples=100).fit(vr.Target(within, y=1))
    assert (fit.draws(50)["theta"] > 1).all()


def of_a_mapping(data: dict[str, Any], scales: list[float] = [1.0]) -> None:  # noqa: B006
    mu = numpyro.sample("mu", dist.Normal(0.0, scales[0]))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=data["y"])


@pytest.mark.parametrize(
    ("model", "data"), [(within, {"y": 1.5}), (of_a_mapping, {"data": {"y": 1.5}})]
)
def test_a_model_with_its_data_can_be_sent_to_another_process(
    model: Callable[..., None], data: dict[str, Any]
) -> None:
    target = vr.Target(model, **data)
    sent = pickle.loads(pickle.dumps(target.complete_model))
    again = vr.Target(sent, **data)
    z = np.array([0.7])
    assert again.log_density(z) == target.log_density(z)
