"""Which sites are latent variables, and which member every element of a density belongs to.

It is found out, not declared: for continuous z by Jacobian-vector products (along ones, and along
the member's index: their ratio is the index; along a random direction, which verifies it), for
discrete z by setting the members' states to the digits of their index. Discrete states that only
depend on those of the time before are a chain, which is verified on random paths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers

from vi_recipes.algebra.block_arrow import candidates
from vi_recipes.core.status import MethodFailure, Status
from vi_recipes.latent.chains import IMPOSSIBLE, pairs, swinging
from vi_recipes.latent.split import Elements, Split, without_latents
from vi_recipes.model.sites import Site
from vi_recipes.model.target import Arrays, Target
from vi_recipes.model.terms import one_coordinate

MAX_STATES = 1_024
"""Combined states of one member's discrete latent variables that are summed over."""

SPREADS = (0.3, 0.3, 2.0)
"""Distances from the start at which it is verified which member an element belongs to."""

SAME = 1e-9
"""Relative difference of log densities that counts as none."""


def split(target: Target, latent: Sequence[str] | str | None = None) -> Split:
    """Take a target apart into parameters and latent variables.

    Parameters
    ----------
    target
        The model conditioned on data.
    latent
        Sites that are latent variables. By default those the model declares, else its discrete
        sites, else the sites in plates whose members do not touch one another given the rest. A
        model without any has parameters only.

    Raises
    ------
    ValueError
        For the name of a site that the model does not have or that is not latent.
    MethodFailure
        ``NOT_APPLICABLE`` where members are coupled, with the sites that couple them.
    """
    names = _names(target, latent)
    key = ("split", names)
    if key not in target.compiled:
        try:
            target.compiled[key] = _find(target, names)
        except MethodFailure as failure:
            target.compiled[key] = failure
    found = target.compiled[key]
    if isinstance(found, MethodFailure):
        raise MethodFailure(found.status, found.message, found.advice)
    return found


def _names(target: Target, latent: Sequence[str] | str | None) -> tuple[str, ...] | None:
    """Return the latent sites that are asked for or declared, checked."""
    asked = latent is not None
    declared = target.model.latents or None
    names = declared if latent is None else (latent,) if isinstance(latent, str) else tuple(latent)
    discrete = tuple(s.name for s in target.sites.values() if s.kind == "discrete")
    if names is None:
        return discrete or None
    possible = [s.name for s in target.sites.values() if s.kind in ("latent", "discrete")]
    if missing := [n for n in names if n not in possible]:
        where = "latent" if asked else f"latents of model '{target.name}'"
        raise ValueError(
            f"{where}: got {', '.join(map(repr, missing))}, expected among the model's latent "
            f"sites: {', '.join(possible)}"
        )
    # discrete sites are always integrated out: they cannot be parameters that move
    return (*names, *(n for n in discrete if n not in names))


def local_sites(target: Target, latent: Sequence[str] | str | None = None) -> tuple[str, ...]:
    """Return the continuous sites that are latent variables, be their members coupled or not.

    Those that are asked for or declared, else those in plates whose density depends on other sites.

    Raises
    ------
    ValueError
        As :func:`split`.
    """
    continuous = {s.name: s for s in target.latents}
    names = _names(target, latent)
    if names is not None and (latent is not None or target.model.latents):
        return tuple(n for n in names if n in continuous)
    return tuple(
        _hierarchical(without_latents(target), [n for n, s in continuous.items() if s.plates])
    )


def _find(target: Target, names: tuple[str, ...] | None) -> Split:
    latents = {s.name: s for s in target.latents}
    bare = without_latents(target)
    if names is not None:
        discrete = [n for n in names if n not in latents]
        if discrete and len(discrete) < len(names):
            raise MethodFailure(
                Status.NOT_APPLICABLE,
                f"latent {', '.join(discrete)} is discrete and "
                f"{', '.join(n for n in names if n in latents)} continuous: no E-step sums over "
                "the one and integrates over the other",
                "leave the continuous ones among the parameters (latent=...), or use NUTS",
            )
        if discrete:
            this = _discrete(bare, names)
            return (target.has_scan and _chains(this)) or _verify_discrete(this)
        return _first_verified([_by_plates(bare, names), _whole(bare, names)], names)
    plated = tuple(s.name for s in target.latents if s.plates)
    if not plated:
        return bare
    options = [_by_plates(bare, plated)]
    hierarchical = _hierarchical(bare, plated)
    for structure in candidates(target.latents, target.slices):
        if not hierarchical - set(structure.sites):
            options.append(_continuous(bare, structure.sites, structure.local, structure.plate))
    if hierarchical:
        options.append(_whole(bare, tuple(n for n in plated if n in hierarchical)))
    try:
        return _first_verified(options, plated)
    except MethodFailure:
        if hierarchical:
            raise
        return bare  # coefficients in a plate: parameters


def _continuous(bare: Split, names: Sequence[str], local: np.ndarray, plate: str) -> Split:
    border = np.setdiff1d(np.arange(bare.target.dim), local)
    return replace(
        bare,
        parameters=tuple(s.name for s in bare.target.latents if s.name not in names),
        latents=tuple(names),
        kind="continuous",
        border=border,
        local=local,
        num_members=len(local),
        plate=plate,
    )


def _by_plates(bare: Split, names: Sequence[str]) -> Split | None:
    """Return the split whose members are those of the plates that all the sites share.

    A site that is in no plate has the members of its first axis, if the sites agree on its length.
    """
    target = bare.target
    sites = [target.sites[n] for n in names]
    shared = set.intersection(*({name for name, _, _ in s.plates} for s in sites))
    blocks = []
    for site in sites:
        place = target.slices[site.name]
        index = np.arange(place.start, place.stop).reshape(site.unconstrained_shape)
        axes = [axis for name, _, axis in site.plates if name in shared]
        if not shared:
            axes = [0] if site.unconstrained_shape else []
        if not axes or max(axes) >= index.ndim:
            return None
        front = np.moveaxis(index, axes, range(len(axes)))
        blocks.append(front.reshape(int(np.prod(front.shape[: len(axes)])), -1))
    if len({len(block) for block in blocks}) > 1:
        return None
    ordered = [name for name, _, _ in sites[0].plates if name in shared]
    return _continuous(bare, names, np.concatenate(blocks, axis=1), " x ".join(ordered))


def _whole(bare: Split, names: Sequence[str]) -> Split:
    """Return the split with one member, which has all the latent variables."""
    slices = [bare.target.slices[n] for n in names]
    local = np.concatenate([np.arange(p.start, p.stop) for p in slices])[None]
    return _continuous(bare, names, local, "")


def _hierarchical(bare: Split, names: Sequence[str]) -> set[str]:
    """Return the sites whose own log density depends on other latent sites."""
    if not names:
        return set()
    target = bare.target
    start, arrays = _start(target), target.arrays()

    def slopes(z: jax.Array) -> dict[str, jax.Array]:
        def own(z: jax.Array) -> dict[str, jax.Array]:
            elements = bare.elements(z, jnp.zeros((0, 0)), arrays)
            return {n: elements[n].sum() for n in names}

        return jax.jacrev(own)(z)

    found = jax.jit(slopes)(jnp.asarray(start))
    result = set()
    for name, slope in found.items():
        slope = np.array(slope)
        slope[target.slices[name]] = 0.0
        if np.any(slope != 0):
            result.add(name)
    return result


def _start(target: Target) -> np.ndarray:
    # a Jacobian-vector product needs no finite density
    return target.start(jax.random.key(0), value_and_grad=lambda z: (0.0, np.zeros(1)))


def _first_verified(options: Sequence[Split | None], names: Sequence[str]) -> Split:
    reasons = []
    for option in options:
        if option is None:
            continue
        found = _verify_continuous(option)
        if isinstance(found, Split):
            return found
        reasons.append(found)
    raise MethodFailure(
        Status.NOT_APPLICABLE,
        f"no E-step for {', '.join(names)}: {'; '.join(dict.fromkeys(reasons))}",
        "name the sites to integrate over (latent=...), or use VariationalEM, Laplace or NUTS",
    )


def _verify_continuous(this: Split) -> Split | str:
    """Return the split with the members of all elements, or why it is none."""
    target, members = this.target, this.num_members
    rng = np.random.default_rng(3)
    weight = rng.uniform(0.5, 1.5, this.width)
    random = rng.standard_normal(members)
    directions = np.stack([np.ones(members), np.arange(1.0, members + 1), random])
    tangents = jnp.asarray(directions[:, :, None] * weight)

    def probe(theta: jax.Array, z: jax.Array, tangents: jax.Array, arrays: Arrays) -> Any:
        push = jax.linearize(lambda z: this.elements(theta, z, arrays), z)[1]
        return jax.lax.map(push, tangents)

    start, arrays = _start(target), target.arrays()
    compiled = jax.jit(probe, compiler_options={"xla_backend_optimization_level": 0})
    seen: dict[str, list[np.ndarray]] = {}
    for spread in SPREADS:
        theta = start[this.border] + min(spread, 0.5) * rng.standard_normal(this.border.size)
        z = start[this.local] + spread * rng.standard_normal(this.local.shape)
        slopes = compiled(jnp.asarray(theta), jnp.asarray(z), tangents, arrays)
        for name, slope in slopes.items():
            if np.isfinite(slope).all():
                seen.setdefault(name, []).append(np.asarray(slope))
    index = {}
    for name, rows in seen.items():
        if not any((r != 0).any() for r in rows):
            continue
        if name in this.parameters:
            return f"the density of {name} depends on {', '.join(this.latents)}"
        place = one_coordinate(rows, random, members)
        if place is None:
            return f"members of {this.plate or 'one axis'} are coupled through {name}"
        own = np.any([r[0] != 0 for r in rows], axis=0)
        index[name] = np.where(own, place, -1)
    return replace(this, index=index)


# -- discrete states -------------------------------------------------------------------------------


def _discrete(bare: Split, names: Sequence[str]) -> Split:
    target = bare.target
    sites: list[Site] = [target.sites[n] for n in names]
    shapes = {s.shape for s in sites}
    if len(shapes) > 1:
        listed = ", ".join(f"{s.name} {s.shape}" for s in sites)
        raise MethodFailure(
            Status.NOT_APPLICABLE,
            f"the discrete latent sites have different shapes ({listed}): their states do not "
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
    found: dict[str, list[int]] = {}
    model = handlers.seed(target.complete_model.function, jax.random.key(0))
    trace = handlers.trace(model).get_trace(**target.keywords(target.arrays()))
    for name in names:
        found[name] = np.asarray(trace[name]["fn"].enumerate_support(expand=False)).ravel().tolist()
    return [found[n] for n in names]


def _verify_discrete(this: Split) -> Split:
    """Find the member of every element by giving the members the digits of their index as states.

    An element of member t then equals, digit by digit, its value with everyone in the first state
    or with everyone in another; random states verify it.
    """
    members, count = this.num_members, len(this.states)
    rng = np.random.default_rng(3)
    theta, look = _probe(this, rng)
    everyone = [look(np.full(members, k)) for k in range(count)]
    digits = [(np.arange(members) >> b) & 1 for b in range(max(1, int(members - 1).bit_length()))]
    patterns = {k: [look(np.where(d, k, 0)) for d in digits] for k in range(1, count)}
    random = rng.integers(count, size=(3, members))
    checks = [look(pattern) for pattern in random]
    index = {}
    for name in everyone[0]:
        values = np.stack([e[name] for e in everyone])
        scale = _scale(values)
        place = np.full(values.shape[1:], -1)
        for k in range(1, count):
            moves = np.abs(values[k] - values[0]) > 1e3 * SAME * scale
            guess = np.zeros(values.shape[1:], int)
            for b, seen in enumerate(patterns[k]):
                nearer = np.abs(seen[name] - values[k]) < np.abs(seen[name] - values[0])
                guess += nearer.astype(int) << b
            place = np.where(moves & (place < 0), guess, place)
        inside = np.clip(place, 0, members - 1)
        for pattern, seen in zip(random, checks, strict=True):
            expected = np.take_along_axis(values, pattern[inside][None], axis=0)[0]
            expected = np.where(place < 0, values[0], expected)
            off = ~(np.abs(seen[name] - expected) <= 1e2 * SAME * scale)
            if off.any() or (place >= members).any():
                raise MethodFailure(
                    Status.NOT_APPLICABLE,
                    f"no E-step for {', '.join(this.latents)}: members of "
                    f"{this.plate or 'the sites'} are coupled through {name}",
                    "MAP, Laplace, SVI and NUTS sum the states out by NumPyro's enumeration",
                )
        if (place >= 0).any():
            if name in this.parameters:
                raise MethodFailure(
                    Status.NOT_APPLICABLE,
                    f"the density of {name} depends on {', '.join(this.latents)}",
                    "name it as latent too, or use NUTS",
                )
            index[name] = place
    found = replace(this, index=index)
    return replace(found, broadcast=_may_broadcast(found, theta, everyone))


def _probe(
    this: Split, rng: np.random.Generator
) -> tuple[jax.Array, Callable[[np.ndarray], dict[str, np.ndarray]]]:
    """Return random parameters, and what gives the elements there for states of all members."""
    start, arrays = _start(this.target), this.target.arrays()
    theta = jnp.asarray(start + 0.3 * rng.standard_normal(start.size))
    table = jnp.asarray(this.states)
    evaluate = jax.jit(
        lambda states, arrays: this.elements(theta, table[states], arrays),
        compiler_options={"xla_backend_optimization_level": 0},
    )

    def look(states: np.ndarray) -> dict[str, np.ndarray]:
        elements = evaluate(jnp.asarray(states), arrays)
        return {n: _comparable(v) for n, v in elements.items()}

    return theta, look


def _comparable(values: Any) -> np.ndarray:
    """Return log densities with a number in place of infinity: states may be impossible."""
    return np.nan_to_num(
        np.asarray(values, float), nan=np.nan, posinf=-IMPOSSIBLE, neginf=IMPOSSIBLE
    )


def _scale(values: np.ndarray) -> np.ndarray:
    """Return what differences along the first axis are relative to: possible values, at least 1."""
    size = np.abs(values)
    return np.maximum(1.0, np.where(size < -IMPOSSIBLE, size, 0.0).max(axis=0))


def _chains(this: Split) -> Split | None:
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
        seen = np.stack([e[name] for e in (*swings, *checks)])
        if (seen == seen[0]).all():
            continue
        if name in this.parameters or seen.shape[1 : 1 + len(shape)] != shape:
            return None
        own = np.arange(members).reshape(shape + (1,) * (seen.ndim - 1 - len(shape)))
        index[name] = np.broadcast_to(own, seen.shape[1:])
        terms = seen.reshape(len(seen), shape[0], chains, -1).sum(-1)
        pair = pairs(jnp.asarray(terms[: len(swings)].reshape(len(swings), -1)), count, chains)
        times, each = np.ogrid[1 : shape[0], :chains]
        for path, found in zip(paths.reshape(-1, shape[0], chains), terms[len(swings) :],
                               strict=True):  # fmt: skip
            moves = np.asarray(pair.moves)[path[:-1], path[1:], times - 1, each]
            expected = np.concatenate([np.asarray(pair.first)[path[0], each], moves])
            if not (np.abs(found - expected) <= 1e2 * SAME * _scale(found[None])).all():
                return None
    return replace(this, index=index, chains=chains)


def _may_broadcast(this: Split, theta: jax.Array, everyone: list[dict[str, np.ndarray]]) -> bool:
    """Whether an array of size one may stand for a state that all members are in."""
    arrays = this.target.arrays()

    def one(state: jax.Array) -> Elements:
        return this.elements(theta, state[None], arrays)

    try:
        shapes = jax.eval_shape(one, jnp.asarray(this.states[0]))
        for name, value in everyone[0].items():
            same = shapes[name].shape == value.shape
            fits = np.broadcast_shapes(shapes[name].shape, value.shape) == value.shape
            if not (same or (fits and name in this.index)):
                return False
        values = jax.jit(jax.vmap(one))(jnp.asarray(this.states))
    except (TypeError, ValueError, IndexError):
        return False
    return all(
        np.allclose(np.asarray(values[name][k]), seen[name], rtol=SAME, atol=SAME)
        for k, seen in enumerate(everyone)
        for name in seen
    )
