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


def test_an_input_of_any_size_has_laws_at_a_start_in_units() -> None:
    """No law of the slope as wide as a thousandth leaves the exponential a number."""
    at = dict.fromkeys(("mu", "level", "slope"), 0.0)
    model = vr.Model(function=spread, name="spread", init=lambda *_, **__: at)
    scaled = vr.MeanField().fit(vr.Target(model, y=Y, x=X, unit=4e3), throw=True)
    raw = vr.MeanField().fit(vr.Target(model, y=Y, x=1e8 * X, unit=1.0), throw=True)
    sd = scaled.sd()["slope"]
    assert 4e11 * raw.mean()["slope"] == pytest.approx(scaled.mean()["slope"], abs=0.05 * sd)
    assert 4e11 * raw.sd()["slope"] == pytest.approx(sd, rel=0.02)


def test_what_overflows_everywhere_is_said() -> None:
    def steep(y: np.ndarray) -> None:  # a factor has no rows that tell a unit
        a = numpyro.sample("a", dist.Normal(0.0, 10.0))
        numpyro.factor("steep", -1e60 * a**2 * len(y))

    model = vr.Model(function=steep, name="steep", init=lambda *_, **__: {"a": 0.0})
    fit = vr.MeanField().fit(vr.Target(model, y=Y))
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
