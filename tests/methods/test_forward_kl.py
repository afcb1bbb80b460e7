"""Forward KL: the posterior's own moments, by importance sampling and from another fit's draws."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import case, target
from scipy.special import digamma, gammaln, polygamma

import vi_recipes as vr
from vi_recipes.importance.weights import Weights, smooth, temper
from vi_recipes.methods import METHODS, default_methods

MARGIN = 4.5
"""Standard errors that a right answer may be off."""

SHAPE = 0.8


def log_gamma(shape: Any) -> None:
    """The logarithm of a gamma variable: skewed to the left, every moment known."""
    x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))
    numpyro.factor("density", shape * x - jnp.exp(x))


@cache
def skewed() -> vr.Target:
    return vr.Target(log_gamma, shape=np.array(SHAPE))


def within(found: Any, exact: Any, error: Any) -> bool:
    return bool((np.abs(np.asarray(found) - exact) <= MARGIN * np.asarray(error)).all())


# -- weights ---------------------------------------------------------------------------------


def test_khat_is_the_shape_of_pareto_ratios() -> None:
    rng = np.random.default_rng(0)
    for shape in (0.3, 0.9):
        ratios = shape * rng.exponential(size=20_000)
        weights = smooth(ratios)
        assert weights.khat == pytest.approx(shape, abs=0.1)
        assert weights.values.sum() == pytest.approx(1)
        # the largest ratio has the largest weight: ArviZ's own function has the opposite sign
        assert weights.values[ratios.argmax()] == weights.values.max()
    away = rng.normal(size=(3, 2))
    mean, cov = Weights(np.full(3, 1 / 3)).moments(away)
    np.testing.assert_allclose(mean, away.mean(axis=0))
    np.testing.assert_allclose(cov, np.cov(away.T, ddof=0))


def test_weights_are_tempered_no_more_than_needed() -> None:
    ratios = np.linspace(-500, 0, 1_000)
    weights, power = temper(ratios, 2)
    assert 0 < power < 1
    assert weights.ess == pytest.approx(20, rel=1e-6)  # 2 % of the draws
    assert temper(ratios, 50)[0].ess == pytest.approx(100, rel=1e-6)  # two a coordinate
    assert temper(ratios / 1_000, 2)[1] == 1
    none = np.where(np.arange(1_000) < 990, -np.inf, ratios)
    assert temper(none, 2)[0].values[:990].sum() == 0


# -- by importance sampling ------------------------------------------------------------------


@pytest.mark.parametrize("family", ["normal", "multivariate_normal"])
def test_normals_take_the_sds_of_a_normal_target_with_or_without_its_correlation(
    family: Any,
) -> None:
    known, this = case("linear_regression"), target("linear_regression")
    assert known.cov is not None
    fit = vr.ForwardKL(family=family, num_draws=4_000).fit(this, key=0, throw=True)
    assert fit.status is vr.Status.OK
    assert within(fit.mean()["beta"], known.mean["beta"], fit.mcse()["beta"])
    assert within(fit.sd()["beta"], known.sd["beta"], fit.mcse_sd()["beta"])
    assert (fit.mcse_sd()["beta"] < 0.03 * known.sd["beta"]).all()
    correlation = np.corrcoef(fit.draws(4_000, key=1)["beta"].T)[0, 1]
    exact = known.cov[0, 1] / np.sqrt(known.cov[0, 0] * known.cov[1, 1])
    expected = exact if family == "multivariate_normal" else 0.0
    assert correlation == pytest.approx(expected, abs=0.07)
    assert fit.log_evidence is not None
    assert within(fit.log_evidence.value, known.log_evidence, fit.log_evidence.se)
    assert fit.diagnostics["khat"] < 0.7
    assert 400 < fit.diagnostics["ess"] < 4_000


def test_the_moments_of_a_skewed_target_are_its_own() -> None:
    fit = vr.ForwardKL(num_draws=10_000).fit(skewed(), key=0, throw=True)
    assert within(fit.mean()["x"], digamma(SHAPE), fit.mcse()["x"])
    assert within(fit.sd()["x"], np.sqrt(polygamma(1, SHAPE)), fit.mcse_sd()["x"])
    assert fit.log_evidence is not None
    assert within(fit.log_evidence.value, gammaln(SHAPE), fit.log_evidence.se)


def test_a_proposal_finds_its_way_to_a_narrow_posterior_far_off() -> None:
    def model(mean: Any, sd: Any) -> None:
        x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), (2,)))
        numpyro.factor("density", dist.Normal(mean, sd).log_prob(x).sum())

    this = vr.Target(model, mean=np.array([50.0, -2.0]), sd=np.array([0.01, 3.0]))
    fit = vr.ForwardKL(num_draws=4_000).fit(this, key=0, throw=True)
    assert within(fit.mean()["x"], this.data["mean"], fit.mcse()["x"])
    assert within(fit.sd()["x"], this.data["sd"], fit.mcse_sd()["x"])
    short = vr.ForwardKL(num_draws=4_000, num_rounds=1).fit(this, key=0)
    assert short.status is vr.Status.UNCONVERGED
    assert not short.has_result
    assert "has not reached the posterior" in short.message


def test_what_importance_sampling_cannot_do_is_refused() -> None:
    labels = vr.ForwardKL().fit(target("mixture"))
    assert labels.status is vr.Status.NOT_APPLICABLE
    assert "labels of mu unmatched" in labels.message
    large = vr.ForwardKL(num_draws=100).fit(target("nested_plates"))
    assert large.status is vr.Status.NOT_APPLICABLE
    assert "100 weighted draws cannot show the covariance of 10 coordinates" in large.message


def test_a_density_of_nothing_is_reported() -> None:
    def model() -> None:
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))
        far = jnp.abs(x) > 1e-6
        numpyro.factor("wall", jnp.where(far, -np.inf, 0.0))

    this = vr.Model(function=model, name="wall", init=lambda key: {"x": 0.0})
    fit = vr.ForwardKL(num_draws=100).fit(vr.Target(this), key=0)
    assert fit.status is vr.Status.DIVERGED
    assert "no draw of round 1 has a finite density" in fit.message


# -- from draws ------------------------------------------------------------------------------


def test_chains_are_matched_with_the_error_that_their_length_in_effect_leaves() -> None:
    this = target("normal_precision")
    nuts = vr.NUTS(num_warmup=200, num_samples=200, num_chains=2).fit(this, key=0, throw=True)
    fit = vr.ForwardKL(reference=nuts, family="multivariate_normal").fit(this)
    assert fit.status is nuts.status
    assert "400 draws of nuts" in fit.message
    assert fit.mean()["mu"] == pytest.approx(nuts.mean()["mu"])
    assert fit.sd()["mu"] == pytest.approx(nuts.sd()["mu"] * np.sqrt(399 / 400))
    assert fit.mcse()["mu"] == pytest.approx(nuts.mcse()["mu"])
    assert fit.mcse_sd()["mu"] == pytest.approx(nuts.mcse_sd()["mu"], rel=0.01)
    # the positive site is a normal on the log scale
    logs = np.log(nuts.to_arviz()["posterior"]["tau"].to_numpy())
    lognormal = np.exp(logs.mean() + logs.var() / 2)
    assert fit.mean()["tau"] == pytest.approx(lognormal, rel=1e-9)
    assert fit.config["reference"] == "Fit"


def test_any_fit_with_draws_can_be_matched_and_no_other() -> None:
    known, this = case("linear_regression"), target("linear_regression")
    laplace = vr.Laplace().fit(this, key=0)
    fit = vr.ForwardKL(reference=laplace, num_draws=1_000).fit(this, key=0, throw=True)
    assert within(fit.mean()["beta"], known.mean["beta"], fit.mcse()["beta"])
    assert within(fit.sd()["beta"], known.sd["beta"], fit.mcse_sd()["beta"])
    point = vr.ForwardKL(reference=vr.MAP().fit(this, key=0)).fit(this)
    assert point.status is vr.Status.SINGULAR
    assert "no spread" in point.message
    numbers = {"parameters": {"beta[0]": {"mean": 1.0, "sd": 1.0}}}
    outside = vr.ForwardKL(reference=vr.load_reference(numbers, this)).fit(this)
    assert outside.status is vr.Status.NOT_APPLICABLE
    assert "only moments are known" in outside.message
    failed = vr.ForwardKL(reference=vr.EM().fit(this)).fit(this)
    assert failed.status is vr.Status.NOT_APPLICABLE
    assert "the reference has no result" in failed.message
    with pytest.raises(ValueError, match="expected a fit of model 'normal_mean'"):
        vr.ForwardKL(reference=laplace).fit(target("normal_mean"))


def test_it_runs_only_if_named() -> None:
    assert METHODS["forward_kl"] is vr.ForwardKL
    assert "forward_kl" not in default_methods(target("normal_mean"))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"family": "gamma"}, "family: got 'gamma', expected 'normal' or 'multivariate_normal'"),
        ({"reference": "nuts"}, "reference: got 'str', expected a Fit"),
        ({"num_draws": 99}, "num_draws: got 99"),
        ({"num_rounds": 0}, "num_rounds: got 0"),
        ({"proposal_sd": 0.0}, "proposal_sd: got 0.0"),
    ],
)
def test_bad_options(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        vr.ForwardKL(**options)


def test_a_second_fit_of_a_target_compiles_nothing() -> None:
    traced: list[None] = []

    def model(y: Any) -> None:
        traced.append(None)
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        numpyro.sample("s", dist.Gamma(2.0, 1.0))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    this = vr.Target(model, y=np.array([0.5, 1.5]))
    method = vr.ForwardKL(num_draws=500)
    first = method.fit(this, key=1, throw=True)
    assert first.timing.compile_seconds > 0
    traced.clear()
    again, other = (method.fit(this, key=key, throw=True) for key in (1, 2))
    assert not traced
    assert again.timing.compile_seconds == other.timing.compile_seconds == 0
    assert again.mean()["mu"] == first.mean()["mu"] != other.mean()["mu"]
