"""The study of gradients: closed-form variances, no bias, and who grows how with the dimension."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import vi_recipes as vr
from vi_recipes.core.progress import silent
from vi_recipes.report.style import style

SMALL = {
    "DIMS": (1, 3),
    "DIM": 3,
    "NUM_ESTIMATES": 1_000,
    "NUM_STEPS": 600,
    "STEP_SIZES": (0.03, 1e-6),
}


@pytest.fixture(scope="module")
def study() -> vr.Study:
    return vr.load_study("gradient_variance")


@pytest.fixture(scope="module")
def content(study: vr.Study) -> Iterator[dict[str, Any]]:
    found = study.exhibits.__globals__  # type: ignore[union-attr]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setitem(found, name, value)
        yield found


@pytest.fixture(scope="module")
def tables(study: vr.Study, content: dict[str, Any]) -> dict[str, Any]:
    this = vr.Target(study.target().model, **content["simulate"](3))
    assert study.exhibits is not None
    with style():
        made = study.exhibits(vr.Comparison({}), this, 0, silent)
        return {exhibit.name: exhibit for exhibit in made}


def by_estimator(exhibit: vr.Exhibit, content: dict[str, Any]) -> pd.DataFrame:
    assert isinstance(exhibit.content, pd.DataFrame)
    names = {text: name for name, text in content["ESTIMATORS"].items()}
    return exhibit.content.set_index(exhibit.content["estimator"].map(names))


def test_the_elbo_is_the_models_in_closed_form(study: vr.Study, content: dict[str, Any]) -> None:
    conjugate = content["Conjugate"](content["simulate"](3))
    this = vr.Target(study.target().model, **conjugate.data)
    z = np.array([[0.3, -1.0, 0.5], [1.0, 0.2, 0.0]])
    laplace = vr.Laplace().fit(this, throw=True)
    np.testing.assert_allclose(laplace.mean()["beta"], conjugate.mode, atol=1e-8)
    np.testing.assert_allclose(laplace.cov(["beta"]), np.linalg.inv(conjugate.precision), atol=1e-8)
    field = vr.MeanField().fit(this, throw=True)
    with jax.enable_x64(True):
        np.testing.assert_allclose(conjugate.log_p(z), [this.log_density(row) for row in z])
        best, start = conjugate.optimum(), conjugate.start()
        assert conjugate.gap(best) == pytest.approx(0, abs=1e-12)
        np.testing.assert_allclose(np.exp(best["log_sd"]), field.sd()["beta"], rtol=1e-4)
        slope = jax.grad(conjugate.gap)(start)
        exact = conjugate.gradient(start)
    np.testing.assert_allclose(np.stack([slope["mean"], slope["log_sd"]]), -exact, rtol=1e-9)


def test_variances_where_q_is_exact_are_the_closed_forms(
    study: vr.Study, content: dict[str, Any]
) -> None:
    """With one coefficient the best q is the posterior, and log p - log q the log evidence."""
    conjugate = content["Conjugate"](content["simulate"](1))
    this = vr.Target(study.target().model, **conjugate.data)
    evidence = vr.Laplace().fit(this, throw=True).log_evidence
    assert evidence is not None
    # of x / s and x^2 - 1 over s^2 = 1 / precision, ten draws each
    plain = np.array([conjugate.precision[0, 0], 2.0]) / content["NUM_DRAWS"]
    with jax.enable_x64(True):
        found = {name: conjugate.measure(name, 1)[1].variance for name in content["ESTIMATORS"]}
    # a variance of 1,000 estimates is known to some 5 %, and those of squares to 10 %
    np.testing.assert_allclose(found["pathwise"], plain, rtol=0.3)
    np.testing.assert_allclose(found["score"], evidence.value**2 * plain, rtol=0.3)
    for name in ("score_baseline", "score_control", "sticking"):
        assert (found[name] < 1e-12).all(), name


@pytest.mark.slow
def test_every_estimator_is_unbiased_and_controls_help(
    tables: dict[str, Any], content: dict[str, Any]
) -> None:
    table = by_estimator(tables["variances"], content)
    # the largest of 16 standard scores of an estimator
    assert (table["bias"] < 4.5).all()
    for what in ("means, prior", "log sds, prior"):
        variance = table[what]
        assert variance["score"] > 3 * variance["score_baseline"]
        assert variance["score_baseline"] > 3 * variance["pathwise"]
        assert variance["pathwise"] > variance["pathwise_kl"]
    for what in ("means, best", "log sds, best"):
        assert table[what]["sticking"] < 0.3 * table[what]["pathwise"]


@pytest.mark.slow
def test_who_has_less_variance_arrives_sooner(
    tables: dict[str, Any], content: dict[str, Any]
) -> None:
    table = by_estimator(tables["arrival"], content)
    assert table["steps"]["score"] == "not in time"
    steps = table["steps"].drop("score").astype(int)
    assert steps["sticking"] <= steps["pathwise"] <= steps["score_baseline"]
    # the smaller step size does not get anywhere, so it is not chosen
    assert (table["step size"].drop("score") == "0.03").all()
    assert (table["microseconds a step"] > 0).all()
    climb = content["Climb"](0.1, 1.0, np.array([3.0, 0.05, 0.2, 0.05, 0.01]))
    assert climb.steps == 4 * content["WINDOW"]  # it was within reach before, and left again


def test_its_pictures(tables: dict[str, Any], study: vr.Study) -> None:
    assert list(tables) == ["variance", "variances", "climb", "arrival"]
    for name in ("variance", "climb"):
        assert isinstance(tables[name].content, Figure)
        assert tables[name].png
    assert study.methods is not None
    assert study.reference in study.methods
    assert all(method.applies(study.target()) is None for method in study.methods.values())
