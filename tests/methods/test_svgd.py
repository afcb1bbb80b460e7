"""Stein variational gradient descent: NumPyro's force, exact moments, and an honest status."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from models_for_tests import case, target
from numpyro.contrib.einstein import SVGD as NumPyroSVGD
from numpyro.contrib.einstein import RBFKernel
from numpyro.optim import SGD

import vi_recipes as vr
from vi_recipes.methods import METHODS, default_methods
from vi_recipes.methods.svgd import stein_force


@cache
def fitted(model: str, **options: Any) -> vr.Fit:
    return vr.SVGD(**options).fit(target(model), key=1)


@pytest.mark.slow
def test_the_force_is_numpyros() -> None:
    """On an unconstrained model both mean the same density: one plain step shows the force."""
    precision = jnp.array([[2.0, 0.5], [0.5, 1.0]])

    def model() -> None:
        numpyro.sample("x", dist.MultivariateNormal(jnp.ones(2), precision_matrix=precision))

    with jax.enable_x64(True):
        theirs = NumPyroSVGD(model, SGD(1.0), RBFKernel(), num_stein_particles=7)
        before = theirs.init(jax.random.key(0))
        after, size = jax.jit(theirs.update)(before)
        x, moved = (theirs.get_params(state)["x_auto_loc"] for state in (before, after))
        force, mass = stein_force(x, -(x - 1) @ precision)
    np.testing.assert_allclose(force, moved - x, rtol=1e-6)
    assert np.linalg.norm(force) == pytest.approx(float(size), rel=1e-6)
    places = np.asarray(x)
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1)
    kernel = np.exp(-(distances**2) / (np.median(distances) ** 2 / np.log(7)))
    np.testing.assert_allclose(mass, kernel.mean(axis=0), rtol=1e-6)


def test_particles_have_about_the_exact_moments_whatever_the_support() -> None:
    known, fit = case("normal_precision"), fitted("normal_precision", num_particles=40)
    assert fit.status is vr.Status.OK
    for site, mean in known.mean.items():
        # the mass at the two ends of 40 particles is missing, which costs some of the sd
        assert abs(fit.mean()[site] - mean) < 0.05 * known.sd[site], site
        assert 0.85 < fit.sd()[site] / known.sd[site] < 1.0, site
    assert fit.trace["force_left"][-1] < 0.005
    assert fit.diagnostics["num_steps"] == fit.trace["force_left_step"][-1]


def test_steins_identity_is_the_ratio_of_the_covariances_on_a_normal() -> None:
    known, fit = case("nested_plates"), fitted("nested_plates", num_particles=30)
    assert known.cov is not None
    cov = fit.cov().to_numpy() * 29 / 30
    ratio = np.diag(np.linalg.inv(known.cov) @ cov)
    assert fit.diagnostics["stein_identity_min"] == pytest.approx(ratio.min(), rel=1e-6)
    assert fit.diagnostics["stein_identity_max"] == pytest.approx(ratio.max(), rel=1e-6)
    # thirty particles in ten dimensions are far too close together, and the fit says so
    assert ratio.max() < 0.5
    assert fit.status is vr.Status.UNCONVERGED
    assert "at rest" in fit.message
    assert "too close together" in fit.message
    assert "raise num_particles (30 for 10 coordinates)" in fit.advice


def test_no_monte_carlo_error_is_made_up() -> None:
    fit = fitted("normal_precision", num_particles=40)
    assert all(np.isnan(v).all() for v in (*fit.mcse().values(), *fit.mcse_sd().values()))
    assert "not independent draws" in fit.message
    assert not fit.is_sampler
    assert fit.log_evidence is None
    assert fit.to_arviz()["posterior"]["mu"].shape == (1, 40)


def test_saved_and_read_again(tmp_path: Any) -> None:
    fit = fitted("normal_precision", num_particles=40)
    again = vr.Fit.load(fit.save(tmp_path / "fit.nc"))
    np.testing.assert_array_equal(again.flat(again.sd()), fit.flat(fit.sd()))
    assert np.isnan(again.flat(again.mcse())).all()
    methods = [vr.SVGD(num_steps=10, num_particles=5), vr.Laplace()]
    c = vr.compare(target("normal_precision"), methods, reference="laplace")
    assert c["svgd"].status is vr.Status.UNCONVERGED
    assert "all 10 steps were taken" in c["svgd"].message
    assert np.isnan(c.accuracy()["difference_mcse"].astype(float)).all()
    assert "Provisional" in c.verdict_of["svgd"].text


def test_labels_are_matched_to_the_best_particle() -> None:
    fit = fitted("mixture", num_steps=50, num_particles=20)
    assert "relabelled" in fit.message
    mu = fit.draws(20)["mu"]
    assert (np.sign(mu[:, 0] - mu[:, 1]) == np.sign(mu[0, 0] - mu[0, 1])).all()


def test_the_same_key_gives_the_same_particles_and_another_key_others() -> None:
    method = vr.SVGD(num_steps=20, num_particles=5)
    a, b, c = (method.fit(target("normal_mean"), key=key) for key in (3, 3, 4))
    np.testing.assert_array_equal(a.draws(5)["mu"], b.draws(5)["mu"])
    assert set(a.draws(5)["mu"]).isdisjoint(c.draws(5)["mu"])


def test_particles_start_where_the_density_is_finite_and_a_jump_out_is_reported() -> None:
    def model() -> None:
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))
        numpyro.factor("wall", jnp.where(jnp.abs(x) < 0.5, 0.0, -jnp.inf))

    this = vr.Target(model)
    still = vr.SVGD(num_steps=1, num_particles=20, step_size=1e-9).fit(this, key=0)
    assert (np.abs(still.draws(20)["x"]) < 0.5).all()
    jump = vr.SVGD(num_steps=1, num_particles=20, optimizer=optax.sgd(1e6)).fit(this, key=0)
    assert jump.status is vr.Status.DIVERGED
    assert "a particle left the region of finite density by step 1" in jump.message


def test_an_interrupt_keeps_the_particles_there_are() -> None:
    def stop(done: int, total: int, _: str = "") -> None:
        if done >= 50:
            raise KeyboardInterrupt

    method = vr.SVGD(num_steps=200, num_particles=10, tolerance=1e-12)
    fit = method.fit(target("normal_mean"), key=0, progress=stop)
    assert fit.status is vr.Status.INTERRUPTED
    assert fit.message.startswith("50 steps")
    assert np.isfinite(fit.mean()["mu"])


def test_it_runs_only_if_named() -> None:
    assert METHODS["svgd"] is vr.SVGD
    assert "svgd" not in default_methods(target("normal_mean"))
    json.dumps(vr.SVGD().options())


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_particles": 3}, "num_particles: got 3, expected an integer of 4 or more"),
        ({"num_steps": 0}, "num_steps: got 0"),
        ({"tolerance": 0.0}, "tolerance: got 0.0"),
        ({"step_size": -1.0}, "step_size: got -1.0"),
        ({"scatter": 0.0}, "scatter: got 0.0"),
        ({"optimizer": "adam"}, "optimizer: got 'adam', expected an optax gradient"),
    ],
)
def test_bad_options(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        vr.SVGD(**options)


def test_a_second_fit_of_a_target_compiles_nothing() -> None:
    traced: list[None] = []

    def model(y: Any) -> None:
        traced.append(None)
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        numpyro.sample("s", dist.Gamma(2.0, 1.0))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    this = vr.Target(model, y=np.array([0.5, 1.5]))
    method = vr.SVGD(num_particles=10, num_steps=40)
    first = method.fit(this, key=1, throw=True)
    assert first.timing.compile_seconds > 0
    traced.clear()
    again, other = (method.fit(this, key=key, throw=True) for key in (1, 2))
    assert not traced
    assert again.timing.compile_seconds == other.timing.compile_seconds == 0
    assert again.mean()["mu"] == first.mean()["mu"] != other.mean()["mu"]
