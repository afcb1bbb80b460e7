"""Marginal effects of a formula's fits: contrasts and slopes of predictions."""

from __future__ import annotations

from dataclasses import replace

import arviz as az
import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

import vi_recipes as vr

RNG = np.random.default_rng(4)
N = 60
FRAME = pd.DataFrame(
    {
        "x": RNG.normal(2.0, 1.5, N),
        "arm": RNG.choice(["control", "drug", "both"], N),
        "s": RNG.integers(0, 2, N),
    }
)


@pytest.fixture(scope="module")
def fitted() -> tuple[vr.Target, vr.Fit]:
    target = vr.Target(vr.glmm("s ~ x + arm", FRAME, family="bernoulli"))
    return target, vr.Laplace().fit(target, throw=True)


def by_hand(fit: vr.Fit, x: np.ndarray, arm: list[str]) -> np.ndarray:
    """Return the probabilities at every draw and row, from the draws of the coefficients."""
    assert fit.labels(["beta"]) == ["beta[x]", "beta[arm[control]]", "beta[arm[drug]]"]
    beta, here = fit["beta"], np.array(arm)
    eta = fit["Intercept"][:, None] + beta[:, [0]] * x
    eta = eta + beta[:, [1]] * (here == "control") + beta[:, [2]] * (here == "drug")
    return expit(eta)


def test_contrasts_are_averages_of_predictions(fitted: tuple[vr.Target, vr.Fit]) -> None:
    target, fit = fitted
    x, arm = FRAME["x"].to_numpy(), list(FRAME["arm"])
    table = vr.comparisons(fit, target, FRAME, {"x": (1.0, 3.0), "arm": ("both", "drug")})
    assert list(table["contrast"]) == ["3 - 1", "drug - both"]
    one = np.ones(N)
    of_x = (by_hand(fit, 3 * one, arm) - by_hand(fit, one, arm)).mean(1)
    drug, both = (by_hand(fit, x, [level] * N) for level in ("drug", "both"))
    of_arm = drug.mean(1) - both.mean(1)
    for row, draws in zip(table.itertuples(), (of_x, of_arm), strict=True):
        assert row.estimate == pytest.approx(draws.mean(), rel=1e-9)
        assert row.std_error == pytest.approx(draws.std(ddof=1), rel=1e-9)
        assert row.conf_low == pytest.approx(np.quantile(draws, 0.055), rel=1e-9)
    odds = vr.comparisons(
        fit, target, FRAME, {"arm": ("both", "drug")}, comparison="odds_ratio", average=False
    )
    assert len(odds) == N
    ratio = drug / (1 - drug) / (both / (1 - both))
    assert odds["estimate"][3] == pytest.approx(ratio[:, 3].mean(), rel=1e-9)
    default = vr.comparisons(fit, target, FRAME, ["x", "arm"])
    assert list(default["contrast"]) == ["+1", "control - both", "drug - both"]
    with az.rc_context({"stats.ci_prob": 0.5}):
        narrow = vr.comparisons(fit, target, FRAME, {"x": (1.0, 3.0)})
    assert narrow["conf_low"][0] == pytest.approx(np.quantile(of_x, 0.25), rel=1e-9)


@pytest.mark.slow
def test_all_variables_are_taken_where_none_is_named(fitted: tuple[vr.Target, vr.Fit]) -> None:
    target, fit = fitted
    named = vr.comparisons(fit, target, None, ["x", "arm"])
    pd.testing.assert_frame_equal(vr.comparisons(fit, target), named)
    pd.testing.assert_frame_equal(vr.comparisons(fit, target, variables=["x", "arm"]), named)
    pd.testing.assert_frame_equal(vr.slopes(fit, target), vr.slopes(fit, target, None, "x"))
    frame = FRAME.assign(g=np.arange(N) % 6, y=FRAME["x"] + RNG.normal(size=N))
    grouped = vr.Target(vr.glmm("y ~ arm + (1 + x | g)", frame))
    fit = vr.MeanField().fit(grouped, throw=True)
    assert set(vr.comparisons(fit, grouped)["term"]) == {"x", "arm"}
    assert set(vr.slopes(fit, grouped)["term"]) == {"x"}
    levels = vr.Target(vr.glmm("s ~ arm", FRAME, "bernoulli"))
    with pytest.raises(ValueError, match="all are levels; comparisons"):
        vr.slopes(vr.Laplace().fit(levels, throw=True), levels)


def test_slopes_are_derivatives(fitted: tuple[vr.Target, vr.Fit]) -> None:
    target, fit = fitted
    linear = vr.slopes(fit, target, FRAME, "x", kind="linear")
    assert linear["estimate"][0] == pytest.approx(fit["beta"][:, 0].mean(), rel=1e-6)
    assert linear["std_error"][0] == pytest.approx(fit["beta"][:, 0].std(ddof=1), rel=1e-6)
    mean = vr.slopes(fit, target, FRAME, "x")
    p = by_hand(fit, FRAME["x"].to_numpy(), list(FRAME["arm"]))
    expected = (fit["beta"][:, [0]] * p * (1 - p)).mean()
    assert mean["estimate"][0] == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="'arm' has levels and no slope"):
        vr.slopes(fit, target, FRAME, "arm")


def test_all_methods_of_a_comparison_have_them(fitted: tuple[vr.Target, vr.Fit]) -> None:
    target, fit = fitted
    point = vr.MAP().fit(target)
    both = vr.Comparison({"laplace": fit, "map": point})
    table = vr.comparisons(both, target, FRAME, {"x": (1.25, 1234.5)})
    lines = repr(table.round(9)).splitlines()  # above 80 characters, and none is broken
    assert len(lines) == 3
    assert lines[0].split() == list(table.columns)
    assert "..." not in lines[0]
    assert max(map(len, lines)) > 80
    table = vr.comparisons(both, target, FRAME, "x").set_index("method")
    assert list(table.index) == ["laplace", "map"]
    assert np.isnan(table.loc["map", "std_error"])
    assert table.loc["map", "estimate"] == pytest.approx(table.loc["laplace", "estimate"], abs=0.05)
    wider = vr.derive(both, odds=lambda beta: np.exp(1.0) * beta[0])
    assert wider["laplace"].mean()["odds"] == pytest.approx(np.e * fit.mean()["beta"][0])


@pytest.mark.parametrize(
    ("variables", "options", "said"),
    [
        ("xx", {}, "variables: unknown column 'xx'; did you mean 'x'"),
        ({"arm": "drug"}, {}, "'arm': got 'drug', expected two values"),
        ({"x": (1, 2, 3)}, {}, "expected two values, or a number to step by"),
        ("x", {"comparison": "product"}, "comparison: got 'product', expected 'difference'"),
        ("s", {"comparison": "odds_ratio", "kind": "linear"}, "of probabilities, which kind 'lin"),
        ("other", {}, "variables: 'other' is in no term, so that nothing changes with it"),
        ([], {}, "variables: got none"),
        ({"x": 0}, {}, "'x': got a step of 0, expected one that is not 0"),
        ({"x": float("nan")}, {}, "'x': got a step of nan, expected one"),
    ],
)
def test_what_cannot_be_contrasted_is_said(
    fitted: tuple[vr.Target, vr.Fit], variables: object, options: dict[str, object], said: str
) -> None:
    frame = FRAME.assign(other=1.0)
    with pytest.raises(ValueError, match=said):
        vr.comparisons(fitted[1], fitted[0], frame, variables, **options)  # type: ignore[arg-type]


def test_of_zeros_and_ones_one_is_compared_with_zero() -> None:
    """As in R's marginaleffects; and never 2 with 1, whatever rows are asked for."""
    treated = (np.arange(N) % 3 == 0).astype(int)
    target = vr.Target(vr.glmm("s ~ x + treated", FRAME.assign(treated=treated), "bernoulli"))
    fit = vr.Laplace().fit(target)
    new = pd.DataFrame({"x": [0.5, -1.0], "treated": [1, 1]})
    table = vr.comparisons(fit, target, new, "treated", kind="linear")
    assert list(table["contrast"]) == ["1 - 0"]
    assert table["estimate"][0] == pytest.approx(fit.mean()["beta"][1], abs=0.05)
    pairs = {"treated": (0, 1)}
    for comparison in ("ratio", "odds_ratio"):
        own = vr.comparisons(fit, target, None, "treated", comparison=comparison)
        asked = vr.comparisons(fit, target, None, pairs, comparison=comparison)
        pd.testing.assert_frame_equal(own, asked)
    assert list(vr.comparisons(fit, target, None, {"treated": 1})["contrast"]) == ["+1"]


def test_what_is_wrong_with_the_data_is_told_of_them(fitted: tuple[vr.Target, vr.Fit]) -> None:
    frame = FRAME.assign(x=np.where(np.arange(len(FRAME)) == 2, np.nan, FRAME["x"]))
    for effects in (vr.comparisons, vr.slopes):
        with pytest.raises(ValueError, match=r"^data: 1 of .* rows have missing values"):
            effects(fitted[1], fitted[0], frame, "x")


def test_where_no_method_has_a_result_there_are_no_effects(
    fitted: tuple[vr.Target, vr.Fit],
) -> None:
    target, fit = fitted
    failed = replace(fit, status=vr.Status.FAILED, posterior=None)
    for effects in (vr.comparisons, vr.slopes):
        with pytest.raises(ValueError, match=r"no method .* a result \(laplace\); its verdicts"):
            effects(vr.Comparison({"laplace": failed}), target, FRAME, "x")


def test_the_response_is_no_variable() -> None:
    frame = FRAME.assign(n=np.resize([3, 5], N))
    target = vr.Target(vr.glmm("p(s, n) ~ x", frame, family="binomial"))
    fit = vr.Laplace().fit(target, throw=True)
    for name in ("s", "n"):
        with pytest.raises(ValueError, match=f"'{name}' is in no term"):
            vr.comparisons(fit, target, frame, name)
    more = vr.comparisons(fit, target, frame, {"n": (10, 30)}, kind="response")
    chance = vr.predict(fit, target, frame).mean.mean()
    assert more["estimate"][0] == pytest.approx(20 * chance, abs=0.5)


def test_every_level_is_contrasted_with_the_first_that_the_formula_has() -> None:
    """Also of numbers that it takes for levels, of groups, and where new rows have few of them."""
    frame = FRAME.assign(
        period=RNG.integers(3, 6, N),
        arm=pd.Categorical(FRAME["arm"], ["control", "drug", "both"]),
        y=RNG.normal(size=N),
        g=RNG.choice([2, 5, 9], N),
        flag=FRAME["x"] > 2.0,
    )
    formula = "y ~ x * arm + C(s, Treatment(1)) + C(period) + flag + (1 | g)"
    target = vr.Target(vr.glmm(formula, frame, priors={"sd_g": 1.0}))
    fit = vr.Laplace().fit(target, throw=True)
    some = frame.assign(arm=frame["arm"].astype(str), s=1, g=5)[frame["arm"] == "drug"]
    table = vr.comparisons(fit, target, some, ["arm", "period", "flag", "s", "g"])
    assert list(table["contrast"]) == [
        "drug - control", "both - control", "4 - 3", "5 - 3", "True - False", "0 - 1", "5 - 2",
        "9 - 2",
    ]  # fmt: skip
    beta = dict(zip(fit.labels(["beta"]), fit["beta"].mean(axis=0), strict=True))
    u = fit["u_g"].mean(axis=0)
    expected = [
        *(beta[f"beta[arm[{a}]]"] + beta[f"beta[x:arm[{a}]]"] * some["x"].mean()
          for a in ("drug", "both")),
        beta["beta[period[4]]"], beta["beta[period[5]]"], beta["beta[flag]"], beta["beta[s[0]]"],
        u[1] - u[0], u[2] - u[0],
    ]  # fmt: skip
    np.testing.assert_allclose(table["estimate"], expected, rtol=1e-6, atol=1e-9)
    with pytest.raises(ValueError, match="'period' has levels and no slope"):
        vr.slopes(fit, target, frame, "period")
    with pytest.raises(ValueError, match="of probabilities, which family 'gaussian' has none of"):
        vr.comparisons(fit, target, frame, "x", comparison="odds_ratio")


def test_steps_and_pairs_are_numbers_of_any_kind(fitted: tuple[vr.Target, vr.Fit]) -> None:
    target, fit = fitted
    for step in (2, 2.0, np.int64(2), np.float32(2)):
        assert list(vr.comparisons(fit, target, FRAME, {"x": step})["contrast"]) == ["+2"]
    for pair in ((-0.5, 1 / 3), np.array([-0.5, 1 / 3]), pd.Series([-0.5, 1 / 3])):
        table = vr.comparisons(fit, target, FRAME, {"x": pair})
        assert list(table["contrast"]) == ["0.333333 - (-0.5)"]
    back = vr.comparisons(fit, target, FRAME, {"x": -1})
    high = by_hand(fit, FRAME["x"].to_numpy() - 1, list(FRAME["arm"])).mean(1)
    low = by_hand(fit, FRAME["x"].to_numpy(), list(FRAME["arm"])).mean(1)
    assert back["contrast"][0] == "-1"
    assert back["estimate"][0] == pytest.approx((high - low).mean(), rel=1e-9)


def test_ratios_are_of_averages() -> None:
    """Of a logarithmic link with an offset a ratio is exp(beta), at every draw."""
    frame = FRAME.assign(n=RNG.poisson(3.0, N), t=np.log(RNG.uniform(1.0, 4.0, N)))
    target = vr.Target(vr.glmm("n ~ x + arm", frame, "poisson", offset="t"))
    fit = vr.Laplace().fit(target, throw=True)
    table = vr.comparisons(fit, target, frame, ["x", "t"], comparison="ratio")
    ratio = np.exp(fit["beta"][:, 0])
    assert table["estimate"][0] == pytest.approx(ratio.mean(), rel=1e-6)
    assert table["std_error"][0] == pytest.approx(ratio.std(ddof=1), rel=1e-6)
    assert table["estimate"][1] == pytest.approx(np.e, rel=1e-6)
