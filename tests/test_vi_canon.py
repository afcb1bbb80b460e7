"""Variational inference's canon: densities written anew in NumPy, and answers in closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

import vi_recipes as vr
from vi_recipes.content import find, import_file


def module(name: str) -> Any:
    return import_file(find("models")[name])


def joint(model: vr.Model, values: dict[str, Any], data: dict[str, Any]) -> float:
    """Return the log joint density on the constrained scale, through ``Target``."""
    this = vr.Target(model, **data)
    return this.log_density(this.unconstrain(values), jacobian=False)


# -- bivariate_normal -----------------------------------------------------------------------------


def test_bivariate_normal_density() -> None:
    mean, sds, r = np.array([0.5, 2.0]), np.array([3.0, 0.2]), -0.7
    Sigma = np.outer(sds, sds) * np.array([[1, r], [r, 1]])
    x = np.array([1.7, 2.1])
    model = module("bivariate_normal").MODEL
    density = joint(model, {"x": x}, {"mean": mean, "sds": sds, "correlation": r})
    assert density == pytest.approx(stats.multivariate_normal.logpdf(x, mean, Sigma), rel=1e-12)


def test_bivariate_normal_has_its_approximations_in_closed_form() -> None:
    this = vr.Target(vr.load_model("bivariate_normal"))
    path = find("models")["bivariate_normal"].with_name("reference.json")
    exact = vr.load_reference(path, this)
    for method in (vr.Laplace(), vr.LinearResponse()):
        fit = method.fit(this, throw=True)
        np.testing.assert_allclose(fit.mean()["x"], exact.mean()["x"], atol=1e-8)
        np.testing.assert_allclose(fit.cov(), exact.cov(), rtol=1e-6)
    fit = vr.MeanField().fit(this, throw=True)
    np.testing.assert_allclose(fit.mean()["x"], [1, -1], atol=1e-8)
    np.testing.assert_allclose(fit.sd()["x"], [0.6, 0.3], rtol=1e-6)  # sd_i (1 - 0.8^2)^(1/2)
    assert fit.log_evidence is not None
    assert fit.log_evidence.value == pytest.approx(0.5 * np.log(1 - 0.8**2), abs=1e-8)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ({"correlation": 1.0}, "correlation=1.0: expected a number between -1 and 1"),
        ({"mean": [1.0, 2.0, 3.0]}, "expected two numbers in each"),
    ],
)
def test_bivariate_normal_refuses(data: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        vr.Target(vr.load_model("bivariate_normal"), **data)
