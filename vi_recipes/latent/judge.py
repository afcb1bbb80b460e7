"""What is known at a maximum of a marginal likelihood: standard errors, edges, latent variables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, override

import jax
import jax.numpy as jnp
import numpy as np

from vi_recipes.algebra.block_arrow import BlockArrow, LocalStructure
from vi_recipes.algebra.newton import Dense
from vi_recipes.core.status import MethodFailure, Status
from vi_recipes.core.timing import Timing
from vi_recipes.latent.marginal import Marginal
from vi_recipes.latent.split import latent_moments
from vi_recipes.model.target import Arrays, Target
from vi_recipes.posterior.base import GaussianPosterior, PointPosterior, Posterior, Sites

MAX_DENSE = 300
"""Parameters up to which the observed information is formed."""

FORWARD = 20_000_000
"""Element evaluations up to which Hessians are made by forward mode alone: quicker to compile."""

CLOSE = 1e-2
"""Newton decrement, in standard errors, up to which a point counts as the maximum."""

STEEP = 1e-5
"""Gradient relative to the objective, up to which a point of many parameters is the maximum."""

FLAT = 1e-7
"""Smallest eigenvalue of an information matrix, scaled to unit diagonal, that counts as zero."""

SUSPECT = 2.0
"""Standard error on the unconstrained scale from which it is looked whether an edge is better."""

OUTWARD = (3.0, 6.0, 12.0)
"""How far out, on the unconstrained scale, it is looked for an edge that is better."""

SAME = 1e-3
"""Nats by which an edge may be worse and still be as good: far out there is rounding."""

MAX_ROWS = 500
"""Scalars that depend on several coordinates up to which their slopes are formed."""

EMPTY = 1e-3
"""Expected number of members in a state below which nobody is in it."""

NUM_DRAWS = 10_000


# -- the objective, compiled -----------------------------------------------------------------------


class MarginalObjective:
    """Minus a marginal log-likelihood, compiled ahead of time, with its derivatives in theta.

    Parameters
    ----------
    marginal
        What is climbed.
    timing
        Charged with compilations and evaluations.
    modes
        Where the search for the members' modes begins, shape (members, d).

    Notes
    -----
    Compiled code belongs to the target. The search for the modes starts where it ended last.
    """

    def __init__(self, marginal: Marginal, timing: Timing, modes: np.ndarray) -> None:
        self.marginal, self.timing, self.modes = marginal, timing, modes
        self.target: Target = marginal.split.target
        self._arrays = self.target.arrays()
        self._memo: dict[str, tuple[bytes, Any]] = {}

    def call(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        """Return ``function(*args, arrays)``, compiled once for the target."""
        given = jax.tree.map(jnp.asarray, args)
        full = (*given, self._arrays)
        shapes = tuple((a.shape, str(a.dtype)) for a in jax.tree.leaves(given))
        key = (name, self.marginal.key, shapes)
        compiled = self.target.compiled
        if key not in compiled:
            compiled[key] = self.timing.compile(function, *full)
        return compiled[key](*full)

    def _once(self, name: str, theta: np.ndarray, make: Callable[[], Any]) -> Any:
        key = theta.tobytes()
        if name not in self._memo or self._memo[name][0] != key:
            self._memo[name] = key, make()
        return self._memo[name][1]

    def _slope(self, theta: jax.Array, z: jax.Array, arrays: Arrays) -> Any:
        modes, missed = self.marginal.seek(theta, z, arrays)
        value, gradient = jax.value_and_grad(self.marginal.value)(theta, modes, arrays, order=1)
        return value, gradient, modes, missed

    def _bend(self, theta: jax.Array, z: jax.Array, arrays: Arrays) -> Any:
        marginal = self.marginal
        modes, missed = marginal.seek(theta, z, arrays)

        def value(theta: jax.Array) -> jax.Array:
            return marginal.value(theta, modes, arrays, order=2)

        return *second_order(value, theta, self.forward), modes, missed

    @cached_property
    def forward(self) -> bool:
        """Whether forward mode alone is quick enough."""
        split = self.marginal.split
        states = len(split.states) ** (2 if split.chains else 1)
        nodes = max(states, self.marginal.num_nodes**split.width)
        size = sum(s.size for s in self.target.observed) + split.num_members
        return size * nodes * split.border.size**2 <= FORWARD

    def _evaluate(self, theta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray | None]:
        def make() -> Any:
            second = theta.size <= MAX_DENSE
            name, function = ("bend", self._bend) if second else ("slope", self._slope)
            value, gradient, *bend, modes, missed = self.call(name, function, theta, self.modes)
            self.timing.gradient_evaluations += 1
            self.timing.hvp_evaluations += theta.size if second else 0
            value = float(value) if float(missed) < CLOSE else np.nan
            if np.isfinite(value):
                self.modes = np.asarray(modes)
            return (
                -value,
                -np.asarray(gradient),
                -np.asarray(bend[0]) if bend else None,
                np.asarray(modes),
            )

        found = self._once("evaluate", theta, make)
        return found[0], found[1], found[2]

    def value_and_grad(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """Return minus the objective and its gradient."""
        return self._evaluate(theta)[:2]

    def curvature(self, theta: np.ndarray) -> Dense | None:
        """Return the observed information; ``None`` where it is not finite."""
        bend = self._evaluate(theta)[2]
        if bend is None or not np.isfinite(bend).all():
            return None
        return Dense((bend + bend.T) / 2)

    def log_prior(self, theta: np.ndarray) -> float:
        """Return the part of the objective that is log p(theta)."""
        if not self.marginal.with_prior:
            return 0.0

        def prior(theta: jax.Array, z: jax.Array, arrays: Arrays) -> jax.Array:
            z = jnp.zeros((), int) if self.marginal.split.kind == "discrete" else z
            return self.marginal.split.log_joint(theta, z, arrays).prior

        return float(self.call("prior", prior, theta, self.modes))


def second_order(
    function: Callable[[jax.Array], jax.Array], x: jax.Array, forward: bool
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return value, gradient and Hessian of a scalar function; pure.

    Forward mode alone costs dim^2 evaluations, and a third of the time to compile.
    """
    units = jnp.eye(x.size)
    if forward:

        def slope(x: jax.Array) -> tuple[jax.Array, jax.Array]:
            values, slopes = jax.vmap(lambda u: jax.jvp(function, (x,), (u,)))(units)
            return values[0], slopes

        (value, gradient), (_, hessian) = jax.vmap(lambda u: jax.jvp(slope, (x,), (u,)))(units)
        return value[0], gradient[0], hessian

    (value, gradient), push = jax.linearize(jax.value_and_grad(function), x)
    return value, gradient, jax.lax.map(lambda u: push(u)[1], units)


# -- the posterior of an estimate ------------------------------------------------------------------


@dataclass(frozen=True)
class EstimatePosterior(GaussianPosterior):
    """An estimate with standard errors: the point itself, and the delta method.

    The mean is the estimate, on the constrained scale as the model names it, and not the mean of a
    Gaussian pushed through the constraining map. Covariances are J C J', with C the inverse
    observed information on the unconstrained scale and J the slopes of the map. Draws are those of
    the Gaussian on the unconstrained scale, so that each lies in the support.

    Latent variables have their mean given y and the estimate, and the variance of both: that given
    theta, and that of theta (Kass and Steffey 1989, doi:10.1080/01621459.1989.10478825).
    """

    @cached_property
    def _point(self) -> Sites:
        return self.target.constrain(self.loc)

    @override
    def mean(self) -> Sites:
        return {s.name: self._point[s.name] for s in self.target.quantities}

    @override
    def sd(self) -> Sites:
        return self._sds

    @override
    def mcse_mean(self) -> Sites:
        return {name: np.zeros_like(v) for name, v in self.mean().items()}

    @override
    def mcse_sd(self) -> Sites:
        share = 1 / np.sqrt(2 * NUM_DRAWS)
        return {name: np.where(self._drawn(name), share * v, 0.0) for name, v in self._sds.items()}

    @cached_property
    def _slopes(self) -> Sites:
        """Slope of every scalar that depends on one coordinate."""
        return self.target.slopes(self.loc)

    def _several(self, name: str) -> np.ndarray:
        return self.target.coordinate_of[name].ravel() < 0

    def _drawn(self, name: str) -> np.ndarray:
        """Return which scalars of a site have their variance from draws."""
        several = self.target.coordinate_of[name] < 0
        return several if several.sum() > MAX_ROWS else np.zeros_like(several)

    @cached_property
    def _rows(self) -> dict[str, np.ndarray]:
        """Site -> slopes, shape (scalars that depend on several coordinates, dim)."""
        chosen = {
            s.name: np.flatnonzero(self._several(s.name))
            for s in self.target.quantities
            if 0 < self._several(s.name).sum() <= MAX_ROWS
        }
        if not chosen:
            return {}

        def pick(z: jax.Array, arrays: Arrays) -> dict[str, jax.Array]:
            values = self.target.constrain_fn(z, arrays)
            return {n: values[n].ravel()[rows] for n, rows in chosen.items()}

        with jax.enable_x64(True):
            found = jax.jit(jax.jacrev(pick))(jnp.asarray(self.loc), self.target.arrays())
        return {name: np.asarray(v) for name, v in found.items()}

    @cached_property
    def _linear_draws(self) -> Sites:
        """Draws of the linearised quantities, for those too many to have their slopes formed."""
        away = self.unconstrained_draws(NUM_DRAWS // 2, jax.random.key(20_162)) - self.loc

        def push(z: jax.Array, away: jax.Array, arrays: Arrays) -> dict[str, jax.Array]:
            along = jax.linearize(lambda z: self.target.constrain_fn(z, arrays), z)[1]
            return jax.lax.map(along, away)

        with jax.enable_x64(True):
            found = jax.jit(push)(jnp.asarray(self.loc), jnp.asarray(away), self.target.arrays())
        return {n: np.concatenate([np.asarray(v), -np.asarray(v)]) for n, v in found.items()}

    @cached_property
    def _sds(self) -> Sites:
        result = {}
        for site in self.target.quantities:
            j = self.target.coordinate_of[site.name].ravel()
            sd = np.abs(self._slopes[site.name].ravel()) * self.scale[np.maximum(j, 0)]
            if site.name in self._rows:
                cov = self._sandwich(_sparse(self._rows[site.name]))
                sd[j < 0] = np.sqrt(np.maximum(np.diag(cov), 0.0))
            elif (j < 0).any():
                drawn = self._linear_draws[site.name].reshape(NUM_DRAWS, -1)
                sd[j < 0] = np.sqrt((drawn**2).mean(0))[j < 0]
            result[site.name] = sd.reshape(site.shape)
        return result

    @override
    def cov(self, sites: Sequence[str]) -> np.ndarray:
        if any(self._drawn(name).any() for name in sites):
            flat = [self._linear_draws[n].reshape(NUM_DRAWS, -1) for n in sites]
            joint = np.concatenate(flat, axis=1)
            return np.asarray(joint.T @ joint / NUM_DRAWS)
        slopes: list[tuple[np.ndarray, np.ndarray]] = []
        for name in sites:
            j = self.target.coordinate_of[name].ravel()
            own = self._slopes[name].ravel()
            rows = iter(_sparse(self._rows.get(name, np.zeros((0, self.loc.size)))))
            for k, slope in zip(j, own, strict=True):
                slopes.append((np.array([k]), np.array([slope])) if k >= 0 else next(rows))
        return self._sandwich(slopes)

    def _sandwich(self, slopes: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        if self.precision is not None:
            return self.precision.sandwich(slopes)
        dense = np.zeros((len(slopes), self.loc.size))
        for row, (columns, values) in zip(dense, slopes, strict=True):
            np.add.at(row, columns, values)
        assert self.root is not None
        half = dense @ self.root
        return np.asarray(half @ half.T)


def _sparse(rows: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    found = []
    for row in rows:
        columns = np.flatnonzero(row)
        found.append((columns, row[columns]))
    return found


# -- judging a maximum -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A maximum of a marginal likelihood, judged."""

    posterior: Posterior
    status: Status
    message: str
    advice: str
    decrement: float
    log_likelihood: float
    latents: Mapping[str, np.ndarray]
    """What is known of z at the estimate: means and sds, or probabilities of the states."""


def decrement(
    objective: MarginalObjective, theta: np.ndarray, fixed: np.ndarray | None = None
) -> float:
    """Return how far theta is from the maximum, in standard errors; infinite where it is none.

    Coordinates at the places ``fixed`` are left as they are.
    """
    curvature = objective.curvature(theta)
    if curvature is None:
        return float("inf")
    gradient = objective.value_and_grad(theta)[1]
    if fixed is not None:
        free = np.setdiff1d(np.arange(theta.size), fixed)
        bend = (curvature.vectors * curvature.values) @ curvature.vectors.T
        curvature, gradient = Dense(bend[np.ix_(free, free)]), gradient[free]
    return curvature.decrement(gradient)


def is_close(objective: MarginalObjective, theta: np.ndarray) -> bool:
    """Whether theta counts as the maximum; by the relative gradient where no Hessian is formed."""
    if theta.size > MAX_DENSE:
        return _relative_gradient(objective, theta) < STEEP
    return decrement(objective, theta) <= CLOSE


def _relative_gradient(objective: MarginalObjective, theta: np.ndarray) -> float:
    value, gradient = objective.value_and_grad(theta)
    return float(np.abs(gradient).max() / max(1.0, abs(value)))


def judge(objective: MarginalObjective, theta: np.ndarray) -> Estimate:
    """Say what is known at a point that an ascent ended at.

    Raises
    ------
    MethodFailure
        ``DEGENERATE`` where the likelihood has no maximum inside the support, ``DIVERGED`` where it
        is not finite.
    """
    value, gradient = objective.value_and_grad(theta)
    if not (np.isfinite(value) and np.isfinite(gradient).all()):
        raise MethodFailure(
            Status.DIVERGED,
            f"log-likelihood {-value} with a gradient of {np.abs(gradient).max():.3g}",
            "rescale the data, or start elsewhere with Model(init=...)",
        )
    log_likelihood = -value - objective.log_prior(theta)
    point, latents = integrate(objective, theta)
    flat = join(objective, theta, point[0] if point else None)
    bare = PointPosterior(objective.target.constrain(flat))
    curvature = objective.curvature(theta)
    if curvature is None:
        many = theta.size > MAX_DENSE
        reason = f"{theta.size} parameters (at most {MAX_DENSE})" if many else "it is not finite"
        message = f"no standard errors from the observed information: {reason}"
        relative = _relative_gradient(objective, theta)
        status = Status.OK if relative < STEEP else Status.UNCONVERGED
        message += f"; relative gradient {relative:.2g}"
        return Estimate(bare, status, message, "", np.nan, log_likelihood, latents)
    away = curvature.decrement(gradient)
    if edge := edges(objective, theta, curvature):
        where, places, rise, outward = edge
        discrete = objective.marginal.split.kind == "discrete"
        visits = min((t.sum(axis=0).min() for t in latents.values() if discrete), default=0.0)
        if visits > EMPTY and rise <= SAME:
            # a chain that never begins in a state, a move that is never made: estimates like others
            rest = decrement(objective, theta, places)
            return Estimate(
                bare,
                Status.OK if rest <= CLOSE else Status.UNCONVERGED,
                f"no standard errors: {where}, where the likelihood is highest; {rest:.2g} of the "
                "others' standard errors from their maximum",
                "" if rest <= CLOSE else "raise max_steps",
                rest,
                log_likelihood,
                latents,
            )
        collapsed = objective.marginal.split.kind == "continuous" and rise < 1.0
        climb = f"where the log-likelihood {-value:.6g} is highest"
        if rise > SAME:
            climb = (
                f"while the log-likelihood still rises ({-value:.6g}, {outward:.6g} further out)"
            )
        if not collapsed:
            raise MethodFailure(
                Status.DEGENERATE,
                f"{where}, {climb}: a component collapses or empties, or a parameter has no finite "
                "estimate",
                "use objective='map' with a prior that keeps it inside, fewer components, or a "
                "tied covariance",
            )
        return Estimate(
            bare,
            Status.COLLAPSED,
            f"{where}: the likelihood {-value:.6g} is highest at the edge of the support (zero "
            "variance, or a singular covariance), where standard errors mean nothing",
            "use objective='map' with a prior that keeps it inside, or integrate over the "
            "parameters too (LinearResponse, NUTS)",
            away,
            log_likelihood,
            latents,
        )
    smallest, vector = _flattest(curvature)
    if smallest <= FLAT:
        along = ", ".join(objective.target.sites_along(join(objective, vector, None)))
        return Estimate(
            bare,
            Status.UNCONVERGED,
            f"the log-likelihood {'is flat' if smallest >= -FLAT else 'bends upwards'} "
            f"along {along} (eigenvalue {smallest:.2g} of the information at unit diagonal), so "
            "there are no standard errors",
            "use objective='map' with priors that settle what the data do not, or more steps",
            away,
            log_likelihood,
            latents,
        )
    status = Status.OK if away <= CLOSE else Status.UNCONVERGED
    return Estimate(
        _posterior(objective, flat, curvature, point),
        status,
        f"{away:.2g} standard errors from the maximum",
        "" if status.ok else "raise max_steps",
        away,
        log_likelihood,
        latents,
    )


def _flattest(curvature: Dense) -> tuple[float, np.ndarray]:
    """Return the smallest eigenvalue at unit diagonal, where units do not count, and its vector."""
    hessian = (curvature.vectors * curvature.values) @ curvature.vectors.T
    scale = 1 / np.sqrt(np.maximum(np.abs(np.diag(hessian)), 1e-300))
    values, vectors = np.linalg.eigh(hessian * np.outer(scale, scale))
    return float(values[0]), vectors[:, 0] * scale


def join(objective: MarginalObjective, theta: np.ndarray, z: np.ndarray | None) -> np.ndarray:
    """Return the target's flat vector; zeros for latent variables that are not given."""
    split = objective.marginal.split
    flat = np.zeros(objective.target.dim)
    flat[split.border] = theta
    if z is not None:
        flat[split.local] = z
    return flat


def integrate(
    objective: MarginalObjective, theta: np.ndarray
) -> tuple[tuple[np.ndarray, ...] | None, dict[str, np.ndarray]]:
    """Return what the E-step knows of z at theta.

    Mean (T, d), covariance (T, d, d) and the mean's slopes in theta (T, d, G), unconstrained, for
    continuous z; and by name what users see of it.
    """
    marginal = objective.marginal
    split = marginal.split
    if split.kind == "none":
        return None, {}
    if split.kind == "discrete":
        table = objective.call("states", marginal.probabilities, theta, objective.modes)
        return None, {f"{' x '.join(split.latents)}_probability": np.asarray(table)}

    def moments(theta: jax.Array, z: jax.Array, arrays: Arrays) -> Any:
        z, _ = marginal.seek(theta, z, arrays)

        def both(theta: jax.Array) -> Any:
            return marginal.moments(theta, z, arrays)

        (mean, cov), push = jax.linearize(both, theta)
        slopes = jax.lax.map(lambda u: push(u)[0], jnp.eye(theta.size))
        return mean, cov, jnp.moveaxis(slopes, 0, -1)

    found = tuple(np.asarray(v) for v in objective.call("moments", moments, theta, objective.modes))
    spread = np.sqrt(np.einsum("tii->ti", found[1]))
    flat_mean, flat_sd = np.zeros(objective.target.dim), np.zeros(objective.target.dim)
    flat_mean[split.local], flat_sd[split.local] = found[0], spread
    return found, latent_moments(objective.target, split.latents, flat_mean, flat_sd)


def _posterior(
    objective: MarginalObjective,
    flat: np.ndarray,
    curvature: Dense,
    moments: tuple[np.ndarray, ...] | None,
) -> EstimatePosterior:
    """Return the Gaussian of theta and of z given theta: its precision is block-arrow."""
    target, split = objective.target, objective.marginal.split
    information = (curvature.vectors * curvature.values) @ curvature.vectors.T
    if moments is None:
        root = curvature.vectors / np.sqrt(curvature.values)
        return EstimatePosterior(target, flat, root, np.zeros(target.dim))
    _, cov, slopes = moments
    blocks = np.linalg.inv(cov)
    edge = -np.einsum("tij,tjg->gti", blocks, slopes)
    corner = information + np.einsum("tig,tij,tjh->gh", slopes, blocks, slopes)
    structure = LocalStructure(split.border, split.local, split.latents, split.plate)
    arrow = BlockArrow(structure, (corner + corner.T) / 2, edge, blocks, np.ones(target.dim))
    return EstimatePosterior(target, flat, None, np.zeros(target.dim), precision=arrow)


class Edge(NamedTuple):
    """Parameters that are best at the edge of their support."""

    where: str
    places: np.ndarray
    """Their places in theta."""
    rise: float
    """What the log-likelihood gains further out."""
    outward: float
    """What it is there."""


def edges(objective: MarginalObjective, theta: np.ndarray, curvature: Dense) -> Edge | None:
    """Return the parameters that are best at the edge of their support, if there are any."""
    target, split = objective.target, objective.marginal.split
    bounded = np.zeros(target.dim, bool)
    for site in target.latents:
        bounded[target.slices[site.name]] = site.bounded
    diagonal = curvature.diagonal()
    value = objective.value_and_grad(theta)[0]
    modes, found = objective.modes, []
    for j in np.flatnonzero(bounded[split.border]):
        if diagonal[j] > 1 / SUSPECT**2:
            continue
        for sign in (-1.0, 1.0):
            there = []
            for distance in OUTWARD:
                moved = theta.copy()
                moved[j] += sign * distance
                there.append(objective.value_and_grad(moved)[0])
                objective.modes = modes
            finite = [v for v in there if np.isfinite(v)]  # very far out nothing may be
            if finite and max(finite) <= value + SAME:
                found.append((j, value - finite[-1], -finite[-1]))
    objective.value_and_grad(theta)
    if not found:
        return None
    values = target.constrain(join(objective, theta, None))
    words = []
    for j in dict.fromkeys(j for j, _, _ in found):
        place = int(split.border[j])
        name = next(n for n, p in target.slices.items() if p.start <= place < p.stop)
        size = values[name].size
        k = place - target.slices[name].start
        same = size == target.slices[name].stop - target.slices[name].start
        label = target.labels([name], coords=True)[k] if same else name
        number = f"{values[name].ravel()[k]:.2g}" if same else "an edge"
        words.append(f"{label} runs to {number}")
    best = max(found, key=lambda f: f[1])
    places = np.array(list(dict.fromkeys(j for j, _, _ in found)))
    return Edge(", ".join(dict.fromkeys(words)), places, float(best[1]), float(best[2]))
