"""The steps of EM for any model: an E-step of weighted nodes, an M-step by Newton or L-BFGS.

Everything here is traced by JAX, so that many iterations of many starts run in one compiled loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from vi_recipes.algebra import second_order
from vi_recipes.latent.ascent import State, Step
from vi_recipes.latent.marginal import Marginal
from vi_recipes.model import Arrays

NUM_NEWTON = 25
"""Newton steps of one M-step, accepted or not."""

SOLVED = 1e-16
"""Squared Newton decrement at which an M-step is solved."""

NUM_BFGS = 50
"""L-BFGS steps of one M-step."""

ENOUGH = 1e-6
"""Share of an M-step's first squared decrement that L-BFGS may leave to the next iteration."""

MEMORY = 20
"""Pairs of steps and gradients that L-BFGS remembers."""

LONGEST = 4.0
"""Longest move of an M-step's single Newton step, in units of the coordinates."""


class _Newton(NamedTuple):
    """State of a Newton search for a maximum."""

    x: Float[Array, " G"]
    value: Float[Array, ""]
    gradient: Float[Array, " G"]
    hessian: Float[Array, "G G"]
    missed: Float[Array, ""]
    """Squared Newton decrement."""
    share: Float[Array, ""]
    """Share of the next Newton step that is taken."""
    taken: Int[Array, ""] | int
    """Steps."""


class _LBFGS(NamedTuple):
    """State of an L-BFGS search for a maximum."""

    x: Float[Array, " G"]
    solver: Any
    """The solver's own state."""
    missed: Float[Array, ""] | float
    """Its estimate of the squared decrement."""
    first: Float[Array, ""] | float
    """What that was after the second step."""
    taken: Int[Array, ""] | int
    """Steps."""


def maximise(
    function: Callable[[jax.Array], jax.Array],
    start: Float[Array, " G"],
    unit: Float[np.ndarray, " G"],
    *,
    forward: bool,
) -> Float[Array, " G"]:
    """Return a maximum of a smooth function near ``start``, never a lower point; pure.

    Newton's method with the eigenvalues of minus the Hessian made positive, and steps cut to a
    quarter until they raise the function.
    """

    def propose(gradient: jax.Array, hessian: jax.Array) -> tuple[jax.Array, jax.Array]:
        values, vectors = jnp.linalg.eigh(-(hessian + hessian.T) / 2 * np.outer(unit, unit))
        size = jnp.abs(values)
        size = jnp.maximum(size, 1e-12 * size.max() + 1e-300)
        turned = vectors.T @ (unit * gradient)
        step = vectors @ (turned / size)
        share = jnp.minimum(1.0, LONGEST / jnp.abs(step).max())
        return jnp.asarray(unit * step * share), (turned**2 / size).sum()

    def unfinished(state: _Newton) -> jax.Array:
        return (state.taken < NUM_NEWTON) & (state.missed > SOLVED)

    def take_step(state: _Newton) -> _Newton:
        step, missed = propose(state.gradient, state.hessian)
        candidate = state.x + state.share * step
        new_value, new_gradient, new_hessian = second_order(function, candidate, forward)
        finite = jnp.isfinite(new_value) & jnp.isfinite(new_hessian).all()
        # to rounding, a value does not tell small steps apart, and Newton's may be trusted
        noise = 1e-14 * (1.0 + jnp.abs(state.value))
        better = finite & (new_value >= state.value - noise)
        new = (candidate, new_value, new_gradient, new_hessian)
        old = (state.x, state.value, state.gradient, state.hessian)
        x, value, gradient, hessian = jax.tree.map(lambda a, b: jnp.where(better, a, b), new, old)
        share = jnp.where(better, jnp.minimum(1.0, 4 * state.share), state.share / 4)
        after = jnp.where(better, propose(gradient, hessian)[1], missed)
        return _Newton(x, value, gradient, hessian, after, share, state.taken + 1)

    value, gradient, hessian = second_order(function, start, forward)
    missed = propose(gradient, hessian)[1]
    state = _Newton(start, value, gradient, hessian, missed, jnp.ones(()), 0)
    end: _Newton = jax.lax.while_loop(unfinished, take_step, state)
    return end.x


def ascend(
    function: Callable[[jax.Array], jax.Array],
    start: Float[Array, " G"],
    unit: Float[np.ndarray, " G"],
) -> Float[Array, " G"]:
    """Return a higher point of a smooth function, near a maximum, never a lower one; pure.

    L-BFGS, which forms no Hessian. It stops where its own estimate of the squared decrement has
    fallen to a small share of the first: an M-step need only gain ground.
    """

    def loss(x: jax.Array) -> jax.Array:
        value = -function(jnp.asarray(unit * x))
        return jnp.where(jnp.isfinite(value), value, jnp.inf)

    solver = optax.lbfgs(memory_size=MEMORY)
    value_and_grad = optax.value_and_grad_from_state(loss)

    def unfinished(state: _LBFGS) -> jax.Array:
        taken, missed = jnp.asarray(state.taken), jnp.asarray(state.missed)
        return (taken < 2) | (
            (taken < NUM_BFGS) & (missed > ENOUGH * state.first) & (missed > SOLVED)
        )

    def take_step(state: _LBFGS) -> _LBFGS:
        x, first = state.x, state.first
        value, gradient = value_and_grad(x, state=state.solver)
        move, inner = solver.update(
            gradient, state.solver, x, value=value, grad=gradient, value_fn=loss
        )
        missed = jnp.abs(move @ gradient)
        new = x + move
        reached = optax.tree.get(inner, "value")
        better = jnp.isfinite(new).all() & (reached <= value)
        # the first step is along the gradient, whose length says nothing; the second's does
        first = jnp.where(state.taken == 1, missed, first)
        missed = jnp.where(better, missed, 0.0)
        return _LBFGS(jnp.where(better, new, x), inner, missed, first, state.taken + 1)

    begin = jnp.asarray(start / unit)
    state = _LBFGS(begin, solver.init(begin), jnp.inf, 0.0, 0)
    end: _LBFGS = jax.lax.while_loop(unfinished, take_step, state)
    return jnp.asarray(unit * end.x)


def general_step(marginal: Marginal, *, forward: bool, newton: bool = True) -> Step:
    """Return one EM iteration of (theta, modes) on the unconstrained scale.

    The M-step is by Newton's method, whose Hessians are made by forward mode alone where it is
    quicker, or else by L-BFGS.

    Where the nodes are those of quadrature, the likelihood they add up to has a gradient that
    differs a little from that of Q, because the nodes move with theta. Q then carries the
    difference as a linear term, so that EM ends where that likelihood is highest, with any number
    of nodes.
    """
    unit = marginal.split.target.units[marginal.split.border]

    def step(state: State, arrays: Arrays) -> tuple[State, jax.Array]:
        theta, z = state
        z, _ = marginal.seek(theta, z, arrays)
        exact = marginal.rule != "quadrature"
        if exact:
            value, q = marginal.value_and_posterior(theta, z, arrays, order=1)
            tilt = jnp.zeros_like(theta)
        else:
            (value, q), slope = jax.value_and_grad(marginal.value_and_posterior, has_aux=True)(
                theta, z, arrays, order=1
            )
            tilt = slope - jax.grad(marginal.expected)(theta, q, arrays)

        def objective(new: jax.Array) -> jax.Array:
            return marginal.expected(new, q, arrays) + tilt @ (new - theta)

        return (m_step(objective, theta, unit, forward=forward, newton=newton), z), value

    return step


def m_step(
    objective: Callable[[jax.Array], jax.Array],
    theta: Float[Array, " G"],
    unit: Float[np.ndarray, " G"],
    *,
    forward: bool,
    newton: bool,
) -> Float[Array, " G"]:
    """Return a maximum of Q near theta by Newton's method, or a higher point by L-BFGS; pure."""
    if newton:
        return maximise(objective, theta, unit, forward=forward)
    return ascend(objective, theta, unit)


def squarem(step: Step) -> Step:
    """Return an iteration that extrapolates two of ``step`` and keeps what does not lose ground.

    References
    ----------
    Varadhan, R. and Roland, C. (2008). Simple and globally convergent methods for accelerating the
    convergence of any EM algorithm. doi:10.1111/j.1467-9469.2007.00585.x, scheme S3.
    """

    def cycle(state: State, inputs: Any) -> tuple[State, jax.Array]:
        first, value = step(state, inputs)
        second, between = step(first, inputs)
        theta, unravel = ravel_pytree(_theta(state))
        once, twice = (ravel_pytree(_theta(s))[0] for s in (first, second))
        r = once - theta
        v = twice - once - r
        length = -jnp.sqrt((r @ r) / jnp.maximum(v @ v, 1e-300))
        length = jnp.minimum(length, -1.0)
        far = unravel(theta - 2 * length * r + length**2 * v)
        jump = (far, *second[1:]) if isinstance(second, tuple) else far
        landed, reached = step(jump, inputs)
        finite = jnp.isfinite(reached)
        for leaf in jax.tree.leaves(landed):
            finite = finite & jnp.isfinite(leaf).all()
        better = finite & (reached >= between)
        chosen = jax.tree.map(lambda a, b: jnp.where(better, a, b), landed, second)
        return chosen, value

    return cycle


def _theta(state: State) -> Any:
    """Return the part of a state that is extrapolated: without the modes of z."""
    return state[0] if isinstance(state, tuple) else state
