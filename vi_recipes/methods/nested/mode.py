"""The mode of log p(y, theta), its curvature there, and the tangent of the members' modes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.optimize import OptimizeResult, minimize

from vi_recipes.core import MethodFailure, Progress, Status
from vi_recipes.latent import kinks_of, where_none
from vi_recipes.methods.nested.density import ThetaDensity

MAX_STEPS = 300
"""Of the search."""

GRADIENT = 1e-2
"""Gradient, in units of theta, at which it ends."""

FLAT, NUM_FLAT = 0.02, 2
"""Nats that so many steps gain together below which they end it too: what is left is polishing."""

REACH = 0.2
"""Posterior sds over which gradients are differenced."""

NUM_POLISHING = 5
"""Newton steps after the search, at most."""

APART = 3.0
"""Sds between two modes from which they are two."""

DEPTH = 8.0
"""Nats below the first at which another mode counts for nothing."""

DISTANCES = (*range(1, 13), 14, 17, 20, 24, 29, 35, 42, 50)
"""Sds from a mode, along each coordinate, at which it is looked whether the density rises again."""

RISE = 1.0
"""Nats above a nearer point by which it does."""

MOST_RISES = 2
"""Of these points, the highest, that are climbed from."""

CLOSE = 0.05
"""Newton decrement, in sds, at which they end."""


@dataclass(frozen=True)
class ThetaMode:
    """A mode of log p(y, theta), unconstrained scale.

    Parameters
    ----------
    theta, cov
        The point, and the inverse of minus the Hessian there.
    decrement
        How far from the mode the point is, in sds.
    """

    theta: Float[np.ndarray, " G"]
    cov: Float[np.ndarray, "G G"]
    decrement: float

    @property
    def rays(self) -> Float[np.ndarray, "G G"]:
        """An sd along each coordinate, a row each, the others where a normal law has them then."""
        return self.cov / np.sqrt(np.diag(self.cov))[:, None]


def find_theta_mode(density: ThetaDensity, progress: Progress) -> ThetaMode:
    """Return the mode of log p(y, theta), from where the density's place is.

    BFGS by gradients, then Newton steps by differences of gradients. Leaves the density with the
    members' modes and their slopes there.

    Raises
    ------
    MethodFailure
        ``DIVERGED`` where the density is not finite at the start, or no mode is found.
    """
    units = density.units
    theta, inverse = _climb(density, progress)
    sd = units * np.sqrt(np.clip(np.diag(inverse), 1e-12, None))
    for _ in range(NUM_POLISHING):
        gradient, hessian, slopes, modes = _differences(density, theta, sd)
        if not np.isfinite(hessian).all():
            break
        scaled = hessian * np.outer(units, units)
        values, vectors = np.linalg.eigh((scaled + scaled.T) / 2)
        values = np.maximum(np.abs(values), 1e-8 * np.abs(values).max())
        cov = (vectors / values) @ vectors.T * np.outer(units, units)
        density.move_to(theta, modes, slopes)
        step = cov @ gradient
        away = float(np.sqrt(max(gradient @ step, 0.0)))
        sd = np.sqrt(np.diag(cov))
        if away <= CLOSE:
            return ThetaMode(theta, cov, away)
        moved = theta + step * min(1.0, 2.0 / away)
        if not np.isfinite(density.given(moved[None])[0][0]):
            return ThetaMode(theta, cov, away)
        theta = moved
    else:
        return ThetaMode(theta, cov, away)
    raise MethodFailure(
        Status.DIVERGED,
        "no mode of log p(y, theta) was found: its curvature is not finite where the search ended",
        "start elsewhere with Model(init=...), or use NUTS",
    )


def find_other_mode(
    density: ThetaDensity, mode: ThetaMode, starts: Sequence[np.ndarray], progress: Progress
) -> ThetaMode | None:
    """Return a mode elsewhere that counts beside the one found; ``None`` if no start leads to it.

    Parameters
    ----------
    density
        log p(y, theta). Its place is left as it is.
    mode
        The mode found.
    starts
        Flat vectors, shape (dim,), where the search begins.
    progress
        Told of every step.
    """
    kept, split = density.place, density.split
    top = density.given(mode.theta[None])[0][0]
    precision = np.linalg.inv(mode.cov)
    other = None
    for flat in starts:
        local = flat[split.local] if density.has_members else kept.modes
        density.place = kept._replace(theta=flat[split.border], modes=local, slopes=0 * kept.slopes)
        try:
            found = find_theta_mode(density, progress)
        except MethodFailure:
            continue
        value = density.given(found.theta[None])[0][0]
        away = found.theta - mode.theta
        apart = np.sqrt(max(away @ precision @ away, away @ np.linalg.inv(found.cov) @ away))
        if found.decrement <= CLOSE and apart > APART and value > top - DEPTH:
            other = found
    density.place = kept
    return other


def distant_starts(density: ThetaDensity, mode: ThetaMode) -> list[np.ndarray]:
    """Return flat vectors far from a mode, where log p(y, theta) is higher than nearer to it.

    It is looked at along each coordinate, the others where a normal law would have them given that.
    """
    lines = np.concatenate([mode.rays, -mode.rays])
    reach = np.array(DISTANCES, float)
    rows = mode.theta + reach[:, None] * lines[:, None, :]
    values = density.given(rows.reshape(-1, mode.theta.size))[0].reshape(rows.shape[:2])
    values = np.where(np.isfinite(values), values, -np.inf)
    lowest = np.minimum.accumulate(np.where(np.isneginf(values), np.inf, values), axis=1)
    with np.errstate(invalid="ignore"):  # where nothing was found
        rises = np.where(values > lowest + RISE, values, -np.inf)
    best = rises.argmax(axis=1)
    height = rises[np.arange(len(rises)), best]
    starts = []
    for line in np.argsort(-height)[:MOST_RISES]:
        if np.isneginf(height[line]):
            break
        flat = np.zeros(density.target.dim)
        flat[density.split.border] = rows[line, best[line]]
        if density.has_members:
            flat[density.split.local] = density.place.modes
        starts.append(flat)
    return starts


def _climb(density: ThetaDensity, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    """Return where BFGS ends, and its inverse Hessian in units."""
    units, start = density.units, density.place.theta
    best, steps = -np.inf, 0
    reached: list[float] = []

    def fall(x: np.ndarray) -> tuple[float, np.ndarray]:
        nonlocal best, steps
        theta = x * units
        value, given = density.given(theta[None], gradient=True)
        slope = given.gradient[0] * units
        if not (np.isfinite(value[0]) and np.isfinite(slope).all()):
            return np.inf, np.zeros_like(x)
        if value[0] > best:
            best = float(value[0])
            density.move_to(theta, given.modes[0], None)
        steps += 1
        progress(steps, MAX_STEPS, f"log p(y, theta) {best:.6g}")
        return -float(value[0]), -slope

    if not np.isfinite(fall(start / units)[0]):
        kinks = kinks_of(density.split)
        why = (
            f"; {kinks}"
            if kinks
            else ", as where its density has no maximum, or kinks (abs, max, where)"
        )
        raise MethodFailure(
            Status.DIVERGED,
            "log p(y, theta) is not finite at the start"
            + f": a member has no mode there that a search finds{why}" * density.has_members,
            where_none(density.split),
        )

    def look(intermediate_result: OptimizeResult) -> None:
        # rounding of many rows may keep the gradient above its limit however long it goes on
        reached.append(float(intermediate_result.fun))
        if len(reached) > NUM_FLAT and reached[-1 - NUM_FLAT] - reached[-1] < FLAT:
            raise StopIteration

    begin, options = start / units, {"gtol": GRADIENT, "maxiter": MAX_STEPS}
    with np.errstate(all="ignore"):
        end = minimize(fall, begin, jac=True, method="BFGS", callback=look, options=options)
    return density.place.theta, np.asarray(end.hess_inv)


def _differences(
    density: ThetaDensity, theta: np.ndarray, sd: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return gradient, minus Hessian, slopes of the members' modes, and the modes, at theta."""
    dim = theta.size
    width = REACH * np.clip(sd, 1e-4 * density.units, density.units)
    steps = np.diag(width)
    _, given = density.given(
        np.concatenate([theta[None], theta + steps, theta - steps]), gradient=True
    )
    up, down = slice(1, dim + 1), slice(dim + 1, None)
    bend = (given.gradient[down] - given.gradient[up]) / (2 * width[:, None])
    slopes = (given.modes[up] - given.modes[down]) / (2 * width[:, None, None])
    return given.gradient[0], (bend + bend.T) / 2, np.moveaxis(slopes, 0, -1), given.modes[0]
