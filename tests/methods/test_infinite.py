"""Means and sds that are not finite: no fit shows them, or it says why."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vi_recipes as vr


@cache
def wide() -> vr.Target:
    """The mean of tau is exp(1800), far beyond double precision; that of x is 1."""

    def model() -> None:
        numpyro.sample("tau", dist.LogNormal(0.0, 60.0))
        numpyro.sample("x", dist.Normal(1.0, 1.0))

    return vr.Target(model)


FITS = [
    vr.Laplace(),
    vr.SVI(guide="laplace", num_steps=200),
    vr.SVI(guide="normal", num_steps=4_000, step_size=0.1),
    vr.SVI(guide="multivariate_normal", num_steps=4_000, step_size=0.1),
]


@pytest.mark.parametrize("method", FITS, ids=lambda m: m.name)
def test_an_infinite_mean_is_no_result(method: vr.Method, tmp_path: Path) -> None:
    fit = method.fit(wide())
    assert fit.status is vr.Status.DIVERGED
    assert not fit.has_result
    assert fit.message.startswith("the mean or sd of tau is not finite")
    assert "use NUTS" in fit.advice
    assert fit.log_evidence is None
    assert not fit.diagnostics
    with pytest.raises(vr.FitError, match=r"has no numbers: .* sd of tau is not finite"):
        fit.mean()
    assert not vr.Fit.load(fit.save(tmp_path / "fit.nc")).has_result
    with pytest.raises(vr.FitError, match="sd of tau is not finite"):
        method.fit(wide(), throw=True)


def test_eight_schools_has_no_gaussian_at_its_mode() -> None:
    fit = vr.SVI(guide="laplace", num_steps=2_000).fit(vr.Target(vr.load_model("eight_schools")))
    assert fit.status in (vr.Status.SINGULAR, vr.Status.DIVERGED)
    assert "tau" in fit.message


def test_an_infinite_quantity_that_is_derived_is_named() -> None:
    def model() -> None:
        x = numpyro.sample("x", dist.Normal(1.0, 1.0))
        numpyro.deterministic("far", jnp.exp(1e3 + x))
        numpyro.deterministic("near", jnp.exp(x))

    fit = vr.Laplace().fit(vr.Target(model), throw=True)
    assert fit.message.endswith("; the mean or sd of far, derived from latent sites, is not finite")
    assert fit.mean()["x"] == pytest.approx(1.0)
    assert fit.mean()["near"] == pytest.approx(np.exp(1.5))


def test_a_point_has_no_sd_and_is_a_result() -> None:
    fit = vr.MAP(space="unconstrained").fit(wide(), throw=True)
    assert "not finite" not in fit.message
    assert fit.mean()["tau"] == pytest.approx(1.0)
    assert np.isnan(fit.sd()["tau"])
