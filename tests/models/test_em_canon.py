"""EM of hidden Markov models, factor analysis and principal components against other software."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

import vi_recipes as vr
from vi_recipes.core.content import find, import_file
from vi_recipes.core.timing import Timing
from vi_recipes.latent.rules import marginal_of
from vi_recipes.latent.steps import general_step

HMMLEARN = pytest.mark.filterwarnings("ignore:Setting the shape on a NumPy array")


@cache
def module(name: str) -> Any:
    return import_file(find("models")[name])


def fitted(model: vr.Model, data: dict[str, Any] | None = None, **options: Any) -> vr.Fit:
    method = vr.EM(num_starts=5, max_steps=20_000, **options)
    return method.fit(vr.Target(model, **(data or {})), key=1, throw=True)


@cache
def poisson() -> vr.Fit:
    return fitted(module("hmm").POISSON)


# -- hidden Markov models --------------------------------------------------------------------------


@pytest.mark.slow
@HMMLEARN
def test_gaussian_emissions_agree_with_hmmlearn() -> None:
    from hmmlearn.hmm import GaussianHMM

    fit = fitted(module("hmm").MODEL)
    theirs = GaussianHMM(
        3, covariance_type="spherical", covars_prior=0, covars_weight=0, means_weight=0,
        n_iter=500, tol=1e-9, init_params="", min_covar=0,
    )  # fmt: skip
    theirs.startprob_, theirs.transmat_ = np.full(3, 1 / 3), 0.2 + 0.4 * np.eye(3)
    theirs.means_, theirs.covars_ = np.array([[-2.0], [0.0], [3.0]]), np.ones(3)
    y = module("hmm").simulate()["y"]
    theirs.fit(y[:, None])
    assert fit.log_likelihood == pytest.approx(theirs.score(y[:, None]), abs=1e-5)
    mean = fit.mean()
    np.testing.assert_allclose(mean["mu"], theirs.means_[:, 0], atol=1e-4)
    np.testing.assert_allclose(mean["A"], theirs.transmat_, atol=1e-4)
    np.testing.assert_allclose(mean["sigma"], np.sqrt(theirs.covars_[:, 0, 0]), rtol=1e-3)


@pytest.mark.slow
@HMMLEARN
def test_poisson_emissions_agree_with_hmmlearn() -> None:
    from hmmlearn.hmm import PoissonHMM

    fit = poisson()
    theirs = PoissonHMM(3, lambdas_weight=0, n_iter=500, tol=1e-9, init_params="")
    theirs.startprob_, theirs.transmat_ = np.full(3, 1 / 3), 0.2 + 0.4 * np.eye(3)
    theirs.lambdas_ = np.array([[1.0], [5.0], [12.0]])
    y = module("hmm").POISSON.data()["y"]
    theirs.fit(y[:, None])
    assert fit.log_likelihood == pytest.approx(theirs.score(y[:, None]), abs=1e-5)
    np.testing.assert_allclose(fit.mean()["rate"], theirs.lambdas_[:, 0], rtol=1e-4)
    np.testing.assert_allclose(np.exp(fit.mean()["log_rate"]), fit.mean()["rate"], rtol=1e-12)


@pytest.mark.slow
@HMMLEARN
def test_categorical_emissions_agree_with_hmmlearn() -> None:
    from hmmlearn.hmm import CategoricalHMM

    fit = fitted(module("hmm").CATEGORICAL)
    theirs = CategoricalHMM(3, n_features=4, n_iter=2_000, tol=1e-10, init_params="")
    mean = fit.mean()
    theirs.startprob_ = np.full(3, 1 / 3)
    theirs.transmat_ = 0.9 * mean["A"] + 0.1 / 3
    theirs.emissionprob_ = 0.9 * mean["B"] + 0.1 / 4
    y = module("hmm").CATEGORICAL.data()["y"]
    theirs.fit(y[:, None])
    assert fit.log_likelihood == pytest.approx(theirs.score(y[:, None]), abs=1e-4)
    np.testing.assert_allclose(mean["B"], theirs.emissionprob_, atol=2e-3)


@pytest.mark.slow
def test_the_log_likelihood_is_the_models_own() -> None:
    fit = poisson()
    target = vr.Target(module("hmm").POISSON)
    inside = {s.name: fit.mean()[s.name] for s in target.latents}
    # the start's probabilities are at a corner, which has no unconstrained coordinates
    inside["pi"] = (inside["pi"] + 1e-9) / (1 + 3e-9)
    inside["A"] = (inside["A"] + 1e-12) / (1 + 3e-12)
    found = target.site_log_densities(target.unconstrain(inside))["y"]
    assert fit.log_likelihood == pytest.approx(found, abs=1e-5)


def test_more_states_than_values() -> None:
    data = {"y": np.array([1.0, 2.0] * 20)}
    fit = vr.EM().fit(vr.Target(module("hmm").MODEL, **data))
    assert fit.status is vr.Status.FAILED
    assert "num_states=3, but y has only 2 distinct value" in fit.message


@pytest.mark.slow
def test_a_state_that_collapses_on_one_value() -> None:
    y = np.concatenate([np.zeros(30), np.random.default_rng(0).standard_normal(30) + 8, [3.0, 30]])
    fit = vr.EM(num_starts=2).fit(vr.Target(module("hmm").hmm(2), y=y))
    assert fit.status is vr.Status.DEGENERATE
    assert "sigma" in fit.message


# -- factor analysis and principal components ------------------------------------------------------


@pytest.mark.slow
def test_factor_analysis_agrees_with_factanal(references: Path) -> None:
    right = json.loads((references / "em.json").read_text(encoding="utf-8"))["factanal_ability_2"]
    mean = fitted(module("factor_analysis").MODEL, tolerance=1e-15).mean()
    variances = np.diagonal(mean["Sigma"])
    np.testing.assert_allclose(
        mean["psi"] / variances, list(right["uniquenesses"].values()), atol=2e-5
    )
    scale = np.sqrt(variances)
    np.testing.assert_allclose(
        mean["Sigma"] / np.outer(scale, scale), right["LLt_plus_Psi"], atol=2e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("num_factors", [1, 3])
def test_factor_analysis_agrees_with_scikit_learn(num_factors: int) -> None:
    from sklearn.decomposition import FactorAnalysis

    rng = np.random.default_rng(4)
    W = rng.standard_normal((8, num_factors))
    y = 5 + rng.standard_normal((400, num_factors)) @ W.T + rng.standard_normal((400, 8))
    fa = module("factor_analysis")
    fit = fitted(fa.without_scores(fa.build(num_factors)), {"y": y})
    theirs = FactorAnalysis(num_factors, tol=1e-10, max_iter=20_000, svd_method="lapack").fit(y)
    np.testing.assert_allclose(fit.mean()["psi"], theirs.noise_variance_, rtol=2e-3)
    np.testing.assert_allclose(fit.mean()["Sigma"], theirs.get_covariance(), atol=2e-3)
    right = multivariate_normal(fit.mean()["mu"], fit.mean()["Sigma"]).logpdf(y).sum()
    assert fit.log_likelihood == pytest.approx(right, rel=1e-10)
    assert fit.log_likelihood > theirs.score(y) * len(y) - 1e-4
    W = fit.mean()["W"]
    assert (np.triu(W, 1) == 0).all() or np.abs(np.triu(W, 1)).max() < 1e-12
    assert (fit.mean()["W_diag"] > 0).all()


@pytest.mark.slow
def test_principal_components_agree_with_the_closed_form() -> None:
    from sklearn.decomposition import PCA

    ppca = module("ppca")
    y = ppca.data()["y"]
    fit, right = fitted(ppca.MODEL, tolerance=1e-13), ppca.mle(y)
    for name, value in right.items():
        np.testing.assert_allclose(fit.mean()[name], value, rtol=1e-5, atol=1e-6)
    theirs = PCA(2).fit(y)
    size = len(y) / (len(y) - 1)  # scikit-learn divides by n - 1
    np.testing.assert_allclose(fit.mean()["sigma"] ** 2 * size, theirs.noise_variance_, rtol=1e-5)
    np.testing.assert_allclose(fit.mean()["Sigma"] * size, theirs.get_covariance(), rtol=1e-5)


def test_columns_that_do_not_vary() -> None:
    y = np.column_stack([np.random.default_rng(0).standard_normal((20, 2)), np.ones(20)])
    fa = module("factor_analysis")
    fit = vr.EM().fit(vr.Target(fa.without_scores(fa.build(1)), y=y))
    assert fit.status is vr.Status.FAILED
    assert "columns that vary" in fit.message


# -- latent kinds, from the NumPyro model alone ----------------------------------------------------


@pytest.mark.slow
def test_linkage_is_dempster_laird_and_rubins(references: Path) -> None:
    right = json.loads((references / "em.json").read_text(encoding="utf-8"))["linkage"]
    this = vr.Target(module("linkage").MODEL)
    half = this.unconstrain({"theta": right["first_iterates"][0]})
    with jax.enable_x64(True):
        marginal = marginal_of(this, None, "auto", 1, False, Timing())
        step = jax.jit(general_step(marginal, forward=True))
        state, iterates = (jnp.asarray(half), jnp.zeros((0, 0))), []
        for _ in right["first_iterates"]:
            iterates.append(float(this.constrain(np.asarray(state[0]))["theta"]))
            state, _ = step(state, this.arrays())
    np.testing.assert_allclose(iterates, right["first_iterates"], atol=1e-8)

    fit = vr.EM(num_starts=1, tolerance=1e-15).fit(this, throw=True)  # from the prior's median
    assert fit.mean()["theta"] == pytest.approx(right["theta"], abs=1e-8)
    assert fit.sd()["theta"] == pytest.approx(right["sd"], rel=1e-6)
    # near the maximum the log-likelihood has twice the rate of theta
    rises = np.diff(fit.trace["log_likelihood"][0])[1:5]
    assert rises[3] / rises[2] == pytest.approx(right["rate"] ** 2, rel=2e-3)
    errors = np.array(iterates[3:6]) - right["theta"]
    np.testing.assert_allclose(errors[1:] / errors[:-1], right["rate"], rtol=5e-3)


@pytest.mark.slow
def test_times_deaths_is_hasselblads(references: Path) -> None:
    right = json.loads((references / "em.json").read_text(encoding="utf-8"))["times_deaths"]
    this = vr.Target(module("times_deaths").MODEL)
    fit = vr.EM(num_starts=1, tolerance=1e-15, accelerate=True).fit(this, throw=True)
    assert fit.log_likelihood == pytest.approx(right["loglik"], abs=1e-5)
    np.testing.assert_allclose(fit.mean()["pi"], right["weights"], atol=1e-5)
    np.testing.assert_allclose(fit.mean()["lam"], right["lam"], atol=1e-5)


# -- what the end is worth -------------------------------------------------------------------------


@pytest.mark.slow
def test_it_goes_on_until_it_is_close_to_the_maximum() -> None:
    """EM of factor analysis creeps: its rise is small long before the maximum is near."""
    this = vr.Target(module("factor_analysis").MARGINAL)
    fit = vr.EM(num_starts=1, tolerance=1e-4).fit(this, throw=True)
    path = fit.trace["log_likelihood"][0]
    assert fit.status is vr.Status.OK
    assert fit.diagnostics["newton_decrement"] <= 1e-2
    assert np.flatnonzero(np.diff(path) < 1e-4 * 2_000)[0] < 100 < fit.diagnostics["iterations"]
    # half the squared Newton decrement is what a quadratic log-likelihood has still to rise
    top = vr.MarginalMLE().fit(this, throw=True).log_likelihood
    gap = fit.diagnostics["newton_decrement"] ** 2 / 2
    assert top - fit.log_likelihood == pytest.approx(gap, rel=0.2)

    short = vr.EM(num_starts=1, max_steps=100).fit(this)
    assert short.status is vr.Status.UNCONVERGED
    assert "0.24 standard errors from the maximum" in short.message
    assert "MarginalMLE" in short.advice


@pytest.mark.slow
def test_loadings_that_the_data_do_not_settle() -> None:
    """Six covariances settle no more than six numbers: three psi and five loadings are too many."""
    rng = np.random.default_rng(0)
    y = rng.standard_normal((400, 2)) @ rng.standard_normal((2, 3))
    y = y + 1.5 * rng.standard_normal(y.shape)
    fa = module("factor_analysis")
    fit = vr.EM(num_starts=2).fit(vr.Target(fa.without_scores(fa.build(2)), y=y))
    assert fit.status is vr.Status.UNCONVERGED
    assert "the log-likelihood is flat along" in fit.message
    assert np.isnan(fit.sd()["psi"]).all()


@pytest.mark.slow
def test_an_estimate_at_a_corner_has_no_standard_errors_and_is_fine() -> None:
    """One series says of its first state that it is the one it is."""
    fit = poisson()
    assert fit.status is vr.Status.OK
    assert np.sort(fit.mean()["pi"]) == pytest.approx([0, 0, 1], abs=1e-8)
    assert "no standard errors: pi runs to an edge, where the likelihood is highest" in fit.message
    assert fit.diagnostics["newton_decrement"] <= 1e-2  # of the other parameters
    assert np.isnan(fit.sd()["rate"]).all()
