"""SVI's stopping rule against series whose R-hat and error are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import optax
import pytest
from numpyro.infer.svi import SVIState

from vi_recipes.methods.svi.chunks import Chunk, Run
from vi_recipes.methods.svi.running import Runner, last_step_size
from vi_recipes.methods.svi.stopping import (
    Stationarity,
    average_error,
    judge_series,
    split_r_hat,
)


def chunks(series: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    rows = series.reshape(-1, size)
    return rows.mean(1)[:, None], rows.var(1)[:, None]


def ar1(n: int, rho: float) -> np.ndarray:
    noise = np.random.default_rng(5).standard_normal(n)
    for i in range(1, n):
        noise[i] = rho * noise[i - 1] + np.sqrt(1 - rho**2) * noise[i]
    return noise


def test_the_error_of_an_average_of_correlated_chunks() -> None:
    """Chunks of 50 of a series with a correlation time of 199 steps are far from independent."""
    series = ar1(40_000, 0.99)
    exact = np.sqrt(199 / 40_000)
    means, _ = chunks(series, 50)
    naive = float(means.std(ddof=1) / np.sqrt(len(means)))
    assert naive < 0.6 * exact
    # the largest of several estimates, some from few batches
    assert 0.8 * exact < float(average_error(means)[0]) < 3 * exact
    assert average_error(means[:1])[0] == np.inf


def test_r_hat_of_noise_and_of_a_drift() -> None:
    noise = np.random.default_rng(6).standard_normal(8_000)
    assert float(split_r_hat(*chunks(noise, 100))[0]) < 1.01
    drift = noise + np.linspace(0, 4, noise.size)
    # four windows of variance 1 + 1 / 12 whose means are 1 apart: a variance of 5 / 3
    expected = np.sqrt(1 + (5 / 3) / (1 + 1 / 12))
    assert float(split_r_hat(*chunks(drift, 100))[0]) == pytest.approx(expected, rel=0.02)
    still = np.ones((8, 1))
    assert float(split_r_hat(still, 0 * still)[0]) == 1.0


def test_a_plateau_is_told_from_a_climb() -> None:
    noise = np.random.default_rng(7).standard_normal(4_000)
    assert judge_series(noise).flat
    assert not judge_series(noise + np.linspace(0, 3, noise.size)).flat


def test_a_smaller_step_size_is_asked_for_the_same_drift() -> None:
    """Steps of a quarter scatter by half: a drift that counted as none still does."""
    noise = np.random.default_rng(8).standard_normal(8_000)
    drift = np.repeat([-0.3, 0.3, -0.3, 0.3], 2_000)
    wide, narrow = (
        Stationarity(float(split_r_hat(*chunks(scale * noise + drift, 100))[0]), 0.01)
        for scale in (1.0, 0.5)
    )
    assert wide.r_hat < 1.1 < narrow.r_hat
    assert wide.within(0.05)
    assert not narrow.within(0.05)
    assert narrow.after(4.0).within(0.05)
    assert not narrow.after(4.0).within(0.005)


@pytest.mark.parametrize(
    ("drift", "num_steps", "falls"),
    [(0.0, 20_000, True), (8.0, 10_000, False), (4.0, 10_000, True), (4.0, 20_000, False)],
)
def test_the_step_size_falls_where_iterates_do_not_travel(
    drift: float, num_steps: int, falls: bool
) -> None:
    """Stationary at once; travelling, never; nearly stationary, after half of the steps."""
    rng = np.random.default_rng(9)
    optimizer = optax.inject_hyperparams(optax.adam)(learning_rate=0.01)
    state = SVIState((0, optimizer.init({"a": 0.0})), None, None)
    run = Run(state)
    for k in range(20):
        mean = {"a": 0.05 * rng.standard_normal(1) + drift * k / 20}
        chunk: Any = Chunk(state, rng.standard_normal(250), mean, {"a": np.ones(1)})
        run.add(chunk)

    def constrain(params: Any) -> Any:
        return params

    scales = {"a": lambda params: 1.0}
    runner = Runner(None, None, constrain, scales, num_steps, 0.1, falling=True)  # type: ignore[arg-type]
    runner.look(run)
    assert run.iterates is not None
    assert run.chunks[-1].closes == falls
    assert last_step_size(run) == pytest.approx(0.0025 if falls else 0.01)
    assert not run.stopped
    assert run.iterates.within(0.1) == (drift == 0.0)
