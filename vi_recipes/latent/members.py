"""Which sites are latent variables, and which member every element of a density belongs to.

It is found out, not declared: for continuous z by Jacobian-vector products (along ones, and along
the member's index: their ratio is the index; along a random direction, which verifies it), for
discrete z by setting the members' states to the digits of their index. Discrete states that only
depend on those of the time before are a chain, which is verified on random paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vi_recipes.core import MethodFailure, Status
from vi_recipes.latent.split import Split, without_latents
from vi_recipes.latent.states import (
    _chains,
    _discrete,
    _verify_discrete,
)
from vi_recipes.model import Arrays, Target, candidates, one_coordinate, shared_members

SPREADS = (0.3, 0.3, 2.0)
"""Distances from the start at which it is verified which member an element belongs to."""


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
    shared = shared_members([target.sites[n] for n in names], target.slices)
    return None if shared is None else _continuous(bare, names, *shared)


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
    start, arrays = target.anywhere(), target.arrays()

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

    start, arrays = target.anywhere(), target.arrays()
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
