"""Maximum marginal likelihood climbed directly: the optimum of EM, and plain likelihoods."""

from __future__ import annotations

from functools import cache
from typing import Any, get_args, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from models_for_tests import case, slopes
from models_for_tests import target as shared_target
from numpyro.contrib.control_flow import scan
from scipy import stats
from scipy.optimize import minimize
from scipy.special import expit, log_expit, logsumexp

import vi_recipes as vr
from vi_recipes.core import Timing
from vi_recipes.core.content import find
from vi_recipes.core.status import Status
from vi_recipes.latent import Marginal, MarginalObjective
from vi_recipes.latent.members import split_target
from vi_recipes.methods import default_methods

RNG = np.random.default_rng(11)
GROUP = np.repeat(np.arange(10), 6)
Y = (RNG.random(60) < 1 / (1 + np.exp(-(0.5 + RNG.standard_normal(10)[GROUP])))).astype(int)


SPREAD = np.linspace(-2.0, 2.5, 10)[GROUP]
APART = (RNG.random(60) < 1 / (1 + np.exp(-SPREAD))).astype(int)


def logistic(group, y):
    mu = numpyro.sample("mu", dist.Normal(0, 3))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0))
    with numpyro.plate("group", 10):
        u = numpyro.sample("u", dist.Normal(mu, sigma))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=u[group]), obs=y)


TARGET = vr.Target(logistic, group=GROUP, y=APART)


@pytest.mark.slow
def test_em_newton_and_l_bfgs_reach_one_optimum() -> None:
    fits = {
        "newton": vr.MarginalMLE().fit(TARGET, throw=True),
        "l-bfgs": vr.MarginalMLE(solver="l-bfgs", num_starts=2).fit(TARGET, throw=True),
        "em": vr.EM().fit(TARGET, throw=True),
        "squarem": vr.EM(accelerate=True).fit(TARGET, throw=True),
    }
    best = fits["newton"]
    for name, fit in fits.items():
        assert fit.status is Status.OK, name
        assert fit.log_likelihood == pytest.approx(best.log_likelihood, abs=1e-6), name
        for site in ("mu", "sigma"):
            close = 1e-3 * best.sd()[site]
            assert fit.mean()[site] == pytest.approx(best.mean()[site], abs=close), name
            assert fit.sd()[site] == pytest.approx(best.sd()[site], rel=1e-3), name
    assert len(fits["squarem"].trace["log_likelihood"][0]) <= len(
        fits["em"].trace["log_likelihood"][0]
    )
    assert np.diff(best.trace["log_likelihood"]).min() >= 0


@pytest.mark.slow
@pytest.mark.parametrize("method", [vr.MarginalMLE(), vr.EM(accelerate=True)])
def test_groups_that_do_not_differ_have_no_variance(method: vr.Method) -> None:
    fit = method.fit(vr.Target(logistic, group=GROUP, y=Y))
    assert fit.status is Status.COLLAPSED
    assert "sigma runs to" in fit.message
    p = Y.mean()
    plain = len(Y) * (p * np.log(p) + (1 - p) * np.log(1 - p))
    assert fit.log_likelihood == pytest.approx(plain, abs=1e-3)


@pytest.mark.slow
def test_rounding_at_a_singular_covariance_is_no_likelihood() -> None:
    """Of five starts on sleepstudy some end where the covariance is singular, which is lower."""
    data = pd.read_csv(find("models")["linear_mixed"].with_name("data.csv"))
    group = pd.factorize(data["group"])[0]
    y, x = data["y"].to_numpy(), data["days"].to_numpy(float)
    priors = {"centre": (250.0, 0.0), "width": (100.0, 50.0), "spread": (50.0, 20.0)}
    this = vr.Target(slopes, y=y, x=x, group=group, num_groups=18, **priors)
    fit = vr.MarginalMLE().fit(this, key=1, throw=True)
    assert fit.log_likelihood == pytest.approx(-875.969672, abs=1e-5)  # lme4's
    assert "higher" not in fit.message


@pytest.mark.slow
def test_a_correlation_of_one_is_an_edge() -> None:
    rng = np.random.default_rng(2)
    group, x = np.repeat(np.arange(8), 5), np.tile(np.linspace(-1, 1, 5), 8)
    a = rng.standard_normal(8)[group]
    y = 1 + a + (0.5 + 0.8 * a) * x + 0.7 * rng.standard_normal(40)
    this = vr.Target(slopes, y=y, x=x, group=group, num_groups=8)

    def minus(p: np.ndarray) -> float:  # both effects are multiples of one
        z = p[2] + p[3] * x
        cov = (group[:, None] == group) * np.outer(z, z) + np.exp(2 * p[4]) * np.eye(40)
        return -stats.multivariate_normal(p[0] + p[1] * x, cov).logpdf(y)

    best = minimize(minus, [1.0, 0.5, 1.0, 0.8, -0.4], tol=1e-10)
    fit = vr.MarginalMLE().fit(this, key=0)
    assert fit.status is Status.COLLAPSED, fit.message
    assert "L runs to an edge" in fit.message
    assert fit.log_likelihood == pytest.approx(-best.fun, abs=1e-3)


@pytest.mark.slow
def test_a_component_that_collapses_in_another_start_is_told() -> None:
    y = np.array([-1.2, -0.8, -1.1, -0.9, -1.0, 1.1, 0.7, 1.3, 0.9, 1.0])

    def model(y: np.ndarray) -> None:
        with numpyro.plate("of", 2):
            mu = numpyro.sample("mu", dist.Normal(0, 10))
            sigma = numpyro.sample("sigma", dist.HalfNormal(5))
        with numpyro.plate("row", len(y)):
            z = numpyro.sample("z", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
            numpyro.sample("y", dist.Normal(mu[z], sigma[z]), obs=y)

    def init(key: jax.Array, **_: Any) -> dict[str, Any]:
        """One component on one observation, or each on half of them."""
        alone = jax.random.bernoulli(key)
        mu, sigma = (jnp.array([1.3, 0.0]), jnp.array([1e-3, 1.0]))
        return {
            "mu": jnp.where(alone, mu, jnp.array([-1.0, 1.0])),
            "sigma": jnp.where(alone, sigma, 0.2),
        }

    this = vr.Target(vr.Model(function=model, name="two", init=init), y=y)
    fit = vr.MarginalMLE(num_starts=4).fit(this, throw=True)
    assert fit.status is Status.OK
    # components far apart: each has the moments of its half
    np.testing.assert_allclose(fit.mean()["mu"], [-1.0, 1.0], atol=1e-3)
    assert "higher up there is no maximum: sigma[0] runs to" in fit.message


def test_without_latent_variables_it_is_maximum_likelihood() -> None:
    this = shared_target("linear_regression")
    fit = vr.MarginalMLE().fit(this, throw=True)
    X, y = this.data["X"], this.data["y"]
    beta = np.linalg.lstsq(X, y, rcond=None)[0]
    cov = 0.49 * np.linalg.inv(X.T @ X)
    np.testing.assert_allclose(fit.mean()["beta"], beta, rtol=1e-8)
    np.testing.assert_allclose(fit.cov(["beta"]), cov, rtol=1e-8)
    contrast = np.array([1.0, -2.0])
    assert fit.mean()["contrast"] == pytest.approx(contrast @ beta, rel=1e-8)
    assert fit.sd()["contrast"] == pytest.approx(np.sqrt(contrast @ cov @ contrast), rel=1e-6)
    assert fit.log_likelihood == pytest.approx(stats.norm(X @ beta, 0.7).logpdf(y).sum())
    assert "no latent variables" in fit.message
    with_prior = vr.MarginalMLE(objective="map").fit(this, throw=True)
    np.testing.assert_allclose(with_prior.mean()["beta"], case("linear_regression").mean["beta"])


@pytest.mark.slow
@pytest.mark.parametrize("method", [vr.MarginalMLE(), vr.EM(), vr.MAP(), vr.Laplace()])
def test_a_second_fit_of_a_target_compiles_nothing_more(method: vr.Method) -> None:
    this = vr.Target(case("linear_regression").model, **case("linear_regression").data)
    if isinstance(method, vr.EM):
        this = TARGET
    method.fit(this, throw=True).summary()
    known = len(this.compiled_once)
    assert known > 0
    fit = method.fit(this, key=1, throw=True)
    fit.summary()
    assert fit.timing.compile_seconds == 0
    assert len(this.compiled_once) == known


def test_the_delta_method_on_a_positive_parameter() -> None:
    this = shared_target("normal_precision")
    fit = vr.MarginalMLE().fit(this, throw=True)
    y = this.data["y"]
    n, sigma = len(y), y.std()
    assert fit.mean()["sigma"] == pytest.approx(sigma, rel=1e-8)
    assert fit.sd()["sigma"] == pytest.approx(sigma / np.sqrt(2 * n), rel=1e-6)
    assert fit.sd()["tau"] == pytest.approx(sigma**-2 * np.sqrt(2 / n), rel=1e-6)
    assert fit.sd()["mu"] == pytest.approx(sigma / np.sqrt(n), rel=1e-6)


def test_a_flat_likelihood_is_said() -> None:
    def model(y):
        a = numpyro.sample("a", dist.Normal(0, 1))
        b = numpyro.sample("b", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(a + b, 1.0), obs=y)

    this = vr.Target(model, y=np.array([0.2, 1.1, 0.4]))
    fit = vr.MarginalMLE().fit(this)
    assert fit.status is Status.UNCONVERGED
    assert "flat along a, b" in fit.message
    assert vr.MarginalMLE(objective="map").fit(this).status is Status.OK


def walk(y):
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    z = numpyro.sample("z", dist.GaussianRandomWalk(scale, num_steps=len(y)))
    numpyro.sample("y", dist.Normal(z, 0.5), obs=y)


@pytest.mark.parametrize("method", [vr.MarginalMLE, vr.EM])
def test_the_scale_of_what_is_a_parameter_itself_has_no_likelihood(
    method: type[vr.EM | vr.MarginalMLE],
) -> None:
    """Left out with the priors, the walk's law says nothing of its scale."""
    y = np.array([0.2, 1.1, 0.4, 1.9, 2.7, 2.2, 3.4, 2.0])
    target = vr.Target(walk, y=y)
    fit = method().fit(target)
    assert fit.status is Status.NOT_APPLICABLE
    said = "the likelihood does not depend on scale: the prior of z does"
    assert said in fit.message
    assert "latent=('z',)" in fit.message
    assert method.key not in default_methods(target)

    fit = method(latent=("z",)).fit(target, throw=True)
    times = np.arange(1, len(y) + 1)
    walked = np.minimum.outer(times, times)

    def short(log_scale):
        cov = np.exp(2 * log_scale) * walked + 0.25 * np.eye(len(y))
        return -stats.multivariate_normal(np.zeros(len(y)), cov).logpdf(y)

    right = minimize(lambda x: short(x[0]), [0.0], tol=1e-10)
    assert fit.mean()["scale"] == pytest.approx(np.exp(right.x[0]), rel=1e-4)
    assert fit.log_likelihood == pytest.approx(-right.fun, abs=1e-8)


def test_several_starts_find_the_higher_of_two_maxima() -> None:
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        numpyro.sample("y", dist.Cauchy(mu, 1.0), obs=y)

    y = np.array([-10.0, 10.0, 10.5])
    named = vr.Model(function=model, name="cauchy", init=lambda key, **_: {"mu": jnp.array(-10.0)})
    assert vr.MarginalMLE(num_starts=1).fit(vr.Target(named, y=y)).mean()["mu"] < 0
    anywhere = vr.Model(
        function=model,
        name="cauchy",
        init=lambda key, **_: {"mu": 15 * jax.random.normal(key)},
    )
    fit = vr.MarginalMLE(num_starts=10).fit(vr.Target(anywhere, y=y))
    assert fit.mean()["mu"] > 0
    assert fit.trace["log_likelihood"].shape[0] == 10


def test_the_message_tells_of_the_best_run() -> None:
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 10))
        numpyro.sample("y", dist.Cauchy(mu, 1.0), obs=y)

    y = np.array([-10.0, 10.0, 10.5])
    this = vr.Target(
        vr.Model(
            function=model,
            name="cauchy",
            init=lambda key, **_: {"mu": 15 * jax.random.normal(key)},
        ),
        y=y,
    )
    alone = vr.MarginalMLE(num_starts=1).fit(this, key=4)
    fit = vr.MarginalMLE(num_starts=2).fit(this, key=4)
    first, second = fit.trace["log_likelihood"]
    assert first[-1] > second[-1] + 0.1
    assert len(np.unique(first)) != len(np.unique(second))
    assert fit.message.replace(", reached by 1 of 2 starts", "") == alone.message


@pytest.mark.parametrize("key", [0])
@pytest.mark.slow
def test_a_sum_over_states_is_climbed_from_several_starts(key: int) -> None:
    y = np.concatenate([RNG.poisson(3.2, 40), RNG.poisson(0.9, 60)])
    T = len(y)

    def switch(y):
        early = numpyro.sample("early", dist.Exponential(1.0))
        late = numpyro.sample("late", dist.Exponential(1.0))
        s = numpyro.sample("s", dist.DiscreteUniform(0, T - 1))
        with numpyro.plate("year", T):
            numpyro.sample("y", dist.Poisson(jnp.where(jnp.arange(T) <= s, early, late)), obs=y)

    grid = np.linspace(0.3, 5.0, 120)
    early, late = stats.poisson.logpmf(y, grid[:, None]), stats.poisson.logpmf(y, grid[:, None])
    before = np.cumsum(early, axis=1)
    after = late.sum(axis=1, keepdims=True) - np.cumsum(late, axis=1)
    right = max(logsumexp(b[None] + after, axis=1).max() for b in before) - np.log(T)
    worst = vr.Model(
        function=switch,
        name="switch",
        init=lambda key, y: {"early": y.mean(), "late": y.mean() / 9},
    )
    fit = vr.MarginalMLE().fit(vr.Target(worst, y=y), key=key)
    assert fit.status is Status.OK
    assert right - 1e-6 < fit.log_likelihood < right + 0.1
    assert "of 5 starts" in fit.message


def toenail(y, x, person, members):
    b = numpyro.sample("b", dist.Normal(0, 10).expand([2]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(10.0))
    with numpyro.plate("person", members):
        u = numpyro.sample("u", dist.Normal(0, sigma))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=b[0] + b[1] * x + u[person]), obs=y)


@cache
def effects_of_sd_nine() -> tuple[vr.Target, Any]:
    """Return 150 persons of 7 binary rows each, and their maximum on a fine grid."""
    rng = np.random.default_rng(3)
    members, each = 150, 7
    times = np.linspace(-1, 1, each)
    person, x = np.repeat(np.arange(members), each), np.tile(times, members)
    eta = -1.6 - 1.5 * x + rng.normal(0, 9.0, members)[person]
    y = (rng.random(eta.size) < expit(eta)).astype(int)
    ones = y.reshape(members, each)
    z = np.linspace(-9, 9, 4001)
    weights = stats.norm.logpdf(z) + np.log(z[1] - z[0])

    def minus(p: np.ndarray) -> float:
        eta = (p[0] + p[1] * times)[:, None] + np.exp(p[2]) * z
        rows = ones @ log_expit(eta) + (1 - ones) @ log_expit(-eta)
        return -float(logsumexp(rows + weights, axis=1).sum())

    right = minimize(minus, [-1.6, -1.2, np.log(9.8)], tol=1e-9)
    return vr.Target(toenail, y=y, x=x, person=person, members=members), right


@pytest.mark.slow
@pytest.mark.parametrize("method", [vr.MarginalMLE, vr.EM])
def test_nodes_are_added_until_they_change_nothing(method: type[vr.EM | vr.MarginalMLE]) -> None:
    """Binary rows with effects of sd 9: nine nodes are far off, and say so."""
    this, right = effects_of_sd_nine()
    fixed = method(num_nodes=9).fit(this)
    assert fixed.status is Status.UNCONVERGED
    assert "19 nodes instead of 9 change it by" in fixed.message
    fit = method().fit(this)
    assert fit.status is Status.OK, fit.message
    assert fit.log_likelihood == pytest.approx(-right.fun, abs=0.1)
    off = abs(float(fit.mean()["sigma"]) - np.exp(right.x[2]))
    assert off < 0.1 * float(fit.sd()["sigma"])
    assert off < abs(float(fixed.mean()["sigma"]) - np.exp(right.x[2]))


@pytest.mark.parametrize("method", [vr.EM, vr.MarginalMLE])
def test_every_rule_that_the_type_names_may_be_asked_for(method: type[vr.Method]) -> None:
    choices = get_args(get_type_hints(method)["e_step"])
    for rule in choices:
        assert method(e_step=rule).options()["e_step"] == rule  # type: ignore[call-arg]
    assert "forward_backward" in choices
    assert {*method.rules, "auto"} == {*choices, "else"}


@pytest.mark.slow
def test_a_chain_by_forward_backward_as_asked() -> None:
    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0, 3))
        stay = numpyro.sample("stay", dist.Beta(2, 2))

        def step(before, seen):
            z = numpyro.sample("z", dist.Bernoulli(jnp.where(before == 1, stay, 1 - stay)))
            numpyro.sample("y", dist.Normal(mu * (2 * z - 1), 1.0), obs=seen)
            return z, None

        scan(step, 0, y)

    this = vr.Target(model, y=np.array([-2.0, -1.4, 1.2, 2.9, 1.1, -1.0, -2.2, 1.7]))
    fits = [
        vr.MarginalMLE(e_step=rule, objective="map").fit(this, throw=True)
        for rule in ("auto", "forward_backward")
    ]
    assert "forward-backward over 8 times" in fits[1].message
    assert fits[0].log_likelihood == fits[1].log_likelihood


def coins(y):
    with numpyro.plate("coin", 3):
        r = numpyro.sample("r", dist.Beta(2.0, 3.0))
        numpyro.sample("y", dist.Binomial(10, r), obs=y)


@pytest.mark.parametrize("method", [vr.MarginalMLE, vr.EM, vr.VariationalEM])
def test_where_every_site_is_integrated_out_nothing_is_left(method: type[vr.Method]) -> None:
    target = vr.Target(coins, y=np.array([1, 4, 7]))
    fit = method(latent=("r",)).fit(target)
    assert fit.status is Status.NOT_APPLICABLE
    assert "no parameter left to estimate" in fit.message
    assert method.key not in default_methods(target)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"e_step": "closed_form"}, "e_step: got 'closed_form'"),
        ({"solver": "adam"}, "solver: got 'adam'"),
        ({"objective": "reml"}, "objective: got 'reml'"),
        ({"num_starts": 0}, "num_starts: got 0"),
        ({"max_steps": 0}, "max_steps: got 0"),
    ],
)
def test_bad_options(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        vr.MarginalMLE(**options)


def test_its_name() -> None:
    from vi_recipes.methods import METHODS

    assert METHODS["marginal_mle"] is vr.MarginalMLE
    assert list(METHODS).index("marginal_mle") == list(METHODS).index("em") + 1


def by_nodes(mu: float, sigma: float, num_nodes: int) -> tuple[float, np.ndarray]:
    """Return log p(y) of :func:`logistic` and the means of the effects, group by group in NumPy."""
    x, w = np.polynomial.hermite_e.hermegauss(num_nodes)
    total, means = 0.0, np.zeros(10)
    for group in range(10):
        y = Y[group == GROUP]
        mode = mu
        for _ in range(50):
            p = expit(mode)
            bend = len(y) * p * (1 - p) + 1 / sigma**2
            mode += (y.sum() - len(y) * p - (mode - mu) / sigma**2) / bend
        z = mode + x / np.sqrt(bend)
        terms = y.sum() * log_expit(z) + (len(y) - y.sum()) * log_expit(-z)
        terms += stats.norm.logpdf(z, mu, sigma) + np.log(w) + x**2 / 2 - np.log(bend) / 2
        total += logsumexp(terms)
        means[group] = np.exp(terms - logsumexp(terms)) @ z
    return total, means


def test_one_program_has_the_nodes_of_a_fit_those_of_its_check_and_the_moments() -> None:
    """Against adaptive quadrature in NumPy, the moments' slopes by central differences of it."""
    this = vr.Target(logistic, group=GROUP, y=Y)
    theta, timing = np.array([0.3, np.log(0.8)]), Timing()
    with jax.enable_x64(True):
        split = split_target(this, None)
    spent = []
    for num_nodes in (9, 19):
        marginal = Marginal(split, "quadrature", num_nodes)
        with jax.enable_x64(True):
            objective = MarginalObjective(marginal, timing, np.zeros((10, 1)))
            value, slope = objective.first_order(theta)
            moments = objective.moments(theta)
        spent.append(timing.compile_seconds)

        def oracle(theta: np.ndarray, num_nodes: int = num_nodes) -> tuple[float, np.ndarray]:
            return by_nodes(theta[0], np.exp(theta[1]), num_nodes)

        ends = [(oracle(theta + h), oracle(theta - h)) for h in 1e-4 * np.eye(2)]
        assert value == pytest.approx(-oracle(theta)[0], abs=1e-10)
        assert slope == pytest.approx([(b[0] - a[0]) / 2e-4 for a, b in ends], abs=1e-6)
        assert moments.mean[:, 0] == pytest.approx(oracle(theta)[1], abs=1e-10)
        slopes_of_means = np.stack([(a[1] - b[1]) / 2e-4 for a, b in ends], axis=-1)
        assert moments.slopes[:, 0] == pytest.approx(slopes_of_means, abs=1e-6)
    assert spent[0] == spent[1] > 0


def test_what_has_no_slope_at_the_estimate_has_the_spread_beside_it() -> None:
    """It was told as known exactly: 0 with a standard error of 0."""

    def model(y: np.ndarray) -> None:
        a = numpyro.sample("a", dist.Normal(0.0, 5.0))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(a, 1.0), obs=y)
        numpyro.deterministic("over", jnp.maximum(a - 0.1, 0.0))
        numpyro.deterministic("pair", jnp.stack([jnp.maximum(a - 0.1, 0.0), 2 * a]))
        numpyro.deterministic("never", jnp.zeros(2) * a)

    fit = vr.MarginalMLE().fit(vr.Target(model, y=np.repeat([-1.0, 1.0], 8)), key=0)
    sd = 0.25
    x = np.linspace(-8 * sd, 8 * sd, 20_001)
    weight = np.exp(-((x / sd) ** 2) / 2)
    weight /= weight.sum()
    over = np.maximum(x - 0.1, 0.0)
    spread = np.sqrt(weight @ over**2 - (weight @ over) ** 2)
    assert fit.mean()["over"] == pytest.approx(0.0, abs=1e-9)  # at the estimate
    assert fit.sd()["over"] == pytest.approx(spread, rel=0.04)
    np.testing.assert_allclose(fit.sd()["pair"], [spread, 2 * sd], rtol=0.04)
    np.testing.assert_array_equal(fit.sd()["never"], [0.0, 0.0])
    cov = fit.posterior.cov(["pair", "a"])
    np.testing.assert_allclose(np.diag(cov), [spread**2, 4 * sd**2, sd**2], rtol=0.08)
    assert cov[1, 2] == pytest.approx(2 * sd**2)


def test_one_group_is_integrated_out() -> None:
    """It was taken for a parameter, on which the others were said not to bear."""

    def model(y: jax.Array) -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        with numpyro.plate("school", 1, dim=-2):
            a = numpyro.sample("a", dist.Normal(mu, 2.0))
            with numpyro.plate("class", 1, dim=-1):
                b = numpyro.sample("b", dist.Normal(a, 1.0))
        with numpyro.plate("pupil", len(y)):
            numpyro.sample("y", dist.Normal(b[0, 0], 1.5), obs=y)

    y = np.array([1.0, 3.0, 2.5, -0.5])
    cov = 1.5**2 * np.eye(4) + 5.0
    law = stats.multivariate_normal(np.full(4, y.mean()), cov)
    for method in (vr.MarginalMLE(), vr.EM()):
        fit = method.fit(vr.Target(model, y=y), throw=True)
        assert fit.log_likelihood == pytest.approx(law.logpdf(y), rel=1e-9)
        assert float(fit.mean()["mu"]) == pytest.approx(y.mean(), rel=1e-6)
        assert float(fit.sd()["mu"]) == pytest.approx(np.sqrt(cov.sum() / 16), rel=1e-4)
    mode = vr.MAP().fit(vr.Target(model, y=y), throw=True)
    assert float(mode.mean()["mu"]) == pytest.approx(
        y.mean() * 25 / (25 + cov.sum() / 16), rel=1e-6
    )


def test_a_kink_that_lies_far_from_where_it_was_looked_is_known_by_the_program() -> None:
    """Members near a knot were integrated as normal, which was called exact and was 0.013 off."""
    group = np.repeat(np.arange(6), 5)
    y = np.array([2.9, 4.4, 3.1, 5.6, 4.8, 5.3])[group]
    y = y + np.random.default_rng(2).normal(size=30)

    def model(y: jax.Array) -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 50.0))
        tau = numpyro.sample("tau", dist.HalfNormal(5.0))
        with numpyro.plate("member", 6):
            z = numpyro.sample("z", dist.Normal(mu, tau))
        with numpyro.plate("row", 30):
            numpyro.sample("y", dist.Normal(jnp.abs(z[group] - 20.0), 1.0), obs=y)

    fit = vr.MarginalMLE().fit(vr.Target(model, y=y), throw=True)
    mu, tau = (float(fit.mean()[name]) for name in ("mu", "tau"))
    z, width = np.linspace(mu - 10 * tau, mu + 10 * tau, 40_001, retstep=True)
    rows = stats.norm(np.abs(z - 20.0), 1.0).logpdf(y.reshape(6, 5)[..., None]).sum(axis=1)
    right = logsumexp(rows + stats.norm(mu, tau).logpdf(z), axis=1) + np.log(width)
    assert "exact Gaussian" not in fit.message
    assert fit.log_likelihood == pytest.approx(right.sum(), abs=3e-3)
