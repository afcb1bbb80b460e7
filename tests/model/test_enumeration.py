"""Discrete latent variables are summed out; the oracle is the sum written by hand."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import vi_recipes as vr

Y = np.array([-2.1, -1.4, 0.2, 1.7, 2.6])


def mixture(y):
    weight = numpyro.sample("weight", dist.Beta(2, 3))
    mu = numpyro.sample("mu", dist.Normal(jnp.array([-2.0, 2.0]), 1.0).to_event(1))
    numpyro.deterministic("gap", mu[1] - mu[0])
    with numpyro.plate("point", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(weight))
        numpyro.sample("y", dist.Normal(mu[z], 1.0), obs=y)


def chain(y):
    """Hold a two-state Markov chain, unrolled: the states couple."""
    stay = numpyro.sample("stay", dist.Beta(5, 2))
    state = 0
    for t in range(len(y)):
        go = jnp.where(state == 0, 1 - stay, stay)
        state = numpyro.sample(f"z{t}", dist.Bernoulli(go))
        numpyro.sample(f"y{t}", dist.Normal(2.0 * state - 1.0, 1.0), obs=y[t])


@pytest.mark.slow
def test_mixture_is_the_sum_over_labels() -> None:
    target = vr.Target(mixture, y=Y)
    assert [s.name for s in target.latents] == ["weight", "mu"]
    assert target.sites["z"].kind == "discrete"
    values = {"weight": np.array(0.3), "mu": np.array([-1.5, 1.8])}
    z = target.unconstrain(values)
    by_hand = (
        stats.beta(2, 3).logpdf(0.3)
        + stats.norm([-2, 2], 1).logpdf([-1.5, 1.8]).sum()
        + np.log(0.7 * stats.norm(-1.5, 1).pdf(Y) + 0.3 * stats.norm(1.8, 1).pdf(Y)).sum()
    )
    np.testing.assert_allclose(target.log_density(z, jacobian=False), by_hand, rtol=1e-12)
    log_jacobian = np.log(0.3 * 0.7)  # of the logistic map; mu is not transformed
    np.testing.assert_allclose(target.log_density(z), by_hand + log_jacobian, rtol=1e-12)
    np.testing.assert_allclose(target.constrain(z)["gap"], 3.3)


def test_coupled_states_are_the_sum_over_all_paths() -> None:
    target = vr.Target(chain, y=Y[:4])
    stay, total = 0.8, 0.0
    for path in itertools.product([0, 1], repeat=4):
        probability, before = 1.0, 0
        for t, state in enumerate(path):
            up = 1 - stay if before == 0 else stay
            probability *= (up if state else 1 - up) * stats.norm(2 * state - 1, 1).pdf(Y[t])
            before = state
        total += probability
    z = target.unconstrain({"stay": np.array(stay)})
    by_hand = stats.beta(5, 2).logpdf(stay) + np.log(total)
    np.testing.assert_allclose(target.log_density(z, jacobian=False), by_hand, rtol=1e-12)


@pytest.mark.slow
def test_every_method_fits_it() -> None:
    target = vr.Target(mixture, y=Y)
    for method in (
        vr.MAP(),
        vr.Laplace(),
        vr.SVI(num_steps=2_000),
        vr.NUTS(num_warmup=200, num_samples=200, num_chains=2),
    ):
        fit = method.fit(target, key=1)
        assert fit.has_result, fit
        assert set(fit.mean()) == {"weight", "mu", "gap"}
        gap = fit.mean()["mu"][1] - fit.mean()["mu"][0]
        np.testing.assert_allclose(fit.mean()["gap"], gap, atol=0.1)


@pytest.mark.slow
def test_starting_points_follow_the_key() -> None:
    target = vr.Target(mixture, y=Y)
    first, again, other = (target.start(jax.random.key(k)) for k in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_there_is_no_pointwise_likelihood() -> None:
    target = vr.Target(mixture, y=Y)
    with pytest.raises(ValueError, match="discrete latent"):
        target.log_likelihood(np.zeros(target.dim))


def test_a_deterministic_site_of_the_labels_is_refused() -> None:
    def model(y):
        p = numpyro.sample("p", dist.Beta(1, 1))
        with numpyro.plate("point", len(y)):
            z = numpyro.sample("z", dist.Bernoulli(p))
            numpyro.sample("y", dist.Normal(z, 1.0), obs=y)
        numpyro.deterministic("count", z.sum())

    with pytest.raises(ValueError, match=r"'count' depends on a discrete.*z"):
        vr.Target(model, y=np.linspace(-3, 3, 40))


def test_an_infinite_support_is_refused() -> None:
    def model(y):
        rate = numpyro.sample("rate", dist.Gamma(2, 1))
        n = numpyro.sample("n", dist.Poisson(rate))
        numpyro.sample("y", dist.Normal(n, 1.0), obs=y)

    with pytest.raises(ValueError, match=r"'n'.*cannot be enumerated.*Poisson"):
        vr.Target(model, y=1.0)


# -- states that are read from outside their plate -------------------------------------------------

TABLE = np.array([[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.1, 0.3, 0.6]])


def answers(y, item, num_items):
    """Answer items whose class is not known; there may be as many answers as classes."""
    pi = numpyro.sample("pi", dist.Dirichlet(2 * jnp.ones(3)))
    with numpyro.plate("item", num_items):
        c = numpyro.sample("c", dist.Categorical(pi), infer={"enumerate": "parallel"})
    with numpyro.plate("answer", len(y)):
        numpyro.sample("y", dist.Categorical(jnp.asarray(TABLE)[c[item]]), obs=y)


def answers_by_hand(pi, y, item, num_items):
    each = [np.prod(TABLE[:, y[item == i]], axis=1) for i in range(num_items)]
    return stats.dirichlet(2 * np.ones(3)).logpdf(pi) + np.log(each @ pi).sum()


@pytest.mark.parametrize("item", [[0, 0, 1], [0, 1, 1, 0, 2, 2], [2, 1]])
def test_states_read_by_an_index_are_summed_item_by_item(item: list[int]) -> None:
    item = np.array(item)
    y, num_items = np.arange(len(item)) * 2 % 3, item.max() + 1
    target = vr.Target(answers, y=y, item=item, num_items=num_items)
    pi = np.array([0.5, 0.2, 0.3])
    z = target.unconstrain({"pi": pi})
    expected = answers_by_hand(pi, y, item, num_items)
    np.testing.assert_allclose(target.log_density(z, jacobian=False), expected, rtol=1e-12)
    assert np.isfinite(target.scores(z[None])).all()


def test_other_items_are_other_rows() -> None:
    """What is found out about which rows read which item is not kept for other data."""
    y, item = np.array([0, 2, 0]), np.array([0, 0, 1])
    target = vr.Target(answers, y=y, item=item, num_items=2)
    z = target.unconstrain({"pi": np.array([0.5, 0.2, 0.3])})
    other = np.array([1, 0, 1])
    moved = target.with_data(item=other).log_density(z, jacobian=False)
    expected = answers_by_hand(np.array([0.5, 0.2, 0.3]), y, other, 2)
    np.testing.assert_allclose(moved, expected, rtol=1e-12)


@pytest.mark.slow
def test_annotators_agree_with_brute_force() -> None:
    rng = np.random.default_rng(4)
    item, who = np.repeat(np.arange(6), 3), np.tile(np.arange(3), 6)
    truth = rng.integers(2, size=6)
    y = np.where(rng.random(18) < 0.8, truth[item], 1 - truth[item])

    def dawid_skene(y, item, who):
        pi = numpyro.sample("pi", dist.Beta(2.0, 2.0))
        with numpyro.plate("annotator", 3), numpyro.plate("class", 2):
            right = numpyro.sample("right", dist.Beta(4.0, 2.0))
        with numpyro.plate("item", 6):
            c = numpyro.sample("c", dist.Bernoulli(pi))
        with numpyro.plate("answer", len(y)):
            p = right[c[item], who]
            numpyro.sample("y", dist.Bernoulli(jnp.where(c[item] == 1, p, 1 - p)), obs=y)

    target = vr.Target(dawid_skene, y=y, item=item, who=who)
    right = rng.uniform(0.6, 0.9, (2, 3))
    z = target.unconstrain({"pi": np.array(0.4), "right": right})
    says_one = np.stack([1 - right[0], right[1]])  # by class and annotator
    each = np.where(y == 1, says_one[:, who], 1 - says_one[:, who]).reshape(2, 6, 3).prod(-1)
    likelihood = np.log(0.6 * each[0] + 0.4 * each[1]).sum()
    prior = stats.beta(2, 2).logpdf(0.4) + stats.beta(4, 2).logpdf(right).sum()
    np.testing.assert_allclose(
        target.log_density(z, jacobian=False), prior + likelihood, rtol=1e-12
    )
    fit = vr.MarginalMLE(objective="map").fit(target, throw=True)
    at = target.unconstrain({name: fit.mean()[name] for name in ("pi", "right")})
    assert fit.log_likelihood < 0
    assert target.log_density(at, jacobian=False) >= prior + likelihood


def test_where_no_sum_is_right_the_cause_is_named() -> None:
    """Classes of groups, and of items within: two plates of states, one read by an index."""

    def model(y, group):
        p = numpyro.sample("p", dist.Beta(1.0, 1.0))
        with numpyro.plate("group", 2):
            a = numpyro.sample("a", dist.Bernoulli(p))
        with numpyro.plate("item", len(y)):
            c = numpyro.sample("c", dist.Bernoulli(0.2 + 0.5 * a[group]))
            numpyro.sample("y", dist.Normal(1.0 * c, 1.0), obs=y)

    with pytest.raises(ValueError, match=r"'a, c' cannot be summed out: .* different shapes"):
        vr.Target(model, y=Y, group=np.array([0, 1, 1, 0, 0]))


def test_a_sum_of_states_across_their_plate_is_not_taken_for_one_state() -> None:
    def model(y):
        p = numpyro.sample("p", dist.Beta(1.0, 1.0))
        with numpyro.plate("item", 3):
            c = numpyro.sample("c", dist.Bernoulli(p))
        numpyro.sample("y", dist.Normal(1.0 * c.sum(), 1.0), obs=y)

    with pytest.raises(ValueError, match=r"'c' cannot be summed out.*coupled through y"):
        vr.Target(model, y=1.3)
