"""Optimal transport with an entropic penalty, by Sinkhorn's iterations in the log domain."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

MAX_ITERATIONS = 200

TOLERANCE = 1e-2
"""Mass that may be out of place, of 1."""


def transport(
    cost: Float[Array, "n m"],
    log_a: Float[Array, " n"],
    log_b: Float[Array, " m"],
    penalty: float | Float[Array, ""],
    *,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
) -> Float[Array, ""]:
    """Return the least of <plan, cost> + penalty KL(plan || a b') over plans with marginals a, b.

    Its derivative in the cost is the plan, by the envelope theorem: nothing goes back through the
    iterations, and the derivatives in the marginals and the penalty are not given.

    Parameters
    ----------
    cost
        From every point to every other.
    log_a, log_b
        Logs of the masses, which add up to 1; minus infinity for none.
    penalty
        Of the entropic term, in units of the cost.
    tolerance
        Mass that may be out of place when the iterations end.
    max_iterations
        When they end in any case.

    References
    ----------
    Cuturi, M. (2013). Sinkhorn distances: lightspeed computation of optimal transport. NeurIPS 26.
    Peyré, G. and Cuturi, M. (2019). Computational optimal transport. Foundations and Trends in
    Machine Learning 11, section 4.4. doi:10.1561/2200000073
    """
    held, log_a, log_b, penalty = jax.lax.stop_gradient(
        (cost, log_a, log_b, jnp.asarray(penalty, cost.dtype))
    )
    kernel = -held / penalty

    def to_rows(v: Array) -> Array:
        return -logsumexp(kernel + (log_b + v)[None, :], axis=1)

    def to_columns(u: Array) -> Array:
        return -logsumexp(kernel + (log_a + u)[:, None], axis=0)

    def step(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        u, v, _, k = carry
        new = to_rows(v)
        # after a turn of the columns they are right, and this is what the rows have out of place
        missed = jnp.abs(jnp.exp(log_a) * jnp.expm1(u - new)).sum()
        return new, to_columns(new), missed, k + 1

    def goes_on(carry: tuple[Array, Array, Array, Array]) -> Array:
        return (carry[2] > tolerance) & (carry[3] < max_iterations)

    u = jnp.zeros_like(log_a)
    first = (u, to_columns(u), jnp.asarray(jnp.inf, cost.dtype), jnp.int32(0))
    u, v, _, _ = jax.lax.while_loop(goes_on, step, first)
    plan = jnp.exp(kernel + (log_a + u)[:, None] + (log_b + v)[None, :])
    value = penalty * (jnp.exp(log_a) @ u + jnp.exp(log_b) @ v)
    moved = (plan * cost).sum()
    return value + moved - jax.lax.stop_gradient(moved)
