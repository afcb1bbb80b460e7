"""Second derivatives by elements and columns, against dense ones."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vi_recipes as vr
from vi_recipes.core import Timing
from vi_recipes.latent import curvature, split_target
from vi_recipes.latent.columns import columns_of

ROW, COLUMN = np.divmod(np.random.default_rng(4).permutation(45)[:38], 5)
X = np.linspace(-1.0, 1.0, 38)


def crossed(y: Any) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    su = numpyro.sample("su", dist.HalfNormal(1.5))
    with numpyro.plate("rows", 9):
        u = numpyro.sample("u", dist.MultivariateNormal(jnp.zeros(2), su * jnp.eye(2) + 0.2))
    with numpyro.plate("columns", 5):
        v = numpyro.sample("v", dist.Normal(mu, 0.7))  # its density reads the mean
    with numpyro.plate("cell", len(y)):
        eta = u[ROW, 0] + u[ROW, 1] * X + v[COLUMN] + beta[0] * X + beta[1] * X**2
        numpyro.sample("y", dist.Poisson(jnp.exp(eta)), obs=y)


def test_elements_have_the_hessian() -> None:
    target = vr.Target(crossed, y=np.random.default_rng(0).poisson(1.5, 38))
    with jax.enable_x64(True):
        split = split_target(target, ("mu", "beta", "u", "v"))
        columns = columns_of(split)
        assert columns is not None
        assert columns.inner is not None
        assert columns.layout is not None
        layout = columns.layout
        theta, z = jnp.array([0.3]), 0.4 * np.random.default_rng(1).standard_normal(split.width)
        arrays = target.arrays()
        assemble = columns.assembler(layout)
        found = jax.jit(lambda z: assemble(columns.bends(theta, z, arrays)))(jnp.asarray(z))

        def joint(z: jax.Array) -> jax.Array:
            return split.log_joint(theta, z[None], arrays).members.sum()

        want = -np.asarray(jax.jit(jax.hessian(joint))(jnp.asarray(z)))
    assert columns.inner.latents == ("u",)
    assert len(columns.numbers) == 1 + 2 + 2 + 1
    assert layout.local.shape == (9, 2)
    local, border = layout.local, layout.border
    np.testing.assert_allclose(found.blocks, want[local[:, :, None], local[:, None, :]], rtol=1e-10)
    np.testing.assert_allclose(found.edge, want[local[:, :, None], border], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(found.corner, want[np.ix_(border, border)], rtol=1e-10, atol=1e-12)
    assert not want[~columns.pattern()].any()


def test_a_walk_has_no_columns() -> None:
    def walk(y: Any) -> None:
        scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.5))
        z = numpyro.sample("z", dist.GaussianRandomWalk(scale, len(y)))
        with numpyro.plate("time", len(y)):
            numpyro.sample("y", dist.Poisson(jnp.exp(z)), obs=y)

    target = vr.Target(walk, y=np.arange(50))
    with jax.enable_x64(True):
        assert columns_of(split_target(target, ("z",))) is None


@pytest.mark.parametrize("most", [3, 300])  # by columns, and by a dense matrix
def test_a_flat_prior_leaves_a_log_joint_concave(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = 40.0 * np.random.default_rng(6).standard_normal((38, 8))

    def flat(y: Any, x: Any) -> None:
        law = dist.ImproperUniform(dist.constraints.real, (), (8,))
        beta = numpyro.sample("beta", law)
        su = numpyro.sample("su", dist.HalfNormal(1.5))
        with numpyro.plate("rows", 9):
            u = numpyro.sample("u", dist.Normal(0.0, su))
        with numpyro.plate("columns", 5):
            v = numpyro.sample("v", dist.Normal(0.0, 0.7))
        with numpyro.plate("cell", len(y)):
            eta = x @ beta + u[ROW] + v[COLUMN]
            numpyro.sample("y", dist.Bernoulli(logits=eta), obs=y)

    monkeypatch.setattr(curvature, "MAX_GAUSSIAN", most)
    y = np.random.default_rng(0).integers(0, 2, 38)

    def looked_at(x: np.ndarray) -> curvature.MembersCurvature:
        target = vr.Target(flat, y=y, x=x)
        with jax.enable_x64(True):
            split = split_target(target, ("beta", "u", "v"))
            start = target.start(jax.random.key(0), scatter=0.0)
            return curvature.examine(split, lambda: start, Timing().compile)

    found = looked_at(x)
    assert found.concave
    assert not found.quadratic
    # of two columns that say the same some combination has no curvature at all
    assert not looked_at(x[:, [0, 0, 1, 2, 3, 4, 5, 6]]).concave
