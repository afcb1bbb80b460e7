"""Intervals by ArviZ's setting, and which parameters are the population's."""

from __future__ import annotations

import arviz as az
import numpy as np
import pytest
from models_for_tests import case, target
from scipy import stats

import vi_recipes as vr
from vi_recipes.fit import intervals, population


def draws(name: str = "linear_regression") -> vr.Fit:
    this = case(name)
    values = np.random.default_rng(0).multivariate_normal(this.mean["beta"], this.cov, (4, 500))
    return vr.from_draws({"beta": values}, target(name))


@pytest.mark.parametrize("kind", ["eti", "hdi"])
@pytest.mark.parametrize("prob", [0.5, 0.945])
def test_intervals_are_those_of_arviz(kind: str, prob: float) -> None:
    fit = draws()
    with az.rc_context({"stats.ci_kind": kind, "stats.ci_prob": prob, "stats.round_to": "none"}):
        ours, theirs = fit.summary(), az.summary(fit.to_arviz())
    for end, column in zip(("lb", "ub"), ours.columns[2:4], strict=True):
        assert column == f"{kind}{100 * prob:g}_{end}"  # ArviZ calls 94.5 % 94
        there = theirs[f"{kind}{int(100 * prob)}_{end}"].astype(float)
        np.testing.assert_allclose(ours[column], there, rtol=1e-10)


def test_intervals_of_a_gaussian_are_its_quantiles() -> None:
    fit, this = vr.Laplace().fit(target("linear_regression")), case("linear_regression")
    low, high = intervals(fit, ["beta"])
    sd = np.asarray(this.sd["beta"])
    error = 5 * np.sqrt(0.055 * 0.945 / 2000) / stats.norm.pdf(stats.norm.ppf(0.055))
    np.testing.assert_allclose((low - this.mean["beta"]) / sd, stats.norm.ppf(0.055), atol=error)
    np.testing.assert_allclose((high - this.mean["beta"]) / sd, stats.norm.ppf(0.945), atol=error)
    contrast, _ = intervals(fit, ["contrast"])
    assert contrast[0] == pytest.approx(fit.summary().loc["contrast", "eti89_lb"])


def test_a_point_has_none() -> None:
    summary = vr.MAP().fit(target("linear_regression")).summary()
    assert summary[["eti89_lb", "eti89_ub"]].isna().all(axis=None)


def test_the_population_comes_without_the_members_of_large_plates() -> None:
    model = vr.load_model("criteo")
    assert model.simulate is not None
    this = vr.Target(model, **model.simulate(num_rows=300, num_groups=300))
    names = population(this.quantities)
    assert "u" not in names
    assert {site.name for site in this.latents} - {"u"} <= set(names)
    answers = {f"u[{k}]": {"mean": 0.0, "sd": 1.0} for k in range(300)}
    fit = vr.load_reference({"parameters": answers}, this)
    assert not any(label.startswith("u[") for label in fit.summary().index)
    assert "u[299]" in fit.summary(members=True).index
    assert list(population(this.latents[-1:])) == [this.latents[-1].name]
