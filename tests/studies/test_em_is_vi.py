"""EM as variational inference: paths end at one maximum, identities hold to rounding."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.integrate import quad
from scipy.stats import loggamma, norm
from studies_for_tests import made

import vi_recipes as vr


@cache
def study() -> vr.Study:
    return vr.load_study("em_is_vi")


def part(name: str) -> Any:
    """Return one of the study's files."""
    return sys.modules[f"{study().exhibits.__module__}.{name}"]  # type: ignore[union-attr]


@cache
def this() -> vr.Target:
    return study().target()


@pytest.fixture(scope="module", autouse=True)
def made_once() -> Iterator[None]:
    """Make once what the exhibits and the other tests have in common."""
    assert study().exhibits is not None
    shown = study().exhibits.__globals__  # type: ignore[union-attr]
    with pytest.MonkeyPatch.context() as patch:
        for file, name in (("passes", "targets"), ("passes", "climb"),
                           ("linkage", "Linkage"), ("identities", "rises")):  # fmt: skip
            kept = cache(getattr(part(file), name))
            patch.setattr(part(file), name, kept)
            if name in shown:
                patch.setitem(shown, name, kept)
        yield


@pytest.mark.slow
def test_it_ends_at_the_maximum_by_every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    linkage = part("linkage").Linkage()
    stairs, together = linkage.stairs(12), linkage.together()
    # Dempster, Laird and Rubin's own answer, to the digits they print
    assert stairs[-1, 1] == pytest.approx(0.626821498, abs=1e-8)
    np.testing.assert_allclose(together[-1], stairs[-1], atol=1e-5)
    heights = [linkage.free_energy(*point) for point in stairs]
    assert (np.diff(heights) >= -1e-10).all()
    methods = {"marginal_mle": vr.MarginalMLE(), "joint": vr.MarginalMLE(ascent="joint")}
    monkeypatch.setattr(part("linkage"), "SHARES", np.array([0.1, 0.3]))
    monkeypatch.setattr(part("linkage"), "THETAS", np.array([0.3, 0.8]))
    exhibits = {e.name: e for e in made(study(), this(), methods, {}, monkeypatch)}
    assert exhibits["two_coordinates"].png
    difference = exhibits["identity"].content["difference"]
    assert np.abs(difference.astype(float)).max() < 1e-9
    assert isinstance(exhibits["paths"].content, Figure)
    assert len(exhibits["paths"].content.axes[0].lines) == 2


@pytest.mark.slow
def test_the_rise_of_log_p_is_taken_apart_to_rounding() -> None:
    rises, share = part("identities").rises(this(), 0)
    left, gain, kl, difference = rises.iloc[:, 1:].astype(float).to_numpy().T
    assert np.abs(difference).max() < 1e-10
    assert (kl > 0).all()
    assert (gain[:-1] > 0).all()  # along EM
    assert gain[-1] < 0
    assert np.abs(gain + kl - left).max() < 1e-2  # of the figures as they are printed
    # most of the information is missing: Q and KL rise nearly alike, in the ratio of EM's rate
    assert share == pytest.approx((left[-2] / left[-3]) ** (1 / 400), abs=1e-3)


def test_families_leave_the_kl_that_quadrature_says() -> None:
    e_steps = part("e_steps")
    for shape, rate in ((0.5, 3.0), (4.0, 2.0)):
        gap = e_steps.log_normal_gap(shape, rate)
        s2 = 1 / shape
        q = norm(np.log(shape / rate) - s2 / 2, np.sqrt(s2))
        p = loggamma(shape, loc=-np.log(rate))
        right = quad(
            lambda x, p=p, q=q: q.pdf(x) * (q.logpdf(x) - p.logpdf(x)), *q.interval(1 - 1e-14)
        )
        assert gap == pytest.approx(right[0], abs=1e-8)
        for m, s in ((0.05, 1.0), (0.0, 1.05), (-0.05, 0.95)):  # and no other normal leaves less
            other = norm(q.mean() + m, s * q.std())
            kl = quad(
                lambda x, p=p, o=other: o.pdf(x) * (o.logpdf(x) - p.logpdf(x)),
                *other.interval(1 - 1e-14),
            )[0]
            assert kl > gap + 1e-5
    table = e_steps.families()
    assert table["KL, q gamma"].astype(float).max() < 1e-9
    assert table["KL, q log-normal"].astype(float).min() > 0.01


def test_the_likelihood_is_given_away_by_the_e_step() -> None:
    table = part("e_steps").given_away()
    assert len(table) == 10
    for column in ("spread over z", "largest difference"):
        assert table[column].astype(float).max() < 1e-9


@pytest.mark.slow
def test_partial_e_steps_rise_to_one_maximum() -> None:
    passes = part("passes")
    target = passes.targets(0)["linkage, 5 cells"]
    paths = passes.climb(target)
    for path in paths.values():
        assert np.diff(path.gap).max() < 1e-10
        assert path.gap[-1] < 1e-8
        assert path.passes[0] >= 1
    assert paths["sparse"].near < paths["full"].near
    assert "2.51 sparse" in passes.told({"linkage": paths})


def test_the_table_of_em_and_vi_is_that_of_the_page() -> None:
    table = part("em_and_vi").table(vr.Comparison({}), 0.5)
    page = (Path(__file__).parents[2] / "docs" / "em_and_vi.md").read_text(encoding="utf-8")
    lines = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")][1:]
    assert [line[0].removeprefix("| ") for line in lines] == list(table.iloc[:, 0])
    for line, (_, row) in zip(lines, table.iterrows(), strict=True):
        assert [cell.replace("\\|", "|") for cell in line[1:3]] == list(row.iloc[1:3])
    assert table["shown by"].str.contains("not run").sum() == 6
