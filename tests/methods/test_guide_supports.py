"""A guide whose laws leave the supports of the model's sites is named before it runs."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest

import vi_recipes as vr


def model(y: Any) -> None:
    sd = numpyro.sample("sd", dist.HalfNormal(1.0))
    share = numpyro.sample("share", dist.Beta(2.0, 2.0))
    numpyro.sample("y", dist.Normal(share, sd), obs=y)


def guide_of(sd: dist.Distribution, share: dist.Distribution) -> Any:
    def guide(y: Any) -> None:
        numpyro.sample("sd", sd)
        numpyro.sample("share", share)

    return guide


WITHIN = dist.LogNormal(0.0, 0.1), dist.Beta(2.0, 2.0)
BEYOND = {
    "sd": (dist.Normal(9.0, 0.1), WITHIN[1], "Normal"),  # no draw is negative
    "share": (WITHIN[0], dist.LogNormal(0.0, 2.0), "LogNormal"),
}


@pytest.mark.parametrize("site", BEYOND)
def test_a_law_beyond_the_support_is_named(site: str) -> None:
    *laws, law = BEYOND[site]
    fit = vr.SVI(guide=guide_of(*laws), num_steps=10).fit(vr.Target(model, y=jnp.array(0.3)))
    assert fit.status is vr.Status.NOT_APPLICABLE
    assert f"law of '{site}' is {law}" in fit.message
    assert "step_size" not in fit.advice


def test_laws_within_the_supports_are_fitted() -> None:
    target = vr.Target(model, y=jnp.array(0.3))
    fit = vr.SVI(guide=guide_of(*WITHIN), num_steps=10, tolerance=None).fit(target)
    assert fit.has_result, fit.message
