"""Minus the Hessian in the latent variables, in several places: is it one, and is it sparse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from vi_recipes.algebra import Layout, find_layout
from vi_recipes.latent.continuous import NEAR_ZERO
from vi_recipes.latent.member_modes import member_terms
from vi_recipes.latent.split import Split
from vi_recipes.model import Arrays

MAX_WEIGHED = 300
"""Latent scalars of a single member that is not normal up to which points around its mode weigh."""

MAX_WIDE = 2_000
"""Latent scalars of a single member up to which it is looked for zeros in its precision."""

QUADRATIC = 1e-8
"""Relative change of a curvature between two places that counts as none."""

ZERO = 1e-11
"""Entry of a precision, beside the roots of its diagonal's two, that counts as none."""


class Curvature(NamedTuple):
    """What the members' precision is like, wherever it was looked at.

    Parameters
    ----------
    quadratic
        Whether it is positive definite, and the same wherever z is.
    concave
        Whether it is positive definite wherever it was looked at: there is one mode then.
    pattern
        Which of its entries are not zero, of any member.
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
    made: Curvature = split.target.compiled_once(
        ("curvature", split.latents, split.local.shape, split.local.tobytes()),
        lambda: _examine(split, start(), compiler),
    )
    return made


def layout_of(split: Split, compiler: Callable[..., Callable[..., Any]]) -> Layout:
    """Return how the precision of a single member is laid out; its sites may be crossed families.

    Parameters
    ----------
    split
        The member.
    compiler
        Compiles a function for given arguments, where the member was not looked at yet.
    """
    curvature = examine(split, lambda: split.target.start(jax.random.key(0), scatter=0.0), compiler)
    site = np.empty(split.target.dim, int)
    for number, name in enumerate(split.latents):
        site[split.target.slices[name]] = number
    of = site[split.local[0]]
    groups = [np.flatnonzero(of == n) for n in range(len(split.latents))]
    return find_layout(curvature.pattern, groups if len(groups) > 1 else ())


def _examine(
    split: Split, start: np.ndarray, compiler: Callable[..., Callable[..., Any]]
) -> Curvature:
    rng = np.random.default_rng(9)
    arrays = split.target.arrays()

    def precisions(theta: jax.Array, z: jax.Array, arrays: Arrays) -> jax.Array:
        return jax.lax.map(lambda z: member_terms(split, theta, z, arrays).precision, z)

    shape = (3, *split.local.shape)
    unit = split.target.units
    away = np.array([0.1, 1.0, 4.0])[:, None, None] * rng.standard_normal(shape)
    places = start[split.local] + unit[split.local] * away
    theta, width = start[split.border], 0.3 * unit[split.border]
    thetas = [theta + width * rng.standard_normal(theta.shape) for _ in range(2)]
    normals = [unit[split.border] * rng.standard_normal(theta.shape) for _ in NEAR_ZERO]
    near_zero = [spread * x for spread, x in zip(NEAR_ZERO, normals, strict=True)]
    compiled = compiler(precisions, jnp.asarray(theta), jnp.asarray(places), arrays, calls=1)
    quadratic = concave = True
    pattern = np.eye(split.width, dtype=bool)
    for k, point in enumerate(thetas + near_zero):
        at_places = np.asarray(compiled(jnp.asarray(point), jnp.asarray(places), arrays))
        if not np.isfinite(at_places).all():
            quadratic = quadratic and k >= len(thetas)
            continue
        scale = np.abs(at_places).max()
        quadratic = quadratic and not np.abs(at_places - at_places[0]).max() > QUADRATIC * scale
        concave = concave and _is_positive(at_places)
        if k < len(thetas) and not _is_positive(at_places[0]):
            quadratic = False
        unit_scale = np.sqrt(np.abs(np.diagonal(at_places, axis1=-2, axis2=-1)))
        outer = unit_scale[..., :, None] * unit_scale[..., None, :]
        pattern |= (np.abs(at_places) > ZERO * outer).any(axis=(0, 1))
        if not quadratic and split.num_members > 1:
            break
    return Curvature(quadratic, concave, pattern | pattern.T)


def _is_positive(matrices: np.ndarray) -> bool:
    try:
        np.linalg.cholesky(matrices)
    except np.linalg.LinAlgError:
        return False
    return True
