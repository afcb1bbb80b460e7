"""The Hessian of crossed families: by its products, and by a preconditioner that leaves some out.

The matrix with the coupling of different families left out is block-arrow, and preconditions
conjugate gradients on the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from vi_recipes.algebra.block_arrow import BlockArrow
from vi_recipes.algebra.factorised import InverseParts
from vi_recipes.algebra.local_structure import LocalStructure

MAX_ITERATIONS = 200

CG_TOLERANCE = 1e-5
"""Relative reduction of the residual, in the preconditioner's norm."""


Push = Callable[[jax.Array], jax.Array]
"""x -> Hx, inside compiled code."""


class TruncatedStep(NamedTuple):
    """A step that conjugate gradients ended at.

    Parameters
    ----------
    step
        x, shape (dim,).
    product
        Hx, shape (dim,).
    curved
        Whether a direction of negative curvature was met.
    """

    step: jax.Array
    product: jax.Array
    curved: jax.Array


class Crossed:
    """A Hessian with crossed families, by its products and a preconditioner.

    Parameters
    ----------
    preconditioner
        The matrix without the coupling of families.
    product
        x -> Hx.
    run
        ``run(gradient, inverse, radius)``: compiled conjugate gradients from :func:`steihaug` at
        the point in question.
    """

    def __init__(
        self,
        preconditioner: BlockArrow,
        product: Callable[[np.ndarray], np.ndarray],
        run: Callable[[np.ndarray, InverseParts, float], TruncatedStep],
    ) -> None:
        self._matrix, self._product, self._run = preconditioner, product, run
        self._newton_of: tuple[bytes, _Taken] | None = None
        self._last: _Taken | None = None

    @cached_property
    def _shift(self) -> float:
        """Multiple of the metric that makes the preconditioner positive definite."""
        shift = 0.0
        while not self._matrix.positive_with(shift):
            shift = max(4 * shift, 1e-3)
        return shift

    @cached_property
    def _inverse(self) -> InverseParts:
        return self._matrix.inverse_parts(self._shift)

    def _take(self, gradient: np.ndarray, radius: float) -> _Taken:
        taken = self._run(gradient, self._inverse, radius)
        return _Taken(np.asarray(taken.step), np.asarray(taken.product), bool(taken.curved))

    def _newton(self, gradient: np.ndarray) -> _Taken:
        """Return the step without a radius; remembers that of the last gradient."""
        key = gradient.tobytes()
        if self._newton_of is None or self._newton_of[0] != key:
            self._newton_of = key, self._take(gradient, np.inf)
        return self._newton_of[1]

    def step(self, gradient: Float[np.ndarray, " dim"], radius: float) -> Float[np.ndarray, " dim"]:
        """Return a step that lowers the quadratic model as far as truncated gradients do."""
        taken = self._newton(gradient)
        if taken.curved or self.norm(taken.step) > radius:
            taken = self._take(gradient, radius)
        self._last = taken
        return taken.step

    def dot(self, vector: Float[np.ndarray, " dim"]) -> Float[np.ndarray, " dim"]:
        """Return H times a vector; that of the last step was found along with it."""
        if self._last is not None and np.array_equal(vector, self._last.step):
            return self._last.product
        return self._product(vector)

    def inner(self, x: Float[np.ndarray, " dim"], y: Float[np.ndarray, " dim"]) -> float:
        """Return x'y."""
        return float(x @ y)

    def norm(self, vector: Float[np.ndarray, " dim"]) -> float:
        """Return the length in the preconditioner's norm."""
        shifted = self._matrix.dot(vector) + self._shift * self._matrix.metric * vector
        return float(np.sqrt(max(vector @ shifted, 0.0)))

    def solve(self, vector: Float[np.ndarray, " dim"]) -> Float[np.ndarray, " dim"]:
        """Return H^-1 times a vector, for positive-definite H."""
        return -self._newton(vector).step

    def decrement(self, gradient: Float[np.ndarray, " dim"]) -> float:
        """Return sqrt(g' H^-1 g); infinite where a direction of negative curvature was met."""
        if not gradient.any():
            return 0.0
        newton = self._newton(gradient)
        return float("inf") if newton.curved else float(np.sqrt(max(-gradient @ newton.step, 0.0)))


class _Taken(NamedTuple):
    """A :class:`TruncatedStep` outside compiled code."""

    step: np.ndarray
    product: np.ndarray
    curved: bool


class _State(NamedTuple):
    """Where conjugate gradients are: P is the preconditioner, whose norm lengths are in."""

    x: jax.Array
    hx: jax.Array
    residual: jax.Array
    direction: jax.Array
    residual_square: jax.Array
    """r' P^-1 r."""
    x_square: jax.Array
    """x'Px."""
    x_direction: jax.Array
    """x'Pp of the direction p."""
    direction_square: jax.Array
    """p'Pp."""
    iteration: int | jax.Array
    done: jax.Array
    curved: jax.Array


def steihaug(
    push: Push,
    structure: LocalStructure,
    gradient: Float[Array, " dim"],
    inverse: InverseParts,
    radius: Float[Array, ""],
) -> TruncatedStep:
    """Minimise g'x + x'Hx / 2 by preconditioned conjugate gradients, stopping at the radius.

    Parameters
    ----------
    push
        x -> Hx.
    structure, inverse
        Of the preconditioner; see :meth:`BlockArrow.inverse_parts`.
    gradient, radius
        g, and the radius in the preconditioner's norm.

    References
    ----------
    Steihaug, T. (1983). The conjugate gradient method and trust regions in large scale
    optimization. SIAM J. Numer. Anal. 20(3). doi:10.1137/0720042
    """
    blocks, edge, corner = inverse
    border, local = structure.border, structure.local

    def precondition(v: Float[Array, " dim"]) -> Float[Array, " dim"]:
        turned = jnp.einsum("tij,tj->ti", blocks, v[local])
        solved = corner @ (v[border] - jnp.einsum("gti,ti->g", edge, turned))
        back = turned - jnp.einsum("tij,tj->ti", blocks, jnp.einsum("gti,g->ti", edge, solved))
        return jnp.zeros_like(v).at[border].set(solved).at[local].set(back)

    y = precondition(gradient)
    zero = jnp.zeros_like(gradient)
    first = gradient @ y
    no = zero[0] != 0
    start = _State(
        x=zero,
        hx=zero,
        residual=gradient,
        direction=-y,
        residual_square=first,
        x_square=0.0 * first,
        x_direction=0.0 * first,
        direction_square=first,
        iteration=0,
        done=no,
        curved=no,
    )

    def going(at: _State) -> Bool[Array, ""]:
        small = at.residual_square <= CG_TOLERANCE**2 * first
        return ~at.done & ~small & (at.iteration < MAX_ITERATIONS)

    def body(at: _State) -> _State:
        p, xx, xp, pp = at.direction, at.x_square, at.x_direction, at.direction_square
        hp = push(p)
        curvature = p @ hp
        curved = curvature <= 0
        alpha = at.residual_square / jnp.where(curved, 1.0, curvature)
        longer = xx + 2 * alpha * xp + alpha**2 * pp
        stop = curved | (longer >= radius**2)
        bounded = jnp.where(jnp.isfinite(radius), radius, jnp.sqrt(xx + pp))
        root = jnp.sqrt(jnp.maximum(xp**2 + pp * (bounded**2 - xx), 0.0))
        length = jnp.where(stop, (root - xp) / pp, alpha)
        residual = at.residual + length * hp
        y = precondition(residual)
        new = residual @ y
        beta = new / at.residual_square
        return _State(
            x=at.x + length * p,
            hx=at.hx + length * hp,
            residual=residual,
            direction=-y + beta * p,
            residual_square=new,
            x_square=xx + 2 * length * xp + length**2 * pp,
            x_direction=beta * (xp + length * pp),
            direction_square=new + beta**2 * pp,
            iteration=at.iteration + 1,
            done=stop,
            curved=curved,
        )

    end = jax.lax.while_loop(going, body, start)
    return TruncatedStep(end.x, end.hx, end.curved)
