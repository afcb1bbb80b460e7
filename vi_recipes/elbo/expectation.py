"""The expected log joint density under a mean-field law, site by site.

The log density of a site's element sees a few scalar inputs: its value, and the parameters of its
distribution as functions of the latent sites. Inputs that are affine in normal factors are normal
themselves, whatever the number of latents they add up; inputs that depend on one scalar latent
follow its law. A few such independent sources make the expectation a small Gauss-Hermite sum,
vectorised over elements. What fits neither is averaged over fixed draws in antithetic pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations, pairwise, product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vi_recipes.elbo.factors import Factors
from vi_recipes.model.target import Arrays, Target
from vi_recipes.model.terms import SiteInputs, one_coordinate, trace_sites

MAX_UNITS = 24
"""Sites of up to this many coordinates are probed one coordinate at a time."""

MAX_SOURCES = 3
"""Sources of randomness that a tensor product of quadratures is made for."""

MAX_WHOLE = 2
"""Scalars that a whole site may depend on to be integrated over them directly."""

NUM_SAMPLED = 16
"""Elements of a site at which its algebraic form is examined."""

FEW = 256
"""Sites of up to so many elements are differentiated as they are written: quicker to compile."""

CHECK_NODES = 6
"""Nodes by which it is checked that two were exact."""

TINY = 1e-9

Moves = Mapping[tuple[int, int], tuple[jax.Array, jax.Array]]
"""(source, gather) -> what is added to the location and the log scale of every element's own."""


@dataclass
class Affine:
    """A source that is affine in normal factors: offset + sum of slopes times coordinates."""

    leaf: int
    minus: int | None = None
    """A leaf that is subtracted from ``leaf``, in a family that only knows their difference."""
    offset: np.ndarray = field(default_factory=lambda: np.zeros(()))
    columns: list[int] = field(default_factory=list)
    slopes: list[np.ndarray] = field(default_factory=list)
    gathers: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    """Pairs of slope and coordinate index of every element."""
    quadratic: bool = False

    def coordinates(self) -> list[np.ndarray]:
        """Return the coordinates it depends on."""
        return [np.asarray(self.columns, int), *(np.ravel(index) for _, index in self.gathers)]


@dataclass
class Single:
    """A source that is one scalar latent per element, seen by some leaves in any way."""

    site: str
    index: np.ndarray
    """Coordinate within the site of every element; a scalar for all of them alike."""
    leaves: list[int] = field(default_factory=list)
    first: int = 0
    """The site's first coordinate."""

    def coordinates(self) -> list[np.ndarray]:
        """Return the coordinates it depends on."""
        return [self.first + np.unique(self.index)]


@dataclass
class Plan:
    """How the expectation of one site's log density is taken."""

    name: str
    sources: list[Affine | Single] = field(default_factory=list)
    constants: dict[int, np.ndarray] = field(default_factory=dict)
    shape: tuple[int, ...] | None = None
    whole: list[int] = field(default_factory=list)
    """Coordinates that the site as a whole is integrated over."""
    weight: np.ndarray = field(default_factory=lambda: np.ones(()))
    draws: bool = False
    reason: str = ""

    def describe(self) -> str:
        """Say in a few words how the expectation is taken."""
        if self.draws:
            return f"draws ({self.reason})"
        if not self.sources and not self.whole:
            return "constant"
        kinds = ["exact" if getattr(s, "quadratic", False) else "nodes" for s in self.sources]
        kinds += ["nodes" for _ in self.whole]
        return "quadrature (" + " x ".join(kinds) + ")"


# -- finding out -----------------------------------------------------------------------------------


@dataclass
class _Leaf:
    """What is known of how one leaf depends on the latent sites."""

    value: np.ndarray
    dependent: bool = False
    affine: bool = True
    offset: np.ndarray = field(default_factory=lambda: np.zeros(()))
    columns: list[int] = field(default_factory=list)
    slopes: list[np.ndarray] = field(default_factory=list)
    gathers: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    single: tuple[str, np.ndarray] | None = None
    trouble: str = ""


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
            sites = trace_sites(target, z, arrays)
            return {n: (s.leaves, s.weight, s.total) for n, s in sites.items()}

        here, push = jax.linearize(look, z)
        return here, jax.lax.map(push, tangents)

    arrays = target.arrays()
    shapes: dict[str, SiteInputs] = {}

    def shape_of(z: jax.Array) -> None:
        shapes.update(trace_sites(target, z, arrays))

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
        _check_sources(target, factors, plan, overrides)
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
) -> _Leaf:
    """Find how a leaf depends on the latent sites, from its tangents at two points."""
    leaf = _Leaf(seen[0][0])
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
            leaf.gathers.append((np.array(a[0]), place.start + index))
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
    site: SiteInputs,
    leaves: list[_Leaf],
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
        elif leaf.affine and _all_normal(factors, leaf):
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


def _all_normal(factors: Factors, leaf: _Leaf) -> bool:
    used = [np.asarray(leaf.columns, int), *(index.ravel() for _, index in leaf.gathers)]
    return all(factors.gaussian[u].all() for u in used)


def _add_single(target: Target, plan: Plan, leaf: _Leaf, j: int) -> None:
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
    sites: dict[str, SiteInputs],
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
        traced = trace_sites(target, z, arrays)
        out = {}
        for plan in wanted:
            site = traced[plan.name]
            assert site.shape is not None
            # a subset of the elements, where the distribution allows one
            leaves = [rows(leaf, site.shape) for leaf in site.leaves]
            affine = [s.leaf for s in plan.sources if isinstance(s, Affine)]

            def at(moves: dict[int, Any], site: SiteInputs = site, base: Any = leaves) -> Any:
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
                _subtract(value, source)
                plan.sources.remove(source)


def _subtract(value: Affine, other: Affine) -> None:
    """Make ``value`` the difference of two affine sources."""
    value.minus = other.leaf
    value.offset = value.offset - other.offset
    value.columns, value.slopes = list(value.columns), list(value.slopes)
    for column, slope in zip(other.columns, other.slopes, strict=True):
        if column in value.columns:
            place = value.columns.index(column)
            value.slopes[place] = value.slopes[place] - slope
        else:
            value.columns.append(column)
            value.slopes.append(-slope)
    value.gathers = [*value.gathers, *((-c, index) for c, index in other.gathers)]
    merged: list[tuple[np.ndarray, np.ndarray]] = []
    for slope, index in value.gathers:
        for k, (known_slope, known) in enumerate(merged):
            if np.array_equal(known, index):
                merged[k] = (known_slope + slope, known)
                break
        else:
            merged.append((slope, index))
    value.gathers = merged


def _check_sources(
    target: Target, factors: Factors, plan: Plan, overrides: Mapping[str, str]
) -> None:
    """Send a site to draws where its sources are too many or not independent."""
    if plan.draws:
        pass
    elif len(plan.sources) > MAX_SOURCES:
        plan.draws, plan.reason = True, f"it has {len(plan.sources)} random inputs"
    elif clash := _clash(plan, factors):
        plan.draws, plan.reason = True, clash
    if plan.draws and overrides.get(plan.name) == "quadrature":
        raise ValueError(
            f"expectations: site '{plan.name}' cannot be integrated by quadrature: {plan.reason}"
        )


def _clash(plan: Plan, factors: Factors) -> str:
    shape = plan.shape or ()
    random = ~np.append(factors.points, True)  # what is fixed is independent of everything
    for source in plan.sources:
        if isinstance(source, Affine):
            for (_, a), (_, b) in pairwise(source.gathers):
                if ((a == b) & random[a]).any():
                    return "an input sees one scalar in two ways"
    used = []
    for source in plan.sources:
        if isinstance(source, Affine):
            mine = [
                np.where(np.broadcast_to(s, shape) != 0, c, -1)
                for c, s in zip(source.columns, source.slopes, strict=True)
            ]
            mine += [np.where(np.broadcast_to(c, shape) != 0, i, -1) for c, i in source.gathers]
        else:
            mine = [np.broadcast_to(source.first + source.index, shape)]
        used.append(mine)
    for k, mine in enumerate(used):
        for theirs in used[k + 1 :]:
            if any(((a == b) & (a >= 0) & random[a]).any() for a, b in product(mine, theirs)):
                return "two inputs share a scalar"
    return ""


# -- taking it -------------------------------------------------------------------------------------


class Expectation:
    """The expected log joint density as a pure function of the factors' parameters.

    Parameters
    ----------
    target, factors, plans
        The model, the laws, and how each site is treated.
    start
        A point of finite density: where latents stand that an input does not depend on.
    """

    def __init__(
        self, target: Target, factors: Factors, plans: list[Plan], start: np.ndarray
    ) -> None:
        self.target, self.factors, self.plans = target, factors, plans
        self.start = start

    @property
    def drawn(self) -> list[str]:
        """Sites whose expectation is taken over draws."""
        return [plan.name for plan in self.plans if plan.draws]

    def constants(self) -> dict[str, Any]:
        """Return the arrays that the plans hold, to be passed to :meth:`__call__`."""
        out: dict[str, Any] = {}
        for plan in self.plans:
            if plan.draws:
                continue
            sources: list[Any] = []
            for source in plan.sources:
                if isinstance(source, Affine):
                    slopes = (
                        np.stack([np.broadcast_to(s, plan.shape or ()) for s in source.slopes])
                        if source.slopes
                        else np.zeros((0,))
                    )
                    gathers = [(_scalar(c), np.asarray(i)) for c, i in source.gathers]
                    sources.append((source.offset, slopes, gathers))
                else:
                    sources.append((np.asarray(source.index),))
            out[plan.name] = (plan.constants, sources, plan.weight, self.start)
        return out

    def nodes(
        self, num_nodes: int, room: int, exact_nodes: int = 2
    ) -> dict[str, tuple[np.ndarray, np.ndarray, int]]:
        """Return nodes, weights and their number for every site.

        ``num_nodes`` per source that needs them, two for one in which the density is quadratic,
        which is exact (more, to check that it is), and one for what has no spread. The arrays have
        room for ``room`` per source, so that the number of nodes can change without compiling
        again.
        """
        out = {}
        for plan in self.plans:
            if plan.draws:
                continue
            sizes = [
                self._counts(s.coordinates(), s, num_nodes, room, exact_nodes) for s in plan.sources
            ]
            sizes += [self._counts([np.array([k])], None, num_nodes, room, 0) for k in plan.whole]
            counts = [count for count, _ in sizes]
            rules = [np.polynomial.hermite_e.hermegauss(n) for n in counts]
            grids = np.meshgrid(*(rule[0] for rule in rules), indexing="ij")
            weights = np.meshgrid(*(rule[1] / rule[1].sum() for rule in rules), indexing="ij")
            used = int(np.prod(counts))
            most = int(np.prod([space for _, space in sizes]))
            x, w = np.zeros((most, len(counts))), np.zeros(most)
            x[:used] = np.stack([g.ravel() for g in grids], axis=1) if counts else 0.0
            w[:used] = np.prod([g.ravel() for g in weights], axis=0) if counts else 1.0
            out[plan.name] = x, w, used
        return out

    def _counts(
        self,
        coordinates: list[np.ndarray],
        source: Affine | Single | None,
        num_nodes: int,
        room: int,
        exact_nodes: int,
    ) -> tuple[int, int]:
        """Return how many nodes a source needs, and how many there is room for."""
        if self.factors.points[np.concatenate(coordinates)].all():
            return 1, 1
        if isinstance(source, Affine) and source.quadratic:
            return exact_nodes, CHECK_NODES
        return num_nodes, room

    def __call__(
        self,
        eta: jax.Array,
        constants: dict[str, Any],
        nodes: dict[str, tuple[jax.Array, jax.Array, jax.Array]],
        arrays: Arrays,
        live: bool = False,
    ) -> jax.Array:
        """Return the part of E_q[log p(y, z)] that is taken by quadrature."""
        m, s = self.factors.placement(eta)
        total = jnp.zeros(())
        for plan in self.plans:
            if plan.draws:
                continue
            x, w, count = nodes[plan.name]
            if plan.whole or not plan.sources:
                total = total + self._whole(plan, eta, m, constants[plan.name][-1], x, w, arrays)
            else:
                elements = self._elements(
                    plan, eta, m, s, constants[plan.name], x, w, count, arrays, live
                )
                total = total + jnp.sum(elements)
        return total

    def elements(
        self,
        name: str,
        eta: jax.Array,
        constants: dict[str, Any],
        nodes: dict[str, tuple[jax.Array, jax.Array, jax.Array]],
        noise: jax.Array,
        arrays: Arrays,
    ) -> jax.Array:
        """Return the expected log density of every element of one site.

        Raises
        ------
        ValueError
            For a site whose density is not a sum over elements.
        """
        m, s = self.factors.placement(eta)
        plan = next(plan for plan in self.plans if plan.name == name)
        if plan.sources:
            x, w, count = nodes[name]
            return self._elements(plan, eta, m, s, constants[name], x, w, count, arrays)
        if not plan.draws:
            raise ValueError(f"site '{name}' is integrated as a whole, and has no elements")

        def pair(x: jax.Array) -> jax.Array:
            parts = []
            for sign in (1.0, -1.0):
                z, log_weight = self.factors.place(eta, sign * x)
                value = self.target.log_likelihood_fn(z, arrays)[name]
                parts.append(value * jnp.exp(jnp.sum(log_weight)))
            return (parts[0] + parts[1]) / 2

        return jnp.mean(jax.lax.map(pair, noise), axis=0)

    def couplings(
        self,
        eta: jax.Array,
        constants: dict[str, Any],
        nodes: dict[str, tuple[jax.Array, jax.Array, jax.Array]],
        arrays: Arrays,
    ) -> list[jax.Array]:
        """Return the second derivatives between coordinates that elements gather, element-wise.

        One array of shape (elements, 2, 2) for each of :attr:`gathered_pairs`.
        """
        m, s = self.factors.placement(eta)
        found = []
        for plan, first, second in self._gathered_pairs():
            x, w, count = nodes[plan.name]
            shape = plan.shape or ()

            def value(a: Any, b: Any, plan: Plan = plan, first: Any = first, second: Any = second,
                      x: Any = x, w: Any = w, count: Any = count) -> jax.Array:  # fmt: skip
                moves = {first: a, second: b}
                held = constants[plan.name]
                return self._elements(plan, eta, m, s, held, x, w, count, arrays, False, moves)

            zero = jnp.zeros(shape)
            ones = jnp.ones(shape)

            def bend(c: int, d: int, value: Any = value, zero: Any = zero, ones: Any = ones) -> Any:
                def by_second(a: jax.Array) -> jax.Array:
                    here = tuple(a if k == c else zero for k in range(2))

                    def of(b: jax.Array) -> jax.Array:
                        return value(here, tuple(b if k == d else zero for k in range(2)))

                    return jax.jvp(of, (zero,), (ones,))[1]

                return jax.jvp(by_second, (zero,), (ones,))[1].ravel()

            block = [jnp.stack([bend(c, d) for d in range(2)], axis=-1) for c in range(2)]
            found.append(jnp.stack(block, axis=-2))
        return found

    @property
    def gathered_pairs(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Pairs of coordinates, one of each array, that an element of a site gathers."""
        found = []
        for plan, *places in self._gathered_pairs():
            pair = []
            for k, j in places:
                source = plan.sources[k]
                assert isinstance(source, Affine)
                pair.append(np.broadcast_to(source.gathers[j][1], plan.shape or ()).ravel())
            found.append((pair[0], pair[1]))
        return found

    def _gathered_pairs(self) -> list[tuple[Plan, tuple[int, int], tuple[int, int]]]:
        found = []
        for plan in self.plans:
            places = [
                (k, j)
                for k, source in enumerate(plan.sources)
                if isinstance(source, Affine)
                for j in range(len(source.gathers))
            ]
            found += [(plan, a, b) for a, b in combinations(places, 2)]
        return found

    def pair(self, eta: jax.Array, noise: jax.Array, arrays: Arrays) -> jax.Array:
        """Return the log density of the other sites, averaged over an antithetic pair."""

        def one(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            z, log_weight = self.factors.place(eta, x)
            sites = trace_sites(self.target, z, arrays)
            value = sum((sites[name].total for name in self.drawn), jnp.zeros(()))
            return value, jnp.sum(log_weight)

        (a, log_a), (b, log_b) = one(noise), one(-noise)
        if self.factors.gaussian.all():
            return (a + b) / 2
        return (a * jnp.exp(log_a) + b * jnp.exp(log_b)) / 2

    def _whole(
        self,
        plan: Plan,
        eta: jax.Array,
        m: jax.Array,
        start: jax.Array,
        x: jax.Array,
        w: jax.Array,
        arrays: Arrays,
    ) -> jax.Array:
        """Integrate a site's whole density over the scalars it depends on."""
        where = np.asarray(plan.whole, int)

        def at(x: jax.Array) -> jax.Array:
            placed, log_weight = self.factors.place(eta, jnp.zeros_like(m).at[where].set(x))
            z = start.at[where].set(placed[where])
            value = trace_sites(self.target, z, arrays)[plan.name].total
            return value * jnp.exp(jnp.sum(log_weight[where]))

        return jnp.sum(w * jax.vmap(at)(x)) if where.size else at(x[0])

    def _elements(
        self,
        plan: Plan,
        eta: jax.Array,
        m: jax.Array,
        s: jax.Array,
        constants: Any,
        x: jax.Array,
        w: jax.Array,
        count: jax.Array,
        arrays: Arrays,
        live: bool = False,
        moves: Moves | None = None,
    ) -> jax.Array:
        """Integrate an elementwise density over its sources.

        ``live`` reads inputs and their slopes off the model again, so that they can be
        differentiated in the data. ``moves`` are added to the parameters that a source gathers.
        """
        fixed, held, weight, start = constants
        shape = plan.shape or ()
        if live:
            fixed = {}
        params: list[tuple[jax.Array, jax.Array]] = []
        lifts: list[jax.Array | None] = []
        for k, (source, arrays_held) in enumerate(zip(plan.sources, held, strict=True)):
            if isinstance(source, Affine):
                if live:
                    arrays_held = self._read_again(plan, source, m, arrays)
                moved = {j: move for (i, j), move in (moves or {}).items() if i == k}
                params.append(_affine_moments(source, arrays_held, m, s, shape, moved))
                lifts.append(None)
            else:
                place = self.target.slices[source.site]
                params.append((eta[place, 0], eta[place, 1]))
                lifts.append(arrays_held[0])
        # its derivatives are taken of one traced function, not of the model again and again
        raw = jax.jit(partial(self._raw, plan, shape))
        if np.prod(shape, dtype=int) <= FEW:
            value = jnp.tensordot(
                w, jax.vmap(lambda x: raw(params, x, (fixed, start, arrays)))(x), axes=1
            )
        else:
            value = _integral(raw, params, lifts, (fixed, start, arrays), x, w, count, shape)
        return weight * value

    def _read_again(self, plan: Plan, source: Affine, m: jax.Array, arrays: Arrays) -> Any:
        """Return what :meth:`constants` holds of an affine source, as a function of the data."""
        shape = plan.shape or ()

        def look(z: jax.Array) -> jax.Array:
            leaves = trace_sites(self.target, z, arrays)[plan.name].leaves
            less = 0.0 if source.minus is None else leaves[source.minus]
            return jnp.broadcast_to(leaves[source.leaf] - less, shape)

        def along(direction: np.ndarray) -> jax.Array:
            return jax.jvp(look, (m,), (jnp.asarray(direction),))[1]

        units = np.zeros((len(source.columns), m.size))
        units[np.arange(len(units)), source.columns] = 1.0
        slopes = jax.lax.map(along, units) if len(units) else jnp.zeros((0,))
        gathers = []
        places = list(self.target.slices.values())
        homes = [
            next(p for p in places if p.start <= i.flat[0] < p.stop) for _, i in source.gathers
        ]
        for (slope, index), home in zip(source.gathers, homes, strict=True):
            if homes.count(home) == 1:
                direction = np.zeros(m.size)
                direction[home] = 1.0
                gathers.append((along(direction), index))
            else:  # two scalars of one site: their slopes cannot be told apart by one direction
                gathers.append((jnp.asarray(slope), index))
        # the offset is what makes the mean at m that of the model itself
        zero = (jnp.zeros(shape), slopes, gathers)
        mean, _ = _affine_moments(source, zero, m, jnp.ones_like(m), shape)
        return look(m) - mean, slopes, gathers

    def _raw(
        self,
        plan: Plan,
        shape: tuple[int, ...],
        params: list[tuple[jax.Array, jax.Array]],
        x: jax.Array,
        extra: Any,
    ) -> jax.Array:
        """Return the elementwise log density at one node."""
        fixed, start, arrays = extra
        moved: dict[int, jax.Array] = {}
        log_weight: jax.Array | None = None
        for k, (source, (p, q)) in enumerate(zip(plan.sources, params, strict=True)):
            if isinstance(source, Affine):
                moved[source.leaf] = p + q * x[k]
                if source.minus is not None:
                    moved[source.minus] = jnp.zeros(shape)
                continue
            place = self.target.slices[source.site]
            laws = Factors(self.factors.code[place], self.factors.offset[place])
            own = jnp.stack([p, q], axis=1)
            placed, ratio = laws.place(own, jnp.full(p.shape, x[k]))
            z = start.at[place].set(placed)
            leaves = trace_sites(self.target, z, arrays)[plan.name].leaves
            for j in source.leaves:
                moved[j] = jnp.broadcast_to(leaves[j], shape)
            if not laws.gaussian.all():
                mine = ratio[fixed_index(plan, k)]
                log_weight = mine if log_weight is None else log_weight + mine
        site = trace_sites(self.target, start, arrays)[plan.name]
        leaves = [
            moved[j] if j in moved else fixed[j] if j in fixed else site.leaves[j]
            for j in range(len(site.leaves))
        ]
        value = jnp.broadcast_to(site.rebuild(leaves), shape)
        return value if log_weight is None else value * jnp.exp(log_weight)


def fixed_index(plan: Plan, k: int) -> np.ndarray:
    """Return the index of the k-th source, which is a scalar latent per element."""
    source = plan.sources[k]
    assert isinstance(source, Single)
    return source.index


def _scalar(values: np.ndarray) -> np.ndarray:
    """Return one number for an array of equal ones."""
    flat = np.asarray(values)
    return flat.flat[0] if flat.size and (flat == flat.flat[0]).all() else flat


def _affine_moments(
    source: Affine,
    held: Any,
    m: jax.Array,
    s: jax.Array,
    shape: tuple[int, ...],
    moves: Mapping[int, tuple[jax.Array, jax.Array]] | None = None,
) -> tuple[jax.Array, jax.Array]:
    offset, slopes, gathers = held
    mean = jnp.broadcast_to(offset, shape)
    variance = jnp.zeros(shape)
    if source.columns:
        columns = np.asarray(source.columns)
        mean = mean + jnp.tensordot(m[columns], slopes, axes=1)
        variance = variance + jnp.tensordot(s[columns] ** 2, slopes**2, axes=1)
    for k, (slope, index) in enumerate(gathers):
        here, spread = m[index], s[index]
        if moves and k in moves:
            here, spread = here + moves[k][0], spread * jnp.exp(moves[k][1])
        mean = mean + slope * here
        variance = variance + slope**2 * spread**2
    positive = variance > 0
    return mean, jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1.0)), 0.0)


def _integral(
    raw: Callable[..., jax.Array],
    params: list[tuple[jax.Array, jax.Array]],
    lifts: list[jax.Array | None],
    extra: Any,
    x: jax.Array,
    w: jax.Array,
    count: jax.Array,
    shape: tuple[int, ...],
) -> jax.Array:
    """Return the elementwise Gauss-Hermite sum of ``raw`` with its first two derivatives.

    An element depends on its own value of every parameter only, so its derivatives are few; they
    are summed over the nodes along with the value. Automatic differentiation then never holds the
    nodes of all elements, and a Hessian-vector product costs no more than a few multiplications.
    """
    flat = [value for pair in params for value in pair]
    lift = [index for index in lifts for _ in range(2)]
    size = len(flat)
    pairs = [(k, j) for k in range(size) for j in range(k, size)]

    def node(flat: list[jax.Array], x: jax.Array, extra: Any) -> jax.Array:
        return raw(list(zip(flat[::2], flat[1::2], strict=True)), x, extra)

    def along(k: int, function: Callable[..., jax.Array], flat: list[jax.Array]) -> jax.Array:
        def moved(value: jax.Array) -> jax.Array:
            return function([value if i == k else v for i, v in enumerate(flat)])

        return jax.jvp(moved, (flat[k],), (jnp.ones_like(flat[k]),))[1]

    def slope(k: int, flat: list[jax.Array], x: jax.Array, extra: Any) -> jax.Array:
        return along(k, lambda f: node(f, x, extra), flat)

    def bend(k: int, j: int, flat: list[jax.Array], x: jax.Array, extra: Any) -> jax.Array:
        return along(j, lambda f: slope(k, f, x, extra), flat)

    def summed(parts: Callable[..., list[jax.Array]], number: int) -> Callable[..., Any]:
        def total(flat: list[jax.Array], held: Any) -> list[jax.Array]:
            extra, x, w, count = held

            def body(i: jax.Array, sums: list[jax.Array]) -> list[jax.Array]:
                found = parts(flat, x[i], extra)
                return [a + w[i] * v for a, v in zip(sums, found, strict=True)]

            zeros = [jnp.zeros(shape) for _ in range(number)]
            return jax.lax.fori_loop(0, count, body, zeros)

        return total

    values = summed(lambda f, x, e: [node(f, x, e)], 1)
    slopes = summed(lambda f, x, e: [slope(k, f, x, e) for k in range(size)], size)
    bends = summed(lambda f, x, e: [bend(k, j, f, x, e) for k, j in pairs], len(pairs))

    def lifted(k: int, tangent: jax.Array) -> jax.Array:
        index = lift[k]
        return tangent if index is None else tangent[index]

    @jax.custom_jvp
    def gradient(flat: list[jax.Array], held: Any) -> list[jax.Array]:
        return list(slopes(flat, held))

    @gradient.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        flat, held = primals
        moved = [lifted(k, t) for k, t in enumerate(tangents[0])]
        second = dict(zip(pairs, bends(flat, held), strict=True))
        out = [
            sum(second[min(k, j), max(k, j)] * moved[j] for j in range(size)) for k in range(size)
        ]
        return gradient(flat, held), out

    @jax.custom_jvp
    def value(flat: list[jax.Array], held: Any) -> jax.Array:
        return values(flat, held)[0]

    @value.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        flat, held = primals
        first = gradient(flat, held)
        out = sum(g * lifted(k, t) for k, (g, t) in enumerate(zip(first, tangents[0], strict=True)))
        return value(flat, held), out

    return jnp.asarray(value(flat, (extra, x, w, count)))
