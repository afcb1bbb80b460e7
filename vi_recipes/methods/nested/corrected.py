"""What is added to Laplace's approximation, how far it is known, and what it does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import logsumexp

from vi_recipes.core import MethodFailure, Progress, Status
from vi_recipes.importance import khat
from vi_recipes.methods.nested.correction import FEWEST, NUM_LOTS, WeighedPoints, enough, level
from vi_recipes.methods.nested.crossed_density import CrossedDensity
from vi_recipes.methods.nested.effects import Effects, effects_of
from vi_recipes.methods.nested.integrate import without_theta
from vi_recipes.methods.nested.mode import CLOSE, ThetaMode
from vi_recipes.methods.nested.polynomial import by_polynomial
from vi_recipes.methods.nested.records import InnerError
from vi_recipes.methods.nested.rounds import Integral, weigh
from vi_recipes.methods.nested.surrogate import monomials

SHARE = 0.6
"""Of the tolerance, in square, that points at all thetas may leave. Those at the centre may leave
the rest, and so may the points of the integral over theta."""

RATIO = 5.0
"""Times by which a variance of theta is made larger, at most."""

MOVED = 0.2
"""Of the tolerance, that more nodes may change means and sds; errors are then a fiftieth larger."""

NUM_STEPS, FARTHEST = 4, 3.0
"""Newton steps to the corrected mode at most, and sds away from Laplace's up to which it is."""


@dataclass(frozen=True)
class Corrected:
    """What Laplace's approximation misses, and what that does.

    Parameters
    ----------
    inner
        What more nodes over the largest family change.
    shift, tilt
        Nats that are added: their mean over the posterior, and their sd.
    moved
        Largest change of a mean, in posterior sds.
    noise
        Largest error that the correction leaves in a mean or an sd, in sds.
    residual
        Nats by which the quadratic misses what is added.
    num_thetas, num_points
        Points of theta, and points of the border at each.
    khat
        Shape of the tail of their weights.
    variance
        Of the logarithms of their weights.
    """

    inner: InnerError
    shift: float
    tilt: float
    moved: float
    noise: float
    residual: float
    num_thetas: int
    num_points: int
    khat: float
    variance: float

    def __str__(self) -> str:
        return (
            f"corrected by {self.num_points:,} weighed points at each of {self.num_thetas} points "
            f"of the parameters: it is {self.shift:.2g} nats short there, give or take "
            f"{self.tilt:.1g} from one to another, which moves a mean by up to {self.moved:.2g} "
            f"sds, known to {self.noise:.1g}"
        )


@dataclass(frozen=True)
class Added:
    """A quadratic in theta that is added to Laplace's log p(y, theta).

    Parameters
    ----------
    of
        Where it was found.
    table
        Log mean weights, by each lattice.
    logs
        Log weights at the centre.
    effects
        What the member's means and sds have beside Laplace's.
    inner
        What more nodes over the largest family change.
    """

    of: WeighedPoints
    table: Float[np.ndarray, "places lots"]
    logs: Float[np.ndarray, " points"]
    effects: Effects
    inner: InnerError

    def fit(self, without: int | None = None) -> tuple[np.ndarray, float]:
        """Return the coefficients of the quadratic, and what it misses.

        Parameters
        ----------
        without
            A lattice to leave out.
        """
        some = self.table if without is None else np.delete(self.table, without, axis=1)
        here = logsumexp(some, axis=1) - np.log(some.shape[1])
        powers = terms(self.of.places)
        fitted = np.linalg.lstsq(powers, here, rcond=None)[0]
        spare = max(1, len(here) - len(fitted))
        return fitted, float(np.sqrt(np.square(here - powers @ fitted).sum() / spare))

    @property
    def tilting(self) -> float:
        """Nats, as an sd over the posterior, by which noise may tilt what is added."""
        parts = np.stack([self.fit(lot)[0] for lot in range(NUM_LOTS)])
        noise = parts.std(0, ddof=1) * (NUM_LOTS - 1) / np.sqrt(NUM_LOTS)
        tilt, bend = np.split(noise[1:], [self.of.density.dim])
        return float(np.sqrt(np.square(tilt).sum() + 2 * np.square(bend).sum()))

    @property
    def bend(self) -> Float[np.ndarray, "G G"]:
        """The quadratic's second derivatives at the centre, in sds."""
        dim = self.of.density.dim
        bend = np.zeros((dim, dim))
        bend[np.triu_indices(dim)] = self.fit()[0][1 + dim :]  # as terms() has them
        return bend + bend.T

    def at(
        self, theta: Float[np.ndarray, "rows G"], without: int | None = None
    ) -> Float[np.ndarray, " rows"]:
        """Return the nats that are added at rows of theta."""
        return np.asarray(terms(self.of.whitened(theta)) @ self.fit(without)[0])

    def mode(self, mode: ThetaMode) -> ThetaMode:
        """Return the mode of Laplace's log p(y, theta) and what is added, from the mode of the one.

        Newton steps by the exact gradient of both and the curvature that both have at the first
        mode. The density seeks modes of the member from there on. Where both have no mode near, it
        is the first.
        """
        density, root = self.of.density, self.of.root
        dim = density.dim
        tilt, bend = self.fit()[0][1 : 1 + dim], self.bend
        precision = np.eye(dim) - bend
        if np.linalg.eigvalsh(precision)[0] < 1 / RATIO:
            return mode
        cov = np.linalg.inv(precision)
        x, slope = np.zeros(dim), tilt
        for _ in range(NUM_STEPS):
            x = x + cov @ slope
            theta = self.of.centre + root @ x
            if not np.linalg.norm(x) <= FARTHEST:
                return mode
            value, given = density.given(theta[None], gradient=True)
            if not np.isfinite(value[0]):
                return mode
            density.move_to(theta, given.modes[0], None)
            slope = root.T @ given.gradient[0] + tilt + bend @ x
            away = float(np.sqrt(slope @ cov @ slope))
            if away <= CLOSE:
                break
        return ThetaMode(theta, root @ cov @ root.T, away)


def correct(
    density: CrossedDensity, mode: ThetaMode | None, tolerance: float, progress: Progress
) -> Added:
    """Find what Laplace's approximation misses around the mode of theta; the density has it then.

    Parameters
    ----------
    density, mode
        Laplace's approximation, and its mode.
    tolerance
        Posterior sds: points are more until the error they leave is below it, or they read too
        much.
    progress
        Told of every theta.

    Raises
    ------
    MethodFailure
        ``DIVERGED`` where a point of theta near its mode has no mode of the member.
    """
    none = np.zeros(0)
    centre, cov = (mode.theta, mode.cov) if mode is not None else (none, np.zeros((0, 0)))
    weighed = WeighedPoints(density, centre, cov)
    if weighed.failed:
        raise MethodFailure(
            Status.DIVERGED,
            "no mode of the latent variables was found at a point of the parameters near theirs",
            "use NUTS",
        )
    weighed.lean()
    inner = weighed.choose_inner()
    effects = effects_of(weighed, (1 - SHARE) * tolerance**2, MOVED * tolerance)
    inner = replace(inner, moved=effects.moved)
    pairs = FEWEST
    while True:
        added = Added(weighed, *weighed.lots(pairs, progress), effects, inner)
        more = enough(
            pairs, added.tilting**2 / (SHARE * tolerance**2), 2 * weighed.work * len(weighed.places)
        )
        if more == pairs:
            break
        pairs = more
    density.take(added.at, effects.at)
    return added


def with_errors(
    added: Added, found: Integral, known: Bool[np.ndarray, " scalars"]
) -> tuple[Integral, Corrected]:
    """Return an integral with the errors that the correction leaves, and what it does there.

    Parameters
    ----------
    added
        The correction.
    found
        The integral of the density that has it.
    known
        Which scalars have their moments from points of theta.
    """
    swept, rounds, density = found.swept, found.rounds, added.of.density
    theta = found.theta

    def having(log_p: np.ndarray) -> Integral:
        other = swept._replace(log_p=log_p)
        if rounds is None:
            return without_theta(density, other)
        now = rounds.having(other)
        weighed = weigh(now)
        fitted = by_polynomial(now, weighed) if found.residual is not None else None
        return fitted or weighed

    nats = added.at(theta)
    parts = [having(swept.log_p - nats + added.at(theta, lot)) for lot in range(NUM_LOTS)]
    scale = (NUM_LOTS - 1) / np.sqrt(NUM_LOTS)
    noise: list[Any] = []
    for name in ("mean", "sd", "log_evidence"):
        noise.append(np.std([getattr(p, name) for p in parts], axis=0, ddof=1) * scale)
    single = density.owner >= 0
    errors = np.where(single, added.effects.errors(found, density.coordinate) * found.sd, 0.0)
    missed = added.fit()[1]
    for k in range(2):
        noise[k] = np.sqrt(noise[k] ** 2 + errors[k] ** 2 + (missed * found.sd) ** 2)
    sd = np.where(found.sd > 0, found.sd, np.inf)
    shift = float(found.weights @ nats)
    tilt = float(np.sqrt(np.maximum(found.weights @ (nats - shift) ** 2, 0.0)))
    by_laplace = having(swept.log_p - nats)
    moved = np.abs(found.mean - by_laplace.mean) / sd
    lean = np.abs(added.effects.moments.mean.mean(0))[density.coordinate]
    moved = np.maximum(moved, np.where(single, lean, 0.0))
    corrected = Corrected(
        inner=added.inner,
        shift=shift,
        tilt=tilt,
        moved=float(moved[known].max(initial=0.0)),
        noise=float(np.concatenate([n[known] / sd[known] for n in noise[:2]]).max(initial=0.0)),
        residual=missed,
        num_thetas=len(added.of.places),
        num_points=len(added.logs),
        khat=khat(added.logs),
        variance=float(added.logs.var()),
    )
    with_noise = replace(
        found,
        mean_error=np.hypot(found.mean_error, noise[0]),
        sd_error=np.hypot(found.sd_error, noise[1]),
        log_evidence_error=float(np.hypot(found.log_evidence_error, noise[2])),
    )
    return with_noise, corrected


def terms(x: Float[np.ndarray, "points dim"]) -> Float[np.ndarray, "points terms"]:
    """Return products of up to two coordinates, which level off far out."""
    return monomials(level(x), 2)
