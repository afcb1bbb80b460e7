"""Crossed families: the truncated Newton method and the elimination, against dense algebra."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vi_recipes as vr
from vi_recipes.methods import meanfield
from vi_recipes.model.plates import find_families

NUM_STUDENTS, NUM_LECTURERS = 45, 36


def ratings(y: jax.Array, student: jax.Array, lecturer: jax.Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 3.0))
    with numpyro.plate("student", NUM_STUDENTS):
        s = numpyro.sample("s", dist.Normal(0.0, 0.9))
    with numpyro.plate("lecturer", NUM_LECTURERS):
        d = numpyro.sample("d", dist.Normal(0.0, 0.6))
    with numpyro.plate("rating", len(y)):
        numpyro.sample("y", dist.Normal(mu + s[student] + d[lecturer], 1.1), obs=y)


def votes(y: jax.Array, student: jax.Array, lecturer: jax.Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 3.0))
    tau = numpyro.sample("tau", dist.Gamma(3.0, 3.0))
    with numpyro.plate("student", NUM_STUDENTS):
        s = numpyro.sample("s", dist.Normal(0.0, tau**-0.5))
    with numpyro.plate("lecturer", NUM_LECTURERS):
        d = numpyro.sample("d", dist.Normal(0.0, 0.6))
    with numpyro.plate("rating", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=mu + s[student] + d[lecturer]), obs=y)


def data(binary: bool) -> dict[str, Any]:
    rng = np.random.default_rng(6)
    student = np.repeat(np.arange(NUM_STUDENTS), 9)
    lecturer = rng.integers(NUM_LECTURERS, size=student.size)
    s, d = rng.standard_normal(NUM_STUDENTS), 0.6 * rng.standard_normal(NUM_LECTURERS)
    y = 0.4 + s[student] + d[lecturer] + rng.logistic(size=student.size)
    return {"y": (y > 0).astype(int) if binary else y, "student": student, "lecturer": lecturer}


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a border of either family too large."""
    monkeypatch.setattr(meanfield, "MAX_BORDER", 12)
    monkeypatch.setattr(meanfield, "MAX_DENSE_PARAMETERS", 12)


def test_families() -> None:
    target = vr.Target(ratings, **data(binary=False))
    families = find_families(target.latents, target.slices)
    assert families is not None
    assert families.sizes == (NUM_STUDENTS, NUM_LECTURERS)
    assert families.structure.border.tolist() == [0]
    assert families.structure.sites == ("s", "d")


@pytest.mark.usefixtures("no_room")
def test_a_normal_posterior_is_exact() -> None:
    target = vr.Target(ratings, **data(binary=False))
    fit = vr.LinearResponse(base=vr.MeanField(tolerance=1e-8)).fit(target, key=0, throw=True)
    with jax.enable_x64(True):
        arrays = target.arrays()

        def density(z: jax.Array) -> jax.Array:
            return -target.log_density_fn(z, arrays)

        zero = jnp.zeros(target.dim)
        hessian, gradient = np.asarray(jax.hessian(density)(zero)), jax.grad(density)(zero)
    cov = np.linalg.inv(hessian)
    np.testing.assert_allclose(fit.flat(fit.mean()), -cov @ np.asarray(gradient), atol=1e-7)
    np.testing.assert_allclose(fit.cov(), cov, atol=1e-9)
    np.testing.assert_allclose(fit.flat(fit.sd()), np.sqrt(np.diag(cov)), rtol=1e-7)
    mean_field = vr.MeanField(tolerance=1e-8).fit(target, key=0)
    np.testing.assert_allclose(
        mean_field.flat(mean_field.sd()), 1 / np.sqrt(np.diag(hessian)), rtol=1e-6
    )


def test_it_ends_where_the_structured_method_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    method = vr.LinearResponse(base=vr.MeanField(tolerance=1e-7))
    whole = method.fit(vr.Target(votes, **data(binary=True)), key=0, throw=True)
    monkeypatch.setattr(meanfield, "MAX_BORDER", 12)
    monkeypatch.setattr(meanfield, "MAX_DENSE_PARAMETERS", 12)
    crossed = method.fit(vr.Target(votes, **data(binary=True)), key=0, throw=True)
    np.testing.assert_allclose(crossed.flat(crossed.mean()), whole.flat(whole.mean()), atol=1e-6)
    np.testing.assert_allclose(crossed.flat(crossed.sd()), whole.flat(whole.sd()), rtol=1e-6)


@pytest.mark.usefixtures("no_room")
def test_no_memory_for_the_covariances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meanfield, "MAX_BYTES", 1_000)
    target = vr.Target(ratings, **data(binary=False))
    fit = vr.LinearResponse().fit(target, key=0)
    assert fit.status is vr.Status.NOT_APPLICABLE
    assert "with s as blocks" in fit.message
    assert "GB" in fit.message
    assert vr.MeanField().fit(target, key=0).status is vr.Status.OK
