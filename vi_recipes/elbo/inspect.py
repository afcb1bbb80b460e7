"""How each site depends on the latent variables, found by probing the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vi_recipes.elbo.factors import Factors
from vi_recipes.elbo.plan import (
    MAX_WHOLE,
    Affine,
    Gather,
    Leaf,
    Plan,
    Single,
    all_normal,
    check_sources,
    subtract,
)
from vi_recipes.model import Arrays, SiteTerm, Target, one_coordinate, site_terms

MAX_UNITS = 24
"""Sites of up to this many coordinates are probed one coordinate at a time."""


NUM_SAMPLED = 16
"""Elements of a site at which its algebraic form is examined."""


TINY = 1e-9


def make_plans(
    target: Target,
    factors: Factors,
    start: np.ndarray,
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
    rng = np.random.default_rng(11)
    near = [0.3 * rng.standard_normal(target.dim) for _ in range(2)]
    # far out and to both sides of every coordinate, for kinks that are not near the start
    far = [rng.uniform(3, 5, target.dim) * rng.choice([-1, 1], target.dim) for _ in range(2)]
    points = [start + move for move in (*near, *far, *(-move for move in far))]
    tangents, units = _tangents(target, rng)

    def probe(z: jax.Array, tangents: jax.Array, arrays: Arrays) -> Any:
        def look(z: jax.Array) -> Any:
            sites = site_terms(target, z, arrays)
            return {n: (s.leaves, s.weight, s.total) for n, s in sites.items()}

        here, push = jax.linearize(look, z)
        return here, jax.lax.map(push, tangents)

    arrays = target.arrays()
    shapes: dict[str, SiteTerm] = {}

    def shape_of(z: jax.Array) -> None:
        shapes.update(site_terms(target, z, arrays))

    jax.eval_shape(shape_of, jnp.asarray(start))
    compiled = compiler(probe, jnp.asarray(start), jnp.asarray(tangents), arrays)
    seen = []
    for z in points:
        here, along = compiled(jnp.asarray(z), jnp.asarray(tangents), arrays)
        seen.append((jax.tree.map(np.asarray, here), jax.tree.map(np.asarray, along)))
    plans = []
    for name, site in shapes.items():
        leaves = [
            _read_leaf(
                target,
                units,
                tangents,
                points,
                [(here[name][0][j], along[name][0][j]) for here, along in seen],
                site.shape,
            )
            for j in range(len(site.leaves))
        ]
        totals = [(here[name][2], along[name][2]) for here, along in seen]
        weight = seen[0][0][name][1]
        plans.append(_plan(target, factors, site, leaves, totals, units, weight, overrides))
    _note_forms(target, plans, shapes, start, points, compiler)
    for plan in plans:
        check_sources(target, factors, plan, overrides)
    return plans


def _tangents(target: Target, rng: Any) -> tuple[np.ndarray, dict[str, slice]]:
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
    units: dict[str, slice],
    tangents: np.ndarray,
    points: list[np.ndarray],
    seen: list[tuple[np.ndarray, np.ndarray]],
    shape: tuple[int, ...] | None,
) -> Leaf:
    """Find how a leaf depends on the latent sites, from its tangents at two points."""
    leaf = Leaf(seen[0][0])
    if leaf.value.dtype.kind != "f" or not any((t != 0).any() for _, t in seen):
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
    offset = np.array(value)
    for name, rows in units.items():
        place = target.slices[name]
        size = place.stop - place.start
        here = [t[rows] for t in slopes]
        a = here[0]
        scale = max(float(np.abs(t).max()) for t in here)
        if scale == 0:
            continue
        linear = all(bool(np.abs(a - t).max() <= TINY * scale) for t in here[1:])
        leaf.affine = leaf.affine and linear
        if size <= MAX_UNITS:
            touched = np.any([t != 0 for t in here], axis=0).reshape(size, -1)
            for k in range(size):
                if linear and touched[k].any():
                    leaf.columns.append(place.start + k)
                    leaf.slopes.append(np.array(a[k]))
                    offset -= a[k] * points[0][place.start + k]
            if (touched.sum(axis=0) <= 1).all():
                singles.append((name, np.argmax(touched, axis=0).reshape(shape)))
            else:
                singles.append(("", np.zeros(0, int)))
            continue
        index = one_coordinate(here, tangents[rows][2, place], size)
        if index is None:
            leaf.trouble = f"an element depends on several coordinates of {name}"
            leaf.affine = False
            return leaf
        singles.append((name, index))
        if linear:
            leaf.gathers.append(Gather(np.array(a[0]), place.start + index))
            offset -= a[0] * points[0][place.start + index]
    leaf.offset = offset
    if len(singles) == 1 and singles[0][0]:
        leaf.single = singles[0]
    if not leaf.affine and leaf.single is None:
        leaf.trouble = "an input is not affine and depends on several scalars"
    return leaf


def _plan(
    target: Target,
    factors: Factors,
    site: SiteTerm,
    leaves: list[Leaf],
    totals: list[tuple[np.ndarray, np.ndarray]],
    units: dict[str, slice],
    weight: np.ndarray,
    overrides: Mapping[str, str],
) -> Plan:
    plan = Plan(site.name, shape=site.shape, weight=weight)
    if overrides.get(site.name) == "draws":
        plan.draws, plan.reason = True, "as asked"
        return plan
    if site.shape is None or site.name in target.moving_supports:
        return _plan_whole(target, plan, totals, units)
    for j, leaf in enumerate(leaves):
        if not leaf.dependent:
            plan.constants[j] = leaf.value
        elif leaf.trouble:
            plan.draws, plan.reason = True, leaf.trouble
            return plan
        elif leaf.affine and all_normal(factors, leaf):
            plan.sources.append(
                Affine(j, None, leaf.offset, leaf.columns, leaf.slopes, leaf.gathers)
            )
        elif leaf.single is None:
            plan.draws, plan.reason = True, "an input mixes factors that are not normal"
            return plan
        else:
            _add_single(target, plan, leaf, j)
    return plan


def _plan_whole(
    target: Target,
    plan: Plan,
    totals: list[tuple[np.ndarray, np.ndarray]],
    units: dict[str, slice],
) -> Plan:
    """Plan a site whose density is not elementwise: over its few scalars, or by draws."""
    touched: list[int] = []
    for name, rows in units.items():
        place = target.slices[name]
        slopes = [t[rows] for _, t in totals]
        if not any((s != 0).any() for s in slopes):
            continue
        if place.stop - place.start > MAX_UNITS:
            touched += [-1] * (MAX_WHOLE + 1)
        else:
            hit = np.flatnonzero(np.any([s != 0 for s in slopes], axis=0))
            touched += [place.start + int(k) for k in hit]
    if len(touched) > MAX_WHOLE:
        plan.draws, plan.reason = True, "its density is not a product over scalars"
    else:
        plan.whole = touched
    return plan


def _add_single(target: Target, plan: Plan, leaf: Leaf, j: int) -> None:
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


def _note_forms(
    target: Target,
    plans: list[Plan],
    sites: dict[str, SiteTerm],
    start: np.ndarray,
    points: list[np.ndarray],
    compiler: Callable[..., Callable[..., Any]],
) -> None:
    """Find the sites that are quadratic in a source, and those that only know a difference."""
    wanted = [p for p in plans if any(isinstance(s, Affine) for s in p.sources)]
    if not wanted:
        return

    def rows(leaf: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return jnp.broadcast_to(leaf, shape).reshape(-1)[:NUM_SAMPLED]

    def forms(z: jax.Array, arrays: Arrays) -> dict[str, Any]:
        traced = site_terms(target, z, arrays)
        out = {}
        for plan in wanted:
            site = traced[plan.name]
            assert site.shape is not None
            # a subset of the elements, where the distribution allows one
            leaves = [rows(leaf, site.shape) for leaf in site.leaves]
            affine = [s.leaf for s in plan.sources if isinstance(s, Affine)]

            def at(moves: dict[int, Any], site: SiteTerm = site, base: Any = leaves) -> Any:
                return site.rebuild([v + moves.get(j, 0.0) for j, v in enumerate(base)])

            # nearby, and far enough to see kinks and the far side of a saturated link
            wide = {j: 1 + jnp.abs(leaves[j]) for j in affine}
            cubes = {
                j: jnp.stack(
                    [
                        jnp.stack([at({j: x * width}) for x in (-1.5, -0.5, 0.5, 1.5)])
                        for width in (1.0, 3 * wide[j], 30 * wide[j])
                    ]
                )
                for j in affine
            }
            shifts = {j: jnp.stack([at({}), at({0: 0.7, j: 0.7})]) for j in affine if j != 0}
            out[plan.name] = (cubes, shifts)
        return out

    z = jnp.asarray(points[1])
    compiled = compiler(forms, z, target.arrays())
    result = jax.tree.map(np.asarray, compiled(z, target.arrays()))
    for plan in wanted:
        cubes, shifts = result[plan.name]
        for source in plan.sources:
            if isinstance(source, Affine):
                with np.errstate(invalid="ignore"):
                    source.quadratic = all(
                        bool(
                            np.abs(v[3] - 3 * v[2] + 3 * v[1] - v[0]).max()
                            <= 1e-10 * max(float(np.abs(v).max()), 1.0)
                        )
                        for v in cubes[source.leaf]
                    )
        value = next((s for s in plan.sources if isinstance(s, Affine) and s.leaf == 0), None)
        for source in [s for s in plan.sources if isinstance(s, Affine) and s.leaf != 0]:
            here, there = shifts[source.leaf]
            same = np.abs(here - there).max() <= 1e-10 * max(np.abs(here).max(), 1.0)
            if value is not None and same and value.minus is None:
                subtract(value, source)
                plan.sources.remove(source)
