"""The study of divergences: exact optima by quadrature, and the methods in the expected order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats

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


def test_divergences_of_normals_have_their_closed_form(content: dict[str, Any]) -> None:
    Normal, Density = content["Normal"], content["Density"]
    p, q = Normal(0.3, 0.9), Normal(-0.2, 0.8)
    density = Density(p.log_density(content["GRID"]))

    def closed(a: float) -> float:
        """Return log(integral q^a p^(1 - a)) / (a (a - 1)) of two normals."""
        mixed = a * p.sd**2 + (1 - a) * q.sd**2
        apart = a * (a - 1) * (p.mean - q.mean) ** 2 / (2 * mixed)
        log = (1 - a) * np.log(q.sd) + a * np.log(p.sd) - 0.5 * np.log(mixed)
        return float((apart + log) / (a * (a - 1)))

    for order in (2.0, 0.5, -1.0):
        assert density.divergence(q, order) == pytest.approx(closed(order), rel=1e-9)
    for limit in (1.0, 0.0):
        assert density.divergence(q, limit) == pytest.approx(closed(limit + 1e-6), rel=1e-4)
    for order in (2.0, 1.0, 0.5, 0.0, -1.0):
        best = density.best(order)
        np.testing.assert_allclose((best.mean, best.sd), (0.3, 0.9), atol=1e-5)


def test_the_best_normal_goes_from_mode_seeking_to_mass_covering(
    study: vr.Study, content: dict[str, Any]
) -> None:
    orders = (2.0, 1.0, 0.5, 0.0, -1.0)
    for density in content["densities"](study.target()).values():
        best = [density.best(order) for order in orders]
        assert (np.diff([q.sd for q in best]) > 0).all()
        assert (np.diff([density.covered(q) for q in best]) > 0).all()
        own = density.moments()
        np.testing.assert_allclose((best[3].mean, best[3].sd), (own.mean, own.sd), atol=1e-5)
    # the last density is the bimodal one: one mode from above, both from below
    assert best[1].sd < 0.75 < 1.9 < best[2].sd


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
            assert (np.diff([density.covered(q) for q in named]) > 0).all()
        else:
            assert max(q.sd for q in named[:2]) < 0.8 < 1.9 < named[2].sd
            assert max(density.covered(q) for q in named[:2]) < 0.65
            assert density.covered(named[2]) > 0.98
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
        shapes, optima = study.exhibits(comparison, study.target(), 0, silent)
    assert isinstance(shapes.content, Figure)
    assert len(shapes.content.axes) == 6
    assert shapes.png
    rows = optima.content
    assert len(rows) == 2 * (1 + len(content["ORDERS"]) + len(comparison))  # type: ignore[arg-type]
    assert study.methods is not None
    assert set(content["ORDER_OF"]) < set(study.methods)
    assert all(method.applies(study.target()) is None for method in study.methods.values())
