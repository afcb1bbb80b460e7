"""Draws with their densities, against SciPy and against the ELBO of the fits that they are from."""

from __future__ import annotations

from fractions import Fraction
from operator import mul
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import vi_recipes as vr
from vi_recipes.algebra import dense_student, log_normal
from vi_recipes.posterior.gaussian import GaussianPosterior


def small(y: Any) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    tau = numpyro.sample("tau", dist.Gamma(2.0, 2.0))
    with numpyro.plate("row", len(y)):
        u = numpyro.sample("u", dist.Normal(mu, tau**-0.5))
        numpyro.sample("y", dist.Normal(u, 1.0), obs=y)


@pytest.fixture(scope="module")
def target() -> vr.Target:
    return vr.Target(small, y=np.array([0.5, -0.3, 2.0, 1.2]))


@pytest.mark.parametrize("kind", ["diagonal", "low rank", "dense"])
def test_a_gaussian_has_scipys_density(target: vr.Target, kind: str) -> None:
    rng = np.random.default_rng(0)
    loc, dim = rng.normal(size=target.dim), target.dim
    root = {"diagonal": None, "low rank": rng.normal(size=(dim, 2)), "dense": np.eye(dim)}[kind]
    if kind == "dense":
        root = np.linalg.cholesky(np.cov(rng.normal(size=(dim, 20))))
    diagonal = np.zeros(dim) if kind == "dense" else rng.uniform(0.5, 1.5, dim)
    posterior = GaussianPosterior(target, loc, root, diagonal)
    drawn = posterior.weighed_draws(50, jax.random.key(0))
    assert drawn is not None
    cov = np.diag(diagonal**2) + (0 if root is None else root @ root.T)
    expected = stats.multivariate_normal(loc, cov).logpdf(drawn.z)
    np.testing.assert_allclose(drawn.log_q, expected, rtol=1e-9)
    np.testing.assert_array_equal(drawn.values["mu"], target.constrain(drawn.z)["mu"])


def test_a_long_root_of_low_rank_loses_no_digits() -> None:
    """Against fractions, which are exact: along the root the normal is a million times as wide."""
    rng = np.random.default_rng(2)
    loc, diagonal = rng.normal(size=5), rng.uniform(0.5, 2.0, 5)
    root = 1e6 * rng.normal(size=(5, 2))
    z = loc + root @ rng.normal(size=2) + diagonal * rng.normal(size=5)
    long = [[Fraction(v) for v in row] for row in root.tolist()]
    rows = [[sum(map(mul, one, other), Fraction(0)) for other in long] for one in long]
    away = [Fraction(x) - Fraction(m) for x, m in zip(z.tolist(), loc.tolist(), strict=True)]
    for k, sd in enumerate(diagonal.tolist()):
        rows[k][k] += Fraction(sd) ** 2
    square, det, left = Fraction(0), Fraction(1), list(away)
    for k in range(5):  # Gauss: of what is left, a pivot's share of the quadratic form
        square += left[k] ** 2 / rows[k][k]
        det *= rows[k][k]
        for i in range(k + 1, 5):
            factor = rows[i][k] / rows[k][k]
            rows[i] = [a - factor * b for a, b in zip(rows[i], rows[k], strict=True)]
            left[i] -= factor * left[k]
    expected = -(float(square) + np.log(float(det)) + 5 * np.log(2 * np.pi)) / 2
    (found,) = log_normal(z[None], loc, root, diagonal)
    assert found == pytest.approx(expected, abs=1e-8)  # 1e-4 where squares are subtracted


@pytest.mark.parametrize("half_normal", [False, True])
def test_draws_of_a_multivariate_t_have_scipys_density_and_its_covariance(
    *, half_normal: bool
) -> None:
    rng = np.random.default_rng(1)
    loc, root = rng.normal(size=3), np.linalg.cholesky(np.cov(rng.normal(size=(3, 20))))
    key = jax.random.key(0)
    z, log_q = dense_student(5.0, loc, root, 200_000, key, half_normal=half_normal)
    student = stats.multivariate_t(loc, root @ root.T, df=5.0)
    normal = stats.multivariate_normal(loc, root @ root.T)
    some = np.r_[:100, 199_900:200_000]  # of both
    law = student.pdf(z[some])
    if half_normal:
        law = (law + normal.pdf(z[some])) / 2
        assert (normal.logpdf(z) - log_q <= np.log(2) + 1e-9).all()
    np.testing.assert_allclose(log_q[some], np.log(law), rtol=1e-9)
    cov = root @ root.T * ((5 / 3 + 1) / 2 if half_normal else 5 / 3)
    scale = np.sqrt(np.diag(cov))
    # the t's kurtosis is 9, so the sd of a squared standardised draw is below 4
    assert np.abs((np.cov(z.T) - cov) / np.outer(scale, scale)).max() < 5 * 4 / np.sqrt(200_000)
    assert (np.abs(z.mean(axis=0) - loc) < 5 * scale / np.sqrt(200_000)).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        vr.MeanField(),
        vr.MeanField(factors={"tau": "gamma"}),
        vr.SVI(guide="iaf", num_steps=300),
        vr.SVI(guide={"tau": "gamma", "u": "multivariate_normal"}, num_steps=300),
        vr.SVI(guide={"u": "conditional_normal"}, num_steps=300),
    ],
    ids=lambda method: f"{method.name}",
)
def test_the_mean_log_weight_is_the_elbo(target: vr.Target, method: vr.Method) -> None:
    fit = method.fit(target, key=1)
    assert fit.posterior is not None
    assert fit.log_evidence is not None
    drawn = fit.posterior.weighed_draws(1_500, jax.random.key(5))
    assert drawn is not None
    ratios = target.log_densities(drawn.z) - drawn.log_q
    error = np.hypot(ratios.std(ddof=1) / np.sqrt(ratios.size), fit.log_evidence.se)
    assert abs(ratios.mean() - fit.log_evidence.value) < 4 * error


@pytest.mark.slow
def test_laplace_and_linear_response_have_normal_densities(target: vr.Target) -> None:
    """Of a sample as large as this one the moments are known well enough to tell normals apart."""
    for method in (vr.Laplace(), vr.LinearResponse()):
        posterior = method.fit(target, throw=True).posterior
        assert posterior is not None
        drawn = posterior.weighed_draws(20_000, jax.random.key(2))
        assert drawn is not None
        law = stats.multivariate_normal(drawn.z.mean(axis=0), np.cov(drawn.z.T))
        away = drawn.log_q - law.logpdf(drawn.z)
        # the sample's own normal fits it better, by p / 2n on average for p = 27 moments, and the
        # differences of single draws have an sd of about sqrt(2 p / n) = 0.05
        assert -0.005 < away.mean() < 0
        assert away.std() < 0.1


@pytest.mark.slow
def test_points_and_chains_have_no_density(target: vr.Target) -> None:
    point = vr.MAP(space="unconstrained").fit(target).posterior
    chains = vr.NUTS(num_warmup=50, num_samples=50, num_chains=1).fit(target).posterior
    for posterior in (point, chains):
        assert posterior is not None
        assert posterior.weighed_draws(10, jax.random.key(0)) is None


def test_densities_of_rows(target: vr.Target) -> None:
    z = np.random.default_rng(1).normal(size=(300, target.dim))
    z[7] = np.nan
    found = target.log_densities(z)
    assert found[7] == -np.inf
    np.testing.assert_allclose(found[5], target.log_density(z[5]), rtol=1e-12)
