"""A fit is the same in metres, millimetres and megametres: the same data times a constant.

The oracle is the fit in the unit in which the data have sds near 1.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vi_recipes as vr

FACTORS = (1e-3, 1.0, 1e6)

RNG = np.random.default_rng(2)
GROUP = np.repeat(np.arange(6), 5)
Y = 3 + RNG.normal(size=6)[GROUP] + RNG.normal(size=30)
X = RNG.normal(size=60)
WON = (RNG.uniform(size=60) < 1 / (1 + np.exp(-X))).astype(int)
FLAT = dist.ImproperUniform(dist.constraints.real, (), ())


def intercepts(y: Any, group: Any, c: float) -> None:
    """Random intercepts: every location and scale has the unit of y."""
    m = numpyro.sample("m", dist.Normal(0.0, 10 * c))
    t = numpyro.sample("t", dist.HalfNormal(5 * c))
    s = numpyro.sample("s", dist.HalfNormal(5 * c))
    with numpyro.plate("G", 6):
        u = numpyro.sample("u", dist.Normal(m, t))
    with numpyro.plate("N", len(y)):
        numpyro.sample("y", dist.Normal(u[group], s), obs=y)


def mixture(y: Any, c: float) -> None:
    """Two components whose states are summed out."""
    w = numpyro.sample("w", dist.Beta(1.0, 1.0))
    mu = numpyro.sample("mu", dist.Normal(0.0, 10 * c).expand([2]).to_event(1))
    with numpyro.plate("N", len(y)):
        z = numpyro.sample("z", dist.Bernoulli(w), infer={"enumerate": "parallel"})
        numpyro.sample("y", dist.Normal(mu[z], c), obs=y)


def flat_line(y: Any, x: Any) -> None:
    """A line whose priors know no unit."""
    a, b = numpyro.sample("a", FLAT), numpyro.sample("b", FLAT)
    s = numpyro.sample("s", dist.ImproperUniform(dist.constraints.positive, (), ()))
    numpyro.sample("y", dist.Normal(a + b * x, s), obs=y)


@cache
def target(c: float) -> vr.Target:
    # as data, so that the code of one unit is read for the next
    return vr.Target(intercepts, y=c * Y, group=GROUP, c=np.array(c))


FITTED: dict[tuple[str, float], vr.Fit] = {}


def fitted(method: vr.Method, c: float) -> vr.Fit:
    key = repr(method), c
    if key not in FITTED:
        FITTED[key] = method.fit(target(c), key=0)
    return FITTED[key]


def test_units_are_those_of_the_data_and_one_where_nothing_is_to_be_gained() -> None:
    ordinary = target(1.0)
    assert (ordinary.units == 1).all()
    small, large = target(1e-3), target(1e6)
    for name, place in ordinary.slices.items():
        if name in ("m", "u"):
            assert large.units[place] == pytest.approx(1e9 * small.units[place], rel=1e-6)
            assert (large.units[place] > 1e6).all()
            assert (large.units[place] < 2e7).all()
        else:  # logarithms have no unit
            assert (large.units[place] == 1).all()


def test_units_of_slopes_are_those_of_their_covariates_however_wide_the_priors() -> None:
    year = RNG.integers(1990, 2021, 200).astype(float)
    income = 50_000 * np.exp(0.5 * RNG.normal(size=200))

    def model(y: Any, year: Any, income: Any) -> None:
        a = numpyro.sample("a", dist.Normal(0.0, 1e4))
        b = numpyro.sample("b", dist.Normal(0.0, 1e3))
        d = numpyro.sample("d", FLAT)
        numpyro.sample("y", dist.Bernoulli(logits=a + b * year + d * income), obs=y)

    a, b, d = vr.Target(model, y=(income > 5e4).astype(int), year=year, income=income).units
    assert a == 1
    assert 1 / 4_000 < b < 1 / 500
    assert 1 / 200_000 < d < 1 / 10_000


def test_non_centred_members_have_unit_one_beside_a_scale_that_is_far_too_wide() -> None:
    def model(y: Any, group: Any, size: Any) -> None:
        t = numpyro.sample("t", dist.Uniform(0.0, 40.0))  # at whose median rows pull by 1/20
        with numpyro.plate("G", 6):
            u = numpyro.sample("u", dist.Normal(0.0, size))
        numpyro.sample("y", dist.Normal(t * u[group], 1.0), obs=y)

    for size in (1.0, 0.01):  # of which the second is said by the prior
        made = vr.Target(model, y=Y - Y.mean(), group=GROUP, size=np.array(size))
        np.testing.assert_allclose(made.units, [1.0] + [size] * 6, rtol=0.3)


EXACT = [vr.MAP(), vr.Laplace(), vr.MeanField(), vr.LinearResponse(), vr.MarginalMLE(), vr.EM(),
         vr.MarginalMLE(solver="l-bfgs"), vr.VariationalEM(), vr.EM(m_step="l-bfgs")]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("method", EXACT, ids=lambda m: f"{m.name}")
@pytest.mark.parametrize("c", [1e-3, 1e6])
def test_optima_are_the_same_in_every_unit(method: vr.Method, c: float) -> None:
    _compare(method, c, tolerance=1e-3)


@pytest.mark.parametrize("method", [vr.MarginalMLE(), vr.EM()], ids=lambda m: m.name)
@pytest.mark.parametrize("c", [1e6])
@pytest.mark.slow
def test_likelihood_methods_are_the_same_in_every_unit(method: vr.Method, c: float) -> None:
    _compare(method, c, tolerance=1e-3)
    steps = [fitted(method, unit).diagnostics["iterations"] for unit in (1.0, c)]
    assert steps[1] <= steps[0] + 10


FULL = vr.SVI(guide="multivariate_normal")
DRAWN = [vr.NUTS(num_warmup=500, num_samples=500), vr.SVI(), vr.ForwardKL(), FULL]
"""Its scale's entries beside the diagonal step in the data's own unit."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "c"),
    [pytest.param(m, c, id=f"{c}-{m.name}") for m in DRAWN for c in (1e-3, 1e6)],
)
def test_draws_and_stochastic_optima_are_alike_in_every_unit(method: vr.Method, c: float) -> None:
    # four Monte Carlo errors of the least effective of them, some 100 draws: of either fit
    _compare(method, c, tolerance=0.4)


@pytest.mark.slow
@pytest.mark.parametrize("c", [1e-3, 1e6])
def test_particles_are_alike_in_every_unit(c: float) -> None:
    method = vr.SVGD(num_steps=300)
    ordinary, other = (fitted(method, unit).mean() for unit in (1.0, c))
    # they are on their way still, and on about the same
    assert float(other["m"]) / c == pytest.approx(float(ordinary["m"]), abs=0.3)


def _compare(method: vr.Method, c: float, tolerance: float) -> None:
    ordinary, other = fitted(method, 1.0), fitted(method, c)
    assert ordinary.status is vr.Status.OK, ordinary.message
    assert other.status is vr.Status.OK, other.message
    for name in ("m", "t", "s"):
        sd = float(ordinary.sd()[name])
        sd = 1.0 if np.isnan(sd) else sd
        away = float(other.mean()[name]) / c - float(ordinary.mean()[name])
        assert abs(away) < tolerance * sd, name
        if not np.isnan(float(other.sd()[name])):
            assert float(other.sd()[name]) / c == pytest.approx(sd, rel=max(tolerance, 1e-3))


@pytest.mark.parametrize("c", [1e3])
@pytest.mark.parametrize("method", [vr.MarginalMLE(num_starts=5), vr.EM()], ids=lambda m: m.name)
@pytest.mark.slow
def test_a_mixture_far_from_its_start_is_fitted_in_every_unit(method: vr.Method, c: float) -> None:
    x = np.array([-0.5, 0.0, 0.4, 0.1, 5.6, 6.0, 6.3, 6.5])
    fit = method.fit(vr.Target(mixture, y=c * x, c=c), key=0)
    assert fit.status is vr.Status.OK
    # in closed form: -40.5463 at 30, and a change of variables
    assert fit.log_likelihood == pytest.approx(-40.5463 - 8 * np.log(c / 30), abs=1e-3)


@pytest.mark.parametrize("c", FACTORS)
def test_flat_priors_and_raw_data_give_least_squares(c: float) -> None:
    y = c * (3 + 2 * X + np.random.default_rng(5).normal(size=60))
    slope, level = np.polyfit(X, y, 1)
    line = vr.Target(flat_line, y=y, x=X)
    for method in (vr.MAP(), vr.MarginalMLE()):
        fit = method.fit(line, key=0)
        assert fit.status is vr.Status.OK
        assert float(fit.mean()["a"]) == pytest.approx(level, rel=1e-4)
        assert float(fit.mean()["b"]) == pytest.approx(slope, rel=1e-4)


def test_scatter_is_in_units_and_scales_begin_near_their_priors() -> None:
    starts = np.stack([target(1e6).start(jax.random.key(k), scatter=2.0) for k in range(20)])
    m, s = (starts[:, target(1e6).slices[name]].ravel() for name in ("m", "s"))
    assert np.abs(m).max() > 1e6
    assert np.exp(np.median(s)) == pytest.approx(5e6, rel=0.9)
