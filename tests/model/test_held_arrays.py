"""Arrays that a model holds on to may have been used in single precision before."""

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer.util import log_density
from scipy import stats

import vi_recipes as vr

X = np.random.default_rng(0).normal(size=20)
G = np.repeat([0, 1, 2, 3], 5)
SCALES = np.array([1.0, 2.0, 0.5, 3.0])


def by_index():
    x, group = X.copy(), G.copy()

    def model(y):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0).expand([4]).to_event(1))
        with numpyro.plate("row", 20):
            numpyro.sample("y", dist.Normal(a[group] + x, 1.0), obs=y)

    return model


def by_scale():
    x, scales = X.copy(), SCALES.copy()

    def model(y):
        a = numpyro.sample("a", dist.Normal(0.0, scales).to_event(1))
        with numpyro.plate("row", 20):
            numpyro.sample("y", dist.Normal(a.sum() * x, 1.0), obs=y)

    return model


@pytest.mark.parametrize(
    ("make", "scale", "mean"),
    [(by_index, 1.0, lambda a: a[G] + X), (by_scale, SCALES, lambda a: a.sum() * X)],
)
def test_a_model_that_numpyro_ran_before_is_taken_in_double_precision(make, scale, mean):
    function = make()
    y, a = 2.0 * X, np.array([0.1, -0.2, 1 / 3, 0.7])
    with jax.enable_x64(False):
        single = jax.jit(lambda a: log_density(function, (), {"y": y}, {"a": a})[0])
        jax.grad(single)(np.asarray(a, np.float32))
        target = vr.Target(vr.Model(function=function, name="held"), y=y)
        got = target.log_density(a)
    exact = stats.norm.logpdf(a, 0.0, scale).sum() + stats.norm.logpdf(y, mean(a)).sum()
    assert abs(got - exact) < 1e-12 * abs(exact)
