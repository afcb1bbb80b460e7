"""Forward-backward in blocks: against sums over all paths, hmmlearn and derivatives."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp, softmax
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


def logs(p: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(p)


def by_all_paths(pi: np.ndarray, A: np.ndarray, log_emitted: np.ndarray) -> Smoothed:
    """Return sums over all paths, each weighed beside the likeliest."""
    num_times, num_states = log_emitted.shape
    paths = np.array(list(itertools.product(range(num_states), repeat=num_times)))
    with np.errstate(invalid="ignore"):
        log_p = logs(pi)[paths[:, 0]] + log_emitted[np.arange(num_times), paths].sum(axis=1)
        log_p = log_p + logs(A)[paths[:, :-1], paths[:, 1:]].sum(axis=1)
    weights = softmax(log_p)
    marginals = np.array([(paths == k).T @ weights for k in range(num_states)]).T
    transitions = np.zeros((num_states, num_states))
    for before, after in itertools.pairwise(paths.T):
        np.add.at(transitions, (before, after), weights)
    return Smoothed(logsumexp(log_p), marginals, transitions)


def assert_same(found: Smoothed, right: Smoothed) -> None:
    assert found.log_likelihood == pytest.approx(right.log_likelihood, rel=1e-12)
    np.testing.assert_allclose(found.marginals, right.marginals, atol=1e-12)
    np.testing.assert_allclose(found.transitions, right.transitions, atol=1e-12)


@pytest.mark.parametrize(("num_times", "num_states"), [(1, 2), (2, 3), (3, 2), (6, 2), (7, 3)])
def test_sums_over_all_paths(num_times: int, num_states: int) -> None:
    given = example(num_times, num_states)
    assert_same(run(*given), by_all_paths(*given))


@pytest.mark.parametrize("times", [1, 300, 1e4, 1e30])
@pytest.mark.parametrize("num_times", [1, 2, 5, 9])
@pytest.mark.parametrize("share", [0.0, 1e-200, 1e-300])
def test_what_is_all_but_impossible_is_not_lost(num_times: int, times: float, share: float) -> None:
    """Moves that are never made, or next to never, and observations that only unlikely states have.

    What has been seen so far says that a state is e^-1000 times as likely as another, and what is
    seen later can be reached from it alone.
    """
    pi, A, log_emitted = example(num_times, 3, seed=num_times)
    pi = np.array([1.0, share, 0.0])
    for edge in ((1, 0), (2, 0), (2, 1), (0, 2)):
        A[edge] = share
    given = pi, A / A.sum(axis=1, keepdims=True), times * log_emitted
    assert_same(run(*given), by_all_paths(*given))


def test_a_state_of_no_weight_is_the_only_one_from_which_to_go_on() -> None:
    """Left to right: the first state has all weight at first, and next to none from then on."""
    A = np.array([[0.9, 0.1, 0.0], [0.0, 0.9, 0.1], [0.0, 0.0, 1.0]])
    log_emitted = np.zeros((40, 3))
    log_emitted[:38, 0] = -2_000.0
    log_emitted[38:, :2] = -np.inf
    log_emitted[:38, 2] = -np.inf
    found = run(np.array([1.0, 0.0, 0.0]), A, log_emitted)
    assert found.log_likelihood == pytest.approx(-2_000 + 36 * np.log(0.9) + 2 * np.log(0.1))
    np.testing.assert_allclose(found.marginals[[0, 1, 37, 38]].argmax(axis=1), [0, 1, 1, 2])


def test_starts_side_by_side_may_be_lost_or_not() -> None:
    with_zeros, without = example(8, 3), example(8, 3, seed=1)
    with_zeros[1][0] = 0.2, 0.8, 0.0
    both = [np.stack(v) for v in zip(with_zeros, without, strict=True)]
    with jax.enable_x64(True):
        found = jax.jit(jax.vmap(smooth))(*map(jnp.asarray, both))
    for k, given in enumerate((with_zeros, without)):
        assert_same(Smoothed(*(np.asarray(v)[k] for v in found)), by_all_paths(*given))


@pytest.mark.parametrize("num_times", [1, 2, 30])
def test_a_series_of_probability_zero_has_no_number(num_times: int) -> None:
    pi, A, log_emitted = np.array([1.0, 0.0]), np.eye(2), np.zeros((num_times, 2))
    log_emitted[-1, 0] = -np.inf
    found = run(pi, A, log_emitted)
    assert all(np.isnan(v).all() for v in found)
    assert np.isnan(run(pi, A, np.full((num_times, 2), -np.inf)).log_likelihood)
    assert np.isnan(run(pi, A, np.full((num_times, 2), np.nan)).log_likelihood)


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
@pytest.mark.parametrize("zeros", [False, True])
def test_the_gradient_of_the_log_likelihood_is_the_marginals(zeros: bool) -> None:
    """Fisher's identity: d log p(y) / d log b_t(k) = p(z_t = k | y)."""
    pi, A, log_emitted = example(40, 3)
    if zeros:
        A = np.array([[0.5, 0.5, 0.0], [0.0, 0.1, 0.9], [0.3, 0.0, 0.7]])
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
