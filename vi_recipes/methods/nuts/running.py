"""Chains of the sampler, run in pieces."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vi_recipes.core import Beside, MethodFailure, Progress, Status, split_key
from vi_recipes.model import NUM_ATTEMPTS

Draws = dict[str, np.ndarray]
"""Name -> array (chain, iteration, ...), or of one chain (iteration, ...)."""


Evaluate = Callable[[np.ndarray], tuple[Any, Any]]
"""A point -> value and gradient there."""


def start_chains(
    key: jax.Array,
    num_chains: int,
    begin: Callable[[jax.Array, np.ndarray], Any],
    search: Callable[[jax.Array, Evaluate], object],
) -> list[Any]:
    """Return the initial state of every chain, each of finite density.

    Parameters
    ----------
    key
        Seeds the starting points and the chains.
    num_chains
        Their number.
    begin
        ``(key, z) -> state``.
    search
        ``(key, evaluate)`` evaluates at points until one is of finite density.
    """
    keys = split_key(key, 2 * num_chains)
    states = []
    for start_key, kernel_key in zip(keys[::2], keys[1::2], strict=True):
        made: list[Any] = []

        def evaluate(
            z: np.ndarray, key: jax.Array = kernel_key, made: list[Any] = made
        ) -> tuple[Any, Any]:
            made.append(begin(key, z))
            return made[-1].potential_energy, made[-1].z_grad

        search(start_key, evaluate)
        states.append(made[-1])
    return states


def around_zero(
    key: jax.Array, evaluate: Evaluate, *, scatter: float, dim: int, near: str, advice: str
) -> None:
    """Evaluate at uniform points around 0, closer in at every attempt, until one is finite.

    Parameters
    ----------
    key, evaluate
        Of the points, and what is tried there.
    scatter, dim
        Half-width of the points, and coordinates.
    near, advice
        What is at 0, and what to do where none is finite.
    """
    for attempt in range(NUM_ATTEMPTS):
        width = scatter * 0.7**attempt
        uniform = jax.random.uniform(jax.random.fold_in(key, attempt), (dim,), float, -1, 1)
        value, gradient = evaluate(width * np.asarray(uniform))
        if np.isfinite(value) and np.isfinite(gradient).all():
            return
    raise MethodFailure(Status.DIVERGED, f"no finite density near {near}", advice)


class ChainWatch:
    """Counts iterations over all chains, reports them, and carries the order to stop."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()

    @property
    def stopped(self) -> bool:
        """Whether the chains are to stop."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Have the chains stop after their chunks."""
        self._stop.set()

    def advance(self, n: int) -> None:
        """Take note of ``n`` iterations of a chain."""
        with self._lock:
            self._done += n
            try:
                self._progress(self._done, self._total, "iterations")
            except KeyboardInterrupt:  # not lost with the chain's thread: the draws are kept
                self.stop()


def run_chains(
    run: Callable[[Any, jax.Array], Any],
    states: list[Any],
    num_warmup: int,
    num_samples: int,
    capacity: int,
    watch: ChainWatch,
    *,
    x64: bool,
) -> list[list[Draws]]:
    """Run every chain on a thread of its own; return the chunks of each.

    Compiled code runs outside Python's interpreter lock, so threads use all cores.
    """

    def chain(state: Any) -> list[Draws]:
        parts: list[Draws] = []
        with jax.enable_x64(x64):  # the setting is per thread
            for phase in (num_warmup, num_samples):
                for first in range(0, phase, capacity):
                    if watch.stopped:
                        return parts
                    n = min(capacity, phase - first)
                    state, buffers = run(state, jnp.int32(n))
                    parts.append({k: np.asarray(v)[:n] for k, v in buffers.items()})
                    watch.advance(n)
        return parts

    def until_one_raises(state: Any) -> list[Draws]:
        try:
            return chain(state)
        except BaseException:
            watch.stop()
            raise

    chains = [
        Beside(partial(until_one_raises, state), f"chain {k}") for k, state in enumerate(states)
    ]
    try:
        for one in chains:
            one.start()
        for one in chains:
            one.wait()
    except KeyboardInterrupt:
        watch.stop()
    except BaseException:  # no room for another thread
        watch.stop()
        raise
    return [one.result() if one.begun or one.over else [] for one in chains]


def merge(parts: list[list[Draws]], vectorized: bool) -> Draws:
    """Return arrays (chain, iteration, ...), cut to the shortest chain."""
    if any(not chain for chain in parts):
        raise KeyboardInterrupt
    chains = [
        {name: np.concatenate([part[name] for part in chain]) for name in chain[0]}
        for chain in parts
    ]
    if vectorized:
        return {name: np.swapaxes(value, 0, 1) for name, value in chains[0].items()}
    shortest = min(len(chain["z"]) for chain in chains)
    return {name: np.stack([chain[name][:shortest] for chain in chains]) for name in chains[0]}
