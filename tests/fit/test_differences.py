"""Differences of moments: what counts as one, and what is a constant."""

from __future__ import annotations

import numpy as np
import pytest

import vi_recipes as vr
from vi_recipes.fit.differences import differences
from vi_recipes.posterior.base import Moments
from vi_recipes.posterior.draws import MomentsPosterior


def fit_with(mean: list[float], sd: list[float]) -> vr.Fit:
    zero = {"x": np.zeros(len(mean))}
    posterior = MomentsPosterior(
        means={"x": np.array(mean)}, sds={"x": np.array(sd)}, covariance=None, order=("x",),
        mcse_means=zero, mcse_sds=zero, samples={},
    )  # fmt: skip
    site = vr.Site("x", "latent", (len(mean),), (len(mean),), (), ("dim",))
    coords = {"dim": np.arange(len(mean))}
    return vr.Fit("m", vr.Status.OK, sites=(site,), coords=coords, posterior=posterior)


def against(mean: list[float], sd: list[float]) -> Moments:
    zero = {"x": np.zeros(len(mean))}
    return Moments({"x": np.array(mean)}, {"x": np.array(sd)}, zero, zero)


@pytest.mark.parametrize("sd", [0.0, 1e-17, np.nan])
def test_what_varies_by_rounding_alone_is_left_out(sd: float) -> None:
    rows = differences(fit_with([1.0, 2.0], [sd, 0.5]), against([1 + 2e-16, 2.0], [1e-17, 0.4]))
    assert rows.iloc[0][["difference", "sd_ratio"]].isna().all()
    assert rows.iloc[1]["sd_ratio"] == pytest.approx(1.25)


def test_a_constant_against_what_varies_is_a_difference() -> None:
    rows = differences(fit_with([1.0, 1.0], [0.1, 0.0]), against([1.0, 1.0], [1e-17, 0.1]))
    assert rows.iloc[0]["sd_ratio"] > 1e10
    assert rows.iloc[1]["sd_ratio"] == 0
    rows = differences(fit_with([1.1], [0.0]), against([1.0], [1e-17]))
    assert abs(rows.iloc[0]["difference"]) > 1e10


def test_small_numbers_are_no_constants() -> None:
    rows = differences(
        fit_with([0.0, 1e-12], [1e-30, 1e-20]), against([0.0, 1e-12], [2e-30, 1e-20])
    )
    assert rows["sd_ratio"].tolist() == pytest.approx([0.5, 1.0])
