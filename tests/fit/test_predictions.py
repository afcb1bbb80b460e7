"""Pointwise log-likelihoods and replications, against SciPy and closed forms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import effects_for_tests as effects
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import target as listed
from numpyro.contrib.control_flow import scan
from scipy import stats

import vi_recipes as vr
from vi_recipes.fit import draws
from vi_recipes.model import observed_data, replicate
from vi_recipes.posterior.draws import MomentsPosterior
from vi_recipes.posterior.gaussian import GaussianPosterior


def fit_of(target: vr.Target, num_free: float = 0.3) -> vr.Fit:
    """An approximation made by hand: nothing is fitted."""
    posterior = GaussianPosterior(target, np.zeros(target.dim), None, np.full(target.dim, num_free))
    return vr.Fit(
        method="hand",
        status=vr.Status.OK,
        sites=target.quantities,
        coords=target.coords,
        posterior=posterior,
        provenance=vr.Provenance(model=target.name, data_fingerprint=target.fingerprint),
    )


# -- log-likelihood --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["laplace", "nuts"])
def test_log_likelihoods_are_scipys(name: str) -> None:
    fit = getattr(effects, name)()
    tree = fit.to_arviz(effects.target(), log_likelihood=True)
    found = tree["log_likelihood"]["y"]
    assert found.dims == ("chain", "draw", "row")
    assert found["row"].values.tolist() == effects.ROWS
    assert found.shape == ((2, 400, 12) if name == "nuts" else (1, 2_000, 12))
    u = tree["posterior"]["u"].to_numpy()
    expected = stats.norm(u[..., effects.GROUP], effects.NOISE).logpdf(effects.Y)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    alone = vr.log_likelihood(fit, effects.target())
    np.testing.assert_array_equal(alone["y"], found)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = vr.log_likelihood(effects.laplace(), effects.target(), num_draws=23)["y"]
    monkeypatch.setattr(replicate, "BLOCK", 60)  # five draws at a time, and three are left
    parts = vr.log_likelihood(effects.laplace(), effects.target(), num_draws=23)["y"]
    np.testing.assert_allclose(parts, whole, rtol=1e-12)
    assert len(np.unique(parts[0, :, 0])) == 23


def test_every_kth_draw_of_a_chain_in_all_groups() -> None:
    tree = effects.nuts().to_arviz(effects.target(), log_likelihood=True, num_draws=100)
    whole = effects.nuts().to_arviz()
    assert tree["log_likelihood"]["y"].shape == (2, 50, 12)
    for group, name in (("posterior", "u"), ("sample_stats", "energy")):
        np.testing.assert_array_equal(
            tree[group][name].to_numpy(), whole[group][name].to_numpy()[:, ::8]
        )
    alone = effects.nuts().to_arviz(num_draws=100)["posterior"]["mu"]
    np.testing.assert_array_equal(alone, tree["posterior"]["mu"])
    # at most: 130 draws of each chain would need a step that is not whole
    assert effects.nuts().to_arviz(num_draws=260)["posterior"].sizes["draw"] == 100


def test_as_many_draws_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draws, "MAX_NUMBERS", 12 * 150)
    shapes = [
        vr.log_likelihood(fit, effects.target())["y"].shape
        for fit in (effects.laplace(), effects.nuts())
    ]
    assert shapes == [(1, 150, 12), (2, 67, 12)]  # every sixth of 400
    with pytest.raises(ValueError, match=r"num_draws: got 151, expected at most 150: .* 12 obs"):
        vr.log_likelihood(effects.laplace(), effects.target(), num_draws=151)


def test_an_observation_of_many_numbers_is_one() -> None:
    y = np.random.default_rng(0).normal(size=(5, 2))

    def model(y: Any) -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        with numpyro.plate("row", 5):
            numpyro.sample("y", dist.MultivariateNormal(mu, jnp.eye(2)), obs=y)

    this = vr.Target(model, y=y)
    tree = fit_of(this).to_arviz(this, log_likelihood=True, posterior_predictive=True, num_draws=40)
    assert tree["log_likelihood"]["y"].dims == ("chain", "draw", "row")
    assert tree["posterior_predictive"]["y"].dims == ("chain", "draw", "row", "y_dim_1")
    mu = tree["posterior"]["mu"].to_numpy()[0]
    expected = stats.norm.logpdf(y, mu[:, None, :]).sum(-1)
    np.testing.assert_allclose(tree["log_likelihood"]["y"][0], expected, rtol=1e-10)
    np.testing.assert_array_equal(tree["observed_data"]["y"], y)


def test_a_likelihood_of_zero_is_minus_infinity() -> None:
    def model(y: Any) -> None:
        width = numpyro.sample("width", dist.LogNormal(0.0, 1.0))
        with numpyro.plate("row", 3):
            numpyro.sample("y", dist.Uniform(0.0, width), obs=y)

    this = vr.Target(model, y=np.array([0.1, 0.5, 1.4]))
    fit = fit_of(this)
    found = vr.log_likelihood(fit, this, num_draws=400)["y"][0]
    width = fit.to_arviz(this, num_draws=400)["posterior"]["width"].to_numpy()[0]
    np.testing.assert_array_equal(np.isneginf(found[:, 2]), width < 1.4)
    assert np.isneginf(found[:, 2]).any()
    with pytest.raises(vr.LOOError, match=r"observation\(s\) y\[1\], y\[2\] have a likelihood of"):
        vr.loo(fit, this)


# -- replications ----------------------------------------------------------------------------


def test_replications_have_the_moments_of_the_predictive_distribution() -> None:
    mean, cov = effects.exact_moments()
    centre, variance = mean[1:][effects.GROUP], np.diag(cov)[1:][effects.GROUP] + effects.NOISE**2
    found = vr.posterior_predictive(effects.laplace(), effects.target(), num_draws=20_000, key=3)
    y = found["y"][0]
    # 12 means and 12 variances of independent draws at 4 standard errors: 1.5e-3
    assert (np.abs(y.mean(0) - centre) < 4 * np.sqrt(variance / 20_000)).all()
    assert (np.abs(y.var(0) / variance - 1) < 4 * np.sqrt(2 / 20_000)).all()
    again = vr.posterior_predictive(effects.laplace(), effects.target(), num_draws=20_000, key=3)
    np.testing.assert_array_equal(again["y"], found["y"])


def test_a_point_predicts_with_its_own_noise(tmp_path: Path) -> None:
    tree = effects.point().to_arviz(effects.target(), posterior_predictive=True)
    assert np.ptp(tree["posterior"]["u"].to_numpy(), axis=1).max() == 0
    y = tree["posterior_predictive"]["y"].to_numpy()[0]
    assert y.shape == (2_000, 12)
    assert (np.abs(y.std(0) / effects.NOISE - 1) < 4 / np.sqrt(4_000)).all()
    assert effects.point().to_arviz(effects.target())["posterior"].sizes["draw"] == 4
    again = vr.Fit.load(effects.point().save(tmp_path / "map.nc"))
    repeated = vr.posterior_predictive(again, effects.target())["y"]
    np.testing.assert_array_equal(repeated, tree["posterior_predictive"]["y"])


def test_data_in_a_closure_and_a_scalar_distribution_are_drawn_anew() -> None:
    """NumPyro's Predictive would replay the one, and draw the other once for all rows."""
    counts = np.array([3, 0, 2, 4])

    def model() -> None:
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
        numpyro.sample("y", dist.Poisson(rate), obs=counts)

    this = vr.Target(model)
    found = vr.posterior_predictive(fit_of(this), this, num_draws=300)["y"]
    assert found.shape == (1, 300, 4)
    assert found.dtype.kind == "i"
    assert (found != counts).any(axis=1).all()
    assert np.abs(np.corrcoef(found[0].T)[np.triu_indices(4, 1)]).max() < 0.5
    assert (found.std(axis=-1) > 0).any()
    assert observed_data(this)["y"].dtype.kind == "i"


def test_discrete_variables_that_are_summed_out() -> None:
    y = np.array([-4.2, -3.9, 4.1, 4.4, 3.7])

    def model(y: Any) -> None:
        share = numpyro.sample("share", dist.Beta(2.0, 2.0))
        with numpyro.plate("row", 5):
            which = numpyro.sample("which", dist.Bernoulli(share))
            numpyro.sample("y", dist.Normal(8.0 * which - 4.0, 0.5), obs=y)

    this = vr.Target(model, y=y)
    fit = fit_of(this, 1.0)
    tree = fit.to_arviz(this, posterior_predictive=True)
    found = tree["posterior_predictive"]["y"]
    assert found.dims == ("chain", "draw", "row")
    # of new members: every row is of either kind, as often as the share says
    share = tree["posterior"]["share"].to_numpy().mean()
    high = (found.to_numpy() > 0).mean(axis=(0, 1))
    assert (np.abs(high - share) < 4 * np.sqrt(share * (1 - share) / 2_000)).all()
    np.testing.assert_array_equal(tree["observed_data"]["y"], y)
    with pytest.raises(ValueError, match="sums over discrete latent variables"):
        vr.log_likelihood(fit, this)


def test_observations_inside_a_scan() -> None:
    def model(y: Any) -> None:
        drift = numpyro.sample("drift", dist.Normal(0.0, 1.0))

        def body(x: Any, y: Any) -> Any:
            numpyro.sample("y", dist.Normal(x, 0.5), obs=y)
            return x + drift, None

        scan(body, 0.0, y)

    this = vr.Target(model, y=np.array([0.1, 0.4, 1.2]))
    tree = fit_of(this).to_arviz(this, log_likelihood=True, posterior_predictive=True)
    steps = tree["posterior"]["drift"].to_numpy()[0][:, None] * np.arange(3)
    expected = stats.norm.logpdf([0.1, 0.4, 1.2], steps, 0.5)
    np.testing.assert_allclose(tree["log_likelihood"]["y"][0], expected, rtol=1e-10)
    noise = (tree["posterior_predictive"]["y"].to_numpy()[0] - steps) / 0.5
    # 2,000 standard normals at every step, independent: at 4 standard errors 1e-3 in all
    assert (np.abs(noise.mean(0)) < 4 / np.sqrt(2_000)).all()
    assert (np.abs(np.cov(noise.T) - np.eye(3)) < 4 * np.sqrt((1 + np.eye(3)) / 2_000)).all()


# -- bad input -------------------------------------------------------------------------------


def bounded(y: Any) -> None:
    """An improper distribution has no draws."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    law = dist.ImproperUniform(dist.constraints.greater_than(mu - 9.0), (3,), ())
    numpyro.sample("y", law, obs=y)


def words(y: Any) -> None:
    """NumPyro draws no multinomial whose total it does not know beforehand."""
    share = numpyro.sample("share", dist.Dirichlet(jnp.ones(3)))
    numpyro.sample("y", dist.Multinomial(y.sum(), share), obs=y)


@pytest.mark.parametrize(("model", "why"), [(bounded, "data$"), (words, "data: .*total_count_max")])
def test_an_observed_distribution_that_cannot_be_sampled(model: Any, why: str) -> None:
    this = vr.Target(model, y=np.array([1, 4, 2]))
    with pytest.raises(ValueError, match=r"cannot be sampled \(y\), so .* of its " + why):
        vr.posterior_predictive(fit_of(this), this)


def test_a_model_that_observes_nothing() -> None:
    this = listed("improper_factor")
    fit = fit_of(this)
    with pytest.raises(ValueError, match="has no pointwise likelihood"):
        fit.to_arviz(this, log_likelihood=True)
    with pytest.raises(ValueError, match="observes nothing, so it predicts nothing"):
        fit.to_arviz(this, posterior_predictive=True)
    assert "observed_data" not in fit.to_arviz(this).children


def test_a_target_that_is_not_the_fits() -> None:
    fit = effects.laplace()
    with pytest.raises(ValueError, match="target: got model 'normal_mean' with the sites") as info:
        vr.log_likelihood(fit, listed("normal_mean"))
    said = "with the sites mu, exp_mu; expected that of the fit, 'effects' with the sites mu, u[3]"
    assert said in str(info.value)
    other = vr.Target(effects.MODEL, y=effects.Y + 1, group=effects.GROUP)
    with pytest.raises(ValueError, match="'laplace' was fitted to other data"):
        vr.posterior_predictive(fit, other)
    with pytest.raises(ValueError, match="was fitted to other data"):
        fit.to_arviz(other)
    with pytest.raises(ValueError, match="target: got dict, expected the Target"):
        vr.log_likelihood(fit, {"y": effects.Y})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="target: got none, expected the fit's"):
        fit.to_arviz(log_likelihood=True)


@pytest.mark.parametrize("number", [0, -3, 2.5, True])
def test_numbers_of_draws(number: Any) -> None:
    for call in (
        lambda: vr.log_likelihood(effects.laplace(), effects.target(), num_draws=number),
        lambda: effects.laplace().to_arviz(num_draws=number),
    ):
        with pytest.raises(ValueError, match=r"num_draws: got .*, expected a positive integer"):
            call()


def test_moments_alone_and_no_result() -> None:
    mean = effects.laplace().mean()
    moments = replace(effects.laplace(), posterior=MomentsPosterior(mean, mean))
    with pytest.raises(ValueError, match="only moments are known here: there are no draws"):
        vr.log_likelihood(moments, effects.target())
    assert moments.to_arviz()["posterior"].sizes["draw"] == 1
    failed = replace(effects.laplace(), status=vr.Status.SINGULAR)
    with pytest.raises(vr.FitError, match="has no numbers"):
        vr.log_likelihood(failed, effects.target())
