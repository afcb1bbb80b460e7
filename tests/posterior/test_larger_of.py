"""Moments of the larger of two scalars, whose order near the start is not that of the posterior."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import norm

import vi_recipes as vr

FAR = 1e6
"""Sds of priors that say nothing, but where searches start."""


def two_means(a: Any, b: Any, start: Any) -> None:
    """Two means, alone and in a vector, that their own observations know; and the larger ones."""
    first = numpyro.sample("first", dist.Normal(start, FAR))
    second = numpyro.sample("second", dist.Normal(0.0, FAR))
    both = numpyro.sample("both", dist.Normal(jnp.array([start, 0.0]), FAR).to_event(1))
    numpyro.deterministic("larger", jnp.maximum(first, second))
    numpyro.deterministic("largest", both.max())
    seen = jnp.stack([first, second, *both])
    sds = jnp.array([5.0, 2.0, 5.0, 2.0])
    numpyro.sample("y", dist.Normal(seen, sds).to_event(1), obs=jnp.array([a, b, a, b]))


def larger_of_two_normals(a: float, b: float) -> tuple[float, float]:
    """Return mean and sd of the larger of independent normals with sds 5 and 2 (Clark, 1961)."""
    u, v = 5.0, 2.0
    spread = np.hypot(u, v)
    away = (a - b) / spread
    mean = a * norm.cdf(away) + b * norm.cdf(-away) + spread * norm.pdf(away)
    square = (a**2 + u**2) * norm.cdf(away) + (b**2 + v**2) * norm.cdf(-away)
    square += (a + b) * spread * norm.pdf(away)
    return float(mean), float(np.sqrt(square - mean**2))


@pytest.mark.parametrize("start", [0.0, 50.0])
@pytest.mark.parametrize("method", [vr.Laplace(), vr.MeanField()], ids=lambda m: m.key)
def test_the_larger_of_two_is_that_of_the_posterior(method: vr.Method, start: float) -> None:
    fit = method.fit(vr.Target(two_means, a=20.0, b=19.0, start=start))
    mean, sd = larger_of_two_normals(20.0, 19.0)
    for name in ("larger", "largest"):
        assert fit.mean()[name] == pytest.approx(mean, abs=5 * fit.posterior.mcse_mean()[name])
        assert fit.sd()[name] == pytest.approx(sd, abs=5 * fit.posterior.mcse_sd()[name])
        assert fit.posterior.mcse_mean()[name] > 0


def test_linear_response_has_a_maximum_of_a_vector() -> None:
    fit = vr.LinearResponse().fit(vr.Target(two_means, a=20.0, b=19.0, start=50.0))
    # its covariance is that of E[max] as the means move: P(a > b) and P(b > a) of either
    share = norm.cdf(1 / np.hypot(5, 2))
    sd = np.hypot(5 * share, 2 * (1 - share))
    by_scales = norm.pdf(1 / np.hypot(5, 2)) / np.hypot(5, 2) * np.array([25, 4]) / np.sqrt(2)
    sd = np.hypot(sd, np.hypot(*by_scales))
    for name in ("larger", "largest"):
        assert fit.sd()[name] == pytest.approx(sd, abs=0.15)


def test_an_estimate_of_the_larger_has_the_error_of_the_one_that_is_larger() -> None:
    model = vr.Model(
        function=two_means, name="two", parameters=("second", "both"), latents=("first",)
    )
    target = vr.Target(model, a=10.0, b=20.0, start=50.0)
    fit = vr.MarginalMLE().fit(target)
    assert fit.mean()["largest"] == pytest.approx(20.0)
    assert fit.sd()["largest"] == pytest.approx(2.0)
