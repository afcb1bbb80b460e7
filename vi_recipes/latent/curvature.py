"""Minus the Hessian in the latent variables, in several places: is it one, and is it sparse."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from vi_recipes.algebra import Arrow, Layout, find_layout
from vi_recipes.latent.columns import Columns, columns_of
from vi_recipes.latent.continuous import NEAR_ZERO
from vi_recipes.latent.marginal import MAX_GAUSSIAN, MAX_QUADRATURE
from vi_recipes.latent.other_modes import APART, FAR
from vi_recipes.latent.seen import QUADRATIC, LookAtMembers, key_of, look_at, stray_of
from vi_recipes.latent.split import Split

MAX_WIDE = 2_000
"""Latent scalars of a single member up to which it is looked for zeros in its precision."""

NUM_AROUND = 2
"""Pairs of places, to both sides of the members' modes, where it is looked once more."""

DEPTH = 30.0
"""Nats by which a mode is lower than the one found, from which it is none."""

NUM_PLACES = 3
"""Places of the latent variables where it is looked, given theta."""

NUM_THETAS = 2
"""Points of theta around the start where it is looked; others are near 0."""

FLAT = 1e-10
"""Share of its diagonal by which a precision may fail to be positive where the data are far off:
what has a flat prior bends there by next to nothing."""

BENT = 1e-13
"""Share of its diagonal by which it is positive near the start, at least: by more than rounding."""

ZERO = 1e-11
"""Entry of a precision, beside the roots of its diagonal's two, that counts as none."""


BY_NUTS = "use NUTS, which needs no mode and no curvature"
"""What to do where a density with kinks has none."""


class MembersCurvature(NamedTuple):
    """What the members' precision is like, wherever it was looked at.

    Parameters
    ----------
    quadratic
        Whether it is positive definite, and the same wherever z is, with slopes that say so too:
        where z has a kink, as that of its absolute value, no curvature changes.
    concave
        Whether it is positive definite near the start, and not negative anywhere else where it was
        looked at: there is one mode then.
    pattern
        Which of its entries are not zero, of any member; empty where there are too many.
    in_pieces
        Whether every entry was the same in two places at least, whatever the slopes are.
    """

    quadratic: bool
    concave: bool
    pattern: Bool[np.ndarray, "d d"]
    in_pieces: bool = False


def examine(
    split: Split,
    start: Callable[[], np.ndarray],
    compiler: Callable[..., Callable[..., Any]],
    *,
    near: bool = False,
) -> MembersCurvature:
    """Return what the members' precision is like, looked at once for a target.

    A log joint that looks quadratic and has kinks (:func:`kinks_of`) counts as neither quadratic
    nor concave: they lie far from where it was looked. Where there are too many latent variables
    for quadrature, a kink counts that lies within 96 of their units: a clip may be there for safety
    alone.

    Parameters
    ----------
    split
        The members.
    start
        Gives a point of the target's flat vector, near which it is looked.
    compiler
        Compiles a function for given arguments.
    near
        Whether what is seen is what is asked for, whatever kinks lie elsewhere.
    """

    def look() -> MembersCurvature:
        if split.num_members == 1 and split.width > MAX_GAUSSIAN:
            columns = columns_of(split)
            if columns is not None and columns.arrow is not None:
                return _examine_columns(columns, columns.arrow, start(), compiler)
        return _examine(split, start(), compiler)

    made: MembersCurvature = split.target.compiled_once(("curvature", *key_of(split)), look)
    kinked = made.quadratic and not near and bool(kinks_of(split))
    # nodes of a few scalars are exact where a kink is out of reach; many have no other rule
    if kinked and (split.width <= MAX_QUADRATURE or _bends_far(split, start, compiler)):
        return made._replace(quadratic=False, concave=False)
    bent = split.target.compiled_once.get(("bent", *key_of(split)))
    return made if bent is None else made._replace(quadratic=False, concave=bool(bent))


def _bends_far(
    split: Split, start: Callable[[], np.ndarray], compiler: Callable[..., Callable[..., Any]]
) -> bool:
    """Whether a log joint that looks quadratic is none within many units of the start."""

    def look() -> bool:
        [theta, *_], places = _places(split, start())
        seek = look_at(split, theta, places, compiler)
        away = places[1] - places[0]
        away = away / np.abs(away).max() * split.target.units[split.local]
        far = (np.stack([places[0], places[0] + k * away, places[0] - k * away]) for k in FAR)
        seen = (seek(theta, there) for there in far)
        return any(found.bent or not found.finite for found in seen)

    bends: bool = split.target.compiled_once(("bends far", *key_of(split)), look)
    return bends


def _kinked(split: Split) -> dict[str, frozenset[str]]:
    """Return sites whose programs may have kinks in latent variables, with those."""
    flows = split.target.flows.densities.items()
    found = {name: flow.whole.kinked.intersection(split.latents) for name, flow in flows}
    return {name: latents for name, latents in found.items() if latents}


def may_have_kinks(split: Split) -> bool:
    """Whether some log density may have kinks in the latent variables, by its program."""
    return bool(_kinked(split))


def kinks_of(split: Split) -> str:
    """Say which log densities have kinks in the latent variables; empty where none is known to.

    Programs tell which may have some. Those of many smooth functions do, such as the logarithm of a
    sum of exponentials: that of three places two have the same curvature, as where kinks part
    quadratics, none of these does.
    """
    seen = split.target.compiled_once.get(("curvature", *key_of(split)))
    if seen is None or not seen.in_pieces:
        return ""
    found = _kinked(split)
    sites, latents = list(found), frozenset().union(*found.values())
    if not sites:
        return ""
    one = len(sites) == 1
    return (
        f"the log densit{'y' if one else 'ies'} of {', '.join(sites)} ha{'s' if one else 've'} "
        f"kinks in {', '.join(n for n in split.latents if n in latents)} (abs, max, where)"
    )


def is_bent(
    split: Split,
    theta: Float[np.ndarray, " G"],
    modes: Float[np.ndarray, "members d"],
    compiler: Callable[..., Callable[..., Any]],
) -> bool:
    """Whether a log joint that counts as quadratic in z is none where an answer lies.

    It was looked at around the start, and a kink may lie far from there. What is found here is
    remembered: :func:`examine` says so from then on.

    Parameters
    ----------
    split
        The members.
    theta, modes
        Parameters of the answer, and the members' modes there.
    compiler
        Compiles a function for given arguments, where none was compiled yet.
    """
    rng = np.random.default_rng(14)
    look = look_at(split, theta, np.stack([modes] * NUM_PLACES), compiler)
    precision = look(theta, np.stack([modes] * NUM_PLACES)).precisions[0]
    quadratic, concave = bool(np.isfinite(precision).all()), True
    sd = _sds(precision) if quadratic else np.ones(modes.shape)
    for _ in range(NUM_AROUND if np.isfinite(modes).all() else 0):
        away = sd * rng.uniform(0.5, 3.0, modes.shape) * rng.choice([-1, 1], modes.shape)
        seen = look(theta, np.stack([modes, modes + away, modes - away]))
        if not seen.finite:
            continue
        quadratic = quadratic and not seen.bent
        concave = concave and _is_positive(seen.precisions * (1 + FLAT * np.eye(split.width)))
    if quadratic and split.num_members > 1 and split.width <= MAX_QUADRATURE:
        quadratic = not _has_another(look, theta, modes, sd)
        concave = concave and quadratic
    if not (quadratic and concave):
        split.target.compiled_once(("bent", *key_of(split)), lambda: concave)
    return not (quadratic and concave)


def where_none(split: Split) -> str:
    """Return what to do where members have no mode at the start."""
    if kinks_of(split):
        return BY_NUTS
    elsewhere = "start elsewhere with Model(init=...), or use NUTS"
    flat = ", ".join(n for n in split.latents if n in split.target.flat)
    return f"give {flat} a prior that falls to both sides; or {elsewhere}" if flat else elsewhere


def _has_another(
    look: LookAtMembers,
    theta: Float[np.ndarray, " G"],
    modes: Float[np.ndarray, "members d"],
    sd: Float[np.ndarray, "members d"],
) -> bool:
    """Whether a member's log joint, a quadratic around its mode, has another mode far from there.

    So the effects of a mixture have whose components are far apart: around each nothing is seen of
    the other. A Newton step from afar leads to it.
    """
    for far, axis in product(FAR, np.eye(modes.shape[1])):
        away = far * sd * axis
        places = np.stack([modes, modes + away, modes - away])
        seen = look(theta, places)
        if seen.values is None or seen.slopes is None or not np.isfinite(seen.values).all():
            continue
        if not (seen.finite and _is_positive(seen.precisions)):
            continue
        step = np.linalg.solve(seen.precisions, seen.slopes[..., None])[..., 0]
        height = seen.values + (step * seen.slopes).sum(axis=-1) / 2
        apart = (np.abs(places + step - modes) / sd).max(axis=-1)
        if ((apart > APART) & (height > seen.values[0] - DEPTH)).any():
            return True
    return False


def level_member(
    split: Split,
    theta: Float[np.ndarray, " G"],
    modes: Float[np.ndarray, "members d"],
    sds: Float[np.ndarray, "members d"],
    compiler: Callable[..., Callable[..., Any]],
) -> str:
    """Say of which member the density is level far from its mode; empty where none is found.

    It has infinite mass there. A search takes for its mode where the last digit of the density is
    gained, and what curvature is left there puts all nodes far out, however many.

    Parameters
    ----------
    split, theta
        Several members, and parameters.
    modes, sds
        Their modes, given these, and how wide they are.
    compiler
        Compiles a function for given arguments, where none was compiled yet.
    """
    look = look_at(split, theta, np.stack([modes] * NUM_PLACES), compiler)
    for axis in np.eye(split.width):
        away = FAR[-1] * sds * axis
        seen = look(theta, np.stack([modes, modes + away, modes - away]))
        if seen.values is None or seen.slopes is None:
            return ""
        level = (seen.slopes[1:] == 0).all(axis=-1) & (seen.values[1:] > seen.values[0] - DEPTH)
        if level.any():
            names, member = ", ".join(split.latents), level.any(axis=0).argmax()
            return f"given the parameters the density of {names} levels out in member {member}"
    return ""


def _sds(precision: Float[np.ndarray, "members d d"]) -> Float[np.ndarray, "members d"]:
    """Return the sds of z given theta, or those of each scalar given the others."""
    try:
        root = np.linalg.inv(np.linalg.cholesky(precision))
    except np.linalg.LinAlgError:
        return 1 / np.sqrt(np.maximum(np.abs(np.diagonal(precision, axis1=1, axis2=2)), 1e-300))
    return np.asarray(np.sqrt((root**2).sum(axis=1)))


def layout_of(
    split: Split, compiler: Callable[..., Callable[..., Any]], *, normal: bool
) -> tuple[Layout, Columns | None]:
    """Return how the precision of a single member is laid out, and its columns if it is by them.

    Parameters
    ----------
    split
        The member.
    compiler
        Compiles a function for given arguments, where the member was not looked at yet.
    normal
        Whether it is normal. One that is not is laid out by its largest family, where it has one.
    """
    if not normal:
        columns = columns_of(split)
        if columns is not None and columns.layout is not None:
            return columns.layout, columns
    curvature = examine(split, lambda: split.target.start(jax.random.key(0), scatter=0.0), compiler)
    site = np.empty(split.target.dim, int)
    for number, name in enumerate(split.latents):
        site[split.target.slices[name]] = number
    of = site[split.local[0]]
    groups = [np.flatnonzero(of == n) for n in range(len(split.latents))]
    return find_layout(curvature.pattern, groups if len(groups) > 1 else ()), None


def _places(
    split: Split, start: np.ndarray
) -> tuple[list[np.ndarray], Float[np.ndarray, "places members d"]]:
    """Return points of theta, the last of them near 0, and places of the latent variables."""
    rng = np.random.default_rng(9)
    shape = (NUM_PLACES, *split.local.shape)
    unit = split.target.units
    away = np.array([0.1, 1.0, 4.0])[:, None, None] * rng.standard_normal(shape)
    places = start[split.local] + unit[split.local] * away
    theta, width = start[split.border], 0.3 * unit[split.border]
    thetas = [theta + width * rng.standard_normal(theta.shape) for _ in range(NUM_THETAS)]
    normals = [unit[split.border] * rng.standard_normal(theta.shape) for _ in NEAR_ZERO]
    return thetas + [spread * x for spread, x in zip(NEAR_ZERO, normals, strict=True)], places


def _mores(k: int, count: int) -> Float[np.ndarray, " {count}"]:
    """Return what is added to the diagonal, as a share, at all places for theta of a number."""
    mores = np.full(count, FLAT)
    if k < NUM_THETAS:
        mores[0] = -BENT
    return mores


def _examine_columns(
    columns: Columns, arrow: Arrow, start: np.ndarray, compiler: Callable[..., Callable[..., Any]]
) -> MembersCurvature:
    """Return the same by elements; a curvature is looked at where it is finite."""
    split = columns.split
    thetas, places = _places(split, start)
    arrays = split.target.arrays()
    at = jnp.asarray(thetas[0]), jnp.asarray(places[0, 0])
    compiled = compiler(columns.bends, *at, arrays, calls=1)
    slopes = compiler(columns.slopes, *at, arrays, calls=1)
    quadratic = concave = in_pieces = True
    for k, theta in enumerate(thetas):
        kept, first = None, None
        for place, more in zip(places, _mores(k, len(places)), strict=True):
            at = jnp.asarray(theta), jnp.asarray(place[0])
            entries = np.asarray(compiled(*at, arrays))
            if not np.isfinite(entries).all():
                quadratic = quadratic and k >= NUM_THETAS
                in_pieces = in_pieces and k >= NUM_THETAS
                break
            kept = entries if kept is None else kept
            concave = concave and arrow.factorise(entries, scale=more) is not None
            moved = np.abs(entries - kept).max() > QUADRATIC * np.abs(kept).max()
            quadratic, in_pieces = quadratic and not moved, in_pieces and not moved
            if quadratic and k < NUM_THETAS:
                here = np.asarray(slopes(*at, arrays))
                first = here if first is None else first
                made, parts = columns.rises(kept, place[0] - places[0, 0])
                stray = stray_of(here - first, -made, parts, np.stack([first, here]))
                quadratic = stray <= 1.0
        if k + 1 == NUM_THETAS and not quadratic and not concave:
            break
    known = split.width <= MAX_WIDE
    pattern = columns.pattern() if known else np.zeros((0, 0), bool)
    return MembersCurvature(quadratic and concave, concave, pattern, bool(in_pieces))


def _examine(
    split: Split, start: np.ndarray, compiler: Callable[..., Callable[..., Any]]
) -> MembersCurvature:
    thetas, places = _places(split, start)
    look = look_at(split, thetas[0], places, compiler)
    quadratic = concave = in_pieces = True
    pattern = np.eye(split.width, dtype=bool)
    for k, point in enumerate(thetas):
        seen = look(point, places)
        if not seen.finite:
            quadratic = quadratic and k >= NUM_THETAS
            in_pieces = in_pieces and k >= NUM_THETAS
            continue
        quadratic, in_pieces = quadratic and not seen.bent, in_pieces and seen.in_pieces
        at_places = seen.precisions
        more = _mores(k, len(at_places))[:, None, None, None] * np.eye(split.width)
        concave = concave and _is_positive(at_places * (1 + more))
        if k < NUM_THETAS and not _is_positive(at_places[0]):
            quadratic = False
        unit_scale = np.sqrt(np.abs(np.diagonal(at_places, axis1=-2, axis2=-1)))
        outer = unit_scale[..., :, None] * unit_scale[..., None, :]
        pattern |= (np.abs(at_places) > ZERO * outer).any(axis=(0, 1))
        if not quadratic and split.num_members > 1:
            break
    return MembersCurvature(quadratic, concave, pattern | pattern.T, in_pieces)


def _is_positive(matrices: np.ndarray) -> bool:
    try:
        np.linalg.cholesky(matrices)
    except np.linalg.LinAlgError:
        return False
    return True
