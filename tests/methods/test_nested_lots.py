"""Points with noise in lots, on a density whose answers are known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from vi_recipes.methods.nested import lots
from vi_recipes.methods.nested.lots import integrate_in_lots
from vi_recipes.methods.nested.mode import ThetaMode
from vi_recipes.methods.nested.records import Noise, ThetaRows
from vi_recipes.methods.nested.rounds import Integral
from vi_recipes.methods.nested.wide_density import WideDensity

COV = np.array([[0.3, 0.1], [0.1, 0.2]])
MEAN = np.array([0.4, -0.2])


class Known:
    """A normal of two coordinates, and a scalar with this mean and sd given theta, with noise.

    Lots differ by a constant in log p(y, theta) and by another in the scalar's mean, both smaller
    where there are more pairs.
    """

    dim, bounded = 2, np.zeros(2, bool)

    def __init__(self, noise: float, dear: float = 1e3) -> None:
        self.noise, self.dear, self.pairs, self.rounds = noise, dear, 16, [16]
        self.nodes: Any = self
        self.owner = np.array([-1, -1, 0])
        self.rng = np.random.default_rng(1)

    @property
    def count(self) -> int:
        return self.pairs

    @property
    def work(self) -> float:
        return self.work_of(self.pairs)

    def work_of(self, pairs: int) -> float:
        return self.dear * pairs

    def take_pairs(self, pairs: int) -> None:
        self.pairs = pairs

    def given(self, rows: np.ndarray, *, gradient: bool = False) -> tuple[np.ndarray, Any]:
        slopes = (MEAN - rows) @ np.linalg.inv(COV) * gradient
        log_p = np.atleast_1d(stats.multivariate_normal(MEAN, COV).logpdf(rows))
        return log_p, SimpleNamespace(gradient=slopes)

    def sweep_in_lots(self, rows: np.ndarray, seeds: list[int]) -> ThetaRows:
        self.rounds.append(self.pairs)
        size = len(rows) // len(seeds)
        sd = self.noise * np.sqrt(16 / self.pairs)
        shift, off = sd * self.rng.standard_normal((2, len(seeds)))
        smooth = stats.multivariate_normal(MEAN, COV).logpdf(rows)
        log_p = smooth + np.repeat(shift - sd**2 / 2, size)
        mean = np.column_stack([rows, rows[:, 0] + np.repeat(off, size)])
        variance = np.tile([0.0, 0.0, 0.5], (len(rows), 1))
        return ThetaRows(log_p, mean, variance, smooth)


def integral(density: Known, monkeypatch: pytest.MonkeyPatch, tolerance: float = 0.01) -> Integral:
    monkeypatch.setattr(lots, "as_noisy", lambda d: d)
    return integrate_in_lots(
        density,  # type: ignore[arg-type]
        ThetaMode(MEAN + 0.05, 1.2 * COV, 0.0),
        tolerance=tolerance,
        max_points=65_536,
        seed=3,
        known=np.ones(3, bool),
        progress=lambda *_: None,
    )


def is_right(found: Integral, within: float) -> bool:
    sd = np.sqrt([COV[0, 0], COV[1, 1], COV[0, 0] + 0.5])
    off = np.abs(found.mean - [*MEAN, MEAN[0]]) / sd
    return bool(off.max() < within and np.abs(found.sd / sd - 1).max() < within)


def test_little_noise_takes_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    density = Known(0.005)
    found = integral(density, monkeypatch)
    assert density.rounds[1:] == [16]
    assert found.residual is not None
    assert found.worst_error(np.ones(3, bool)) <= 0.01
    assert is_right(found, 0.01)
    assert found.log_evidence == pytest.approx(0.0, abs=0.01)


def test_more_noise_takes_rounds_and_then_more_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    some = Known(0.06)
    found = integral(some, monkeypatch)
    assert set(some.rounds) == {16}
    assert 2 < len(some.rounds) - 1 <= 4
    assert is_right(found, 0.02)
    much = Known(0.25)
    found = integral(much, monkeypatch)
    assert much.pairs > 16
    assert much.rounds[1] == 16
    assert much.rounds[2:] == [much.pairs] * len(much.rounds[2:])
    assert len(much.rounds[2:]) <= 4
    assert found.worst_error(np.ones(3, bool)) < 0.02
    assert is_right(found, 0.03)


def test_what_is_too_dear_keeps_its_error(monkeypatch: pytest.MonkeyPatch) -> None:
    density = Known(0.25, dear=4e5)
    found = integral(density, monkeypatch)
    assert set(density.rounds) == {16}
    assert len(found.theta) == 4 * 128
    error = found.mean_error / found.sd
    # the error is that of 32 lots' means
    want = 0.25 / np.sqrt(32) / found.sd[2]
    assert 0.4 * want < error[2] < 1.8 * want
    assert found.worst_error(np.ones(3, bool)) > 0.01


def test_noise_is_that_of_points_which_both_lattices_find() -> None:
    first = np.array([0.0, 1.0, -np.inf, 3.0])
    smooth = np.array([-1.0, 0.5, 0.0, 1.0])

    class Again:
        nodes: Any = SimpleNamespace(count=16)

        def __init__(self, other: list[float]) -> None:
            self.other = np.array(other)

        def _pairs(self, count: int, seed: int) -> tuple[int, int]:
            return count, seed

        def sweep(self, rows: np.ndarray, nodes: tuple[int, int]) -> ThetaRows:
            assert nodes == (16, 1)
            return ThetaRows(self.other, rows, rows, smooth)

    def noise(*other: float) -> Noise:
        scalar = np.zeros((4, 1))
        swept = ThetaRows(first, scalar, scalar, smooth)
        density: Any = Again(list(other))
        return WideDensity.noise_at(density, scalar, swept)

    found = noise(0.4, -np.inf, 2.0, 2.8)
    assert found.sd == pytest.approx(np.sqrt((0.4**2 + 0.2**2) / 4))
    assert found.shift == pytest.approx((1.2 + 1.9) / 2)
    assert found.tilt == pytest.approx(np.sqrt(0.35**2 - found.sd**2 / 2))
    assert noise(0.4, 1.0, 0.0, np.nan) == noise(0.4, 1.0, -np.inf, -np.inf)
    assert noise(-np.inf, np.nan, 0.0, -np.inf).sd == np.inf


def test_what_a_polynomial_covers_and_was_not_found_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Partly(Known):
        def sweep_in_lots(self, rows: np.ndarray, seeds: list[int]) -> ThetaRows:
            swept = super().sweep_in_lots(rows, seeds)
            failed = rows[:, 0] > MEAN[0] + 2 * np.sqrt(COV[0, 0])
            log_p = np.where(failed, -np.inf, swept.log_p)
            return swept._replace(log_p=log_p, smooth=np.where(failed, 1e3, swept.smooth))

    found = integral(Partly(0.005), monkeypatch)
    assert found.residual is not None
    assert stats.norm.sf(2.0) < found.lost < 0.2  # all weigh as those at the edge
    assert integral(Known(0.005), monkeypatch).lost == 0.0
