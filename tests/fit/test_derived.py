"""Quantities derived from the sites of a fit, of every kind of posterior."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from models_for_tests import case, target

import vi_recipes as vr


def draws() -> vr.Fit:
    this = case("linear_regression")
    values = np.random.default_rng(0).multivariate_normal(this.mean["beta"], this.cov, (4, 500))
    return vr.from_draws({"beta": values}, target("linear_regression"))


def oracle() -> tuple[float, float, float, float]:
    """Return the mean and sd of exp(beta[1]), and of beta[0] + beta[1], by the closed forms."""
    this = case("linear_regression")
    m, v = this.mean["beta"][1], this.cov[1, 1]
    lognormal = np.exp(m + v / 2), np.exp(m + v / 2) * np.sqrt(np.exp(v) - 1)
    return *lognormal, this.mean["beta"].sum(), float(np.sqrt(this.cov.sum()))


FUNCTIONS = {
    "ratio": lambda beta: jnp.exp(beta[1]),
    "total": lambda values: values["beta"].sum(),
    "both": lambda beta, contrast: jnp.stack([beta[0], contrast]),
}


@pytest.mark.parametrize("method", [vr.Laplace(), vr.LinearResponse()])
def test_those_of_a_gaussian_are_exact(method: vr.Method) -> None:
    fit = method.fit(target("linear_regression"), throw=True)
    wider = vr.derive(fit, **FUNCTIONS)
    mean, sd, total, total_sd = oracle()
    if method.key == "lrvb":
        # q has the variance 1 / precision, s2: the mean is exp(m + s2 / 2), and its slopes in m and
        # in log s, with the covariance of m and the curvature 2 in log s, give the sd
        this = case("linear_regression")
        s2 = 1 / np.linalg.inv(this.cov)[1, 1]
        mean = np.exp(this.mean["beta"][1] + s2 / 2)
        sd = mean * np.sqrt(this.cov[1, 1] + s2**2 / 2)
    assert wider.mean()["ratio"] == pytest.approx(mean, rel=1e-6)
    assert wider.sd()["ratio"] == pytest.approx(sd, rel=1e-5)
    assert wider.mean()["total"] == pytest.approx(total, rel=1e-2)
    assert wider.sd()["total"] == pytest.approx(total_sd, rel=4 / np.sqrt(2 * 4000))
    np.testing.assert_array_equal(wider.mean()["beta"], fit.mean()["beta"])
    np.testing.assert_array_equal(wider.cov(["beta"]), fit.cov(["beta"]))
    assert wider.labels() == [*fit.labels(), "ratio", "total", "both[0]", "both[1]"]
    assert wider["both"].shape[1:] == (2,)


def test_those_of_a_sampler_are_by_its_draws(tmp_path: Path) -> None:
    fit = draws()
    wider = vr.derive(fit, **FUNCTIONS)
    np.testing.assert_allclose(wider["ratio"], np.exp(fit["beta"][:, 1]), rtol=1e-12)
    assert wider.sd()["total"] == pytest.approx(fit["beta"].sum(1).std(ddof=1))
    table = wider.summary()
    assert 500 < table.loc["ratio", "ess_bulk"] < 4000
    assert table.loc["ratio", "r_hat"] < 1.02
    joint = wider.cov(["beta", "total"])
    np.testing.assert_allclose(joint.loc["total"].iloc[:2], fit.cov(["beta"]).sum(), rtol=1e-9)
    again = vr.Fit.load(wider.save(tmp_path / "wider.nc"))
    assert again.sd()["total"] == pytest.approx(wider.sd()["total"])
    assert again.is_sampler


def test_what_is_made_of_scalars_one_by_one_has_their_labels() -> None:
    frame = {"y": [0, 1, 1, 0, 1, 0, 1, 0], "x": np.arange(8.0) % 5, "arm": list("pqrpqrpq")}
    fit = vr.MAP().fit(vr.Target(vr.glmm("y ~ x + arm", frame, "bernoulli")), throw=True)
    wider = vr.derive(
        fit,
        odds=lambda beta: jnp.exp(beta),
        shifted=lambda beta, Intercept: beta + Intercept,
        ordered=lambda beta: jnp.sort(beta),
        back=lambda beta: beta[::-1],
        share=lambda beta: beta / beta.sum(),
        one=lambda beta: jnp.exp(beta[0]),
    )
    named = ["[x]", "[arm[q]]", "[arm[r]]"]
    counted = ["[0]", "[1]", "[2]"]
    expected = [*(f"odds{n}" for n in named), *(f"shifted{n}" for n in named)]
    expected += [f"{name}{k}" for name in ("ordered", "back", "share") for k in counted]
    assert wider.labels()[-len(expected) - 1 :] == [*expected, "one"]


def test_a_vector_is_derived_beside_a_fit_without_a_result(tmp_path: Path) -> None:
    """The joint density of effects and their sd has no maximum; here and when it is read back."""
    frame = {"y": [0.0, 1.0, 0.1, 0.9], "x": [0.0, 0.3, 0.3, 0.0], "g": list("aabb")}
    this = vr.Target(vr.glmm("y ~ x + (1 | g)", frame))
    beta = np.random.default_rng(0).normal(size=(2, 50, 1))
    drawn = {s.name: np.full((2, 50, *s.shape), 0.5) for s in this.latents} | {"beta": beta}
    own = vr.from_draws(drawn, this)
    vr.compare(this, [vr.MAP(), own], assessed=False, path=tmp_path / "c")
    for c in (
        vr.Comparison({"map": vr.MAP().fit(this), "draws": own}),
        vr.Comparison.load(tmp_path / "c"),
    ):
        assert not c["map"].has_result
        wider = vr.derive(
            c, odds=lambda beta: jnp.exp(beta), pair=lambda beta: beta[jnp.zeros(2, int)]
        )
        assert list(wider.means().index[-3:]) == ["odds[x]", "pair[0]", "pair[1]"]
        assert wider.means().loc["odds[x]", "draws"] == pytest.approx(np.exp(beta).mean())
        assert wider.means()["map"].isna().all()


def test_a_quantity_has_the_same_labels_in_every_fit() -> None:
    frame = {"y": [0, 1, 1, 0, 1, 0, 1, 0], "x": np.arange(8.0) % 5, "arm": list("pqrpqrpq")}
    this = vr.Target(vr.glmm("y ~ x + arm", frame, "bernoulli"))
    fits = {}
    for name, x in (("above", 1.0), ("below", -1.0)):
        beta = np.array([x, 2.0, 3.0]) + np.random.default_rng(0).normal(0, 0.1, (2, 200, 3))
        fits[name] = vr.from_draws({"Intercept": beta[..., 0], "beta": beta}, this)
    c = vr.derive(vr.compare(this, fits, assessed=False), log=lambda beta: jnp.log(beta))
    for fit in c.fits.values():
        assert fit.labels()[-3:] == ["log[x]", "log[arm[q]]", "log[arm[r]]"]


def test_a_fit_with_derived_quantities_predicts_as_before() -> None:
    frame = {"y": [0.1, 1.4, 1.2, 0.3], "x": [0.0, 1.0, 1.5, 0.5]}
    this = vr.Target(vr.glmm("y ~ x", frame))
    fit = vr.Laplace().fit(this, throw=True)
    wider = vr.derive(fit, twice=lambda beta: 2 * beta)
    new = {"x": [0.2, 3.0]}
    one, other = (vr.predict(f, this, new, num_draws=20).frame() for f in (fit, wider))
    pd.testing.assert_frame_equal(one, other)
    drawn = [vr.posterior_predictive(f, this, num_draws=5, key=1)["y"] for f in (fit, wider)]
    np.testing.assert_allclose(*drawn)
    with pytest.raises(ValueError, match="got model 'y' with the sites"):
        vr.predict(wider, vr.Target(vr.glmm("y ~ 1", frame)), new)


def test_what_jax_cannot_trace_is_called_draw_by_draw() -> None:
    fit = draws()
    wider = vr.derive(fit, positive=lambda beta: float(beta[1]) if beta[1] > -0.5 else 0.0)
    kept = np.where(fit["beta"][:, 1] > -0.5, fit["beta"][:, 1], 0.0)
    np.testing.assert_array_equal(wider["positive"], kept)
    laplace = vr.derive(
        vr.Laplace().fit(target("linear_regression")),
        positive=lambda beta: float(beta[1]) if beta[1] > -0.5 else 0.0,
    )
    error = 5 * laplace.sd()["positive"] / np.sqrt(4000)
    assert abs(laplace.mean()["positive"] - kept.mean()) < 2 * error


def test_a_quantity_is_a_list_and_has_defaults() -> None:
    fit = draws()
    wider = vr.derive(
        fit,
        pair=lambda beta: (beta[0], 2 * beta[1]),
        each=lambda beta, by=3.0: [by * float(b) for b in beta],
        mapped=lambda values, k=1: values["beta"][k],
    )
    beta = fit["beta"]
    np.testing.assert_allclose(wider["pair"], beta * [1, 2], rtol=1e-12)
    np.testing.assert_allclose(wider["each"], 3 * beta, rtol=1e-12)
    np.testing.assert_allclose(wider["mapped"], beta[:, 1], rtol=1e-12)
    laplace = vr.derive(vr.Laplace().fit(target("linear_regression")), pair=lambda beta: list(beta))
    np.testing.assert_allclose(laplace.mean()["pair"], laplace.mean()["beta"], rtol=1e-9)


def test_what_is_not_known_has_no_error(tmp_path: Path) -> None:
    c = vr.Comparison({"draws": draws()})
    row = vr.derive(c, bad=lambda beta: jnp.log(-(beta[0] ** 2))).tidy(["bad"]).iloc[0]
    assert row[["estimate", "std_error", "conf_low", "mcse"]].isna().all()
    with pytest.raises(ValueError, match=r"unknown site\(s\) betaa"):
        c.tidy(["betaa"])


def test_of_a_point_it_is_a_point_and_of_moments_alone_nothing() -> None:
    point = vr.MAP().fit(target("linear_regression"))
    wider = vr.derive(point, ratio=lambda beta: jnp.exp(beta[1]))
    assert wider.mean()["ratio"] == pytest.approx(np.exp(point.mean()["beta"][1]))
    assert wider.is_point
    answers = {"parameters": {"beta[0]": {"mean": 1.0, "sd": 0.5}}}
    given = vr.load_reference(answers, target("linear_regression"))
    assert np.isnan(vr.derive(given, ratio=lambda beta: beta[0]).mean()["ratio"])


def test_they_are_compared_and_judged(tmp_path: Path) -> None:
    this = target("linear_regression")
    c = vr.compare(this, [vr.MAP(), vr.Laplace(), draws()], assessed=True)
    wider = vr.derive(c, ratio=lambda beta: jnp.exp(beta[1]), wrong=lambda beta: beta[0] ** 2)
    assert wider.reference is wider["draws"]
    accuracy = wider.accuracy().loc[("ratio", "laplace")]
    mean, sd, *_ = oracle()
    reference = np.exp(draws()["beta"][:, 1])
    expected = (mean - reference.mean()) / reference.std(ddof=1)
    assert accuracy["difference"] == pytest.approx(expected, abs=1e-6)
    assert accuracy["sd_ratio"] == pytest.approx(sd / reference.std(ddof=1), rel=1e-6)
    assert "ratio" in list(wider.tidy()["term"])
    assert wider.table(["ratio"]).body[0][0] == "ratio"
    assert wider.verdict_of["laplace"].trust is vr.Trust.TRUSTWORTHY
    # a posterior mean of a square is no square of the mean: the point is off there
    assert "wrong" not in c.means().index
    wider.save(tmp_path / "c")
    again = vr.Comparison.load(tmp_path / "c")
    assert again.means().loc["ratio", "laplace"] == pytest.approx(mean, rel=1e-6)
    alone = vr.derive(vr.compare(this, "laplace"), ratio=lambda beta: jnp.exp(beta[1]))
    assert alone.verdict_of["laplace"].trust is vr.Trust.TRUSTWORTHY


@pytest.mark.parametrize(
    ("functions", "said"),
    [
        ({}, "derive: no quantities given"),
        ({"beta": lambda beta: beta}, "'beta' is a site of the model"),
        ({"a": 3}, "'a': got 3, expected a function of sites"),
        ({"a": lambda beta, gamma: gamma}, "'a': the function takes beta, gamma, and gamma is no"),
        ({"a": lambda values: values["gamma"]}, "'a': KeyError"),
        ({"a": lambda betta: 2 * betta}, "'betta' is no site, and so a mapping of them all"),
        ({"a": lambda beta: beta.reshape(3)}, "'a': "),
        ({"a": lambda: 1.0}, "'a': the function takes nothing"),
        ({"a": lambda beta: beta[:0]}, "'a': it returns no numbers"),
    ],
)
def test_what_cannot_be_derived_is_said(functions: dict, said: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=said):
        vr.derive(draws(), **functions)
