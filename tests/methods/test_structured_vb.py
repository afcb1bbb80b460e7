"""Structured Gaussian VB: exact where the posterior is normal, and between its two neighbours."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import vi_recipes as vr
from vi_recipes import StructuredVB

GROUP = np.repeat(np.arange(6), 4)
RNG = np.random.default_rng(7)
X = RNG.standard_normal(24)
Y = 1.0 + RNG.standard_normal(24) + 1.2 * np.sin(GROUP) + X * np.cos(GROUP)
SPREAD, NOISE = 0.8, 0.7


def lines(y: Any, x: Any, group: Any) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    with numpyro.plate("group", 6):
        a = numpyro.sample("a", dist.Normal(mu, SPREAD))
        b = numpyro.sample("b", dist.Normal(slope + 0.5 * (a - mu), SPREAD))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(a[group] + b[group] * x, NOISE), obs=y)


def exact() -> tuple[np.ndarray, np.ndarray, float]:
    """Return mean and covariance of (mu, slope, a, b), and log p(y): all is jointly normal."""
    loads = np.zeros((38, 38))  # of independent standard normals
    loads[0, 0], loads[1, 1] = 2.0, 1.0
    loads[2:8, 0], loads[2:8, 2:8] = 2.0, SPREAD * np.eye(6)
    loads[8:14, 1] = 1.0
    loads[8:14, 2:8], loads[8:14, 8:14] = 0.5 * SPREAD * np.eye(6), SPREAD * np.eye(6)
    loads[14:] = loads[2 + GROUP] + X[:, None] * loads[8 + GROUP]
    loads[14:, 14:] += NOISE * np.eye(24)
    cov = loads @ loads.T
    gain = cov[:14, 14:] @ np.linalg.inv(cov[14:, 14:])
    evidence = stats.multivariate_normal(np.zeros(24), cov[14:, 14:]).logpdf(Y)
    return gain @ Y, cov[:14, :14] - gain @ cov[14:, :14], float(evidence)


@pytest.mark.slow
def test_a_normal_hierarchy_is_exact() -> None:
    target = vr.Target(lines, y=Y, x=X, group=GROUP)
    fit = StructuredVB().fit(target, key=0, throw=True)
    mean, cov, evidence = exact()
    sd = np.sqrt(np.diag(cov))
    names = ("mu", "slope", "a", "b")
    assert fit.status.ok, fit.message
    assert "6 members of group, linear in 2 shared coordinates" in fit.message
    # the draws' second moments are right, so that nothing is left but where L-BFGS ends
    assert (np.abs(fit.flat(fit.mean(), names) - mean) / sd).max() < 1e-3
    assert np.abs(fit.flat(fit.sd(), names) / sd - 1).max() < 1e-3
    got = fit.cov(list(names)).to_numpy()
    assert (np.abs(got - cov) / np.outer(sd, sd)).max() < 1e-3
    assert fit.log_evidence is not None
    # the normal is the posterior: the bound is tight
    assert abs(fit.log_evidence.value - evidence) < 0.01
    # mean field has no covariances
    assert vr.MeanField().fit(target, key=0).sd()["mu"] < 0.8 * sd[0]
    drawn = fit.draws(4_000, 1)
    flat = np.column_stack([drawn["mu"], drawn["slope"], drawn["a"], drawn["b"]])
    assert np.abs(np.corrcoef(flat.T) - cov / np.outer(sd, sd)).max() < 0.07


@pytest.mark.slow
def test_the_bound_lies_between_mean_fields_and_the_evidence() -> None:
    target = vr.Target(vr.load_model("eight_schools"))
    fit, meanfield = (m.fit(target, key=0, throw=True) for m in (StructuredVB(), vr.MeanField()))
    assert fit.status.ok, fit.message
    assert fit.log_evidence is not None
    assert meanfield.log_evidence is not None
    above = meanfield.log_evidence.value + 0.5
    assert above < fit.log_evidence.value < -31.311  # by quadrature: docs/nested.md
    response = vr.LinearResponse().fit(target, key=0, throw=True)
    assert meanfield.sd()["mu"] < 0.7 * fit.sd()["mu"] < 0.7 * response.sd()["mu"]


def test_without_plates_it_is_one_normal() -> None:
    x = RNG.standard_normal((30, 2)) @ np.array([[1.0, 0.9], [0.0, 0.4]])
    y = x @ np.array([0.5, -1.0]) + 0.6 * RNG.standard_normal(30)

    def regression(x: Any, y: Any) -> None:
        beta = numpyro.sample("beta", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
        numpyro.sample("y", dist.Normal(x @ beta, 0.6).to_event(1), obs=y)

    fit = StructuredVB().fit(vr.Target(regression, x=x, y=y), key=0, throw=True)
    cov = np.linalg.inv(x.T @ x / 0.36 + np.eye(2) / 4)
    assert fit.mean()["beta"] == pytest.approx(cov @ x.T @ y / 0.36, abs=0.01 * np.sqrt(cov[0, 0]))
    assert np.allclose(fit.cov(["beta"]), cov, rtol=1e-3)


@pytest.mark.parametrize("num_pairs", [100, 300])
def test_any_number_of_pairs_serves(num_pairs: int) -> None:
    def one(y: Any) -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
        numpyro.sample("y", dist.Normal(mu, NOISE), obs=y)

    fit = StructuredVB(num_pairs=num_pairs, max_pairs=4 * num_pairs).fit(vr.Target(one, y=1.0))
    assert fit.status.ok, fit.message
    assert fit.log_evidence is not None
    evidence = stats.norm.logpdf(1.0, 0.0, np.hypot(2.0, NOISE))
    assert fit.log_evidence.value == pytest.approx(evidence, abs=0.01)


def test_too_many_shared_coordinates_are_refused() -> None:
    def wide() -> None:
        numpyro.sample("x", dist.Normal(0.0, 1.0).expand([201]).to_event(1))

    fit = StructuredVB().fit(vr.Target(wide))
    assert fit.status is vr.Status.NOT_APPLICABLE
    assert "201 coordinates are in no plate" in fit.message


@pytest.mark.parametrize(("option", "value"), [("num_pairs", 0), ("tolerance", -1.0)])
def test_bad_options_are_named(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=option):
        StructuredVB(**{option: value})
