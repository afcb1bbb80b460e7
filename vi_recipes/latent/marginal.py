"""The likelihood with latent variables integrated out, member by member, and its E-steps.

log p(y | theta) = sum over members of log of the integral (or sum) of p(y_t, z_t | theta). The
integral is a finite set of weighted nodes: the states themselves; cubature points of a Gaussian,
exact where the log joint is quadratic in z; or adaptive Gauss-Hermite nodes, placed by the mode and
the curvature of each member's log joint. The same nodes are EM's E-step.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vi_recipes.latent.chains import (
    Transitions,
    log_partition,
    marginals,
    potentials,
    probabilities,
)
from vi_recipes.latent.member_modes import (
    Modes,
    member_terms,
    newton_move,
    seek_modes,
    terms_at_modes,
)
from vi_recipes.latent.nodes import HALF_LOG_2PI, cholesky, cubature, hermite, place, solve
from vi_recipes.latent.split import LogJoint, Split
from vi_recipes.model import Arrays, floored, or_infinite

EStepRule = Literal["enumerate", "forward_backward", "gaussian", "quadrature"]
"""How latent variables are integrated out; what each is for, :data:`vi_recipes.latent.RULES` says.

The one list: what users may ask for is read off it.
"""


RuleOrNone = Literal["none", EStepRule]
"""How z is integrated over, where there may be none."""


MAX_QUADRATURE = 3
"""Dimension of a member's latent variables up to which a tensor product of nodes is taken."""


MAX_GAUSSIAN = 300
"""Dimension of a member's latent variables up to which its dense precision is formed."""


FEW_NODES = 5
"""Nodes a dimension that average over the Gaussian of a Laplace approximation."""


NODES_AT_ONCE = 64
"""Nodes of a member of three dimensions computed at once."""


SIDE_BY_SIDE = 200_000
"""Members times states up to which all states are computed at once."""


class EStep(NamedTuple):
    """q(z): weighted nodes of every member, and its moments."""

    nodes: Float[Array, "nodes members d"] | Int[Array, " nodes"]
    """For discrete z the numbers of the states."""
    weights: Float[Array, "nodes members"]
    """They add up to one over the nodes."""
    chains: Transitions | None = None
    """Of chains of states also the probabilities of pairs."""


class HermiteNodes(NamedTuple):
    """Gauss-Hermite nodes, as :func:`vi_recipes.latent.nodes.hermite` has them.

    Minus infinity as a log weight leaves one out.
    """

    points: Float[Array | np.ndarray, "nodes d"]
    log_weights: Float[Array | np.ndarray, " nodes"]


class MomentsGivenTheta(NamedTuple):
    """Mean and covariance of continuous z given theta, member by member, unconstrained."""

    mean: Float[Array, "members d"]
    cov: Float[Array, "members d d"]


@dataclass(frozen=True)
class Marginal:
    """log p(y | theta) of a split target by one rule; all that take arrays are pure.

    Parameters
    ----------
    split
        The parameters and latent variables.
    rule
        How z is integrated over.
    num_nodes
        Nodes a dimension of adaptive Gauss-Hermite quadrature; 1 is Laplace's approximation.
    with_prior
        Whether log p(theta), over the parameters as the model names them, is added.
    given
        Nodes to take in place of those of ``num_nodes``: data of compiled code, no part of
        :attr:`key`.

    References
    ----------
    Pinheiro, J. C. and Bates, D. M. (1995). Approximations to the log-likelihood function in the
    nonlinear mixed-effects model. doi:10.1080/10618600.1995.10474663
    """

    split: Split
    rule: RuleOrNone
    num_nodes: int = 9
    with_prior: bool = False
    given: HermiteNodes | None = field(default=None, compare=False, repr=False)

    @property
    def key(self) -> tuple[Any, ...]:
        """What compiled code of this object is told apart by."""
        return (self.split.latents, self.rule, self.num_nodes, self.with_prior)

    @property
    def is_exact(self) -> bool:
        """Whether the integral has no error but rounding."""
        return self.rule in ("none", "enumerate", "forward_backward", "gaussian")

    def describe(self) -> str:
        """Say in a few words how z is integrated over."""
        split = self.split
        what = ", ".join(split.latents)
        where = f" in each of {split.num_members} members" if split.num_members > 1 else ""
        where += f" of {split.plate}" if split.plate and where else ""
        if self.rule == "none":
            return "no latent variables"
        if self.rule == "enumerate":
            return f"enumeration of {len(split.states)} states of {what}{where}"
        if self.rule == "forward_backward":
            times = split.num_members // split.chains
            many = f" in each of {split.chains} chains" if split.chains > 1 else ""
            return (
                f"forward-backward over {times} times of {what}, {len(split.states)} states{many}"
            )
        if self.rule == "gaussian":
            return f"exact Gaussian integral over {what} (d = {split.width}){where}"
        if self.num_nodes == 1:
            return f"Laplace approximation (1 node) over {what} (d = {split.width}){where}"
        nodes = " x ".join([str(self.num_nodes)] * split.width)
        return f"adaptive Gauss-Hermite quadrature, {nodes} nodes over {what}{where}"

    # -- the integrand ---------------------------------------------------------------------------

    def rest(self, joint: LogJoint) -> Float[Array, ""]:
        """Return the terms that no latent variable touches."""
        return joint.shared + joint.prior if self.with_prior else joint.shared

    # -- modes -----------------------------------------------------------------------------------

    def seek(
        self, theta: Float[Array, " G"], z: Float[Array, "members d"], arrays: Arrays
    ) -> Modes:
        """Return every member's mode from a starting point, and the worst squared decrement.

        Not to be differentiated; :meth:`value` does that for itself. Where no modes are needed
        they are left where they are.
        """
        if self.rule == "gaussian":  # where the mode is near, no digits are lost to what is not
            return Modes(z + newton_move(member_terms(self.split, theta, z, arrays)), jnp.zeros(()))
        if self.rule != "quadrature":
            return Modes(z, jnp.zeros(()))
        return seek_modes(self.split, theta, z, arrays)

    # -- the objective -----------------------------------------------------------------------------

    def value(
        self,
        theta: Float[Array, " G"],
        z: Float[Array, "members d"],
        arrays: Arrays,
        *,
        order: int = 2,
    ) -> Float[Array, ""]:
        """Return log p(y | theta), with log p(theta) where it is asked for.

        Parameters
        ----------
        theta
            Unconstrained parameters.
        z
            The members' modes at theta, for quadrature; any point where the integral is exact.
        arrays
            The data.
        order
            How often the result is to be differentiated in theta, at most 3.
        """
        return self.value_and_posterior(theta, z, arrays, order=order)[0]

    def value_and_posterior(
        self,
        theta: Float[Array, " G"],
        z: Float[Array, "members d"],
        arrays: Arrays,
        *,
        order: int = 2,
    ) -> tuple[Float[Array, ""], EStep]:
        """Return :meth:`value` and q(z), which is p(z | y, theta) as the rule has it."""
        split = self.split
        if self.rule == "none":
            joint = split.log_joint(theta, jnp.zeros((0, 0)), arrays)
            return self.rest(joint), EStep(jnp.zeros((0, 0, 0)), jnp.zeros((0, 0)))
        if self.rule == "enumerate":
            states = jnp.arange(len(split.states))
            joint = at_states(split, theta, states, arrays)
            by_member = jax.nn.logsumexp(joint.members, axis=0)
            rest = self.rest(jax.tree.map(lambda v: v[0], joint))
            step = EStep(states, jnp.exp(joint.members - by_member))
            return split.weighted(or_infinite(by_member)).sum() + rest, step
        if self.rule == "forward_backward":
            chains, joint = potentials(split, theta, arrays)
            q = probabilities(chains)
            step = EStep(jnp.arange(len(split.states)), marginals(q), q)
            return or_infinite(log_partition(chains)).sum() + self.rest(joint), step
        return self._of_continuous(theta, z, arrays, 1 if order <= 1 else 2)

    def _of_continuous(
        self,
        theta: Float[Array, " G"],
        z: Float[Array, "members d"],
        arrays: Arrays,
        num_polishing: int,
    ) -> tuple[Float[Array, ""], EStep]:
        """Return :meth:`value_and_posterior` by Gaussian cubature or adaptive quadrature."""
        split, d = self.split, self.split.width
        if self.rule == "quadrature":
            z, terms = terms_at_modes(split, theta, z, arrays, num_polishing)
        else:
            terms = member_terms(split, theta, z, arrays)
        value, root = terms.value, cholesky(terms.precision)
        if self.rule == "gaussian":  # of a quadratic the mode is one Newton step away
            away = solve(root, terms.gradient)
            value = value + (terms.gradient * away).sum(-1) / 2
            z = z + away
        log_scale = -jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)).sum(-1)
        if self.rule == "gaussian" or self.num_nodes == 1:
            if self.rule == "gaussian":
                points, weights = cubature(d)
            else:
                points, log_weights = hermite(FEW_NODES, d)
                weights = np.exp(log_weights - (points**2).sum(1) / 2 - d * HALF_LOG_2PI)
            rest = self.rest(split.log_joint(theta, z, arrays))
            by_member = value + log_scale + d * HALF_LOG_2PI
            spread = jnp.broadcast_to(weights[:, None], (len(weights), split.num_members))
            return split.weighted(by_member).sum() + rest, EStep(place(z, root, points), spread)
        rule = self.given or HermiteNodes(*hermite(self.num_nodes, d))
        nodes = place(z, root, rule.points)
        joint = at_nodes(split, theta, nodes, arrays)
        logs = joint.members + rule.log_weights[:, None]
        by_member = jax.nn.logsumexp(logs, axis=0)
        rest = self.rest(jax.tree.map(lambda v: v[0], joint))
        value = split.weighted(by_member + log_scale).sum() + rest
        return value, EStep(nodes, jnp.exp(logs - by_member))

    def expected(self, theta: Float[Array, " G"], q: EStep, arrays: Arrays) -> Float[Array, ""]:
        """Return Q(theta), the log joint averaged over q, with log p(theta) where asked for."""
        if q.chains is not None:
            chains, joint = potentials(self.split, theta, arrays)
            sums = jax.tree.map(lambda w, v: jnp.sum(w * v), q.chains, chains)
            return sum(sums) + self.rest(joint)
        if self.rule == "enumerate":
            joint = at_states(self.split, theta, q.nodes, arrays)
        else:
            joint = at_nodes(self.split, theta, q.nodes, arrays)
        # a state that is out of the question has no weight; its log joint may be -inf
        terms = jnp.where(q.weights > 0, joint.members, 0.0) * q.weights
        rest = self.rest(jax.tree.map(lambda v: v[0], joint))
        return self.split.weighted(terms.sum(0)).sum() + rest

    # -- a sum over states, member by member ------------------------------------------------------

    def by_state(
        self, theta: Float[Array, " G"], arrays: Arrays, rows: Int[Array, " size"]
    ) -> Float[Array, "size states"]:
        """Return log p(y_t, z_t = k | theta) of some members by enumerated state k; pure."""
        states = jnp.arange(len(self.split.states))
        return at_states(self.split, theta, states, arrays).members.T[rows]

    def part(
        self, q: Float[Array, "size states"], rows: Int[Array, " size"]
    ) -> Float[Array, "size states"]:
        """Return what the members of a block add to :meth:`whole` by their probabilities."""
        return q

    def whole(self, parts: Float[Array, "blocks size states"]) -> EStep:
        """Return q(z) of the parts of all blocks, stacked; see :func:`blocks.deal`."""
        states = jnp.arange(len(self.split.states))
        table = jnp.swapaxes(parts, 0, 1).reshape(-1, len(states))
        return EStep(states, table[: self.split.num_members].T)

    def probabilities(
        self, theta: Float[Array, " G"], z: Float[Array, "members d"], arrays: Arrays
    ) -> Float[Array, "rows states"]:
        """Return the probabilities of the states of discrete z, a row for every member."""
        return self.value_and_posterior(theta, z, arrays)[1].weights.T

    def moments(
        self, theta: Float[Array, " G"], z: Float[Array, "members d"], arrays: Arrays
    ) -> MomentsGivenTheta:
        """Return mean and covariance of continuous z given theta, unconstrained.

        The mean may be differentiated once in theta.
        """
        return moments_of(self.value_and_posterior(theta, z, arrays, order=1)[1])


def moments_of(q: EStep) -> MomentsGivenTheta:
    """Return mean and covariance of continuous z by member; pure."""
    mean = (q.weights[:, :, None] * q.nodes).sum(0)
    away = q.nodes - mean
    return MomentsGivenTheta(mean, jnp.einsum("qt,qti,qtj->tij", q.weights, away, away))


def at_nodes(
    split: Split, theta: Float[Array, " G"], nodes: Float[Array, "nodes members d"], arrays: Arrays
) -> LogJoint:
    """Return the log joint with the members at each of the nodes, which lead; pure.

    Many nodes follow one another in lots, and what a derivative needs of them is computed again.
    """

    def at(z: jax.Array) -> LogJoint:
        return split.log_joint(theta, z, arrays)

    if split.width < MAX_QUADRATURE:
        return jax.vmap(at)(nodes)
    joint: LogJoint = jax.lax.map(jax.checkpoint(at), nodes, batch_size=NODES_AT_ONCE)
    return joint


def at_states(
    split: Split, theta: Float[Array, " G"], states: Int[Array, " states"], arrays: Arrays
) -> LogJoint:
    """Return the log joint with all members in each of the states, which lead; pure.

    Where that is large one state follows the other, and what a derivative needs of it is computed
    again: a model may hold a matrix for every member.
    """

    def at(state: jax.Array) -> LogJoint:
        joint = split.log_joint(theta, state, arrays)
        return joint._replace(members=floored(joint.members))

    if split.num_members * len(states) <= SIDE_BY_SIDE:
        return jax.vmap(at)(states)
    joint: LogJoint = jax.lax.map(jax.checkpoint(at), states)
    return joint
