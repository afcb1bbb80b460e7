"""Nested quadrature where the latent variables are one normal member, against dense factors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from scipy import stats
from scipy.special import gammaln, logsumexp, softmax

import vi_recipes as vr
from vi_recipes.core import Timing
from vi_recipes.latent import marginal_of
from vi_recipes.methods.nested.density import ThetaDensity
from vi_recipes.methods.nested.field import FieldMember
from vi_recipes.methods.nested.wide import WideMember
from vi_recipes.methods.nested.wide_density import WideDensity, density_of

RNG = np.random.default_rng(3)


def parameters() -> tuple[Any, Any, Any]:
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.5))
    noise = numpyro.sample("noise", dist.LogNormal(-0.5, 0.5))
    return mu, scale, noise


def crossed(y: Any, row: Any, column: Any) -> None:
    mu, scale, noise = parameters()
    with numpyro.plate("rows", 14):
        u = numpyro.sample("u", dist.Normal(0.0, scale))
    with numpyro.plate("columns", 5):
        v = numpyro.sample("v", dist.Normal(0.0, 0.7))
    with numpyro.plate("cell", len(y)):
        numpyro.sample("y", dist.Normal(mu + u[row] + v[column], noise), obs=y)


def walk(y: Any) -> None:
    mu, scale, noise = parameters()
    z = numpyro.sample("z", dist.GaussianRandomWalk(scale, len(y)))
    with numpyro.plate("time", len(y)):
        numpyro.sample("y", dist.Normal(mu + z, noise), obs=y)


def autoregression(y: Any) -> None:
    mu, scale, noise = parameters()

    def step(last: Any, y: Any) -> tuple[Any, None]:
        z = numpyro.sample("z", dist.Normal(0.8 * last, scale))
        numpyro.sample("y", dist.Normal(mu + z, noise), obs=y)
        return z, None

    scan(step, jnp.zeros(()), y)


def field(y: Any, near: Any) -> None:
    mu, scale, noise = parameters()
    z = numpyro.sample("z", dist.CAR(0.0, 0.9, scale**-2, near))
    with numpyro.plate("area", len(y)):
        numpyro.sample("y", dist.Normal(mu + z, noise), obs=y)


def process(y: Any, x: Any) -> None:
    mu, scale, noise = parameters()
    k = scale**2 * jnp.exp(-(jnp.abs(x[:, None] - x) ** 1.5)) + 1e-6 * jnp.eye(len(x))
    z = numpyro.sample("z", dist.MultivariateNormal(0.0, k))
    with numpyro.plate("point", len(y)):
        numpyro.sample("y", dist.Normal(mu + z, noise), obs=y)


def curves(y: Any, x: Any, who: Any) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.5))
    with numpyro.plate("curve", 2):
        a = numpyro.sample("a", dist.Normal(mu, scale))
        b = numpyro.sample("b", dist.Normal(0.4 * a, 0.6))
        c = numpyro.sample("c", dist.Normal(0.0, 0.5))
    with numpyro.plate("row", len(y)):
        eta = a[who] + b[who] * x + c[who] * (x**2 - 1)
        numpyro.sample("y", dist.Poisson(jnp.exp(eta)), obs=y)


@dataclass(frozen=True)
class Case:
    """A model, its latent sites, their covariance given the scale, and loads of y on them."""

    model: Callable[..., None]
    data: dict[str, Any]
    latent: tuple[str, ...]
    cov: Callable[[float], np.ndarray]
    loads: np.ndarray
    shape: tuple[int, int, int] | None
    """Blocks, their width, and the border that the precision is laid out in; ``None`` for any."""


def cases() -> dict[str, Case]:
    row, column = np.divmod(RNG.permutation(70)[:60], 5)
    loads = np.concatenate([np.eye(14)[row], np.eye(5)[column]], axis=1)
    y = {n: RNG.standard_normal(n) for n in (60, 80, 36, 30)}
    data = {"y": y[60], "row": row, "column": column}
    spread = np.repeat([1.0, 0.0], [14, 5])
    steps = np.tril(np.ones((80, 80)))
    decay = np.tril(0.8 ** (np.arange(80)[:, None] - np.arange(80)))
    place = np.stack(np.divmod(np.arange(36), 6), 1)
    near = (np.abs(place[:, None] - place).sum(-1) == 1).astype(float)
    precision = np.diag(near.sum(1)) - 0.9 * near
    x = np.linspace(0.0, 6.0, 30)
    kernel = np.exp(-(np.abs(x[:, None] - x) ** 1.5))
    return {
        "crossed": Case(
            crossed, data, ("u", "v"),
            lambda s: np.diag(np.where(spread, s**2, 0.49)), loads, (14, 1, 5),
        ),
        "walk": Case(
            walk, {"y": y[80]}, ("z",), lambda s: s**2 * steps @ steps.T, np.eye(80), (80, 1, 0)
        ),
        "autoregression": Case(
            autoregression, {"y": y[80]}, ("z",), lambda s: s**2 * decay @ decay.T, np.eye(80),
            (80, 1, 0),
        ),
        "field": Case(
            field, {"y": y[36], "near": near}, ("z",), lambda s: s**2 * np.linalg.inv(precision),
            np.eye(36), None,
        ),
        "process": Case(
            process, {"y": y[30], "x": x}, ("z",), lambda s: s**2 * kernel + 1e-6 * np.eye(30),
            np.eye(30), None,
        ),
    }  # fmt: skip


CASES = cases()


def density_for(case: Case) -> ThetaDensity:
    target = vr.Target(case.model, **case.data)
    timing = Timing()
    with jax.enable_x64(True):
        marginal = marginal_of(target, case.latent, "auto", "auto", True, timing, wide=True)
        assert marginal.rule == "gaussian"
        return density_of(marginal, timing, target.start(jax.random.key(0), scatter=0.0))


SLOW = ("walk", "field", "process", "autoregression")  # each of them compiles for some seconds


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in CASES]
)
def test_normal_members_of_many_scalars_agree_with_dense_factors(name: str) -> None:
    case = CASES[name]
    density = density_for(case)
    assert isinstance(density, WideDensity)
    assert isinstance(density.wide, FieldMember) == (name == "process")
    if isinstance(density.wide, WideMember):
        layout = density.wide.layout
        assert case.shape in (None, (*layout.local.shape, layout.border.size))
    rows = np.array([[0.3, -0.2, -0.9], [-1.0, 0.6, 0.1], [0.0, -0.7, -0.3]])
    names = [n for n in density.target.slices if n not in case.latent]
    assert names == ["mu", "scale", "noise"]
    swept = density.sweep(rows)
    value, given = density.given(rows, gradient=True)
    y = np.asarray(case.data["y"])
    first = next(j for s, j in zip(density.target.quantities, _starts(density), strict=True)
                 if s.name == case.latent[0])  # fmt: skip
    for k, (mu, log_scale, log_noise) in enumerate(rows):
        want, mean, cov = _answer(case, y, mu, log_scale, log_noise)
        assert swept.log_p[k] == pytest.approx(want, rel=1e-10)
        assert value[k] == pytest.approx(want, rel=1e-10)
        got = swept.mean[k, first : first + len(mean)] + density.place.reference[first]
        assert np.abs(got - mean).max() < 1e-9
        variance = swept.variance[k, first : first + len(mean)]
        assert np.abs(variance / np.diag(cov) - 1).max() < 1e-9
        slope = [
            (_answer(case, y, *(rows[k] + h))[0] - _answer(case, y, *(rows[k] - h))[0]) / 2e-4
            for h in 1e-4 * np.eye(3)
        ]
        assert given.gradient[k] == pytest.approx(slope, rel=1e-6, abs=1e-5)


def _starts(density: ThetaDensity) -> list[int]:
    sizes = [s.size for s in density.target.quantities]
    return [int(n) for n in np.cumsum([0, *sizes])[:-1]]


def _answer(
    case: Case, y: np.ndarray, mu: float, log_scale: float, log_noise: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return log p(y, theta), unconstrained, and the latents' mean and covariance given theta."""
    cov, loads = case.cov(np.exp(log_scale)), case.loads
    whole = loads @ cov @ loads.T + np.exp(2 * log_noise) * np.eye(len(y))
    log_p = stats.multivariate_normal(np.full(len(y), mu), whole).logpdf(y)
    prior = stats.norm.logpdf([mu, log_scale, log_noise], [0.0, 0.0, -0.5], [2.0, 0.5, 0.5]).sum()
    gain = cov @ loads.T @ np.linalg.inv(whole)
    return float(log_p + prior), gain @ (y - mu), cov - gain @ loads @ cov


@pytest.mark.slow
def test_three_coordinates_a_member_agree_with_a_lattice() -> None:
    x, who = np.tile(np.linspace(-1.5, 1.5, 5), 2), np.repeat([0, 1], 5)
    y = np.array([0, 1, 1, 4, 3, 2, 0, 1, 0, 5])
    target = vr.Target(curves, y=y, x=x, who=who)
    timing, rows = Timing(), np.array([[0.2, -0.3], [-0.6, 0.4]])
    with jax.enable_x64(True):
        marginal = marginal_of(target, None, "auto", 15, True, timing)
        density = ThetaDensity(marginal, timing, target.start(jax.random.key(0), scatter=0.0))
        assert marginal.split.local.shape == (2, 3)
        swept = density.sweep(rows)
        modes = density.given(rows)[1].modes
        by_em = [
            marginal.value(jnp.asarray(row), jnp.asarray(z), target.arrays(), order=1)
            for row, z in zip(rows, modes, strict=True)
        ]
    grid = [np.linspace(-6.0, 5.0, 56), np.linspace(-4.5, 4.5, 61), np.linspace(-3.2, 3.2, 57)]
    cell = np.log(np.prod([g[1] - g[0] for g in grid]))
    a, b, c = np.stack(np.meshgrid(*grid, indexing="ij")).reshape(3, -1)
    for k, (mu, log_scale) in enumerate(rows):
        want = stats.norm.logpdf([mu, log_scale], 0.0, [2.0, 0.5]).sum()
        for t in range(2):
            logs = stats.norm(mu, np.exp(log_scale)).logpdf(a) + stats.norm(0.4 * a, 0.6).logpdf(b)
            logs += stats.norm(0.0, 0.5).logpdf(c)
            for count, at in zip(y[who == t], x[who == t], strict=True):
                eta = a + b * at + c * (at**2 - 1)
                logs += count * eta - np.exp(eta) - gammaln(count + 1)
            want += logsumexp(logs) + cell
            assert swept.mean[k, 2 + t] == pytest.approx((softmax(logs) * a).sum(), abs=1e-5)
        assert swept.log_p[k] == pytest.approx(want, abs=1e-6)
        assert float(by_em[k]) + log_scale == pytest.approx(want, abs=1e-6)


SEEN = np.array([[3, 6, 2], [7, 8, 5], [1, 4, 3], [6, 9, 8]])


def within_plates(y: Any) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    spread = numpyro.sample("spread", dist.LogNormal(-0.5, 0.5))
    with numpyro.plate("district", 4, dim=-2):
        a = numpyro.sample("a", dist.Normal(mu, 0.8))
        with numpyro.plate("school", 3, dim=-1):
            b = numpyro.sample("b", dist.Normal(a, spread))
            numpyro.sample("y", dist.Binomial(10, logits=b), obs=y)


@pytest.mark.slow
def test_plates_in_plates_agree_with_quadrature_in_quadrature() -> None:
    """Districts have four latent scalars each, too many for nodes: all are one member."""
    fit = vr.NestedQuadrature().fit(vr.Target(within_plates, y=SEEN))
    assert fit.status is vr.Status.OK
    mu = np.linspace(-3.5, 3.5, 71)[:, None, None]
    log_spread = np.linspace(-3.0, 1.7, 60)[None, :, None]
    x, w = np.polynomial.hermite_e.hermegauss(30)
    w = w / w.sum()
    a, spread = mu + 0.8 * x, np.exp(log_spread)
    log_p = stats.norm.logpdf(mu[..., 0]) + stats.norm.logpdf(log_spread[..., 0], -0.5, 0.5)
    for district in SEEN:
        of_district = np.log(w) + np.zeros((71, 60, 1))
        for seen in district:
            eta = a[..., None] + spread[..., None] * x
            choose = gammaln(11) - gammaln(seen + 1) - gammaln(11 - seen)
            of_school = choose + seen * eta - 10 * np.logaddexp(0.0, eta)
            of_district = of_district + logsumexp(of_school, axis=-1, b=w)
        log_p = log_p + logsumexp(of_district, axis=-1)
    weight = softmax(log_p)
    step = (mu[1, 0, 0] - mu[0, 0, 0]) * (log_spread[0, 1, 0] - log_spread[0, 0, 0])
    assert fit.log_evidence is not None
    assert fit.log_evidence.value == pytest.approx(logsumexp(log_p) + np.log(step), abs=0.02)
    for name, value in {"mu": mu[..., 0], "spread": np.exp(log_spread[..., 0])}.items():
        mean = (weight * value).sum()
        sd = np.sqrt((weight * (value - mean) ** 2).sum())
        assert abs(fit.mean()[name] - mean) < 0.03 * sd
        assert fit.sd()[name] == pytest.approx(sd, rel=0.03)
