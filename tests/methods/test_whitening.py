"""Whitened coordinates against dense algebra, and the sampler in them against the plain one."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vi_recipes as vr
from vi_recipes.methods.nuts.whitening import Whitening, whiten
from vi_recipes.posterior.response import ResponsePosterior

NUM_GROUPS = 30


def normal(y: jax.Array, group: jax.Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    slope = numpyro.sample("slope", dist.Normal(mu, 1.0))
    with numpyro.plate("group", NUM_GROUPS):
        u = numpyro.sample("u", dist.Normal(mu, 0.8))
        v = numpyro.sample("v", dist.Normal(0.5 * u, 0.6))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(u[group] + v[group] + slope, 0.7), obs=y)


def logistic(y: jax.Array, group: jax.Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    tau = numpyro.sample("tau", dist.Gamma(3.0, 3.0))
    with numpyro.plate("group", NUM_GROUPS):
        u = numpyro.sample("u", dist.Normal(mu, tau**-0.5))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=u[group]), obs=y)


@cache
def data(kind: str) -> dict[str, Any]:
    rng = np.random.default_rng(4)
    group = np.repeat(np.arange(NUM_GROUPS), 8)
    effect = rng.standard_normal(NUM_GROUPS)[group]
    if kind == "normal":
        return {"y": effect + 0.7 * rng.standard_normal(group.size), "group": group}
    return {"y": (rng.random(group.size) < 1 / (1 + np.exp(-effect))).astype(int), "group": group}


def whitening(target: vr.Target) -> Whitening:
    fit = vr.LinearResponse(base=vr.MeanField(tolerance=1e-10)).fit(target, key=0, throw=True)
    assert isinstance(fit.posterior, ResponsePosterior)
    return whiten(fit.posterior)


@pytest.mark.slow
def test_a_normal_posterior_is_whitened_exactly() -> None:
    target = vr.Target(normal, **data("normal"))
    white = whitening(target)
    root = white.apply_rows(np.eye(target.dim)) - white.centre
    with jax.enable_x64(True):
        arrays = target.arrays()
        density = lambda z: -target.log_density_fn(z, arrays)  # noqa: E731
        hessian = np.asarray(jax.jit(jax.hessian(density))(jnp.zeros(target.dim)))
        gradient = np.asarray(jax.jit(jax.grad(density))(jnp.asarray(white.centre)))
    np.testing.assert_allclose(root.T @ root, np.linalg.inv(hessian), atol=1e-9)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


@pytest.mark.slow
def test_the_compiled_map_is_the_same() -> None:
    target = vr.Target(normal, **data("normal"))
    white = whitening(target)
    e = np.random.default_rng(1).standard_normal((2, 3, target.dim))
    with jax.enable_x64(True):
        one = np.asarray(white.apply(jnp.asarray(e[1, 2]), white.arrays()))
    np.testing.assert_allclose(white.apply_rows(e)[1, 2], one, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_posterior_is_unchanged(dtype: Any) -> None:
    target = vr.Target(logistic, **data("logistic"))
    plain = vr.NUTS(precondition="none", num_samples=2_000).fit(target, key=0)
    white = vr.NUTS(precondition="lrvb", num_samples=2_000, dtype=dtype).fit(target, key=1)
    assert plain.status is vr.Status.OK
    assert white.status is vr.Status.OK
    assert "whitened" in white.message
    assert "whitened" not in plain.message
    for what, error in (("mean", "mcse"), ("sd", "mcse_sd")):
        a, b = (f.flat(getattr(f, what)()) for f in (plain, white))
        noise = np.hypot(*(f.flat(getattr(f, error)()) for f in (plain, white)))
        # 64 comparisons, at 4.5 standard errors each: 4e-4 that right draws fail
        assert (np.abs(a - b) / noise).max() < 4.5


@pytest.mark.slow
def test_steps_are_fewer() -> None:
    """Of 16 chains: how far each one's adaptation gets is chance, some 0.6 steps."""
    target = vr.Target(logistic, **data("logistic"))
    options: dict[str, Any] = {"num_chains": 16, "num_samples": 250}
    plain = vr.NUTS(precondition="none", **options).fit(target, key=0)
    white = vr.NUTS(precondition="lrvb", **options).fit(target, key=0)
    assert white.diagnostics["num_steps_mean"] <= plain.diagnostics["num_steps_mean"] - 0.5


@pytest.mark.slow
def test_auto_leaves_small_models_alone() -> None:
    fit = vr.NUTS(num_warmup=20, num_samples=20).fit(vr.Target(logistic, **data("logistic")))
    assert "whitened" not in fit.message


def improper(y: jax.Array) -> None:
    x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(0.0 * x, 1.0), obs=y)


def test_no_fit_to_precondition_with() -> None:
    method = vr.NUTS(precondition="lrvb", num_warmup=20, num_samples=20)
    fit = method.fit(vr.Target(improper, y=np.zeros(3)), key=0)
    assert not fit.has_result
    assert "no mean-field fit to precondition with" in fit.message


def test_refusals() -> None:
    with pytest.raises(ValueError, match="precondition: got 'lrvb'"):
        vr.NUTS(precondition="lrvb", noncentered=("u",))
    with pytest.raises(ValueError, match="precondition: got 'dense'"):
        vr.NUTS(precondition="dense")  # type: ignore[arg-type]
