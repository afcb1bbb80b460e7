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
from vi_recipes.algebra.block_arrow import BlockArrow
from vi_recipes.algebra.crossed import Crossed, steihaug
from vi_recipes.algebra.families import Families
from vi_recipes.algebra.local_structure import LocalStructure
from vi_recipes.elbo import curvature
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
    monkeypatch.setattr(curvature, "MAX_BORDER", 12)
    monkeypatch.setattr(curvature, "MAX_DENSE_PARAMETERS", 12)


def test_families() -> None:
    target = vr.Target(ratings, **data(binary=False))
    families = find_families(target.latents, target.slices)
    assert families is not None
    assert families.sizes == (NUM_STUDENTS, NUM_LECTURERS)
    assert families.structure.border.tolist() == [0]
    assert families.structure.sites == ("s", "d")


def crossed_matrix() -> tuple[np.ndarray, Crossed]:
    """Return a random positive-definite matrix of two crossed families, dense and as crossed."""
    rng = np.random.default_rng(4)
    first, second = np.arange(1, 5), np.arange(5, 8)
    border = np.array([0])
    families = Families(
        LocalStructure(border, np.concatenate([first, second])[:, None], ("s", "d"), "both"), (4, 3)
    )
    dense = np.diag(rng.uniform(4.0, 6.0, 8))
    dense[0, 1:] = dense[1:, 0] = 0.5 * rng.standard_normal(7)
    dense[np.ix_(first, second)] = 0.5 * rng.standard_normal((4, 3))
    dense[np.ix_(second, first)] = dense[np.ix_(first, second)].T
    matrix, error = families.assemble(families.basis() @ dense, np.ones(8))
    assert isinstance(matrix, BlockArrow)
    assert error < 1e-12

    def product(vector: np.ndarray) -> np.ndarray:
        return dense @ vector

    def run(gradient: np.ndarray, inverse: Any, radius: float) -> Any:
        with jax.enable_x64(True):
            args = jax.tree.map(lambda a: jnp.asarray(a, float), (gradient, inverse, radius))
            return steihaug(lambda v: jnp.asarray(dense) @ v, families.structure, *args)

    return dense, Crossed(matrix, product, run)


def test_a_crossed_matrix_times_any_vector() -> None:
    """Before there is a step, after one, and for the step itself, also as another array."""
    dense, bend = crossed_matrix()
    rng = np.random.default_rng(5)
    vector, gradient = rng.standard_normal((2, 8))
    np.testing.assert_allclose(bend.dot(vector), dense @ vector, rtol=1e-12)
    for radius in (0.1, 100.0):
        step = bend.step(gradient, radius)
        for other in (vector, step, step.copy(), 2 * step):
            np.testing.assert_allclose(bend.dot(other), dense @ other, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(bend.solve(gradient), np.linalg.solve(dense, gradient), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("no_room")
def test_a_normal_posterior_is_exact() -> None:
    target = vr.Target(ratings, **data(binary=False))
    fit = vr.LinearResponse(base=vr.MeanField(tolerance=1e-8)).fit(target, key=0, throw=True)
    with jax.enable_x64(True):
        arrays = target.arrays()

        def density(z: jax.Array) -> jax.Array:
            return -target.log_density_fn(z, arrays)

        zero = jnp.zeros(target.dim)
        hessian, gradient = (
            np.asarray(jax.jit(derive(density))(zero)) for derive in (jax.hessian, jax.grad)
        )
    cov = np.linalg.inv(hessian)
    np.testing.assert_allclose(fit.flat(fit.mean()), -cov @ np.asarray(gradient), atol=1e-7)
    np.testing.assert_allclose(fit.cov(), cov, atol=1e-9)
    np.testing.assert_allclose(fit.flat(fit.sd()), np.sqrt(np.diag(cov)), rtol=1e-7)
    mean_field = vr.MeanField(tolerance=1e-8).fit(target, key=0)
    np.testing.assert_allclose(
        mean_field.flat(mean_field.sd()), 1 / np.sqrt(np.diag(hessian)), rtol=1e-6
    )


@pytest.mark.slow
def test_it_ends_where_the_structured_method_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    method = vr.LinearResponse(base=vr.MeanField(tolerance=1e-7))
    whole = method.fit(vr.Target(votes, **data(binary=True)), key=0, throw=True)
    monkeypatch.setattr(curvature, "MAX_BORDER", 12)
    monkeypatch.setattr(curvature, "MAX_DENSE_PARAMETERS", 12)
    crossed = method.fit(vr.Target(votes, **data(binary=True)), key=0, throw=True)
    np.testing.assert_allclose(crossed.flat(crossed.mean()), whole.flat(whole.mean()), atol=1e-6)
    np.testing.assert_allclose(crossed.flat(crossed.sd()), whole.flat(whole.sd()), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("no_room")
def test_no_memory_for_the_covariances(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curvature, "MAX_BYTES", 1_000)
    target = vr.Target(ratings, **data(binary=False))
    fit = vr.LinearResponse().fit(target, key=0)
    assert fit.status is vr.Status.NOT_APPLICABLE
    assert "with s as blocks" in fit.message
    assert "GB" in fit.message
    assert vr.MeanField().fit(target, key=0).status is vr.Status.OK
