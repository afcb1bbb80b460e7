"""Studies: scripted comparisons, and the two that are shipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from models_for_tests import target

import vi_recipes as vr


def test_a_study_is_its_comparison(tmp_path: Path) -> None:
    this = target("linear_regression")
    study = vr.Study(
        name="lines",
        model=this.model,
        data=this.data,
        methods={"mode": vr.MAP(), "gauss": vr.Laplace()},
        reference="gauss",
        seed=4,
        description="Two ways to one answer.",
    )
    c = study.run(tmp_path)
    assert list(c) == ["mode", "gauss"]
    assert c.reference_name == "gauss"
    assert c.description == "Two ways to one answer."
    assert c["mode"].provenance.seed == 4
    assert (tmp_path / "fits" / "gauss.nc").exists()
    again = study.run()
    np.testing.assert_array_equal(again["gauss"].mean()["beta"], c["gauss"].mean()["beta"])
    assert study.run(seed=9)["mode"].provenance.seed == 9


@pytest.mark.parametrize("name", ["radon", "gmm"])
def test_shipped_studies_name_models_and_methods_that_exist(name: str) -> None:
    study = vr.load_study(name)
    assert study.name == name
    assert study.methods
    assert study.reference in study.methods
    assert study.description
    this = study.target()
    assert all(method.applies(this) is None for method in study.methods.values())


def test_outside_references_become_fits() -> None:
    this = target("linear_regression")
    fit = vr.load_reference(
        {"source": "by hand", "parameters": {"beta[1]": {"mean": 2.0, "sd": 0.5, "mcse": 0.01}}},
        this,
    )
    assert np.isnan(fit.mean()["beta"][0])
    assert fit.mean()["beta"][1] == 2.0
    assert fit.mcse()["beta"][1] == 0.01
    c = vr.compare(this, [vr.Laplace()], reference=fit)
    row = c.accuracy().loc[("beta[1]", "laplace")]
    np.testing.assert_allclose(row["difference"], (c["laplace"].mean()["beta"][1] - 2.0) / 0.5)
    with pytest.raises(ValueError, match=r"beta\[7\]"):
        vr.load_reference({"parameters": {"beta[7]": {"mean": 0.0}}}, this)
    with pytest.raises(ValueError, match="parameters"):
        vr.load_reference({"source": "empty"}, this)
