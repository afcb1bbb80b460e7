"""Models that answer to their latents otherwise where the posterior lies than near their start."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer.util import log_density

import vi_recipes as vr

YEARS = np.arange(1851.0, 1963.0)
RISING = 0.1 * np.maximum(YEARS - 1910, 0) + np.random.default_rng(0).normal(size=YEARS.size)


def change_point(year: Any, y: Any) -> None:
    """Rise from a year on that is looked for from long before the first one."""
    level = numpyro.sample("level", dist.Normal(0.0, 0.1))
    tau = numpyro.sample("tau", dist.Normal(1700.0, 100.0))
    with numpyro.plate("rows", len(year)):
        mean = level + 0.1 * jnp.maximum(year - tau, 0)
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def larger_of_two(y: Any) -> None:
    """The mean is the larger of two scalars, which their priors have far apart."""
    a = numpyro.sample("a", dist.Normal(50.0, 30.0))
    b = numpyro.sample("b", dist.Normal(0.0, 30.0))
    numpyro.sample("seen", dist.Normal(b, 5.0), obs=20.0)
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(jnp.maximum(a, b), 5.0), obs=y)


def larger_in_a_vector(y: Any) -> None:
    """The same with both in one site."""
    x = numpyro.sample("x", dist.Normal(jnp.array([50.0, 0.0]), 30.0).to_event(1))
    numpyro.sample("seen", dist.Normal(x[1], 5.0), obs=20.0)
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(x.max(), 5.0), obs=y)


def larger_in_a_factor(y: Any) -> None:
    """The same in a term without elements."""
    x = numpyro.sample("x", dist.Normal(jnp.array([50.0, 0.0]), 30.0).to_event(1))
    numpyro.sample("seen", dist.Normal(x[1], 5.0), obs=20.0)
    numpyro.factor("y", -jnp.sum((y - x.max()) ** 2) / 50.0)


def cap(y: Any) -> None:
    """Members of a long site whose means are capped, far above the start."""
    with numpyro.plate("groups", 30):
        u = numpyro.sample("u", dist.Normal(0.0, 1000.0))
        numpyro.sample("y", dist.Normal(jnp.minimum(u, 90.0) + 0.05 * u, 5.0), obs=y)


CASES: list[tuple[Callable[..., None], dict[str, Any]]] = [
    (change_point, {"year": YEARS, "y": RISING}),
    (larger_of_two, {"y": np.array([20.0, 24.0])}),
    (larger_in_a_vector, {"y": np.array([20.0, 24.0])}),
    (larger_in_a_factor, {"y": np.array([20.0, 24.0])}),
    (cap, {"y": np.linspace(60.0, 130.0, 30)}),
]

SLOW = (larger_in_a_vector, larger_in_a_factor)  # as larger_of_two, by other routes


def drawn_elbo(
    model: Callable[..., None], data: dict[str, Any], target: vr.Target, fit: vr.Fit
) -> tuple[float, float]:
    """Return the ELBO of a fit with normal factors on the real line, by draws, and its error."""
    m, s = fit.posterior.location_scale
    noise = np.random.default_rng(1).standard_normal((20_000, m.size))
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        density = jax.jit(
            jax.vmap(lambda z: log_density(model, (), data, dict(target.unravel(z)))[0])
        )
        values = np.asarray(density(jnp.asarray(m + s * noise)))
    entropy = np.log(s).sum() + m.size * (0.5 + np.log(2 * np.pi) / 2)
    return float(values.mean() + entropy), float(values.std() / np.sqrt(len(noise)))


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=pytest.mark.slow if case[0] in SLOW else (), id=case[0].__name__)
        for case in CASES
    ],
)
def test_an_elbo_is_that_of_the_model_where_its_factors_lie(
    case: tuple[Callable[..., None], dict[str, Any]],
) -> None:
    model, data = case
    assert set(inspect.signature(model).parameters) == set(data)
    target = vr.Target(model, **data)
    fit = vr.MeanField().fit(target)
    if not fit.status.ok:  # kinks take more nodes than there are
        assert fit.status is vr.Status.UNCONVERGED
        return
    assert fit.log_evidence is not None
    elbo, error = drawn_elbo(model, data, target, fit)
    assert fit.log_evidence.value == pytest.approx(elbo, abs=4 * error + 4 * fit.log_evidence.se)
