"""log p(y) by quadrature over a few coordinates, the other latent variables integrated out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol, override

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.special import logsumexp

from vi_recipes.algebra import trust_region_newton
from vi_recipes.core import MethodFailure, Status, Timing, check_arguments, one_at_a_time
from vi_recipes.importance import Bound, LogEvidence
from vi_recipes.latent import CLOSE, EStep, Marginal, MarginalObjective, marginal_of, starting_point
from vi_recipes.model import BATCH, Arrays, Target, in_blocks
from vi_recipes.modes import JointObjective

MAX_COORDINATES = 5
"""Coordinates up to which a lattice is summed over."""

MAX_NODES = 100_000
"""Nodes of one lattice, at most; of a spacing above 1, as many fewer as it is coarser."""

DROP = 13.0
"""Nats below the highest node at which a lattice ends: 1e-4 of five normals is beyond."""

ADAPT = 1.5
"""Spacing, in sds, of the lattices that centre and axes are adapted with."""

NUM_ADAPTED = 4
STEADY = 0.2
"""Relative change of a variance at which they no longer are."""

SPACING = 1.25
"""Of the first lattice that is integrated over."""

SHRINK = 0.8
"""By which the spacing is multiplied for the next; how much changes then is the error."""

SMALLEST = 0.3
"""Spacing below which there are no more."""

TOLERANCE = 1e-3
"""Nats of error at which they no longer do."""

MAX_ERROR = 1e-2
"""Nats of error from which the integral counts as not found."""

FEWER = 4
"""By how many nodes of the inner quadrature its error is judged."""

Densities = Callable[[np.ndarray], np.ndarray]
"""Rows, shape (num_rows, dim) -> the log density at each, shape (num_rows,)."""


class _Smooth(Protocol):
    """Minus a log density with its derivatives."""

    def value_and_grad(self, z: np.ndarray, /) -> tuple[float, np.ndarray]: ...

    def curvature(self, z: np.ndarray, /) -> Any: ...


@dataclass(frozen=True)
class _Integrand:
    """A log density over a few coordinates.

    Parameters
    ----------
    objective
        Minus the density.
    start
        Where the search for its mode begins, shape (dim,).
    densities
        The density at rows.
    coarse
        The same with fewer nodes of an inner quadrature, where there is one.
    about
        What is integrated out, in words.
    """

    objective: _Smooth
    start: Float[np.ndarray, " dim"]
    densities: Densities
    coarse: Densities | None
    about: str


@check_arguments("target", "num_nodes")
@one_at_a_time
def quadrature(target: Target, *, num_nodes: int = 15) -> LogEvidence:
    """Return log p(y) by the trapezoidal rule over up to five coordinates.

    Latent variables whose members do not touch one another given the rest are integrated out first:
    exactly where the log joint is quadratic in them, else by adaptive Gauss-Hermite (see
    :class:`~vi_recipes.latent.marginal.Marginal`). The density of what is left is summed on a
    lattice in units of its own means and covariances, out to where it has dropped by 13 nats all
    around. On smooth densities that rule converges exponentially in the spacing. It shrinks until
    the value changes by less than 1e-3 nats; that change is the error. More than 1e-2 nats is a
    refusal. A lattice has up to 100,000 nodes: of one or two coordinates it takes no time, of five
    half a minute.

    Parameters
    ----------
    target
        The model conditioned on data.
    num_nodes
        Nodes a dimension of the inner quadrature, where there is one; what four nodes fewer would
        give is part of the error.

    Returns
    -------
    LogEvidence
        Its ``se`` is the numerical error, not a standard error. Modes that are separated by valleys
        more than 13 nats deep are not found; models with exchangeable components, whose labellings
        are such modes, are refused.

    Raises
    ------
    ValueError
        For fewer than 5 nodes.
    MethodFailure
        ``NOT_APPLICABLE``, saying why log p(y) cannot be had so: exchangeable components, more than
        five coordinates left, no mode to begin from, a density that does not drop all around, or
        lattices that do not agree.

    References
    ----------
    Naylor, J. C. and Smith, A. F. M. (1982). Applications of a method for the efficient computation
    of posterior distributions. Applied Statistics 31(3). doi:10.2307/2347995
    Trefethen, L. N. and Weideman, J. A. C. (2014). The exponentially convergent trapezoidal rule.
    SIAM Review 56(3). doi:10.1137/130932132
    """
    if num_nodes <= FEWER:
        raise ValueError(f"num_nodes: got {num_nodes}, expected an integer above {FEWER}")
    if target.exchangeable:
        raise _refusal(
            "components are exchangeable: a lattice around one mode misses those of the others"
        )
    with jax.enable_x64(True):
        while True:  # once more at most: it is remembered what was seen
            integrand = _integrand(target, num_nodes)
            found, centre = _integrate(integrand)
            objective = integrand.objective
            if not (isinstance(objective, MarginalObjective) and objective.misjudges(centre)):
                return found


def _integrate(integrand: _Integrand) -> tuple[LogEvidence, Float[np.ndarray, " dim"]]:
    """Return the integral, and the mean of what it is over."""
    objective, densities = integrand.objective, integrand.densities
    with np.errstate(all="ignore"):
        centre, why, bend = trust_region_newton(
            objective.value_and_grad,
            objective.curvature,
            integrand.start,
            max_steps=500,
            tolerance=1e-6,
            callback=lambda _: False,
        )
    bend = objective.curvature(centre) if bend is None else bend
    if bend is None or not bend.positive:
        raise _refusal(f"the search for a mode of the density over {integrand.about} ended: {why}")
    root = bend.root()
    for _ in range(NUM_ADAPTED):
        centre, cov = _sum(densities, centre, root, ADAPT).moments()
        try:
            before = np.linalg.inv(root)
            root = np.linalg.cholesky(cov)
            changes = np.log(np.linalg.eigvalsh(before @ cov @ before.T))
        except np.linalg.LinAlgError:  # not finite, or of no width
            raise _refusal(
                f"the density over {integrand.about} has no covariance that a lattice could be "
                "laid by: it is flat as far as double precision reaches, as where a prior is "
                "improper and the data do not make up for it"
            ) from None
        if np.abs(changes).max() < STEADY:
            break
    spacing, error = SPACING, np.inf
    fine = _sum(densities, centre, root, spacing)
    while error > TOLERANCE and spacing > SMALLEST:
        coarse, spacing = fine, SHRINK * spacing
        try:
            fine = _sum(densities, centre, root, spacing)
        except MethodFailure:
            if error <= MAX_ERROR:  # more nodes than can be had, and good enough
                break
            raise
        error = abs(fine.value - coarse.value) + fine.rim
    if integrand.coarse is not None:
        error += abs(float(logsumexp(integrand.coarse(fine.nodes)) - logsumexp(fine.log_p)))
    if not error <= MAX_ERROR:
        raise _refusal(f"lattices over {integrand.about} differ by {error:.2g} nats")
    how = f"quadrature over {integrand.about}"
    return LogEvidence(fine.value, float(error), Bound.EXACT, how), centre


@dataclass(frozen=True)
class _Lattice:
    """A density on a lattice.

    Parameters
    ----------
    value
        Log of its integral.
    rim
        Share of the integral at nodes from which it was not followed further.
    nodes, log_p
        Shapes (num_nodes, dim) and (num_nodes,).
    """

    value: float
    rim: float
    nodes: Float[np.ndarray, "nodes dim"]
    log_p: Float[np.ndarray, " nodes"]

    def moments(self) -> tuple[Float[np.ndarray, " dim"], Float[np.ndarray, "dim dim"]]:
        """Return the mean and the covariance."""
        weights = np.exp(self.log_p - logsumexp(self.log_p))
        mean = weights @ self.nodes
        away = self.nodes - mean
        return mean, (away * weights[:, None]).T @ away


def _sum(
    densities: Densities,
    centre: Float[np.ndarray, " dim"],
    root: Float[np.ndarray, "dim dim"],
    spacing: float,
) -> _Lattice:
    """Return the density at ``centre + spacing * root @ k`` for vectors k of integers.

    From the centre outwards, the neighbours of every node that is not too low are taken up too.
    """
    dim = centre.size
    max_nodes = int(MAX_NODES / max(spacing, 1.0) ** dim)
    steps = np.concatenate([np.eye(dim, dtype=int), -np.eye(dim, dtype=int)])
    frontier = seen = {(0,) * dim}
    rows: list[np.ndarray] = []
    values: list[np.ndarray] = []
    top = -np.inf
    while frontier:
        if len(seen) > max_nodes:
            raise _refusal(
                f"the density of what is left, {dim} coordinates, does not drop by {DROP:g} nats "
                f"all around within {max_nodes} nodes at every {spacing:g} sds"
            )
        index = np.array(sorted(frontier))
        rows.append(centre + spacing * index @ root.T)
        values.append(densities(rows[-1]))
        if np.isnan(values[-1]).any():
            raise _refusal("a member's latent variables have no mode at some values of the rest")
        top = max(top, float(values[-1].max()))
        kept = index[values[-1] > top - DROP]
        frontier = {tuple(k) for k in (kept[:, None] + steps).reshape(-1, dim)} - seen
        seen = seen | frontier
    log_p = np.concatenate(values)
    total = logsumexp(log_p)
    rim = float(np.exp(log_p[log_p <= top - DROP] - total).sum())
    cell = dim * np.log(spacing) + np.linalg.slogdet(root)[1]
    return _Lattice(float(total + cell), rim, np.concatenate(rows), log_p)


# -- what is integrated ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Flat(Marginal):
    """log p(y, theta) as a density over the unconstrained parameters: their Jacobian is in it."""

    @property
    @override
    def key(self) -> tuple[Any, ...]:
        return (*super().key, "unconstrained")

    @override
    def value_and_posterior(
        self, theta: jax.Array, z: jax.Array, arrays: Arrays, *, order: int = 2
    ) -> tuple[jax.Array, EStep]:
        value, q = super().value_and_posterior(theta, z, arrays, order=order)
        return value + self.split.log_jacobian(theta, z, arrays), q


def _integrand(target: Target, num_nodes: int) -> _Integrand:
    """Return the density over what is left when latent variables are integrated out."""
    timing = Timing()
    if target.dim <= MAX_COORDINATES:  # nothing need be
        start = target.start(jax.random.key(0))
        objective = JointObjective(target, timing, jacobian=True)
        about = ", ".join(s.name for s in target.latents)
        return _Integrand(objective, start, target.log_densities, None, about)
    given = marginal_of(target, None, "auto", num_nodes, True, timing)
    split = given.split
    if split.weights is not None:
        raise _refusal(f"rows of {', '.join(split.latents)} are weighted (handlers.scale or masks)")
    if split.border.size > MAX_COORDINATES:
        raise _refusal(
            f"{split.border.size} coordinates are left when latent variables are integrated out, "
            f"or cannot be; at most {MAX_COORDINATES}"
        )
    flat = starting_point(target, jax.random.key(0), 0)
    marginal = _Flat(split, given.rule, num_nodes, True)
    objectives = [MarginalObjective(marginal, timing, flat[split.local])]
    if given.rule == "quadrature":
        fewer = replace(marginal, num_nodes=num_nodes - FEWER)
        objectives.append(MarginalObjective(fewer, timing, flat[split.local]))
    densities = [_rows_of(o) for o in objectives]
    about = f"{', '.join(split.parameters)}; {given.describe()}"
    coarse = densities[1] if len(densities) > 1 else None
    return _Integrand(objectives[0], flat[split.border], densities[0], coarse, about)


def _rows_of(objective: MarginalObjective) -> Densities:
    """Return the density at rows of theta, compiled."""
    marginal = objective.marginal
    split = marginal.split
    size = sum(s.size for s in objective.target.observed) + split.num_members
    at_once = max(1, min(BATCH, 2**22 // (size * marginal.num_nodes**split.width)))

    def densities(
        rows: Float[Array, "rows dim"], modes: Array, arrays: Arrays
    ) -> Float[Array, " rows"]:
        def at(theta: Float[Array, " dim"]) -> Float[Array, ""]:
            there, missed = marginal.seek(theta, modes, arrays)
            value = marginal.value(theta, there, arrays, order=1)
            return jnp.where(missed < CLOSE, value, jnp.nan)

        return jax.lax.map(at, rows, batch_size=at_once)

    def call(rows: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, " rows"]:
        return np.asarray(objective.call("rows", densities, rows, objective.modes))

    return lambda rows: in_blocks(call, rows)


def _refusal(message: str) -> MethodFailure:
    return MethodFailure(Status.NOT_APPLICABLE, message)
