"""Chains of discrete states: potentials read off a model, against sums over every path."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import vi_recipes as vr
from vi_recipes.algebra.forward_backward import smooth
from vi_recipes.core.content import find, import_file
from vi_recipes.core.timing import Timing
from vi_recipes.latent.rules import marginal_of

K, T = 3, 5


def weather(y: jax.Array, chains: int = 1) -> None:
    """Chains that share their transitions; the times of a state's emission have a scale."""
    A = numpyro.sample("A", dist.Dirichlet(jnp.full(K, 2.0)).expand([K]).to_event(1))
    mu = numpyro.sample("mu", dist.Normal(jnp.arange(K) - 1.0, 1.0).to_event(1))
    first = jnp.zeros(chains, int) if chains > 1 else 0

    def step(before: Any, observed: jax.Array) -> tuple[Any, None]:
        def emit() -> Any:
            z = numpyro.sample("z", dist.Categorical(A[before]))
            numpyro.sample("y", dist.Normal(mu[z], 0.7), obs=observed)
            return z

        if chains > 1:
            with numpyro.plate("chain", chains):
                return emit(), None
        return emit(), None

    scan(step, first, y)


@cache
def target(chains: int) -> vr.Target:
    rng = np.random.default_rng(chains)
    y = rng.standard_normal((T, chains) if chains > 1 else T) + 0.5
    return vr.Target(vr.Model(function=weather, name="weather"), y=y, chains=chains)


@pytest.mark.slow
@pytest.mark.parametrize("chains", [1, 2])
def test_against_the_sum_over_every_path(chains: int) -> None:
    this = target(chains)
    y = np.asarray(this.data["y"]).reshape(T, chains)
    with jax.enable_x64(True):
        marginal = marginal_of(this, None, "auto", 1, False, Timing())
        assert marginal.rule == "forward_backward"
        theta = jnp.asarray(np.random.default_rng(5).standard_normal(this.dim))
        value, q = marginal.value_and_posterior(theta, jnp.zeros((0, 0)), this.arrays())
    values = this.constrain(np.asarray(theta))
    A, mu = values["A"], values["mu"]
    total, expected = 0.0, np.zeros((K, T, chains))
    for c in range(chains):
        paths = np.array(list(product(range(K), repeat=T)))
        moves = np.log(A[np.concatenate([np.zeros((len(paths), 1), int), paths[:, :-1]], 1), paths])
        emitted = -(((y[:, c] - mu[paths]) / 0.7) ** 2) / 2 - np.log(0.7 * np.sqrt(2 * np.pi))
        terms = (moves + emitted).sum(1)
        total += np.logaddexp.reduce(terms)
        weights = np.exp(terms - np.logaddexp.reduce(terms))
        for k in range(K):
            expected[k, :, c] = (weights[:, None] * (paths == k)).sum(0)
    assert float(value) == pytest.approx(total, rel=1e-12)
    np.testing.assert_allclose(np.asarray(q.weights).reshape(K, T, chains), expected, atol=1e-12)


@pytest.mark.slow
def test_against_the_hidden_markov_models_own_recursion() -> None:
    """Two routes to one E-step and one maximum, from one series."""
    module: Any = import_file(find("models")["hmm"])
    y = module.simulate(num_times=60)["y"]
    states, summed = vr.Target(module.STATES, y=y), vr.Target(module.MODEL, y=y)
    em = vr.EM(e_step="forward_backward", objective="map", num_starts=1).fit(states, throw=True)
    mode = vr.MAP().fit(summed, throw=True)
    assert em.status is vr.Status.OK
    assert "forward-backward over 60 times of z, 3 states" in em.message
    for name, value in mode.mean().items():
        np.testing.assert_allclose(em.mean()[name], value, atol=2e-4)
    values = {name: np.asarray(value) for name, value in em.mean().items()}
    with jax.enable_x64(True):
        emitted = module.log_emitted(values, jnp.asarray(y), "gaussian")
        right = smooth(jnp.asarray(values["pi"]), jnp.asarray(values["A"]), emitted)
    assert em.log_likelihood == pytest.approx(float(right.log_likelihood), rel=1e-10)
    np.testing.assert_allclose(em.latents["z_probability"], right.marginals, atol=1e-8)


@pytest.mark.slow
def test_what_is_no_chain() -> None:
    fit = vr.EM(e_step="forward_backward").fit(vr.Target(vr.load_model("times_deaths")))
    assert fit.status is vr.Status.NOT_APPLICABLE
    assert "they are no chain; e_step='enumerate' applies" in fit.message
    fit = vr.MarginalMLE(e_step="enumerate").fit(target(1))
    assert "they are a chain; e_step='forward_backward' applies" in fit.message
