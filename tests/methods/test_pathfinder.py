"""Pathfinder: its mixture's density, its draws against closed forms, and what it says if wrong."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import vi_recipes as vr
from vi_recipes.methods import pathfinder
from vi_recipes.methods.pathfinder import NormalMixture, PathNormal, resample

pytest.importorskip("blackjax")

DIM = 6
SETTINGS: dict[str, Any] = {"num_paths": 4, "max_steps": 60}


@cache
def covariance() -> np.ndarray:
    root = np.random.default_rng(1).standard_normal((DIM, DIM))
    return root @ root.T + 0.1 * np.eye(DIM)


def correlated() -> None:
    numpyro.sample("x", dist.MultivariateNormal(10.0 * jnp.arange(DIM), covariance()))


def skewed() -> None:
    numpyro.sample("rate", dist.Gamma(3.0, 2.0))
    numpyro.sample("share", dist.Beta(2.0, 5.0))


def funnel() -> None:
    v = numpyro.sample("v", dist.Normal(0.0, 3.0))
    with numpyro.plate("unit", 9):
        numpyro.sample("x", dist.Normal(0.0, jnp.exp(v / 2)))


def assessed(fit: vr.Fit, target: vr.Target) -> vr.Fit:
    return replace(fit, assessment=vr.assess(fit, target))


@cache
def normal_fit() -> tuple[vr.Fit, vr.Target]:
    target = vr.Target(correlated)
    return assessed(vr.Pathfinder(**SETTINGS).fit(target, key=0, throw=True), target), target


@pytest.mark.slow
def test_a_normal_is_exact() -> None:
    fit, _ = normal_fit()
    sd = np.sqrt(np.diag(covariance()))
    error = fit.mcse()["x"]
    assert fit.status is vr.Status.OK
    assert (np.abs(fit.mean()["x"] - 10 * np.arange(DIM)) < 4.5 * error).all()
    assert (np.abs(fit.sd()["x"] - sd) < 4.5 * fit.mcse_sd()["x"]).all()
    correlation = fit.cov(["x"]).to_numpy() / np.outer(sd, sd)
    expected = covariance() / np.outer(sd, sd)
    assert np.abs(correlation - expected).max() < 4.5 * np.sqrt(2 / fit.diagnostics["ess"])
    assert fit.diagnostics["khat"] < 0.5
    assert (error < 1.1 * sd * np.sqrt(2 / 4_000)).all()
    assert vr.judge(fit).trust is vr.Trust.TRUSTWORTHY


def test_its_density_is_that_of_its_draws() -> None:
    """log q is normalised, so that of a normalised p the ratios average to 1."""
    fit, target = normal_fit()
    assert fit.posterior is not None
    drawn = fit.posterior.weighed_draws(4_000, 0)  # type: ignore[arg-type]
    assert drawn is not None
    ratios = np.exp(target.log_densities(drawn.z) - drawn.log_q)
    assert ratios.mean() == pytest.approx(1, abs=5 * ratios.std() / np.sqrt(len(ratios)))
    assert fit.assessment is not None
    assert fit.assessment.khat == pytest.approx(fit.diagnostics["khat"])


def normals() -> list[PathNormal]:
    """Two normals as a path has them: diagonal covariances changed in a few directions."""
    rng = np.random.default_rng(0)
    made = []
    for elbo in (-3.0, -15.0):
        some = rng.standard_normal((2, 2))
        factors = rng.standard_normal(DIM), rng.uniform(0.5, 2, DIM), rng.standard_normal((DIM, 2))
        made.append(PathNormal(elbo, *factors, some @ some.T))
    return made


def test_the_mixture_is_that_of_dense_normals() -> None:
    """The second is 12 nats below the best: 2 below those that take part alike."""
    mixture = NormalMixture(normals())
    x, log_q = mixture.draws(50_000, np.random.default_rng(0))
    parts = np.array([1.0, np.exp(-2.0)]) / (1 + np.exp(-2.0))
    dense = [
        stats.multivariate_normal(n.mean, np.diag(n.alpha) + n.beta @ n.gamma @ n.beta.T)
        for n in normals()
    ]
    expected = np.log(sum(part * q.pdf(x[:200]) for part, q in zip(parts, dense, strict=True)))
    np.testing.assert_allclose(log_q[:200], expected, rtol=1e-10)
    np.testing.assert_allclose(mixture.log_density(x[:200]), expected, rtol=1e-10)
    mean = parts @ np.array([q.mean for q in dense])
    cov = sum(
        part * (q.cov + np.outer(q.mean - mean, q.mean - mean))
        for part, q in zip(parts, dense, strict=True)
    )
    error = np.sqrt(np.diag(cov) / len(x))
    assert (np.abs(x.mean(0) - mean) < 4.5 * error).all()
    assert np.abs(np.cov(x.T) - cov).max() < 0.05 * np.abs(cov).max()


def test_resampled_in_proportion() -> None:
    weights = np.array([0.5, 0.25, 0.25, 0.0])
    counts = np.bincount(resample(weights, np.random.default_rng(0)), minlength=4)
    assert counts.tolist() == [2, 1, 1, 0]


@pytest.mark.slow
def test_weights_mend_what_is_no_normal() -> None:
    """Gamma and beta: moments in closed form. Its normals alone are off by many errors."""
    fit = vr.Pathfinder(**SETTINGS).fit(vr.Target(skewed), key=0, throw=True)
    gamma, beta = stats.gamma(3, scale=0.5), stats.beta(2, 5)
    assert fit.status is vr.Status.OK
    for name, law in (("rate", gamma), ("share", beta)):
        assert abs(fit.mean()[name] - law.mean()) < 4.5 * fit.mcse()[name]
        assert abs(fit.sd()[name] - law.std()) < 4.5 * fit.mcse_sd()[name]
    drawn = fit.posterior.weighed_draws(4_000, 0)  # type: ignore[union-attr, arg-type]
    assert drawn is not None
    plain = drawn.values["rate"]
    assert abs(plain.mean() - gamma.mean()) > 3 * plain.std() / np.sqrt(len(plain))


@pytest.mark.slow
def test_a_funnel_is_not_called_right() -> None:
    target = vr.Target(funnel)
    for seed in range(3):
        fit = assessed(vr.Pathfinder(**SETTINGS).fit(target, key=seed, throw=True), target)
        assert fit.status is vr.Status.UNCONVERGED
        assert "NUTS" in fit.advice
        assert vr.judge(fit).trust is not vr.Trust.TRUSTWORTHY


def schools(y: Any, sigma: Any) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("school", 8):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(mu + tau * z, sigma), obs=y)


def test_eight_schools_non_centred_is_not_normal_and_it_says_so() -> None:
    """Posteriordb's reference draws have 4.4 (sd 3.3) for mu and 3.6 (3.2) for tau; the joint mode
    is where tau is large and mu near 1.4. So its normals are far off, which khat tells."""
    y = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    target = vr.Target(schools, y=y, sigma=np.array([15.0, 10, 16, 11, 9, 11, 10, 18]))
    fit = assessed(vr.Pathfinder(**SETTINGS).fit(target, key=0, throw=True), target)
    right = abs(fit.mean()["mu"] - 4.4) < 0.1 * 3.3
    right &= abs(fit.mean()["tau"] - 3.6) < 0.1 * 3.2
    assert not right
    assert fit.status is vr.Status.UNCONVERGED
    assert f"khat {fit.diagnostics['khat']:.2f} (limit 0.7)" in fit.message
    assert vr.judge(fit).trust is vr.Trust.UNTRUSTED
    known = fit.assessment.correction.moments  # type: ignore[union-attr]
    assert abs(known.mean["mu"] - 4.4) < 0.2 * 3.3  # the yardstick that says so is right


def test_without_blackjax_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pathfinder, "find_spec", lambda name: None)
    fit = vr.Pathfinder().fit(vr.Target(skewed))
    assert fit.status is vr.Status.NOT_APPLICABLE
    assert "python -m pip install blackjax" in fit.explanation


def nowhere() -> None:
    x = numpyro.sample("x", dist.Normal(0.0, 1.0))
    numpyro.factor("never", jnp.where(x > 1e9, 0.0, -jnp.inf))


def test_without_a_start_it_names_the_sites() -> None:
    with pytest.raises(ValueError, match="never"):
        vr.Pathfinder(**SETTINGS).fit(vr.Target(nowhere))


def test_when_all_paths_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(self: Any, target: vr.Target) -> Any:
        def follow(key: Any, start: Any, arrays: Any) -> Any:
            none = jnp.full(2, jnp.nan)
            return PathNormal(-jnp.inf, none, none, none[:, None], none[:1, None]), jnp.int32(3)

        return follow

    monkeypatch.setattr(vr.Pathfinder, "_make_path", lost)
    fit = vr.Pathfinder(**SETTINGS).fit(vr.Target(skewed))
    assert fit.status is vr.Status.DIVERGED
    assert "none of 4 paths came by a normal" in fit.explanation


@pytest.mark.parametrize(
    ("option", "value"),
    [("num_paths", 0), ("num_draws", 50), ("history", 0), ("scatter", -1.0), ("max_steps", "x")],
)
def test_options_are_checked(option: str, value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=option):
        vr.Pathfinder(**{option: value})


def test_a_path_too_large_to_hold_is_refused() -> None:
    fit = vr.Pathfinder(max_steps=10**9).fit(vr.Target(skewed))
    assert fit.status is vr.Status.NOT_APPLICABLE
    assert "lower max_steps" in fit.explanation


def test_the_same_key_gives_the_same_numbers() -> None:
    target = vr.Target(skewed)
    two = [vr.Pathfinder(**SETTINGS).fit(target, key=5).mean()["rate"] for _ in range(2)]
    assert two[0] == two[1]
