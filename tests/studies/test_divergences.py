"""The study of divergences: exact optima by quadrature, and the methods in the expected order."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats
from scipy.integrate import quad
from scipy.optimize import minimize_scalar

import vi_recipes as vr
from vi_recipes.core.progress import silent
from vi_recipes.report.style import style


@pytest.fixture(scope="module")
def study() -> vr.Study:
    return vr.load_study("divergences")


@pytest.fixture(scope="module")
def content(study: vr.Study) -> dict[str, Any]:
    return study.exhibits.__globals__  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def comparison(study: vr.Study) -> vr.Comparison:
    short = {"num_steps": 1_500, "tolerance": None}
    methods = {
        "renyi_2": vr.SVI(objective="renyi", alpha=2.0, **short),
        "svi": vr.SVI(num_particles=10, **short),
        "forward_kl": vr.ForwardKL(),
        "svgd": vr.SVGD(num_particles=20, num_steps=100),
    }
    return vr.compare(study.target(), methods, key=0)


def test_the_reference_is_the_closed_forms(study: vr.Study, content: dict[str, Any]) -> None:
    assert isinstance(study.reference, Path)
    given = json.loads(study.reference.read_text())["parameters"]
    weights, modes = np.array([0.65, 0.35]), np.array([-2.0, 2.0])
    mean = weights @ modes
    exact = {
        "skewed": (stats.skewnorm.mean(5), stats.skewnorm.std(5)),
        "bimodal": (mean, np.sqrt(0.49 + weights @ modes**2 - mean**2)),
    }
    densities = content["densities"](study.target())
    for site, values in exact.items():
        np.testing.assert_allclose((given[site]["mean"], given[site]["sd"]), values, rtol=1e-8)
        own = densities[site].moments()
        np.testing.assert_allclose((own.mean, own.sd), values, rtol=1e-8)


def test_the_best_normal_goes_from_mode_seeking_to_mass_covering(
    study: vr.Study, content: dict[str, Any]
) -> None:
    orders = (2.0, 1.0, 0.5, 0.0, -1.0)
    for density in content["densities"](study.target()).values():
        best = [density.best(order) for order in orders]
        assert (np.diff([q.sd for q in best]) > 0).all()
        assert (np.diff([density.covered(q, 2) for q in best]) > 0).all()
        assert max(density.error(q, a) for q, a in zip(best, orders, strict=True)) < 1e-10
        own = density.moments()
        np.testing.assert_allclose((best[3].mean, best[3].sd), (own.mean, own.sd), atol=1e-5)
    # the last density is the bimodal one: one mode from above, both from below
    assert best[1].sd < 0.75 < 1.9 < best[2].sd


def test_the_nearest_normals_are_those_of_the_quantile_functions(
    study: vr.Study, content: dict[str, Any]
) -> None:
    """By SciPy's quantiles of the skew-normal, and the mixture's by inverting its own law."""
    u = (np.arange(200_000) + 0.5) / 200_000
    x = np.linspace(-8, 8, 400_001)
    mixture = 0.65 * stats.norm.cdf(x, -2, 0.7) + 0.35 * stats.norm.cdf(x, 2, 0.7)
    quantiles = {"skewed": stats.skewnorm.ppf(u, 5), "bimodal": np.interp(u, mixture, x)}
    for site, density in content["densities"](study.target()).items():
        nearest = density.nearest()
        assert nearest.mean == pytest.approx(quantiles[site].mean(), abs=1e-4)
        assert nearest.sd == pytest.approx(np.mean(quantiles[site] * stats.norm.ppf(u)), abs=2e-4)


def test_best_normals_stand_at_the_limits_that_the_tails_of_the_skew_normal_set(
    study: vr.Study, content: dict[str, Any]
) -> None:
    """Phi(5 x) makes the precision of the left tail 26; that of the right one is 1."""
    skewed = content["densities"](study.target())["skewed"]
    for order, precision in ((3.0, 26), (2.0, 26), (-1.0, 1)):
        limit = np.sqrt(order / (precision * (order - 1)))
        best = skewed.best(order)
        assert best.sd == pytest.approx(limit, rel=1e-9)
        assert skewed.at_limit(best, order)

        def divergence(mean: float, sd: float = limit, order: float = order) -> float:
            def power(x: float) -> float:
                log_p = stats.norm.logpdf(x) + stats.norm.logcdf(5 * x) + np.log(2)
                return float(np.exp(order * stats.norm.logpdf(x, mean, sd) + (1 - order) * log_p))

            value = quad(power, -40, 40, points=[-1, 0, 1], epsabs=1e-13, limit=400)[0]
            return float(np.log(value) / (order * (order - 1)))

        found = minimize_scalar(divergence, bounds=(0.3, 0.9), options={"xatol": 1e-6})
        assert best.mean == pytest.approx(found.x, abs=1e-4)
        assert skewed.divergence(best, order) == pytest.approx(found.fun, abs=1e-9)
        # inside the limit it is larger, and beyond there is none
        inside, beyond = (0.98, 1.02) if order > 1 else (1.02, 0.98)
        assert divergence(found.x, inside * limit) > found.fun
        assert skewed.divergence(replace(best, sd=beyond * limit), order) == np.inf
        assert skewed.divergence(replace(best, mean=-0.1), order) == np.inf


@pytest.mark.slow
def test_the_methods_are_in_that_order(
    study: vr.Study, comparison: vr.Comparison, content: dict[str, Any]
) -> None:
    densities = content["densities"](study.target())
    for site, density in densities.items():
        answers = content["answers"](comparison, site)
        named = [answers[name] for name in ("renyi_2", "svi", "forward_kl")]
        if site == "skewed":
            assert (np.diff([q.sd for q in named]) > 0.03).all()
            assert (np.diff([density.covered(q, 2) for q in named]) > 0).all()
        else:
            assert max(q.sd for q in named[:2]) < 0.8 < 1.9 < named[2].sd
            assert max(density.covered(q, 2) for q in named[:2]) < 0.65
            assert density.covered(named[2], 2) > 0.98
        exact = {name: density.best(content["ORDER_OF"][name]) for name in ("svi", "forward_kl")}
        for name, q in exact.items():
            assert answers[name].sd == pytest.approx(q.sd, rel=0.06)


@pytest.mark.slow
def test_its_exhibits(
    study: vr.Study,
    comparison: vr.Comparison,
    content: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(content, "CURVE", (1.0, 0.0))
    assert study.exhibits is not None
    with style():
        shapes, existence, optima = study.exhibits(comparison, study.target(), 0, silent)
    assert isinstance(shapes.content, Figure)
    assert len(shapes.content.axes) == 6
    assert shapes.png
    assert existence.png
    assert "0.2402 (3), 0.2774 (2) and 0.7071 (-1)" in existence.caption
    rows = optima.content
    assert len(rows) == 2 * (2 + len(content["ORDERS"]) + len(comparison))  # type: ignore[arg-type]
    assert study.methods is not None
    assert set(content["ORDER_OF"]) < set(study.methods)
    assert all(method.applies(study.target()) is None for method in study.methods.values())
