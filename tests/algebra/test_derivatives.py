"""Second derivatives in forward mode, and what they stand for in larger functions."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from vi_recipes.algebra import parabola, second_order, second_order_beside


def bent(x: jax.Array) -> jax.Array:
    return jnp.sum(jnp.exp(x) * jnp.sin(x[::-1])) + jnp.prod(x)


def test_forward_mode_has_the_same_derivatives() -> None:
    x = np.array([0.3, -1.2, 0.7])
    with jax.enable_x64(True):
        found = second_order(bent, jnp.asarray(x), True)
        np.testing.assert_allclose(found[0], bent(x), rtol=1e-14)
        np.testing.assert_allclose(found[1], jax.grad(bent)(x), rtol=1e-13)
        np.testing.assert_allclose(found[2], jax.hessian(bent)(x), rtol=1e-12, atol=1e-14)


def test_a_parabola_has_the_derivatives_of_what_it_stands_for() -> None:
    """Also in what its point depends on, and beside other factors."""

    def whole(t: jax.Array, inner: object) -> jax.Array:
        x = jnp.tanh(t) * jnp.array([1.0, 2.0, -0.5]) + t[::-1] ** 2
        value = bent(x) if inner is None else parabola(second_order_beside(both, x), x)
        return value * jnp.exp(t[0])

    def both(x: jax.Array) -> tuple[jax.Array, None]:
        return bent(x), None

    t = np.array([0.4, -0.3, 0.9])
    with jax.enable_x64(True):
        for derive in (lambda f: f, jax.grad, jax.hessian, lambda f: jax.jacrev(jax.grad(f))):
            found = jax.jit(derive(lambda t: whole(t, parabola)))(jnp.asarray(t))
            expected = jax.jit(derive(lambda t: whole(t, None)))(jnp.asarray(t))
            np.testing.assert_allclose(found, expected, rtol=1e-12)
