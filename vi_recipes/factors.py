"""Factors of a mean-field approximation: one law per coordinate of the unconstrained vector.

Every law has two parameters, kept unconstrained in an array of shape (dim, 2):

=========  ==========================================  ======================
name       law of the coordinate z                     parameters
=========  ==========================================  ======================
normal     z ~ Normal(m, s)                            m, log s
gamma      exp(z) ~ Gamma(a, b), b a rate              log a, log b
beta       sigmoid(z) ~ Beta(a, b)                     log a, log b
dirichlet  independent Beta laws of the sticks         log a, log b, per stick
=========  ==========================================  ======================

The last is the generalised Dirichlet law, which contains the Dirichlet.

References
----------
Connor, R. J. and Mosimann, J. E. (1969). Concepts of independence for proportions with a
generalization of the Dirichlet distribution. JASA 64(325). doi:10.1080/01621459.1969.10500963
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import betaln, digamma, gammaln, polygamma

from vi_recipes.target import Target

Family = Literal["normal", "gamma", "beta", "dirichlet"]
SUPPORTS: dict[str, tuple[str, ...]] = {
    "gamma": ("Positive",),
    "beta": ("UnitInterval", "Interval", "OpenInterval"),
    "dirichlet": ("Simplex",),
}
"""Family -> supports that it matches, as the sites name them."""

_NORMAL, _GAMMA, _BETA = range(3)
_LOG_2PI = float(np.log(2 * np.pi))


@dataclass(frozen=True)
class Factors:
    """The laws of all coordinates.

    Parameters
    ----------
    code
        Law of each coordinate, shape (dim,): 0 normal, 1 log-gamma, 2 logit-beta.
    offset
        What is added to a logit-beta coordinate: sticks are measured from even shares.
    """

    code: np.ndarray
    offset: np.ndarray

    @property
    def kinds(self) -> tuple[int, ...]:
        """The laws that occur."""
        return tuple(int(k) for k in np.unique(self.code))

    def start(self, z: np.ndarray, sd: float) -> np.ndarray:
        """Return parameters, shape (dim, 2), whose laws are centred at ``z`` with a given sd."""
        eta = np.stack([z, np.full(z.size, np.log(sd))], axis=1)
        gamma, beta = self.code == _GAMMA, self.code == _BETA
        eta[gamma, 0] = -2 * np.log(sd)
        eta[gamma, 1] = -2 * np.log(sd) - z[gamma]
        share = 1 / (1 + np.exp(-np.clip(z[beta] - self.offset[beta], -4, 4)))
        # the variance of a logit-beta is about 1 / (n share (1 - share))
        size = 1 / (sd**2 * share * (1 - share))
        eta[beta] = np.log(np.stack([size * share, size * (1 - share)], axis=1))
        return eta

    def location_scale(self, eta: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return mean and sd of every coordinate, shapes (dim,)."""
        p, q = eta[:, 0], eta[:, 1]
        m, s = p, jnp.exp(q)
        a, b = s if self.kinds == (_NORMAL,) else jnp.exp(p), jnp.exp(q)
        if _GAMMA in self.kinds:
            is_gamma = self.code == _GAMMA
            m = jnp.where(is_gamma, digamma(a) - q, m)
            s = jnp.where(is_gamma, jnp.sqrt(_trigamma(a)), s)
        if _BETA in self.kinds:
            is_beta = self.code == _BETA
            m = jnp.where(is_beta, digamma(a) - digamma(b) + self.offset, m)
            s = jnp.where(is_beta, jnp.sqrt(_trigamma(a) + _trigamma(b)), s)
        return m, s

    def entropy(self, eta: jax.Array) -> jax.Array:
        """Return the total entropy over the unconstrained scale."""
        p, q = eta[:, 0], eta[:, 1]
        total = jnp.sum(jnp.where(self.code == _NORMAL, q + 0.5 + _LOG_2PI / 2, 0.0))
        a, b = jnp.exp(p), jnp.exp(q)
        if _GAMMA in self.kinds:
            value = a + gammaln(a) - a * digamma(a)
            total += jnp.sum(jnp.where(self.code == _GAMMA, value, 0.0))
        if _BETA in self.kinds:
            value = betaln(a, b) - a * digamma(a) - b * digamma(b) + (a + b) * digamma(a + b)
            total += jnp.sum(jnp.where(self.code == _BETA, value, 0.0))
        return total

    def log_density(self, eta: jax.Array, z: jax.Array) -> jax.Array:
        """Return the log density of every coordinate at ``z``, shape (dim,)."""
        p, q = eta[:, 0], eta[:, 1]
        value = -(((z - p) * jnp.exp(-q)) ** 2) / 2 - q - _LOG_2PI / 2
        a, b = jnp.exp(p), jnp.exp(q)
        if _GAMMA in self.kinds:
            log_gamma = a * (q + z) - b * jnp.exp(z) - gammaln(a)
            value = jnp.where(self.code == _GAMMA, log_gamma, value)
        if _BETA in self.kinds:
            x = z - self.offset
            logit_beta = a * jax.nn.log_sigmoid(x) + b * jax.nn.log_sigmoid(-x) - betaln(a, b)
            value = jnp.where(self.code == _BETA, logit_beta, value)
        return value

    def log_ratio(self, eta: jax.Array, x: jax.Array) -> jax.Array:
        """Return log law(z) - log Normal(z; m, s) at z = m + s x, shape (dim,); 0 for normals.

        With it as weight, Gauss-Hermite nodes integrate over the law.
        """
        m, s = self.location_scale(eta)
        normal = -(x**2) / 2 - jnp.log(s) - _LOG_2PI / 2
        ratio = self.log_density(eta, m + s * x) - normal
        return jnp.where(self.code == _NORMAL, 0.0, ratio)

    def metric(self, eta: np.ndarray) -> np.ndarray:
        """Return the diagonal of the laws' Fisher information, shape (dim, 2).

        The step lengths of the optimiser are measured by it.
        """
        eta = np.asarray(eta)
        out = np.stack([np.exp(-2 * eta[:, 1]), np.full(len(eta), 2.0)], axis=1)
        others = self.code != _NORMAL
        if others.any():
            # a^2 psi'(a) lies between 1 and 1 + a
            out[others] = 1 + np.exp(eta[others])
        return out


def make_factors(target: Target, families: Mapping[str, Family]) -> Factors:
    """Return the laws of a target's coordinates: normal but for the sites in ``families``.

    Raises
    ------
    ValueError
        For a site the model does not have, or a family that does not match its support.
    """
    known = {site.name: site for site in target.latents}
    code, offset = np.zeros(target.dim, int), np.zeros(target.dim)
    for name, family in families.items():
        if name not in known:
            raise ValueError(
                f"factors: got site '{name}', expected latent sites of the model: "
                f"{', '.join(known)}"
            )
        if family == "normal":
            continue
        if family not in SUPPORTS:
            raise ValueError(
                f"factors: got '{family}' for site '{name}', expected normal, {', '.join(SUPPORTS)}"
            )
        support = known[name].support
        if not support.lower().startswith(tuple(s.lower() for s in SUPPORTS[family])):
            raise ValueError(
                f"factors: '{family}' does not match site '{name}', whose support is {support}; "
                "use 'normal', which lives on the unconstrained scale and fits every support"
            )
        place = target.slices[name]
        code[place] = _GAMMA if family == "gamma" else _BETA
        if family == "dirichlet":
            shape = known[name].unconstrained_shape
            rest = np.log(np.arange(shape[-1], 0, -1.0))
            offset[place] = np.broadcast_to(rest, shape).ravel()
    return Factors(code, offset)


def _trigamma(x: jax.Array) -> jax.Array:
    return polygamma(1, x)
