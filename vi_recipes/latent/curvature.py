"""Minus the Hessian in the latent variables, in several places: is it one, and is it sparse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from vi_recipes.algebra import Arrow, Layout, find_layout
from vi_recipes.latent.columns import Columns, columns_of
from vi_recipes.latent.continuous import NEAR_ZERO
from vi_recipes.latent.marginal import MAX_GAUSSIAN
from vi_recipes.latent.member_modes import member_terms
from vi_recipes.latent.split import Split
from vi_recipes.model import Arrays

MAX_WEIGHED = 300
"""Latent scalars of a single member that is not normal up to which points of all of them weigh."""

MAX_WIDE = 2_000
"""Latent scalars of a single member up to which it is looked for zeros in its precision."""

QUADRATIC = 1e-12
"""Change of a curvature between two places, beside its largest entry, that counts as none: a prior
may be many orders stiffer than what changes."""

LOT = 512
"""Products with the Hessian of a single member that are made at a time."""

ALIKE = 1e-5
"""Change of a slope that its curvature does not make, beside what that makes, that counts as none:
data that are so much weaker than a prior may have kinks."""

ROUNDING = 1e-12
"""The same beside the slopes themselves, which may be of terms that nearly cancel."""

NUM_AROUND = 2
"""Pairs of places, to both sides of the members' modes, where it is looked once more."""

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


class Curvature(NamedTuple):
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
    """

    quadratic: bool
    concave: bool
    pattern: Bool[np.ndarray, "d d"]


def examine(
    split: Split,
    start: Callable[[], np.ndarray],
    compiler: Callable[..., Callable[..., Any]],
) -> Curvature:
    """Return what the members' precision is like, looked at once for a target.

    Parameters
    ----------
    split
        The members.
    start
        Gives a point of the target's flat vector, near which it is looked.
    compiler
        Compiles a function for given arguments.
    """

    def look() -> Curvature:
        if split.num_members == 1 and split.width > MAX_GAUSSIAN:
            columns = columns_of(split)
            if columns is not None and columns.arrow is not None:
                return _examine_columns(columns, columns.arrow, start(), compiler)
        return _examine(split, start(), compiler)

    made: Curvature = split.target.compiled_once(("curvature", *_key(split)), look)
    bent = split.target.compiled_once.get(("bent", *_key(split)))
    return made if bent is None else made._replace(quadratic=False, concave=bool(bent))


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
    look = _look_at(split, theta, np.stack([modes] * NUM_PLACES), compiler)
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
    if not (quadratic and concave):
        split.target.compiled_once(("bent", *_key(split)), lambda: concave)
    return not (quadratic and concave)


def _key(split: Split) -> tuple[Any, ...]:
    return (split.latents, split.local.shape, split.local.tobytes())


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
) -> Curvature:
    """Return the same by elements; a curvature is looked at where it is finite."""
    split = columns.split
    thetas, places = _places(split, start)
    arrays = split.target.arrays()
    at = jnp.asarray(thetas[0]), jnp.asarray(places[0, 0])
    compiled = compiler(columns.bends, *at, arrays, calls=1)
    slopes = compiler(columns.slopes, *at, arrays, calls=1)
    quadratic = concave = True
    for k, theta in enumerate(thetas):
        kept, first = None, None
        for place, more in zip(places, _mores(k, len(places)), strict=True):
            at = jnp.asarray(theta), jnp.asarray(place[0])
            entries = np.asarray(compiled(*at, arrays))
            if not np.isfinite(entries).all():
                quadratic = quadratic and k >= NUM_THETAS
                break
            kept = entries if kept is None else kept
            concave = concave and arrow.factorise(entries, scale=more) is not None
            quadratic = quadratic and not (
                np.abs(entries - kept).max() > QUADRATIC * np.abs(kept).max()
            )
            if quadratic and k < NUM_THETAS:
                here = np.asarray(slopes(*at, arrays))
                first = here if first is None else first
                made, parts = columns.rises(kept, place[0] - places[0, 0])
                stray = _astray(here - first, -made, parts, np.stack([first, here]))
                quadratic = stray <= 1.0
        if k + 1 == NUM_THETAS and not quadratic and not concave:
            break
    known = split.width <= MAX_WIDE
    return Curvature(
        quadratic and concave, concave, columns.pattern() if known else np.zeros((0, 0), bool)
    )


def _examine(
    split: Split, start: np.ndarray, compiler: Callable[..., Callable[..., Any]]
) -> Curvature:
    thetas, places = _places(split, start)
    look = _look_at(split, thetas[0], places, compiler)
    quadratic = concave = True
    pattern = np.eye(split.width, dtype=bool)
    for k, point in enumerate(thetas):
        seen = look(point, places)
        if not seen.finite:
            quadratic = quadratic and k >= NUM_THETAS
            continue
        quadratic = quadratic and not seen.bent
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
    return Curvature(quadratic, concave, pattern | pattern.T)


class Seen(NamedTuple):
    """What is seen of the members' log joints at some places, given theta.

    Parameters
    ----------
    precisions
        Minus their Hessians, at all of the places or at the first alone.
    change
        How much these change from place to place, beside the largest entry.
    astray
        How much slopes change that they do not account for, beside what counts as none.
    """

    precisions: Float[np.ndarray, "places members d d"]
    change: float
    astray: float

    @property
    def finite(self) -> bool:
        """Whether all of it is finite."""
        return bool(np.isfinite(self.precisions).all() and np.isfinite(self[1:]).all())

    @property
    def bent(self) -> bool:
        """Whether the log joints are no quadratics."""
        return self.change > QUADRATIC or self.astray > 1.0


Look = Callable[[np.ndarray, np.ndarray], Seen]
"""Looks at theta and places of the latent variables."""


def _look_at(
    split: Split, theta: np.ndarray, places: np.ndarray, compiler: Callable[..., Any]
) -> Look:
    """Return what looks at the members, compiled once for a target."""
    make = _of_one if split.num_members == 1 else _of_members
    made: Look = split.target.compiled_once(
        ("look at curvature", *_key(split)), lambda: make(split, theta, places, compiler)
    )
    return made


def _astray(moved: np.ndarray, made: np.ndarray, parts: np.ndarray, slopes: np.ndarray) -> float:
    """Return how far slopes have moved otherwise than curvatures make them, by what counts as none.

    ``parts`` are the sizes of what these make, added up, and ``slopes`` are those at all places.
    """
    none = ALIKE * parts + ROUNDING * np.abs(slopes).max(axis=0)
    return float((np.abs(moved - made) / np.maximum(none, 1e-300)).max(initial=0.0))


def _of_members(
    split: Split, theta: np.ndarray, places: np.ndarray, compiler: Callable[..., Any]
) -> Look:
    arrays = split.target.arrays()

    def terms(theta: jax.Array, z: jax.Array, arrays: Arrays) -> tuple[jax.Array, jax.Array]:
        def at(z: jax.Array) -> tuple[jax.Array, jax.Array]:
            found = member_terms(split, theta, z, arrays)
            return found.gradient, found.precision

        return jax.lax.map(at, z)

    given = jnp.asarray(theta), jnp.asarray(places), arrays
    compiled = compiler(terms, *given, calls=1)

    def look(theta: np.ndarray, places: np.ndarray) -> Seen:
        slopes, found = map(np.asarray, compiled(jnp.asarray(theta), jnp.asarray(places), arrays))
        change = float(np.abs(found - found[0]).max() / np.abs(found).max())
        made = -found[0] * (places - places[0])[1:, :, None, :]
        moved = (slopes - slopes[0])[1:]
        return Seen(found, change, _astray(moved, made.sum(-1), np.abs(made).sum(-1), slopes))

    return look


def _of_one(
    split: Split, theta: np.ndarray, places: np.ndarray, compiler: Callable[..., Any]
) -> Look:
    """Look at a single member, some products with the Hessian at a time.

    Of a large one the precision is made at the first place, and at others it is looked whether
    products with random directions are the same.
    """
    arrays, d = split.target.arrays(), split.width
    lot = min(d, LOT)

    def products(
        theta: jax.Array, z: jax.Array, vectors: jax.Array, arrays: Arrays
    ) -> tuple[jax.Array, jax.Array]:
        def slope(z: jax.Array) -> jax.Array:
            return jax.grad(lambda z: split.log_joint(theta, z, arrays).members.sum())(z)

        here, push = jax.linearize(slope, z)
        made: jax.Array = -jax.vmap(lambda v: push(v[None])[0])(vectors)
        return here[0], made

    some = np.random.default_rng(10).standard_normal((lot, d))
    units = np.eye(-(-d // lot) * lot, d)
    given = jnp.asarray(theta), jnp.asarray(places[0]), jnp.asarray(some), arrays
    compiled = compiler(products, *given, calls=1)

    def look(theta: np.ndarray, places: np.ndarray) -> Seen:
        def at(z: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            given = map(jnp.asarray, (theta, z, vectors))
            here, made = compiled(*given, arrays)
            return np.asarray(here), np.asarray(made)

        def precision(z: np.ndarray) -> np.ndarray:
            rows = [at(z, units[first : first + lot])[1] for first in range(0, d, lot)]
            whole = np.concatenate(rows)[:d]
            return np.asarray((whole + whole.T) / 2)[None]

        # a direction to each of the other places, whose product is what slopes there differ by
        away = (places - places[0])[1:, 0]
        vectors = some.copy()
        vectors[: len(away)] = away[:lot]
        seen = [at(z, vectors) for z in places]
        slopes, bent = (np.stack(v) for v in zip(*seen, strict=True))
        parts = np.abs(bent).max(axis=(0, 1)) * np.abs(away[:lot]).max(axis=1, keepdims=True)
        moved, made = (slopes - slopes[0])[1 : 1 + lot], -bent[0, : len(away)]
        astray = _astray(moved, made, parts, slopes)
        if d <= MAX_WEIGHED:
            found = np.stack([precision(z) for z in places])
            return Seen(found, float(np.abs(found - found[0]).max() / np.abs(found).max()), astray)
        change = float(np.abs(bent - bent[0]).max() / np.abs(bent).max())
        return Seen(precision(places[0])[None], change, astray)

    return look


def _is_positive(matrices: np.ndarray) -> bool:
    try:
        np.linalg.cholesky(matrices)
    except np.linalg.LinAlgError:
        return False
    return True
