"""Few rows in place of many, where the log joint density is linear in functions of the data.

In an exponential family log p(y_t, z_t = k | theta) = sum_j T_j(y_t) f_j(theta, k): as functions of
theta and k the members span a space whose dimension r is the number of sufficient statistics, be
there many members or few. Then r members, well chosen, carry all of them,

    log p(y_t, k | theta) = sum_i C_ti log p(y_i, k | theta)   for all theta and k,

with coefficients C that no parameter enters. So Q(theta) costs as much as the model of r members,
and an E-step one product of matrices besides: EM for any model at the price of closed forms.
Nothing has to be known of the family: rank, members and coefficients are found at random
parameters, and verified at others.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, override

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.linalg import lstsq, qr

from vi_recipes.core import MethodFailure, Timing
from vi_recipes.latent.marginal import EStep, Marginal
from vi_recipes.latent.members import split_target
from vi_recipes.latent.split import LogJoint, Split
from vi_recipes.model import Arrays, Target

MIN_MEMBERS = 2_000
"""Members from which it pays to look for the few."""

MAX_KEPT = 128
"""Members that are kept at most."""

MAX_COEFFICIENTS = 20_000_000
"""Size of C up to which it is compiled in."""

COLUMNS = (64, 256)
"""Log densities of a member, over parameters and states, that its functions are told apart by."""

SAMPLED = 3_000
"""Members among which those to keep are chosen."""

RANK = 1e-11
"""Relative size of a pivot that counts as zero."""

GAP = 1e-7
"""Relative size that the other pivots have: any smooth function is nearly of low rank, over a small
enough set of parameters, but its pivots fade without a gap."""

EXACT = 1e-9
"""Relative error of a log density that counts as rounding."""


class _Members(NamedTuple):
    """What is known of every member at theta."""

    log_likelihood: Float[Array, " members"]
    """log p(y_t | theta)."""
    probabilities: Float[Array, "members states"]
    """p(z_t | y_t, theta)."""


@dataclass(frozen=True)
class Compressed(Marginal):
    """A sum over discrete states whose members are combinations of a few that are kept.

    Weights of the E-step are added up over members: shape (states, members kept).

    Parameters
    ----------
    coefficients
        C, from the members kept to all of them; compiled in as a constant.
    kept
        The model of the members that are kept.
    """

    coefficients: Float[np.ndarray, "members kept"] = field(
        default_factory=lambda: np.zeros((0, 0))
    )
    kept: Split | None = None

    @property
    @override
    def key(self) -> tuple[Any, ...]:
        return (*super().key, "compressed")

    def _kept_joint(self, theta: Float[Array, " G"]) -> Float[Array, "states kept"]:
        """Return the log joint of the members kept in every state."""
        assert self.kept is not None
        arrays, kept = self.kept.target.arrays(), self.kept
        states = jnp.arange(len(self.split.states))
        return jax.vmap(lambda k: kept.log_joint(theta, k, arrays).members)(states)

    def _rest(self, theta: Float[Array, " G"], arrays: Arrays) -> Float[Array, ""]:
        joint: LogJoint = self.split.log_joint(theta, jnp.zeros((), int), arrays)
        return self.rest(joint)

    def _each(self, theta: Float[Array, " G"]) -> _Members:
        """Return what is known of every member, be it kept or not."""
        joint = jnp.asarray(self.coefficients) @ self._kept_joint(theta).T
        by_member = jax.nn.logsumexp(joint, axis=1)
        return _Members(by_member, jnp.exp(joint - by_member[:, None]))

    @override
    def value_and_posterior(
        self, theta: Float[Array, " G"], z: Array, arrays: Arrays, *, order: int = 2
    ) -> tuple[Float[Array, ""], EStep]:
        each = self._each(theta)
        states = jnp.arange(len(self.split.states))
        weights = each.probabilities.T @ jnp.asarray(self.coefficients)
        return each.log_likelihood.sum() + self._rest(theta, arrays), EStep(states, weights)

    @override
    def by_state(
        self, theta: Float[Array, " G"], arrays: Arrays, rows: Int[Array, " size"]
    ) -> Float[Array, "size states"]:
        return jnp.asarray(self.coefficients)[rows] @ self._kept_joint(theta).T

    @override
    def part(self, q: Float[Array, "size states"], rows: Int[Array, " size"]) -> Array:
        return q.T @ jnp.asarray(self.coefficients)[rows]

    @override
    def whole(self, parts: Array) -> EStep:
        return EStep(jnp.arange(len(self.split.states)), parts.sum(0))

    @override
    def probabilities(
        self, theta: Float[Array, " G"], z: Array, arrays: Arrays
    ) -> Float[Array, "members states"]:
        return self._each(theta).probabilities

    @override
    def expected(self, theta: Float[Array, " G"], q: EStep, arrays: Arrays) -> Float[Array, ""]:
        return (q.weights * self._kept_joint(theta)).sum() + self._rest(theta, arrays)


def compress(marginal: Marginal, start: Float[np.ndarray, " dim"], timing: Timing) -> Marginal:
    """Return a marginal likelihood in terms of a few members, or as it is where that cannot be.

    Parameters
    ----------
    marginal
        The likelihood.
    start
        A point of the target's flat vector; the members are compared around it.
    timing
        Charged with compilations.
    """
    compressed = marginal.split.target.compiled_once(
        ("compressed", *marginal.key), lambda: _find(marginal, start, timing)
    )
    return compressed or marginal


def same_likelihood(
    few: Marginal, marginal: Marginal, theta: Float[np.ndarray, " G"], timing: Timing
) -> bool:
    """Whether a compressed likelihood is the original at some parameters, to rounding."""
    if few is marginal:
        return True
    target, z = marginal.split.target, jnp.zeros((0, 0))

    def values(theta: jax.Array, arrays: Arrays) -> jax.Array:
        return jnp.stack([m.value(theta, z, arrays) for m in (few, marginal)])

    given = jnp.asarray(theta), target.arrays()
    compiled = target.compiled_once(
        ("compressed and not", *marginal.key), lambda: timing.compile(values, *given, calls=1)
    )
    compressed, right = np.asarray(compiled(*given))
    return bool(np.abs(compressed - right) <= EXACT * max(1.0, abs(right)))


def _find(marginal: Marginal, start: Float[np.ndarray, " dim"], timing: Timing) -> Marginal | None:
    split = marginal.split
    members, states = split.num_members, len(split.states)
    if marginal.rule != "enumerate" or members < MIN_MEMBERS or split.weights is not None:
        return None
    rng = np.random.default_rng(17)
    some = rng.choice(members, min(members, SAMPLED), replace=False)
    most = min(MAX_KEPT, MAX_COEFFICIENTS // members)
    thetas, known = np.zeros((0, start.size)), np.zeros((0, members))
    rank, order, pivots = most + 1, np.zeros(0, int), np.zeros(0)
    for columns in COLUMNS:
        new = _around(start, -(-columns // states) - len(thetas), rng)
        thetas = np.concatenate([thetas, new])
        known = np.concatenate([known, _table(split, new, timing)])
        if not np.isfinite(known).all():
            return None
        _, upper, order = qr(known[:, some], mode="economic", pivoting=True)
        pivots = np.abs(np.diagonal(upper))
        rank = int((pivots > RANK * pivots[0]).sum())
        if rank <= columns // 2 or columns >= 2 * most:
            break
    if rank > min(most, len(known) // 2) or pivots[rank - 1] < GAP * pivots[0]:
        return None
    chosen = np.sort(some[order[:rank]])
    coefficients = lstsq(known[:, chosen], known, lapack_driver="gelsy")[0].T
    thetas = np.concatenate([_around(start, 2, rng), start + rng.standard_normal((2, start.size))])
    fresh = _table(split, thetas, timing)
    if not _alike(fresh[:, chosen] @ coefficients.T, fresh):
        return None
    kept = _model_of(split, chosen)
    if kept is None:
        return None
    if not _alike(_table(kept, thetas, timing), fresh[:, chosen]):
        return None
    return Compressed(
        split=split,
        rule="enumerate",
        num_nodes=marginal.num_nodes,
        with_prior=marginal.with_prior,
        coefficients=coefficients,
        kept=kept,
    )


def _around(
    start: Float[np.ndarray, " G"], count: int, rng: np.random.Generator
) -> Float[np.ndarray, "count G"]:
    """Return random parameters, near and not so near."""
    spread = rng.uniform(0.1, 0.7, (count, 1))
    return start + spread * rng.standard_normal((count, start.size))


def _alike(
    made: Float[np.ndarray, "rows members"], right: Float[np.ndarray, "rows members"]
) -> bool:
    """Whether log densities, rows by members, are the same but for the rounding of their rows."""
    size = np.sqrt(np.square(right).mean(axis=1, keepdims=True))
    return bool((np.abs(made - right) <= EXACT * np.maximum(size, np.abs(right))).all())


def _table(
    this: Split, thetas: Float[np.ndarray, "thetas G"], timing: Timing
) -> Float[np.ndarray, "rows members"]:
    """Return the log joint of every member in every state, a row for every theta and state."""
    states = jnp.arange(len(this.states))

    def rows(thetas: jax.Array, arrays: Arrays) -> jax.Array:
        def at(theta: jax.Array) -> jax.Array:
            return jax.lax.map(lambda k: this.log_joint(theta, k, arrays).members, states)

        return jax.lax.map(at, thetas)

    given = jnp.asarray(thetas), this.target.arrays()
    compiled = this.target.compiled_once(
        ("table of log joints", this.latents, thetas.shape),
        lambda: timing.compile(rows, *given, calls=1),
    )
    return np.asarray(compiled(*given)).reshape(-1, this.num_members)


def _model_of(this: Split, chosen: Int[np.ndarray, " kept"]) -> Split | None:
    """Return the model of some of the members: their rows of all data that have one for each."""
    target = this.target
    data = {
        name: np.asarray(value)[chosen]
        if np.ndim(value) and np.shape(value)[0] == this.num_members
        else value
        for name, value in target.data.items()
    }
    try:
        kept = split_target(Target(target.complete_model, **data), this.latents)
    except (ValueError, TypeError, IndexError, MethodFailure):
        return None
    fits = kept.num_members == len(chosen) and kept.border.size == this.border.size
    return kept if fits and np.array_equal(kept.states, this.states) else None
