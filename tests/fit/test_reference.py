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
        assert np.isnan(fit.cov().to_numpy()).all()


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
    ],
)
def test_answers_of_a_wrong_form_are_refused(answers: Any, match: str, tmp_path: Path) -> None:
    path = tmp_path / "answers.json"
    path.write_text(json.dumps(answers), encoding="utf-8")
    with pytest.raises(ValueError, match=match):
        vr.load_reference(path, target("normal_mean"))
