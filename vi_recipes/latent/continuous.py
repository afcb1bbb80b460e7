"""Continuous latent variables: the members they may be of, and which of these is verified.

Which member an element of a density belongs to is found by Jacobian-vector products: along ones,
and along the member's index, whose ratio is the index; along a random direction, which verifies it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from vi_recipes.core import COMPILED_QUICKLY, MethodFailure, ModelError, Status
from vi_recipes.latent.split import Split, without_latents
from vi_recipes.model import (
    NO_SLOPE,
    TINY_SLOPES,
    Arrays,
    SiteWeights,
    Target,
    candidates,
    one_coordinate,
    shared_members,
    weights_of_members,
)

SPREADS = (0.3, 0.3, 2.0)
"""Distances from the start, in units of the coordinates, at which it is verified which member an
element belongs to."""

NEAR_ZERO = (1.0, 0.03, 1e-3, 1e-5)
"""Distances of theta from 0, in its units, at which a model is looked at too: where covariates
lie far from 0 a link saturates everywhere else."""

FAR = (10.0, 100.0, 1000.0)
"""Units to both sides of the start at which it is looked for what elements answer to that have no
slope to speak of near it: their knots may lie far away, or a prior be so stiff that a unit is
no distance."""

MIN_FIELD, MAX_FIELD = 8, 128
"""Scalars from which a vector in no plate may be a field, and of all such vectors up to which they
need not be named: a posterior with a dense covariance of more may take many minutes."""

SAME = 1e-9
"""Relative difference of log densities that counts as none."""


def split_by_names(bare: Split, names: Sequence[str]) -> Split:
    """Return the verified split whose latent variables are the sites named.

    Raises
    ------
    MethodFailure
        ``NOT_APPLICABLE`` where members are coupled, with the sites that couple them.
    """
    return _first_verified([_by_plates(bare, names), _whole(bare, names)], names)


def family_of(bare: Split, name: str) -> Split | None:
    """Return the split by one site's members with the member of every element; ``None`` for none.

    Unlike :func:`split_by_names`, the densities of other sites may depend on the members too:
    :attr:`Split.index` has those as well.
    """
    made: Split | None = bare.target.compiled_once(
        ("family", name), lambda: _find_family(bare, name)
    )
    return made


def _find_family(bare: Split, name: str) -> Split | None:
    for option in (_by_plates(bare, (name,)), _whole(bare, (name,))):
        if option is None:
            continue
        verified = _verify_continuous(option, of_parameters=True)
        if isinstance(verified, Split):
            return verified
    return None


def split_by_plates(bare: Split) -> Split:
    """Return the verified split whose latent variables are sites in plates; ``bare`` if none.

    Raises
    ------
    MethodFailure
        As :func:`split_by_names`, where sites in plates depend on others.
    """
    target = bare.target
    plated = tuple(s.name for s in target.latents if s.plates)
    if not plated:
        return bare
    options = [_by_plates(bare, plated)]
    dependent = hierarchical(target, plated)
    for structure in candidates(target.latents, target.slices):
        if not dependent - set(structure.sites):
            options.append(_continuous(bare, structure.sites, structure.local, structure.plate))
    if dependent:
        options.append(_whole(bare, tuple(n for n in plated if n in dependent)))
    try:
        return _first_verified(options, plated)
    except MethodFailure:
        if dependent:
            raise
        return bare  # coefficients in a plate: parameters


def fields(target: Target, most: int = MAX_FIELD) -> tuple[str, ...]:
    """Return the latent vectors in no plate whose own log density depends on other sites.

    Random walks, Gaussian processes and other fields, and coefficients under a common scale; none
    where they have more than ``most`` scalars in all.
    """
    long = [s.name for s in target.latents if not s.plates and s.size >= MIN_FIELD]
    dependent = hierarchical(target, long)
    found = tuple(n for n in long if n in dependent)
    return found if sum(target.sites[n].size for n in found) <= most else ()


def coupled_sites(target: Target, most: int) -> tuple[str, ...]:
    """Return latent sites that may be anything and are many, where no more parameters are left.

    In plates, else long vectors, else both. Innovations of a random walk, and a field or effects by
    what they are multiples of, have a law that depends on nothing; that they belong together is
    said by none. None where more than ``most`` coordinates are left without any of these.
    """
    free = [s for s in target.latents if not target.edged[target.slices[s.name]].any()]
    in_plates = [s for s in free if s.plates]
    long = [s for s in free if not s.plates and s.size >= MIN_FIELD]
    for some in in_plates, long, [s for s in free if s in in_plates or s in long]:
        if target.dim - sum(s.size for s in some) <= most:
            return tuple(s.name for s in some)
    return ()


def hierarchical(target: Target, names: Sequence[str]) -> frozenset[str]:
    """Return the sites, among those named, whose own log density depends on other latent sites."""
    if not names:
        return frozenset()
    return target.compiled_once(
        ("hierarchical sites", *names), lambda: _find_hierarchical(target, names)
    )


def _find_hierarchical(target: Target, names: Sequence[str]) -> frozenset[str]:
    bare, start, arrays = without_latents(target), target.anywhere(), target.arrays()

    def slopes(z: jax.Array) -> dict[str, jax.Array]:
        def log_densities(z: jax.Array) -> dict[str, jax.Array]:
            elements = bare.elements(z, jnp.zeros((0, 0)), arrays)
            return {n: elements[n].sum() for n in names}

        return jax.jacrev(log_densities)(z)

    dependent = set()
    for name, slope in jax.jit(slopes)(jnp.asarray(start)).items():
        slope = np.array(slope)
        slope[target.slices[name]] = 0.0
        if np.any(slope != 0):
            dependent.add(name)
    return frozenset(dependent)


def _continuous(
    bare: Split, names: Sequence[str], local: Int[np.ndarray, "members d"], plate: str
) -> Split:
    """Return the split, not verified yet, with the members' places in the flat vector."""
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


def _first_verified(options: Sequence[Split | None], names: Sequence[str]) -> Split:
    """Return the first of the splits whose members are not coupled."""
    reasons = []
    for option in options:
        if option is None:
            continue
        verified = _verify_continuous(option)
        if isinstance(verified, Split):
            return verified
        reasons.append(verified)
    raise MethodFailure(
        Status.NOT_APPLICABLE,
        f"no E-step for {', '.join(names)}: {'; '.join(dict.fromkeys(reasons))}",
        "name the sites to integrate over (latent=...), or use VariationalEM, Laplace or NUTS",
    )


def _verify_continuous(this: Split, *, of_parameters: bool = False) -> Split | str:
    """Return the split with the members of all elements, or why it is none.

    With ``of_parameters`` densities of parameters may depend on members as well.
    """
    target, members = this.target, this.num_members
    rng = np.random.default_rng(3)
    weight = rng.uniform(0.5, 1.5, this.width)
    random = rng.standard_normal(members)
    directions = np.stack([np.ones(members), np.arange(1.0, members + 1), random])
    tangents = jnp.asarray(directions[:, :, None] * weight)

    def probe(theta: jax.Array, z: jax.Array, tangents: jax.Array, arrays: Arrays) -> Any:
        here, push = jax.linearize(lambda z: this.elements(theta, z, arrays), z)
        return here, jax.lax.map(push, tangents)

    start, arrays = target.anywhere(), target.arrays()
    compiled = target.compiled_once(
        ("slopes of elements", this.latents, this.local.shape, this.local.tobytes()),
        lambda: jax.jit(probe, compiler_options=COMPILED_QUICKLY),
    )
    thetas, places = [], []
    of_theta, of_z = target.units[this.border], target.units[this.local]
    for spread in SPREADS:
        theta = of_theta * rng.standard_normal(this.border.size)
        thetas.append(start[this.border] + min(spread, 0.5) * theta)
        places.append(start[this.local] + spread * of_z * rng.standard_normal(of_z.shape))
    for spread in NEAR_ZERO:
        thetas.append(spread * of_theta * rng.standard_normal(this.border.size))
        places.append(0.5 * of_z * rng.standard_normal(of_z.shape))
    slopes: dict[str, list[np.ndarray]] = {}
    moved: dict[str, Any] = {}

    def look(theta: np.ndarray, z: np.ndarray, names: Collection[str] | None = None) -> Any:
        values, pushed = compiled(jnp.asarray(theta), jnp.asarray(z), tangents, arrays)
        for name, slope in pushed.items():
            if (names is None or name in names) and np.isfinite(slope).all():
                slopes.setdefault(name, []).append(np.asarray(slope))
        return values

    for k, (theta, z) in enumerate(zip(thetas, places, strict=True)):
        values = look(theta, z)
        if k in (0, len(SPREADS)):  # a kink, a step or a saturated link has no slope, and moves
            other = z[::-1] + 3.0 * of_z
            others = compiled(jnp.asarray(theta), jnp.asarray(other), tangents, arrays)[0]
            for name, value in values.items():
                moved[name] = moved.get(name, False) | _differ(value, others[name])
    found_at = {name: one_coordinate(rows, random, members) for name, rows in slopes.items()}
    if silent := {name for name, place in found_at.items() if _is_silent(this, name, place)}:
        for spread in (sign * far for far in FAR for sign in (-1, 1)):
            away = spread * rng.uniform(0.5, 1.5, this.local.shape)
            look(thetas[0], start[this.local] + of_z * away, silent)
        found_at |= {name: one_coordinate(slopes[name], random, members) for name in silent}
    index = {}
    for name, rows in slopes.items():
        if not moved[name].any() and not any((r != 0).any() for r in rows):
            continue
        if name in this.parameters and not of_parameters:
            return f"the density of {name} depends on {', '.join(this.latents)}"
        place = found_at[name]
        if place is None:
            return f"members of {this.plate or 'one axis'} are coupled through {name}"
        lost = (place == TINY_SLOPES) | ((place == NO_SLOPE) & moved[name])
        if lost.any():
            return (
                f"{int(lost.sum())} of {place.size} elements of {name} hardly change with "
                f"{', '.join(this.latents)}, or by steps: which member they belong to cannot be "
                "told"
            )
        index[name] = place
    found = replace(this, index=index)
    if not target.has_weights:
        return found
    compiled = target.compiled_once(
        ("weights of elements", this.latents, this.local.shape, this.local.tobytes()),
        lambda: jax.jit(this.site_weights, compiler_options=COMPILED_QUICKLY),
    )
    weights = compiled(jnp.asarray(thetas[0]), jnp.asarray(places[0]), arrays)
    return _weighted(found, {n: np.asarray(w) for n, w in weights.items()})


def _is_silent(this: Split, name: str, place: Int[np.ndarray, "*elements"] | None) -> bool:
    """Whether elements of a site have no slopes to speak of in latent variables it is made of."""
    flows = this.target.flows.densities.get(name)
    if name in this.latents or flows is None or flows.whole.latents.isdisjoint(this.latents):
        return False
    return place is not None and bool((place < 0).any())


def _weighted(this: Split, weights: SiteWeights) -> Split | str:
    """Return the split with the weights of its members, or why they are none."""
    target = this.target
    member = np.full(target.dim, NO_SLOPE)
    member[this.local] = np.arange(this.num_members)[:, None]
    own = {}
    for name in this.latents:  # where one is masked its density has no slope
        shape = target.sites[name].unconstrained_shape
        place = member[target.slices[name]].reshape(shape)
        batch = weights[name].ndim
        own[name] = place.reshape(*place.shape[:batch], -1)[..., 0] if batch < len(shape) else place
    index = this.index | own
    plates = {n: [p for p, _, _ in site.plates] for n, site in target.sites.items()}
    try:
        w = weights_of_members(weights, index, this.latents, this.num_members, plates)
    except ModelError as error:
        return str(error)
    return this if w is None else replace(this, index=index, weights=w)


def _differ(one: Any, other: Any) -> Bool[np.ndarray, ...]:
    """Return where log densities differ beyond rounding."""
    one, other = np.asarray(one, float), np.asarray(other, float)
    with np.errstate(invalid="ignore"):
        far = np.abs(one - other) > SAME * np.maximum(1.0, np.abs(one))
    return np.asarray(far | (np.isfinite(one) & ~np.isfinite(other)))
