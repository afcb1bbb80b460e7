"""The free energy of EM and of variational inference, as a function of q and theta.

F(q, theta) = E_q[log p(y, z | theta)] + H(q) = log p(y | theta) - KL(q || p(z | y, theta)).

The E-step maximises it over q, the M-step over theta; nothing says that one must take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vi_recipes.core import (
    MethodFailure,
    Status,
    Timing,
    check_arguments,
    one_at_a_time,
    require_by_site,
)
from vi_recipes.latent.curvature import is_bent
from vi_recipes.latent.marginal import EStep, Marginal
from vi_recipes.latent.objective import MarginalObjective
from vi_recipes.latent.rules import marginal_of, starting_point
from vi_recipes.model import Arrays, Target

INSTEAD = "VariationalEM climbs a free energy with q restricted to independent factors"


class StateProbabilities(NamedTuple):
    """q of discrete latent variables: probabilities of a member's states."""

    probabilities: Float[np.ndarray, "members states"] | Float[Array, "members states"]
    """They add up to one over the states."""


class Normals(NamedTuple):
    """q of continuous latent variables: each member's normal law, on the unconstrained scale."""

    mean: Float[np.ndarray, "members d"] | Float[Array, "members d"]
    cov: Float[np.ndarray, "members d d"] | Float[Array, "members d d"]


LatentLaw = StateProbabilities | Normals
"""q(z): members are independent, as they are given theta and the data."""


class FreeEnergy:
    """F(q, theta) of a model whose E-step is exact: discrete z, or a log joint quadratic in z.

    Parameters
    ----------
    target
        The model conditioned on data.
    latent
        Sites that are latent variables; see :func:`vi_recipes.latent.members.split_target`.
    objective
        ``"mle"`` leaves the priors of theta out; ``"map"`` adds log p(theta), over the parameters
        as the model names them, to F and to the log-likelihood.

    Raises
    ------
    ValueError
        For latent sites that the model does not have.
    MethodFailure
        ``NOT_APPLICABLE`` where no E-step is exact.

    Notes
    -----
    ``theta`` is a vector of the unconstrained parameters, shape (G,): :meth:`unconstrain` makes it.

    A log joint that is quadratic in z where it was looked at, near ``start``, may have a kink
    elsewhere, and be far enough from it to count as one. Methods look again at every theta, and
    around the means of q, and raise a :class:`MethodFailure`, ``NOT_APPLICABLE``, where it has.

    References
    ----------
    Neal, R. M. and Hinton, G. E. (1998). A view of the EM algorithm that justifies incremental,
    sparse, and other variants. doi:10.1007/978-94-011-5014-9_12
    """

    @check_arguments("target", "latent")
    @one_at_a_time
    def __init__(
        self,
        target: Target,
        *,
        latent: tuple[str, ...] | str | None = None,
        objective: Literal["mle", "map"] = "mle",
    ) -> None:
        if objective not in ("mle", "map"):
            raise ValueError(f"objective: got {objective!r}, expected 'mle' or 'map'")
        timing = Timing()
        names = (latent,) if isinstance(latent, str) else latent
        with jax.enable_x64(True):
            marginal = marginal_of(target, names, "auto", 1, objective == "map", timing, near=True)
            require_exact(marginal)
            flat = starting_point(target, jax.random.key(0), 0)
            modes = flat[marginal.split.local]
            self._objective = MarginalObjective(marginal, timing, modes)
        self.target, self.marginal, self._flat = target, marginal, flat

    def unconstrain(self, values: Mapping[str, Any]) -> Float[np.ndarray, " G"]:
        """Return theta for values of the parameters on the constrained scale, by site.

        Raises
        ------
        ValueError
            For a parameter without a value, and values outside its support.
        """
        split = self.marginal.split
        require_by_site(values)
        if missing := [n for n in split.parameters if n not in values]:
            raise ValueError(f"values: no value of {', '.join(missing)}, a parameter")
        given = self.target.constrain(self._flat) | {n: values[n] for n in split.parameters}
        return self.target.unconstrain(given)[split.border]

    def constrain(self, theta: Float[np.ndarray, " G"]) -> dict[str, np.ndarray]:
        """Return the parameters on the constrained scale, by site."""
        flat = self._flat.copy()
        flat[self.marginal.split.border] = self._checked(theta)
        values = self.target.constrain(flat)
        return {name: values[name] for name in self.marginal.split.parameters}

    @property
    def start(self) -> Float[np.ndarray, " G"]:
        """A point of theta to begin at: the model's ``init``, or prior medians."""
        return self._flat[self.marginal.split.border]

    def __call__(self, q: LatentLaw, theta: Float[np.ndarray, " G"]) -> float:
        """Return F(q, theta), in nats."""
        self._check(q)
        return float(self._run("free energy", partial(free_energy_of, self.marginal), theta, q))

    def q(self, q: LatentLaw, theta: Float[np.ndarray, " G"]) -> float:
        """Return Q, E_q[log p(y, z | theta)], in nats: the part of F that theta moves.

        With q the posterior at theta_0, log p(y | theta) - log p(y | theta_0) is the rise of Q from
        theta_0 to theta plus KL(q || p(z | y, theta)), which is why EM does not go down.
        """
        self._check(q)
        return float(self._run("expected", partial(expected_of, self.marginal), theta, q))

    def entropy(self, q: LatentLaw) -> float:
        """Return H(q), in nats: the part of F that theta does not move.

        That of continuous z is on the unconstrained scale, as ``q`` is.
        """
        self._check(q)
        with jax.enable_x64(True):
            return float(entropy_of(type(q)(*(jnp.asarray(v, float) for v in q))))

    def log_likelihood(self, theta: Float[np.ndarray, " G"]) -> float:
        """Return log p(y | theta), the highest that F(q, theta) can be."""

        def value(theta: jax.Array, q: Any, arrays: Arrays) -> jax.Array:
            return self.marginal.value(theta, q, arrays, order=1)

        return float(self._run("log-likelihood", value, theta, jnp.asarray(self._objective.modes)))

    def posterior(self, theta: Float[np.ndarray, " G"]) -> LatentLaw:
        """Return p(z | y, theta): the E-step."""
        q = self._run(
            "posterior",
            lambda theta, z, arrays: exact_posterior(self.marginal, theta, z, arrays),
            theta,
            jnp.asarray(self._objective.modes),
        )
        return type(q)(*(np.asarray(v) for v in q))

    def divergence(self, q: LatentLaw, theta: Float[np.ndarray, " G"]) -> float:
        """Return KL(q || p(z | y, theta)), in nats, from the two laws themselves."""
        self._check(q)
        p = self.posterior(theta)
        if isinstance(q, StateProbabilities):
            assert isinstance(p, StateProbabilities)
            with np.errstate(divide="ignore", invalid="ignore"):
                terms = q.probabilities * (np.log(q.probabilities) - np.log(p.probabilities))
            return float(np.where(q.probabilities > 0, terms, 0.0).sum())
        assert isinstance(p, Normals)
        away = p.mean - q.mean
        inverse = np.linalg.inv(p.cov)
        trace = np.einsum("tij,tji->", inverse, q.cov)
        squares = np.einsum("ti,tij,tj->", away, inverse, away)
        dets = np.linalg.slogdet(p.cov)[1] - np.linalg.slogdet(q.cov)[1]
        return float((trace + squares + dets.sum() - away.size) / 2)

    def _check(self, q: LatentLaw) -> None:
        split = self.marginal.split
        T, d = split.num_members, split.width
        shapes = ((T, len(split.states)),) if split.kind == "discrete" else ((T, d), (T, d, d))
        got = tuple(map(np.shape, q)) if isinstance(q, tuple) else ()
        if got != shapes:
            of = " of shapes " if got else ""
            kind = "StateProbabilities" if split.kind == "discrete" else "Normals"
            raise ValueError(
                f"q: got {type(q).__name__}{of}{', '.join(map(str, got))}, expected {kind} of "
                f"shapes {', '.join(map(str, shapes))}"
            )

    def _checked(self, theta: Any) -> Float[np.ndarray, " G"]:
        """Return theta as numbers; raise a :class:`ValueError` for what is none."""
        size = self.marginal.split.border.size
        try:
            values = np.asarray(theta, float)
        except (TypeError, ValueError):
            values = np.full(size, np.nan)
        if values.shape != (size,) or not np.isfinite(values).all():
            got = "some that are not" if values.shape == (size,) else f"shape {values.shape}"
            got = got if isinstance(theta, np.ndarray | list | tuple) else repr(theta)
            raise ValueError(
                f"theta: got {got}, expected {size} finite numbers, as unconstrain makes them of "
                f"values of {', '.join(self.marginal.split.parameters)}"
            )
        return values

    @one_at_a_time
    def _run(self, name: str, function: Callable[..., Any], theta: Any, q: Any) -> Any:
        theta = self._checked(theta)
        with jax.enable_x64(True):
            self._look(theta, q.mean if isinstance(q, Normals) else None)
            q = jax.tree.map(lambda v: jnp.asarray(v, float), q)
            return self._objective.call(name, function, theta, q)

    def _look(self, theta: Float[np.ndarray, " G"], mean: Any) -> None:
        """Refuse what is not normal around the modes at theta, or around q's means."""
        bent = self._objective.misjudges(theta)
        if not bent and mean is not None and self.marginal.rule == "gaussian":
            at = np.asarray(mean, float)
            bent = is_bent(self.marginal.split, theta, at, self._objective.timing.compile)
        if bent:
            raise MethodFailure(
                Status.NOT_APPLICABLE,
                f"p(z | y, theta) is not normal at this theta: the log joint is quadratic in "
                f"{', '.join(self.marginal.split.latents)} near the start, and has a kink here",
                INSTEAD,
            )


def require_exact(marginal: Marginal) -> None:
    """Refuse a marginal likelihood whose E-step is no law of those here.

    Raises
    ------
    MethodFailure
        ``NOT_APPLICABLE``.
    """
    if marginal.split.weights is not None:
        raise MethodFailure(
            Status.NOT_APPLICABLE,
            "rows are weighted (handlers.scale or masks), and F(q, theta) is that of rows alike",
            "MarginalMLE and EM weigh rows",
        )
    if marginal.rule not in ("enumerate", "gaussian"):
        raise MethodFailure(
            Status.NOT_APPLICABLE,
            f"p(z | y, theta) is neither a table of independent members' states nor normal "
            f"({marginal.describe()})",
            INSTEAD,
        )


def free_energy_of(
    marginal: Marginal, theta: Float[Array, " G"], q: LatentLaw, arrays: Arrays
) -> Float[Array, ""]:
    """Return F(q, theta); pure, to be differentiated."""
    return expected_of(marginal, theta, q, arrays) + entropy_of(q)


def expected_of(
    marginal: Marginal, theta: Float[Array, " G"], q: LatentLaw, arrays: Arrays
) -> Float[Array, ""]:
    """Return E_q[log p(y, z | theta)], with log p(theta) where the objective has it; pure."""
    split = marginal.split
    if isinstance(q, StateProbabilities):
        states = jnp.arange(len(split.states))
        return marginal.expected(theta, EStep(states, jnp.asarray(q.probabilities).T), arrays)
    # a quadratic is averaged exactly by the 2 d points m +- sqrt(d) L e_i
    away = np.sqrt(split.width) * jnp.moveaxis(jnp.linalg.cholesky(q.cov), -1, 0)
    points = jnp.concatenate([q.mean + away, q.mean - away])
    even = jnp.full(points.shape[:2], 1 / len(points))
    return marginal.expected(theta, EStep(points, even), arrays)


def entropy_of(q: LatentLaw) -> Float[Array, ""]:
    """Return H(q); pure, to be differentiated."""
    if isinstance(q, StateProbabilities):
        some = q.probabilities > 0
        log_q = jnp.log(jnp.where(some, q.probabilities, 1.0))
        return -jnp.sum(jnp.where(some, q.probabilities * log_q, 0.0))
    root = jnp.linalg.cholesky(q.cov)
    widths = jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)).sum()
    return widths + q.mean.size * (1 + np.log(2 * np.pi)) / 2


def exact_posterior(
    marginal: Marginal, theta: Float[Array, " G"], z: Float[Array, "members d"], arrays: Arrays
) -> LatentLaw:
    """Return p(z | y, theta); pure."""
    if marginal.split.kind == "discrete":
        _, step = marginal.value_and_posterior(theta, z, arrays)
        return StateProbabilities(step.weights.T)
    return Normals(*marginal.moments(theta, z, arrays))


# -- q as a vector ---------------------------------------------------------------------------------


def law_from_vector(marginal: Marginal, eta: Float[Array, " numbers"]) -> LatentLaw:
    """Return the law of a vector of unconstrained numbers; pure.

    Log odds against a member's last state, shape (members, states - 1); or of every member the mean
    and the rows of the covariance's lower root, its diagonal as logarithms.
    """
    split = marginal.split
    T, d = split.num_members, split.width
    if split.kind == "discrete":
        odds = eta.reshape(T, len(split.states) - 1)
        logits = jnp.concatenate([odds, jnp.zeros((T, 1))], axis=1)
        return StateProbabilities(jax.nn.softmax(logits))
    rows, columns = np.tril_indices(d)
    mean, lower = jnp.split(eta.reshape(T, -1), [d], axis=1)
    lower = jnp.where(rows == columns, jnp.exp(lower), lower)
    root = jnp.zeros((T, d, d)).at[:, rows, columns].set(lower)
    return Normals(mean, root @ jnp.swapaxes(root, -1, -2))


def vector_from_law(marginal: Marginal, q: LatentLaw) -> Float[np.ndarray, " numbers"]:
    """Return the vector of a law; see :func:`law_from_vector`."""
    if isinstance(q, StateProbabilities):
        logs = np.log(np.maximum(q.probabilities, 1e-300))
        return np.asarray((logs[:, :-1] - logs[:, -1:]).ravel())
    rows, columns = np.tril_indices(marginal.split.width)
    lower = np.linalg.cholesky(q.cov)[:, rows, columns]
    lower[:, rows == columns] = np.log(lower[:, rows == columns])
    return np.concatenate([q.mean, lower], axis=1).ravel()
