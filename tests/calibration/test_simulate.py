"""Data simulated from models, and models that data cannot be simulated from."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from scipy import stats

import vi_recipes as vr
from vi_recipes.calibration.ranks import LOG_LIKELIHOOD, choose
from vi_recipes.calibration.simulate import PriorPredictive, SimulationError
from vi_recipes.core.status import ModelError


def scaled(y: jax.Array, x: jax.Array) -> None:
    sigma = numpyro.sample("sigma", dist.Gamma(3.0, 2.0))
    mu = numpyro.sample("mu", dist.Normal(1.0, 2.0))
    numpyro.deterministic("ratio", mu / sigma)
    numpyro.deterministic("gap", y - mu)
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(mu * x, sigma), obs=y)


def test_draws_come_from_the_joint_distribution_and_make_targets_of_it() -> None:
    x = np.array([1.0, -1.0, 0.5])
    predictive = PriorPredictive(vr.Target(scaled, y=np.zeros(3), x=x))
    assert predictive.arguments == {"y": "y"}
    assert predictive.shares_code
    drawn = [predictive.draw(jax.random.key(k)) for k in range(300)]
    mu, sigma = (np.array([d.truth[name] for d in drawn]) for name in ("mu", "sigma"))
    y = np.array([d.target.data["y"] for d in drawn])
    for found, law in (
        (mu, stats.norm(1, 2)),
        (sigma, stats.gamma(3, scale=0.5)),
        ((y - mu[:, None] * x).ravel() / np.repeat(sigma, 3), stats.norm()),
    ):
        assert stats.kstest(found, law.cdf).pvalue > 1e-3
    one = drawn[7]
    # deterministic values are those of the simulated data
    np.testing.assert_allclose(one.truth["gap"], one.target.data["y"] - one.truth["mu"])
    np.testing.assert_allclose(one.truth["ratio"], one.truth["mu"] / one.truth["sigma"])
    np.testing.assert_array_equal(one.target.data["x"], x)
    likelihood = stats.norm.logpdf(y[7], mu[7] * x, sigma[7]).sum()
    assert one.log_likelihood == pytest.approx(likelihood, rel=1e-12)
    again = predictive.draw(jax.random.key(7))
    np.testing.assert_array_equal(again.target.data["y"], one.target.data["y"])
    draws = {"mu": np.array([0.0, mu[7]]), "sigma": np.array([1.0, sigma[7]])}
    np.testing.assert_allclose(
        predictive.log_likelihood(one.target, draws),
        [stats.norm.logpdf(y[7]).sum(), likelihood],
        rtol=1e-12,
    )
    assert choose(predictive, None).labels == (
        "sigma", "mu", "ratio", "gap[0]", "gap[1]", "gap[2]", LOG_LIKELIHOOD
    )  # fmt: skip
    assert choose(predictive, ["mu"]).labels == ("mu", LOG_LIKELIHOOD)


def test_data_keep_their_kind_and_whole_numbers_may_be_of_a_continuous_distribution() -> None:
    def model(k: jax.Array, y: jax.Array, size: jax.Array, flag: jax.Array) -> None:
        p = numpyro.sample("p", dist.Beta(2.0, 2.0))
        numpyro.sample("k", dist.Binomial(size, p).to_event(1), obs=k)
        numpyro.sample("y", dist.Normal(p, 1.0).expand([2]).to_event(1), obs=y)
        numpyro.sample("flag", dist.Bernoulli(p).expand([3]).to_event(1), obs=flag)

    data = {"k": np.array([1, 3]), "size": np.array([5, 9]), "y": np.array([0, 4])}
    target = vr.Target(model, **data, flag=np.array([True, False, True]))
    drawn = PriorPredictive(target).draw(jax.random.key(0))
    kinds = {name: value.dtype.kind for name, value in drawn.target.data.items()}
    assert kinds == {"k": "i", "size": "i", "y": "f", "flag": "b"}
    y = drawn.target.data["y"]
    assert (y != np.round(y)).all()


def test_models_that_read_sizes_off_their_observations_are_traced_anew() -> None:
    def model(k: Any, group: Any) -> None:
        groups = len(np.unique(group))  # so whole numbers are not traced
        p = numpyro.sample("p", dist.Beta(2.0, 2.0).expand([groups]).to_event(1))
        numpyro.sample("k", dist.Binomial(10, p[group]).to_event(1), obs=k)

    group = np.array([0, 0, 1])
    predictive = PriorPredictive(vr.Target(model, k=np.array([3, 4, 5]), group=group))
    assert not predictive.shares_code
    for k in range(3):
        drawn = predictive.draw(jax.random.key(k))
        law = stats.binom(10, drawn.truth["p"][group])
        found = drawn.target.data["k"]
        assert drawn.log_likelihood == pytest.approx(law.logpmf(found).sum(), rel=1e-9)
        given = predictive.log_likelihood(drawn.target, {"p": drawn.truth["p"][None]})
        assert given == pytest.approx(drawn.log_likelihood, rel=1e-9)


def test_masked_observations_do_not_count() -> None:
    def model(y: jax.Array, seen: jax.Array) -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        with numpyro.plate("row", len(y)), handlers.mask(mask=seen):
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    seen = np.array([True, False, True])
    target = vr.Target(model, y=np.array([0.5, 9.0, 1.0]), seen=seen)
    drawn = PriorPredictive(target).draw(jax.random.key(1))
    law = stats.norm(drawn.truth["mu"], 1)
    likelihood = law.logpdf(drawn.target.data["y"])[seen].sum()
    assert drawn.log_likelihood == pytest.approx(likelihood, rel=1e-12)


def test_discrete_latent_variables_are_drawn_and_summed_out() -> None:
    pytest.importorskip("funsor")

    def model(y: jax.Array) -> None:
        low = numpyro.sample("low", dist.Normal(-2.0, 1.0))
        with numpyro.plate("row", len(y)):
            z = numpyro.sample("z", dist.Bernoulli(0.5))
            numpyro.sample("y", dist.Normal(jnp.where(z == 1, 2.0, low), 0.1), obs=y)

    predictive = PriorPredictive(vr.Target(model, y=np.zeros(40)))
    assert not predictive.has_likelihood
    drawn = predictive.draw(jax.random.key(0))
    y, low = drawn.target.data["y"], float(drawn.truth["low"])
    near = np.minimum(np.abs(y - low), np.abs(y - 2))
    assert near.max() < 0.6
    assert 8 < (np.abs(y - 2) < 0.6).sum() < 32
    chosen = choose(predictive, None)
    assert chosen.labels == ("low",)
    assert "summed out" in chosen.left_out[0]


def test_interchangeable_labels_have_no_ranks() -> None:
    def function(y: jax.Array) -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
        numpyro.sample("sigma", dist.Gamma(2.0, 2.0))
        parts = dist.Normal(mu, 1.0)
        with numpyro.plate("row", len(y)):
            law = dist.MixtureSameFamily(dist.Categorical(jnp.array([0.5, 0.5])), parts)
            numpyro.sample("y", law, obs=y)

    model = vr.Model(
        function=function, name="mix", exchangeable=(vr.Exchangeable(sites={"mu": 0}),)
    )
    predictive = PriorPredictive(vr.Target(model, y=np.arange(4.0)))
    chosen = choose(predictive, None)
    assert chosen.labels == ("sigma", LOG_LIKELIHOOD)
    assert "mu: labels are interchangeable" in chosen.left_out[0]
    with pytest.raises(ValueError, match=r"quantities: got mu, whose labels are interchangeable"):
        choose(predictive, ["mu"])


# -- what cannot be simulated ----------------------------------------------------------------------


def improper(y: jax.Array) -> None:
    mu = numpyro.sample("mu", dist.ImproperUniform(dist.constraints.real, (), ()))
    numpyro.sample("y", dist.Normal(mu, 1.0).expand([3]).to_event(1), obs=y)


def factor(y: jax.Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.factor("extra", -(mu**2))
    numpyro.sample("y", dist.Normal(mu, 1.0).expand([3]).to_event(1), obs=y)


def unobserved(y: jax.Array) -> None:
    numpyro.sample("mu", dist.Normal(y.mean(), 1.0))


def autoregression(y: jax.Array, first: jax.Array) -> None:
    rho = numpyro.sample("rho", dist.Uniform(-1.0, 1.0))
    before = jnp.concatenate([first, y[:-1]])
    numpyro.sample("y", dist.Normal(rho * before, 1.0).to_event(1), obs=y)


def empirical_prior(y: jax.Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(y.mean(), 1.0))
    numpyro.sample("y", dist.Normal(mu, 1.0).expand([3]).to_event(1), obs=y)


def transformed(y: jax.Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(mu, 1.0).expand([3]).to_event(1), obs=2 * y)


def twice(y: jax.Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(mu, 1.0).expand([3]).to_event(1), obs=y)
    numpyro.sample("y_again", dist.Normal(mu, 2.0).expand([3]).to_event(1), obs=y)


def masked_prior(y: jax.Array) -> None:
    missing = np.array([True, False, False])
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", 3):
        x = numpyro.sample("x", dist.Normal(mu, 1.0).mask(missing))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)


def imputed(y: jax.Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    seen = np.array([True, False, True])
    with numpyro.plate("row", 3):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y, obs_mask=seen)


def tempered(y: jax.Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with handlers.scale(scale=0.5):
        numpyro.sample("y", dist.Normal(mu, 1.0).expand([3]).to_event(1), obs=y)


def wild(y: jax.Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(1e5, 1.0))
    numpyro.sample("y", dist.LogNormal(mu, 1.0).expand([3]).to_event(1), obs=y)


def twins(y: jax.Array, x: jax.Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(x.sum(), 1.0))
    numpyro.sample("y", dist.Normal(mu, 1.0).expand([3]).to_event(1), obs=y)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (improper, "site 'mu' has an improper prior, which has no draws. Give it a proper one"),
        (factor, "'extra' is a numpyro.factor term"),
        (unobserved, "nothing is observed"),
        (autoregression, "site 'y' depends on the observations (argument 'y')"),
        (empirical_prior, "site 'mu' depends on the observations"),
        (transformed, "site 'y' of model 'transformed' observes none of the arguments (y)"),
        (twice, "give every observed site an argument of its own"),
        (masked_prior, "latent site 'x' is masked"),
        (imputed, "latent site 'y_unobserved' is masked"),
        (tempered, "the log density of site 'y' is scaled by 0.5"),
        (twins, "arguments y and x hold the same values"),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_what_cannot_be_simulated_is_refused(model: Callable[..., Any], message: str) -> None:
    y = np.array([0.3, 1.0, -0.4])
    more = {"first": np.zeros(1)} if model is autoregression else {}
    more |= {"x": y} if model is twins else {}
    target = vr.Target(model, y=y, **more)
    with pytest.raises(ModelError, match=re.escape(message)):
        PriorPredictive(target).draw(jax.random.key(0))


def test_data_that_are_not_finite_are_said_to_be() -> None:
    predictive = PriorPredictive(vr.Target(wild, y=np.ones(3)))
    with pytest.raises(SimulationError, match="data simulated for 'y' are not finite"):
        predictive.draw(jax.random.key(0))


def test_a_distribution_that_does_not_draw_is_said_to_be_one() -> None:
    class NoSampler(dist.Normal):
        def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
            raise NotImplementedError

    def model(y: jax.Array) -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        numpyro.sample("y", NoSampler(mu, 1.0).expand([3]).to_event(1), obs=y)

    with pytest.raises(ModelError, match="does not draw"):
        PriorPredictive(vr.Target(model, y=np.arange(3.0))).draw(jax.random.key(0))
