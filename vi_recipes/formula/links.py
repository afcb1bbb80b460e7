"""Links: how the mean follows from the linear predictor, as NumPyro source and as a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit, ndtr, ndtri


@dataclass(frozen=True)
class Link:
    """A link function.

    Parameters
    ----------
    mean
        Source of the mean, of ``eta``.
    forward
        The linear predictor at a mean.
    inverse
        The mean, as a function.
    logits
        Source of the log odds of the mean, where it is a probability; the mean's own would lose
        digits near 0 and 1.
    """

    mean: str
    forward: Callable[[np.ndarray], np.ndarray]
    inverse: Callable[[np.ndarray], np.ndarray]
    logits: str = ""


LINKS = {
    "identity": Link("eta", lambda mu: mu, lambda eta: eta),
    "log": Link("jnp.exp(eta)", np.log, np.exp),
    "logit": Link("jax.nn.sigmoid(eta)", logit, expit, "eta"),
    "probit": Link("norm.cdf(eta)", ndtri, ndtr, "norm.logcdf(eta) - norm.logcdf(-eta)"),
    "cloglog": Link(
        "-jnp.expm1(-jnp.exp(eta))",
        lambda mu: np.log(-np.log1p(-mu)),
        lambda eta: -np.expm1(-np.exp(np.minimum(eta, 700.0))),
        "jnp.exp(eta) + jnp.log(-jnp.expm1(-jnp.exp(eta)))",
    ),
    "inverse": Link("1.0 / eta", lambda mu: 1.0 / mu, lambda eta: 1.0 / eta),
}
