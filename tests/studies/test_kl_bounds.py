"""The study of what bounds what: closed forms of normals, and infinite chi2."""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy import stats
from studies_for_tests import made

import vi_recipes as vr


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    return vr.load_study("kl_bounds").exhibits.__globals__  # type: ignore[union-attr]


def closed_chi2(a: Any, b: Any) -> float:
    """Return the integral of a^2 / b, less 1, of two normals."""
    A, B = np.linalg.inv(a.covariance), np.linalg.inv(b.covariance)
    C = 2 * A - B
    if np.linalg.eigvalsh(C).min() <= 0:
        return np.inf
    h = 2 * A @ a.mean - B @ b.mean
    square = h @ np.linalg.solve(C, h) - 2 * a.mean @ A @ a.mean + b.mean @ B @ b.mean
    return float(
        np.linalg.det(A) / np.sqrt(np.linalg.det(B) * np.linalg.det(C)) * np.exp(square / 2) - 1
    )


def test_measures_are_the_closed_forms_of_normals(content: dict[str, Any]) -> None:
    pairs = content["Pairs"](vr.load_study("kl_bounds").target())
    p, Normal = pairs.p, content["Normal"]
    moved = Normal(p.mean + np.array([0.5, -0.2]), p.covariance)
    turned = Normal(p.mean + np.array([0.1, 0.3]), np.array([[0.9, 0.1], [0.1, 0.3]]))
    for q in (moved, turned):
        m = pairs.measure(q)
        away, middle = q.mean - p.mean, (q.covariance + p.covariance) / 2
        affinity = (np.linalg.det(q.covariance) * np.linalg.det(p.covariance)) ** 0.25
        affinity *= np.exp(-away @ np.linalg.solve(middle, away) / 8) / np.linalg.det(middle) ** 0.5
        assert m.hellinger == pytest.approx(np.sqrt(2 - 2 * affinity), rel=1e-8)
        assert m.chi2_qp == pytest.approx(closed_chi2(q, p), rel=1e-6)
        assert m.chi2_pq == pytest.approx(closed_chi2(p, q), rel=1e-6)
    distance = np.sqrt((moved.mean - p.mean) @ np.linalg.solve(p.covariance, moved.mean - p.mean))
    exact = 2 * stats.norm.cdf(distance / 2) - 1
    assert pairs.measure(moved).tv == pytest.approx(exact, abs=1e-4)
    none = astuple(pairs.measure(p))
    np.testing.assert_allclose(none, 0, atol=1e-8)
    assert closed_chi2(turned, p) == np.inf  # so that a case without an integral is among them
    with pytest.raises(ValueError, match="too narrow or far"):
        pairs.measure(Normal(p.mean, 1e-4 * np.eye(2)))


@pytest.mark.slow
def test_its_exhibits(monkeypatch: pytest.MonkeyPatch) -> None:
    study = vr.load_study("kl_bounds")
    methods = {"meanfield": vr.MeanField()}
    kl, measures, bounds = made(study, study.target(), methods, {"NUM_RANDOM": 20}, monkeypatch)
    assert isinstance(kl.content, Figure)
    assert "below hold." in kl.caption
    rows = measures.content.set_index("q")
    r = study.target().data["correlation"]
    loss = -0.5 * np.log(1 - r**2)
    assert rows.loc["meanfield", "KL(q || p)"] == pytest.approx(loss, abs=1e-6)
    # of either independent q, the other divergence is r^2 / (1 - r^2) - loss
    assert rows.loc["meanfield", "KL(p || q)"] == pytest.approx(r**2 / (1 - r**2) - loss, abs=1e-5)
    assert rows.loc["meanfield", "chi2(p || q)"] == np.inf
    assert rows.loc["independent, least KL(p || q)", "chi2(q || p)"] == np.inf
    ratios = bounds.content.drop(columns="bound").to_numpy(float)
    assert ratios.min() >= 0
    assert ratios.max() <= 1
