"""Objectives whose second derivatives have no digits where a search begins."""

import itertools

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vi_recipes as vr
from vi_recipes.elbo.curvature import CurvedKL


def two() -> None:
    """Have two scalars, whose Hessian can only be dense."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    nu = numpyro.sample("nu", dist.Normal(mu, 1.0))
    numpyro.sample("y", dist.Normal(mu + nu, 1.0), obs=1.0)


@pytest.mark.parametrize("lost", [1, 1_000])
def test_another_start_is_taken_or_it_is_told(monkeypatch: pytest.MonkeyPatch, lost: int) -> None:
    """Members of no plate were said to couple, and the method not to apply to the model."""
    plain, calls = CurvedKL._moved_products, itertools.count()

    def products(self: CurvedKL, start: np.ndarray) -> np.ndarray:
        found = plain(self, start)
        return found * np.nan if next(calls) < lost else found

    monkeypatch.setattr(CurvedKL, "_moved_products", products)
    fit = vr.MeanField().fit(vr.Target(two), key=0)
    if lost == 1:
        assert fit.status.ok
        assert fit.mean()["mu"] == pytest.approx(1 / 3, abs=1e-6)
        return
    assert fit.status is vr.Status.DIVERGED
    assert "second derivatives of the ELBO near 5 starts are not finite" in fit.message
