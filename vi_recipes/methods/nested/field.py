"""The integral over a normal field whose covariance the model names, at a point of theta.

A Gaussian process is one vector, normal with a dense covariance K, and all else depends on it value
by value: what it adds to the precision K^-1 + D is diagonal. With S = D^(1/2) everything then
follows from one factor, of I + S K S. Its eigenvalues are at least 1, and neither an inverse of K
nor a factor of it is needed, so that a smooth kernel loses no digits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax.linalg import cholesky
from jax.scipy.linalg import cho_solve, solve_triangular
from jaxtyping import Array, Float, Int

from vi_recipes.latent import Split
from vi_recipes.methods.nested.wide import LOST, NUM_STEPS
from vi_recipes.model import Arrays

WITHIN = 1e-10
"""Share of its mean variance that is added to a covariance without a factor, to draw from it."""

Terms = tuple[jax.Array, jax.Array]
"""The log density of all that depends on the field but its own, and all other terms."""


class FieldFactor(NamedTuple):
    """What is known of a field given theta and data."""

    cov: Float[Array, "d d"]
    """Its covariance K before the data."""
    scale: Float[Array, " d"]
    """The diagonal of S, whose squares are what the data add to the precision."""
    root: Float[Array, "d d"]
    """The lower Cholesky factor of I + S K S."""


class FieldMember:
    """One latent vector that is normal by a covariance; all that take arrays are pure.

    Parameters
    ----------
    split
        Parameters, and the one member, whose :meth:`Split.normal_law` is known.

    References
    ----------
    Rasmussen, C. E. and Williams, C. K. I. (2006). Gaussian Processes for Machine Learning,
    section 3.4.3. MIT Press.
    """

    def __init__(self, split: Split) -> None:
        self.split, self.dim = split, split.width
        self._probe = np.random.default_rng(11).standard_normal(self.dim)
        self._rest = jax.jit(self._untraced)  # traced once: derivatives are of what that has left

    @property
    def size(self) -> int:
        """Numbers that a point of theta holds, about."""
        return self.dim**2

    @property
    def entries(self) -> int:
        """Numbers that a factor has, about."""
        return 2 * self.dim**2

    def _untraced(self, theta: jax.Array, z: jax.Array, arrays: Arrays) -> tuple[jax.Array, Terms]:
        split = self.split
        elements = split.elements(theta, z[None], arrays, without=split.latents)
        joint = split.gather(elements)
        value = joint.members.sum()
        return value, (value, joint.shared + joint.prior)

    def law(
        self, theta: Float[Array, " G"], arrays: Arrays
    ) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
        """Return the field's mean and covariance before the data."""
        law = self.split.normal_law(theta, jnp.zeros((1, self.dim)), arrays)
        assert law is not None
        return law

    def curvature(
        self, theta: Float[Array, " G"], z: Float[Array, " d"], arrays: Arrays
    ) -> tuple[Float[Array, " d"], Float[Array, ""]]:
        """Return D, and the share of a product with its matrix that is off the diagonal."""
        slope = jax.grad(self._rest, 1, has_aux=True)
        _, push = jax.linearize(lambda z: slope(theta, z, arrays)[0], z)
        probe = jnp.asarray(self._probe)
        own, bent = -jax.vmap(push)(jnp.stack([jnp.ones_like(probe), probe]))
        lost = jnp.abs(bent - own * probe).max() / jnp.maximum(jnp.abs(bent).max(), 1e-300)
        return own, lost

    def factor(
        self,
        theta: Float[Array, " G"],
        loc: Float[Array, " d"],
        cov: Float[Array, "d d"],
        arrays: Arrays,
    ) -> tuple[FieldFactor, Float[Array, ""]]:
        """Return the factor, NaN where there is none, and what :meth:`curvature` says is lost."""
        own, lost = self.curvature(theta, loc, arrays)
        scale = jnp.sqrt(own)
        inner = scale[:, None] * cov * scale[None, :] + jnp.eye(self.dim)
        return FieldFactor(cov, scale, cholesky(inner, symmetrize_input=False)), lost

    def at(
        self, theta: Float[Array, " G"], z: Float[Array, " d"], arrays: Arrays
    ) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, " d"], FieldFactor]:
        """Return log p(y, theta), what is missed, the mode, and the factor.

        The mode is the mean plus K a. The second step to it loses no digits to distance.
        """
        loc, cov = self.law(theta, arrays)
        factor, lost = self.factor(theta, loc, cov, arrays)
        slope = jax.grad(self._rest, 1, has_aux=True)

        def step(k: jax.Array, at: Any) -> Any:
            a, away = at[:2]
            gradient, terms = slope(theta, loc + away, arrays)
            left = gradient - a
            turned = cov @ left
            move = jax.lax.cond(
                k < NUM_STEPS, lambda: left - self._within(factor, turned), lambda: 0.0 * left
            )
            # the field's own covariance is above the one given the data: no less is missed
            return a + move, away + cov @ move, terms, left @ turned

        none, zeros = jnp.zeros(()), jnp.zeros(self.dim)
        start = zeros, zeros, (none, none), none
        a, away, (value, rest), short = jax.lax.fori_loop(0, NUM_STEPS + 1, step, start)
        rest = rest + self.split.log_jacobian(theta, (loc + away)[None], arrays)
        half_log_det = jnp.log(jnp.diagonal(factor.root)).sum()
        log_p = value - a @ away / 2 - half_log_det + rest
        return log_p, jnp.where(lost < LOST, jnp.abs(short), jnp.inf), loc + away, factor

    def _within(self, factor: FieldFactor, vector: jax.Array) -> jax.Array:
        """Return S (I + S K S)^-1 S times a vector."""
        return factor.scale * cho_solve((factor.root, True), factor.scale * vector)

    def variances(self, factor: FieldFactor) -> Float[Array, " d"]:
        """Return the variances of all scalars given theta."""
        half = solve_triangular(factor.root, factor.scale[:, None] * factor.cov, lower=True)
        return jnp.maximum(jnp.diagonal(factor.cov) - (half**2).sum(0), 0.0)

    def variances_of(
        self, factor: FieldFactor, slopes: Float[Array, "sums d"]
    ) -> Float[Array, " sums"]:
        """Return the variances of sums of the scalars, whose slopes are in rows."""
        turned = slopes @ factor.cov
        half = solve_triangular(factor.root, factor.scale[:, None] * turned.T, lower=True)
        return jnp.maximum((turned * slopes).sum(1) - (half**2).sum(0), 0.0)

    def kept(self, factor: FieldFactor) -> jax.Array:
        """Return nothing: factors of many points of theta are too large to be kept for draws."""
        return jnp.zeros((factor.scale.shape[0], 0))

    def drawn(self, theta: Float[Array, " G"], noise: jax.Array, arrays: Arrays) -> jax.Array:
        """Return draws of the field given theta.

        A draw from before the data, corrected by what data made from it would say of it.

        Parameters
        ----------
        theta
            The parameters.
        noise
            Standard normal, shape (draws, 2, d).
        arrays
            The data.

        References
        ----------
        Hoffman, Y. and Ribak, E. (1991). Constrained realizations of Gaussian fields. The
        Astrophysical Journal 380. doi:10.1086/186160
        """
        _, _, mode, factor = self.at(theta, jnp.zeros(self.dim), arrays)
        cov = factor.cov
        root = cholesky(cov, symmetrize_input=False)
        within = WITHIN * jnp.diagonal(cov).mean() * jnp.eye(self.dim)
        root = jnp.where(jnp.isnan(root).any(), cholesky(cov + within), root)
        field = root @ noise[:, 0].T
        scale = factor.scale[:, None]
        back = scale * cho_solve((factor.root, True), scale * field + noise[:, 1].T)
        return mode + (field - cov @ back).T

    def draws(
        self,
        theta: Float[np.ndarray, "draws G"],
        place: Int[np.ndarray, " draws"],
        rng: np.random.Generator,
        compile_: Callable[..., Callable[..., Any]],
    ) -> Float[np.ndarray, "draws d"]:
        """Return draws of the field, one factorisation a point of theta.

        Parameters
        ----------
        theta, place
            Of each draw the parameters, and the number of that point.
        rng
            Where chance comes from.
        compile_
            Compiles a function for given arguments.
        """
        target, order = self.split.target, np.argsort(place, kind="stable")
        lots = np.split(order, np.flatnonzero(np.diff(place[order])) + 1)
        most = 2 ** int(np.ceil(np.log2(max(map(len, lots)))))
        made = np.empty((len(place), self.dim))
        with jax.enable_x64(True):
            arrays = target.arrays()
            first = jnp.asarray(theta[0]), jnp.zeros((most, 2, self.dim)), arrays
            compiled = target.compiled_once(
                ("draws of a field", self.split.latents, most),
                lambda: compile_(self.drawn, *first),
            )
            for lot in lots:
                noise = np.zeros((most, 2, self.dim))
                noise[: len(lot)] = rng.standard_normal((len(lot), 2, self.dim))
                drawn = compiled(jnp.asarray(theta[lot[0]]), jnp.asarray(noise), arrays)
                made[lot] = np.asarray(drawn)[: len(lot)]
        return made


def field_of(split: Split, compile_: Callable[..., Callable[..., Any]]) -> FieldMember | None:
    """Return the one member as a normal field; ``None`` where it is none.

    Parameters
    ----------
    split
        Parameters, and the one member.
    compile_
        Compiles a function for given arguments.
    """
    arrays = split.target.arrays()
    found: list[bool] = []

    def look(theta: jax.Array, arrays: Any) -> None:
        found.append(split.normal_law(theta, jnp.zeros((1, split.width)), arrays) is not None)

    start = split.target.anywhere()
    # the data are traced too: NumPyro refuses rows of weight 0 that it sees
    jax.eval_shape(look, jnp.asarray(start[split.border]), arrays)
    if not found[0]:
        return None
    member = FieldMember(split)

    def lost(theta: jax.Array, z: jax.Array, arrays: Any) -> jax.Array:
        own, lost = member.curvature(theta, z, arrays)
        return jnp.where((own >= 0).all(), lost, jnp.inf)

    given = jnp.asarray(start[split.border]), jnp.asarray(start[split.local[0]]), arrays
    compiled = split.target.compiled_once(
        ("a field's curvature", split.latents), partial(compile_, lost, *given, calls=1)
    )
    return member if float(compiled(*given)) < LOST else None
