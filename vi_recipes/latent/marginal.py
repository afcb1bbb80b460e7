"""The likelihood with latent variables integrated out, member by member, and its E-steps.

log p(y | theta) = sum over members of log of the integral (or sum) of p(y_t, z_t | theta). The
integral is a finite set of weighted nodes: the states themselves; cubature points of a Gaussian,
exact where the log joint is quadratic in z; or adaptive Gauss-Hermite nodes, placed by the mode and
the curvature of each member's log joint. The same nodes are EM's E-step.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vi_recipes.latent.chains import Chains, log_partition, marginals, potentials, probabilities
from vi_recipes.latent.split import LogJoint, Split
from vi_recipes.model import Arrays

EStepRule = Literal["enumerate", "forward_backward", "gaussian", "quadrature"]
"""How latent variables are integrated out; what each is for, :data:`vi_recipes.latent.RULES` says.

The one list: what users may ask for is read off it.
"""


Rule = Literal["none", EStepRule]
"""How z is integrated over, where there may be none."""


MAX_QUADRATURE = 2
"""Dimension of a member's latent variables up to which a tensor product of nodes is taken."""


MAX_GAUSSIAN = 300
"""Dimension of a member's latent variables up to which its dense precision is formed."""


QUADRATIC = 1e-8
"""Relative change of a curvature between two places that counts as none."""


FEW_NODES = 5
"""Nodes a dimension that average over the Gaussian of a Laplace approximation."""


NUM_INNER = 200

MODE = 1e-12
"""Squared Newton decrement of a member's mode at which it is found."""


SIDE_BY_SIDE = 200_000
"""Members times states up to which all states are computed at once."""


HALF_LOG_2PI = 0.5 * np.log(2 * np.pi)


class EStep(NamedTuple):
    """q(z): weighted nodes of every member, and its moments."""

    nodes: jax.Array
    """Shape (nodes, members, d); for discrete z the numbers of the states, shape (nodes,)."""
    weights: jax.Array
    """Shape (nodes, members); they add up to one."""
    chains: Chains | None = None
    """Of chains of states also the probabilities of pairs."""


@dataclass(frozen=True)
class Marginal:
    """log p(y | theta) of a split target by one rule; every method is pure but :func:`choose`.

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

    References
    ----------
    Pinheiro, J. C. and Bates, D. M. (1995). Approximations to the log-likelihood function in the
    nonlinear mixed-effects model. doi:10.1080/10618600.1995.10474663
    """

    split: Split
    rule: Rule
    num_nodes: int = 9
    with_prior: bool = False

    @property
    def key(self) -> tuple[Any, ...]:
        """What compiled code of this object is told apart by."""
        return (self.split.latents, self.rule, self.num_nodes, self.with_prior)

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

    def rest(self, joint: LogJoint) -> jax.Array:
        """Return the terms that no latent variable touches."""
        return joint.shared + joint.prior if self.with_prior else joint.shared

    def local(self, theta: jax.Array, z: jax.Array, arrays: Arrays) -> tuple[jax.Array, ...]:
        """Return every member's log joint, its gradient in z and minus its Hessian there.

        Shapes (T,), (T, d), (T, d, d).
        """

        def value(z: jax.Array) -> jax.Array:
            return self.split.log_joint(theta, z, arrays).members

        d = self.split.width
        units = jnp.eye(d)

        # members do not couple: one product along a coordinate of all of them is each one's own
        if d <= MAX_QUADRATURE:

            def slope(z: jax.Array, j: int) -> jax.Array:
                return jax.jvp(value, (z,), (jnp.broadcast_to(units[j], z.shape),))[1]

            gradient = jnp.stack([slope(z, j) for j in range(d)], axis=-1)
            columns = [
                jax.jvp(
                    lambda z: jnp.stack([slope(z, j) for j in range(d)], axis=-1),
                    (z,),
                    (jnp.broadcast_to(units[k], z.shape),),
                )[1]
                for k in range(d)
            ]
            return value(z), gradient, -jnp.stack(columns, axis=-1)

        def gradient_of(z: jax.Array) -> jax.Array:
            return jax.grad(lambda z: value(z).sum())(z)

        gradient, push = jax.linearize(gradient_of, z)
        rows = jax.lax.map(lambda u: push(jnp.broadcast_to(u, z.shape)), units)
        hessian = jnp.moveaxis(rows, 0, -1)
        return value(z), gradient, -(hessian + jnp.swapaxes(hessian, -1, -2)) / 2

    # -- modes -----------------------------------------------------------------------------------

    def seek(self, theta: jax.Array, z: jax.Array, arrays: Arrays) -> tuple[jax.Array, jax.Array]:
        """Return every member's mode from a starting point, and the worst squared decrement.

        Newton's method, damped for each member by itself: a step that lowers its log joint is taken
        back and shortened. Not to be differentiated; see :meth:`polish`.
        """
        if self.rule == "gaussian":  # where the mode is near, no digits are lost to what is not
            _, gradient, bend = self.local(theta, z, arrays)
            return z + _solve(_cholesky(bend), gradient), jnp.zeros(())
        if self.rule != "quadrature":
            return z, jnp.zeros(())

        def propose(gradient: jax.Array, bend: jax.Array, damping: jax.Array) -> jax.Array:
            if gradient.shape[-1] == 1:
                return gradient / (jnp.abs(bend[..., 0]) + damping[:, None] + 1e-300)
            values, vectors = jnp.linalg.eigh(bend)
            turned = jnp.einsum("tij,ti->tj", vectors, gradient)
            turned = turned / (jnp.abs(values) + damping[:, None] + 1e-300)
            return jnp.einsum("tij,tj->ti", vectors, turned)

        def decrement(gradient: jax.Array, bend: jax.Array) -> jax.Array:
            free = propose(gradient, bend, jnp.zeros(gradient.shape[0]))
            return (gradient * free).sum(-1)

        def unfinished(state: Any) -> jax.Array:
            _, _, gradient, bend, _, count = state
            return (count < NUM_INNER) & jnp.any(decrement(gradient, bend) > MODE)

        def step(state: Any) -> Any:
            z, value, gradient, bend, damping, count = state
            candidate = z + propose(gradient, bend, damping)
            new = self.local(theta, candidate, arrays)
            finite = jnp.isfinite(new[0]) & jnp.isfinite(new[1]).all(-1)
            noise = 1e-13 * (1.0 + jnp.abs(value))
            better = finite & (new[0] >= value - noise)
            size = jnp.abs(jnp.trace(bend, axis1=-2, axis2=-1)) + 1e-8
            damping = jnp.where(better, damping / 10, jnp.maximum(10 * damping, 0.3 * size))
            damping = jnp.where(damping < 1e-3 * size, 0.0, damping)

            def keep(a: jax.Array, b: jax.Array) -> jax.Array:
                return jnp.where(better.reshape(-1, *(1,) * (a.ndim - 1)), a, b)

            return (
                keep(candidate, z),
                *(keep(a, b) for a, b in zip(new, (value, gradient, bend), strict=True)),
                damping,
                count + 1,
            )

        first = self.local(theta, z, arrays)
        state = (z, *first, jnp.zeros(len(first[0])), 0)
        found: Any = jax.lax.while_loop(unfinished, step, state)
        return found[0], decrement(found[2], found[3]).max()

    def polish(self, theta: jax.Array, z: jax.Array, arrays: Arrays, order: int) -> jax.Array:
        """Return the modes as a function of theta, to be differentiated ``order`` times.

        ``z`` holds the modes, as constants. From there Newton steps change nothing, but the first
        has the mode's derivative in theta, as the implicit function theorem gives it, and the
        second its second and third derivatives too.
        """

        def step(z: jax.Array, _: Any) -> tuple[jax.Array, None]:
            _, gradient, bend = self.local(theta, z, arrays)
            return z + _solve(_cholesky(bend), gradient), None

        polished: jax.Array = jax.lax.scan(step, z, None, length=order)[0]
        return polished

    # -- the objective -----------------------------------------------------------------------------

    def value(self, theta: jax.Array, z: jax.Array, arrays: Arrays, *, order: int = 2) -> jax.Array:
        """Return log p(y | theta), with log p(theta) where it is asked for.

        Parameters
        ----------
        theta
            Unconstrained parameters, shape (G,).
        z
            The members' modes at theta, for quadrature; any point where the integral is exact.
        arrays
            The data.
        order
            How often the result is to be differentiated in theta, at most 3.
        """
        return self.value_and_posterior(theta, z, arrays, order=order)[0]

    def value_and_posterior(
        self, theta: jax.Array, z: jax.Array, arrays: Arrays, *, order: int = 2
    ) -> tuple[jax.Array, EStep]:
        """Return :meth:`value` and q(z), which is p(z | y, theta) as the rule has it."""
        split, steps = self.split, 1 if order <= 1 else 2
        if self.rule == "none":
            joint = split.log_joint(theta, jnp.zeros((0, 0)), arrays)
            return self.rest(joint), EStep(jnp.zeros((0, 0, 0)), jnp.zeros((0, 0)))
        if self.rule == "enumerate":
            states = jnp.arange(len(split.states))
            joint = at_states(split, theta, states, arrays)
            own = jax.nn.logsumexp(joint.members, axis=0)
            rest = self.rest(jax.tree.map(lambda v: v[0], joint))
            return own.sum() + rest, EStep(states, jnp.exp(joint.members - own))
        if self.rule == "forward_backward":
            chains, joint = potentials(split, theta, arrays)
            q = probabilities(chains)
            step = EStep(jnp.arange(len(split.states)), marginals(q), q)
            return log_partition(chains).sum() + self.rest(joint), step
        if self.rule == "quadrature":
            z = self.polish(theta, z, arrays, steps)
        value, gradient, bend = self.local(theta, z, arrays)
        root = _cholesky(bend)
        if self.rule == "gaussian":  # of a quadratic the mode is one Newton step away
            away = _solve(root, gradient)
            value = value + (gradient * away).sum(-1) / 2
            z = z + away
        log_scale = -jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)).sum(-1)
        d = split.width
        if self.rule == "gaussian" or self.num_nodes == 1:
            if self.rule == "gaussian":
                points = np.sqrt(d) * np.concatenate([np.eye(d), -np.eye(d)])
                weights = np.full(2 * d, 0.5 / d)
            else:
                points, log_weights = _hermite(FEW_NODES, d)
                weights = np.exp(log_weights - (points**2).sum(1) / 2 - d * HALF_LOG_2PI)
            rest = self.rest(split.log_joint(theta, z, arrays))
            own = value + log_scale + d * HALF_LOG_2PI
            spread = jnp.broadcast_to(weights[:, None], (len(weights), split.num_members))
            return own.sum() + rest, EStep(_place(z, root, points), spread)
        points, log_weights = _hermite(self.num_nodes, d)
        nodes = _place(z, root, points)
        joint = jax.vmap(lambda z: split.log_joint(theta, z, arrays))(nodes)
        terms = joint.members + log_weights[:, None]
        own = jax.nn.logsumexp(terms, axis=0)
        rest = self.rest(jax.tree.map(lambda v: v[0], joint))
        return (own + log_scale).sum() + rest, EStep(nodes, jnp.exp(terms - own))

    def expected(self, theta: jax.Array, q: EStep, arrays: Arrays) -> jax.Array:
        """Return Q(theta), the log joint averaged over q, with log p(theta) where asked for."""
        if q.chains is not None:
            found, joint = potentials(self.split, theta, arrays)
            terms = jax.tree.map(lambda w, v: jnp.sum(w * v), q.chains, found)
            return sum(terms) + self.rest(joint)
        if self.rule == "enumerate":
            joint = at_states(self.split, theta, q.nodes, arrays)
        else:
            joint = jax.vmap(lambda z: self.split.log_joint(theta, z, arrays))(q.nodes)
        # a state that is out of the question has no weight; its log joint may be -inf
        terms = jnp.where(q.weights > 0, joint.members, 0.0) * q.weights
        return terms.sum() + self.rest(jax.tree.map(lambda v: v[0], joint))

    def probabilities(self, theta: jax.Array, z: jax.Array, arrays: Arrays) -> jax.Array:
        """Return the probabilities of the states of discrete z, shape (members, states)."""
        return self.value_and_posterior(theta, z, arrays)[1].weights.T

    def moments(
        self, theta: jax.Array, z: jax.Array, arrays: Arrays
    ) -> tuple[jax.Array, jax.Array]:
        """Return mean (T, d) and covariance (T, d, d) of continuous z given theta, unconstrained.

        The mean may be differentiated once in theta.
        """
        _, q = self.value_and_posterior(theta, z, arrays, order=1)
        mean = (q.weights[:, :, None] * q.nodes).sum(0)
        away = q.nodes - mean
        return mean, jnp.einsum("qt,qti,qtj->tij", q.weights, away, away)


def at_states(split: Split, theta: jax.Array, states: jax.Array, arrays: Arrays) -> LogJoint:
    """Return the log joint with all members in each of the states, which lead; pure.

    Where that is large one state follows the other, and what a derivative needs of it is computed
    again: a model may hold a matrix for every member.
    """

    def at(state: jax.Array) -> LogJoint:
        return split.log_joint(theta, state, arrays)

    if split.num_members * len(states) <= SIDE_BY_SIDE:
        return jax.vmap(at)(states)
    found: LogJoint = jax.lax.map(jax.checkpoint(at), states)
    return found


def _hermite(num_nodes: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the nodes (Q, d) for a standard normal, and log(weight / its kernel), (Q,)."""
    x, w = np.polynomial.hermite_e.hermegauss(num_nodes)
    grid = np.array(list(product(x, repeat=d)))
    log_weights = np.array([sum(c) for c in product(np.log(w) + x**2 / 2, repeat=d)])
    return grid, log_weights


def _cholesky(bend: jax.Array) -> jax.Array:
    """Return the lower factors of (T, d, d); NaN where a matrix is not positive definite."""
    if bend.shape[-1] == 1:
        return jnp.sqrt(bend)
    return jnp.linalg.cholesky(bend)


def _solve(root: jax.Array, vector: jax.Array) -> jax.Array:
    """Return (L L')^-1 v by member."""
    if root.shape[-1] == 1:
        return vector / root[..., 0] ** 2
    half = jax.lax.linalg.triangular_solve(root, vector[..., None], left_side=True, lower=True)
    whole = jax.lax.linalg.triangular_solve(
        root, half, left_side=True, lower=True, transpose_a=True
    )
    return whole[..., 0]


def _place(z: jax.Array, root: jax.Array, points: np.ndarray) -> jax.Array:
    """Return z + L^-T x for every node x, shape (Q, T, d)."""
    if root.shape[-1] == 1:
        return z + jnp.asarray(points)[:, None, :] / root[..., 0]
    columns = jnp.broadcast_to(jnp.asarray(points).T, (len(root), *points.T.shape))
    away = jax.lax.linalg.triangular_solve(
        root, columns, left_side=True, lower=True, transpose_a=True
    )
    return z + jnp.moveaxis(away, -1, 0)
