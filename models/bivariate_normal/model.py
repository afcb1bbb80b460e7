"""A correlated bivariate normal: the target on which approximations have closed forms.

Nothing is observed. The density is that of ``x``, and mean, sds and correlation are what a model
with data has data for.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist

import vi_recipes as vr


def bivariate_normal(mean: jax.Array, sds: jax.Array, correlation: float) -> None:
    """Sample two correlated normals.

    Parameters
    ----------
    mean, sds
        Means and sds, shape (2,).
    correlation
        Between -1 and 1.
    """
    if mean.shape != (2,) or sds.shape != (2,):
        raise ValueError(
            f"mean has shape {mean.shape} and sds {sds.shape}; expected two numbers in each"
        )
    if not -1 < correlation < 1:
        raise ValueError(f"correlation={correlation}: expected a number between -1 and 1")
    # covariance = L L'
    ratio = jnp.array([[1.0, 0.0], [correlation, (1 - correlation**2) ** 0.5]])
    numpyro.sample("x", dist.MultivariateNormal(mean, scale_tril=sds[:, None] * ratio))


def data() -> dict[str, Any]:
    """Return mean (1, -1), sds (1, 1/2) and correlation 0.8."""
    return {"mean": [1.0, -1.0], "sds": [1.0, 0.5], "correlation": 0.8}


MODEL = vr.Model(
    function=bivariate_normal,
    name="bivariate_normal",
    data=data,
    parameters=("x",),
    dims={"x": ("coordinate",)},
    coords={"coordinate": [0, 1]},
    description="Two correlated normals: what each approximation makes of a known target.",
    citation=(
        "Bishop (2006), Pattern Recognition and Machine Learning, section 10.1.2; MacKay (2003), "
        "Information Theory, Inference, and Learning Algorithms, chapter 33"
    ),
)
