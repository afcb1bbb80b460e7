"""Discrete latent variables: their states, and whether they are members' or a chain's.

The member of every element is found by setting the members' states to the digits of their index.
Discrete states that only depend on those of the time before are a chain, which is verified on
random paths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpyro import handlers

from vi_recipes.core import COMPILED_QUICKLY, MethodFailure, Status
from vi_recipes.latent.chains import pairs, swinging
from vi_recipes.latent.split import Elements, Split
from vi_recipes.model import (
    MAX_STATES,
    SAME_DENSITY,
    Arrays,
    CoupledError,
    Site,
    Target,
    comparable,
    listed,
    members_of,
    scale_of,
)


def states_of(bare: Split, names: Sequence[str]) -> Split:
    """Return the split whose latent variables are the discrete sites named, with their states.

    Which member an element belongs to is not known yet.

    Raises
    ------
    MethodFailure
        ``NOT_APPLICABLE`` for sites of different shapes, and for too many states.
    """
    target = bare.target
    sites: list[Site] = [target.sites[n] for n in names]
    shapes = {s.shape for s in sites}
    if len(shapes) > 1:
        named = listed((s.name, s.shape) for s in sites)
        raise MethodFailure(
            Status.NOT_APPLICABLE,
            f"the discrete latent sites have different shapes ({named}): their states do not "
            "belong to the same members",
            "MAP, Laplace, SVI and NUTS sum them out by NumPyro's enumeration",
        )
    supports = _supports(target, names)
    count = int(np.prod([len(v) for v in supports]))
    if count > MAX_STATES:
        raise MethodFailure(
            Status.NOT_APPLICABLE,
            f"latent {', '.join(names)} has {count} combined states a member; enumeration takes at "
            f"most {MAX_STATES}",
            "bound its support, or use SVI or NUTS",
        )
    # scalar sites are one member; else every element of the sites is
    size = int(np.prod(sites[0].shape, dtype=int))
    plates = " x ".join(name for name, _, _ in sites[0].plates)
    return replace(
        bare,
        latents=tuple(names),
        kind="discrete",
        states=np.array(list(product(*supports))).reshape(count, len(names)),
        num_members=size,
        plate=plates,
    )


def _supports(target: Target, names: Sequence[str]) -> list[list[int]]:
    """Return the values of each discrete site."""
    model = handlers.seed(target.complete_model.function, jax.random.key(0))
    trace = handlers.trace(model).get_trace(**target.keywords(target.arrays()))
    return [
        np.asarray(trace[name]["fn"].enumerate_support(expand=False)).ravel().tolist()
        for name in names
    ]


def as_members(this: Split) -> Split:
    """Find the member of every element by giving the members the digits of their index as states.

    An element of member t then equals, digit by digit, its value with everyone in the first state
    or with everyone in another; random states verify it.

    Raises
    ------
    MethodFailure
        ``NOT_APPLICABLE`` where members are coupled, with the sites that couple them.
    """
    rng = np.random.default_rng(3)
    theta, look = _probe(this, rng)
    try:
        index = members_of(look, len(this.states), this.num_members)
    except CoupledError as error:
        raise MethodFailure(
            Status.NOT_APPLICABLE,
            f"no E-step for {', '.join(this.latents)}: members of "
            f"{this.plate or 'the sites'} are coupled through {error}",
            "MAP, Laplace, SVI and NUTS sum the states out by NumPyro's enumeration",
        ) from None
    if moved := [name for name in index if name in this.parameters]:
        raise MethodFailure(
            Status.NOT_APPLICABLE,
            f"the density of {moved[0]} depends on {', '.join(this.latents)}",
            "name it as latent too, or use NUTS",
        )
    own = np.arange(this.num_members).reshape(this.target.sites[this.latents[0]].shape)
    index |= dict.fromkeys(this.latents, own)
    summed = this.target.state_sum
    verified = replace(this, index=index, weights=None if summed is None else summed.weights)
    everyone = [look(np.full(this.num_members, k)) for k in range(len(this.states))]
    return replace(verified, broadcast=_may_broadcast(verified, theta, everyone))


def _probe(
    this: Split, rng: np.random.Generator
) -> tuple[Float[Array, " G"], Callable[[Int[np.ndarray, " members"]], dict[str, np.ndarray]]]:
    """Return random parameters, and what gives the elements there for states of all members."""
    start, arrays = this.target.anywhere(), this.target.arrays()
    theta = jnp.asarray(start + 0.3 * rng.standard_normal(start.size))
    table = jnp.asarray(this.states)
    evaluate = this.target.compiled_once(
        ("elements by state", this.latents),
        lambda: jax.jit(
            lambda theta, states, arrays: this.elements(theta, table[states], arrays),
            compiler_options=COMPILED_QUICKLY,
        ),
    )

    def look(states: np.ndarray) -> dict[str, np.ndarray]:
        elements = evaluate(theta, jnp.asarray(states), arrays)
        return {n: np.asarray(v) for n, v in elements.items()}

    return theta, look


def as_chains(this: Split) -> Split | None:
    """Return the split into the times of chains of states; ``None`` where there are none.

    The first axis of the site is time; what the axes behind it number are chains. An element has
    the time of its place along its own first axis. It is then as random paths and the pairs of
    states that they visit say that it should be.
    """
    target, members, count = this.target, this.num_members, len(this.states)
    shape = target.sites[this.latents[0]].shape
    if len(this.latents) > 1 or not shape or shape[0] < 2:
        return None
    rng = np.random.default_rng(3)
    _, look = _probe(this, rng)
    chains = members // shape[0]
    swings = [look(path) for path in swinging(count, shape[0], chains)]
    paths = rng.integers(count, size=(3, members))
    checks = [look(path) for path in paths]
    index = {}
    for name in swings[0]:
        seen = np.stack([comparable(e[name]) for e in (*swings, *checks)])
        if (seen == seen[0]).all():
            continue
        if name in this.parameters or seen.shape[1 : 1 + len(shape)] != shape:
            return None
        numbered = np.arange(members).reshape(shape + (1,) * (seen.ndim - 1 - len(shape)))
        index[name] = np.broadcast_to(numbered, seen.shape[1:])
        terms = seen.reshape(len(seen), shape[0], chains, -1).sum(-1)
        pair = pairs(jnp.asarray(terms[: len(swings)].reshape(len(swings), -1)), count, chains)
        times, each = np.ogrid[1 : shape[0], :chains]
        for path, looked in zip(paths.reshape(-1, shape[0], chains), terms[len(swings) :],
                                strict=True):  # fmt: skip
            moves = np.asarray(pair.moves)[path[:-1], path[1:], times - 1, each]
            expected = np.concatenate([np.asarray(pair.first)[path[0], each], moves])
            if not (np.abs(looked - expected) <= 1e2 * SAME_DENSITY * scale_of(looked[None])).all():
                return None
    return replace(this, index=index, chains=chains)


def _may_broadcast(this: Split, theta: jax.Array, everyone: list[dict[str, np.ndarray]]) -> bool:
    """Whether an array of size one may stand for a state that all members are in."""
    arrays = this.target.arrays()

    def one(state: jax.Array, theta: jax.Array, arrays: Arrays) -> Elements:
        return this.elements(theta, state[None], arrays)

    evaluate = this.target.compiled_once(
        ("elements of one state", this.latents),
        lambda: jax.jit(jax.vmap(one, in_axes=(0, None, None))),
    )
    try:
        shapes = jax.eval_shape(one, jnp.asarray(this.states[0]), theta, arrays)
        for name, value in everyone[0].items():
            same = shapes[name].shape == value.shape
            fits = np.broadcast_shapes(shapes[name].shape, value.shape) == value.shape
            if not (same or (fits and name in this.index)):
                return False
        values = evaluate(jnp.asarray(this.states), theta, arrays)
    except (TypeError, ValueError, IndexError):
        return False
    return all(
        np.allclose(np.asarray(values[name][k]), seen[name], rtol=SAME_DENSITY, atol=SAME_DENSITY)
        for k, seen in enumerate(everyone)
        for name in seen
    )
