"""Reference answers from outside, as a fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models_for_tests import target

import vi_recipes as vr
from vi_recipes.posterior import MomentsPosterior

ANSWERS = {
    "source": "by hand",
    "parameters": {
        "beta[0]": {"mean": 1.0, "sd": 0.5, "mcse": 0.01},
        "contrast": {"mean": 3.0, "sd": 2.0},
    },
}


def test_a_reference_from_outside(tmp_path: Path) -> None:
    path = tmp_path / "reference.json"
    path.write_text(json.dumps(ANSWERS))
    for source in (ANSWERS, path, str(path)):
        fit = vr.load_reference(source, target("linear_regression"))
        assert isinstance(fit.posterior, MomentsPosterior)
        np.testing.assert_array_equal(fit.mean()["beta"], [1.0, np.nan])
        assert fit.sd()["contrast"] == 2
        assert fit.mcse()["beta"][0] == 0.01
        assert fit.mcse()["contrast"] == 0
        assert fit.mcse_sd()["beta"][0] == pytest.approx(0.01 / np.sqrt(2))
        assert fit.message == "by hand"
        assert fit.method == "reference"
        assert fit.timing.total_seconds == 0
        assert np.isnan(fit.cov().to_numpy()).all()


def test_their_name_and_their_seconds() -> None:
    named = {**ANSWERS, "method": "stored", "total_seconds": 90}
    fit = vr.load_reference(named, target("linear_regression"))
    assert fit.method == "stored"
    assert fit.timing.total_seconds == 90


def test_a_large_one_is_kept_though_it_has_no_draws(tmp_path: Path) -> None:
    groups = 300  # 2,000 draws of which would be saved in more than one piece
    model = vr.load_model("criteo")
    assert model.simulate is not None
    this = vr.Target(model, **model.simulate(num_rows=groups, num_groups=groups))
    answers = {f"u[{k}]": {"mean": k / 7, "sd": 1.0 + k} for k in range(groups)}
    fit = vr.load_reference({"parameters": answers}, this)
    again = vr.Fit.load(fit.save(tmp_path / "answers.nc"))
    np.testing.assert_array_equal(again.mean()["u"], np.arange(groups) / 7)
    np.testing.assert_array_equal(again.sd()["u"], 1.0 + np.arange(groups))


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ({"parameters": {"beta[2]": {"mean": 1.0}}}, r"beta\[2\] are not among.*beta\[0\]"),
        ({"values": {}}, 'no "parameters" mapping'),
        ("absent.json", r"absent\.json: cannot be read as JSON"),
    ],
)
def test_bad_references(source: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        vr.load_reference(source, target("linear_regression"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answers", "match"),
    [
        ([1, 2], "got a JSON list, expected an object"),
        ({"parameters": {"mu": 3.0}}, "'mu' is 3.0, expected an object with its mean and sd"),
        ({"parameters": {"mu": {"mean": "high"}}}, "the mean of 'mu' is 'high', expected a number"),
        ({"parameters": {"mu": {"sd": -1.0}}}, "sd of 'mu' is -1.0, expected .* not negative"),
        ({"parameters": {"mu": {"mean": 10**400}}}, "the mean of 'mu' is 1000"),
        ({"parameters": {}, "covariance": [1]}, 'must be an object with "sites"'),
        (
            {"parameters": {}, "covariance": {"sites": ["nu"], "values": [[1.0]]}},
            "unknown site 'nu'",
        ),
        (
            {"parameters": {}, "covariance": {"sites": ["mu"], "values": [1.0, 2.0]}},
            r"shape \(2,\), expected \(1, 1\)",
        ),
        (
            {"parameters": {}, "covariance": {"sites": ["mu"], "values": [[1.0], [2.0, 3.0]]}},
            "no matrix of numbers",
        ),
        ({"parameters": {}, "total_seconds": -1}, "total_seconds are -1, expected a number"),
        ({"parameters": {}, "total_seconds": "12 s"}, "total_seconds are '12 s', expected a num"),
    ],
)
def test_answers_of_a_wrong_form_are_refused(answers: Any, match: str, tmp_path: Path) -> None:
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(answers), encoding="utf-8")
    with pytest.raises(ValueError, match=match):
        vr.load_reference(path, target("normal_mean"))
