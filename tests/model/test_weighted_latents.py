"""Densities of latent sites under scales and masks: the Jacobian has no weight."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from scipy.integrate import quad
from scipy.stats import gamma, norm

import vi_recipes as vr

Y = np.array([0.3, -1.2, 2.1, 0.4])


def scaled(y: Any) -> None:
    with handlers.scale(scale=0.5):
        tau = numpyro.sample("tau", dist.Gamma(2.0, 2.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(0.0, 1 / jnp.sqrt(tau)), obs=y)


def masked(y: Any) -> None:
    with handlers.mask(mask=False):
        tau = numpyro.sample("tau", dist.Gamma(2.0, 2.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(0.0, 1 / jnp.sqrt(tau)), obs=y)


def in_a_plate(y: Any) -> None:
    weight = jnp.array([0.5, 3.0, 0.0, 1.0])
    with numpyro.plate("row", len(y)), handlers.scale(scale=weight):
        tau = numpyro.sample("tau", dist.Gamma(2.0, 2.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(0.0, 1 / jnp.sqrt(tau)), obs=y)


def masked_in_a_plate(y: Any) -> None:
    with numpyro.plate("row", len(y)), handlers.mask(mask=jnp.array([True, False, True, False])):
        tau = numpyro.sample("tau", dist.Gamma(2.0, 2.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(0.0, 1 / jnp.sqrt(tau)), obs=y)


def beside_states(y: Any) -> None:
    with handlers.scale(scale=0.5):
        tau = numpyro.sample("tau", dist.Gamma(2.0, 2.0))
    with numpyro.plate("row", len(y)):
        k = numpyro.sample("k", dist.Bernoulli(0.3))
        numpyro.sample("y", dist.Normal(3.0 * k, 1 / jnp.sqrt(tau)), obs=y)


def of_rows(tau: np.ndarray) -> float:
    return float(norm.logpdf(Y, 0, 1 / np.sqrt(tau)).sum())


def of_states(tau: np.ndarray) -> float:
    parts = [norm.pdf(Y, 3 * k, 1 / np.sqrt(tau)) * p for k, p in enumerate((0.7, 0.3))]
    return float(np.log(sum(parts)).sum())


CASES: list[tuple[Callable[..., None], np.ndarray, Callable[..., float]]] = [
    (scaled, np.array(0.5), of_rows),
    (masked, np.array(0.0), of_rows),
    (in_a_plate, np.array([0.5, 3.0, 0.0, 1.0]), of_rows),
    (masked_in_a_plate, np.array([1.0, 0.0, 1.0, 0.0]), of_rows),
    (beside_states, np.array(0.5), of_states),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0].__name__)
def test_a_weight_is_of_the_density_and_not_of_the_jacobian(
    case: tuple[Callable[..., None], np.ndarray, Callable[..., float]],
) -> None:
    model, weight, likelihood = case
    target = vr.Target(model, y=Y)
    z = np.linspace(-0.4, 0.7, target.dim)
    tau = np.exp(z)
    density = (weight * gamma.logpdf(tau, 2, scale=0.5)).sum() + likelihood(tau)
    assert target.log_density(z, jacobian=False) == pytest.approx(density)
    assert target.log_density(z) == pytest.approx(density + z.sum())


@pytest.mark.parametrize(
    "method", [vr.Laplace(), vr.MeanField(factors={"tau": "gamma"}), vr.NUTS()], ids=lambda m: m.key
)
def test_all_methods_have_one_posterior_where_a_prior_is_weighted(method: vr.Method) -> None:
    def density(tau: float) -> float:
        return float(np.exp(0.5 * gamma.logpdf(tau, 2, scale=0.5) + of_rows(np.asarray(tau))))

    size = quad(density, 0, 20)[0]
    mean = quad(lambda tau: tau * density(tau), 0, 20)[0] / size
    fit = method.fit(vr.Target(scaled, y=Y))
    error = 5 * fit.posterior.mcse_mean()["tau"]
    slack = (
        0.15 if isinstance(method, vr.Laplace) else 5e-3
    )  # a Laplace mean is no exact one, and nodes are few
    assert fit.mean()["tau"] == pytest.approx(mean, abs=error + slack)
