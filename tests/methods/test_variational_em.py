"""Variational EM: exact where q can be, a lower bound elsewhere, and its standard errors."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vi_recipes as vr


@cache
def target(name: str) -> vr.Target:
    return vr.Target(vr.load_model(name))


@cache
def fitted(name: str, objective: str = "mle") -> tuple[vr.Fit, vr.Fit]:
    """Return the fits by variational EM and by the marginal likelihood."""
    method = vr.VariationalEM(objective=objective)  # type: ignore[arg-type]
    right = vr.MarginalMLE(objective=objective)  # type: ignore[arg-type]
    return method.fit(target(name), throw=True), right.fit(target(name), throw=True)


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["mle", "map"])
def test_where_the_factors_are_exact_it_is_em(objective: str) -> None:
    """County effects are independent normals given the rest: F is the likelihood."""
    fit, right = fitted("radon", objective)
    assert fit.status is vr.Status.OK
    assert fit.diagnostics["elbo"] == pytest.approx(
        right.trace["log_likelihood" if objective == "mle" else "log_posterior"][0, -1], abs=1e-7
    )
    for name in ("mu_a", "b", "sigma_a", "sigma_y"):
        np.testing.assert_allclose(fit.mean()[name], right.mean()[name], rtol=1e-5)
        # the inverse of the profile's Hessian is the observed information's
        np.testing.assert_allclose(fit.sd()[name], right.sd()[name], rtol=1e-4)
    np.testing.assert_allclose(fit.latents["a_mean"], right.latents["a_mean"], atol=1e-5)
    np.testing.assert_allclose(fit.latents["a_sd"], right.latents["a_sd"], rtol=1e-4)
    # with the uncertainty of theta in it (Kass and Steffey)
    np.testing.assert_allclose(fit.sd()["a"], right.sd()["a"], rtol=1e-3)
    cov = fit.cov(["mu_a", "sigma_a"])
    np.testing.assert_allclose(cov, right.cov(["mu_a", "sigma_a"]), rtol=1e-3, atol=1e-9)


@pytest.mark.slow
def test_coupled_members() -> None:
    """Crossed effects: EM by members refuses, factors give a bound that is a little short."""
    fit, whole = fitted("penicillin")
    assert whole.log_likelihood is not None
    assert fit.diagnostics["elbo"] < whole.log_likelihood
    assert fit.diagnostics["elbo"] == pytest.approx(whole.log_likelihood, abs=2)
    sd = whole.sd()
    for name in ("mu", "sigma_plate", "sigma_sample", "sigma_y"):
        assert abs(fit.mean()[name] - whole.mean()[name]) < 0.3 * sd[name]
        assert fit.sd()[name] == pytest.approx(sd[name], rel=0.1)
    assert fit.log_evidence is None
    assert "lower bound of the log-likelihood" in fit.message


@pytest.mark.slow
def test_no_exact_integral() -> None:
    """Binomial counts: a bound below the quadrature's likelihood, and nearly as good."""
    fit, right = fitted("cbpp")
    assert right.log_likelihood is not None
    assert 0 < right.log_likelihood - fit.diagnostics["elbo"] < 0.1
    assert fit.mean()["sigma"] == pytest.approx(right.mean()["sigma"], rel=0.02)
    np.testing.assert_allclose(fit.sd()["beta"], right.sd()["beta"], rtol=0.01)


@pytest.mark.slow
def test_a_factor_of_its_own_family() -> None:
    """q of a gamma latent variable given its rate is a gamma: exact again, in closed form."""

    def exposures(y: jax.Array) -> None:
        rate = numpyro.sample("rate", dist.Gamma(1.0, 1.0))
        with numpyro.plate("member", len(y)):
            z = numpyro.sample("z", dist.Gamma(3.0, rate))
            numpyro.sample("y", dist.Poisson(z), obs=y)

    y = np.random.default_rng(0).poisson(2.0, 40)
    this = vr.Target(exposures, y=y)
    base = vr.MeanField(factors={"z": "gamma"})
    fit = vr.VariationalEM(base=base).fit(this, throw=True)
    # y is negative binomial: 3 trials' worth with odds of rate to one
    rate = 3 / y.mean()
    assert fit.mean()["rate"] == pytest.approx(rate, rel=1e-5)
    information = len(y) * 3 / rate**2 - (len(y) * 3 + y.sum()) / (1 + rate) ** 2
    assert fit.sd()["rate"] == pytest.approx(information**-0.5, rel=1e-3)
    np.testing.assert_allclose(fit.mean()["z"], (3 + y) / (1 + rate), rtol=1e-4)
    # a point among the factors of mean field has no spread; the rest is fitted around it
    fit = vr.MeanField(factors={"z": "gamma", "rate": "point"}).fit(this, throw=True)
    assert fit.sd()["rate"] < 1e-7
    spread = (3 + y) ** 0.5 / (1 + float(fit.mean()["rate"]))
    np.testing.assert_allclose(fit.sd()["z"], spread, rtol=1e-3)  # eight nodes


def test_refusals() -> None:
    fit = vr.VariationalEM().fit(target("gmm"))
    assert fit.status is vr.Status.NOT_APPLICABLE
    assert "no continuous latent variables" in fit.message
    names = tuple(s.name for s in target("radon").latents)
    fit = vr.VariationalEM(latent=names).fit(target("radon"))
    assert fit.status is vr.Status.NOT_APPLICABLE
    assert "no parameter left" in fit.message
    with pytest.raises(ValueError, match="latent: got 'nope'"):
        vr.VariationalEM(latent=("nope",)).fit(target("radon"))
    base = vr.MeanField(factors={"sigma_a": "gamma"})
    fit = vr.VariationalEM(base=base).fit(target("radon"))
    assert "got a family for sigma_a, which is estimated" in fit.message
    with pytest.raises(ValueError, match="objective: got 'mode'"):
        vr.VariationalEM(objective="mode")  # type: ignore[arg-type]


@pytest.mark.slow
def test_points_from_several_starts_are_one_though_digits_differ() -> None:
    """A point has no spread: whatever rounding leaves between two starts is no other part."""

    def counts(y: jax.Array, g: jax.Array) -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
        phi = numpyro.sample("phi", dist.Gamma(2.0, 0.5))
        with numpyro.plate("group", 8):
            u = numpyro.sample("u", dist.Normal(mu, 0.5))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.NegativeBinomial2(jnp.exp(u[g]), phi), obs=y)

    rng = np.random.default_rng(3)
    y = rng.poisson(rng.gamma(1.5, 2.0, 32))
    fit = vr.VariationalEM().fit(vr.Target(counts, y=y, g=np.repeat(np.arange(8), 4)))
    assert "reached by 5 of 5 starts" in fit.message
    assert fit.other_optimum is None
