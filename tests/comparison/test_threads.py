"""Fits in several threads at once are the fits one after the other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vi_recipes as vr


def fit(seed: int) -> vr.Comparison:
    """Trace, fit, assess and draw from a model of this thread's own."""
    y = np.random.default_rng(seed).normal(seed, 1.0, 20)

    def model(y: jax.Array) -> None:
        for k in range(8):  # many sites: the threads' traces have time to cross
            numpyro.sample(f"extra_{seed}_{k}", dist.Normal(0.0, 1.0))
        mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    c = vr.compare(vr.Target(model, y=y), [vr.MAP(), vr.Laplace()])
    c["laplace"].draws(5)
    return c


@pytest.mark.slow
def test_two_threads_do_not_cross() -> None:
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(fit, [1, 2]))
    for seed, c in zip([1, 2], both, strict=True):
        assert [f.status.name for f in c.values()] == ["OK", "OK"], c
        names = [site.name for site in c["map"].sites]
        assert names == [f"extra_{seed}_{k}" for k in range(8)] + ["mu"]
        y = np.random.default_rng(seed).normal(seed, 1.0, 20)
        mean = y.sum() / (20 + 0.01)  # of the conjugate normal
        np.testing.assert_allclose(c["laplace"].mean()["mu"], mean, rtol=1e-6)
