"""When a posterior is nearly a point, against SciPy's laws and quadrature over the latents."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.integrate import quad

import vi_recipes as vr


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    study = vr.load_study("point_masses")
    return vars(sys.modules[f"{study.exhibits.__module__}.near"])  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def measured(content: dict[str, Any]) -> pd.DataFrame:
    found: pd.DataFrame = content["nearly_points"]().set_index(["what", "n"])
    return found


def density(k: int, noise: float) -> Any:
    """The posterior density of a scale, by adaptive quadrature over it."""

    def shape(t: float) -> float:
        return float(
            np.prod(stats.norm.pdf(np.full(k, np.sqrt(1 + noise)), 0, np.hypot(t, noise**0.5)))
        )

    top = shape(1.0)
    total = sum(quad(lambda t: shape(t) / top, *ends)[0] for ends in ((0, 2), (2, np.inf)))
    return lambda t: shape(t) / top / total


@pytest.mark.parametrize(("what", "n", "k", "noise"), [
    ("sigma of n / 2 pairs", 30, 15, 0.0),
    ("tau of n / 2 groups", 30, 15, 0.5),
    ("tau of 6 groups", 30, 6, 0.2),
])  # fmt: skip
def test_scales_against_adaptive_quadrature(
    measured: pd.DataFrame, what: str, n: int, k: int, noise: float
) -> None:
    p = density(k, noise)

    def mean(f: Any) -> float:
        parts = ((1e-3, 0.5), (0.5, 1.5), (1.5, 4), (4, np.inf))
        return sum(quad(lambda t: f(t) * p(t) if p(t) else 0.0, *ends)[0] for ends in parts)

    first, second = mean(lambda t: t), mean(lambda t: t**2)
    sd = np.sqrt(second - first**2)
    row = measured.loc[(what, n)]
    assert row["sd"] == pytest.approx(sd, rel=1e-3)
    assert row["mean"] == pytest.approx((1 - first) / sd, rel=1e-3)
    assert row["sd ratio"] == pytest.approx(second**-0.5, rel=1e-3)
    assert row["entropy"] == pytest.approx(-mean(lambda t: np.log(p(t))), abs=2e-3)

    def kl(centre: float) -> float:
        q = stats.norm(centre, 0.01)
        ends = (centre - 0.08, centre + 0.08)
        return quad(lambda t: q.pdf(t) * (q.logpdf(t) - np.log(p(t))), *ends)[0]

    # no centre of a row of them is better, and one that is next to the best hardly worse
    row_of = [kl(centre) for centre in np.linspace(0.995, 1.005, 21)]
    assert row["KL of the best near-point"] == pytest.approx(min(row_of), abs=1e-5)


def test_points_on_the_means_of_pairs(measured: pd.DataFrame) -> None:
    """15 pairs whose sum of squares is 15: sigma^2 is inverse gamma with and without the means."""
    row = measured.loc[("each z of n / 2 pairs", 30)]
    given_z, right = stats.invgamma(29 / 2, scale=7.5), stats.invgamma(14 / 2, scale=7.5)

    def moments(law: Any) -> tuple[float, float]:
        mean = law.expect(np.sqrt)
        return mean, np.sqrt(law.mean() - mean**2)

    (plugged, plugged_sd), (mean, sd) = moments(given_z), moments(right)
    assert row["mean"] == pytest.approx((plugged - mean) / sd, rel=1e-6)
    assert row["sd ratio"] == pytest.approx(plugged_sd / sd, rel=1e-6)
    # and z, with sigma averaged over
    z = np.linspace(-12, 12, 4_001)
    p = np.array(
        [right.expect(lambda v, at=at: stats.norm.pdf(at, 0, np.sqrt(v / 2))) for at in z[::20]]
    )
    p = np.exp(np.interp(z, z[::20], np.log(p)))
    assert row["sd"] == pytest.approx(np.sqrt(np.trapezoid(z**2 * p, z)), rel=2e-3)
    assert row["entropy"] == pytest.approx(-np.trapezoid(p * np.log(p), z), abs=3e-3)
    near = -np.log(p[2_000]) - stats.norm.entropy(0, 0.01)
    assert row["KL of the best near-point"] == pytest.approx(near, abs=1e-3)


def test_what_becomes_a_point_and_what_does_not(measured: pd.DataFrame) -> None:
    """With 10,000 observations, against the normal and the inverse-gamma limits."""
    sigma = measured.loc[("sigma of n / 2 pairs", 10_000)]
    assert sigma["sd"] == pytest.approx(1 / np.sqrt(2 * 5_000), rel=2e-3)
    assert sigma["entropy"] == pytest.approx(stats.norm.entropy(0, 0.01), abs=2e-3)
    assert sigma["KL of the best near-point"] < 1e-3
    assert sigma["sd ratio"] == pytest.approx(1, abs=1e-3)
    # the effects of six groups are known by then: tau^2 is inverse gamma of 5 / 2 and 6 / 2
    tau, law = measured.loc[("tau of 6 groups", 10_002)], stats.invgamma(2.5, scale=3)
    mean = law.expect(np.sqrt)
    sd = np.sqrt(law.mean() - mean**2)
    assert tau["sd"] == pytest.approx(sd, rel=2e-3)
    assert tau["mean"] == pytest.approx((1 - mean) / sd, rel=2e-3)
    assert tau["sd ratio"] == pytest.approx(np.sqrt(1 / 2), rel=1e-3)
    z = measured.loc[("each z of n / 2 pairs", 10_000)]
    assert z["entropy"] == pytest.approx(stats.norm.entropy(0, np.sqrt(0.5)), abs=1e-3)
    assert z["sd ratio"] == pytest.approx(0.5, rel=1e-3)


def test_narrow_normals_end_at_the_marginal_mle(content: dict[str, Any]) -> None:
    table = content["towards_a_point"](content["pairs"](30))
    for name, bend in (("centre, over sigma", 2.5), ("centre, over log sigma", 1.0)):
        away = table[name].astype(float) - 1
        # the next term of the expansion in the sd: -l''' / (2 l'') of the log-likelihood's slopes
        np.testing.assert_allclose(away, bend * table["sd of q"] ** 2, rtol=0.03, atol=1e-6)
    right = stats.invgamma(7, scale=7.5)
    at_top = np.log(2 * right.pdf(1.0))  # of sigma, not of its square
    assert table["KL + entropy of q"].iloc[-1] == pytest.approx(-at_top, abs=1e-4)
