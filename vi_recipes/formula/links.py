"""Links: how the mean follows from the linear predictor, as NumPyro source and as a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import logit, ndtri


@dataclass(frozen=True)
class Link:
    """A link function.

    Parameters
    ----------
    mean
        Source of the mean, of ``eta``.
    forward
        The linear predictor at a mean.
    logits
        Source of the log odds of the mean, where it is a probability; the mean's own would lose
        digits near 0 and 1.
    """

    mean: str
    forward: Callable[[np.ndarray], np.ndarray]
    logits: str = ""


LINKS = {
    "identity": Link("eta", lambda mu: mu),
    "log": Link("jnp.exp(eta)", np.log),
    "logit": Link("jax.nn.sigmoid(eta)", logit, "eta"),
    "probit": Link("norm.cdf(eta)", ndtri, "norm.logcdf(eta) - norm.logcdf(-eta)"),
    "cloglog": Link(
        "-jnp.expm1(-jnp.exp(eta))",
        lambda mu: np.log(-np.log1p(-mu)),
        "jnp.exp(eta) + jnp.log(-jnp.expm1(-jnp.exp(eta)))",
    ),
    "inverse": Link("1.0 / eta", lambda mu: 1.0 / mu),
}
