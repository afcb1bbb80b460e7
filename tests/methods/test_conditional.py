"""Conditional normals against an exact hierarchical posterior, and NumPyro's own draws of them."""

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
from models_for_tests import gaussian
from numpyro.infer import SVI as Engine
from numpyro.infer import Predictive, Trace_ELBO

import vi_recipes as vr
from vi_recipes.methods.guides.conditional import AutoConditionalNormal
from vi_recipes.methods.guides.coordinates import FittedGuide
from vi_recipes.methods.guides.families import read_guide
from vi_recipes.methods.svi.starts import Starts
from vi_recipes.posterior.blocks import BlockPosterior

GROUP = np.repeat(np.arange(4), 3)
X = np.tile([-1.0, 0.2, 1.0], 4)
Y = np.array([1.1, 0.4, 1.9, -0.2, 0.3, 1.2, 2.0, 2.9, 2.4, 0.9, 1.6, 1.2])
SITES = ["mu", "beta", "u"]


def school(x: Any, y: Any) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0))
    with numpyro.plate("group", 4):
        u = numpyro.sample("u", dist.Normal(mu, 0.6))
    with numpyro.plate("row", 12):
        numpyro.sample("y", dist.Normal(u[GROUP] + beta * x, 1.2), obs=y)


@cache
def target() -> vr.Target:
    return vr.Target(school, x=X, y=Y)


def exact() -> tuple[np.ndarray, np.ndarray, float]:
    """Mean, covariance and log evidence of (mu, beta, u_1..u_4), which are jointly normal."""
    to_all = np.eye(6)
    to_all[2:, 0] = 1.0
    prior = to_all @ np.diag([4.0, 1.0, *[0.36] * 4]) @ to_all.T
    design = np.column_stack([np.zeros(12), X, np.eye(4)[GROUP]])
    return gaussian(np.zeros(6), prior, design, 1.44 * np.eye(12), Y)


@cache
def fitted(local: str, of_all: str = "normal") -> vr.Fit:
    return vr.SVI(guide={"u": local, "[mb]*": of_all}).fit(target(), key=1, throw=True)


def flat(sites: dict[str, Any]) -> np.ndarray:
    return np.concatenate([np.ravel(sites[name]) for name in SITES])


@pytest.mark.slow
def test_the_exact_posterior_of_a_hierarchical_model_is_found() -> None:
    """Joint normals for the globals and conditional ones for the locals are the exact family."""
    mean, cov, evidence = exact()
    sd = np.sqrt(np.diag(cov))
    fit = fitted("conditional_normal", "multivariate_normal")
    assert isinstance(fit.posterior, BlockPosterior)
    assert fit.status is vr.Status.OK
    assert (np.abs(flat(fit.mean()) - mean) < 0.1 * sd).all()
    # Adam leaves a few per cent on sds and slopes
    np.testing.assert_allclose(flat(fit.sd()), sd, rtol=0.07)
    found = fit.cov(SITES).to_numpy()
    assert (np.abs(found - cov) < 0.07 * np.outer(sd, sd)).all()
    assert np.abs(cov[0, 2:] / (sd[0] * sd[2:])).min() > 0.4  # there is something to find
    assert fit.log_evidence is not None
    # 400 draws, and what a few per cent cost, to second order
    assert abs(fit.log_evidence.value - evidence) < 4.5 * fit.log_evidence.se + 0.02


@pytest.mark.slow
def test_independent_normals_understate_what_conditional_ones_do_not() -> None:
    _, cov, evidence = exact()
    sd = np.sqrt(np.diag(cov))
    mean_field = fitted("normal")
    conditional = fitted("conditional_normal")  # of mu and beta as independent normals
    assert (mean_field.cov(SITES).to_numpy()[0, 2:] == 0.0).all()
    assert mean_field.sd()["mu"] < 0.85 * sd[0]
    # what is left is the correlation of mu and beta, which is small
    assert abs(cov[0, 1]) < 0.1 * sd[0] * sd[1]
    np.testing.assert_allclose(flat(conditional.sd()), sd, rtol=0.07)
    found = conditional.cov(SITES).to_numpy()
    assert (np.abs(found - cov) < 0.1 * np.outer(sd, sd)).all()
    assert mean_field.log_evidence is not None
    assert conditional.log_evidence is not None
    assert mean_field.log_evidence.value < conditional.log_evidence.value - 0.3 < evidence


@pytest.mark.slow
def test_draws_are_those_of_the_moments() -> None:
    fit, n = fitted("conditional_normal", "multivariate_normal"), 20_000
    drawn = fit.draws(n)
    rows = np.concatenate([np.reshape(drawn[name], (n, -1)) for name in SITES], axis=1)
    cov = fit.cov(SITES).to_numpy()
    sd = np.sqrt(np.diag(cov))
    # 21 covariances at 5 standard errors of (antithetic) draws
    assert (np.abs(np.cov(rows.T) - cov) < 5 * np.sqrt(4 / n) * np.outer(sd, sd)).all()
    assert (np.abs(rows.mean(0) - flat(fit.mean())) < 5 * sd / np.sqrt(n)).all()


# -- reading ------------------------------------------------------------------------------------


def several(n: int) -> None:
    """Global and local sites of many shapes and supports, in no alphabetical order."""
    with numpyro.plate("n", n):
        numpyro.sample("w", dist.LogNormal(0.0, 1.0).expand([2]).to_event(1))
        numpyro.sample("v", dist.Normal(0.0, 1.0))
    numpyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    numpyro.sample("t", dist.Gamma(2.0, 1.0))
    numpyro.sample("b", dist.LogNormal(0.0, 1.0))
    numpyro.sample("a", dist.Normal(0.0, 1.0))


@pytest.mark.slow
def test_conditional_blocks_are_read_as_numpyro_draws_them() -> None:
    this, n = vr.Target(several, n=3), 20_000
    families = {
        "v": "conditional_normal",
        "w": "conditional_normal",
        "[zb]": "multivariate_normal",
        "t": "gamma",
    }
    starts = Starts(families, this, lambda g: Engine(several, g, optax.adam(0.01), Trace_ELBO()))
    state = starts.state(np.zeros(this.dim), jax.random.key(0))
    engine, rng = starts.engine, np.random.default_rng(3)
    # parameters of a guide nobody optimised: every coordinate has its own
    free = jax.tree.map(
        lambda v: v + jnp.asarray(0.4 * rng.standard_normal(v.shape), v.dtype),
        engine.optim.get_params(state.optim_state),
    )
    params = engine.constrain_fn(free)
    parts = [part for part in engine.guide if isinstance(part, AutoConditionalNormal)]
    assert len(parts) == 2
    # on z and b together, and on a: not on the gamma law
    slopes = [value for name, value in params.items() if name.endswith("_slope")]
    assert sorted(slope.shape for slope in slopes) == [(3, 2, 4), (3, 4)]
    found = read_guide(engine.guide, FittedGuide(params, this, jax.random.key(1)))
    assert isinstance(found, BlockPosterior)
    draw = Predictive(engine.guide, params=params, num_samples=n, parallel=True)
    drawn = draw(jax.random.key(2), **this.keywords(this.arrays()))
    names = [s.name for s in this.latents]
    rows = np.concatenate([np.asarray(drawn[k], float).reshape(n, -1) for k in names], axis=1)
    mean, sd = (np.concatenate([np.ravel(v[k]) for k in names]) for v in (found.mean(), found.sd()))
    # 14 means, 14 sds and 91 covariances at 5 standard errors: 1e-4 that a right reading fails
    assert (np.abs(rows.mean(0) - mean) < 5 * rows.std(0) / np.sqrt(n)).all()
    centred = rows - rows.mean(0)
    products = centred[:, :, None] * centred[:, None, :]
    cov, error = found.cov(names), products.std(0) / np.sqrt(n)
    assert (np.abs(products.mean(0) - cov) < 5 * error).all()
    np.testing.assert_allclose(np.sqrt(np.diag(cov)), sd, rtol=1e-6)


# -- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("guide", "match"),
    [
        ({"mu": "conditional_normal"}, "for the members of a plate, and site 'mu' is in none"),
        (
            {"u": "conditional_normal", "[mb]*": "delta"},
            r"'conditional_normal' for u has nothing to depend on: no site outside plate group",
        ),
        ({"u": "conditional"}, "unknown family 'conditional'; did you mean 'conditional_normal'"),
    ],
)
def test_bad_mappings(guide: dict[str, str], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        vr.SVI(guide=guide, num_steps=10).fit(target())
