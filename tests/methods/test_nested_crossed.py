"""Crossed effects with a binary response: points around the joint mode, weighed."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from crossed_for_tests import crossed_effects
from scipy import stats
from scipy.special import log_expit, logsumexp

import vi_recipes as vr
from vi_recipes import NestedQuadrature, Status
from vi_recipes.core import Timing
from vi_recipes.latent import columns, marginal_of
from vi_recipes.methods.nested import nested
from vi_recipes.methods.nested.wide_density import WideDensity, density_of


def crossed(y: Any, row: Any, column: Any, rows: int, columns: int) -> None:
    eta = crossed_effects(row, column, rows, columns)
    with numpyro.plate("pair", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=eta), obs=y)


def target_of(y: np.ndarray, row: np.ndarray, column: np.ndarray) -> vr.Target:
    data = {"y": y, "row": row, "column": column}
    data |= {"rows": int(row.max()) + 1, "columns": int(column.max()) + 1}
    return vr.Target(vr.Model(function=crossed, data=lambda: data, name="crossed"))


@pytest.mark.slow
def test_weighed_points_have_no_bias_where_laplace_has() -> None:
    row, column = np.repeat(np.divmod(np.arange(14), 2), 3, axis=1)
    y = (np.random.default_rng(1).random(42) < 0.2 + 0.6 * (row % 2)).astype(int)
    target, timing = target_of(y, row, column), Timing()
    with jax.enable_x64(True):
        marginal = marginal_of(target, ("u", "v"), "auto", "auto", True, timing, wide=True)
        density = density_of(marginal, timing, target.start(jax.random.key(0), scatter=0.0))
    assert isinstance(density, WideDensity)
    assert density.wide.layout.border.size == 2
    theta = np.array([0.4, 0.5, 0.2])
    few = density.sweep(theta[None] + 1e-9 * np.arange(256)[:, None]).log_p
    checked = density.checked(theta[None])
    assert checked is not None
    assert checked[0] == (5, 9)
    told = checked[1][1].log_p[0] - checked[1][0].log_p[0]
    density.take_inner(15)
    # shifts of the lattice are another one wherever theta is, and theta hardly is
    swept = density.sweep(theta + 1e-9 * np.arange(256)[:, None])
    noise = np.exp(swept.log_p - swept.log_p.mean())
    found = np.log(noise.mean()) + swept.log_p.mean()
    error = noise.std() / noise.mean() / 16
    # all of it on lattices: the two columns, and every row given them
    su, sv = np.exp(theta[1:])
    a, b = np.linspace(-9.0, 9.0, 151) * su, np.linspace(-8.0, 8.0, 81) * sv
    at = np.stack(np.meshgrid(b, b, indexing="ij"), -1).reshape(-1, 2)
    logs = stats.norm(0.0, sv).logpdf(at).sum(1) + 2 * np.log(b[1] - b[0])
    means = []
    for i in range(7):
        own = stats.norm(0.0, su).logpdf(a) + np.log(a[1] - a[0]) + np.zeros((len(at), 1))
        for j in range(2):
            signs = 2 * y[(row == i) & (column == j)] - 1
            eta = theta[0] + a + at[:, j, None]
            own = own + sum(log_expit(sign * eta) for sign in signs)
        logs = logs + logsumexp(own, axis=1)
        means.append((np.exp(own - logsumexp(own, axis=1, keepdims=True)) * a).sum(1))
    prior = stats.norm(0.0, 2.0).logpdf(theta[0]) + theta[1:].sum()
    prior += stats.halfnorm(scale=1.5).logpdf([su, sv]).sum()
    want = logsumexp(logs) + prior
    assert error < 0.01
    assert abs(found - want) < 4 * error
    # five nodes for every row, given the columns, are as far off as nine say
    off = np.log(np.exp(few - want).mean())
    assert off < -4 * error
    assert -told == pytest.approx(off, abs=4 * error)
    by_laplace = density.given(theta[None])[0][0]
    assert want - by_laplace > 0.1
    near = theta + 1e-9 * np.arange(64)[:, None]
    noisy = density.noise_at(near, density.sweep(near))
    assert noisy.sd == pytest.approx(swept.log_p.std(), rel=0.4)
    assert noisy.shift == pytest.approx(want - by_laplace, abs=5 * noisy.sd / 8)
    # means given theta, of constrained scalars: mu, su, sv, then u
    w = np.exp(logs - logsumexp(logs))
    weight = np.exp(swept.log_p - swept.log_p.max())
    got = (weight @ swept.mean[:, 3:10]) / weight.sum() + density.place.reference[3:10]
    spread = swept.mean[:, 3:10].std(0) / 16
    assert (np.abs(got - [w @ m for m in means]) < 5 * spread).all()
    # chains would take Laplace's approximation for the density
    refused = vr.NUTS(marginal=True).refusal(target)
    assert refused is not None
    assert "u, v is one member of 9 scalars that is not normal" in refused


def test_what_is_not_concave_is_refused() -> None:
    def bent(y: Any) -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.5))
        z = numpyro.sample("z", dist.GaussianRandomWalk(scale, len(y)))
        with numpyro.plate("time", len(y)):
            numpyro.sample("y", dist.StudentT(3.0, mu + z, 0.1), obs=y)

    target = vr.Target(bent, y=3.0 * np.random.default_rng(2).standard_normal(16))
    fit = NestedQuadrature(latent=("z",)).fit(target)
    assert fit.status is Status.NOT_APPLICABLE
    assert "not concave in z" in fit.message
    assert fit.message.endswith("Laplace or NUTS; or name fewer sites as latent")


def test_more_effects_than_are_factorised_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "MAX_CORNER", 9)
    row, column = np.arange(500) % 410, np.arange(500) % 10
    target = target_of(np.arange(500) % 3 // 2, row, column)
    refused = NestedQuadrature(latent=("u", "v")).refusal(target)
    assert refused is not None
    assert "it has 420 latent scalars" in refused
    assert "weighed points take 300, or 20,000 where all but" in refused


@pytest.mark.slow
def test_a_crossed_binary_design_has_the_moments_of_long_chains(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(5)
    row, column = np.divmod(rng.permutation(400)[:200], 20)
    u, v = 1.2 * rng.standard_normal(20), 1.2 * rng.standard_normal(20)
    y = (rng.random(200) < 1 / (1 + np.exp(-0.5 - u[row] - v[column]))).astype(int)
    target = target_of(y, row, column)
    # chains know means to 0.01 sds
    method = NestedQuadrature(tolerance=0.02)
    fit = method.fit(target, key=0, throw=True)
    assert fit.status.ok, fit.message
    # NumPyro's NUTS, two chains of 15,000 draws
    long = {"mu": (0.3999, 0.4503), "su": (1.3474, 0.3534), "sv": (1.2249, 0.3351)}
    for name, (mean, sd) in long.items():
        assert abs(fit.mean()[name] - mean) < 0.05 * sd
        assert fit.sd()[name] == pytest.approx(sd, rel=0.03)
    # a member of which a point is dear has noise in lots: so has this one, if it is to
    with monkeypatch.context() as patched:
        patched.setattr(nested, "is_dear", lambda _: True)
        in_lots = method.fit(target, key=0, throw=True)
    assert in_lots.status.ok, in_lots.message
    for name, (mean, sd) in long.items():
        assert abs(in_lots.mean()[name] - mean) < 0.05 * sd
        assert in_lots.sd()[name] == pytest.approx(sd, rel=0.03)
    for name in ("u", "v"):
        off = (in_lots.mean()[name] - fit.mean()[name]) / fit.sd()[name]
        assert np.abs(off).max() < 0.04
    # Laplace's approximation is off by more, and says so
    plain = NestedQuadrature(num_nodes=1, tolerance=0.02).fit(target, key=0)
    assert plain.status is Status.UNCONVERGED
    assert "Laplace's approximation, of unknown error" in plain.message
    assert long["su"][0] - plain.mean()["su"] > 0.1 * long["su"][1]
    drawn = fit.draws(4_000, 1)
    for name in ("su", "u", "v"):
        off = (drawn[name].mean(0) - fit.mean()[name]) / fit.sd()[name]
        assert np.abs(off).max() < 5 / np.sqrt(4_000)
        assert np.abs(drawn[name].std(0) / fit.sd()[name] - 1).max() < 0.06
