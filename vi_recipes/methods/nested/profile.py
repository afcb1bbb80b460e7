"""Where theta's tails lie, coordinate by coordinate, and the proposal that its points begin with.

Around the mode points lie some sds away, along straight lines. A tail that is longer, or that
bends, is followed: along a coordinate, all others where log p(y, theta) is highest.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vi_recipes.importance import Mixture, Proposed, around
from vi_recipes.methods.nested.density import ThetaDensity
from vi_recipes.methods.nested.mode import ThetaMode

WIDER = 1.2
"""By which the first proposal is wider than the curvature at the mode says."""

SHARE = 0.3
"""Of its points, along tails."""

LOOK = 3.0
"""Sds from the mode at which both tails of every coordinate are looked at."""

UNLIKE = 1.5
"""Nats by which one may differ there from a normal law's, or other coordinates gain, without being
followed."""

FALL = 10.0
"""Nats below the mode at which a tail has ended."""

DOUBLINGS = 4
"""Of the distance from the mode, at most."""

NUM_STEPS, LONGEST = 3, 3.0
"""Newton steps of all other coordinates at a distance, and the sds that each may move them."""

MOST_PARTS = 8
"""Pieces of tails that have points, at most."""


class _Piece(NamedTuple):
    """A piece of a tail, from one place to another, along a coordinate."""

    fall: float
    """Nats below the mode at its end."""
    start: Float[np.ndarray, " G"]
    end: Float[np.ndarray, " G"]
    axis: int


def first_proposals(density: ThetaDensity, mode: ThetaMode) -> tuple[Proposed, Proposed]:
    """Return a proposal around the mode of theta, and that with tails which are not normal.

    Parameters
    ----------
    density, mode
        log p(y, theta), and its mode with the curvature there.
    """
    wide = around(mode.theta, WIDER**2 * mode.cov, density.bounded)
    pieces = sorted(_tails(density, mode), key=lambda piece: piece.fall)[:MOST_PARTS]
    if not pieces:
        return wide, wide
    parts, rays = [], mode.rays
    for piece in pieces:
        ray, along = rays[piece.axis], piece.end - piece.start
        # as wide across as theta is given that coordinate, and rounding
        cov = WIDER**2 * (mode.cov - np.outer(ray, ray) + np.outer(along, along) / 4)
        cov += 1e-10 * np.diag(np.diag(mode.cov))
        parts.append(around((piece.start + piece.end) / 2, cov, density.bounded))
    shares = 1 - SHARE, *[SHARE / len(parts)] * len(parts)
    return wide, Mixture((wide, *parts), shares)


def _tails(density: ThetaDensity, mode: ThetaMode) -> list[_Piece]:
    """Return pieces of all tails that differ from a normal law's, as far as they reach."""
    dim, precision = density.dim, np.linalg.inv(mode.cov)
    top = density.given(mode.theta[None])[0][0]
    axis, sign = np.repeat(np.arange(dim), 2), np.tile([1.0, -1.0], dim)
    here = mode.theta + LOOK * sign[:, None] * mode.rays[axis]
    value, slope = _at(density, here)
    gain = (_steps(precision, slope, axis) * slope).sum(1) / 2
    unlike = (np.abs(top - value - LOOK**2 / 2) > UNLIKE) | (gain > UNLIKE)
    rows = np.flatnonzero(unlike & np.isfinite(value))
    last, before, far = np.tile(mode.theta, (2 * dim, 1)), 0.0, LOOK
    pieces = []
    for _ in range(1 + DOUBLINGS):
        if not rows.size:
            break
        here[rows], found = _highest(density, precision, here[rows], axis[rows])
        for r, v in zip(rows, found, strict=True):
            if np.isfinite(v):
                pieces.append(_Piece(top - v, last[r].copy(), here[r].copy(), int(axis[r])))
        rows = rows[np.isfinite(found) & (top - found < FALL)]
        # as straight on as the last piece was
        last, here = here.copy(), here + (here - last) * far / (far - before)
        before, far = far, 2 * far
    return pieces


def _highest(
    density: ThetaDensity,
    precision: Float[np.ndarray, "G G"],
    theta: Float[np.ndarray, "rows G"],
    axis: Int[np.ndarray, " rows"],
) -> tuple[Float[np.ndarray, "rows G"], Float[np.ndarray, " rows"]]:
    """Return where the density is highest, about, with a coordinate of every row as it is."""
    value, slope = _at(density, theta)
    steps, size = _steps(precision, slope, axis), np.ones((len(theta), 1))
    for _ in range(NUM_STEPS):
        tried = theta + size * steps
        new, new_slope = _at(density, tried)
        better = (new > value)[:, None]
        theta, slope = np.where(better, tried, theta), np.where(better, new_slope, slope)
        value, steps = np.maximum(new, value), _steps(precision, slope, axis)
        size = np.where(better, 1.0, size / 4)
    return theta, value


def _at(
    density: ThetaDensity, theta: Float[np.ndarray, "rows G"]
) -> tuple[Float[np.ndarray, " rows"], Float[np.ndarray, "rows G"]]:
    """Return log p(y, theta) and its gradient, minus infinity and zeros where either is not."""
    value, given = density.given(theta, gradient=True)
    gradient = np.asarray(given.gradient)
    found = np.isfinite(value) & np.isfinite(gradient).all(1)
    return np.where(found, value, -np.inf), np.where(found[:, None], gradient, 0.0)


def _steps(
    precision: Float[np.ndarray, "G G"],
    gradient: Float[np.ndarray, "rows G"],
    axis: Int[np.ndarray, " rows"],
) -> Float[np.ndarray, "rows G"]:
    """Return Newton steps of all coordinates of a row but one, no longer than some sds."""
    steps, every = np.zeros_like(gradient), np.arange(len(precision))
    for row, slope, axis_of in zip(steps, gradient, axis, strict=True):
        others = every[every != axis_of]
        step = np.linalg.solve(precision[np.ix_(others, others)], slope[others])
        length = np.sqrt(max(slope[others] @ step, 0.0))
        row[others] = step / max(1.0, length / LONGEST)
    return steps
