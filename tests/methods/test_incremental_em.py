"""Incremental EM: blocks add up, the free energy only rises, and the optimum is that of full EM."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models_for_tests import case, target
from scipy.stats import multivariate_normal

import vi_recipes as vr
from vi_recipes.core.content import find, import_file
from vi_recipes.latent.closed_form import ClosedForm

GMM = import_file(find("models")["gmm"])
COVARIANCES = ("full", "tied", "diagonal", "spherical")
NUM_BLOCKS = 7
"""272 eruptions do not divide by it."""


@cache
def eruptions(covariance: str = "full") -> vr.Target:
    return vr.Target(GMM.gmm(2, covariance))


def closed_form(covariance: str = "full") -> ClosedForm:
    steps = eruptions(covariance).model.em
    assert steps is not None
    return ClosedForm(eruptions(covariance), steps, "mle")


@pytest.mark.slow
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_blocks_add_up_to_the_full_e_step(covariance: str) -> None:
    closed = closed_form(covariance)
    with jax.enable_x64(True):
        y = jnp.asarray(eruptions(covariance).data["y"])
        theta = closed.steps.start(jax.random.key(0), y=y)
        right, log_likelihood = closed.steps.e_step(theta, y=y)
        rows, weights = closed.blocks(NUM_BLOCKS)
        assert rows.shape == (NUM_BLOCKS, 39)
        assert weights.sum() == len(y) == len(np.unique(rows[weights > 0]))
        e_step = jax.jit(partial(closed.partial.e_step, y=y))
        parts = [e_step(theta, r, w) for r, w in zip(rows, weights, strict=True)]
        added, total = jax.tree.map(lambda *v: sum(v), *parts)
        # what the M-step maximises is linear in the statistics
        expected = partial(closed.partial.expected, theta, y=y)
        pieces = sum(float(expected(stats)) for stats, _ in parts)
        assert pieces == pytest.approx(float(expected(right)), rel=1e-12)
    assert float(total) == pytest.approx(float(log_likelihood), rel=1e-13)
    for ours, theirs in zip(added, right, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-11 * np.abs(theirs).max())


def free_energy(y: np.ndarray, q: np.ndarray, theta: dict[str, Any]) -> float:
    """Return F = sum over n and k of q_nk (log p(y_n, k) - log q_nk)."""
    total = 0.0
    for k, pi in enumerate(theta["pi"]):
        law = multivariate_normal(theta["mu"][k], theta["Sigma"][k])
        own = q[:, k] > 0
        log_joint = np.log(pi) + law.logpdf(y[own])
        total += float(q[own, k] @ (log_joint - np.log(q[own, k])))
    return total


def responsibilities(y: np.ndarray, theta: dict[str, Any]) -> np.ndarray:
    joint = np.stack(
        [
            pi * multivariate_normal(theta["mu"][k], theta["Sigma"][k]).pdf(y)
            for k, pi in enumerate(theta["pi"])
        ],
        axis=1,
    )
    return joint / joint.sum(axis=1, keepdims=True)


@pytest.mark.slow
def test_the_free_energy_is_that_of_the_table_of_responsibilities_and_rises() -> None:
    """By hand, block by block: theta from weighted means and covariances of the whole table."""
    y = np.asarray(eruptions().data["y"])
    fit = vr.EM(num_blocks=NUM_BLOCKS, num_starts=1).fit(eruptions(), key=2, throw=True)
    steps = eruptions().model.em
    assert steps is not None
    with jax.enable_x64(True):
        key = jax.random.split(jax.random.key(2), 1)[0]
        theta = {n: np.asarray(v) for n, v in steps.start(key, y=jnp.asarray(y)).items()}
    q = responsibilities(y, theta)
    values = [free_energy(y, q, theta)]
    for visit in range(3 * NUM_BLOCKS):
        block = np.arange(len(y)) % NUM_BLOCKS == visit % NUM_BLOCKS
        q[block] = responsibilities(y[block], theta)
        renewed = free_energy(y, q, theta)
        assert renewed >= values[-1] - 1e-9  # the E-step by itself
        weights = q / q.sum(axis=0)
        theta = {
            "pi": q.mean(axis=0),
            "mu": weights.T @ y,
            "Sigma": np.stack([np.cov(y, rowvar=False, aweights=w, ddof=0) for w in weights.T]),
        }
        values.append(free_energy(y, q, theta))
        assert values[-1] >= renewed - 1e-9  # and the M-step
    np.testing.assert_allclose(
        fit.trace["free_energy"][0, : len(values) - 1], values[1:], rtol=1e-11
    )
    assert np.diff(fit.trace["free_energy"][0]).min() > -1e-9
    # it bounds the log-likelihood, and touches it at the end
    assert fit.trace["free_energy"].max() <= fit.log_likelihood + 1e-9
    assert fit.trace["free_energy"][0, -1] == pytest.approx(fit.log_likelihood, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("covariance", "objective"), [("full", "mle"), ("spherical", "map")])
def test_the_optimum_is_that_of_full_em(covariance: str, objective: Any) -> None:
    full = vr.EM(objective=objective).fit(eruptions(covariance), throw=True)
    fit = vr.EM(objective=objective, num_blocks=NUM_BLOCKS).fit(eruptions(covariance), throw=True)
    assert fit.status is full.status is vr.Status.OK
    assert f"over {NUM_BLOCKS} blocks of members, then" in fit.message
    assert fit.log_likelihood == pytest.approx(full.log_likelihood, abs=1e-6)
    for name, value in full.sd().items():
        np.testing.assert_allclose(np.sort(fit.sd()[name], 0), np.sort(value, 0), rtol=1e-3)
    assert fit.trace["free_energy_step"][NUM_BLOCKS - 1] == 1  # in passes over the data


@pytest.mark.slow
def test_statistics_that_do_not_belong_to_their_block_are_found_out() -> None:
    model = eruptions().model
    assert model.em is not None
    assert model.em.partial is not None
    own = model.em.partial.e_step

    def stale(theta: Any, rows: Any, weights: Any, y: Any) -> Any:
        stats, log_likelihood = own(theta, rows, weights, y=y)
        return stats._replace(totals=0.9 * stats.totals), log_likelihood

    wrong = replace(model, em=replace(model.em, partial=replace(model.em.partial, e_step=stale)))
    fit = vr.EM(num_blocks=3, num_starts=1).fit(vr.Target(wrong))
    assert fit.status is vr.Status.FAILED
    assert "the free energy fell" in fit.message


@pytest.mark.slow
def test_refusals() -> None:
    fit = vr.EM(num_blocks=4).fit(target("mixture"))
    assert fit.status is vr.Status.NOT_APPLICABLE
    assert "EMSteps(partial=PartialEStep(...))" in fit.message
    assert "Leave num_blocks at 1" in fit.message
    fit = vr.EM(num_blocks=4).fit(target("eight_schools"))
    assert fit.status is vr.Status.NOT_APPLICABLE
    assert "the latent variables theta are continuous. Leave num_blocks at 1" in fit.message
    few = case("mixture").data["y"][:3, None] + np.arange(2.0) ** 2 * np.arange(3.0)[:, None] ** 2
    fit = vr.EM(num_blocks=4).fit(vr.Target(GMM.gmm(2, "full"), y=few))
    assert fit.status is vr.Status.NOT_APPLICABLE
    assert "only 3 members" in fit.message
    with pytest.raises(ValueError, match="num_blocks: got 0"):
        vr.EM(num_blocks=0)
