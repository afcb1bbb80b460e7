"""Inputs in the hundreds: laws at a start are narrow enough that nothing overflows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vi_recipes as vr
from vi_recipes.elbo import minimise

RNG = np.random.default_rng(2)
X = RNG.uniform(200.0, 450.0, 40)
Y = RNG.normal(1.0, np.exp(0.004 * (X - 300.0)))


def spread(y: np.ndarray, x: np.ndarray, unit: float) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    level = numpyro.sample("level", dist.Normal(0.0, 10.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 0.05 * unit))
    numpyro.sample("y", dist.Normal(mu, jnp.exp(level + slope * x / unit)), obs=y)


@pytest.mark.parametrize("method", [vr.MeanField(), vr.LinearResponse()])
def test_the_unit_of_an_input_changes_nothing(method: Any) -> None:
    raw, scaled = (method.fit(vr.Target(spread, y=Y, x=X, unit=u), throw=True) for u in (1.0, 4e3))
    assert raw.status is scaled.status is vr.Status.OK
    for site, unit in (("mu", 1.0), ("level", 1.0), ("slope", 4e3)):
        for one, other in zip((raw.mean(), raw.sd()), (scaled.mean(), scaled.sd()), strict=True):
            np.testing.assert_allclose(
                unit * one[site], other[site], rtol=0.02, atol=0.02 * scaled.sd()[site]
            )


def test_what_overflows_everywhere_is_said() -> None:
    at = dict.fromkeys(("mu", "level", "slope"), 0.0)
    model = vr.Model(function=spread, name="spread", init=lambda *_, **__: at)
    target = vr.Target(model, y=Y, x=1e8 * X, unit=1.0)
    fit = vr.MeanField().fit(target)
    assert fit.status is vr.Status.DIVERGED
    assert "have no digits left" in fit.message


def test_starts_without_a_number_are_never_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([np.nan, -3.0, np.nan, np.nan, np.nan])

    def search(*_: Any) -> Any:
        elbo = next(values)
        status = vr.Status.OK if np.isfinite(elbo) else vr.Status.UNCONVERGED
        eta, about = np.zeros((1, 2)), ""
        return SimpleNamespace(elbo=elbo, status=status, eta=eta, about=about, trace=[], other=None)

    monkeypatch.setattr(minimise, "search", search)
    kl: Any = SimpleNamespace(
        work=0,
        start=lambda *_, **__: np.zeros(2),
        target=SimpleNamespace(exchangeable=()),
        factors=SimpleNamespace(points=np.zeros(1, bool)),
        location_scale=lambda _: (np.zeros(1), np.ones(1)),
        any=lambda flag: flag,
    )
    limits: Any = SimpleNamespace(num_starts=2)
    best = minimise._best(kl, np.zeros(2), limits, lambda *_: None)
    assert (best.elbo, best.about) == (-3.0, "reached by 1 of 2 starts; ")
    none = minimise._best(kl, np.zeros(2), limits, lambda *_: None)
    assert none.status is vr.Status.UNCONVERGED
