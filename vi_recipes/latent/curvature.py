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
        Whether it is positive definite, and the same wherever z is.
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

    made: Curvature = split.target.compiled_once(
        ("curvature", split.latents, split.local.shape, split.local.tobytes()), look
    )
    return made


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
    shape = (3, *split.local.shape)
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
    quadratic = concave = True
    for k, theta in enumerate(thetas):
        kept = None
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
    look = (_of_one if split.num_members == 1 else _of_members)(split, thetas[0], places, compiler)
    quadratic = concave = True
    pattern = np.eye(split.width, dtype=bool)
    for k, point in enumerate(thetas):
        at_places, change = look(point)
        if not (np.isfinite(at_places).all() and np.isfinite(change)):
            quadratic = quadratic and k >= NUM_THETAS
            continue
        quadratic = quadratic and not change > QUADRATIC
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


Look = Callable[[np.ndarray], tuple[np.ndarray, float]]
"""Precisions at some places, given theta, and how much they change, beside the largest entry."""


def _of_members(
    split: Split, theta: np.ndarray, places: np.ndarray, compiler: Callable[..., Any]
) -> Look:
    arrays = split.target.arrays()

    def precisions(theta: jax.Array, z: jax.Array, arrays: Arrays) -> jax.Array:
        return jax.lax.map(lambda z: member_terms(split, theta, z, arrays).precision, z)

    given = jnp.asarray(theta), jnp.asarray(places), arrays
    compiled = compiler(precisions, *given, calls=1)

    def look(theta: np.ndarray) -> tuple[np.ndarray, float]:
        found = np.asarray(compiled(jnp.asarray(theta), *given[1:]))
        return found, float(np.abs(found - found[0]).max() / np.abs(found).max())

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

    def products(theta: jax.Array, z: jax.Array, vectors: jax.Array, arrays: Arrays) -> jax.Array:
        def slope(z: jax.Array) -> jax.Array:
            return jax.grad(lambda z: split.log_joint(theta, z, arrays).members.sum())(z)

        _, push = jax.linearize(slope, z)
        made: jax.Array = -jax.vmap(lambda v: push(v[None])[0])(vectors)
        return made

    some = np.random.default_rng(10).standard_normal((lot, d))
    units = np.eye(-(-d // lot) * lot, d)
    given = jnp.asarray(theta), jnp.asarray(places[0]), jnp.asarray(some), arrays
    compiled = compiler(products, *given, calls=1)

    def look(theta: np.ndarray) -> tuple[np.ndarray, float]:
        def at(z: np.ndarray, vectors: np.ndarray) -> np.ndarray:
            given = map(jnp.asarray, (theta, z, vectors))
            return np.asarray(compiled(*given, arrays))

        def precision(z: np.ndarray) -> np.ndarray:
            rows = [at(z, units[first : first + lot]) for first in range(0, d, lot)]
            whole = np.concatenate(rows)[:d]
            return np.asarray((whole + whole.T) / 2)[None]

        if d <= MAX_WEIGHED:
            found = np.stack([precision(z) for z in places])
            return found, float(np.abs(found - found[0]).max() / np.abs(found).max())
        bent = np.stack([at(z, some) for z in places])
        change = float(np.abs(bent - bent[0]).max() / np.abs(bent).max())
        return precision(places[0])[None], change

    return look


def _is_positive(matrices: np.ndarray) -> bool:
    try:
        np.linalg.cholesky(matrices)
    except np.linalg.LinAlgError:
        return False
    return True
