"""The ELBO of a linear regression in closed form, and estimators of its gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import Trace_ELBO, TraceMeanField_ELBO

import vi_recipes as vr
from vi_recipes.methods import ScoreELBO, StickingELBO

DIMS = (1, 3, 10, 30, 100)
"""Coefficients of the regressions in which variances are measured."""

DIM = 10
"""Coefficients of the one that is climbed, and of the study's own comparison."""

NUM_DRAWS = 10
"""Draws for one estimate of the gradient."""

NUM_ESTIMATES = 2_000
"""Estimates from which their variance is taken."""

NOTHING = 1e-12
"""A variance below this is rounding."""

ESTIMATORS: dict[str, str] = {
    "score": "score function",
    "score_control": "score function, control variate per coordinate",
    "score_baseline": "score function, leave-one-out baseline",
    "pathwise": "reparametrised",
    "pathwise_kl": "reparametrised, closed-form KL to the prior",
    "sticking": "reparametrised, sticking the landing",
}
"""Estimator -> what it is."""

Eta = dict[str, Any]
"""Parameters of q, or a gradient in them: ``mean`` and ``log_sd``, each of shape (dim,)."""


def regression(X: Any, y: Any) -> None:
    """Linear regression with known noise: the posterior is normal."""
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(X @ beta, 1.0), obs=y)


def guide(X: Any, y: Any) -> None:
    """Independent normals."""
    mean = numpyro.param("mean", jnp.zeros(X.shape[1]))
    log_sd = numpyro.param("log_sd", jnp.zeros(X.shape[1]))
    numpyro.sample("beta", dist.Normal(mean, jnp.exp(log_sd)).to_event(1))


def simulate(dim: int = DIM) -> dict[str, np.ndarray]:
    """Return four rows a coefficient, scaled so that every posterior sd is about 0.5."""
    rng = np.random.default_rng(20_140_422)
    X = rng.standard_normal((4 * dim, dim)) / np.sqrt(dim)
    return {"X": X, "y": X @ rng.standard_normal(dim) + rng.standard_normal(4 * dim)}


MODEL = vr.Model(function=regression, name="regression", data=simulate)


class Conjugate:
    """The ELBO of independent normals on a linear regression, in closed form.

    Parameters
    ----------
    data
        Arguments of :func:`regression`.
    """

    def __init__(self, data: dict[str, np.ndarray]) -> None:
        self.data = data
        X, y = data["X"], data["y"]
        self.precision = np.eye(X.shape[1]) + X.T @ X
        self.mode = np.linalg.solve(self.precision, X.T @ y)

    def start(self) -> Eta:
        """Return the prior."""
        zero = jnp.zeros(len(self.mode))
        return {"mean": zero, "log_sd": zero}

    def optimum(self) -> Eta:
        """Return the best q."""
        return {
            "mean": jnp.asarray(self.mode),
            "log_sd": jnp.asarray(-0.5 * np.log(np.diagonal(self.precision))),
        }

    def gradient(self, eta: Eta) -> np.ndarray:
        """Return the exact gradient, shape (2, dim): in the means, and in the log sds."""
        variance = np.exp(2 * np.asarray(eta["log_sd"]))
        in_mean = -self.precision @ (np.asarray(eta["mean"]) - self.mode)
        return np.stack([in_mean, 1 - np.diagonal(self.precision) * variance])

    def gap(self, eta: Eta) -> jax.Array:
        """Return how far the ELBO is below its highest value, in nats."""
        away = eta["mean"] - self.mode
        excess = jnp.asarray(np.diagonal(self.precision)) * jnp.exp(2 * eta["log_sd"])
        return 0.5 * (away @ self.precision @ away + (excess - 1 - jnp.log(excess)).sum())

    # -- estimators ------------------------------------------------------------------------------

    def log_p(self, z: Any) -> Any:
        """Return the log joint density of the model at draws, shape (num_draws,)."""
        X, y = self.data["X"], self.data["y"]
        prior = dist.Normal(0.0, 1.0).log_prob(z).sum(axis=-1)
        return prior + dist.Normal(z @ X.T, 1.0).log_prob(y).sum(axis=-1)

    def estimator(self, name: str) -> Callable[[jax.Array, Eta], Eta]:
        """Return ``(key, eta) -> gradient``, an estimate from :data:`NUM_DRAWS` draws."""
        losses = {
            "pathwise": Trace_ELBO,
            "pathwise_kl": TraceMeanField_ELBO,
            "sticking": StickingELBO,
            "score_baseline": ScoreELBO,
        }
        if name in losses:
            loss = losses[name](num_particles=NUM_DRAWS)

            def by_loss(key: jax.Array, eta: Eta) -> Eta:
                slope = jax.grad(lambda e: loss.loss(key, e, regression, guide, **self.data))(eta)
                return jax.tree.map(jnp.negative, slope)

            return by_loss
        return lambda key, eta: self._score(key, eta, controlled=name == "score_control")

    def _score(self, key: jax.Array, eta: Eta, *, controlled: bool) -> Eta:
        """Return the mean of f grad log q, with a control variate per coordinate if asked for.

        The scale of a control, a multiple of the score in its own coordinate, is that of least
        variance (Ranganath, Gerrish and Blei 2014). It comes from the other half of the draws, so
        the estimate stays unbiased.
        """
        z = _draw(key, eta)
        f = self.log_p(z) - _log_q(z, eta)
        scores = jax.vmap(jax.grad(lambda e, x: _log_q(x, e)), (None, 0))(eta, z)

        def average(h: Any) -> Any:
            gain = f[:, None]
            if controlled:
                half = NUM_DRAWS // 2
                first, second = (
                    (gain[part] * h[part] ** 2).sum(axis=0) / (h[part] ** 2).sum(axis=0)
                    for part in (slice(half), slice(half, None))
                )
                scale = jnp.where(jnp.arange(NUM_DRAWS)[:, None] < half, second, first)
                gain = gain - scale
            return (gain * h).mean(axis=0)

        return jax.tree.map(average, scores)

    # -- measurements ----------------------------------------------------------------------------

    def measure(self, name: str, seed: int) -> list[Measured]:
        """Return an estimator's variance and bias at the start and at the optimum."""
        estimate = self.estimator(name)
        keys = jax.random.split(jax.random.key(seed), NUM_ESTIMATES)
        many = jax.jit(lambda eta: jax.lax.map(lambda k: estimate(k, eta), keys, batch_size=100))
        found = []
        for eta in (self.start(), self.optimum()):
            made = many(eta)
            values = np.stack([np.asarray(made["mean"]), np.asarray(made["log_sd"])], axis=1)
            variance = values.var(axis=0, ddof=1)
            bias = values.mean(axis=0) - self.gradient(eta)
            noise = np.sqrt(np.maximum(variance, NOTHING) / len(values))
            found.append(Measured(variance.mean(axis=1), float(np.abs(bias / noise).max())))
        return found


@dataclass(frozen=True)
class Measured:
    """What was measured of an estimator.

    Parameters
    ----------
    variance
        Averages over the coordinates, in the means and in the log sds; shape (2,).
    bias
        The largest difference from the exact gradient, in standard errors.
    """

    variance: np.ndarray
    bias: float


def _draw(key: jax.Array, eta: Eta) -> Any:
    noise = jax.random.normal(key, (NUM_DRAWS, len(eta["mean"])))
    return eta["mean"] + jnp.exp(eta["log_sd"]) * noise


def _log_q(z: Any, eta: Eta) -> Any:
    return dist.Normal(eta["mean"], jnp.exp(eta["log_sd"])).log_prob(z).sum(axis=-1)
