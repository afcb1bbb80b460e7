"""The study of gradients: closed-form variances, no bias, and who grows how with the dimension."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import cycle
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
    where = study.exhibits.__module__  # type: ignore[union-attr]
    parts = [vars(m) for name, m in sys.modules.items() if name.startswith(where)]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            for part in parts:
                if name in part:
                    patch.setitem(part, name, value)
        yield {name: value for part in parts for name, value in part.items()}


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
        slope = jax.jit(jax.grad(conjugate.gap))(start)
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
    assert content["num_scores"]() == 2 * 2 * (1 + 3)
    rng = np.random.default_rng(0)
    largest = np.abs(rng.standard_normal((40_000, 16))).max(axis=1)
    # of 400 draws beyond it, 5 sds
    assert (largest > content["by_chance"](0.01)).mean() == pytest.approx(0.01, abs=0.0025)
    assert table["by chance, 1 in 100"].iloc[0] == content["by_chance"](0.01)
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
    labels = [text.get_text() for text in tables["climb"].content.legends[0].get_texts()]
    assert f"{content['ESTIMATORS']['sticking']}; steps of 0.03" in labels
    climb = content["Climb"](0.1, np.array([3.0, 0.05, 0.2, 0.05, 0.01]), int)
    assert climb.steps == 4 * content["WINDOW"]  # it was within reach before, and left again


def test_two_estimators_are_one_at_the_prior(content: dict[str, Any]) -> None:
    conjugate = content["Conjugate"](content["simulate"](3))
    with jax.enable_x64(True):
        made = {n: [conjugate.measure(n, 2)] for n in ("sticking", "pathwise_kl", "pathwise")}
    assert content["coincidence"](made) < 1e-10
    apart = content["coincidence"](made | {"pathwise_kl": made["pathwise"]})
    assert apart > 0.1


def timed(content: dict[str, Any], times: dict[str, list[float]], factor: float = 1.0) -> Any:
    """Measure programs that take given seconds, over and over."""
    now = [0.0]

    def program(seconds: Iterator[float]) -> Any:
        def run() -> None:
            now[0] += next(seconds)

        return run

    programs = {name: program(cycle(seconds)) for name, seconds in times.items()}
    return content["clocked"](programs, dict.fromkeys(times, factor), lambda: now[0])


def test_seconds_are_shown_when_noise_is_below_their_differences(content: dict[str, Any]) -> None:
    quick = [1.0, 1.1, 0.9, 1.05, 0.95]
    apart = timed(content, {"a": quick, "b": [2 * t for t in quick]}, 0.5)
    assert apart.settled
    assert apart.rounds == 5
    assert apart.seconds["a"].median == pytest.approx(0.5)
    assert apart.not_told_from("a") == []
    # two that take as long are known to 1 % before they are shown
    same = timed(content, {"a": [1.0, 1.01, 0.99], "b": [1.0, 0.99, 1.01]})
    assert same.settled
    assert same.not_told_from("a") == ["b"]
    assert 0 < same.noise < 0.01
    # and on a busy machine they are not
    noisy = [1.0, 3.0, 0.3, 1.7, 0.6]
    busy = timed(content, {"a": noisy, "b": [1.2 * t for t in noisy]})
    assert not busy.settled
    assert busy.rounds == content["MOST"]
    steps = content["Climb"](0.03, np.array([0.01]), int)
    climbs = {"sticking": steps, "pathwise": steps}
    busy = timed(content, {"sticking": noisy, "pathwise": noisy})
    assert "seconds" not in content["climb_table"](climbs, busy)
    assert len(content["climb_picture"](climbs, busy).axes) == 1
    assert "are not shown" in content["said"](busy)


def test_the_error_of_a_median_is_that_of_repeated_samples(content: dict[str, Any]) -> None:
    rng = np.random.default_rng(1)
    samples = rng.normal(10, 1, (2_000, 200))
    found = [content["Seconds"].of(list(row)) for row in samples]
    spread = np.std([s.median for s in found])
    assert np.mean([s.error for s in found]) == pytest.approx(spread, rel=0.1)


@pytest.mark.slow
def test_its_pictures(tables: dict[str, Any], study: vr.Study) -> None:
    assert list(tables) == ["variance", "variances", "climb", "arrival"]
    for name in ("variance", "climb"):
        assert isinstance(tables[name].content, Figure)
        assert tables[name].png
    assert study.methods is not None
    assert study.reference in study.methods
    assert all(method.applies(study.target()) is None for method in study.methods.values())
