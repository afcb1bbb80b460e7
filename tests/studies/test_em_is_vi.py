"""EM as variational inference: paths end at one maximum, identities hold to rounding."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from studies_for_tests import made

import vi_recipes as vr


@cache
def study() -> vr.Study:
    return vr.load_study("em_is_vi")


def part(name: str) -> Any:
    """Return one of the study's files."""
    return sys.modules[f"{study().exhibits.__module__}.{name}"]  # type: ignore[union-attr]


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
    exhibits = {e.name: e for e in made(study(), study().target(), methods, {}, monkeypatch)}
    assert exhibits["two_coordinates"].png
    difference = exhibits["identity"].content["difference"]
    assert np.abs(difference.astype(float)).max() < 1e-9
    assert isinstance(exhibits["paths"].content, Figure)
    assert len(exhibits["paths"].content.axes[0].lines) == 2


def test_the_rise_of_log_p_is_taken_apart_to_rounding() -> None:
    rises, share = part("identities").rises(study().target(), 0)
    left, gain, kl, difference = rises.iloc[:, 1:].astype(float).to_numpy().T
    assert np.abs(difference).max() < 1e-10
    assert (kl > 0).all()
    assert (gain[:-1] > 0).all()  # along EM
    assert gain[-1] < 0
    assert np.abs(gain + kl - left).max() < 1e-2  # of the figures as they are printed
    # most of the information is missing: Q and KL rise nearly alike, in the ratio of EM's rate
    assert share == pytest.approx((left[-2] / left[-3]) ** (1 / 400), abs=1e-3)
