"""Forward-backward recursions of a chain of discrete states, in blocks.

A step of the recursion is a K x K matrix, and matrices multiply in any order: the chain is cut into
about sqrt(T) blocks, whose products are formed side by side, then one pass over the blocks gives
what enters each of them from both sides, and a pass within all blocks at once fills in the states.
O(T K^3) operations in O(sqrt(T)) steps one after the other, and memory for a few T x K arrays.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


class Smoothed(NamedTuple):
    """What is known of the states of a chain given its observations.

    Parameters
    ----------
    log_likelihood
        log p(y), summed over the paths of the states.
    marginals
        p(z_t = k | y), shape (T, K).
    transitions
        Expected numbers of moves from a state (rows) to the next (columns), shape (K, K).
    """

    log_likelihood: Float[Array, ""]
    marginals: Float[Array, "steps states"]
    transitions: Float[Array, "states states"]


def smooth(
    pi: Float[Array | np.ndarray, " states"],
    A: Float[Array | np.ndarray, "states states"],
    log_emitted: Float[Array | np.ndarray, "steps states"],
) -> Smoothed:
    """Return the log-likelihood of a series and the posterior of its states.

    Parameters
    ----------
    pi
        Probabilities of the first state, shape (K,).
    A
        Probabilities of the next state (columns) given the present one (rows), shape (K, K).
    log_emitted
        Log density of every observation given each state, shape (T, K).

    Returns
    -------
    Smoothed
        NaN where the series has probability zero.

    References
    ----------
    Baum, L. E., Petrie, T., Soules, G. and Weiss, N. (1970). A maximization technique occurring in
    the statistical analysis of probabilistic functions of Markov chains. Annals of Mathematical
    Statistics 41(1). doi:10.1214/aoms/1177697196
    Sarkka, S. and Garcia-Fernandez, A. F. (2021). Temporal parallelization of Bayesian smoothers.
    IEEE Transactions on Automatic Control 66(1). doi:10.1109/TAC.2020.2976316
    """
    moves, densities = jnp.asarray(A), jnp.asarray(log_emitted)
    T, K = densities.shape
    top = densities.max(axis=1)
    emitted = jnp.exp(densities - top[:, None])
    first = jnp.asarray(pi) * emitted[0]
    log_first = jnp.log(first.sum())
    first = first / first.sum()
    num_steps = T - 1
    length = max(1, round(num_steps**0.5))
    num_blocks = max(1, -(-num_steps // length))
    missing = num_blocks * length - num_steps
    # a step that emits with probability one changes nothing that is known of earlier states
    padded = jnp.concatenate([emitted[1:], jnp.ones((missing, K), emitted.dtype)])
    # blocks run along the last axis: every step is the product of a small matrix and a wide one
    steps = padded.reshape(num_blocks, length, K).transpose(1, 2, 0)

    def multiply(product: jax.Array, b: jax.Array) -> tuple[jax.Array, None]:
        product = jnp.einsum("ijn,jk->ikn", product, moves) * b
        return product / product.max(axis=(0, 1)), None

    identity = jnp.broadcast_to(jnp.eye(K, dtype=emitted.dtype)[:, :, None], (K, K, num_blocks))
    products, _ = jax.lax.scan(multiply, identity, steps)
    products = products.transpose(2, 0, 1)

    def enter(before: jax.Array, product: jax.Array) -> tuple[jax.Array, jax.Array]:
        after = before @ product
        return after / after.sum(), before

    def leave(after: jax.Array, product: jax.Array) -> tuple[jax.Array, jax.Array]:
        before = product @ after
        return before / before.sum(), after

    _, entering = jax.lax.scan(enter, first, products)
    last = jnp.full(K, 1 / K, emitted.dtype)
    _, leaving = jax.lax.scan(leave, last, products, reverse=True)

    def forward(before: jax.Array, b: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        here = (moves.T @ before) * b
        total = here.sum(axis=0)
        here = here / total
        return here, (here, total)

    def backward(after: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
        weighted = b * after
        before = moves @ weighted
        return before / before.sum(axis=0), weighted

    _, (alphas, totals) = jax.lax.scan(forward, entering.T, steps)
    _, weighted = jax.lax.scan(backward, leaving.T, steps, reverse=True)

    def in_order(x: jax.Array) -> jax.Array:
        moved = jnp.moveaxis(x, -1, 0)
        return moved.reshape(num_blocks * length, *moved.shape[2:])[:num_steps]

    alphas = jnp.concatenate([first[None], in_order(alphas)])
    weighted = in_order(weighted)  # emission times what later observations say, of steps 1 to T - 1
    pairs = ((alphas[:-1] @ moves) * weighted).sum(axis=1, keepdims=True)
    transitions = moves * (alphas[:-1].T @ (weighted / pairs))
    later = ((alphas[:-1] @ moves) * weighted) / pairs
    start = alphas[0] * (moves @ weighted[0]) if num_steps else first
    marginals = jnp.concatenate([(start / start.sum())[None], later])
    log_likelihood = log_first + jnp.log(in_order(totals)).sum() + top.sum()
    return Smoothed(log_likelihood, marginals, transitions)
