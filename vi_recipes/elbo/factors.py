"""Factors of a mean-field approximation: one law per coordinate of the unconstrained vector.

Every law has two parameters, kept unconstrained in an array of shape (dim, 2):

=========  ==========================================  ======================
name       law of the coordinate z                     parameters
=========  ==========================================  ======================
normal     z ~ Normal(m, s)                            m, log s
gamma      exp(z) ~ Gamma(a, b), b a rate              log a, log b
beta       sigmoid(z) ~ Beta(a, b)                     log a, log b
dirichlet  independent Beta laws of the sticks         log a, log b, per stick
point      all mass at m                               m, and one without effect
=========  ==========================================  ======================

The fourth is the generalised Dirichlet law, which contains the Dirichlet. A point has no entropy: a
parameter with all mass at one value is estimated, as in EM. Its second parameter is held at 0.

References
----------
Connor, R. J. and Mosimann, J. E. (1969). Concepts of independence for proportions with a
generalization of the Dirichlet distribution. JASA 64(325). doi:10.1080/01621459.1969.10500963
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special as special
from jax.scipy.special import betaln, digamma, gammaln
from jaxtyping import Array, Bool, Float, Int

from vi_recipes.model import Site, Target

FactorFamily = Literal["normal", "gamma", "beta", "dirichlet", "point"]
SUPPORTS: dict[str, tuple[str, ...]] = {
    "gamma": ("Positive",),
    "beta": ("UnitInterval", "Interval", "OpenInterval"),
    "dirichlet": ("Simplex",),
}
"""Family -> supports that it matches, as the sites name them."""

NORMAL, GAMMA, BETA, POINT = range(4)
"""The codes of the laws."""

POINT_SD = 1e-8
"""What stands for no spread, where a spread is divided by."""

Eta = Float[Array, "dim 2"]
"""Both parameters of every coordinate's law."""

Vector = Float[Array, " dim"]
"""One number for every coordinate."""

_LOG_2PI = float(np.log(2 * np.pi))


@dataclass(frozen=True)
class Factors:
    """The laws of all coordinates.

    Parameters
    ----------
    code
        Law of each coordinate, shape (dim,): 0 normal, 1 log-gamma, 2 logit-beta, 3 point.
    offset
        What is added to a logit-beta coordinate: sticks are measured from even shares.
    """

    code: Int[np.ndarray, " dim"]
    offset: Float[np.ndarray, " dim"]

    @property
    def kinds(self) -> tuple[int, ...]:
        """The laws that occur."""
        return tuple(int(k) for k in np.unique(self.code))

    @property
    def points(self) -> Bool[np.ndarray, " dim"]:
        """Which coordinates have all their mass at one value, shape (dim,)."""
        return np.asarray(self.code == POINT)

    @property
    def gaussian(self) -> Bool[np.ndarray, " dim"]:
        """Which coordinates are m + s x with x standard normal, be s zero, shape (dim,)."""
        return np.asarray((self.code == NORMAL) | (self.code == POINT))

    def start(
        self, z: Float[np.ndarray, " dim"], sd: float | Float[np.ndarray, " dim"]
    ) -> Float[np.ndarray, "dim 2"]:
        """Return parameters, shape (dim, 2), whose laws are centred at ``z`` with given sds."""
        sd = np.broadcast_to(sd, z.shape)
        eta = np.stack([z, np.log(sd)], axis=1)
        eta[self.points, 1] = 0.0
        gamma, beta = self.code == GAMMA, self.code == BETA
        eta[gamma, 0] = -2 * np.log(sd[gamma])
        eta[gamma, 1] = -2 * np.log(sd[gamma]) - z[gamma]
        share = 1 / (1 + np.exp(-np.clip(z[beta] - self.offset[beta], -4, 4)))
        # the variance of a logit-beta is about 1 / (n share (1 - share))
        size = 1 / (sd[beta] ** 2 * share * (1 - share))
        eta[beta] = np.log(np.stack([size * share, size * (1 - share)], axis=1))
        return eta

    def _rows(self, law: int) -> Int[np.ndarray, " rows"]:
        return np.flatnonzero(self.code == law)

    def _spread(self, eta: Eta) -> Vector:
        if POINT not in self.kinds:
            return jnp.exp(eta[:, 1])
        return jnp.where(self.points, POINT_SD, jnp.exp(eta[:, 1]))

    def location_scale(
        self, eta: Float[np.ndarray, "dim 2"]
    ) -> tuple[Float[np.ndarray, " dim"], Float[np.ndarray, " dim"]]:
        """Return mean and sd of every coordinate, shapes (dim,): by NumPy, nothing is compiled."""
        m = np.array(eta[:, 0])
        s = np.where(self.points, POINT_SD, np.exp(eta[:, 1]))
        others = ~self.gaussian
        if others.any():
            a, b = np.exp(eta[others]).T
            beta = self.code[others] == BETA
            rate = np.where(beta, special.digamma(b) - self.offset[others], eta[others, 1])
            m[others] = special.digamma(a) - rate
            s[others] = np.sqrt(special.polygamma(1, a) + beta * special.polygamma(1, b))
        return m, s

    def location_scale_slopes(
        self, eta: Float[np.ndarray, "dim 2"]
    ) -> Float[np.ndarray, "dim 2 2"]:
        """Return the derivatives of each coordinate's (mean, log sd) in its two parameters."""
        out = np.tile(np.eye(2), (len(eta), 1, 1))
        out[self.points, 1, 1] = 0.0
        others = ~self.gaussian
        if others.any():
            a, b = np.exp(eta[others]).T
            beta = self.code[others] == BETA
            twice = 2 * (special.polygamma(1, a) + beta * special.polygamma(1, b))
            out[others, 0, 0] = a * special.polygamma(1, a)
            out[others, 0, 1] = np.where(beta, -b * special.polygamma(1, b), -1.0)
            out[others, 1, 0] = a * special.polygamma(2, a) / twice
            out[others, 1, 1] = beta * b * special.polygamma(2, b) / twice
        return out

    def placement(self, eta: Eta) -> tuple[Vector, Vector]:
        """Return centre and spread of the nodes of every coordinate, shapes (dim,).

        For normal laws their mean and sd; for the others close to them, by elementary functions,
        whose derivatives are quick to compile: the weights make up for the difference.
        """
        m, s = eta[:, 0], self._spread(eta)
        if GAMMA in self.kinds:
            rows = self._rows(GAMMA)
            centre, variance = _near_log_gamma(jnp.exp(eta[rows, 0]))
            m = m.at[rows].set(centre - eta[rows, 1])
            s = s.at[rows].set(jnp.sqrt(variance))
        if BETA in self.kinds:
            rows = self._rows(BETA)
            first, spread_a = _near_log_gamma(jnp.exp(eta[rows, 0]))
            second, spread_b = _near_log_gamma(jnp.exp(eta[rows, 1]))
            m = m.at[rows].set(first - second + self.offset[rows])
            s = s.at[rows].set(jnp.sqrt(spread_a + spread_b))
        return m, s

    def entropy(self, eta: Eta) -> Float[Array, ""]:
        """Return the total entropy over the unconstrained scale."""
        total = jnp.sum(eta[self._rows(NORMAL), 1] + 0.5 + _LOG_2PI / 2)
        # what a point leaves without effect is held at 0, so that the optimum is one
        total -= jnp.sum(eta[self._rows(POINT), 1] ** 2) / 2
        if GAMMA in self.kinds:
            a = jnp.exp(eta[self._rows(GAMMA), 0])
            total += jnp.sum(a + gammaln(a) - a * digamma(a))
        if BETA in self.kinds:
            rows = self._rows(BETA)
            a, b = jnp.exp(eta[rows, 0]), jnp.exp(eta[rows, 1])
            mixed = (a + b) * digamma(a + b) - a * digamma(a) - b * digamma(b)
            total += jnp.sum(betaln(a, b) + mixed)
        return total

    def log_density(self, eta: Eta, z: Vector) -> Vector:
        """Return the log density of every coordinate at ``z``, shape (dim,)."""
        p, q = eta[:, 0], eta[:, 1]
        value = -(((z - p) * jnp.exp(-q)) ** 2) / 2 - q - _LOG_2PI / 2
        if GAMMA in self.kinds:
            rows = self._rows(GAMMA)
            a, log_b, x = jnp.exp(p[rows]), q[rows], z[rows]
            value = value.at[rows].set(a * (log_b + x) - jnp.exp(log_b + x) - gammaln(a))
        if BETA in self.kinds:
            rows = self._rows(BETA)
            a, b, x = jnp.exp(p[rows]), jnp.exp(q[rows]), z[rows] - self.offset[rows]
            sides = a * jax.nn.log_sigmoid(x) + b * jax.nn.log_sigmoid(-x)
            value = value.at[rows].set(sides - betaln(a, b))
        return value

    def place(self, eta: Eta, x: Vector) -> tuple[Vector, Vector]:
        """Return points z, shape (dim,), and log weights, for standard-normal nodes or draws x.

        For normal laws z = m + s x and the log weight is 0; for the others the weight is the law's
        density over that of the normal law that places the nodes.
        """
        m, s = self.placement(eta)
        z = m + s * x
        if self.gaussian.all():
            return z, jnp.zeros_like(m)
        reference = -(x**2) / 2 - jnp.log(s) - _LOG_2PI / 2
        weight = self.log_density(eta, z) - reference
        return z, jnp.where(self.gaussian, 0.0, weight)

    def metric(self, eta: Float[np.ndarray, "dim 2"]) -> Float[np.ndarray, "dim 2"]:
        """Return the diagonal of the laws' Fisher information, shape (dim, 2).

        The step lengths of the optimiser are measured by it.
        """
        out = np.stack([np.exp(-2 * eta[:, 1]), np.full(len(eta), 2.0)], axis=1)
        out[self.points] = 1.0
        others = ~self.gaussian
        if others.any():
            a, b = np.exp(eta[others]).T
            is_gamma = self.code[others] == GAMMA
            both = np.where(is_gamma, 0.0, special.polygamma(1, a + b))
            out[others, 0] = a**2 * (special.polygamma(1, a) - both)
            out[others, 1] = np.where(is_gamma, a, b**2 * (special.polygamma(1, b) - both))
        return out


def make_factors(target: Target, families: Mapping[str, str]) -> Factors:
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
        if family == "point":
            code[target.slices[name]] = POINT
            continue
        if family not in SUPPORTS:
            raise ValueError(
                f"factors: got '{family}' for site '{name}', expected normal, point, "
                f"{', '.join(SUPPORTS)}"
            )
        check_support(known[name], family, "factors")
        place = target.slices[name]
        code[place] = GAMMA if family == "gamma" else BETA
        if family == "dirichlet":
            shape = known[name].unconstrained_shape
            rest = np.log(np.arange(shape[-1], 0, -1.0))
            offset[place] = np.broadcast_to(rest, shape).ravel()
    return Factors(code, offset)


def check_support(site: Site, family: str, argument: str) -> None:
    """Raise a :class:`ValueError` that names the argument unless the site's support fits."""
    kind = re.match(r"(?:IndependentConstraint\(_?)*(\w+)", site.support)
    if kind is None or kind[1] not in SUPPORTS[family]:
        raise ValueError(
            f"{argument}: '{family}' does not match site '{site.name}', whose support is "
            f"{site.support}; use 'normal', which lives on the unconstrained scale and fits every "
            "support"
        )


def _near_log_gamma(
    a: Float[Array, " rows"],
) -> tuple[Float[Array, " rows"], Float[Array, " rows"]]:
    """Return about digamma(a) and trigamma(a), by one step of their recurrence."""
    return jnp.log(a + 0.5) - 1 / a, 1 / a**2 + 1 / (a + 0.5)
