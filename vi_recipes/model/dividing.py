"""Which members of a target's largest plate each host can have alone, with all their rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vi_recipes.core import (
    COMPILED_QUICKLY,
    ModelError,
    arrays_by_hosts,
    numbers_by_hosts,
    sum_over_hosts,
)
from vi_recipes.model.bound import Arrays
from vi_recipes.model.division import Division
from vi_recipes.model.padding import rows_of
from vi_recipes.model.plates import candidates
from vi_recipes.model.target import Target
from vi_recipes.model.terms import site_terms

SAME = 1e-9
"""Relative difference of two log densities that is rounding."""


def find_division(
    target: Target, divided: Target, place: Callable[[Target], Target]
) -> tuple[Division[Target] | None, str]:
    """Return how members are divided over hosts, or why they are not; each host calls it.

    Parameters
    ----------
    target
        Of this host's rows and all members.
    divided
        The same with the rows of all hosts.
    place
        Puts the rows of a target on this host's devices.

    Returns
    -------
    tuple
        The division, ``None`` where members are on every host; and why, where there are members.
    """
    structures = candidates(target.latents, target.slices)
    if not structures:
        return None, ""
    plate, number = structures[0].plate, len(structures[0].local)
    if " x " in plate:
        return None, f"they are those of two plates ({plate})"
    codes, names = _own_members(target, number)
    if codes is None:
        return None, (
            "no argument has the member of each row, or the rows of one lie on two hosts "
            "(vr.read_part(..., whole=...) cuts between members)"
        )
    local, reason = None, ""
    try:
        local = _local(target, plate, codes, names)
    except ValueError as error:
        reason = f"the model does not run with the members of one host alone ({error})"
    if (reason := _said_by_any(reason)) or local is None:
        return None, reason
    everyone = arrays_by_hosts(codes.astype(np.int32))
    size = int(sum_over_hosts(np.array([local.size - local.dim]))[0]) + target.dim
    local = place(local)
    division = Division(divided, local, plate, everyone, jax.process_index(), size)
    if not _is_same(division):
        return None, (
            f"the density of plate '{plate}' is no sum over its members, each with its own rows"
        )
    local.part_of = division
    return division, ""


def _said_by_any(reason: str) -> str:
    """Return why a host cannot go on, in this one's words where it is one of them."""
    fails = [numbers[0] for numbers in numbers_by_hosts([bool(reason)])]
    if any(fails) and not reason:
        return f"host {fails.index(1)} cannot divide them; see there"
    return reason


def _own_members(target: Target, number: int) -> tuple[np.ndarray | None, list[str]]:
    """Return this host's members, and the arguments that have the member of each row.

    Those are integers from 0 to ``number - 1``, no one of which is at two hosts. Members without
    rows are the first host's.
    """
    rows = rows_of(target)
    places = {
        name: value
        for name, value in target.data.items()
        if isinstance(value, np.ndarray) and value.shape == (rows,) and value.dtype.kind in "iu"
    }
    seen, names = np.zeros(number), list[str]()
    for name, value in places.items():
        fits = bool(value.min() >= 0 and value.max() < number)
        here = np.zeros(number)
        if fits:
            here[value] = 1
        counts = sum_over_hosts(np.concatenate([here, [float(not fits)]]))
        if counts[-1] == 0 and counts.max() <= 1:
            seen, names = np.maximum(seen, here), [*names, name]
    counts = sum_over_hosts(seen)
    if not names or counts.max() > 1:
        return None, []
    if jax.process_index() == 0:
        seen[counts == 0] = 1
    return np.flatnonzero(seen), names


def _local(target: Target, plate: str, codes: np.ndarray, names: Sequence[str]) -> Target:
    """Return the target of this host's members alone, with the data that it has of them."""
    rows = rows_of(target)
    known = {s.plate: s for s in candidates(target.latents, target.slices)}
    sites, number = known[plate].sites, len(known[plate].local)
    place = np.full(number, -1)
    place[codes] = np.arange(len(codes))

    def part(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: part(inner) for name, inner in value.items()}
        if type(value) is int and value == number:
            return len(codes)
        of_members = isinstance(value, np.ndarray) and value.shape[:1] == (number,)
        return value[codes] if of_members and len(value) != rows else value

    data = {
        name: place[value].astype(value.dtype) if name in names else part(value)
        for name, value in target.data.items()
    }
    model = replace(target.complete_model, data=None, em=None, vb=None, coords={})
    local = Target(model, **data)
    pairs = list(zip(target.quantities, local.quantities, strict=True))
    if number == len(codes):
        raise ModelError("it has all")
    for whole, own in pairs:
        shape = [len(codes) if n != m else n for n, m in zip(whole.shape, own.shape, strict=True)]
        changed = sum(n != m for n, m in zip(whole.shape, own.shape, strict=True))
        if whole.name != own.name or tuple(shape) != own.shape or changed > 1:
            raise ModelError(f"site '{own.name}' has shape {own.shape} in place of {whole.shape}")
        if own.kind == "latent" and changed != (own.name in sites):
            which = "is one of them" if changed == 0 else "is outside their plate and has as many"
            raise ModelError(f"site '{own.name}' {which}, and has shape {own.shape} there")
    return local


def _is_same(division: Division[Target]) -> bool:
    """Whether what hosts have of the log density adds up to it, at two points."""
    whole, local = division.whole, division.local

    def shared(z: jax.Array, arrays: Arrays) -> jax.Array:
        terms = site_terms(local, z, arrays)
        return sum((terms[name].total for name in division.shared), jnp.zeros(()))

    twice = jax.jit(shared, compiler_options=COMPILED_QUICKLY)
    noise = np.random.default_rng(7)
    middle = whole.anywhere()
    found = []
    for _ in range(2):
        z = middle + 0.3 * noise.standard_normal(whole.dim)
        own = division.own(z)
        mine = local.log_density(own)
        if division.index:
            with jax.enable_x64(True):
                mine -= float(twice(jnp.asarray(own), local.arrays()))
        total = float(division.add(np.array([mine]))[0])
        found.append(bool(np.isclose(total, whole.log_density(z), rtol=SAME, atol=SAME)))
    return all(found)
