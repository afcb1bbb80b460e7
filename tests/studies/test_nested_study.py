"""The study of nested quadrature: what its picture and its table are made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

import vi_recipes as vr
from vi_recipes.core import find
from vi_recipes.report.style import style


@pytest.fixture(scope="module")
def study() -> vr.Study:
    return vr.load_study("nested")


def test_it_names_a_model_and_a_reference_that_exist(study: vr.Study) -> None:
    assert study.model == "criteo"
    assert isinstance(study.reference, Path)
    assert study.reference.is_file()
    assert study.methods is not None
    assert "nested" in study.methods


def test_errors_are_those_of_the_comparison(study: vr.Study) -> None:
    content = study.exhibits.__globals__  # type: ignore[union-attr]
    target = vr.Target(vr.load_model("eight_schools"))
    path = find("models")["eight_schools"].with_name("reference.json")
    answers = vr.load_reference(path, target)
    methods = [vr.Laplace(), vr.MeanField(), vr.NestedQuadrature()]
    comparison = vr.compare(target, methods, reference=answers, assessed=False)
    found = content["panel"]("eight_schools", comparison)
    assert list(found.rows.index) == ["meanfield", "nested"]  # Laplace has no result
    fit, scale = comparison["nested"], answers.flat(answers.sd())
    off = np.abs(fit.flat(fit.mean()) - answers.flat(answers.mean())) / scale
    assert found.rows.loc["nested", "mean_error"] == pytest.approx(off.max())
    ratio = fit.flat(fit.sd()) / scale
    worst = np.maximum(ratio, 1 / ratio).max() - 1
    assert found.rows.loc["nested", "sd_error"] == pytest.approx(worst)
    assert found.rows.loc["nested", "mean_error"] < 0.05
    assert found.rows.loc["meanfield", "mean_error"] > 0.5
    assert found.known == pytest.approx(np.max(answers.flat(answers.mcse()) / scale))
    text = content["caption"]([found])
    assert "eight_schools: nested quadrature takes" in text
    assert "Of the others meanfield is nearest" in text
    with style():
        assert isinstance(content["picture"]([found]), Figure)
    rows = content["table"]([found])
    assert list(rows["method"]) == ["meanfield", "nested"]
    assert list(rows["verdict"]) == ["not to be trusted", "trustworthy"]


@pytest.mark.slow
def test_criteo_is_known_as_its_stored_chains_know_it(study: vr.Study) -> None:
    target = vr.Target(vr.load_model("criteo"))
    fit = vr.NestedQuadrature().fit(target, key=0)
    assert fit.status is vr.Status.OK
    assert isinstance(study.reference, Path)
    answers = vr.load_reference(study.reference, target)
    sites = ["beta", "mu", "tau", "u"]
    sd = answers.flat(answers.sd(), sites)
    off = (fit.flat(fit.mean(), sites) - answers.flat(answers.mean(), sites)) / sd
    apart = fit.flat(fit.sd(), sites) / sd - 1
    assert off.size == 5_007
    assert np.abs(off).max() < 0.05
    assert np.abs(apart[:7]).max() < 0.03
    # the chains know the sd of an effect to 1.2 % or so, and there are 5,000
    noise = answers.flat(answers.mcse_sd(), sites)[7:] / sd[7:]
    assert np.abs(apart[7:] / np.hypot(0.005, noise)).max() < 5
    assert apart[7:].std() == pytest.approx(np.sqrt(np.square(noise).mean()), rel=0.25)
    assert abs(apart[7:].mean()) < 0.003
