"""EM of linear factors, against SciPy's multivariate normal."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import vi_recipes as vr


@pytest.fixture
def rows() -> np.ndarray:
    rng = np.random.default_rng(0)
    W = rng.standard_normal((4, 2))
    return rng.standard_normal((30, 2)) @ W.T + 0.5 * rng.standard_normal((30, 4)) + 3.0


def factors() -> vr.LinearFactors:
    rng = np.random.default_rng(1)
    W = rng.standard_normal((4, 2))
    return vr.LinearFactors(jnp.asarray(W), jnp.asarray(rng.uniform(0.3, 2.0, 4)))


def test_the_log_likelihood_is_a_multivariate_normals(rows: np.ndarray) -> None:
    with jax.enable_x64(True):
        this, summary = factors(), vr.LinearFactors.summary(jnp.asarray(rows))
        found = this.e_step(summary["num_rows"], summary["covariance"])[1]
        law = stats.multivariate_normal(rows.mean(axis=0), np.asarray(this.covariance()))
    np.testing.assert_allclose(summary["mean"], rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(summary["covariance"], np.cov(rows.T, ddof=0), rtol=1e-12)
    assert float(found) == pytest.approx(law.logpdf(rows).sum(), rel=1e-12)


def test_the_moments_are_those_of_the_scores_given_the_rows(rows: np.ndarray) -> None:
    with jax.enable_x64(True):
        this, summary = factors(), vr.LinearFactors.summary(jnp.asarray(rows))
        moments = this.e_step(summary["num_rows"], summary["covariance"])[0]
        W, psi = np.asarray(this.W), np.asarray(this.psi)
    spread = np.linalg.inv(np.eye(2) + W.T @ (W / psi[:, None]))
    centred = rows - rows.mean(axis=0)
    mean = centred @ (W / psi[:, None]) @ spread
    np.testing.assert_allclose(moments.cross, centred.T @ mean / 30, rtol=1e-10)
    np.testing.assert_allclose(moments.scores, spread + mean.T @ mean / 30, rtol=1e-10)


def test_steps_rise_to_where_the_gradient_is_zero(rows: np.ndarray) -> None:
    with jax.enable_x64(True):
        summary = vr.LinearFactors.summary(jnp.asarray(rows))
        num_rows, covariance = summary["num_rows"], summary["covariance"]

        def log_likelihood(W: jax.Array, psi: jax.Array) -> jax.Array:
            return vr.LinearFactors(W, psi).e_step(num_rows, covariance)[1]

        def step(this: tuple[jax.Array, jax.Array], _: None) -> tuple[object, jax.Array]:
            moments, value = vr.LinearFactors(*this).e_step(num_rows, covariance)
            better = vr.LinearFactors.m_step(moments, covariance)
            return (better.W, better.psi), value

        start = factors()
        (W, psi), values = jax.lax.scan(step, (start.W, start.psi), None, length=3000)
        gradients = jax.grad(log_likelihood, argnums=(0, 1))(W, psi)
    assert (np.diff(values) > -1e-9).all()
    for gradient in gradients:
        np.testing.assert_allclose(gradient, 0, atol=1e-4)


def test_rotated_loadings_are_lower_triangular_and_say_the_same() -> None:
    with jax.enable_x64(True):
        this = factors()
        rotated = this.lower_triangular()
        np.testing.assert_allclose(rotated.covariance(), this.covariance(), rtol=1e-12)
    assert rotated.W[0, 1] == pytest.approx(0, abs=1e-15)
    assert (np.diagonal(rotated.W) > 0).all()
