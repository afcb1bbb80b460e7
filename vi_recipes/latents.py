"""A target taken apart into parameters theta and latent variables z, member by member.

EM and the marginal likelihood need log p(y_t, z_t | theta) for every member t of a plate. It comes
from one trace of the NumPyro model: the log densities of its sites, element by element, each added
to the member whose latent variables it depends on. Which member that is, is found out: for
continuous z by Jacobian-vector products (along ones, and along the member's index: their ratio is
the index; along a random direction, which verifies it), for discrete z by setting the members'
states to the digits of their index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.distributions.transforms import biject_to

from vi_recipes.inputs import one_coordinate
from vi_recipes.sites import Site
from vi_recipes.status import MethodFailure, Status
from vi_recipes.structure import candidates
from vi_recipes.target import Arrays, Target

MAX_STATES = 1_024
"""Combined states of one member's discrete latent variables that are summed over."""

SPREADS = (0.3, 0.3, 2.0)
"""Distances from the start at which it is verified which member an element belongs to."""

SAME = 1e-9
"""Relative difference of log densities that counts as none."""

Elements = dict[str, jax.Array]
"""Site -> its log density, element by element, scales and masks applied."""


class LogJoint(NamedTuple):
    """The terms of log p(y, z, theta), told apart."""

    members: jax.Array
    """log p(y_t, z_t | theta), shape (members,); latent variables on their unconstrained scale."""
    shared: jax.Array
    """The log-likelihood of what no latent variable touches."""
    prior: jax.Array
    """log p(theta), a density over the parameters as the model names them."""


@dataclass(frozen=True)
class Split:
    """Parameters theta and latent variables z of a target, and who belongs to whom.

    Parameters
    ----------
    target
        The model conditioned on data.
    parameters, latents
        Names of the sites.
    kind
        Whether z is continuous, discrete, or absent.
    border
        Places of theta in the target's flat vector, shape (G,).
    local
        Places of z in it, shape (members, d); empty unless z is continuous.
    states
        Combined states of a member's discrete variables, shape (K, d); empty unless discrete.
    plate
        Name of the members' plate, or plates; empty where there is one member.
    index
        Site -> member that each element of its log density belongs to; -1 for none.
    broadcast
        Whether one state for all members may stand in an array of size one, which the model's own
        indexing then broadcasts (parameters[z] is gathered once instead of once a row).
    """

    target: Target
    parameters: tuple[str, ...]
    latents: tuple[str, ...]
    kind: Literal["none", "continuous", "discrete"]
    border: np.ndarray
    local: np.ndarray
    states: np.ndarray
    num_members: int
    plate: str = ""
    index: dict[str, np.ndarray] = field(default_factory=dict)
    broadcast: bool = False

    @property
    def width(self) -> int:
        """Number of latent scalars of each member, d."""
        return int((self.local if self.kind == "continuous" else self.states).shape[1])

    def flat(self, theta: jax.Array, z: jax.Array) -> jax.Array:
        """Return the target's flat vector of theta, shape (G,), and z, (members, d)."""
        if self.kind != "continuous":
            return theta
        order = np.argsort(np.concatenate([self.border, self.local.ravel()]), kind="stable")
        return jnp.concatenate([theta, z.ravel()])[order]

    def log_joint(self, theta: jax.Array, z: jax.Array, arrays: Arrays) -> LogJoint:
        """Return the log joint density by member; pure, to be transformed and compiled.

        Parameters
        ----------
        theta
            Unconstrained parameters, shape (G,).
        z
            Unconstrained latent variables, shape (members, d); for discrete ones the number of the
            combined state that all members are in, a scalar.
        arrays
            The data, from :meth:`Target.arrays`.
        """
        if self.kind == "discrete":
            table = jnp.asarray(self.states)[z]
            z = jnp.broadcast_to(table, (1 if self.broadcast else self.num_members, self.width))
        return self.gather(self.elements(theta, z, arrays))

    def gather(self, elements: Elements) -> LogJoint:
        """Return the sums of the elements by member."""
        members = jnp.zeros(self.num_members)
        shared = prior = jnp.zeros(())
        for name, value in elements.items():
            if name in self.parameters:
                prior = prior + value.sum()
                continue
            place = self.index.get(name)
            if place is None or (place < 0).all():
                shared = shared + value.sum()
                continue
            value = jnp.broadcast_to(value, place.shape)
            value = value.ravel()
            axis = _member_axis(place.ravel(), self.num_members)
            if axis == "last":
                members = members + value.reshape(-1, self.num_members).sum(0)
                continue
            if axis == "first":
                members = members + value.reshape(self.num_members, -1).sum(1)
                continue
            place = place.ravel()
            own = place >= 0
            shared = shared + jnp.where(own, 0.0, value).sum()
            members = members + jax.ops.segment_sum(
                jnp.where(own, value, 0.0),
                np.where(own, place, 0),
                self.num_members,
            )
        return LogJoint(members, shared, prior)

    def elements(self, theta: jax.Array, z: jax.Array, arrays: Arrays) -> Elements:
        """Return the log densities of all sites, element by element, by one trace of the model.

        ``z`` has shape (members, d); of discrete variables it holds their values, and may have one
        row for all members. The latent sites' Jacobians are in their elements, the parameters' not.
        """
        target = self.target
        given: dict[str, jax.Array] = {}
        if self.kind == "discrete":
            given = self._states_by_site(z)
        flat = target.unravel(self.flat(theta, z))
        model = handlers.seed(target.complete_model.function, jax.random.key(0))
        jacobians: dict[str, jax.Array] = {}

        def value_of(site: dict[str, Any]) -> jax.Array | None:
            name = site["name"]
            if site["type"] != "sample" or site.get("is_observed") or name not in flat:
                return given.get(name)
            transform = biject_to(site["fn"].support)
            value = transform(flat[name])
            if name in self.latents:
                jacobians[name] = transform.log_abs_det_jacobian(flat[name], value)
            return value

        with jax.numpy_rank_promotion("allow"):
            if target.has_scan:  # the sites of a scan are substituted whole, by value
                given |= {
                    n: v for n, v in target.constrain_fn(self.flat(theta, z), arrays).items()
                    if n in flat
                }  # fmt: skip
                model = handlers.substitute(model, data=given)
            else:
                model = handlers.substitute(model, substitute_fn=value_of)
            trace = handlers.trace(model).get_trace(**target.keywords(arrays))
            found: Elements = {}
            for name, site in trace.items():
                if site["type"] != "sample":
                    continue
                value = site["fn"].log_prob(site["value"])
                if site["scale"] is not None:
                    value = site["scale"] * value
                if target.has_scan and name in self.latents:
                    transform = biject_to(site["fn"].support)
                    jacobians[name] = transform.log_abs_det_jacobian(flat[name], site["value"])
                if name in jacobians:
                    value = value + jacobians[name]
                found[name] = jnp.asarray(value)
        return found

    def _states_by_site(self, z: jax.Array) -> dict[str, jax.Array]:
        """Return the values of the discrete sites whose members' values are the rows of ``z``."""
        given = {}
        for k, name in enumerate(self.latents):
            shape = self.target.sites[name].shape
            shape = shape if z.shape[0] == self.num_members else (1,) * len(shape)
            given[name] = z[:, k].reshape(shape)
        return given


def _member_axis(place: np.ndarray, num_members: int) -> str:
    """Say whether the member is the first or the last axis of elements; empty for neither.

    Sums along an axis are quicker than those by segment.
    """
    if place.size % num_members:
        return ""
    each = np.arange(num_members)
    if (place.reshape(-1, num_members) == each).all():
        return "last"
    return "first" if (place.reshape(num_members, -1) == each[:, None]).all() else ""


# -- finding out -----------------------------------------------------------------------------------


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
    return tuple(_hierarchical(_bare(target), [n for n, s in continuous.items() if s.plates]))


def parameter_densities(target: Target, z: jax.Array, arrays: Arrays) -> Elements:
    """Return the log density of every site at ``z``, summed, over the sites as they are named."""
    elements = _bare(target).elements(z, jnp.zeros((0, 0)), arrays)
    return {name: value.sum() for name, value in elements.items()}


def _bare(target: Target) -> Split:
    """Return the split that takes every continuous site for a parameter."""
    return Split(
        target,
        tuple(s.name for s in target.latents),
        (),
        "none",
        np.arange(target.dim),
        np.zeros((0, 0), int),
        np.zeros((0, 0), int),
        0,
    )


def _find(target: Target, names: tuple[str, ...] | None) -> Split:
    latents = {s.name: s for s in target.latents}
    bare = _bare(target)
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
            return _verify_discrete(_discrete(bare, names))
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
        "name the sites to integrate over (latent=...), or use Laplace, mean-field VB or NUTS",
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
    target, members, count = this.target, this.num_members, len(this.states)
    rng = np.random.default_rng(3)
    start, arrays = _start(target), target.arrays()
    theta = jnp.asarray(start + 0.3 * rng.standard_normal(start.size))
    table = jnp.asarray(this.states)
    evaluate = jax.jit(
        lambda pattern, arrays: this.elements(theta, table[pattern], arrays),
        compiler_options={"xla_backend_optimization_level": 0},
    )

    def look(pattern: np.ndarray) -> dict[str, np.ndarray]:
        elements = evaluate(jnp.asarray(pattern), arrays)
        return {n: np.asarray(v, float) for n, v in elements.items()}

    everyone = [look(np.full(members, k)) for k in range(count)]
    digits = [(np.arange(members) >> b) & 1 for b in range(max(1, int(members - 1).bit_length()))]
    patterns = {k: [look(np.where(d, k, 0)) for d in digits] for k in range(1, count)}
    random = rng.integers(count, size=(3, members))
    checks = [look(pattern) for pattern in random]
    index = {}
    for name in everyone[0]:
        values = np.stack([e[name] for e in everyone])
        scale = np.maximum(1.0, np.abs(values).max(axis=0))
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
            with np.errstate(invalid="ignore"):
                off = np.abs(seen[name] - expected) > 1e2 * SAME * scale
            if (off & (seen[name] != expected)).any() or (place >= members).any():
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
    return replace(found, broadcast=_may_broadcast(found, theta, arrays, everyone))


def _may_broadcast(
    this: Split, theta: jax.Array, arrays: Arrays, everyone: list[dict[str, np.ndarray]]
) -> bool:
    """Whether an array of size one may stand for a state that all members are in."""

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
