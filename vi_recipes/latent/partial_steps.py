"""Partial E-steps over enumerated states: of some members, or of each member's likely states.

Any q may stand in the free energy. One that is the posterior for some members, and what it was for
the others, or that shares out anew what it gave to a member's likely states and leaves the unlikely
ones as they are, raises it by less than a full E-step does, but never lowers it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vi_recipes.latent.ascent import State, Step
from vi_recipes.latent.blocks import Blocks, deal
from vi_recipes.latent.marginal import Marginal
from vi_recipes.latent.steps import m_step
from vi_recipes.model import Arrays, or_infinite


class _Share(NamedTuple):
    """What a block adds to Q, and the entropy of its q(z)."""

    part: Array
    """See :meth:`Marginal.part`."""
    entropy: Float[Array, ...]


@dataclass(frozen=True)
class PartialSteps:
    """Iterations of EM with partial E-steps, for a sum over the states of independent members.

    Parameters
    ----------
    marginal
        The likelihood, by enumeration.
    forward, newton
        See :func:`vi_recipes.latent.steps.general_step`.

    References
    ----------
    Neal, R. M. and Hinton, G. E. (1998). A view of the EM algorithm that justifies incremental,
    sparse, and other variants. doi:10.1007/978-94-011-5014-9_12, sections 4 and 5.
    """

    marginal: Marginal
    forward: bool
    newton: bool

    def share(
        self,
        q: Float[Array, "size states"],
        rows: Int[Array, " size"],
        weights: Float[Array, " size"],
    ) -> _Share:
        """Return what members add to Q by their probabilities, and their entropy."""
        some = q > 0
        entropy = -jnp.where(some, q * jnp.log(jnp.where(some, q, 1.0)), 0.0).sum(1)
        own = self.marginal.split.weights
        if own is not None:
            entropy = jnp.asarray(own)[rows] * entropy
        return _Share(self.marginal.part(weights[:, None] * q, rows), (weights * entropy).sum())

    def maximised(
        self, theta: Float[Array, " G"], shares: _Share, arrays: Arrays
    ) -> tuple[Float[Array, " G"], Float[Array, ""]]:
        """Return theta after an M-step, and F(q, theta) there; shares have a leading axis."""
        q = self.marginal.whole(shares.part)

        def expected(theta: jax.Array) -> jax.Array:
            return self.marginal.expected(theta, q, arrays)

        unit = self.marginal.split.target.units[self.marginal.split.border]
        theta = m_step(expected, theta, unit, forward=self.forward, newton=self.newton)
        return theta, or_infinite(expected(theta) + shares.entropy.sum())

    # -- blocks of members -------------------------------------------------------------------------

    def first_shares(self, num_blocks: int) -> Any:
        """Return ``(theta, arrays) -> state``: what passes over blocks start from; pure."""
        blocks = deal(self.marginal.split.num_members, num_blocks)

        def first(theta: jax.Array, arrays: Arrays) -> State:
            return theta, jax.lax.map(lambda block: self._fresh(theta, block, arrays), blocks)

        return first

    def _fresh(self, theta: Array, block: Blocks, arrays: Arrays) -> _Share:
        joint = self.marginal.by_state(theta, arrays, block.rows)
        return self.share(jax.nn.softmax(joint), block.rows, block.weights)

    def over_blocks(self, num_blocks: int) -> Step:
        """Return an iteration that renews q block by block, with an M-step after each.

        Its objective is the free energy after every visit, shape (num_blocks,).
        """
        blocks = deal(self.marginal.split.num_members, num_blocks)

        def one_pass(state: State, arrays: Arrays) -> tuple[State, jax.Array]:
            def visit(state: State, numbered: Any) -> tuple[State, jax.Array]:
                theta, shares = state
                place, block = numbered
                fresh = self._fresh(theta, block, arrays)
                shares = jax.tree.map(lambda all_, new: all_.at[place].set(new), shares, fresh)
                theta, value = self.maximised(theta, shares, arrays)
                return (theta, shares), value

            return jax.lax.scan(visit, state, (jnp.arange(num_blocks), blocks))

        return one_pass

    # -- likely states -----------------------------------------------------------------------------

    def over_likely_states(self, num_sparse: int, freeze_below: float) -> Step:
        """Return an iteration of one full E-step and some sparse ones, with an M-step after each.

        A sparse E-step shares out anew, in proportion to p(y, z | theta), what the full one gave to
        the member's states that have at least ``freeze_below``; the others are frozen. The state is
        (theta, passes), where passes are the probabilities that were renewed, as a multiple of all
        of them. The objective is the passes after every E-step, and then the free energies, shape
        (2 + 2 num_sparse,).
        """
        split = self.marginal.split
        rows, weights = jnp.arange(split.num_members), jnp.ones(split.num_members)

        def iteration(state: State, arrays: Arrays) -> tuple[State, jax.Array]:
            theta, passes = state
            q = jax.nn.softmax(self.marginal.by_state(theta, arrays, rows))
            live = q >= freeze_below
            live = live & (live.sum(1, keepdims=True) > 1)  # one alone keeps what it has
            mass = jnp.where(live, q, 0.0).sum(1, keepdims=True)

            def after(theta: jax.Array, q: jax.Array) -> tuple[jax.Array, jax.Array]:
                shares = jax.tree.map(lambda v: v[None], self.share(q, rows, weights))
                return self.maximised(theta, shares, arrays)

            def sparse(state: State, _: None) -> tuple[State, jax.Array]:
                theta, q = state
                joint = jnp.where(live, self.marginal.by_state(theta, arrays, rows), -jnp.inf)
                q = jnp.where(live, mass * jax.nn.softmax(joint), q)
                theta, value = after(theta, q)
                return (theta, q), value

            theta, first = after(theta, q)
            (theta, _), values = jax.lax.scan(sparse, (theta, q), None, length=num_sparse)
            done = passes + 1 + jnp.mean(live, dtype=float) * np.arange(num_sparse + 1)
            return (theta, done[-1]), jnp.concatenate([done, first[None], values])

        return iteration
