"""Forward-backward recursions of a chain of discrete states, in blocks.

A step of the recursion is a K x K matrix, and matrices multiply in any order: the chain is cut into
about sqrt(T) blocks, whose products are formed side by side, then one pass over the blocks gives
what enters each of them from both sides, and a pass within all blocks at once fills in the states.
O(T K^3) operations in O(sqrt(T)) steps one after the other, and memory for a few T x K arrays.

Where every state can follow every other, none is so unlikely beside the likeliest that it matters
and is rounded to 0: sums are of probabilities. Else a state that is e^-1000 times as likely may be
the only one from which what follows can be reached, and sums are of logarithms, for three times
the work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

FAR = 600.0
"""Nats between two states, or products of three moves with them, up to which none is lost."""


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


class _Blocks(NamedTuple):
    """How the steps after the first are cut into blocks."""

    num_steps: int
    length: int
    blocks: int

    @classmethod
    def of(cls, num_steps: int) -> _Blocks:
        length = max(1, round(num_steps**0.5))
        return cls(num_steps, length, max(1, -(-num_steps // length)))

    def steps(
        self, rows: Float[Array, "steps states"], nothing: float
    ) -> Float[Array, "length states blocks"]:
        """Return steps by their place in a block, shape (length, states, blocks).

        Blocks run along the last axis: every step is the product of a small matrix and a wide one.
        The last is filled up with ``nothing``, by which nothing is known of earlier states.
        """
        missing = self.blocks * self.length - self.num_steps
        filled = jnp.concatenate([rows, jnp.full((missing, rows.shape[1]), nothing, rows.dtype)])
        return filled.reshape(self.blocks, self.length, -1).transpose(1, 2, 0)

    def in_order(self, x: Float[Array, "length ... blocks"]) -> Float[Array, "steps ..."]:
        """Return what a scan over a block's places has made, by step."""
        moved = jnp.moveaxis(x, -1, 0)
        return moved.reshape(self.blocks * self.length, *moved.shape[2:])[: self.num_steps]


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
        NaN where the series has probability zero. What is 0 in ``pi``, and in an ``A`` that has
        zeros, has no slope.

    References
    ----------
    Baum, L. E., Petrie, T., Soules, G. and Weiss, N. (1970). A maximization technique occurring in
    the statistical analysis of probabilistic functions of Markov chains. Annals of Mathematical
    Statistics 41(1). doi:10.1214/aoms/1177697196
    Sarkka, S. and Garcia-Fernandez, A. F. (2021). Temporal parallelization of Bayesian smoothers.
    IEEE Transactions on Automatic Control 66(1). doi:10.1109/TAC.2020.2976316
    """
    moves, densities = jnp.asarray(A), jnp.asarray(log_emitted)
    least = -(float(np.finfo(densities.dtype).max) ** 0.5)
    top = densities.max(axis=1)
    top = jnp.where(top > least, top, 0.0)
    # what is impossible stays finite, so that slopes are
    emitted = jnp.maximum(densities - top[:, None], least)
    first = _logs(jnp.asarray(pi, emitted.dtype), least) + emitted[0]
    far = emitted[1:].min(initial=0.0) + 3 * jnp.log(moves.min() / moves.max())
    lossless = _all_of(jax.lax.stop_gradient(far) > -FAR)
    given = (first, moves, emitted[1:])
    found: Smoothed = jax.lax.cond(lossless, _by_probabilities, _by_logarithms(least), *given)
    possible = found.log_likelihood > least / 2
    found = jax.tree.map(lambda v: jnp.where(possible, v, jnp.nan), found)
    return found._replace(log_likelihood=found.log_likelihood + top.sum())


@jax.custom_batching.custom_vmap
def _all_of(flag: Bool[Array, ""]) -> Bool[Array, ""]:
    """Return whether it holds, of all that are mapped over: both ways would be taken for each."""
    return flag


@_all_of.def_vmap
def _all_of_many(
    _size: int, _batched: list[bool], flags: Bool[Array, " many"]
) -> tuple[Bool[Array, ""], bool]:
    return flags.all(), False


def _by_probabilities(
    log_first: Float[Array, " states"],
    moves: Float[Array, "states states"],
    log_emitted: Float[Array, "steps states"],
) -> Smoothed:
    """Return what is known of a chain, by products of probabilities."""
    K = len(log_first)
    cut = _Blocks.of(len(log_emitted))
    emitted = jnp.exp(log_emitted)
    top = jax.lax.stop_gradient(log_first.max())
    first = jnp.exp(log_first - top)
    log_total = top + jnp.log(first.sum())
    first = first / first.sum()
    steps = cut.steps(emitted, 1.0)

    def multiply(product: jax.Array, b: jax.Array) -> tuple[jax.Array, None]:
        product = jnp.einsum("ijn,jk->ikn", product, moves) * b
        return product / product.max(axis=(0, 1)), None

    unit = jnp.eye(K, dtype=emitted.dtype)[:, :, None]
    products, _ = jax.lax.scan(multiply, jnp.broadcast_to(unit, (K, K, cut.blocks)), steps)
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
    alphas = jnp.concatenate([first[None], cut.in_order(alphas)])
    # emission times what later observations say, of all steps but the first
    weighted = cut.in_order(weighted)
    reached = (alphas[:-1] @ moves) * weighted
    pairs = reached.sum(axis=1, keepdims=True)
    transitions = moves * (alphas[:-1].T @ (weighted / pairs))
    start = alphas[0] * (moves @ weighted[0]) if cut.num_steps else first
    marginals = jnp.concatenate([(start / start.sum())[None], reached / pairs])
    return Smoothed(log_total + jnp.log(cut.in_order(totals)).sum(), marginals, transitions)


def _by_logarithms(least: float) -> Callable[..., Smoothed]:
    """Return what does the same by sums of logarithms, of which ``least`` is the impossible's."""

    def lifted(x: jax.Array, axis: int | tuple[int, ...]) -> jax.Array:
        """Return logarithms less the largest, if anything is possible."""
        largest = jax.lax.stop_gradient(x.max(axis=axis))
        return x - jnp.where(largest > least / 2, largest, 0.0)

    def shared(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return logarithms of shares along the first axis, and of their sum."""
        total = _log_sum(x, axis=0)
        return x - jnp.where(total > least / 2, total, 0.0), total

    def by_logarithms(
        first: Float[Array, " states"],
        moves: Float[Array, "states states"],
        emitted: Float[Array, "steps states"],
    ) -> Smoothed:
        K = len(first)
        cut = _Blocks.of(len(emitted))
        moves = _logs(moves, least)
        steps = cut.steps(emitted, 0.0)

        def multiply(product: jax.Array, b: jax.Array) -> tuple[jax.Array, None]:
            product = _log_sum(product[:, :, None] + moves[:, :, None], axis=1) + b
            return lifted(product, (0, 1)), None

        unit = jnp.where(np.eye(K, dtype=bool), 0.0, least).astype(emitted.dtype)[:, :, None]
        products, _ = jax.lax.scan(multiply, jnp.broadcast_to(unit, (K, K, cut.blocks)), steps)
        products = products.transpose(2, 0, 1)

        def enter(before: jax.Array, product: jax.Array) -> tuple[jax.Array, jax.Array]:
            return shared(_log_sum(before[:, None] + product, axis=0))[0], before

        def leave(after: jax.Array, product: jax.Array) -> tuple[jax.Array, jax.Array]:
            return lifted(_log_sum(product + after, axis=1), 0), after

        first, log_total = shared(first)
        _, entering = jax.lax.scan(enter, first, products)
        _, leaving = jax.lax.scan(leave, jnp.zeros(K, emitted.dtype), products, reverse=True)

        def forward(before: jax.Array, b: jax.Array) -> tuple[jax.Array, Any]:
            here, total = shared(_log_sum(before[:, None] + moves[:, :, None], axis=0) + b)
            return here, (here, total)

        def backward(after: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
            weighted = b + after
            return lifted(_log_sum(moves[:, :, None] + weighted, axis=1), 0), weighted

        _, (alphas, totals) = jax.lax.scan(forward, entering.T, steps)
        _, weighted = jax.lax.scan(backward, leaving.T, steps, reverse=True)
        alphas = jnp.concatenate([first[None], cut.in_order(alphas)])
        pairs = alphas[:-1, :, None] + moves + cut.in_order(weighted)[:, None, :]
        pairs = jnp.exp(pairs - _log_sum(pairs, axis=(1, 2))[:, None, None])
        start = pairs[0].sum(axis=1) if cut.num_steps else jnp.exp(first)
        marginals = jnp.concatenate([start[None], pairs.sum(axis=1)])
        log_likelihood = log_total + cut.in_order(totals).sum()
        return Smoothed(log_likelihood, marginals, pairs.sum(axis=0))

    return by_logarithms


def _logs(p: jax.Array, least: float) -> jax.Array:
    """Return logarithms, ``least`` of what is 0."""
    return jnp.where(p > 0, jnp.log(jnp.where(p > 0, p, 1.0)), least)


def _log_sum(x: jax.Array, axis: int | tuple[int, ...]) -> jax.Array:
    """Return the logarithm of a sum of what is given by finite logarithms."""
    top = jax.lax.stop_gradient(x.max(axis=axis, keepdims=True))
    summed: jax.Array = jnp.log(jnp.exp(x - top).sum(axis=axis)) + jnp.squeeze(top, axis)
    return summed
