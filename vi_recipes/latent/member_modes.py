"""Every member's log joint to second order in its latent variables, and the mode of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vi_recipes.latent.nodes import cholesky, solve
from vi_recipes.latent.split import Split
from vi_recipes.model import Arrays

FEW = 2
"""Dimension of a member's latent variables up to which derivatives are made column by column."""


NUM_INNER = 200
"""Newton steps towards a member's mode, accepted or not."""


MODE = 1e-12
"""Squared Newton decrement of a member's mode at which it is found."""


LEAST = 1e-8
"""Curvature in units, beside a member's own, that it is damped by at least."""


class MemberTerms(NamedTuple):
    """log p(y_t, z_t | theta) of every member, to second order in z_t."""

    value: Float[Array, " members"]
    gradient: Float[Array, "members d"]
    precision: Float[Array, "members d d"]
    """Minus the Hessian."""


class Modes(NamedTuple):
    """Where a search for the members' modes ended."""

    z: Float[Array, "members d"]
    missed: Float[Array, ""]
    """The largest squared Newton decrement there."""


class Search(NamedTuple):
    """State of a damped Newton search, every member by itself."""

    z: Float[Array, "members d"]
    terms: MemberTerms
    damping: Float[Array, " members"]
    """What is added to the precision's eigenvalues."""
    missed: Float[Array, " members"]
    """Squared Newton decrements."""
    blocked: Float[Array, " members"]
    """The least that a step was to gain, twice over, which lowered the log joint instead."""
    taken: Int[Array, ""] | int
    """Steps."""


def member_terms(
    split: Split, theta: Float[Array, " G"], z: Float[Array, "members d"], arrays: Arrays
) -> MemberTerms:
    """Return every member's log joint, its gradient in z and minus its Hessian there; pure."""

    def value(z: jax.Array) -> jax.Array:
        return split.log_joint(theta, z, arrays).members

    d = split.width
    units = jnp.eye(d)

    # members do not couple: one product along a coordinate of all of them is each one's own
    if d <= FEW:

        def slope(z: jax.Array, j: jax.Array) -> tuple[jax.Array, jax.Array]:
            return jax.jvp(value, (z,), (jnp.broadcast_to(units[j], z.shape),))

        def bend(j: jax.Array, k: jax.Array) -> Any:
            return jax.jvp(lambda z: slope(z, j), (z,), (jnp.broadcast_to(units[k], z.shape),))

        if d == 1:
            (here, first), (_, second) = bend(jnp.asarray(0), jnp.asarray(0))
            return MemberTerms(here, first[:, None], -second[:, None, None])
        j, k = np.triu_indices(d)
        (here, first), (_, second) = jax.vmap(bend)(jnp.asarray(j), jnp.asarray(k))
        gradient = first[np.flatnonzero(j == k)].T
        place = np.zeros((d, d), int)
        place[j, k] = place[k, j] = np.arange(j.size)
        return MemberTerms(here[0], gradient, -jnp.moveaxis(second[place], -1, 0))

    def gradient_of(z: jax.Array) -> jax.Array:
        return jax.grad(lambda z: value(z).sum())(z)

    gradient, push = jax.linearize(gradient_of, z)
    rows = jax.lax.map(lambda u: push(jnp.broadcast_to(u, z.shape)), units)
    hessian = jnp.moveaxis(rows, 0, -1)
    return MemberTerms(value(z), gradient, -(hessian + jnp.swapaxes(hessian, -1, -2)) / 2)


def newton_move(terms: MemberTerms) -> Float[Array, "members d"]:
    """Return every member's Newton step, NaN where its log joint has no mode near; pure."""
    return solve(cholesky(terms.precision), terms.gradient)


def search_modes(
    split: Split,
    theta: Float[Array, " G"],
    z: Float[Array, "members d"],
    arrays: Arrays,
    tolerance: float = MODE,
    *,
    at_kinks: bool = False,
) -> Search:
    """Return every member's mode from a starting point, with its terms there; pure.

    Newton's method, damped for each member by itself: a step that lowers its log joint is taken
    back and shortened. Not to be differentiated; see :func:`terms_at_modes`.

    At a mode that is a kink slopes are no smaller than anywhere near. But there a step lowers the
    log joint that was to gain next to nothing, which it does of no smooth function: the slope turns
    within it, and the mode is no farther than that.

    Parameters
    ----------
    split, theta, z, arrays
        The members, the parameters, the starting point and the data.
    tolerance
        Squared Newton decrement of a member at which its mode is found.
    at_kinks
        Whether a mode that is a kink is found too. What is ``missed`` there is what the last step
        was to gain; the curvature is that of one side.
    """
    # what damps all of a member's coordinates alike must be told of them in units
    unit = jnp.asarray(split.target.units[split.local])

    def propose(terms: MemberTerms, damping: jax.Array) -> jax.Array:
        gradient, precision = unit * terms.gradient, in_units(terms.precision)
        if gradient.shape[-1] == 1:
            return unit * gradient / (jnp.abs(precision[..., 0]) + damping[:, None] + 1e-300)
        values, vectors = jnp.linalg.eigh(precision)
        turned = jnp.einsum("tij,ti->tj", vectors, gradient)
        turned = turned / (jnp.abs(values) + damping[:, None] + 1e-300)
        return unit * jnp.einsum("tij,tj->ti", vectors, turned)

    def in_units(precision: jax.Array) -> jax.Array:
        return precision * unit[:, :, None] * unit[:, None, :]

    def decrement(terms: MemberTerms) -> jax.Array:
        free = propose(terms, jnp.zeros(terms.gradient.shape[0]))
        return (terms.gradient * free).sum(-1)

    def unfinished(search: Search) -> jax.Array:
        return (search.taken < NUM_INNER) & jnp.any(search.missed > tolerance)

    def step(search: Search) -> Search:
        terms, damping, first = search.terms, search.damping, search.taken < 0
        move = jnp.where(first, 0.0, propose(terms, damping))
        candidate = search.z + move
        new = member_terms(split, theta, candidate, arrays)
        finite = jnp.isfinite(new.value) & jnp.isfinite(new.gradient).all(-1)
        noise = 1e-13 * (1.0 + jnp.abs(terms.value))
        better = first | (finite & (new.value >= terms.value - noise))
        size = jnp.abs(jnp.trace(in_units(terms.precision), axis1=-2, axis2=-1)) + LEAST
        damping = jnp.where(better, damping / 10, jnp.maximum(10 * damping, 0.3 * size))
        damping = jnp.where(damping < 1e-3 * size, 0.0, damping)

        def keep(a: jax.Array, b: jax.Array) -> jax.Array:
            return jnp.where(better.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

        kept = jax.tree.map(keep, new, terms)
        z = keep(candidate, search.z)
        missed, blocked = decrement(kept), search.blocked
        if at_kinks:
            lowered = ~better & jnp.isfinite(new.value)
            gain = (terms.gradient * move).sum(-1)
            blocked = jnp.where(lowered, jnp.minimum(blocked, gain), blocked)
            missed = jnp.minimum(missed, blocked)
        return Search(z, kept, damping, missed, blocked, search.taken + 1)

    # the first step only looks where it stands, so that the model is in the loop and nowhere else
    members, d = z.shape
    none = jnp.zeros(members)
    nothing = MemberTerms(none, jnp.zeros((members, d)), jnp.zeros((members, d, d)))
    far = jnp.full(members, jnp.inf)
    start = Search(z, nothing, none, far, far, -1)
    end: Search = jax.lax.while_loop(unfinished, step, start)
    return end


def seek_modes(
    split: Split, theta: Float[Array, " G"], z: Float[Array, "members d"], arrays: Arrays
) -> Modes:
    """Return every member's mode from a starting point, and the worst squared decrement; pure.

    See :func:`search_modes`.
    """
    end = search_modes(split, theta, z, arrays)
    return Modes(end.z, end.missed.max())


def terms_at_modes(
    split: Split,
    theta: Float[Array, " G"],
    z: Float[Array, "members d"],
    arrays: Arrays,
    order: int,
) -> tuple[Float[Array, "members d"], MemberTerms]:
    """Return the modes, and what is there, as functions of theta; pure.

    They can be differentiated ``order`` times. ``z`` holds the modes, as constants. From there
    Newton steps change nothing, but the first has the mode's derivative in theta, as the implicit
    function theorem gives it, and the second its second and third derivatives too.
    """

    def step(z: jax.Array, _: None) -> tuple[jax.Array, tuple[jax.Array, MemberTerms]]:
        terms = member_terms(split, theta, z, arrays)
        return z + newton_move(terms), (z, terms)

    # one step more than is needed: the model is in the loop and nowhere else
    _, passed = jax.lax.scan(step, z, None, length=order + 1)
    at_last: tuple[jax.Array, MemberTerms] = jax.tree.map(lambda values: values[-1], passed)
    return at_last
