"""EM on data and models that will not do: a clear error, or a status that says what to do."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vi_recipes as vr
from vi_recipes.core.content import find, import_file
from vi_recipes.core.status import Status

RNG = np.random.default_rng(0)
ROUTES = ("closed_form", "enumerate")


@cache
def module(name: str) -> Any:
    return import_file(find("models")[name])


def labelled(y: Any, num_components: int = 2, covariance: str = "full") -> vr.Target:
    return vr.Target(module("gmm").gmm(num_components, covariance, labels=True), y=y)


@cache
def one_far_off() -> vr.Target:
    return labelled(np.concatenate([RNG.standard_normal((30, 2)), [[50.0, 50.0]]]))


# -- mixtures --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_more_components_than_rows() -> None:
    this = labelled(RNG.standard_normal((3, 2)), 4)
    fit = vr.EM().fit(this)
    assert fit.status is Status.FAILED
    assert "num_components=4, but y has only 3 distinct row(s)" in fit.message
    assert "ask for fewer components" in fit.message
    with pytest.raises(ValueError, match=r"num_components=4, but y has only 3 distinct row\(s\)"):
        vr.EM(e_step="enumerate").fit(this)


@pytest.mark.slow
def test_more_components_than_counts() -> None:
    this = vr.Target(module("times_deaths").build(4), y=np.array([1, 2, 3]))
    fit = vr.EM(num_starts=1).fit(this)
    assert fit.status is Status.DEGENERATE
    assert "pi runs to an edge" in fit.message
    assert "fewer components" in fit.advice


@pytest.mark.slow
@pytest.mark.parametrize("e_step", ROUTES)
def test_an_observation_that_is_a_component_by_itself(e_step: Any) -> None:
    fit = vr.EM(e_step=e_step, num_starts=1, max_steps=100).fit(one_far_off())
    assert fit.status is Status.DEGENERATE
    assert "a component collapsed in every one of 1 starts" in fit.message
    assert "objective='map'" in fit.advice


@pytest.mark.slow
def test_what_is_advised_works() -> None:
    fit = vr.EM(objective="map", num_starts=1).fit(one_far_off(), throw=True)
    assert fit.status is Status.OK
    assert fit.mean()["pi"].min() == pytest.approx(2 / 33, rel=1e-3)  # one row, and the prior


@pytest.mark.parametrize("covariance", ["full", "diagonal"])
@pytest.mark.parametrize("e_step", ROUTES)
def test_constant_columns(e_step: Any, covariance: str) -> None:
    y = np.column_stack([RNG.standard_normal(40), np.ones(40)])
    with pytest.raises((ValueError, vr.FitError), match=r"column\(s\) 1 of y hold one value only"):
        vr.EM(e_step=e_step).fit(labelled(y, covariance=covariance), throw=True)


@pytest.mark.slow
def test_collinear_columns() -> None:
    x = RNG.standard_normal(40)
    y = np.column_stack([x, 2 * x])
    with pytest.raises((ValueError, vr.FitError), match=r"2 columns of y, in 40 rows.*rank 1"):
        vr.EM().fit(labelled(y), throw=True)
    assert vr.EM(num_starts=1).fit(labelled(y, covariance="diagonal")).has_result


@pytest.mark.parametrize("name", ["gmm", "times_deaths", "hmm", "factor_analysis"])
def test_nan(name: str) -> None:
    y = np.array([1.0, 2.0, np.nan, 0.0])
    y = y[:, None] + np.zeros(3) if name in ("gmm", "factor_analysis") else y
    with pytest.raises(ValueError, match=r"data argument 'y' has . NaN or infinite value"):
        vr.EM().fit(vr.Target(module(name).MODEL, y=y))


# -- hidden Markov models --------------------------------------------------------------------------


@pytest.mark.slow
def test_a_symbol_that_is_never_seen() -> None:
    y = np.array([0, 1, 0, 1, 1, 0, 0, 2] * 6)
    fit = vr.EM(num_starts=2).fit(vr.Target(module("hmm").hmm(2, "categorical", 4), y=y), key=1)
    assert fit.has_result
    np.testing.assert_array_equal(fit.mean()["B"][:, 3], 0.0)
    assert "no standard errors" in fit.message


def test_a_series_of_one_value() -> None:
    fit = vr.EM().fit(vr.Target(module("hmm").hmm(2), y=np.ones(30)))
    assert fit.status is Status.FAILED
    assert "num_states=2, but y has only 1 distinct value(s); ask for fewer states" in fit.message


@pytest.mark.slow
def test_a_state_that_nothing_visits() -> None:
    y = np.repeat([0, 40], 30)
    start = {
        "pi": np.array([0.5, 0.5, 0.0]),
        "A": np.array([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.3, 0.3, 0.4]]),
        "rate": np.array([0.1, 40.0, 20.0]),
    }
    model = module("hmm").hmm(3, "poisson")
    begun = replace(model, em=replace(model.em, start=lambda key, y: start))
    fit = vr.EM(num_starts=1).fit(vr.Target(begun, y=y))
    assert fit.status is Status.DEGENERATE
    assert "state 0 (floor 1)" in fit.message


# -- latent variables ------------------------------------------------------------------------------


def rough_path(y: Any, num_times: int) -> None:
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    with numpyro.plate("time", num_times):
        z = numpyro.sample("z", dist.Normal(0.0, scale))
    numpyro.sample("y", dist.Poisson(jnp.exp(0.1 * jnp.cumsum(z))), obs=y)


@cache
def coupled() -> vr.Target:
    model = vr.Model(function=rough_path, name="rough_path", latents=("z",))
    return vr.Target(model, y=RNG.poisson(1.0, 1_000), num_times=1_000)


def test_a_thousand_coupled_scalars() -> None:
    fit = vr.EM().fit(coupled())
    assert fit.status is Status.NOT_APPLICABLE
    assert "no E-step is tractable for latent z: it has 1000 latent scalars" in fit.message
    assert "LinearResponse" in fit.message


def test_latent_sites_that_are_not_there() -> None:
    expected = "latent: got 'nope', expected among the model's latent sites: scale, z"
    with pytest.raises(ValueError, match=expected):
        vr.EM(latent=("nope",)).fit(coupled())
    with pytest.raises(ValueError, match=r"latent: got 'nope'.*: pi, Sigma, mu, z"):
        vr.EM(latent=("nope",)).fit(one_far_off())
    declared = vr.Model(function=rough_path, name="rough_path", latents=("nope",))
    with pytest.raises(ValueError, match="latents of model 'rough_path': unknown site 'nope'"):
        vr.EM().fit(vr.Target(declared, **coupled().data))
