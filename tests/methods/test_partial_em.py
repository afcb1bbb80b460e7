"""Incremental and sparse EM over enumerated states, against both by hand on Poisson mixtures."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from scipy.stats import poisson

import vi_recipes as vr
from vi_recipes.core import Timing
from vi_recipes.latent import Compressed, compress, general_start, marginal_of

NUM_BLOCKS = 7
"""1,096 days do not divide by it."""

BELOW = 0.2
"""Many days have a kind that is less likely than this."""


START = np.array([0.4, 0.6]), np.array([1.0, 3.0])
"""Shares and rates that all begin with."""


@cache
def deaths() -> vr.Target:
    init = {"pi": START[0], "log_lam": np.log(START[1])}
    return vr.Target(replace(vr.load_model("times_deaths"), init=lambda *_, **__: init))


def log_joint(y: np.ndarray, pi: np.ndarray, rates: np.ndarray) -> np.ndarray:
    return np.log(pi) + poisson(rates).logpmf(y[:, None])


def posterior(y: np.ndarray, pi: np.ndarray, rates: np.ndarray) -> np.ndarray:
    joint = np.exp(log_joint(y, pi, rates))
    return joint / joint.sum(axis=1, keepdims=True)


def maximised(y: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return q.mean(axis=0), y @ q / q.sum(axis=0)


def free_energy(y: np.ndarray, q: np.ndarray, pi: np.ndarray, rates: np.ndarray) -> float:
    return float((q * (log_joint(y, pi, rates) - np.log(q))).sum())


@pytest.mark.slow
def test_incremental_em_is_that_by_hand() -> None:
    y = np.asarray(deaths().data["y"])
    pi, rates = START
    q, values = posterior(y, pi, rates), []
    for visit in range(3 * NUM_BLOCKS):
        block = np.arange(len(y)) % NUM_BLOCKS == visit % NUM_BLOCKS
        q[block] = posterior(y[block], pi, rates)
        pi, rates = maximised(y, q)
        values.append(free_energy(y, q, pi, rates))
    fit = vr.EM(num_blocks=NUM_BLOCKS, num_starts=1).fit(deaths(), key=0, throw=True)
    path = fit.trace["free_energy"][0]
    np.testing.assert_allclose(path[: len(values)], values, rtol=1e-12)
    np.testing.assert_allclose(np.diff(path[: len(values)]), np.diff(values), rtol=1e-5)
    assert np.diff(path).min() > -1e-9
    assert fit.trace["free_energy_step"][NUM_BLOCKS - 1] == 1  # in passes over the data
    assert f"over {NUM_BLOCKS} blocks of members, then" in fit.message
    best = vr.MarginalMLE().fit(deaths(), throw=True)
    assert fit.status is best.status is vr.Status.OK
    assert path.max() <= fit.log_likelihood + 1e-9
    assert fit.log_likelihood == pytest.approx(best.log_likelihood, abs=1e-4)
    np.testing.assert_allclose(fit.sd()["log_lam"], best.sd()["log_lam"], rtol=1e-2)


@pytest.mark.slow
def test_sparse_em_is_that_by_hand() -> None:
    y, num_sparse = np.asarray(deaths().data["y"]), 3
    pi, rates = START
    passes, steps, values = 0.0, [], []
    for _ in range(4):
        q = posterior(y, pi, rates)
        live = (q >= BELOW).all(axis=1)  # of two kinds, one that is alone has nothing to share
        passes += 1
        for _ in range(num_sparse + 1):
            pi, rates = maximised(y, q)
            values.append(free_energy(y, q, pi, rates))
            steps.append(passes)
            q = np.where(live[:, None], posterior(y, pi, rates), q)
            passes += live.mean()
        passes -= live.mean()
    assert 0.3 < live.mean() < 0.9
    method = vr.EM(num_sparse=num_sparse, freeze_below=BELOW, num_starts=1)
    fit = method.fit(deaths(), key=0, throw=True)
    path = fit.trace["free_energy"][0]
    np.testing.assert_allclose(path[: len(values)], values, rtol=1e-12)
    np.testing.assert_allclose(np.diff(path[: len(values)]), np.diff(values), rtol=1e-5)
    np.testing.assert_allclose(fit.trace["free_energy_step"][: len(steps)], steps, rtol=1e-12)
    assert np.diff(path).min() > -1e-9
    assert fit.log_likelihood == pytest.approx(-1989.94586, abs=1e-4)
    assert "3 sparse E-steps to a full one, then" in fit.message


def three_kinds(y: Any) -> None:
    """Count with three rates, of which one is far from the others."""
    pi = numpyro.sample("pi", dist.Dirichlet(np.full(3, 2.0)))
    with numpyro.plate("kind", 3):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 0.1))
    with numpyro.plate("row", len(y)):
        z = numpyro.sample("z", dist.Categorical(probs=pi))
        numpyro.sample("y", dist.Poisson(rate[z]), obs=y)


def counted(size: int) -> vr.Target:
    y = np.random.default_rng(3).poisson(np.resize([2.0, 7.0, 40.0], size))
    init = {"pi": np.full(3, 1 / 3), "rate": np.array([1.0, 9.0, 30.0])}
    return vr.Target(
        vr.Model(function=three_kinds, name="kinds", latents=("z",), init=lambda *_, **__: init),
        y=y,
    )


@pytest.mark.slow
def test_a_frozen_state_keeps_what_it_had_and_the_others_share_the_rest() -> None:
    target = counted(300)
    y = np.asarray(target.data["y"])
    pi, rates = np.full(3, 1 / 3), np.array([1.0, 9.0, 30.0])
    values = []
    for _ in range(2):
        q = posterior(y, pi, rates)
        live = q >= 0.05
        mass = np.where(live, q, 0).sum(axis=1, keepdims=True)
        for _ in range(3):
            pi, rates = maximised(y, q)
            values.append(free_energy(y, np.maximum(q, 1e-300), pi, rates))
            among = np.where(live, np.exp(log_joint(y, pi, rates)), 0)
            q = np.where(live, mass * among / among.sum(axis=1, keepdims=True), q)
    assert 2 in live.sum(axis=1)  # of three
    fit = vr.EM(num_sparse=2, freeze_below=0.05, num_starts=1).fit(target, throw=True)
    np.testing.assert_allclose(fit.trace["free_energy"][0, :6], values, rtol=1e-10)
    assert np.diff(fit.trace["free_energy"][0]).min() > -1e-9


@pytest.mark.slow
def test_a_few_members_stand_for_all_in_partial_steps_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An exponential family's Q is that of the rows that carry its statistics."""
    many, plain = counted(2_500), counted(2_500)
    with jax.enable_x64(True):
        marginal = marginal_of(many, None, "auto", 1, False, Timing())
        few = compress(marginal, general_start(many, jax.random.key(0), 0), Timing())
    assert isinstance(few, Compressed)
    for options in ({"num_blocks": NUM_BLOCKS}, {"num_sparse": 2}):
        fits = []
        for target, least in ((many, 2_000), (plain, 10_000)):
            monkeypatch.setattr("vi_recipes.latent.compression.MIN_MEMBERS", least)
            fits.append(vr.EM(num_starts=1, **options).fit(target, throw=True))  # type: ignore[arg-type]
        # L-BFGS only gains ground where Newton's method ends, so the paths differ and the ends not
        assert fits[0].log_likelihood == pytest.approx(fits[1].log_likelihood, abs=1e-5)
        assert all(np.diff(f.trace["free_energy"][0]).min() > -1e-7 for f in fits)


def weighted(y: Any, w: Any) -> None:
    """Count rows, each as often as its weight says."""
    pi = numpyro.sample("pi", dist.Dirichlet(np.full(2, 2.0)))
    with numpyro.plate("kind", 2):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 0.1))
    with numpyro.plate("row", len(y)), handlers.scale(scale=w):
        z = numpyro.sample("z", dist.Categorical(probs=pi))
        numpyro.sample("y", dist.Poisson(rate[z]), obs=y)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"num_blocks": 3}, {"num_sparse": 2}])
def test_weights_count_rows_in_the_free_energy_too(options: Any) -> None:
    y = np.array([0, 1, 1, 2, 3, 8, 9, 11, 14, 20])
    w = np.array([3.0, 2, 1, 1, 2, 1, 3, 1, 2, 1])
    init = {"pi": np.full(2, 0.5), "rate": np.array([2.0, 10.0])}
    model = vr.Model(function=weighted, name="weighted", latents=("z",), init=lambda *_, **__: init)
    times = vr.EM(num_starts=1, **options).fit(vr.Target(model, y=y, w=w), throw=True)
    rows = np.repeat(y, w.astype(int))
    again = vr.EM(num_starts=1).fit(vr.Target(model, y=rows, w=np.ones(len(rows))), throw=True)
    assert times.log_likelihood == pytest.approx(again.log_likelihood, abs=1e-7)
    assert times.trace["free_energy"][0, -1] == pytest.approx(again.log_likelihood, abs=1e-7)
    np.testing.assert_allclose(times.mean()["rate"], again.mean()["rate"], rtol=1e-4)


@pytest.mark.slow
def test_what_has_no_partial_e_step_says_so() -> None:
    gmm = vr.Target(vr.load_model("gmm"))
    why = vr.EM(num_sparse=2).applies(gmm)
    assert why is not None
    assert "steps that keep no table of its states' probabilities. Leave num_sparse at 0" in why
    why = vr.EM(num_blocks=2_000).applies(deaths())
    assert why == "num_blocks=2000: there are only 1096 members"
    with pytest.raises(ValueError, match="num_sparse: got 2, expected 0, as num_blocks is 3"):
        vr.EM(num_blocks=3, num_sparse=2)
    with pytest.raises(ValueError, match=r"freeze_below: got 0\.7, expected a .* at most 0\.5"):
        vr.EM(num_sparse=2, freeze_below=0.7)
    chain = vr.Target(vr.load_model("hmm:STATES"))
    why = vr.EM(num_sparse=2, e_step="forward_backward").applies(chain)
    assert why is not None
    assert "are a chain's. Leave num_sparse at 0" in why
