"""Sensitivities against refits."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers

import vi_recipes as vr

NUM_GROUPS = 12


def logistic(
    y: jax.Array, x: jax.Array, group: jax.Array, weight: jax.Array, shape: jax.Array
) -> None:
    beta = numpyro.sample("beta", dist.Normal(0.0, 3.0))
    mu = numpyro.sample("mu", dist.Normal(0.0, 3.0))
    tau = numpyro.sample("tau", dist.Gamma(shape, 3.0))
    with numpyro.plate("group", NUM_GROUPS):
        u = numpyro.sample("u", dist.Normal(mu, tau**-0.5))
    with numpyro.plate("row", len(y)), handlers.scale(scale=weight):
        numpyro.sample("y", dist.Bernoulli(logits=beta * x + u[group]), obs=y)


@cache
def data() -> dict[str, Any]:
    rng = np.random.default_rng(2)
    group = np.repeat(np.arange(NUM_GROUPS), 6)
    x = rng.standard_normal(group.size)
    u = rng.standard_normal(NUM_GROUPS)
    y = (rng.random(group.size) < 1 / (1 + np.exp(-(0.7 * x + u[group])))).astype(int)
    return {"y": y, "x": x, "group": group, "weight": np.ones(y.size), "shape": np.asarray(3.0)}


def means(**changes: Any) -> np.ndarray:
    fit = vr.MeanField(tolerance=1e-8).fit(vr.Target(logistic, **{**data(), **changes}), key=0)
    assert fit.status is vr.Status.OK
    return np.array([fit.mean()[n] for n in ("beta", "mu", "tau")])


@cache
def fit() -> vr.Fit:
    method = vr.LinearResponse(base=vr.MeanField(tolerance=1e-8))
    return method.fit(vr.Target(logistic, **data()), key=0)


STEP = 1e-3


def slope(argument: str, entry: Any) -> np.ndarray:
    """Return the derivative of the means in one entry of an argument, from two refits."""
    ends = []
    for step in (STEP, -STEP):
        changed = np.array(data()[argument], float)
        changed[entry] += step
        ends.append(means(**{argument: changed}))
    return (ends[0] - ends[1]) / (2 * STEP)


@pytest.mark.slow
def test_case_weights() -> None:
    table = vr.case_sensitivity(fit())
    assert list(table.columns) == ["beta", "mu", "tau"]
    np.testing.assert_allclose(table.loc[17], slope("weight", 17), rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_weights_of_a_group() -> None:
    group = data()["group"]
    table = vr.case_sensitivity(fit(), by=group)
    assert list(table.index) == list(range(NUM_GROUPS))
    np.testing.assert_allclose(table.loc[7], slope("weight", group == 7), rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_hyperparameters() -> None:
    table = vr.data_sensitivity(fit(), "shape")
    np.testing.assert_allclose(table.iloc[0], slope("shape", ()), rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_an_argument_that_an_affine_input_depends_on() -> None:
    table = vr.data_sensitivity(fit(), "x", ["beta"])
    np.testing.assert_allclose(table.iloc[5, 0], slope("x", 5)[0], rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_observed_numbers_of_many_rows() -> None:
    """No input of a t law moves with what is observed: its density does."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal(300)
    y = 0.5 + x + rng.standard_t(4.0, 300)

    def robust(x: Any, y: Any) -> None:
        beta = numpyro.sample("beta", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.StudentT(4.0, beta[0] + beta[1] * x, 1.0), obs=y)

    def fitted(y: Any) -> vr.Fit:
        return vr.LinearResponse().fit(vr.Target(robust, x=x, y=y), key=0, throw=True)

    table = vr.data_sensitivity(fitted(y), "y")
    for entry in (3, 250):
        up, down = (fitted(y + step * (np.arange(300) == entry)) for step in (STEP, -STEP))
        moved = (up.mean()["beta"] - down.mean()["beta"]) / (2 * STEP)
        np.testing.assert_allclose(table.iloc[entry], moved, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_a_site_by_draws() -> None:
    method = vr.LinearResponse(base=vr.MeanField(expectations={"y": "draws"}, num_pairs=256))
    drawn = method.fit(vr.Target(logistic, **data()), key=0)
    found, exact = vr.case_sensitivity(drawn), vr.case_sensitivity(fit())
    assert np.abs(found - exact).to_numpy().max() < 0.1 * np.abs(exact).to_numpy().max()


@pytest.mark.slow
def test_it_is_that_of_the_fit_whatever_is_fitted_to_the_target_after_it() -> None:
    made = vr.Target(logistic, **data())
    by_draws = {"y": "draws"}
    many = vr.MeanField(expectations=by_draws, num_pairs=64, max_pairs=64)
    fitted, before = vr.LinearResponse(base=many).fit(made), many.fit(made)
    tables = [vr.case_sensitivity(fitted), vr.data_sensitivity(fitted, "x")]
    ratios = vr.assess(before, made, num_draws=100).response_ratio
    vr.MeanField(expectations=by_draws, num_pairs=2, max_pairs=2, num_nodes=3).fit(made)
    seconds = [f.timing.to_dict() for f in (fitted, before)]
    again = [vr.case_sensitivity(fitted), vr.data_sensitivity(fitted, "x")]
    for one, other in zip(tables, again, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)
    found = vr.assess(before, made, num_draws=100).response_ratio
    assert found.keys() == ratios.keys() != set()
    for name, ratio in ratios.items():
        np.testing.assert_allclose(found[name], ratio, rtol=1e-9)
    assert seconds == [f.timing.to_dict() for f in (fitted, before)]


@pytest.mark.slow
def test_refusals() -> None:
    with pytest.raises(ValueError, match="expected a fit by LinearResponse"):
        vr.case_sensitivity(vr.MAP(space="unconstrained").fit(vr.Target(logistic, **data()), key=0))
    with pytest.raises(ValueError, match="observed: got 'z'"):
        vr.case_sensitivity(fit(), observed="z")
    with pytest.raises(ValueError, match="sites: got nothing"):
        vr.case_sensitivity(fit(), ["nothing"])
    with pytest.raises(ValueError, match="by: got 3 groups"):
        vr.case_sensitivity(fit(), by=np.zeros(3))
    with pytest.raises(ValueError, match="argument: got 'group'"):
        vr.data_sensitivity(fit(), "group")
