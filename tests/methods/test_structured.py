"""Structured guides: blocks against closed forms and NumPyro's own draws, and bad mappings."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from models_for_tests import case, target
from numpyro.infer import SVI as Engine
from numpyro.infer import Predictive, Trace_ELBO

import vi_recipes as vr
from vi_recipes.cli.options import set_options
from vi_recipes.methods.guides.coordinates import FittedGuide
from vi_recipes.methods.guides.families import read_guide
from vi_recipes.methods.svi.starts import Starts
from vi_recipes.posterior.blocks import BlockPosterior
from vi_recipes.posterior.draws import DrawsPosterior


@cache
def fitted(name: str, pattern: str, family: str) -> vr.Fit:
    method = vr.SVI(guide={pattern: family}, num_steps=4_000, tolerance=None)
    return method.fit(target(name), key=0, throw=True)


@pytest.mark.slow
def test_a_gamma_factor_reaches_the_optimum_of_the_conjugate_model() -> None:
    """Normal-gamma: q(mu) q(tau) has a closed-form fixed point, which coordinate ascent finds."""
    y = case("normal_precision").data["y"]
    a, b, k, n = 3.0, 2.0, 0.5, len(y)
    mean, shape, rate = y.sum() / (k + n), a + (n + 1) / 2, b
    for _ in range(100):
        variance = rate / shape / (k + n)
        rate = b + (((y - mean) ** 2).sum() + n * variance + k * (mean**2 + variance)) / 2
    fit = fitted("normal_precision", "tau", "gamma")
    assert fit.method == "svi_structured"
    assert isinstance(fit.posterior, BlockPosterior)
    sd = np.sqrt(shape) / rate
    # Adam of step 0.01, the last half averaged: a few per cent on sds
    assert abs(fit.mean()["tau"] - shape / rate) < 5 * fit.mcse()["tau"]
    assert fit.mcse()["tau"] < 0.05 * sd
    assert fit.sd()["tau"] == pytest.approx(sd, rel=0.1)
    assert fit.sd()["mu"] == pytest.approx(np.sqrt(variance), rel=0.05)


@pytest.mark.slow
def test_a_dirichlet_block_is_the_exact_posterior() -> None:
    known, fit = case("simplex"), fitted("simplex", "p", "dirichlet")
    np.testing.assert_allclose(fit.mean()["p"], known.mean["p"], atol=0.1 * known.sd["p"].min())
    np.testing.assert_allclose(fit.sd()["p"], known.sd["p"], rtol=0.1)
    assert fit.log_evidence is not None
    # exact but for the few per cent of the optimisation, which count to second order
    assert fit.log_evidence.value == pytest.approx(known.log_evidence, abs=0.05)


def test_a_point_block_is_variational_em() -> None:
    """mu is normal given tau, and tau maximises the marginal density of y and itself."""
    fit, y = fitted("normal_precision", "tau", "delta"), case("normal_precision").data["y"]
    a, b, k, n = 3.0, 2.0, 0.5, len(y)
    mean = y.sum() / (k + n)
    rate = b + (((y - mean) ** 2).sum() + k * mean**2) / 2
    mode = (a + n / 2 - 1) / rate
    assert fit.mean()["tau"] == pytest.approx(mode, rel=5e-3)
    assert fit.sd()["tau"] < 1e-6
    assert fit.sd()["mu"] == pytest.approx(((k + n) * mode) ** -0.5, rel=0.05)
    # a bound on log p(y, tau) at a point is none on log p(y)
    assert fit.log_evidence is None
    assert np.isfinite(fit.diagnostics["elbo"])


@pytest.mark.slow
def test_a_chain_and_an_improper_prior() -> None:
    """A block over sites in a scan, and a block beside a site whose prior has no draws."""
    fit = vr.SVI(guide={"level": "lowrank_normal"}, num_steps=100).fit(target("state_space"))
    assert fit.sd()["level"].shape == (6,)

    def model() -> None:
        x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), (2,)))
        tau = numpyro.sample("tau", dist.Gamma(2.0, 1.0))
        numpyro.factor("f", dist.Normal(tau, 1.0).log_prob(x).sum())

    fit = vr.SVI(guide={"tau": "gamma"}, num_steps=100).fit(vr.Target(model), throw=True)
    assert np.isfinite(fit.sd()["x"]).all()


# -- reading ------------------------------------------------------------------------------------


@cache
def several() -> vr.Target:
    """Sites of many shapes and supports whose names are not in alphabetical order."""

    def model(top: Any) -> None:
        with numpyro.plate("m", 2):
            numpyro.sample("w", dist.Normal(0.0, 1.0))
            numpyro.sample("g", dist.Gamma(2.0, 1.0))
        numpyro.sample("z", dist.Dirichlet(jnp.ones(3)))
        numpyro.sample("b", dist.LogNormal(0.0, 1.0))
        numpyro.sample("u", dist.Uniform(-1.0, top).to_event(1))
        numpyro.sample("p", dist.Beta(2.0, 2.0))
        with numpyro.plate("n", 2):
            numpyro.sample("a", dist.Normal(0.0, 1.0).expand([3]).to_event(1))

    return vr.Target(model, top=np.array([1.0, 3.0]))


FAMILIES = {
    "[bw]": "multivariate_normal",
    "a": "lowrank_normal",
    "g": "gamma",
    "u": "beta",
    "p": "beta",
    "z": "dirichlet",
}


def scattered(this: vr.Target, families: dict[str, str]) -> tuple[Any, dict[str, Any]]:
    """Return a guide nobody optimised: every coordinate has a law of its own."""
    starts = Starts(
        families, this, lambda g: Engine(this.model.function, g, optax.adam(0.01), Trace_ELBO())
    )
    state = starts.state(np.zeros(this.dim), jax.random.key(0))
    engine = starts.engine
    rng = np.random.default_rng(7)
    free = jax.tree.map(
        lambda v: v + jnp.asarray(0.4 * rng.standard_normal(v.shape), v.dtype),
        engine.optim.get_params(state.optim_state),
    )
    return engine.guide, engine.constrain_fn(free)


@pytest.mark.slow
def test_blocks_are_read_as_numpyro_draws_them() -> None:
    this, n = several(), 10_000
    guide, params = scattered(this, FAMILIES)
    found = read_guide(guide, FittedGuide(params, this, jax.random.key(1)))
    assert isinstance(found, BlockPosterior)
    data = this.keywords(this.arrays())
    drawn = Predictive(guide, params=params, num_samples=n, parallel=True)(
        jax.random.key(2), **data
    )
    names = [s.name for s in this.latents]
    flat = np.concatenate([np.asarray(drawn[k], float).reshape(n, -1) for k in names], axis=1)
    mean, sd, error = (
        np.concatenate([np.ravel(v[k]) for k in names])
        for v in (found.mean(), found.sd(), found.mcse_mean())
    )
    # 17 means, 17 sds and 153 covariances at 5 standard errors: 1e-4 that a right reading fails
    assert (np.abs(flat.mean(0) - mean) < 5 * np.hypot(error, flat.std(0) / np.sqrt(n))).all()
    centred = flat - flat.mean(0)
    products = centred[:, :, None] * centred[:, None, :]
    error = np.hypot(products.std(0) / np.sqrt(n), products.std(0) / np.sqrt(10_000))
    cov = found.cov(names)
    assert (np.abs(products.mean(0) - cov) < 5 * error).all()
    np.testing.assert_allclose(np.sqrt(np.diag(cov)), sd, rtol=1e-6)
    # blocks are independent, and the joint block is not diagonal
    at = dict(zip(names, np.cumsum([0, *(this.sites[k].size for k in names)]), strict=False))
    assert cov[at["w"], at["a"]] == cov[at["g"], at["u"]] == 0.0
    assert abs(cov[at["w"], at["w"] + 1]) > 1e-3
    own = np.concatenate(
        [v.reshape(n, -1) for v in found.draws(n, jax.random.key(3)).values()], axis=1
    )
    assert (np.abs(own.mean(0) - mean) < 7 * sd / np.sqrt(n)).all()
    np.testing.assert_allclose(np.cov(own.T), cov, atol=8 * error.max())


def test_a_list_with_a_function_in_it_is_drawn_with_independent_parts() -> None:
    """NumPyro's own ``sample_posterior`` gives every part of a list the same key."""

    def model() -> None:
        numpyro.sample("a", dist.Normal(0.0, 1.0))
        numpyro.sample("b", dist.Normal(0.0, 1.0))

    def part(name: str) -> Any:
        def guide() -> dict[str, Any]:
            loc = numpyro.param(f"loc_{name}", 0.0)
            return {name: numpyro.sample(name, dist.Normal(loc, 1.0))}

        return guide

    guide = numpyro.infer.autoguide.AutoGuideList(model)
    guide.append(part("a"))
    guide.append(part("b"))
    fit = vr.SVI(guide=guide, num_steps=50).fit(vr.Target(model), throw=True)
    assert isinstance(fit.posterior, DrawsPosterior)
    assert abs(np.corrcoef(fit.draws(4_000)["a"], fit.draws(4_000)["b"])[0, 1]) < 0.08


# -- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("guide", "match"),
    [
        ({}, "empty mapping"),
        ({"mu": "gama"}, r"unknown family 'gama'; did you mean 'gamma'.*\(for 'mu'\)"),
        ({"mu": 3}, "unknown family '3'"),
        ({"nu*": "normal"}, r"unknown site or pattern 'nu\*'.*Known: tau, mu"),
        ({"[mt]*": "normal", "mu": "gamma"}, r"'mu' is matched by both '\[mt\]\*' and 'mu'"),
        ({"mu": "gamma"}, "'gamma' does not match site 'mu', whose support is Real"),
        ({"tau": "dirichlet"}, "'dirichlet' does not match site 'tau'"),
    ],
)
def test_bad_mappings(guide: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        vr.SVI(guide=guide, num_steps=10).fit(target("normal_precision"))


def test_the_command_line_takes_a_mapping() -> None:
    method = set_options(vr.SVI(), "svi", {"guide": '{"beta": "multivariate_normal"}'})
    assert isinstance(method, vr.SVI)
    assert method.guide == {"beta": "multivariate_normal"}
    assert method.name == "svi_structured"
    assert method.options()["guide"] == {"beta": "multivariate_normal"}
    with pytest.raises(ValueError, match="did you mean 'gamma'"):
        set_options(vr.SVI(), "svi", {"guide": '{"tau": "gama"}'})
