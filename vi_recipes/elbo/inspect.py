"""How each site depends on the latent variables, found by probing the model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from vi_recipes.core import agree
from vi_recipes.elbo.factors import Factors
from vi_recipes.elbo.forms import note_forms
from vi_recipes.elbo.looks import MAX_UNITS, NUM_POINTS, Look, Probes, as_first, make_probes
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
from vi_recipes.model import TINY_SLOPES, Target, one_coordinate

TINY = 1e-9
"""Relative difference of two slopes up to which they are one."""


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


_Seen = dict[str, _SeenSite]
"""Site -> what is known of it."""


class Plans(NamedTuple):
    """How the sites' expectations are taken, and what that rests on.

    Parameters
    ----------
    plans
        One a site.
    seen
        What the sites looked like.
    probes
        Where they were looked at.
    """

    plans: list[Plan]
    seen: _Seen
    probes: Probes

    def look_again(
        self, points: Sequence[Float[np.ndarray, " dim"]], names: Collection[str]
    ) -> bool:
        """Return whether a site answers to the latents otherwise at other points than was seen.

        Plans that are made anew after that rest on those points too.

        Parameters
        ----------
        points
            Each of shape (dim,).
        names
            Sites whose expectation matters.
        """
        used = [plan for plan in self.plans if plan.name in names and not plan.draws]
        as_seen = True
        for z in points:
            as_seen = self._is_as_seen(z, used) and as_seen
        if self.probes.target.num_hosts > 1:
            agree(
                "how each site depends on the latent variables near the optimum, by its rows; "
                "divide the rows otherwise",
                str(as_seen),
            )
        if not as_seen:
            self.probes.points.extend(points)
        return not as_seen

    def _is_as_seen(self, z: Float[np.ndarray, " dim"], used: Sequence[Plan]) -> bool:
        """Whether the plans' sites answer to the latents at one more point as they did before.

        Slopes are larger than the data, and are let go before those of another point are taken.
        """
        _, along = self.probes.look(z)
        return all(
            _is_as_seen(self.probes, plan, self.seen[plan.name], along[plan.name]) for plan in used
        )


def make_plans(
    target: Target,
    factors: Factors,
    start: Float[np.ndarray, " dim"],
    overrides: Mapping[str, str],
    compiler: Callable[..., Callable[..., Any]],
) -> Plans:
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
    probes = target.compiled_once("probes", lambda: make_probes(target, start, compiler))
    key = "inputs of sites", len(probes.points)
    seen = target.compiled_once(key, lambda: _examine(probes))
    plans = []
    for name, site in seen.items():
        flows = target.flows.densities[name]
        plan = Plan(name, shape=site.shape, weight=site.weight)
        if overrides.get(name) == "draws":
            plan.draws, plan.reason = True, "as asked"
        elif flows.weight.latents:
            weighing = ", ".join(sorted(flows.weight.latents))
            plan.draws, plan.reason = True, f"its mask or scale depends on {weighing}"
        elif site.whole is not None:
            _plan_whole(target, plan, site.whole, probes.units, flows.whole.latents)
        else:
            _plan_elements(target, factors, plan, site.leaves)
        plans.append(plan)
    _agree_on(target, plans)  # a program is made of them next
    note_forms(target, plans, probes.points[1], compiler)
    failure: ValueError | None = None
    try:
        for plan in plans:
            check_sources(factors, plan, overrides)
    except ValueError as error:
        failure = error
    _agree_on(target, plans, str(failure or ""))
    if failure is not None:
        raise failure
    return Plans(plans, seen, probes)


def points_added(target: Target) -> int:
    """Return at how many points a model was looked at once more, on which new plans rest too."""
    probes: Probes | None = target.compiled_once.get("probes")
    return 0 if probes is None else len(probes.points) - NUM_POINTS


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


def _examine(probes: Probes) -> _Seen:
    """Look at every site: once for all laws that its latents may have."""
    target = probes.target
    first, along = probes.look(probes.points[0])
    looks = [along]
    looks += [as_first(along, probes.look(z)[1]) for z in probes.points[1:]]
    moving = [name for name, place in target.slices.items() if place.start < place.stop]
    sites = {}
    for name, shape in probes.shapes.items():
        here, flows = first[name], target.flows.densities[name]
        leaves = [
            _read_leaf(
                target,
                probes,
                here.leaves[j],
                [along[name].leaves[j] for along in looks],
                shape,
                flows.leaves[j].latents if j or name not in moving else {name},
            )
            for j in range(len(here.leaves))
        ]
        slopes = [along[name].total for along in looks] if name in probes.whole else None
        sites[name] = _SeenSite(shape, here.weight, leaves, slopes)
    return sites


def _read_leaf(
    target: Target,
    probes: Probes,
    value: np.ndarray,
    seen: list[np.ndarray],
    shape: tuple[int, ...] | None,
    latents: Set[str],
) -> Leaf:
    """Find how a leaf depends on the latent sites, from its value and its slopes at all points.

    ``latents`` are those that it depends on in any way.
    """
    leaf = Leaf(value)
    if all(slopes is seen[0] for slopes in seen):
        seen = seen[:1]
    if leaf.value.dtype.kind != "f" or not any((t != 0).any() for t in seen):
        if latents:
            leaf.dependent, leaf.affine = True, False
            leaf.trouble = _without_slope("an input", latents)
        return leaf
    leaf.dependent = True
    assert shape is not None
    slopes = [_of_elements(t, shape) for t in seen]
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
        scale = max(float(np.abs(t).max(initial=0.0)) for t in here)
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


def _of_elements(slopes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the slopes of a leaf along every direction, of every element, shape (_, *shape)."""
    ones = (1,) * (len(shape) + 1 - slopes.ndim)
    return np.broadcast_to(
        slopes.reshape(len(slopes), *ones, *slopes.shape[1:]), (len(slopes), *shape)
    )


def _is_as_seen(probes: Probes, plan: Plan, seen: _SeenSite, along: Look) -> bool:
    """Whether a site answers to the latents, at one more point, as its plan has it."""
    if plan.shape is None or seen.whole is not None:
        return all(
            not along.total[row].any()
            for name, rows in probes.units.items()
            for k, row in enumerate(range(rows.start, rows.stop))
            if probes.target.slices[name].start + k not in plan.whole
        )
    return all(
        _leaf_is_as_seen(probes, leaf, _of_elements(slopes, plan.shape))
        for leaf, slopes in zip(seen.leaves, along.leaves, strict=True)
        if leaf.value.dtype.kind == "f"
    )


def _leaf_is_as_seen(
    probes: Probes, leaf: Leaf, slopes: Float[np.ndarray, "directions ..."]
) -> bool:
    """Whether a leaf has such slopes at one more point as at those where it was read."""
    if not np.isfinite(slopes).all():
        return True  # a slope that overflows says nothing
    for name, rows in probes.units.items():
        place, slopes_here = probes.target.slices[name], slopes[rows]
        size = place.stop - place.start
        if leaf.affine:
            off = scale = 0.0
            for slope, direction in zip(
                slopes_here, probes.directions[rows], strict=True
            ):  # one by one
                expected = _affine_slope(leaf, place, direction, slopes.shape[1:])
                off = max(off, float(np.abs(slope - expected).max(initial=0.0)))
                for one in (slope, expected):
                    scale = max(scale, float(np.abs(one).max(initial=0.0)))
            if off > TINY * scale:
                return False
            continue
        assert leaf.single is not None
        of, index = leaf.single
        if of != name:
            if slopes_here.any():
                return False
        elif size <= MAX_UNITS:
            elsewhere = np.arange(size).reshape(-1, *(1,) * index.ndim) != index
            if slopes_here[elsewhere].any():
                return False
        else:
            found = one_coordinate([slopes_here], probes.directions[rows][2, place], size)
            if found is None or ((found >= 0) & (found != index)).any():
                return False
    return True


def _affine_slope(
    leaf: Leaf, place: slice, direction: Float[np.ndarray, " dim"], shape: tuple[int, ...]
) -> Float[np.ndarray, ...]:
    """Return the slope of an affine leaf along a direction of the site that has its ``place``."""
    expected = np.zeros(shape)
    for column, slope in zip(leaf.columns, leaf.slopes, strict=True):
        if place.start <= column < place.stop:
            expected += direction[column] * slope
    for gather in leaf.gathers:
        # of a coordinate of another site this direction has nothing
        expected += np.asarray(gather.slope) * direction[np.asarray(gather.coordinate)]
    return expected


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
