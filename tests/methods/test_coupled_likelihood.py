"""Marginal likelihoods whose latent variables are coupled, by dense algebra and quadrature."""

from __future__ import annotations

from itertools import product
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from crossed_for_tests import crossed_effects
from scipy.optimize import minimize
from scipy.special import expit, gammaln, logsumexp
from scipy.stats import multivariate_normal, norm

import vi_recipes as vr
from vi_recipes import MarginalMLE, Status
from vi_recipes.latent import columns, rules


def binary(y: Any, row: Any, column: Any, rows: int, columns: int) -> None:
    eta = crossed_effects(row, column, rows, columns)
    with numpyro.plate("pair", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=eta), obs=y)


def normal(y: Any, row: Any, column: Any, rows: int, columns: int) -> None:
    eta = crossed_effects(row, column, rows, columns)
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0))
    with numpyro.plate("pair", len(y)):
        numpyro.sample("y", dist.Normal(eta, sigma), obs=y)


def design(rows: int, columns: int, count: int, su: float, sv: float) -> tuple[dict, np.ndarray]:
    """Return who is paired with whom, and the true linear predictors."""
    rng = np.random.default_rng(3)
    row = np.concatenate([np.arange(rows), rng.integers(0, rows, count - rows)])
    column = np.concatenate([np.arange(columns), rng.integers(0, columns, count - columns)])
    u, v = su * rng.standard_normal(rows), sv * rng.standard_normal(columns)
    data = {"row": row, "column": column, "rows": rows, "columns": columns}
    return data, 0.3 + u[row] + v[column]


def of(model: Any, y: np.ndarray, data: dict) -> vr.Target:
    return vr.Target(vr.Model(function=model, data=lambda: {"y": y, **data}, name=model.__name__))


def binary_data() -> tuple[np.ndarray, dict]:
    data, eta = design(16, 3, 180, 1.8, 0.8)
    return (np.random.default_rng(4).random(180) < expit(eta)).astype(int), data


def by_dense_laplace(theta: np.ndarray, y: np.ndarray, data: dict) -> tuple[float, np.ndarray]:
    """Return Laplace's log p(y | mu, log su, log sv), and the covariance of effects given that."""
    rows, count = data["rows"], data["rows"] + data["columns"]
    Z = np.zeros((len(y), count))
    Z[np.arange(len(y)), data["row"]] = Z[np.arange(len(y)), rows + data["column"]] = 1
    prior = np.exp(-2 * np.where(np.arange(count) < rows, theta[1], theta[2]))
    z = np.zeros(count)
    for _ in range(50):
        p = expit(theta[0] + Z @ z)
        precision = (Z.T * (p * (1 - p))) @ Z + np.diag(prior)
        z = z + np.linalg.solve(precision, Z.T @ (y - p) - prior * z)
    eta = theta[0] + Z @ z
    value = (y * eta - np.logaddexp(0, eta)).sum() + norm.logpdf(z, 0, prior**-0.5).sum()
    value += count * np.log(2 * np.pi) / 2 - np.linalg.slogdet(precision)[1] / 2
    return float(value), np.concatenate([z[:, None], np.linalg.inv(precision)], axis=1)


def by_quadrature(theta: np.ndarray, y: np.ndarray, data: dict) -> float:
    """Return log p(y | mu, log su, log sv): a grid over three columns, nodes of every row."""
    x, w = np.polynomial.hermite_e.hermegauss(9)
    w = w / w.sum()
    nodes, inner = np.array(list(product(x, repeat=3))), np.polynomial.hermite_e.hermegauss(41)
    logs = np.log(np.array(list(product(w, repeat=3)))).sum(1)
    # the grid is centred where effects of columns are likely, by the dense curvature
    given = by_dense_laplace(theta, y, data)[1]
    mode, cov = given[16:, 0], given[16:, 17:]
    root = 1.1 * np.linalg.cholesky(cov)
    v = mode + nodes @ root.T
    logs = logs + norm.logpdf(v, 0, np.exp(theta[2])).sum(1) + (nodes**2).sum(1) / 2
    logs = logs + 1.5 * np.log(2 * np.pi) + np.log(np.diag(root)).sum()
    for r in range(data["rows"]):
        own = data["row"] == r
        eta = theta[0] + v[:, data["column"][own]]
        at = eta[:, None] + (np.exp(theta[1]) * inner[0])[None, :, None]
        terms = (y[own] * at - np.logaddexp(0, at)).sum(2)
        logs = logs + logsumexp(terms, axis=1, b=inner[1] / inner[1].sum())
    return float(logsumexp(logs))


def theta_of(mean: dict) -> np.ndarray:
    return np.array([mean["mu"], np.log(mean["su"]), np.log(mean["sv"])])


def hessian(function: Any, x: np.ndarray, step: float = 1e-3) -> np.ndarray:
    steps = step * np.eye(x.size)

    def second(a: np.ndarray, b: np.ndarray) -> float:
        corners = (function(x + s * a + t * b) * s * t for s in (1, -1) for t in (1, -1))
        return sum(corners) / (4 * step**2)

    return np.array([[second(a, b) for b in steps] for a in steps])


@pytest.fixture(scope="module")
def by_one_node() -> vr.Fit:
    y, data = binary_data()
    return MarginalMLE(num_nodes=1).fit(of(binary, y, data), key=0, throw=True)


def test_one_node_is_laplace_by_dense_matrices(by_one_node: vr.Fit) -> None:
    y, data = binary_data()
    fit, mean, sd = by_one_node, by_one_node.mean(), by_one_node.sd()

    def falls(theta: np.ndarray) -> float:
        return -by_dense_laplace(theta, y, data)[0]

    best = minimize(falls, theta_of(mean) + 0.1, method="BFGS", options={"gtol": 1e-5})
    np.testing.assert_allclose(theta_of(mean), best.x, atol=1e-4)
    assert fit.log_likelihood == pytest.approx(-best.fun, abs=1e-6)
    information = hessian(falls, best.x)
    cov = np.linalg.inv(information)
    errors = np.sqrt(np.diag(cov)) * [1.0, mean["su"], mean["sv"]]
    np.testing.assert_allclose([sd[n] for n in ("mu", "su", "sv")], errors, rtol=2e-3)
    # effects: their mode, and the variance given theta with that of theta
    given = by_dense_laplace(best.x, y, data)[1]
    slopes = np.stack(
        [
            (by_dense_laplace(best.x + s, y, data)[1] - by_dense_laplace(best.x - s, y, data)[1])
            [:, 0] / 2e-3
            for s in 1e-3 * np.eye(3)
        ],
        axis=1,
    )  # fmt: skip
    spread = np.sqrt(np.diag(given[:, 1:] + slopes @ cov @ slopes.T))
    effects = np.concatenate([mean["u"], mean["v"]])
    np.testing.assert_allclose(effects, given[:, 0], atol=1e-4)
    np.testing.assert_allclose(np.concatenate([sd["u"], sd["v"]]), spread, rtol=2e-3)
    assert "Laplace approximation (1 node) over u, v (d = 19)" in fit.message


@pytest.mark.slow
def test_what_laplace_misses_is_measured_and_taken(by_one_node: vr.Fit) -> None:
    y, data = binary_data()
    fit = MarginalMLE().fit(of(binary, y, data), key=0, throw=True)
    by_laplace = theta_of(by_one_node.mean())
    missed = by_quadrature(by_laplace, y, data) - by_one_node.log_likelihood

    def falls(theta: np.ndarray) -> float:
        return -by_quadrature(theta, y, data)

    best = minimize(falls, by_laplace + 0.1, method="BFGS", options={"gtol": 1e-3})
    errors = np.sqrt(np.diag(np.linalg.inv(hessian(falls, best.x, 1e-2))))
    moved = np.abs(best.x - by_laplace) / errors
    assert moved.max() > 0.1  # there is something to be put right
    assert by_one_node.status is Status.UNCONVERGED
    assert by_one_node.advice == "leave num_nodes at 'auto'"
    assert fit.status is Status.OK
    np.testing.assert_allclose(theta_of(fit.mean()), best.x, atol=0.05 * errors.min())
    assert fit.log_likelihood == pytest.approx(-best.fun, abs=0.05)
    assert f"Laplace's approximation alone is {missed:.1g}" in fit.message.replace(
        f"{missed:.2g}", f"{missed:.1g}"
    )
    scale = np.array([1.0, *np.exp(best.x[1:])])
    np.testing.assert_allclose([fit.sd()[n] for n in ("mu", "su", "sv")], errors * scale, rtol=0.03)


@pytest.mark.slow
def test_a_normal_model_has_the_likelihood_of_one_dense_normal() -> None:
    data, eta = design(290, 30, 640, 0.9, 0.6)
    y = eta + 0.7 * np.random.default_rng(5).standard_normal(640)
    fit = MarginalMLE().fit(of(normal, y, data), key=0, throw=True)
    assert fit.status is Status.OK
    assert "exact Gaussian integral over u, v (d = 320)" in fit.message
    same = [data[n][:, None] == data[n] for n in ("row", "column")]

    def log_likelihood(theta: np.ndarray) -> float:
        variances = np.exp(2 * theta[1:])
        cov = variances[0] * same[0] + variances[1] * same[1] + variances[2] * np.eye(640)
        return float(multivariate_normal.logpdf(y, np.full(640, theta[0]), cov))

    mean, sd = fit.mean(), fit.sd()
    theta = np.array([*theta_of(mean), np.log(mean["sigma"])])
    assert fit.log_likelihood == pytest.approx(log_likelihood(theta), abs=1e-6)
    steps = 1e-4 * np.eye(4)
    rises = [(log_likelihood(theta + s) - log_likelihood(theta - s)) / 2e-4 for s in steps]
    cov = np.linalg.inv(-hessian(log_likelihood, theta))
    assert np.sqrt(np.array(rises) @ cov @ rises) < 1e-3  # standard errors from the maximum
    errors = np.sqrt(np.diag(cov)) * [1.0, mean["su"], mean["sv"], mean["sigma"]]
    np.testing.assert_allclose([sd[n] for n in ("mu", "su", "sv", "sigma")], errors, rtol=2e-3)


def test_priors_of_parameters_are_as_the_model_names_them() -> None:
    y, data = binary_data()
    fit = MarginalMLE(objective="map", num_nodes=1).fit(of(binary, y, data), key=0, throw=True)

    def falls(theta: np.ndarray) -> float:
        sds = np.exp(theta[1:])
        prior = norm.logpdf(theta[0], 0, 2) + (np.log(2) + norm.logpdf(sds, 0, 1.5)).sum()
        return -by_dense_laplace(theta, y, data)[0] - float(prior)

    best = minimize(falls, [0.3, 0.2, -0.2], method="BFGS", options={"gtol": 1e-5})
    np.testing.assert_allclose(theta_of(fit.mean()), best.x, atol=1e-4)
    without = by_dense_laplace(best.x, y, data)[0]
    assert fit.log_likelihood == pytest.approx(without, abs=1e-4)


def test_a_family_without_effects_collapses() -> None:
    data, _ = design(16, 3, 180, 1.2, 0.0)
    y = np.random.default_rng(11).random(180) < expit(1.5 * norm.ppf((data["row"] + 1) / 17))
    fit = MarginalMLE().fit(of(binary, y.astype(int), data), key=0)
    assert fit.status is Status.COLLAPSED, fit
    assert "sv runs to" in fit.message


def steps(y: Any) -> None:
    """Counts along a random walk: a chain, and no family."""
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    z = numpyro.sample("z", dist.GaussianRandomWalk(sigma, num_steps=len(y)))
    numpyro.sample("y", dist.Poisson(jnp.exp(z)).to_event(1), obs=y)


@pytest.mark.slow
def test_counts_along_a_walk_are_by_laplace_with_its_error() -> None:
    rng = np.random.default_rng(2)
    y = rng.poisson(np.exp(np.cumsum(0.3 * rng.standard_normal(60))))
    target = vr.Target(vr.Model(function=steps, data=lambda: {"y": y}, latents=("z",), name="walk"))
    fit = MarginalMLE().fit(target, key=0, throw=True)

    def falls(theta: np.ndarray) -> float:
        prior = np.exp(-2 * theta[0]) * (2 * np.eye(60) - np.eye(60, k=1) - np.eye(60, k=-1))
        prior[-1, -1] /= 2
        z = np.log(y + 0.5)
        for _ in range(50):
            precision = prior + np.diag(np.exp(z))
            z = z + np.linalg.solve(precision, y - np.exp(z) - prior @ z)
        value = (y * z - np.exp(z) - gammaln(y + 1)).sum() - z @ prior @ z / 2
        value += (np.linalg.slogdet(prior)[1] - np.linalg.slogdet(precision)[1]) / 2
        return -float(value)

    best = minimize(falls, [np.log(0.3)], method="BFGS", options={"gtol": 1e-5})
    assert fit.mean()["sigma"] == pytest.approx(np.exp(best.x[0]), abs=2e-3 * fit.sd()["sigma"])
    assert fit.log_likelihood == pytest.approx(-best.fun, abs=1e-5)
    error = hessian(falls, best.x)[0, 0] ** -0.5 * np.exp(best.x[0])
    assert fit.sd()["sigma"] == pytest.approx(error, rel=2e-3)
    assert "weighed points say that Laplace's approximation is" in fit.message


def four_slopes(x: Any, y: Any) -> None:
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    with numpyro.plate("person", len(y)):
        b = numpyro.sample("b", dist.Normal(0.0, sigma).expand([4]).to_event(1))
        numpyro.sample("y", dist.Poisson(jnp.exp(b @ x)).to_event(1), obs=y)


@pytest.mark.slow
def test_members_of_four_dimensions_are_by_laplace_each() -> None:
    rng = np.random.default_rng(8)
    x = rng.standard_normal((4, 6))
    y = rng.poisson(np.exp(0.6 * rng.standard_normal((12, 4)) @ x))
    target = vr.Target(vr.Model(function=four_slopes, data=lambda: {"x": x, "y": y}, name="four"))
    fit = MarginalMLE(num_nodes=1).fit(target, key=0, throw=True)

    def falls(theta: np.ndarray) -> float:
        total, prior = 0.0, np.exp(-2 * theta[0])
        for row in y:
            b = np.zeros(4)
            for _ in range(60):
                mean = np.exp(b @ x)
                precision = (x * mean) @ x.T + prior * np.eye(4)
                step = np.linalg.solve(precision, x @ (row - mean) - prior * b)
                b = b + step / max(1.0, np.abs(step).max())
            total += (row * (b @ x) - np.exp(b @ x) - gammaln(row + 1)).sum() - prior * b @ b / 2
            total += 2 * np.log(prior) - np.linalg.slogdet(precision)[1] / 2
        return -float(total)

    best = minimize(falls, [-0.5], method="BFGS", options={"gtol": 1e-5})
    assert fit.log_likelihood == pytest.approx(-best.fun, abs=1e-5)
    error = hessian(falls, best.x)[0, 0] ** -0.5 * np.exp(best.x[0])
    assert fit.mean()["sigma"] == pytest.approx(np.exp(best.x[0]), abs=2e-3 * error)
    assert fit.sd()["sigma"] == pytest.approx(error, rel=2e-3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_nodes": 5}, "num_nodes can be 'auto' or 1, and is 5"),
        ({"ascent": "joint"}, "is not Gaussian given the rest"),
        ({"e_step": "gaussian"}, "the log joint is not quadratic in u, v"),
    ],
)
def test_what_is_not_to_be_had_is_refused(options: dict, says: str) -> None:
    y, data = binary_data()
    reason = MarginalMLE(**options).applies(of(binary, y, data))
    assert reason is not None
    assert says in reason


def test_effects_too_many_are_refused_with_the_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "MAX_SCATTERED", 18)
    monkeypatch.setattr(rules, "MAX_SCATTERED", 18)
    monkeypatch.setattr(rules, "MAX_WEIGHED", 10)
    y, data = binary_data()
    reason = MarginalMLE().applies(of(binary, y, data))
    assert reason is not None
    assert "it has 19 latent scalars" in reason
    assert "or 18 where all but 2,500 are effects of one family" in reason
