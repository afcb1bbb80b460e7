"""log p(y) by quadrature, against closed forms and NumPy's sums on fine grids."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import case, target
from scipy import stats
from scipy.special import logsumexp

import vi_recipes as vr
from vi_recipes.core.status import MethodFailure
from vi_recipes.importance.bounds import Bound
from vi_recipes.trust.quadrature import quadrature


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "linear_regression",
        "normal_precision",
        "simplex",
        "ordered",
        "dynamic_support",
        "eight_schools",
        "nested_plates",
    ],
)
def test_the_evidence_is_right_within_its_error(name: str) -> None:
    """Skewed, bounded and heavy-tailed densities; the last two with latent variables out.

    Some of the answers come from grids themselves, which are good to 1e-5.
    """
    found = quadrature(target(name))
    assert found.bound is Bound.EXACT
    assert found.kind.startswith("exact (quadrature over ")
    assert found.se < 1e-3
    assert case(name).log_evidence == pytest.approx(found.value, abs=found.se + 1e-5)


def counts(y: jax.Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    with numpyro.plate("group", len(y)):
        u = numpyro.sample("u", dist.Normal(mu, sigma))
        numpyro.sample("y", dist.Poisson(jnp.exp(u)), obs=y)


@pytest.mark.slow
def test_latent_variables_by_an_inner_quadrature() -> None:
    y = np.array([0, 3, 1, 7, 2, 0])
    found = quadrature(vr.Target(counts, y=y), num_nodes=9)
    assert "mu, sigma; adaptive Gauss-Hermite quadrature, 9 nodes over u" in found.kind
    mu, s = np.linspace(-5, 5, 61), np.linspace(-9, 2, 67)
    x = np.linspace(-8, 8, 101)
    u = mu[:, None, None] + np.exp(s)[:, None] * x  # (mu, s, x)
    inner = [stats.poisson.logpmf(k, np.exp(u)) + stats.norm.logpdf(x) for k in y]
    log_p = sum(logsumexp(v, axis=-1) + np.log(x[1] - x[0]) for v in inner)
    log_p = log_p + stats.norm.logpdf(mu)[:, None] + stats.halfnorm.logpdf(np.exp(s)) + s
    exact = logsumexp(log_p) + np.log((mu[1] - mu[0]) * (s[1] - s[0]))
    # the grid's end at s = -9 leaves out about 1e-4 of sigma
    assert found.value == pytest.approx(exact, abs=found.se + 1e-4)


def test_discrete_latent_variables_are_summed_out() -> None:
    pytest.importorskip("funsor")

    def model(y: jax.Array) -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
        with numpyro.plate("row", len(y)):
            z = numpyro.sample("z", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
            numpyro.sample("y", dist.Normal(mu + 2.0 * z, 1.0), obs=y)

    y = np.array([0.1, 1.7, 2.2, -0.4])
    found = quadrature(vr.Target(model, y=y))
    mu = np.linspace(-12, 12, 4_001)
    row = np.logaddexp(
        np.log(0.7) + stats.norm.logpdf(y, mu[:, None]),
        np.log(0.3) + stats.norm.logpdf(y, mu[:, None] + 2),
    )
    exact = logsumexp(row.sum(axis=1) + stats.norm.logpdf(mu, 0, 2)) + np.log(mu[1] - mu[0])
    assert found.value == pytest.approx(exact, abs=found.se)


def flat() -> None:
    numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), (1,)))
    numpyro.factor("none", 0.0)


def slow_tail() -> None:
    numpyro.sample("x", dist.Cauchy(0.0, 1.0))


def many(X: Any, y: Any) -> None:
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([6]).to_event(1))
    numpyro.sample("y", dist.Normal(X @ beta, 1.0).to_event(1), obs=y)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: target("mixture"), "components are exchangeable"),
        (lambda: vr.Target(slow_tail), "lattices over x differ by 0."),
        (lambda: vr.Target(flat), "the search for a mode of the density over x ended"),
        (
            lambda: vr.Target(many, X=np.eye(6), y=np.zeros(6)),
            "6 coordinates are left when latent variables are integrated out",
        ),
    ],
)
def test_what_cannot_be_had_is_said(make: Any, match: str) -> None:
    with pytest.raises(MethodFailure, match=match) as caught:
        quadrature(make())
    assert caught.value.status is vr.Status.NOT_APPLICABLE


def test_bad_nodes() -> None:
    with pytest.raises(ValueError, match="num_nodes: got 4, expected an integer above 4"):
        quadrature(target("simplex"), num_nodes=4)


def test_a_density_that_is_flat_is_refused_in_words() -> None:
    """It ended in a LinAlgError of NumPy's."""

    def model() -> None:
        scale = numpyro.sample("scale", dist.ImproperUniform(dist.constraints.positive, (), ()))
        numpyro.factor("flat", -jnp.log(scale))

    with pytest.raises(vr.MethodFailure, match=r"over scale has no covariance .* improper"):
        vr.quadrature(vr.Target(model))
