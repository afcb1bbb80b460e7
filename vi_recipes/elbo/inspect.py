"""How each site depends on the latent variables, found by probing the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vi_recipes.core import agree
from vi_recipes.elbo.factors import Factors
from vi_recipes.elbo.forms import note_forms
from vi_recipes.elbo.plan import (
    MAX_WHOLE,
    Affine,
    Gather,
    Leaf,
    Plan,
    Single,
    all_normal,
    check_sources,
)
from vi_recipes.model import TINY_SLOPES, Arrays, Target, one_coordinate, site_terms

MAX_UNITS = 24
"""Sites of up to this many coordinates are probed one coordinate at a time."""


TINY = 1e-9
"""Relative difference of two slopes up to which they are one."""


class Look(NamedTuple):
    """What is seen of a site at a point, or of its slopes there along every direction.

    Parameters
    ----------
    leaves
        The inputs of its log density; slopes have the directions as their first axis.
    weight
        Of its log density.
    total
        Its whole log density, of sites that are integrated as a whole; else 0.
    """

    leaves: list[Any]
    weight: Any
    total: Any


class _SeenSite(NamedTuple):
    """What is known of one site.

    Parameters
    ----------
    shape
        Of its elementwise log density; ``None`` where it has none.
    weight
        Of its log density.
    leaves
        Its inputs.
    whole
        Slopes of its whole log density at every point, of a site that is integrated as a whole.
    """

    shape: tuple[int, ...] | None
    weight: np.ndarray
    leaves: list[Leaf]
    whole: list[Float[np.ndarray, " directions"]] | None


class _Seen(NamedTuple):
    """What is known of all sites.

    Parameters
    ----------
    sites
        Name -> what is known of it.
    units
        Which of the directions along which slopes were taken are each latent site's.
    point
        One of those where the model was looked at, shape (dim,).
    """

    sites: dict[str, _SeenSite]
    units: dict[str, slice]
    point: Float[np.ndarray, " dim"]


@dataclass(frozen=True)
class Probes:
    """Where the model is looked at, and along which directions.

    Parameters
    ----------
    points
        Near the start and far from it, each of shape (dim,).
    directions
        Shape (directions, dim).
    units
        Which of the directions are each site's.
    """

    points: list[Float[np.ndarray, " dim"]]
    directions: Float[np.ndarray, "directions dim"]
    units: dict[str, slice]


def make_plans(
    target: Target,
    factors: Factors,
    start: Float[np.ndarray, " dim"],
    overrides: Mapping[str, str],
    compiler: Callable[..., Callable[..., Any]],
) -> list[Plan]:
    """Examine the model and decide how each site's expectation is taken.

    Parameters
    ----------
    target, factors
        The model and the laws of its coordinates.
    start
        A point of finite density.
    overrides
        Site -> ``"draws"`` or ``"quadrature"``.
    compiler
        Compiles a function for given arguments.
    """
    seen = target.compiled_once("inputs of sites", lambda: _examine(target, start, compiler))
    plans = []
    for name, site in seen.sites.items():
        flows = target.flows.densities[name]
        plan = Plan(name, shape=site.shape, weight=site.weight)
        if overrides.get(name) == "draws":
            plan.draws, plan.reason = True, "as asked"
        elif flows.weight.latents:
            weighing = ", ".join(sorted(flows.weight.latents))
            plan.draws, plan.reason = True, f"its mask or scale depends on {weighing}"
        elif site.whole is not None:
            _plan_whole(target, plan, site.whole, seen.units, flows.whole.latents)
        else:
            _plan_elements(target, factors, plan, site.leaves)
        plans.append(plan)
    _agree_on(target, plans)  # a program is made of them next
    note_forms(target, plans, seen.point, compiler)
    failure: ValueError | None = None
    try:
        for plan in plans:
            check_sources(factors, plan, overrides)
    except ValueError as error:
        failure = error
    _agree_on(target, plans, str(failure or ""))
    if failure is not None:
        raise failure
    return plans


def _agree_on(target: Target, plans: list[Plan], failure: str = "") -> None:
    """Raise on every host unless all have planned alike, each by its own rows, or failed alike."""
    if target.num_hosts > 1:
        agree(
            "how the expectation of each site's density is to be taken, by its rows; divide the "
            "rows otherwise",
            "; ".join([*(f"{plan.name} {_structure(plan)}" for plan in plans), failure]),
        )


def _structure(plan: Plan) -> str:
    """Say what of a plan has to be the same for all rows: programs are made of it."""

    def form(given: object) -> str:
        array = np.asarray(given)
        return repr(array.tolist()) if array.size == 1 else repr(array.shape)

    parts: list[object] = [plan.draws, plan.whole, plan.shape, form(plan.weight)]
    parts += [(j, form(leaf)) for j, leaf in plan.constants.items()]
    for source in plan.sources:
        if isinstance(source, Single):
            parts.append((source.site, source.leaves, form(source.index)))
            continue
        parts.append((source.leaf, source.minus, source.columns, source.quadratic))
        parts.append(form(source.offset))
        parts += [(form(g.one_slope), form(g.coordinate)) for g in source.gathers]
    return repr(parts)


def _examine(
    target: Target, start: Float[np.ndarray, " dim"], compiler: Callable[..., Callable[..., Any]]
) -> _Seen:
    """Look at every site around a start: once for all laws that its latents may have."""
    probes = _make_probes(target, start)
    shapes: dict[str, tuple[int, ...] | None] = {}

    def shape_of(z: jax.Array, arrays: Arrays) -> None:
        shapes.update((n, site.shape) for n, site in site_terms(target, z, arrays).items())

    # the data are traced too: NumPyro refuses rows of weight 0 that it sees
    jax.eval_shape(shape_of, jnp.asarray(start), target.arrays())
    whole = {n for n, shape in shapes.items() if shape is None or n in target.moving_supports}
    looks = _look(target, start, probes, whole, compiler)
    sites = {}
    for name, shape in shapes.items():
        here, flows = looks[0][0][name], target.flows.densities[name]
        if shape is not None and target.spread is not None:
            shape = target.spread.own_shape(shape)
        leaves = [
            _read_leaf(
                target,
                probes,
                [(here[name].leaves[j], along[name].leaves[j]) for here, along in looks],
                shape,
                flows.leaves[j].latents if j or name not in target.slices else {name},
            )
            for j in range(len(here.leaves))
        ]
        slopes = [along[name].total for _, along in looks] if name in whole else None
        sites[name] = _SeenSite(shape, here.weight, leaves, slopes)
    return _Seen(sites, probes.units, probes.points[1])


def _make_probes(target: Target, start: Float[np.ndarray, " dim"]) -> Probes:
    rng = np.random.default_rng(11)
    near = [0.3 * rng.standard_normal(target.dim) for _ in range(2)]
    # far out and to both sides of every coordinate, for kinks that are not near the start
    far = [rng.uniform(3, 5, target.dim) * rng.choice([-1, 1], target.dim) for _ in range(2)]
    points = [start + move for move in (*near, *far, *(-move for move in far))]
    return Probes(points, *_directions(target, rng))


def _look(
    target: Target,
    start: Float[np.ndarray, " dim"],
    probes: Probes,
    whole: Set[str],
    compiler: Callable[..., Callable[..., Any]],
) -> list[tuple[dict[str, Look], dict[str, Look]]]:
    """Return what every site is at each point, and its slopes there.

    ``whole`` are the sites that are integrated as a whole.
    """

    def probe(z: jax.Array, directions: jax.Array, arrays: Arrays) -> Any:
        def look(z: jax.Array) -> dict[str, Look]:
            sites = site_terms(target, z, arrays)
            nothing = jnp.zeros(())
            return {
                n: Look(s.leaves, s.weight, s.total if n in whole else nothing)
                for n, s in sites.items()
            }

        def along(direction: jax.Array) -> Any:
            return jax.jvp(look, (z,), (direction,))

        return jax.vmap(along, out_axes=(None, 0))(directions)

    arrays, directions = target.arrays(), jnp.asarray(probes.directions)
    compiled = compiler(probe, jnp.asarray(start), directions, arrays, calls=len(probes.points))
    seen = []
    for z in probes.points:
        here, along = compiled(jnp.asarray(z), directions, arrays)
        slopes = jax.tree.map(lambda x: target.own(x, 1), along)
        seen.append((jax.tree.map(target.own, here), slopes))
    return seen


def _directions(
    target: Target, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "directions dim"], dict[str, slice]]:
    """Return the probing directions, and which of them are each site's.

    For a small site one per coordinate; for a large one along ones, along the index and a random
    one, which find the one coordinate that an element depends on, and verify it.
    """
    rows: list[np.ndarray] = []
    units: dict[str, slice] = {}
    for name, place in target.slices.items():
        size = place.stop - place.start
        if size <= MAX_UNITS:
            block = np.zeros((size, target.dim))
            block[np.arange(size), np.arange(place.start, place.stop)] = 1.0
        else:
            block = np.zeros((3, target.dim))
            block[0, place] = 1.0
            block[1, place] = np.arange(1.0, size + 1)
            block[2, place] = rng.standard_normal(size)
        units[name] = slice(len(rows), len(rows) + len(block))
        rows += list(block)
    return np.stack(rows), units


def _read_leaf(
    target: Target,
    probes: Probes,
    seen: list[tuple[np.ndarray, np.ndarray]],
    shape: tuple[int, ...] | None,
    latents: Set[str],
) -> Leaf:
    """Find how a leaf depends on the latent sites, from its values and slopes at all points.

    ``latents`` are those that it depends on in any way.
    """
    leaf = Leaf(seen[0][0])
    if leaf.value.dtype.kind != "f" or not any((t != 0).any() for _, t in seen):
        if latents:
            leaf.dependent, leaf.affine = True, False
            leaf.trouble = _without_slope("an input", latents)
        return leaf
    leaf.dependent = True
    assert shape is not None
    slopes = [
        np.broadcast_to(
            t.reshape(len(t), *(1,) * (len(shape) + 1 - t.ndim), *t.shape[1:]), (len(t), *shape)
        )
        for _, t in seen
    ]
    value = np.broadcast_to(leaf.value, shape)
    if not all(np.isfinite(t).all() for t in slopes[:2]):
        leaf.trouble, leaf.affine = "its inputs have slopes that are not finite", False
        return leaf
    # far out a slope may overflow, which says nothing
    slopes = [t for t in slopes if np.isfinite(t).all()]
    singles: list[tuple[str, np.ndarray]] = []
    seen_sites: set[str] = set()
    offset = np.array(value)
    for name, rows in probes.units.items():
        place = target.slices[name]
        size = place.stop - place.start
        here = [t[rows] for t in slopes]
        a = here[0]
        scale = max(float(np.abs(t).max()) for t in here)
        if scale == 0:
            continue
        seen_sites.add(name)
        linear = all(bool(np.abs(a - t).max() <= TINY * scale) for t in here[1:])
        leaf.affine = leaf.affine and linear
        if size <= MAX_UNITS:
            touched = np.any([t != 0 for t in here], axis=0).reshape(size, -1)
            for k in range(size):
                if linear and touched[k].any():
                    leaf.columns.append(place.start + k)
                    leaf.slopes.append(np.array(a[k]))
                    offset -= a[k] * probes.points[0][place.start + k]
            if (touched.sum(axis=0) <= 1).all():
                singles.append((name, np.argmax(touched, axis=0).reshape(shape)))
            else:
                singles.append(("", np.zeros(0, int)))
            continue
        index = one_coordinate(here, probes.directions[rows][2, place], size)
        if index is None:
            leaf.trouble = f"an element depends on several coordinates of {name}"
            leaf.affine = False
            return leaf
        if (index == TINY_SLOPES).any():
            leaf.trouble = f"slopes in {name} are too small to tell which coordinate they are of"
            leaf.affine = False
            return leaf
        index = np.maximum(index, 0)  # an element without slopes may look anywhere
        singles.append((name, index))
        if linear:
            leaf.gathers.append(Gather(np.array(a[0]), place.start + index))
            offset -= a[0] * probes.points[0][place.start + index]
    leaf.offset = offset
    if len(singles) == 1 and singles[0][0]:
        leaf.single = singles[0]
    if unseen := latents - seen_sites:
        leaf.trouble, leaf.affine = _without_slope("an input", unseen), False
    elif not leaf.affine and leaf.single is None:
        leaf.trouble = "an input is not affine and depends on several scalars"
    return leaf


def _plan_elements(target: Target, factors: Factors, plan: Plan, leaves: list[Leaf]) -> None:
    """Plan a site whose density is elementwise: over the sources of its inputs, or by draws."""
    for j, leaf in enumerate(leaves):
        if not leaf.dependent:
            plan.constants[j] = leaf.value
        elif leaf.trouble:
            plan.draws, plan.reason = True, leaf.trouble
            return
        elif leaf.affine and all_normal(factors, leaf):
            plan.sources.append(
                Affine(j, None, leaf.offset, leaf.columns, leaf.slopes, leaf.gathers)
            )
        elif leaf.single is None:
            plan.draws, plan.reason = True, "an input mixes factors that are not normal"
            return
        else:
            _add_single(target, plan, leaf, j)


def _without_slope(what: str, latents: Set[str]) -> str:
    return f"{what} depends on {', '.join(sorted(latents))} without a slope at the points tried"


def _plan_whole(
    target: Target,
    plan: Plan,
    slopes: list[Float[np.ndarray, " directions"]],
    units: dict[str, slice],
    latents: Set[str],
) -> None:
    """Plan a site whose density is not elementwise: over its few scalars, or by draws."""
    touched: list[int] = []
    seen: set[str] = set()
    for name, rows in units.items():
        place = target.slices[name]
        here = [slope[rows] for slope in slopes]
        if not any((s != 0).any() for s in here):
            continue
        seen.add(name)
        if place.stop - place.start > MAX_UNITS:
            touched += [-1] * (MAX_WHOLE + 1)
        else:
            hit = np.flatnonzero(np.any([s != 0 for s in here], axis=0))
            touched += [place.start + int(k) for k in hit]
    if unseen := latents - seen:
        plan.draws, plan.reason = True, _without_slope("its density", unseen)
    elif len(touched) > MAX_WHOLE:
        plan.draws, plan.reason = True, "its density is not a product over scalars"
    else:
        plan.whole = touched


def _add_single(target: Target, plan: Plan, leaf: Leaf, j: int) -> None:
    """Note that the j-th leaf sees one scalar latent per element."""
    assert leaf.single is not None
    name, index = leaf.single
    if index.size and (index == index.flat[0]).all():
        index = np.asarray(index.flat[0])
    for source in plan.sources:
        if (
            isinstance(source, Single)
            and source.site == name
            and np.array_equal(source.index, index)
        ):
            source.leaves.append(j)
            return
    plan.sources.append(Single(name, index, [j], target.slices[name].start))
