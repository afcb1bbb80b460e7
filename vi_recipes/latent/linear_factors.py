"""Closed-form EM of measurements that are linear in a few normal factors, plus noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Float


class FactorMoments(NamedTuple):
    """Expected sufficient statistics of :class:`LinearFactors`, per row.

    Parameters
    ----------
    cross
        E[(y - mu) z'], shape (D, k).
    scores
        E[z z'], shape (k, k).
    """

    cross: Float[Array, "D k"]
    scores: Float[Array, "k k"]


@dataclass(frozen=True)
class LinearFactors:
    """Rows y_n ~ Normal(mu + W z_n, diag(psi)) with scores z_n ~ Normal(0, I).

    What the EM steps of factor analysis and of probabilistic principal components share. The mean
    is at its maximum, the mean of the rows, so that their covariance is all that EM needs of them.

    Parameters
    ----------
    W
        Loadings, shape (D, k).
    psi
        Variances of the noise, shape (D,).

    References
    ----------
    Rubin, D. B. and Thayer, D. T. (1982). EM algorithms for ML factor analysis. Psychometrika 47,
    69-76, doi:10.1007/BF02293851.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import vi_recipes as vr
    >>> rows = vr.LinearFactors.summary(jnp.array([[1.0, 2.0], [2.0, 4.5], [4.0, 8.5]]))
    >>> factors = vr.LinearFactors(jnp.array([[1.0], [2.0]]), jnp.array([0.5, 0.5]))
    >>> moments, before = factors.e_step(rows["num_rows"], rows["covariance"])
    >>> better = vr.LinearFactors.m_step(moments, rows["covariance"])
    >>> bool(better.e_step(rows["num_rows"], rows["covariance"])[1] > before)
    True
    """

    W: Float[Array | np.ndarray, "D k"]
    psi: Float[Array | np.ndarray, " D"]

    @staticmethod
    def summary(y: Float[Array | np.ndarray, "rows D"], **_: Any) -> dict[str, Array]:
        """Return what EM needs of the rows: ``num_rows``, ``mean`` and ``covariance``.

        The covariance has n in the denominator.
        """
        y = jnp.asarray(y)
        mean = y.mean(axis=0)
        centred = y - mean
        return {
            "num_rows": jnp.asarray(float(len(y))),
            "mean": mean,
            "covariance": centred.T @ centred / len(y),
        }

    def e_step(
        self, num_rows: Any, covariance: Float[Array | np.ndarray, "D D"]
    ) -> tuple[FactorMoments, Float[Array, ""]]:
        """Return the expected moments of the scores, and the log-likelihood of all rows."""
        W, psi = jnp.asarray(self.W), jnp.asarray(self.psi)
        D, k = W.shape
        weighted = W / psi[:, None]
        inner = jnp.eye(k) + W.T @ weighted
        factor = jnp.linalg.cholesky(inner)
        beta = cho_solve((factor, True), weighted.T)  # E[z | y] = beta (y - mu)
        cross = jnp.asarray(covariance) @ beta.T
        scores = jnp.eye(k) - beta @ W + beta @ cross
        # Woodbury's identity: no D x D matrix is inverted
        log_det = jnp.log(psi).sum() + 2 * jnp.log(jnp.diagonal(factor)).sum()
        trace = (jnp.diagonal(covariance) / psi).sum() - (weighted * cross).sum()
        log_likelihood = -num_rows / 2 * (D * jnp.log(2 * jnp.pi) + log_det + trace)
        return FactorMoments(cross, scores), log_likelihood

    @classmethod
    def m_step(
        cls, stats: FactorMoments, covariance: Float[Array | np.ndarray, "D D"]
    ) -> LinearFactors:
        """Return the maximiser of the expected complete-data log-likelihood.

        Where the variances are to be one, that of the noise is the mean of ``psi``.
        """
        W = jnp.linalg.solve(stats.scores, stats.cross.T).T
        psi = jnp.diagonal(covariance) - (W * stats.cross).sum(axis=1)
        return cls(W, psi)

    def lower_triangular(self) -> LinearFactors:
        """Return the factors rotated so that W's first rows are lower triangular.

        Their diagonal is positive. The likelihood is the same.
        """
        W, k = jnp.asarray(self.W), self.W.shape[1]
        W = W @ jnp.linalg.qr(W[:k].T)[0]
        W = W * jnp.where(jnp.diagonal(W) < 0, -1.0, 1.0)
        return LinearFactors(W, self.psi)

    def covariance(self) -> Float[Array, "D D"]:
        """Return the covariance of a row, W W' + diag(psi)."""
        W = jnp.asarray(self.W)
        return W @ W.T + jnp.diag(jnp.asarray(self.psi))
