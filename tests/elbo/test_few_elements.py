"""Sites of few elements are differentiated as they are written, others by sums over the nodes."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vi_recipes as vr
from vi_recipes.core import Timing
from vi_recipes.elbo import elements

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


def test_both_ways_give_one_fit(monkeypatch):
    def fit(most):
        monkeypatch.setattr(elements, "AT_ONCE", most)
        target = vr.Target(vr.Model(function=model, name="t"), y=Y[:3])
        return vr.MeanField(num_starts=1).fit(target, throw=True)

    written, summed = fit(10**9), fit(0)
    assert abs(written.log_evidence.value - summed.log_evidence.value) < 1e-9
    for site, sd in written.sd().items():
        np.testing.assert_allclose(written.mean()[site], summed.mean()[site], atol=1e-7 * sd)
        np.testing.assert_allclose(summed.sd()[site], sd, rtol=1e-7)


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
