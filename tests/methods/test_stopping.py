"""SVI's stopping rule against series whose R-hat and error are known."""

from __future__ import annotations

import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from numpyro.infer.svi import SVIState

import vi_recipes as vr
from vi_recipes.methods.minibatch.feed import Feed
from vi_recipes.methods.svi.chunks import Chunk, Run
from vi_recipes.methods.svi.outcome import NUM_ELBO_DRAWS
from vi_recipes.methods.svi.running import Runner, last_step_size
from vi_recipes.methods.svi.stopping import (
    Plateau,
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
    assert judge_series(noise).may_be_flat
    climb = judge_series(noise + np.linspace(0, 3, noise.size))
    assert not climb.may_be_flat
    # a quarter is 0.75, twice that two quarters on
    assert climb.gain == pytest.approx(0.75, abs=4 * climb.error)
    twice = judge_series(noise + np.linspace(0, 3, noise.size), apart=2)
    assert twice.gain == pytest.approx(1.5, abs=4 * twice.error)


def test_flat_is_what_is_known_to_be_flat() -> None:
    """A gain of 1.1 with an error of 0.91 was flat, being within three errors."""
    assert not Plateau(1.1, 0.91).flat(0.1)
    assert not Plateau(0.05, 0.2).flat(0.1)
    assert Plateau(0.05, 0.03).flat(0.1)
    assert not Plateau(0.12, 0.01).flat(0.1)
    assert Plateau(-0.5, 0.2).flat(0.1)  # whatever it does, it does not rise
    assert not Plateau(np.nan, np.inf).flat(0.1)


def pairs(count: int, rho: float) -> vr.Target:
    """Pairs of standard normals of correlation ``rho``."""
    cov = np.kron(np.eye(count), [[1.0, rho], [rho, 1.0]])

    def model() -> None:
        numpyro.sample("x", dist.MultivariateNormal(jnp.zeros(2 * count), jnp.asarray(cov)))

    return vr.Target(model)


@pytest.mark.slow
def test_fresh_draws_tell_what_the_steps_do_not() -> None:
    """The ELBO of independent normals is log(1 - rho^2) / 2 a pair, its draws' variance rho^2."""
    fit = vr.SVI(num_steps=4_000, tolerance=None, elbo_tolerance=0.2).fit(pairs(30, 0.9))
    best, sd = 15 * np.log(1 - 0.9**2), np.sqrt(30 * 0.9**2)
    assert fit.status is vr.Status.OK
    found = re.search(r"ELBO gained (\S+) \(Monte Carlo error (\S+), from \d+ fresh", fit.message)
    assert found
    # 1,000 steps a quarter leave sqrt(2 / 1,000) of the sd of a draw, 0.22
    assert float(found[2]) < 0.2 / 3 < sd * np.sqrt(2 / 1_000)
    assert abs(float(found[1])) < 0.2
    value, se = fit.diagnostics["elbo"], fit.diagnostics["elbo_se"]
    assert se <= 0.2 < sd / np.sqrt(NUM_ELBO_DRAWS)
    assert se > 0.15
    assert best - 0.5 - 4 * se < value < best + 4 * se  # constant steps cost some tenths


@pytest.mark.slow
def test_a_flow_that_still_climbs_is_not_converged() -> None:
    """The steps' ELBO gained 1.1 with an error of 0.91, and the sds are a third of what is right.

    The flow could be exact: its ELBO is below that of independent normals.
    """
    fit = vr.SVI(guide="iaf", num_steps=5_000).fit(pairs(1, 0.8), key=0)
    assert fit.status is vr.Status.UNCONVERGED
    assert fit.diagnostics["elbo"] < 0.5 * np.log(1 - 0.8**2)
    assert "swings too much" in fit.advice or "raise num_steps" in fit.advice
    assert fit.has_result


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
    runner = Runner(None, Feed, constrain, scales, num_steps, 0.1, falling=True)  # type: ignore[arg-type]
    runner.look(run)
    assert run.iterates is not None
    assert run.chunks[-1].closes == falls
    assert last_step_size(run) == pytest.approx(0.0025 if falls else 0.01)
    assert not run.stopped
    assert run.iterates.within(0.1) == (drift == 0.0)
