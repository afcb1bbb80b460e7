"""Absorbing states and other zeros: densities have slopes, and estimates are right."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from scipy.optimize import minimize
from scipy.special import expit, log_expit, logsumexp
from scipy.stats import norm

import vi_recipes as vr

RNG = np.random.default_rng(0)
Y = RNG.normal(np.where(np.arange(60) < 23, 0.0, 2.5), 1.0)
FAR = np.concatenate([RNG.normal(0.0, 1.0, 15), RNG.normal(38.0, 1.0, 15)])


def by_probabilities(moves: jax.Array) -> dist.Distribution:
    return dist.Categorical(probs=moves)


def by_own_logarithms(moves: jax.Array) -> dist.Distribution:
    return dist.Categorical(logits=jnp.log(moves))


def absorbing(law: Callable[[jax.Array], dist.Distribution]) -> Callable[..., None]:
    def model(y: jax.Array) -> None:
        stay = numpyro.sample("stay", dist.Beta(1.0, 1.0))
        level = numpyro.sample("level", dist.Normal(2.0, 10.0))
        moves = jnp.array([[stay, 1 - stay], [0.0, 1.0]])

        def step(before: jax.Array, y: jax.Array) -> tuple[jax.Array, None]:
            z = numpyro.sample("z", law(moves[before]))
            numpyro.sample("y", dist.Normal(level * z, 1.0), obs=y)
            return z, None

        scan(step, jnp.array(0), y)

    return model


def log_likelihood(logit: float, level: float, y: np.ndarray) -> float:
    """Sum over the time at which the chain leaves its first state, or over that it never does."""
    T = len(y)
    first = np.concatenate([[0.0], np.cumsum(norm.logpdf(y))])
    last = np.concatenate([np.cumsum(norm.logpdf(y, level)[::-1])[::-1], [0.0]])
    leave = np.where(np.arange(T + 1) < T, log_expit(-logit), 0.0)
    return float(logsumexp(first + last + np.arange(T + 1) * log_expit(logit) + leave))


@pytest.mark.parametrize(
    ("law", "y"),
    [
        pytest.param(by_probabilities, FAR, id="far"),  # where what paths have in common underflows
        pytest.param(by_probabilities, Y, id="near", marks=pytest.mark.slow),
        pytest.param(by_own_logarithms, Y, id="logarithms", marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_a_chain_with_an_absorbing_state_is_fitted(
    law: Callable[[jax.Array], dist.Distribution], y: np.ndarray
) -> None:
    target = vr.Target(absorbing(law), y=y)
    right = minimize(lambda p: -log_likelihood(*p, y), [2.0, y[-9:].mean()], tol=1e-10)
    fit = vr.MarginalMLE(num_starts=1).fit(target, throw=True)
    assert fit.status.ok
    assert fit.log_likelihood == pytest.approx(-right.fun, abs=1e-6)
    assert float(fit.mean()["stay"]) == pytest.approx(expit(right.x[0]), abs=1e-4)
    if y is Y:  # second derivatives of NumPyro's own density
        assert vr.Laplace().fit(target, throw=True).status.ok


def test_impossible_data_are_refused_by_name() -> None:
    def never(y: jax.Array) -> None:
        stay = numpyro.sample("stay", dist.Beta(1.0, 1.0))
        moves = jnp.array([[stay, 1 - stay], [0.0, 1.0]])
        with numpyro.plate("row", len(y)):
            z = numpyro.sample("z", dist.Categorical(probs=moves[1]))
            numpyro.sample("y", dist.Categorical(probs=moves[z]), obs=y)

    with pytest.raises(ValueError, match="no finite density") as failure:
        vr.MAP().fit(vr.Target(never, y=np.array([1, 0, 1])))
    assert "discrete latent" in str(failure.value)
