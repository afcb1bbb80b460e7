"""Coordinate-ascent VB: closed forms, scikit-learn, the ELBO by Monte Carlo, and NUTS."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import logsumexp, multigammaln

import vi_recipes as vr
from vi_recipes.core.content import find, import_file

GMM = import_file(find("models")["gmm"])


@cache
def target(num_components: int) -> vr.Target:
    return vr.Target(GMM.gmm(num_components))


@cache
def fitted(num_components: int) -> vr.Fit:
    return vr.CAVI(num_starts=6).fit(target(num_components), key=0, throw=True)


@pytest.mark.slow
def test_the_bound_of_one_component_is_the_evidence() -> None:
    """One component is a conjugate normal model, whose evidence is known."""
    y = np.asarray(target(1).data["y"])
    N, D = y.shape
    m0, scale, kappa, df = y.mean(axis=0), np.cov(y, rowvar=False), 0.01, D + 2.0
    posterior = scale + (y - m0).T @ (y - m0)  # the mean of the data is the prior's
    right = (
        -N * D / 2 * np.log(np.pi)
        + D / 2 * (np.log(kappa) - np.log(kappa + N))
        + multigammaln((df + N) / 2, D) - multigammaln(df / 2, D)
        + df / 2 * np.linalg.slogdet(scale)[1] - (df + N) / 2 * np.linalg.slogdet(posterior)[1]
    )  # fmt: skip
    assert fitted(1).log_evidence.value == pytest.approx(right, rel=1e-10)


@pytest.mark.slow
def test_two_components_agree_with_scikit_learn() -> None:
    from sklearn.mixture import BayesianGaussianMixture

    y = np.asarray(target(2).data["y"])
    theirs = BayesianGaussianMixture(
        n_components=2,
        weight_concentration_prior_type="dirichlet_distribution",
        weight_concentration_prior=2.0,
        mean_precision_prior=0.01,
        mean_prior=y.mean(axis=0),
        degrees_of_freedom_prior=4,
        covariance_prior=np.cov(y, rowvar=False) / 2,
        reg_covar=0,
        tol=1e-12,
        max_iter=5_000,
        random_state=0,
    ).fit(y)
    fit = fitted(2)
    mean, mcse, sd = fit.mean(), fit.mcse(), fit.sd()
    order, right = np.argsort(mean["mu"][:, 0]), np.argsort(theirs.means_[:, 0])
    df = theirs.degrees_of_freedom_[:, None, None]
    expected = {
        "pi": theirs.weights_,
        "mu": theirs.means_,
        "Sigma": theirs.covariances_ * df / (df - 3),  # theirs is the inverse of the mean precision
    }
    for name, value in expected.items():
        z = (mean[name][order] - value[right]) / mcse[name][order]
        assert np.abs(z).max() < 4.5, name
    share = stats.dirichlet(theirs.weight_concentration_)
    error = (sd["pi"][order] / np.sqrt(share.var())[right] - 1) * np.sqrt(2e4)
    assert np.abs(error).max() < 4.5


@pytest.mark.slow
def test_the_bound_is_the_elbo() -> None:
    """E_q[log p(y, z, theta) - log q(z, theta)], z in closed form and theta by draws from q."""
    fit = fitted(2)
    y = np.asarray(target(2).data["y"])
    steps = target(2).model.vb
    assert steps is not None
    with jax.enable_x64(True):
        eta = steps.start(jax.random.key(0), y=jnp.asarray(y))
        for _ in range(200):
            eta, elbo = steps.step(eta, y=jnp.asarray(y))
        theta = steps.draws(jax.random.key(1), eta, 400, y=y)
        theta = {name: np.asarray(v) for name, v in theta.items()}
        eta = type(eta)(*map(np.asarray, eta))
    assert float(elbo) == pytest.approx(fit.log_evidence.value, rel=1e-9)
    log_q = stats.dirichlet(np.asarray(eta.alpha)).logpdf(theta["pi"].T)
    log_joint = np.empty((400, len(y), 2))
    prior = stats.dirichlet([2.0, 2.0]).logpdf(theta["pi"].T)
    scale = np.cov(y, rowvar=False) / 2
    for k in range(2):
        Sigma, mu = theta["Sigma"][:, k], theta["mu"][:, k]
        log_q += stats.invwishart(float(eta.df[k]), np.asarray(eta.scale[k])).logpdf(
            np.moveaxis(Sigma, 0, -1)
        )
        prior += stats.invwishart(4, scale).logpdf(np.moveaxis(Sigma, 0, -1))
        for i in range(400):
            log_q[i] += stats.multivariate_normal(eta.mean[k], Sigma[i] / eta.kappa[k]).logpdf(
                mu[i]
            )
            prior[i] += stats.multivariate_normal(y.mean(axis=0), Sigma[i] / 0.01).logpdf(mu[i])
            log_joint[i, :, k] = np.log(theta["pi"][i, k]) + stats.multivariate_normal(
                mu[i], Sigma[i]
            ).logpdf(y)
    # q(z) is best given q(theta), so E_q[log p(y, z) - log q(z)] = sum_n logsumexp_k E_q[log p]
    shared = logsumexp(log_joint.mean(axis=0), axis=1).sum()
    error = log_joint.sum(axis=2).sum(axis=1).std() / np.sqrt(400)
    values = prior - log_q
    right = shared + values.mean()
    assert abs(float(elbo) - right) < 4.5 * np.hypot(error, values.std() / np.sqrt(400))


@pytest.mark.slow
def test_the_bound_rises_and_prefers_two_components() -> None:
    bounds = [fitted(k).log_evidence.value for k in (1, 2, 3)]
    assert np.argmax(bounds) == 1
    for k in (1, 2, 3):
        path = fitted(k).trace["elbo"]
        assert (np.diff(path, axis=1) > -1e-7).all()
    assert fitted(2).diagnostics["effective_components"] == pytest.approx(1.92, abs=0.01)


@pytest.mark.slow
def test_mean_field_sds_are_a_little_too_small() -> None:
    nuts = vr.NUTS(num_warmup=500, num_samples=1_500).fit(target(2), key=3, throw=True)
    order = np.argsort(fitted(2).mean()["mu"][:, 0])
    right = np.argsort(nuts.mean()["mu"][:, 0])
    for name in ("pi", "mu", "Sigma"):
        ratio = fitted(2).sd()[name][order] / nuts.sd()[name][right]
        assert (ratio > 0.85).all(), name
        assert (ratio < 1.06).all(), name


def test_a_model_without_updates_is_refused() -> None:
    fit = vr.CAVI().fit(vr.Target(GMM.gmm(2, "tied")))
    assert fit.status is vr.Status.NOT_APPLICABLE
    assert "VBSteps" in fit.message
    assert "MeanField" in fit.message


def test_a_step_that_is_wrong_is_found_out() -> None:
    model = GMM.gmm(2)

    def worse(eta: Any, **data: Any) -> tuple[Any, Any]:
        new, elbo = model.vb.step(eta, **data)
        return new._replace(alpha=new.alpha * 1.5), elbo - jnp.sum(new.alpha) * eta.alpha[0] * 1e-3

    wrong = replace(model, vb=replace(model.vb, step=worse))
    fit = vr.CAVI().fit(vr.Target(wrong))
    assert fit.status is vr.Status.FAILED
    assert "coordinate ascent cannot do that" in fit.message


def test_nan_in_the_data() -> None:
    y = np.array(target(2).data["y"])
    y[3, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        vr.CAVI().fit(vr.Target(GMM.gmm(2), y=y))


@pytest.mark.parametrize("option", ["max_steps", "num_starts", "tolerance"])
def test_bad_options(option: str) -> None:
    with pytest.raises(ValueError, match=option):
        vr.CAVI(**{option: 0})
