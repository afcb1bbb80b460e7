"""Chains in a space of coordinates: compiled once for a target, started, run and put together."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vi_recipes.core import Progress, Timing, shapes_of
from vi_recipes.methods.nuts.kernel import Chains, KernelSettings
from vi_recipes.methods.nuts.running import (
    ChainWatch,
    Draws,
    Evaluate,
    merge,
    run_chains,
    start_chains,
)
from vi_recipes.model import Target

MAX_CHUNK = 500
"""Most iterations between two looks at progress and interrupts."""

MIN_KEPT = 50
"""Fewest draws a chain an interrupted run is worth keeping for."""


@dataclass(frozen=True)
class ChainSpace:
    """What chains move in.

    Parameters
    ----------
    log_density
        ``(coordinates, inputs) -> log density``; pure.
    inputs
        What it takes besides the coordinates.
    dim
        Coordinates.
    code
        What tells its code from that of other spaces of the target.
    search
        ``(key, evaluate)`` evaluates at points until one is of finite density.
    unit
        Of the points of the search, in coordinates.
    """

    log_density: Callable[[jax.Array, Any], jax.Array]
    inputs: Any
    dim: int
    code: Hashable
    search: Callable[[jax.Array, Evaluate], object]
    unit: Float[np.ndarray, " dim"] | float = 1.0


@dataclass(frozen=True)
class ChainPlan:
    """How many chains of which length, and how they are run.

    Parameters
    ----------
    settings
        Of the kernel.
    num_samples, num_chains
        Draws kept per chain, and chains.
    vectorized
        Whether they run in lockstep.
    dtype
        ``"float64"`` or ``"float32"``.
    """

    settings: KernelSettings
    num_samples: int
    num_chains: int
    vectorized: bool
    dtype: str


class Sampled(NamedTuple):
    """Draws after warm-up."""

    z: Float[np.ndarray, "chain draw dim"]
    stats: Draws
    stopped: bool
    """Whether an interrupt came."""


def sample(
    target: Target,
    space: ChainSpace,
    plan: ChainPlan,
    key: jax.Array,
    timing: Timing,
    progress: Progress,
) -> Sampled:
    """Return the draws of all chains.

    Raises
    ------
    KeyboardInterrupt
        Where an interrupt came before there were draws worth keeping.
    """
    num_warmup = plan.settings.num_warmup
    total = num_warmup + plan.num_samples
    capacity = min(MAX_CHUNK, max(1, -(-total // 40)))
    states, run = _compile(target, space, plan, key, capacity, timing)
    watch = ChainWatch(progress, total * len(states))
    with timing.running():
        parts = run_chains(
            lambda state, n: run(state, n, space.inputs),
            states,
            num_warmup,
            plan.num_samples,
            capacity,
            watch,
            x64=plan.dtype == "float64",
        )
        merged = merge(parts, plan.vectorized)
        timing.gradient_evaluations += int(merged["num_steps"].sum())
        kept = {name: value[:, num_warmup:] for name, value in merged.items()}
        if watch.stopped and kept["z"].shape[1] < MIN_KEPT:
            raise KeyboardInterrupt
        z = kept.pop("z").astype(float)
    return Sampled(z, kept, watch.stopped)


def _compile(
    target: Target,
    space: ChainSpace,
    plan: ChainPlan,
    key: jax.Array,
    capacity: int,
    timing: Timing,
) -> tuple[list[Any], Callable[..., Any]]:
    """Return the initial states of the chains, and the code that takes them on.

    The code is kept with the target.
    """
    chains = Chains(space.log_density, space.dim, plan.settings)
    code = plan.settings, space.code, plan.dtype
    origin, inputs = jnp.zeros(space.dim), space.inputs
    begin = target.compiled_once(
        ("start of NUTS", code, shapes_of(origin, inputs)),
        lambda: timing.compile(chains.begin, key, origin, inputs),
    )
    with timing.running():
        states = start_chains(
            key,
            plan.num_chains,
            lambda key, z: begin(key, jnp.asarray(z / space.unit, float), inputs),
            space.search,
        )
    if plan.vectorized:
        states = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)]
    run = target.compiled_once(
        ("chunk of NUTS", code, capacity, plan.vectorized, shapes_of(states[0], inputs)),
        lambda: timing.compile(
            chains.make_chunk(capacity, plan.vectorized), states[0], jnp.int32(1), inputs
        ),
    )
    return states, run
