"""Flat priors by marginal likelihood against what statsmodels and SciPy have of the same data."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import vi_recipes as vr

HERE = Path(__file__).with_name("by_statsmodels")
ANSWERS = json.loads((HERE / "answers.json").read_text())
QUICK = ("binomial probit", "weights")


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ANSWERS],
)
def test_estimates_and_standard_errors_are_those_of_statsmodels(name: str) -> None:
    case = ANSWERS[name]
    model = vr.glmm(
        case["formula"], pd.read_csv(HERE / "data.csv"), case["family"], priors="flat",
        **case["options"],
    )  # fmt: skip
    fit = vr.MarginalMLE().fit(vr.Target(model), throw=True)
    assert fit.status is vr.Status.OK
    places = {label: k for k, label in enumerate(fit.labels())}
    at = [
        int(label[1:]) if label.startswith("#") else places[label] for label in case["answers"]
    ]  # columns of contrasts by place: their names differ
    estimates, errors = np.array(list(case["answers"].values())).T
    mean, sd = (fit.flat(values)[at] for values in (fit.mean(), fit.sd()))
    np.testing.assert_allclose(mean, estimates, atol=1e-3 * errors.min())
    np.testing.assert_allclose(sd, errors, rtol=1e-3)
