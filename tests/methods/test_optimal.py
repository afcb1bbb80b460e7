"""Local normals at their optimum given the globals: closed forms, SciPy, minibatches of members."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pandas as pd
import pytest
from models_for_tests import gaussian
from numpyro.infer import SVI as Engine
from numpyro.infer import Trace_ELBO
from scipy.optimize import minimize

import vi_recipes as vr
from vi_recipes.methods.guides.coordinates import FittedGuide
from vi_recipes.methods.guides.families import read_guide
from vi_recipes.methods.guides.optimal import find_members
from vi_recipes.methods.guides.sites import places_of
from vi_recipes.methods.minibatch.feed import make_feed
from vi_recipes.methods.minibatch.rows import Rows, find_rows
from vi_recipes.methods.svi.starts import Starts

SIZES = [1, 4, 2, 3, 5, 1]
GROUP = np.repeat(np.arange(6), SIZES)[np.random.default_rng(0).permutation(16)]
X = np.random.default_rng(1).standard_normal(16)
W = np.random.default_rng(2).standard_normal(6)
Y = 0.5 + X + np.random.default_rng(3).standard_normal(6)[GROUP]
SITES = ["mu", "beta", "u"]
GUIDE = {"u": "optimal_normal", "[mb]*": "multivariate_normal"}


def school(x: Any, y: Any, w: Any, group: Any, num_groups: int) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0))
    with numpyro.plate("group", num_groups):
        u = numpyro.sample("u", dist.Normal(mu + 0.7 * w, 0.6))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(u[group] + beta * x, 1.2), obs=y)


DATA = {"x": X, "y": Y, "w": W, "group": GROUP, "num_groups": 6}


def exact() -> tuple[np.ndarray, np.ndarray, float]:
    """Mean, covariance and log evidence of (mu, beta, u_1..u_6), which are jointly normal."""
    to_all = np.eye(8)
    to_all[2:, 0] = 1.0
    prior = to_all @ np.diag([4.0, 1.0, *[0.36] * 6]) @ to_all.T
    design = np.column_stack([np.zeros(16), X, np.eye(6)[GROUP]])
    return gaussian(np.r_[0, 0, 0.7 * W], prior, design, 1.44 * np.eye(16), Y)


def engine_of(this: vr.Target, rows: Rows | None, guide: Mapping[str, str] = GUIDE) -> Any:
    """Return a feed, and the engine and its state with the exact posterior of mu and beta in it."""
    feed = make_feed(this, rows, 1, 7)
    z = this.start(jax.random.key(0))
    feed.view.verify(z)
    function, shown = feed.view.function, feed.view.shown
    make = lambda g: Engine(function, g, optax.sgd(1.0), Trace_ELBO())  # noqa: E731
    starts = Starts(guide, shown, make, this)
    state = starts.state(feed.view.start(z), jax.random.key(1))
    return feed, starts.engine, state


def at_posterior(engine: Engine, this: vr.Target) -> dict[str, Any]:
    """Return the guide's parameters where the law of mu and beta is the exact one."""
    mean, cov, _ = exact()
    block = next(part for part in engine.guide if "mu" in part._init_locs)
    order = places_of(block, this)
    root = np.linalg.cholesky(cov[np.ix_(order, order)])
    return {"auto_1_loc": jnp.asarray(mean[order]), "auto_1_scale_tril": jnp.asarray(root)}


@pytest.mark.slow
def test_given_the_exact_law_of_the_globals_all_the_rest_is_exact() -> None:
    """Means, covariances, and log p(y) at every single draw of the globals."""
    mean, cov, evidence = exact()
    with jax.enable_x64(True):
        this = vr.Target(school, **DATA)
        feed, engine, state = engine_of(this, None)
        params = at_posterior(engine, this)
        assert set(params) == set(engine.get_params(state))
        data = this.keywords(this.arrays())
        for key in range(5):
            loss = Trace_ELBO().loss(
                jax.random.key(key), params, engine.model, engine.guide, **data
            )
            np.testing.assert_allclose(-loss, evidence, rtol=1e-9)
        fitted = FittedGuide(params, this, jax.random.key(1), sweep=feed.view.sweep)
        found = read_guide(engine.guide, fitted)
    np.testing.assert_allclose(found.cov(SITES), cov, atol=1e-9)
    got = np.concatenate([np.ravel(found.mean()[name]) for name in SITES])
    np.testing.assert_allclose(got, mean, atol=1e-9)
    assert not fitted.doubts


def test_members_are_the_nearest_normals() -> None:
    """Counts and ones of a few members: the KL divergence minimised by SciPy over a fine grid."""
    counts, trials = np.array([0.0, 3.0, 40.0]), np.array([5.0, 5.0, 41.0])

    def density(u: jax.Array) -> jax.Array:
        logistic = counts * u - trials * jax.nn.softplus(u)
        return jnp.sum(logistic - 0.5 * (u - 1.0) ** 2 / 4.0)

    with jax.enable_x64(True):
        found = find_members(density, jnp.zeros(3))
        loc, sd = np.asarray(found.loc), np.asarray(found.sd)
    x = np.linspace(-9, 9, 4001)
    w = np.exp(-0.5 * x**2) / np.exp(-0.5 * x**2).sum()
    for k in range(3):

        def kl(p: np.ndarray, k: int = k) -> float:
            u = p[0] + np.exp(p[1]) * x
            log_p = counts[k] * u - trials[k] * np.logaddexp(0, u) - (u - 1.0) ** 2 / 8.0
            return float(-p[1] - w @ log_p)

        best = minimize(kl, [0.0, 0.0], method="BFGS", options={"gtol": 1e-9}).x
        # eight nodes of quadrature are good for 1e-4 of an sd, on laws two units wide
        np.testing.assert_allclose([loc[k], np.log(sd[k])], best, atol=2e-4)


def loss_and_gradient(feed: Any, engine: Engine, state: Any, count: int) -> Any:
    begin = engine.optim.get_params(state.optim_state)

    @jax.jit
    def step(arrays: Any) -> Any:
        after, loss = feed.view.update(engine, state, arrays, 0)
        return loss, jax.tree.map(jnp.subtract, begin, engine.optim.get_params(after.optim_state))

    found = [step(arrays) for arrays in feed.singles(count)]
    return jax.tree.map(lambda *leaves: np.mean(np.stack(leaves), axis=0), *found)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_minibatches_of_members_add_up(size: int) -> None:
    """Whole epochs have the loss and the gradient of all rows: the draws of u do not matter."""
    with jax.enable_x64(True):
        this = vr.Target(school, **DATA)
        rows = find_rows(this, size, "group", None)
        feed, engine, state = engine_of(this, rows, {"u": "optimal_normal"})
        with closing(feed):
            part = loss_and_gradient(feed, engine, state, 3)  # one epoch of 2, or two of 4
        whole, other, _ = engine_of(this, None, {"u": "optimal_normal"})
        all_rows = loss_and_gradient(whole, other, state, 1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), part, all_rows)


@pytest.mark.slow
def test_members_come_from_files_too(tmp_path: Path) -> None:
    """The laws of all members, one without rows included, from minibatches of files: the exact."""
    order = np.argsort(GROUP, kind="stable")
    frame = pd.DataFrame({"x": X, "y": Y, "g": GROUP}).iloc[order]
    for part, of_part in frame.groupby(frame.g // 2):
        of_part.to_parquet(tmp_path / f"{part}.parquet", index=False)
    columns = {"x": "x", "y": "y", "group": "g"}
    batches = vr.batches_from_parquet(tmp_path, columns, batch_size=3, block_rows=5, whole="group")
    with jax.enable_x64(True):
        this = vr.Target(school, **batches.head(4), num_groups=7, w=np.r_[W, 1.0])
        feed, engine, _ = engine_of(this, find_rows(this, None, "group", batches))
        params = at_posterior(engine, this)
        fitted = FittedGuide(params, this, jax.random.key(1), sweep=feed.view.sweep)
        found = read_guide(engine.guide, fitted)
        feed.close()
    mean, cov, _ = exact()
    got = np.concatenate([np.ravel(found.mean()[name]) for name in SITES])
    np.testing.assert_allclose(got, np.r_[mean, mean[0] + 0.7], atol=1e-9)
    new = np.r_[cov[0], cov[0, 0] + 0.36]
    np.testing.assert_allclose(found.cov(SITES)[:8, :8], cov, atol=1e-9)
    np.testing.assert_allclose(found.cov(SITES)[8], new, atol=1e-9)


def walk(y: Any) -> None:
    with numpyro.plate("time", len(y)):
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(jnp.cumsum(x), 1.0), obs=y)


def positive(y: Any) -> None:
    tau = numpyro.sample("tau", dist.Gamma(2.0, 1.0))
    with numpyro.plate("row", len(y)):
        u = numpyro.sample("u", dist.Normal(0.0, tau))
        numpyro.sample("y", dist.Normal(u, 1.0), obs=y)


def test_members_that_meet_have_no_optimum_of_their_own() -> None:
    fit = vr.SVI(guide={"x": "optimal_normal"}).fit(vr.Target(walk, y=Y[:5]))
    assert fit.status is vr.Status.NOT_APPLICABLE
    assert re.search("coordinates of x are not independent given the other sites", fit.message)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"objective": "renyi"}, "'optimal_normal' takes expectations in the ELBO"),
        ({"batch_size": 8, "plate": "row"}, "site 'u' is not in plate 'row', whose rows are drawn"),
    ],
)
def test_what_does_not_go_with_it(options: dict[str, Any], match: str) -> None:
    fit = vr.SVI(guide=GUIDE, num_steps=10, **options).fit(vr.Target(school, **DATA))
    assert fit.status is vr.Status.NOT_APPLICABLE
    assert match in fit.message


@pytest.mark.parametrize(
    ("guide", "match"),
    [
        ({"mu": "optimal_normal"}, "for the members of a plate, and site 'mu' is in none"),
        (
            {"u": "optimal_normal", "tau": "gamma"},
            "for u depends on tau, which cannot be 'gamma' then: use normal or",
        ),
    ],
)
def test_blocks_that_do_not_fit(guide: dict[str, str], match: str) -> None:
    model, data = (positive, {"y": Y}) if "tau" in guide else (school, DATA)
    with pytest.raises(ValueError, match=match):
        vr.SVI(guide=guide).fit(vr.Target(model, **data))


@pytest.mark.parametrize(
    ("change", "options", "match"),
    [
        ({"group": GROUP + 0.0}, {}, "no argument of model 'school' numbers the 6 members"),
        ({}, {"batch_size": 7}, "batch_size: got 7, expected 1 to the 6 members of plate 'group'"),
    ],
)
def test_members_that_cannot_be_drawn(
    change: dict[str, Any], options: dict[str, Any], match: str
) -> None:
    def of_floats(x: Any, y: Any, w: Any, group: Any, num_groups: int) -> None:
        school(x, y, w, jnp.asarray(group, int), num_groups)

    of_floats.__name__ = "school"
    this = vr.Target(of_floats, **DATA | change)
    with pytest.raises(ValueError, match=match):
        vr.SVI(**{"batch_size": 2, "plate": "group", "guide": GUIDE} | options).fit(this)
