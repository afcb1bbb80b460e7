"""Cholesky factors of correlation matrices by the short program, beside NumPyro's and matrices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions.transforms import CorrCholeskyTransform
from numpyro.infer.util import potential_energy

import vi_recipes as vr
from vi_recipes.model.correlations import MOST, ShortCorrCholesky


@pytest.mark.parametrize("size", [2, 5])
def test_the_factor_and_its_jacobian_are_those_of_matrices(size: int) -> None:
    short, below = ShortCorrCholesky(), np.tril_indices(size, -1)

    @jax.jit
    def made(x: jax.Array) -> tuple[jax.Array, ...]:
        factor = short(x)
        slopes = jax.vmap(jax.jacfwd(lambda row: short(row)[below]))(x)
        told = short.log_abs_det_jacobian(x, factor)
        return factor, CorrCholeskyTransform()(x), short.inv(factor), slopes, told

    x = np.random.default_rng(size).normal(size=(6, len(below[0])))
    with jax.enable_x64(True):
        factor, theirs, back, slopes, told = map(np.asarray, made(x))
    correlations = factor @ factor.mT
    np.testing.assert_allclose(factor, theirs, atol=1e-14)
    np.testing.assert_allclose(factor, np.linalg.cholesky(correlations), atol=1e-13)
    np.testing.assert_allclose(np.diagonal(correlations, axis1=1, axis2=2), 1, rtol=1e-14)
    np.testing.assert_allclose(back, x, atol=1e-10)
    np.testing.assert_allclose(told, np.linalg.slogdet(slopes)[1], atol=1e-12)


def test_far_out_it_has_slopes_where_numpyro_cuts_off() -> None:
    with jax.enable_x64(True):
        slope = jax.jit(jax.grad(lambda x: jnp.log(ShortCorrCholesky()(x)[1, 1])))(np.array([20.0]))
    np.testing.assert_allclose(slope, [-1.0], rtol=1e-12)


def effects(y: Any, size: int, groups: int | None = None) -> None:
    sd = numpyro.sample("sd", dist.HalfNormal(jnp.ones(size)).to_event(1))
    if groups is None:
        factor = numpyro.sample("L", dist.LKJCholesky(size, 2.0))
    else:
        with numpyro.plate("groups", groups):
            factor = numpyro.sample("L", dist.LKJCholesky(size, 2.0))[0]
    law = dist.MultivariateNormal(jnp.zeros(size), scale_tril=sd[:, None] * factor)
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", law, obs=y)


@pytest.mark.parametrize(("size", "groups"), [(3, None), (2, 2)])
def test_densities_and_slopes_are_numpyros(size: int, groups: int | None) -> None:
    rng = np.random.default_rng(size)
    y = rng.normal(size=(7, size))
    target = vr.Target(effects, y=y, size=size, groups=groups)

    def theirs(z: jax.Array) -> jax.Array:
        return -potential_energy(effects, (y, size, groups), {}, target.unravel(z))

    def ours(z: jax.Array) -> jax.Array:
        return target.log_density_fn(z, target.arrays())

    at = rng.normal(size=(3, target.dim))
    with jax.enable_x64(True):
        values, slopes = jax.jit(jax.vmap(jax.value_and_grad(ours)))(at)
        right, along = jax.jit(jax.vmap(jax.value_and_grad(theirs)))(at)
        program = str(jax.make_jaxpr(ours)(at[0]))
    np.testing.assert_allclose(values, right, rtol=1e-13)
    np.testing.assert_allclose(slopes, along, rtol=1e-9, atol=1e-11)
    assert ("name=cumprod" in program) is (groups is not None)  # a plate's law is left as it is
    np.testing.assert_allclose(target.unconstrain(target.constrain(at[0])), at[0], atol=1e-10)


def test_large_matrices_are_left_to_numpyro() -> None:
    y = np.random.default_rng(0).normal(size=(3, MOST + 1))
    target = vr.Target(effects, y=y, size=MOST + 1)
    with jax.enable_x64(True):
        program = jax.make_jaxpr(target.log_density_fn)(np.zeros(target.dim), target.arrays())
    assert "name=cumprod" in str(program)
