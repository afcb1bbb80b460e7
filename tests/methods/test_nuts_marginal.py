"""NUTS on the marginal: against closed forms and quadrature that knows no nodes, and refusals."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import target
from scipy import stats

import vi_recipes as vr
from vi_recipes.core import Timing
from vi_recipes.methods.nested.density import ThetaDensity
from vi_recipes.methods.nested.gradient import log_marginal, marginal_inputs
from vi_recipes.methods.nested.members import members_of
from vi_recipes.posterior import held_draws

Y = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])
SIGMA = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])


def schools_answer() -> tuple[np.ndarray, np.ndarray]:
    """Return means and sds of (tau, theta), by a grid in tau given which all is normal."""
    log_tau = np.linspace(-9, 6, 6_001)
    tau = np.exp(log_tau)[:, None]
    spread = tau**2 + SIGMA**2
    precision = 1 / 25 + (1 / spread).sum(1)  # of mu given tau
    mu = (Y / spread).sum(1) / precision
    log_p = stats.halfcauchy(scale=5).logpdf(tau[:, 0]) + log_tau
    log_p += stats.norm(mu[:, None], np.sqrt(spread)).logpdf(Y).sum(1)
    log_p += stats.norm.logpdf(mu, 0, 5) - np.log(precision) / 2
    w = np.exp(log_p - log_p.max())
    w /= w.sum()
    shrink = tau**2 / spread
    mean = mu[:, None] + shrink * (Y - mu[:, None])
    variance = shrink * SIGMA**2 + ((1 - shrink) ** 2) / precision[:, None]
    values = np.hstack([tau, mean])
    variances = np.hstack([0 * tau, variance])
    whole = w @ values
    return whole, np.sqrt(w @ (variances + (values - whole) ** 2))


def test_a_centred_funnel_is_sampled_without_trouble() -> None:
    fit = vr.NUTS(marginal=True, num_samples=500).fit(target("eight_schools"), key=1, throw=True)
    assert fit.status.ok, fit.message
    assert fit.diagnostics["divergences"] == 0
    mean, sd = schools_answer()
    names = ("tau", "theta")
    errors, sd_errors = (fit.flat(e(), names) for e in (fit.mcse, fit.mcse_sd))
    # 18 comparisons at 4.5 standard errors: 1.2e-4
    assert (np.abs(fit.flat(fit.mean(), names) - mean) < 4.5 * errors).all()
    assert (np.abs(fit.flat(fit.sd(), names) - sd) < 4.5 * sd_errors).all()
    assert (errors < 0.05 * sd).all()  # the joint sampler's are twice that, where it gets there
    assert "exact Gaussian integral over theta" in fit.message
    drawn = held_draws(fit.known_posterior())
    assert drawn is not None
    assert drawn["theta"].shape == (4, 500, 8)


NUM = 16
"""Parameters: one more than nested quadrature takes."""

X = np.random.default_rng(2).standard_normal((60, NUM))
GROUP = np.arange(60) % 6


def regression(y: Any, x: Any, group: Any) -> None:
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([NUM]).to_event(1))
    with numpyro.plate("group", 6):
        u = numpyro.sample("u", dist.Normal(b[0], 0.7))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(x @ b + u[group], 1.0), obs=y)


@pytest.mark.slow
def test_more_parameters_than_quadrature_takes_are_sampled() -> None:
    y = X @ np.linspace(-1, 1, NUM) + np.random.default_rng(3).standard_normal(60)
    this = vr.Target(regression, y=y, x=X, group=GROUP)
    assert not vr.NestedQuadrature().fit(this).has_result
    fit = vr.NUTS(marginal=True, num_warmup=300).fit(this, key=2)
    assert fit.status.ok, fit.message
    # u = b[0] + 0.7 e, and all of b and e are standard normal
    load = np.hstack([X, 0.7 * np.eye(6)[GROUP]])
    load[:, 0] += 1
    cov = np.linalg.inv(load.T @ load + np.eye(NUM + 6))
    to_u = np.hstack([np.zeros((6, NUM)), 0.7 * np.eye(6)])
    to_u[:, 0] = 1
    read = np.vstack([np.hstack([np.eye(NUM), np.zeros((NUM, 6))]), to_u])
    mean, cov = read @ cov @ load.T @ y, read @ cov @ read.T
    # 44 comparisons at 4.5 standard errors: 3e-4
    assert (np.abs(fit.flat(fit.mean()) - mean) < 4.5 * fit.flat(fit.mcse())).all()
    sd = np.sqrt(np.diag(cov))
    assert (np.abs(fit.flat(fit.sd()) - sd) < 4.5 * fit.flat(fit.mcse_sd())).all()
    got = np.corrcoef(
        np.hstack([v.reshape(4_000, -1) for v in fit.known_posterior().samples.values()]).T
    )
    assert np.abs(got - cov / np.outer(sd, sd)).max() < 0.08


A, B = np.repeat(np.arange(6), 4), np.tile(np.arange(4), 6)


def crossed(y: Any) -> None:
    tau = numpyro.sample("tau", dist.HalfNormal(1.0))
    with numpyro.plate("six", 6):
        a = numpyro.sample("a", dist.Normal(0.0, tau))
    with numpyro.plate("four", 4):
        b = numpyro.sample("b", dist.Normal(0.0, 0.5))
    numpyro.sample("y", dist.Normal(a[A] + b[B], 1.0).to_event(1), obs=y)


def counts(y: Any, group: Any) -> None:
    tau = numpyro.sample("tau", dist.HalfNormal(1.0))
    with numpyro.plate("group", 5):
        u = numpyro.sample("u", dist.Normal(0.0, tau))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Poisson(jnp.exp(u[group])), obs=y)


def evaluated(this: vr.Target, at: float) -> tuple[float, float]:
    """Return log p(y, log tau) and its slope."""
    with jax.enable_x64(True):
        marginal = members_of(this, None, "auto", Timing())
        density = ThetaDensity(marginal, Timing(), np.zeros(this.dim))
        inputs = marginal_inputs(density)
        value, slope = jax.jit(jax.value_and_grad(lambda v: log_marginal(density, v, inputs)))(
            jnp.array([at])
        )
    return float(value), float(slope[0])


def test_one_wide_member_is_integrated_out_with_its_slope() -> None:
    y = np.random.default_rng(4).standard_normal(24)
    this = vr.Target(vr.Model(function=crossed, name="crossed", latents=("a", "b")), y=y)
    one_hot = np.eye(6)[A], np.eye(4)[B]

    def right(v: float) -> float:
        cov = np.exp(2 * v) * one_hot[0] @ one_hot[0].T + 0.25 * one_hot[1] @ one_hot[1].T
        prior = stats.halfnorm.logpdf(np.exp(v)) + v
        return float(stats.multivariate_normal(np.zeros(24), cov + np.eye(24)).logpdf(y) + prior)

    value, slope = evaluated(this, -0.3)
    assert value == pytest.approx(right(-0.3), abs=1e-8)
    assert slope == pytest.approx((right(-0.3 + 1e-5) - right(-0.3 - 1e-5)) / 2e-5, abs=1e-5)


def test_counts_are_integrated_out_with_their_slope() -> None:
    y, group = np.array([0, 2, 5, 1, 0, 9, 3, 1, 1, 0]), np.repeat(np.arange(5), 2)
    grid = np.linspace(-8, 8, 4_001)

    def right(v: float) -> float:
        log_p = stats.norm.logpdf(grid, 0, np.exp(v)) + np.log(grid[1] - grid[0])
        by_row = stats.poisson.logpmf(y[:, None], np.exp(grid))
        members = [log_p + by_row[group == t].sum(0) for t in range(5)]
        prior = stats.halfnorm.logpdf(np.exp(v)) + v
        return float(sum(np.logaddexp.reduce(m) for m in members) + prior)

    value, slope = evaluated(vr.Target(counts, y=y, group=group), -0.2)
    assert value == pytest.approx(right(-0.2), abs=1e-4)
    assert slope == pytest.approx((right(-0.2 + 1e-4) - right(-0.2 - 1e-4)) / 2e-4, abs=1e-3)


def test_where_digits_run_out_a_point_fails_and_is_no_number() -> None:
    """A scale of 1e-33 leaves nothing of the members' distances from their mean."""
    with jax.enable_x64(True):
        this = target("eight_schools")
        density = ThetaDensity(members_of(this, None, "auto", Timing()), Timing(), np.zeros(10))
        swept = density.sweep(np.array([[4.3, 1.0], [4.3, -75.0]]))
    assert np.isfinite(swept.log_p[0])
    assert np.isneginf(swept.log_p[1])


def crossed_counts(y: Any) -> None:
    tau = numpyro.sample("tau", dist.HalfNormal(1.0))
    with numpyro.plate("six", 6):
        a = numpyro.sample("a", dist.Normal(0.0, tau))
    with numpyro.plate("four", 4):
        b = numpyro.sample("b", dist.Normal(0.0, 0.5))
    numpyro.sample("y", dist.Poisson(jnp.exp(a[A] + b[B])).to_event(1), obs=y)


def alone(y: Any) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(mu, 1.0).expand([3]).to_event(1), obs=y)


def test_what_cannot_be_integrated_out_is_refused_by_name() -> None:
    fit = vr.NUTS(marginal=True).fit(vr.Target(crossed_counts, y=np.arange(24)))
    assert fit.status is vr.Status.NOT_APPLICABLE
    assert "a is one member of 6 scalars that is not normal" in fit.message
    fit = vr.NUTS(marginal=True).fit(vr.Target(alone, y=np.array([1.0, 0, 2])))
    assert fit.status is vr.Status.NOT_APPLICABLE
    assert "marginal=False" in fit.message


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"marginal": 1}, "marginal: got 1, expected True or False"),
        ({"marginal": True, "precondition": "lrvb"}, "precondition: got 'lrvb', expected 'auto'"),
        ({"marginal": True, "dtype": "float32"}, "dtype: got 'float32', expected 'float64'"),
    ],
)
def test_bad_options(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        vr.NUTS(**options)
