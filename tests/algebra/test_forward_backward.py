"""Forward-backward in blocks: against sums over all paths, hmmlearn and derivatives."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from vi_recipes.algebra.forward_backward import Smoothed, smooth


def example(num_times: int, num_states: int, seed: int = 0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    pi = rng.dirichlet(np.ones(num_states))
    A = rng.dirichlet(np.ones(num_states), num_states)
    return pi, A, 3 * rng.standard_normal((num_times, num_states))


def run(*args: np.ndarray) -> Smoothed:
    with jax.enable_x64(True):
        found = jax.jit(smooth)(*map(jnp.asarray, args))
        return Smoothed(*map(np.asarray, found))


@pytest.mark.parametrize(("num_times", "num_states"), [(1, 2), (2, 3), (3, 2), (6, 2), (7, 3)])
def test_sums_over_all_paths(num_times: int, num_states: int) -> None:
    pi, A, log_emitted = example(num_times, num_states)
    total, marginals = 0.0, np.zeros((num_times, num_states))
    transitions = np.zeros((num_states, num_states))
    for path in itertools.product(range(num_states), repeat=num_times):
        p = pi[path[0]] * np.exp(log_emitted[np.arange(num_times), path].sum())
        p *= np.prod([A[i, j] for i, j in itertools.pairwise(path)])
        total += p
        marginals[np.arange(num_times), path] += p
        for i, j in itertools.pairwise(path):
            transitions[i, j] += p
    found = run(pi, A, log_emitted)
    assert found.log_likelihood == pytest.approx(np.log(total), rel=1e-12)
    np.testing.assert_allclose(found.marginals, marginals / total, atol=1e-13)
    np.testing.assert_allclose(found.transitions, transitions / total, atol=1e-12)


@pytest.mark.parametrize("num_times", [50, 997])
def test_long_chains_agree_with_hmmlearn(num_times: int) -> None:
    from hmmlearn.hmm import GaussianHMM

    pi, A, _ = example(1, 4, seed=3)
    mu, sigma = np.array([-2.0, 0.0, 1.0, 4.0]), np.array([1.0, 0.5, 2.0, 1.0])
    y = np.random.default_rng(2).normal(0, 3, num_times)
    theirs = GaussianHMM(4, covariance_type="spherical")
    theirs.startprob_, theirs.transmat_ = pi, A
    theirs.means_, theirs.covars_ = mu[:, None], sigma**2
    log_likelihood, marginals = theirs.score_samples(y[:, None])
    found = run(pi, A, norm.logpdf(y[:, None], mu, sigma))
    assert found.log_likelihood == pytest.approx(log_likelihood, rel=1e-12)
    np.testing.assert_allclose(found.marginals, marginals, atol=1e-10)


def test_what_the_marginals_and_moves_add_up_to() -> None:
    found = run(*example(400, 3))
    np.testing.assert_allclose(found.marginals.sum(axis=1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(
        found.transitions.sum(axis=1), found.marginals[:-1].sum(axis=0), rtol=1e-9
    )
    np.testing.assert_allclose(
        found.transitions.sum(axis=0), found.marginals[1:].sum(axis=0), rtol=1e-9
    )


@pytest.mark.slow
def test_the_gradient_of_the_log_likelihood_is_the_marginals() -> None:
    """Fisher's identity: d log p(y) / d log b_t(k) = p(z_t = k | y)."""
    pi, A, log_emitted = example(40, 3)
    with jax.enable_x64(True):
        gradient = jax.grad(lambda b: smooth(jnp.asarray(pi), jnp.asarray(A), b).log_likelihood)(
            jnp.asarray(log_emitted)
        )
    np.testing.assert_allclose(gradient, run(pi, A, log_emitted).marginals, atol=1e-10)


def test_very_unlikely_observations_do_not_underflow() -> None:
    pi, A, log_emitted = example(60, 3)
    shifted = run(pi, A, log_emitted - 5_000)
    plain = run(pi, A, log_emitted)
    assert shifted.log_likelihood == pytest.approx(plain.log_likelihood - 60 * 5_000, rel=1e-12)
    np.testing.assert_allclose(shifted.marginals, plain.marginals, rtol=1e-9)


def test_a_state_that_cannot_be_left() -> None:
    A = np.array([[0.5, 0.5], [0.0, 1.0]])
    found = run(np.array([1.0, 0.0]), A, np.zeros((200, 2)))
    assert found.transitions[1, 0] == 0
    np.testing.assert_allclose(found.marginals[:, 0], 0.5 ** np.arange(200.0), atol=1e-12)
