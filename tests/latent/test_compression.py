"""Few members that stand for many: found, exact, and declined where there are none."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vi_recipes as vr
from vi_recipes.core.content import find, import_file
from vi_recipes.core.timing import Timing
from vi_recipes.latent.compression import Compressed, compress
from vi_recipes.latent.marginal import Marginal
from vi_recipes.latent.rules import marginal_of

RNG = np.random.default_rng(11)
Y = np.concatenate([RNG.normal(-1.0, 0.7, 1_200), RNG.normal(2.0, 1.1, 1_300)])


def labelled(y: Any) -> None:
    pi = numpyro.sample("pi", dist.Dirichlet(jnp.full(2, 2.0)))
    # the prior depends on the data, and the members that are kept have others
    mu = numpyro.sample("mu", dist.Normal(y.mean(), y.std()).expand([2]).to_event(1))
    sigma = numpyro.sample("sigma", dist.LogNormal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("row", len(y)):
        z = numpyro.sample("z", dist.Categorical(pi))
        numpyro.sample("y", dist.Normal(mu[z], sigma[z]), obs=y)


def heavy_tailed(y: Any) -> None:
    """No exponential family: the log densities of different members are different functions."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    df = numpyro.sample("df", dist.Gamma(2.0, 0.1))
    with numpyro.plate("row", len(y)):
        z = numpyro.sample("z", dist.Categorical(probs=jnp.full(2, 0.5)))
        numpyro.sample("y", dist.StudentT(df, mu[z], 1.0), obs=y)


def both(target: vr.Target, *, with_prior: bool = False) -> tuple[Marginal, Marginal, np.ndarray]:
    with jax.enable_x64(True):
        marginal = marginal_of(target, None, "auto", 1, with_prior, Timing())
        start = target.start(jax.random.key(0))
        return marginal, compress(marginal, start, Timing()), start


@pytest.mark.slow
@pytest.mark.parametrize("with_prior", [False, True])
def test_objective_and_expected_log_joint_are_the_same_functions(with_prior: bool) -> None:
    this = vr.Target(labelled, y=Y)
    marginal, few, start = both(this, with_prior=with_prior)
    assert isinstance(few, Compressed)
    assert few.coefficients.shape == (2_500, 3)  # 1, y and y^2
    with jax.enable_x64(True):
        z, arrays = jnp.zeros((0, 0)), this.arrays()
        theta = jnp.asarray(start) + 0.5
        found, right = (
            jax.jit(jax.value_and_grad(lambda x, m=m: m.value(x, z, arrays)))(theta)
            for m in (few, marginal)
        )
        np.testing.assert_allclose(found[0], right[0], rtol=1e-11)
        np.testing.assert_allclose(found[1], right[1], rtol=1e-8, atol=1e-7)
        posteriors = [m.value_and_posterior(theta, z, arrays)[1] for m in (few, marginal)]
        found, right = (
            m.expected(theta - 0.3, q, arrays)
            for m, q in zip((few, marginal), posteriors, strict=True)
        )
        np.testing.assert_allclose(found, right, rtol=1e-11)
        shares = [m.probabilities(theta, z, arrays) for m in (few, marginal)]
        np.testing.assert_allclose(*shares, atol=1e-10)


@pytest.mark.slow
def test_em_of_many_rows_is_that_of_the_closed_form() -> None:
    gmm = import_file(find("models")["gmm"])
    y = np.column_stack([Y, 0.5 * Y + RNG.standard_normal(len(Y))])
    this = vr.Target(gmm.gmm(2, labels=True), y=y)
    closed = vr.EM(num_starts=1).fit(this, key=1, throw=True)
    fit = vr.EM(num_starts=1, e_step="enumerate", m_step="newton").fit(this, key=1, throw=True)
    with jax.enable_x64(True):
        timing = Timing()
        marginal = marginal_of(this, None, "enumerate", 9, False, timing)
        few = compress(marginal, this.start(jax.random.key(0)), timing)
    assert timing.compile_seconds == 0  # what EM has found is there
    assert isinstance(few, Compressed)
    assert few.coefficients.shape[1] == 6
    paths = (f.trace["log_likelihood"][:, :10] for f in (fit, closed))
    np.testing.assert_allclose(*paths, rtol=1e-11)
    for name, value in closed.sd().items():
        np.testing.assert_allclose(fit.sd()[name], value, rtol=1e-3, atol=1e-10)
    np.testing.assert_allclose(
        fit.latents["z_probability"], closed.latents["z_probability"], atol=1e-4
    )


@pytest.mark.slow
def test_what_is_no_exponential_family_is_left_as_it_is() -> None:
    marginal, few, _ = both(vr.Target(heavy_tailed, y=Y))
    assert few is marginal


@pytest.mark.slow
def test_few_members_are_left_as_they_are() -> None:
    marginal, few, _ = both(vr.Target(labelled, y=Y[::10]))
    assert few is marginal


@pytest.mark.slow
def test_a_compression_that_fails_at_the_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    this = vr.Target(labelled, y=Y)
    right = vr.EM(num_starts=1).fit(this, throw=True)
    monkeypatch.setattr("vi_recipes.methods.em.general_route.same_likelihood", lambda *_: False)
    fit = vr.EM(num_starts=1).fit(this, throw=True)
    assert fit.log_likelihood == pytest.approx(right.log_likelihood, abs=1e-6)
    assert fit.latents["z_probability"].shape == (len(Y), 2)
