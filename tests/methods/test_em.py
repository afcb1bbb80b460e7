"""EM: against scikit-learn, a direct maximiser and MAP; monotone, and honest about collapse."""

from __future__ import annotations

import warnings
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from models_for_tests import case, target
from scipy.optimize import linear_sum_assignment, minimize
from scipy.special import logsumexp
from scipy.stats import norm

import vi_recipes as vr
from vi_recipes.core.content import find, import_file

GMM = import_file(find("models")["gmm"])
TYPES = {"full": "full", "tied": "tied", "diagonal": "diag", "spherical": "spherical"}


@cache
def old_faithful(covariance: str, num_components: int = 2) -> vr.Target:
    return vr.Target(GMM.gmm(num_components, covariance))


def matched(mu: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return the order of the rows of ``mu`` that brings them closest to ``reference``."""
    cost = ((mu[None] - reference[:, None]) ** 2).sum(-1)
    return linear_sum_assignment(cost)[1]


# -- against other software ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("covariance", TYPES)
def test_maximum_likelihood_agrees_with_scikit_learn(covariance: str) -> None:
    from sklearn.mixture import GaussianMixture

    this = old_faithful(covariance)
    y = this.data["y"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other = GaussianMixture(
            2, covariance_type=TYPES[covariance], n_init=5, tol=1e-10, max_iter=5_000,
            reg_covar=0.0, random_state=0,
        ).fit(y)  # fmt: skip
    fit = vr.EM().fit(this, throw=True)
    assert fit.status is vr.Status.OK
    # scikit-learn stops at a rise of 1e-10 an observation, 3e-8 in all
    assert fit.log_likelihood == pytest.approx(other.score(y) * len(y), abs=1e-5)
    order = matched(other.means_, fit.mean()["mu"])
    np.testing.assert_allclose(fit.mean()["mu"], other.means_[order], rtol=1e-4)
    np.testing.assert_allclose(fit.mean()["pi"], other.weights_[order], rtol=1e-4)
    found = fit.mean()["Sigma"]
    expected = other.covariances_
    if covariance == "tied":
        np.testing.assert_allclose(found, expected, rtol=1e-3)
    else:
        full = {
            "full": expected,
            "diagonal": expected[..., None] * np.eye(2) if covariance == "diagonal" else 0,
            "spherical": expected[..., None, None] * np.eye(2) if covariance == "spherical" else 0,
        }[covariance]
        np.testing.assert_allclose(found, full[order], rtol=1e-3, atol=1e-12)


@pytest.mark.slow
def test_the_maximum_is_that_of_a_direct_search() -> None:
    y = case("mixture").data["y"]

    def loss(mu: np.ndarray) -> float:
        return -float(logsumexp(norm.logpdf(y[:, None], mu) + np.log(0.5), axis=1).sum())

    options = {"xatol": 1e-9, "fatol": 1e-12}
    best = minimize(loss, [-2.0, 2.0], method="Nelder-Mead", options=options)
    fit = vr.EM().fit(target("mixture"), throw=True)
    assert fit.log_likelihood == pytest.approx(-best.fun, abs=1e-8)
    np.testing.assert_allclose(np.sort(fit.mean()["mu"]), np.sort(best.x), atol=1e-5)


# -- against MAP ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("covariance", ["full", "spherical"])
def test_map_em_ends_at_the_mode_that_newton_finds(covariance: str) -> None:
    this = old_faithful(covariance)
    em = vr.EM(objective="map", tolerance=1e-13).fit(this, throw=True)
    newton = vr.MAP(space="constrained").fit(this, throw=True)
    assert em.status is newton.status is vr.Status.OK
    z = this.unconstrain(em.mean())
    assert this.log_density(z, jacobian=False) == pytest.approx(
        newton.diagnostics["log_density"], abs=1e-6
    )
    order = matched(newton.mean()["mu"], em.mean()["mu"])
    for site, value in newton.mean().items():
        np.testing.assert_allclose(em.mean()[site], value[order], rtol=1e-4, atol=1e-9)


@pytest.mark.slow
def test_the_objective_is_the_log_joint() -> None:
    for name, this in (("mixture", target("mixture")), ("gmm", old_faithful("full"))):
        fit = vr.EM(objective="map").fit(this, throw=True)
        joint = this.log_density(this.unconstrain(fit.mean()), jacobian=False)
        assert fit.trace["log_posterior"][:, -1].max() == pytest.approx(joint, abs=1e-6), name
        assert fit.log_likelihood is not None
        assert fit.log_likelihood == pytest.approx(
            sum(v.sum() for v in this.log_likelihood(this.unconstrain(fit.mean())).values()),
            abs=1e-8,
        )


# -- its own invariants --------------------------------------------------------------------------


ALL_TYPES = [
    pytest.param(name, marks=() if name in ("full", "spherical") else pytest.mark.slow)
    for name in TYPES
]


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["mle", "map"])
@pytest.mark.parametrize("covariance", ALL_TYPES)
def test_no_iteration_loses_ground(covariance: str, objective: Any) -> None:
    fit = vr.EM(objective=objective, num_starts=3).fit(old_faithful(covariance, 3))
    trace = fit.trace["log_likelihood" if objective == "mle" else "log_posterior"]
    assert trace.shape[0] == 3
    assert np.diff(trace, axis=1).min() > -1e-9 * abs(trace[:, -1]).max()
    assert trace[:, -1].max() > trace[:, 0].max() + 1  # and some is gained


@pytest.mark.slow
def test_the_best_start_is_kept() -> None:
    fit = vr.EM(num_starts=8).fit(old_faithful("full", 4), key=3, throw=True)
    final = fit.trace["log_likelihood"][:, -1]
    assert np.ptp(final) > 1e-3  # the starts end at different maxima
    assert fit.log_likelihood is not None
    assert fit.log_likelihood >= final.max() - 1e-6
    assert "of 8 starts" in fit.message


def test_seeds() -> None:
    a, b, c = (
        vr.EM(num_starts=1, max_steps=50).fit(target("mixture"), key=k).trace["log_likelihood"]
        for k in (1, 1, 2)
    )
    np.testing.assert_array_equal(a, b)
    assert a[0, 0] != c[0, 0]


@pytest.mark.slow
def test_other_sites_follow() -> None:
    fit = vr.EM().fit(old_faithful("spherical"), throw=True)
    variance = fit.mean()["variance"]
    np.testing.assert_allclose(fit.mean()["Sigma"], variance[:, None, None] * np.eye(2))
    sd = fit.sd()["variance"]
    np.testing.assert_allclose(fit.sd()["Sigma"], sd[:, None, None] * np.eye(2), rtol=1e-8)


# -- how a run ends ------------------------------------------------------------------------------


@pytest.mark.slow
def test_too_few_steps_are_said() -> None:
    fit = vr.EM(max_steps=50, tolerance=1e-15).fit(old_faithful("full", 4))
    assert fit.status is vr.Status.UNCONVERGED
    assert "max_steps" in fit.advice
    assert fit.trace["log_likelihood"].shape == (5, 50)


@pytest.mark.slow
def test_collapse_is_degenerate_not_an_infinite_likelihood() -> None:
    # four points in the plane and three components with a covariance each
    y = np.array([[0.0, 0.0], [4.0, 1.0], [1.0, 5.0], [5.0, 5.0]])
    fit = vr.EM().fit(vr.Target(GMM.gmm(3, "full"), y=y))
    assert fit.status is vr.Status.DEGENERATE
    assert "every one of 5 starts" in fit.message
    assert "objective='map'" in fit.advice
    # and what is advised works
    assert vr.EM(objective="map").fit(vr.Target(GMM.gmm(3, "full"), y=y)).status is vr.Status.OK


@pytest.mark.slow
def test_a_start_that_collapses_does_not_spoil_the_others() -> None:
    # found by search: in this sample some starts collapse, until nothing of them is finite
    y = np.random.default_rng(6).standard_normal((12, 2))
    fit = vr.EM(num_starts=8, max_steps=1_000).fit(vr.Target(GMM.gmm(3, "full"), y=y), key=6)
    assert fit.status is vr.Status.OK
    collapsed = ~np.isfinite(fit.trace["log_likelihood"][:, -1])
    assert collapsed.any()
    assert not collapsed.all()
    assert fit.log_likelihood is not None
    assert np.isfinite(fit.log_likelihood)


def test_steps_that_do_not_belong_together_are_found_out() -> None:
    model = target("mixture").model
    assert model.em is not None

    def drifts(stats: Any, objective: str, y: Any) -> dict[str, Any]:
        return {"mu": stats[1] / stats[0] + 0.5}

    broken = replace(model, em=replace(model.em, m_step=drifts))
    fit = vr.EM(num_starts=1).fit(vr.Target(broken, **case("mixture").data))
    assert fit.status is vr.Status.FAILED
    assert "the objective fell by" in fit.message
    assert "do not belong together" in fit.advice


def test_models_without_steps() -> None:
    fit = vr.EM().fit(target("normal_mean"))
    assert fit.status is vr.Status.NOT_APPLICABLE
    assert "EMSteps" in fit.message
    assert "variational" in fit.message
    model = target("mixture").model
    assert model.em is not None
    without = replace(model, em=replace(model.em, log_prior=None))
    fit = vr.EM(objective="map").fit(vr.Target(without, **case("mixture").data))
    assert fit.status is vr.Status.NOT_APPLICABLE
    assert "log_prior" in fit.message


def test_the_data_are_too_few_for_the_components() -> None:
    y = np.repeat([[0.0, 1], [1, 0], [0, 0]], 4, axis=0)
    fit = vr.EM().fit(vr.Target(GMM.gmm(4, "full"), y=y))
    assert fit.status is vr.Status.FAILED
    assert "3 distinct row" in fit.message


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"objective": "ml"}, "objective: got 'ml', expected 'mle' or 'map'"),
        ({"max_steps": 0}, "max_steps: got 0"),
        ({"tolerance": 0.0}, "tolerance: got 0.0"),
        ({"num_starts": 0}, "num_starts: got 0"),
    ],
)
def test_bad_options(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        vr.EM(**options)
