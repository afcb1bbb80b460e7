"""Chains of discrete states: their pair potentials, read off any model, and forward-backward.

In a chain log p(y, z | theta) is a sum over times of a function of the state and the one before it.
Paths that swing between two states, j and k, visit every ordered pair at every time: one trace of
the model for each pair of states gives all potentials, whatever the model does at a step.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vi_recipes.latent.split import LogJoint, Split
from vi_recipes.model import Arrays, floored


class Transitions(NamedTuple):
    """A number for every pair of states that follow one another: potentials, or probabilities."""

    first: Float[Array, "K chains"]
    """Of the first states."""
    moves: Float[Array, "K K times-1 chains"]
    """Of the state before (first axis) and the state (second), at all times but the first."""


def swinging(
    num_states: int, num_times: int, chains: int
) -> Int[np.ndarray, "{num_states**2} {num_times*chains}"]:
    """Return paths that swing between all ordered pairs of states."""
    even, odd = np.divmod(np.arange(num_states**2), num_states)
    path = np.where(np.arange(num_times) % 2, odd[:, None], even[:, None])
    return np.repeat(path, chains, axis=1)


def pairs(
    members: Float[Array, "{num_states**2} members"], num_states: int, chains: int
) -> Transitions:
    """Return what the swinging paths say of every pair; pure.

    ``members`` has a term for every path, and every time of every chain.
    """
    K = num_states
    table = members.reshape(K, K, -1, chains)
    # at even times the path's first state follows its second, at odd times the reverse
    even = (np.arange(1, table.shape[2]) % 2 == 0)[:, None]
    moves = jnp.where(even, jnp.swapaxes(table, 0, 1)[:, :, 1:], table[:, :, 1:])
    return Transitions(table[:, 0, 0], moves)


def potentials(
    split: Split, theta: Float[Array, " G"], arrays: Arrays
) -> tuple[Transitions, LogJoint]:
    """Return the log potentials, and the terms of the log joint that no state touches; pure."""
    K = len(split.states)
    paths = jnp.asarray(swinging(K, split.num_members // split.chains, split.chains))
    table = jnp.asarray(split.states)

    def terms(path: jax.Array) -> LogJoint:
        return split.gather(split.elements(theta, table[path], arrays))

    joint = jax.vmap(terms)(paths)
    unbounded = pairs(joint.members, K, split.chains)
    bounded = Transitions(*(floored(v) for v in unbounded))
    return bounded, jax.tree.map(lambda v: v[0], joint)


def log_partition(chains: Transitions) -> Float[Array, " chains"]:
    """Return the logarithm of the sum over all paths; pure.

    Its derivatives in the potentials are the probabilities of the pairs.

    References
    ----------
    Baum, L. E., Petrie, T., Soules, G. and Weiss, N. (1970). A maximization technique occurring in
    the statistical analysis of probabilistic functions of Markov chains. Annals of Mathematical
    Statistics 41(1). doi:10.1214/aoms/1177697196
    """

    def step(before: jax.Array, move: jax.Array) -> tuple[jax.Array, None]:
        return jax.nn.logsumexp(before[:, None] + move, axis=0), None

    last, _ = jax.lax.scan(step, chains.first, jnp.moveaxis(chains.moves, 2, 0))
    return jax.nn.logsumexp(last, axis=0)


def probabilities(chains: Transitions) -> Transitions:
    """Return the posterior probabilities of the pairs of states; pure."""
    return jax.grad(lambda c: log_partition(c).sum())(chains)


def marginals(chains: Transitions) -> Float[Array, "K members"]:
    """Return the probabilities of the states, time before chain, from those of pairs."""
    later = chains.moves.sum(axis=0)
    return jnp.concatenate([chains.first[:, None], later], axis=1).reshape(len(later), -1)
