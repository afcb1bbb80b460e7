"""SVI's objectives against closed forms, and the score-function gradient against the other."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import case, target
from numpyro.infer import Trace_ELBO
from scipy.optimize import minimize

import vi_recipes as vr
from vi_recipes.methods.svi.objectives import PathwiseELBO, ScoreELBO, StickingELBO
from vi_recipes.methods.svi.transport import TransportLoss


@cache
def fitted(guide: str = "normal", **options: Any) -> vr.Fit:
    options = {"num_steps": 3_000, "tolerance": None, **options}
    return vr.SVI(guide=guide, **options).fit(target("linear_regression"), key=0, throw=True)


@pytest.mark.slow
def test_every_gradient_of_the_elbo_is_unbiased() -> None:
    """Averages over many draws agree with each other, and with the closed form."""

    def model() -> None:
        numpyro.sample("x", dist.Normal(1.0, 0.5))
        numpyro.sample("w", dist.Normal(jnp.zeros(2), 1.0).to_event(1))

    def guide() -> None:
        numpyro.sample("x", dist.Normal(numpyro.param("m", 0.3), numpyro.param("s", 0.4)))
        numpyro.sample("w", dist.Delta(numpyro.param("w_loc", jnp.ones(2))).to_event(1))

    params = {"m": jnp.array(0.3), "s": jnp.array(0.4), "w_loc": jnp.array([0.5, -2.0])}
    n = 20_000

    def slopes(loss: Any) -> Any:
        return jax.jit(jax.grad(lambda p: loss.loss(jax.random.key(3), p, model, guide)))(params)

    kinds = (ScoreELBO, StickingELBO, PathwiseELBO)
    # of minus the ELBO: (m - 1) / 0.25, s / 0.25 - 1 / s and w; the terms of the sums have sds
    # below 6, and the points' gradient has no noise
    exact = {"m": -2.8, "s": 0.4 / 0.25 - 1 / 0.4, "w_loc": params["w_loc"]}
    for found in (slopes(kind(num_particles=n)) for kind in kinds):
        assert abs(found["m"] - exact["m"]) < 5 * 6 / np.sqrt(n)
        assert abs(found["s"] - exact["s"]) < 5 * 6 / np.sqrt(n)
        np.testing.assert_allclose(found["w_loc"], exact["w_loc"], rtol=1e-4)

    # at the exact law every draw's own gradient is zero
    params = {"m": jnp.array(1.0), "s": jnp.array(0.5), "w_loc": jnp.zeros(2)}
    one = jax.grad(
        lambda p: StickingELBO(num_particles=1).loss(jax.random.key(5), p, model, guide)
    )(params)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(one)) < 1e-5


@pytest.mark.parametrize("num_particles", [1, 3])
def test_the_elbo_is_numpyros(num_particles: int) -> None:
    """Value and gradient, draw for draw: with a point, a scaled plate and a site of the guide's."""

    def model(y: jax.Array) -> None:
        x = numpyro.sample("x", dist.Normal(1.0, 0.5))
        w = numpyro.sample("w", dist.Normal(x, 1.0))
        with numpyro.plate("rows", 12, subsample_size=4):
            numpyro.sample("y", dist.StudentT(4.0, w, 1.0), obs=y)

    def guide(y: jax.Array) -> None:
        auxiliary = {"is_auxiliary": True}
        a = numpyro.sample("a", dist.Normal(numpyro.param("m", 0.3), 1.0), infer=auxiliary)
        numpyro.sample("x", dist.Normal(a, numpyro.param("s", 0.4)))
        numpyro.sample("w", dist.Delta(numpyro.param("w_loc", 2.0)))

    params = {"m": jnp.array(0.3), "s": jnp.array(0.4), "w_loc": jnp.array(-2.0)}
    y = jnp.array([0.1, -0.7, 2.0, 0.4])

    def found(kind: Any) -> Any:
        loss, key = kind(num_particles=num_particles), jax.random.key(3)
        return jax.jit(jax.value_and_grad(lambda p: loss.loss(key, p, model, guide, y)))(params)

    with jax.enable_x64(True):
        ours, theirs = found(PathwiseELBO), found(Trace_ELBO)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


TEXT = """
import hashlib
import jax, numpyro, numpyro.distributions as dist
from numpyro.infer import SVI, autoguide
import optax
from vi_recipes.methods.svi.objectives import OBJECTIVES

def model():
    for name in ("alpha", "beta", "gamma", "delta", "epsilon"):
        numpyro.sample(name, dist.Normal(1.0, 2.0))

for name in ("elbo", "sticking", "score"):
    loss = OBJECTIVES[name].make(2, 0.5)
    engine = SVI(model, autoguide.AutoNormal(model), optax.adam(0.1), loss)
    state = engine.init(jax.random.key(0))
    text = jax.jit(engine.update).lower(state).as_text()
    print(name, hashlib.sha256(text.encode()).hexdigest())
"""


@pytest.mark.slow
def test_a_step_is_the_same_program_in_every_process() -> None:
    """Names have another order in a set of each; what is kept of one serves the next."""
    texts = {
        subprocess.run(
            [sys.executable, "-c", TEXT],
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1
    assert len(texts.pop().splitlines()) == 3


def test_score_function_gradients_reach_the_exact_posterior() -> None:
    known, fit = case("linear_regression"), fitted("multivariate_normal", objective="score")
    # log p - log q is constant at the optimum, so the baseline takes all the noise away
    np.testing.assert_allclose(fit.mean()["beta"], known.mean["beta"], rtol=1e-3)
    np.testing.assert_allclose(fit.sd()["beta"], known.sd["beta"], rtol=1e-2)
    assert fit.log_evidence is not None
    assert fit.log_evidence.kind == "lower bound (ELBO)"
    assert fit.log_evidence.value == pytest.approx(known.log_evidence, abs=1e-3)


def test_sticking_the_landing_leaves_no_noise_where_the_guide_is_exact() -> None:
    known = case("linear_regression")
    fit = fitted("multivariate_normal", objective="sticking")
    np.testing.assert_allclose(fit.mean()["beta"], known.mean["beta"], rtol=1e-4)
    np.testing.assert_allclose(fit.sd()["beta"], known.sd["beta"], rtol=5e-3)
    assert fit.log_evidence is not None
    assert fit.log_evidence.value == pytest.approx(known.log_evidence, abs=1e-3)
    assert fit.log_evidence.kind == "lower bound (ELBO)"
    points = vr.SVI(guide="delta", objective="sticking", num_steps=2_000, step_size=0.05)
    mode = points.fit(target("linear_regression"), key=0, throw=True)
    np.testing.assert_allclose(mode.mean()["beta"], known.mean["beta"], rtol=1e-3)


@pytest.mark.parametrize("alpha", [None, 2.0])
def test_the_renyi_optimum_is_the_closed_forms(alpha: float | None) -> None:
    known = case("linear_regression")
    assert known.cov is not None
    order, cov = alpha or 0.5, known.cov

    def divergence(log_sd: np.ndarray) -> float:
        """Return D_alpha(q || p) of centred normals, q with independent coordinates."""
        own = np.diag(np.exp(2 * log_sd))
        mixed = order * cov + (1 - order) * own
        if (np.linalg.eigvalsh(mixed) <= 0).any():
            return np.inf
        logs = [np.linalg.slogdet(m)[1] for m in (mixed, own, cov)]
        return (logs[0] - (1 - order) * logs[1] - order * logs[2]) / (2 * (1 - order))

    start = -0.5 * np.log(np.diag(np.linalg.inv(cov))) - 0.2
    best = np.exp(minimize(divergence, start, method="Nelder-Mead").x)
    fit = fitted(objective="renyi", alpha=alpha, num_particles=100)
    # 100 draws stand for the expectation, which pulls towards the ELBO's optimum
    np.testing.assert_allclose(fit.sd()["beta"], best, rtol=0.08)
    elbo_sd = np.diag(np.linalg.inv(cov)) ** -0.5
    wider = fit.sd()["beta"] > 1.05 * elbo_sd
    assert wider.all() if order < 1 else (fit.sd()["beta"] < 0.95 * elbo_sd).all()
    assert fit.log_evidence is None
    assert "renyi_bound" in fit.trace
    assert "the Renyi bound gained" in fit.message


def test_the_importance_weighted_bound_is_tight_with_many_draws() -> None:
    known = case("linear_regression").log_evidence
    fit = fitted(objective="iwae", num_particles=200)
    assert fit.log_evidence is not None
    assert fit.log_evidence.kind == "lower bound (importance-weighted)"
    # the ELBO of independent normals is 1.1 nats below
    assert -0.05 < fit.log_evidence.value - known < 4.5 * fit.log_evidence.se


def correlated() -> vr.Target:
    """Two standard normals of correlation 0.8."""

    def model() -> None:
        cov = jnp.array([[1.0, 0.8], [0.8, 1.0]])
        numpyro.sample("x", dist.MultivariateNormal(jnp.array([2.0, -1.0]), cov))

    return vr.Target(model)


@pytest.mark.slow
def test_the_wasserstein_optimum_is_the_closed_forms() -> None:
    """Of normals with independent coordinates: sds of tr(P^(1/2)) / 2, between both KLs' optima."""
    fit = vr.SVI(objective="wasserstein", num_steps=3_000, tolerance=None).fit(correlated(), key=1)
    best = (np.sqrt(1.8) + np.sqrt(0.2)) / 2  # 0.894; KL(q || p) has 0.6 and KL(p || q) has 1
    np.testing.assert_allclose(fit.sd()["x"], best, rtol=0.06)
    np.testing.assert_allclose(fit.mean()["x"], [2.0, -1.0], atol=0.1)
    assert fit.log_evidence is None
    assert "minus_sinkhorn" in fit.trace
    assert "the negative Sinkhorn divergence gained" in fit.message


@pytest.mark.slow
def test_wasserstein_has_its_optimum_at_the_posterior_where_the_guide_can_be_that() -> None:
    """In expectation the divergence is zero at p, and 0.25 a sd apart the squared distance."""

    def guide() -> None:
        scale = numpyro.param("s", 1.0) * jnp.linalg.cholesky(jnp.array([[1.0, 0.8], [0.8, 1.0]]))
        loc = jnp.array([2.0, -1.0]) + numpyro.param("m", jnp.zeros(2))
        numpyro.sample("x", dist.MultivariateNormal(loc, scale_tril=scale))

    loss, model = TransportLoss(num_particles=400), correlated().model.function

    def at(m: float, s: float, n: int = 200) -> Any:
        params = {"m": jnp.full(2, m), "s": jnp.asarray(s)}
        keys = jax.random.split(jax.random.key(0), n)
        one = jax.value_and_grad(lambda p, k: loss.loss(k, p, model, guide))
        value, slope = jax.jit(jax.vmap(one, (None, 0)))(params, keys)
        found = np.column_stack([value, slope["m"], slope["s"]])
        return found.mean(0), found.std(0) / np.sqrt(n)

    mean, error = at(0.0, 1.0)
    assert (np.abs(mean) < 4.5 * error).all()
    assert (error < [0.02, 0.1, 0.1, 0.1]).all()
    mean, error = at(0.5, 1.0)
    assert mean[0] > 10 * error[0]
    assert (mean[1:3] > 5 * error[1:3]).all()  # back to where p is
    wide, _ = at(0.0, 1.3)
    narrow, _ = at(0.0, 0.7)
    assert wide[3] > 0.1
    assert narrow[3] < -0.1


def test_wasserstein_takes_no_points_and_no_minibatches() -> None:
    this = target("linear_regression")
    points = vr.SVI(guide="delta", objective="wasserstein").fit(this)
    assert points.status is vr.Status.NOT_APPLICABLE
    assert "those of a point are all the same" in points.message
    rows = vr.SVI(objective="wasserstein", batch_size=5).fit(this)
    assert rows.status is vr.Status.NOT_APPLICABLE
    assert "no sum over rows" in rows.message


def test_weights_member_by_member_are_not_taken_from_a_joint_guide() -> None:
    def model(y: Any) -> None:
        with numpyro.plate("n", 3):
            x = numpyro.sample("x", dist.Normal(0.0, 1.0))
            numpyro.sample("y", dist.Normal(x, 1.0), obs=y)

    this = vr.Target(model, y=np.array([0.5, 1.0, -1.0]))
    joint = vr.SVI(guide="multivariate_normal", objective="iwae", num_steps=10).fit(this)
    assert joint.status is vr.Status.NOT_APPLICABLE
    assert "plate n holds every site" in joint.message
    fit = vr.SVI(objective="iwae", num_particles=50, num_steps=1_000).fit(this, throw=True)
    exact = float(dist.Normal(0.0, np.sqrt(2)).log_prob(this.data["y"]).sum())
    assert fit.log_evidence is not None
    assert fit.log_evidence.value == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize(
    ("guide", "word"), [("dais", "no density"), ({"beta": "lowrank_normal"}, "low-rank")]
)
def test_guides_without_a_score(guide: Any, word: str) -> None:
    fit = vr.SVI(guide=guide, objective="score").fit(target("linear_regression"))
    assert fit.status is vr.Status.NOT_APPLICABLE
    assert word in fit.message
    held = vr.SVI(guide="dais", objective="sticking").fit(target("linear_regression"))
    assert held.status is vr.Status.NOT_APPLICABLE


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"objective": "reny"}, "unknown objective 'reny'; did you mean 'renyi'"),
        ({"objective": "renyi", "alpha": 1.0}, "alpha: got 1.0, expected an order other than 1"),
        ({"alpha": 0.5}, "alpha: got 0.5.*only with objective='renyi'"),
        ({"objective": "score", "num_particles": 1}, "num_particles: got 1, .* at least 2"),
    ],
)
def test_bad_options(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        vr.SVI(**options)
