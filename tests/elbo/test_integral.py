"""Expected log densities are differentiated by sums over the nodes."""

from functools import partial

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vi_recipes as vr
from vi_recipes.core import Timing

pytestmark = pytest.mark.slow

Y = np.random.default_rng(0).standard_t(4.0, 30) + 1.0


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def model(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 3.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0))
    nu = numpyro.sample("nu", dist.Gamma(2.0, 0.1))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.StudentT(nu, mu, sigma), obs=y)


def test_derivatives_are_those_of_the_density_as_it_is_written():
    target = vr.Target(vr.Model(function=model, name="t"), y=Y[:3])
    fit = vr.MeanField(num_starts=1).fit(target, throw=True)
    kl = fit.posterior.objective
    at = fit.posterior.eta.ravel() + 0.1
    summed, written = (partial(kl.value, held=kl.held, live=live) for live in (False, True))
    value, gradient = jax.value_and_grad(summed)(at)
    expected, slope = jax.value_and_grad(written)(at)
    assert abs(value - expected) < 1e-10
    np.testing.assert_allclose(gradient, slope, atol=1e-9)
    np.testing.assert_allclose(jax.hessian(summed)(at), jax.hessian(written)(at), atol=1e-9)


def test_nodes_of_three_inputs_are_not_held_at_once(monkeypatch):
    """There is room for 16 nodes of each: 4,096 of 240 elements are 8 MB in every array."""
    compile_, sizes = Timing.compile, []

    def measured(self, function, *args, calls=None):
        code = compile_(self, function, *args, calls=calls)
        sizes.append(code.memory_analysis().temp_size_in_bytes)
        return code

    monkeypatch.setattr(Timing, "compile", measured)
    target = vr.Target(vr.Model(function=model, name="t"), y=np.tile(Y, 8))
    vr.MeanField(num_starts=1).fit(target, throw=True)
    assert len(sizes) > 2
    assert max(sizes) < 8e6
