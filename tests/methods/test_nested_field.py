"""Nested quadrature of Gaussian processes, against multivariate normals in closed form."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import linalg, optimize, stats
from scipy.special import logsumexp

import vi_recipes as vr
from vi_recipes.core import Timing
from vi_recipes.latent import fields
from vi_recipes.methods.nested.field import FieldMember
from vi_recipes.methods.nested.members import members_of
from vi_recipes.methods.nested.posterior import joined, members_at
from vi_recipes.methods.nested.wide_density import WideDensity, density_of

JITTER = 1e-6


def covariance(x: Any, amplitude: Any, length: Any, xp: Any = np, rough: bool = False) -> Any:
    r = xp.abs(x[:, None] - x) / length
    shape = (1 + xp.sqrt(3.0) * r) * xp.exp(-xp.sqrt(3.0) * r) if rough else xp.exp(-(r**2) / 2)
    return amplitude**2 * shape + JITTER * xp.eye(len(x))


def shape() -> tuple[Any, Any]:
    amplitude = numpyro.sample("amplitude", dist.LogNormal(0.0, 0.5))
    return amplitude, numpyro.sample("length", dist.LogNormal(0.0, 0.5))


def parameters() -> tuple[Any, Any, Any]:
    return *shape(), numpyro.sample("noise", dist.LogNormal(-1.0, 0.5))


def centred(y: Any, x: Any, rough: bool = False) -> None:
    amplitude, length, noise = parameters()
    law = dist.MultivariateNormal(0.0, covariance(x, amplitude, length, jnp, rough))
    f = numpyro.sample("f", law)
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(f, noise), obs=y)


def by_factor(y: Any, x: Any) -> None:
    amplitude, length, noise = parameters()
    root = jnp.linalg.cholesky(covariance(x, amplitude, length, jnp))
    f = numpyro.sample("f", dist.MultivariateNormal(0.0, scale_tril=root))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(f, noise), obs=y)


def whitened_field(x: Any, amplitude: Any, length: Any) -> Any:
    z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([len(x)]).to_event(1))
    root = jnp.linalg.cholesky(covariance(x, amplitude, length, jnp))
    return numpyro.deterministic("f", root @ z)


def whitened(y: Any, x: Any) -> None:
    amplitude, length, noise = parameters()
    f = whitened_field(x, amplitude, length)
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(f, noise), obs=y)


def counts(y: Any, x: Any) -> None:
    amplitude, length, _ = parameters()
    law = dist.MultivariateNormal(0.0, covariance(x, amplitude, length, jnp))
    f = numpyro.sample("f", law)
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Poisson(jnp.exp(f)), obs=y)


def data(count: int, rough: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(8)
    x = np.sort(rng.uniform(0.0, 8.0, count))
    root = np.linalg.cholesky(covariance(x, 1.2, 0.9, rough=rough))
    return x, root @ rng.standard_normal(count) + 0.3 * rng.standard_normal(count)


def known(
    x: np.ndarray, y: np.ndarray, theta: np.ndarray, rough: bool = False
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return log p(y, theta), unconstrained, and the field's mean and covariance given theta."""
    cov = covariance(x, *np.exp(theta[:2]), rough=rough)
    whole = cov + np.exp(2 * theta[2]) * np.eye(len(x))
    prior = stats.norm.logpdf(theta, [0.0, 0.0, -1.0], 0.5).sum()
    root = np.linalg.cholesky(whole)
    white = np.linalg.solve(root, np.column_stack([y, cov]))
    log_p = -(white[:, 0] ** 2).sum() / 2 - np.log(np.diag(root)).sum()
    log_p -= len(x) / 2 * np.log(2 * np.pi)
    return log_p + prior, white[:, 1:].T @ white[:, 0], cov - white[:, 1:].T @ white[:, 1:]


def density_for(model: Any, latent: str, x: np.ndarray, y: np.ndarray) -> WideDensity:
    target, timing = vr.Target(model, x=x, y=y), Timing()
    with jax.enable_x64(True):
        marginal = members_of(target, (latent,), "auto", timing)
        density = density_of(marginal, timing, target.start(jax.random.key(0), scatter=0.0))
    assert isinstance(density, WideDensity)
    return density


ROWS = np.array([[0.3, -0.2, -0.9], [-0.8, 0.6, -1.6]])


@pytest.mark.parametrize(
    "model", [centred, *(pytest.param(m, marks=pytest.mark.slow) for m in (by_factor, whitened))]
)
def test_a_process_and_its_draws_agree_with_the_normal_that_it_is(model: Any) -> None:
    x, y = data(20)
    y = y + 1e4  # far from the prior's mean
    latent = "z" if model is whitened else "f"
    density = density_for(model, latent, x, y)
    assert isinstance(density.wide, FieldMember) == (latent == "f")
    swept = density.sweep(ROWS)
    first = next(
        sum(s.size for s in density.target.quantities[:k])
        for k, s in enumerate(density.target.quantities)
        if s.name == "f"
    )
    here = slice(first, first + len(x))
    assert (density.owner[here] == 0).all()
    place = np.repeat([0, 1], 3_000)
    members = members_at(density, ROWS)
    flat = joined(density, ROWS[place], members, place, np.random.default_rng(0))
    drawn = density.target.constrain(flat)["f"]
    for k, theta in enumerate(ROWS):
        log_p, mean, cov = known(x, y, theta)
        assert swept.log_p[k] == pytest.approx(log_p, rel=1e-9)
        got = swept.mean[k, here] + density.place.reference[here]
        assert got == pytest.approx(mean, rel=1e-8)
        assert swept.variance[k, here] == pytest.approx(np.diag(cov), rel=1e-6)
        of = drawn[place == k] - mean
        z = of.mean(0) / np.sqrt(np.diag(cov) / len(of))
        assert np.abs(z).max() < 4.5
        spread = np.cov(of, rowvar=False) / np.sqrt(np.outer(np.diag(cov), np.diag(cov)))
        want = cov / np.sqrt(np.outer(np.diag(cov), np.diag(cov)))
        assert np.abs(spread - want).max() < 0.12


@pytest.mark.slow
def test_the_posterior_of_a_process_agrees_with_a_lattice() -> None:
    x, y = data(25)
    fit = vr.NestedQuadrature(tolerance=0.02).fit(vr.Target(centred, x=x, y=y))
    assert fit.status is vr.Status.OK
    sds, log_evidence, means = lattice(x, y, (28, 28, 20))
    mean, sd = fit.mean(), fit.sd()
    for k, name in enumerate(("amplitude", "length", "noise")):
        assert abs(mean[name] - means[name]) < 0.04 * sds[k]
        assert sd[name] == pytest.approx(sds[k], rel=0.04)
    assert np.abs((mean["f"] - means["f"]) / means["f_sd"]).max() < 0.04
    assert sd["f"] == pytest.approx(means["f_sd"], rel=0.04)
    assert fit.log_evidence is not None
    assert fit.log_evidence.value == pytest.approx(log_evidence, abs=0.02)


def lattice(x: np.ndarray, y: np.ndarray, sizes: tuple[int, int, int]) -> Any:
    axes = [np.linspace(-2.2, 2.2, sizes[0]), np.linspace(-2.2, 2.2, sizes[1])]
    axes.append(np.linspace(-2.6, 0.4, sizes[2]))
    rows = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    found = [known(x, y, row) for row in rows]
    logs = np.array([f[0] for f in found])
    w = np.exp(logs - logs.max())
    cell = np.prod([a[1] - a[0] for a in axes])
    evidence = float(logs.max() + np.log(w.sum() * cell))
    w /= w.sum()
    natural = np.exp(rows)
    mean = w @ natural
    at = np.array([f[1] for f in found])
    square = np.array([np.diag(f[2]) + f[1] ** 2 for f in found])
    means = dict(zip(("amplitude", "length", "noise"), mean, strict=True))
    means |= {"f": w @ at, "f_sd": np.sqrt(w @ square - (w @ at) ** 2)}
    return np.sqrt(w @ (natural - mean) ** 2), evidence, means


@pytest.mark.slow
def test_a_thousand_points_agree_with_the_normal_that_they_are() -> None:
    x, y = data(1_000, rough=True)
    density = density_for(partial(centred, rough=True), "f", x, y)
    theta = np.array([[0.2, -0.1, -1.2]])
    swept = density.sweep(theta)
    log_p, mean, cov = known(x, y, theta[0], rough=True)
    assert swept.log_p[0] == pytest.approx(log_p, rel=1e-9)
    assert swept.mean[0, 3:] == pytest.approx(mean, rel=1e-6, abs=1e-8)
    assert swept.variance[0, 3:] == pytest.approx(np.diag(cov), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("count", [100, 300])
def test_long_processes_are_known_to_a_hundredth_of_an_sd(count: int) -> None:
    x, y = data(count)
    fit = vr.NestedQuadrature(latent=("f",)).fit(vr.Target(centred, x=x, y=y))
    assert fit.status is vr.Status.OK
    assert fit.diagnostics["points"] <= 1_024
    want, sds, log_evidence = on_a_grid(x, y)
    mean, sd = fit.mean(), fit.sd()
    for k, name in enumerate(("amplitude", "length", "noise")):
        assert abs(mean[name] - want[k]) < 0.015 * sds[k]
        assert sd[name] == pytest.approx(sds[k], rel=0.02)
    assert fit.log_evidence is not None
    assert fit.log_evidence.value == pytest.approx(log_evidence, abs=0.01)


def on_a_grid(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return means and sds of the parameters, and log p(y), by steps of an sd from the mode."""

    def log_p(theta: np.ndarray) -> float:
        whole = covariance(x, *np.exp(theta[:2])) + np.exp(2 * theta[2]) * np.eye(len(x))
        prior = stats.norm.logpdf(theta, [0.0, 0.0, -1.0], 0.5).sum()
        factor = linalg.cholesky(whole, lower=True)
        white = linalg.solve_triangular(factor, y, lower=True)
        log_p = -(white @ white) / 2 - np.log(np.diag(factor)).sum()
        return float(log_p + prior - len(x) / 2 * np.log(2 * np.pi))

    end = optimize.minimize(lambda t: -log_p(t), np.array([0.0, 0.0, -1.0]), options={"gtol": 1e-3})
    root = np.linalg.cholesky(end.hess_inv)
    found: dict[tuple[int, ...], float] = {}
    ahead = [(0, 0, 0)]
    while ahead:
        at = ahead.pop()
        if at in found:
            continue
        found[at] = log_p(end.x + root @ at)
        if found[at] > -end.fun - 17.0:
            for step in (*np.eye(3, dtype=int), *-np.eye(3, dtype=int)):
                ahead.append(tuple(np.add(at, step).tolist()))
    theta, logs = end.x + np.array(list(found)) @ root.T, np.array(list(found.values()))
    total = logsumexp(logs)
    w, natural = np.exp(logs - total), np.exp(theta)
    mean = w @ natural
    log_evidence = float(total + np.log(np.diag(root)).sum())
    return mean, np.sqrt(w @ (natural - mean) ** 2), log_evidence


@pytest.mark.slow
def test_a_process_behind_counts_is_found_at_every_point() -> None:
    rng = np.random.default_rng(3)
    x = np.sort(rng.uniform(0.0, 8.0, 40))
    root = np.linalg.cholesky(covariance(x, 1.0, 1.0))
    y = rng.poisson(np.exp(root @ rng.standard_normal(40)))
    target = vr.Target(counts, x=x, y=y)
    fit = vr.NestedQuadrature(tolerance=0.05).fit(target)
    assert fit.status is vr.Status.OK
    assert "weighed points" in fit.message
    assert fit.diagnostics["points_failed"] == 0


def binary(y: Any, x: Any) -> None:
    law = dist.MultivariateNormal(0.0, covariance(x, *shape(), jnp))
    f = numpyro.sample("f", law)
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=f), obs=y)


def outcomes(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    x = np.sort(rng.uniform(0.0, 8.0, count))
    field = np.linalg.cholesky(covariance(x, 1.5, 1.0)) @ rng.standard_normal(count)
    return x, rng.binomial(1, 1 / (1 + np.exp(-field)))


@pytest.mark.slow
def test_a_process_behind_binary_outcomes_agrees_with_nuts() -> None:
    x, y = outcomes(40)
    fit = vr.NestedQuadrature(tolerance=0.02).fit(vr.Target(binary, x=x, y=y))
    assert fit.status is vr.Status.OK
    assert "weighed points" in fit.message
    # NumPyro's NUTS, run once: binary_field/make.py
    kept = (Path(__file__).parent / "binary_field" / "chains.json").read_text(encoding="utf-8")
    mean, sd = fit.mean(), fit.sd()
    for name, known in json.loads(kept)["known"].items():
        want, spread, of_mean, of_sd = (np.array(v) for v in known.values())
        assert (np.abs(mean[name] - want) < 0.02 * spread + 4 * of_mean).all()
        assert (np.abs(sd[name] - spread) < 0.02 * spread + 4 * of_sd).all()
        assert max((of_mean / spread).max(), (of_sd / spread).max()) < 0.015


@pytest.mark.slow
def test_a_hundred_points_behind_binary_outcomes_agree_with_long_chains() -> None:
    x, y = outcomes(100)
    fit = vr.NestedQuadrature(tolerance=0.02).fit(vr.Target(binary, x=x, y=y), key=0)
    assert fit.status is vr.Status.OK
    assert "256 weighed points around the mode of f (d = 100)" in fit.message
    # NUTS of the same with f = L z, four chains of 2,000 draws: 1,444 effective ones at least
    long = {
        "amplitude": (1.6591, 0.5453),
        "length": (1.1229, 0.4931),
    }
    for name, (mean, sd) in long.items():
        assert abs(fit.mean()[name] - mean) < 0.06 * sd
        assert fit.sd()[name] == pytest.approx(sd, rel=0.06)
    # every tenth point of the process
    means = "2.031 2.183 2.214 2.090 1.543 1.623 0.762 -0.082 -0.454 0.667"
    sds = "1.196 0.794 0.731 0.814 0.695 0.711 0.519 0.462 0.601 0.587"
    want, spread = (np.array(text.split(), float) for text in (means, sds))
    assert np.abs((fit.mean()["f"][::10] - want) / spread).max() < 0.05
    assert np.abs(fit.sd()["f"][::10] / spread - 1).max() < 0.05


def test_a_stiff_prior_does_not_hide_that_a_field_is_not_normal() -> None:
    variances = np.r_[1e-13, np.ones(7)]

    def stiff(y: Any) -> None:
        scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.5))
        f = numpyro.sample("f", dist.MultivariateNormal(0.0, scale**2 * jnp.diag(variances)))
        with numpyro.plate("row", 8):
            numpyro.sample("y", dist.Poisson(jnp.exp(f)), obs=y)

    target = vr.Target(stiff, y=np.array([1, 0, 3, 2, 0, 1, 5, 2]))
    with jax.enable_x64(True):
        marginal = members_of(target, ("f",), "auto", Timing(), weighed=True)
    assert marginal.rule == "quadrature"


@pytest.mark.slow
def test_a_process_that_would_take_long_is_integrated_where_it_is_named_alone() -> None:
    def of(count: int) -> vr.Target:
        x, y = data(count)
        return vr.Target(centred, x=x, y=y)

    long, some, few = map(of, (200, 100, 12))
    assert fields(some) == ("f",)
    assert fields(long) == ()
    reason = vr.NestedQuadrature().applies(long) or ""
    assert "203 parameters are left" in reason
    assert "give latent=('f',)" in reason
    assert vr.NestedQuadrature(latent=("f",)).applies(long) is None
    assert vr.NestedQuadrature().applies(some) is None
    assert not vr.NestedQuadrature().is_cheap(some)
    assert vr.NestedQuadrature().is_cheap(few)


def mixed_members(y: Any, weights: Any) -> None:
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    with numpyro.plate("member", len(y)):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Poisson(jnp.exp(scale * (weights @ z))).to_event(1), obs=y)


@pytest.mark.slow
def test_coupled_members_are_named_and_no_advice_is_given_that_is_refused() -> None:
    """Points are weighed over 300 coordinates at most, whether they were named or not."""
    rng = np.random.default_rng(0)
    y, weights = rng.poisson(1.0, 310), rng.normal(size=(310, 310)) / np.sqrt(310)
    coupled = vr.Target(mixed_members, y=y, weights=weights)
    reason = vr.NestedQuadrature().applies(coupled) or ""
    assert "no site has members that are independent given the rest: z has coupled ones" in reason
    assert "weighed points take 300" in reason
    assert "latent=" not in reason
    assert "marginal=True" not in reason
    assert vr.NestedQuadrature(latent=("z",)).applies(coupled) is not None


def normal_sums(y: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return sums over the last axis of log N(y | 0, variance), up to a constant."""
    total: np.ndarray = -(np.log(variance) + y**2 / variance).sum(-1) / 2
    return total


def require_moments_of_grid(target: vr.Target, log_p: np.ndarray, **axes: np.ndarray) -> None:
    """Require nested quadrature to be OK, with the moments of a log density on a grid."""
    w = np.exp(log_p - logsumexp(log_p))
    fit = vr.NestedQuadrature().fit(target, key=1)
    assert fit.status is vr.Status.OK, fit.explanation
    for name, at in axes.items():
        mean = (w * at).sum()
        sd = np.sqrt((w * (at - mean) ** 2).sum())
        assert abs(fit.mean()[name] - mean) < 0.02 * sd
        assert abs(fit.sd()[name] / sd - 1) < 0.02


def innovations(y: Any, in_plate: bool) -> None:
    level = numpyro.sample("level", dist.HalfNormal(1.0))
    noise = numpyro.sample("noise", dist.HalfNormal(1.0))
    if in_plate:
        with numpyro.plate("time", len(y)):
            e = numpyro.sample("e", dist.Normal(0.0, 1.0))
    else:
        e = numpyro.sample("e", dist.Normal(0.0, 1.0).expand([len(y)]).to_event(1))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(level * jnp.cumsum(e), noise), obs=y)


@pytest.mark.parametrize("in_plate", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_innovations_of_a_random_walk_are_integrated_out_unnamed(in_plate: bool) -> None:
    # their law depends on nothing: they counted as thirty parameters, and nobody told the verdict
    steps = stats.norm.rvs(size=(2, 30), random_state=1)
    y = 0.4 * steps[0].cumsum() + 0.6 * steps[1]
    walk = np.tril(np.ones((30, 30)))
    values, vectors = np.linalg.eigh(walk @ walk.T)
    level, noise = np.meshgrid(np.linspace(1e-3, 2.5, 140), np.linspace(0.01, 2.5, 150))
    log_p = normal_sums(vectors.T @ y, level[..., None] ** 2 * values + noise[..., None] ** 2)
    log_p = log_p - (level**2 + noise**2) / 2

    target = vr.Target(innovations, y=y, in_plate=in_plate)
    require_moments_of_grid(target, log_p, level=level, noise=noise)


def two_kinds_of_effects(y: Any, basis: Any) -> None:
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    rho = numpyro.sample("rho", dist.Beta(1.0, 1.0))
    z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([basis.shape[1]]).to_event(1))
    with numpyro.plate("area", len(y)):
        v = numpyro.sample("v", dist.Normal(0.0, 1.0))
        mean = s * (jnp.sqrt(rho) * (basis @ z) + jnp.sqrt(1 - rho) * v)
        numpyro.sample("y", dist.Normal(mean, 0.3), obs=y)


def test_effects_in_a_plate_and_a_vector_in_none_are_integrated_out_together() -> None:
    # a spatial part and its own for every area: with v alone, 22 parameters were left, and refused
    steps = stats.norm.rvs(size=(2, 24), random_state=3)
    basis = np.linalg.qr(stats.norm.rvs(size=(24, 20), random_state=4))[0] * np.linspace(2, 0.2, 20)
    y = 0.8 * (np.sqrt(0.7) * basis @ steps[0][:20] + np.sqrt(0.3) * steps[1])
    values, vectors = np.linalg.eigh(basis @ basis.T)
    s, rho = np.meshgrid(np.linspace(0.005, 3.0, 300), (np.arange(300) + 0.5) / 300)
    variance = s[..., None] ** 2 * (rho[..., None] * values + 1 - rho[..., None]) + 0.09
    log_p = normal_sums(vectors.T @ y, variance) - s**2 / 2

    target = vr.Target(two_kinds_of_effects, y=y, basis=basis)
    require_moments_of_grid(target, log_p, s=s, rho=rho)
