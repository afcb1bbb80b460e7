"""What a formula's model is fitted to does not depend on the unit and the zero of a column.

The oracle is the fit where the column has mean 0 and sd 1.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest

import vi_recipes as vr

UNITS = {"ordinary": (1.0, 0.0), "thousandth": (1e3, 0.0), "thousands": (1e-3, 0.0),
         "dozens": (28.0, 0.0), "year": (3.0, 2_000.0)}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "poisson": {}, "bernoulli": {}, "negbinomial": {}, "gamma": {"link": "log"}
}  # fmt: skip


@cache
def frame(family: str, unit: str, slopes: float = 0.0) -> pd.DataFrame:
    """Return data whose groups differ in level, and by ``slopes`` in what x does."""
    rng = np.random.default_rng(0)
    n, (scale, shift) = 200, UNITS[unit]
    x, g = rng.normal(size=n), rng.integers(0, 20, n)
    x = (x - x.mean()) / x.std(ddof=1)
    mean = np.exp(0.3 + 0.5 * x + rng.normal(0.0, 0.5, 20)[g])
    mean *= np.exp(np.random.default_rng(5).normal(0.0, slopes, 20)[g] * x)
    y = {
        "poisson": rng.poisson(mean),
        "bernoulli": (rng.uniform(size=n) < mean / (1 + mean)).astype(int),
        "negbinomial": rng.negative_binomial(3, 3 / (3 + mean)),
        "gamma": rng.gamma(3.0, mean / 3),
    }[family]
    return pd.DataFrame({"y": y, "x": shift + scale * x, "g": g})


def target(family: str, unit: str, flat: str | None, formula: str) -> vr.Target:
    priors: Any = flat
    if flat and family == "negbinomial":  # at a flat one of its shape it is a Poisson for ever
        priors = {"Intercept": "flat", "beta": "flat", "sd_g": "flat"}
    data = frame(family, unit, 0.5 if "x | g" in formula else 0.0)
    made = vr.glmm(formula, data, family, priors=priors, **FAMILIES[family])
    return vr.Target(made)


@pytest.mark.filterwarnings("ignore:column x has its mean 667 sds from 0")
@pytest.mark.parametrize("priors", ["flat", None])
@pytest.mark.parametrize(
    "family",
    ["poisson", *(pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES if f != "poisson")],
)
def test_methods_begin_at_the_same_means_in_every_unit(family: str, priors: str | None) -> None:
    found = {}
    for unit in UNITS:
        made = target(family, unit, priors, "y ~ x + (1 + x | g)")
        for scatter in (0.0, 1.0):
            z = made.start(jax.random.key(3), scatter=scatter)
            sites, x = made.constrain(z), frame(family, unit)["x"].to_numpy()
            g = frame(family, unit)["g"].to_numpy()
            slope = sites["beta"][0] + sites["u_g_x"][g]
            eta = sites["Intercept"] + sites["u_g_Intercept"][g] + slope * x
            assert np.abs(eta).max() < 12  # not e^100
            found[unit, scatter] = eta
        np.testing.assert_allclose(found[unit, 0.0], found["ordinary", 0.0], atol=2e-3)


def flat_line(y: Any, x: Any, g: Any) -> None:
    """Intercepts of groups and a slope whose priors know no unit."""
    a = numpyro.sample("a", dist.ImproperUniform(dist.constraints.real, (), ()))
    b = numpyro.sample("b", dist.ImproperUniform(dist.constraints.real, (), (1,)))
    s = numpyro.sample("s", dist.ImproperUniform(dist.constraints.positive, (), ()))
    with numpyro.plate("G", 20):
        u = numpyro.sample("u", dist.Normal(0.0, s))
    with numpyro.plate("N", len(y)):
        numpyro.sample("y", dist.Poisson(jax.numpy.exp(a + b[0] * x + u[g])), obs=y)


def test_what_has_a_flat_prior_begins_within_two_of_its_units() -> None:
    for unit, (scale, _) in UNITS.items():
        data = {name: column.to_numpy() for name, column in frame("poisson", unit).items()}
        made = vr.Target(flat_line, **data)
        size = made.units[made.slices["b"]] * max(scale, np.abs(data["x"]).max() / 3)
        assert 0.1 < size < 30 if scale == 1 else 0.05 < size < 3, unit
        z = made.start(jax.random.key(0))
        assert np.abs(z[made.slices["b"]]) <= 2 * made.units[made.slices["b"]]
        # what is drawn is drawn whatever the unit
        assert z[made.slices["a"]] / made.units[made.slices["a"]] == pytest.approx(-0.593, abs=1e-3)


FITS: dict[tuple[str, ...], vr.Fit] = {}


def fitted(method: vr.Method, family: str, unit: str, priors: str | None, formula: str) -> vr.Fit:
    what = (repr(method), family, unit, str(priors), formula)
    if what not in FITS:
        FITS[what] = method.fit(target(family, unit, priors, formula), key=0)
    return FITS[what]


def compare(
    method: vr.Method,
    family: str,
    unit: str,
    priors: str | None,
    formula: str = "y ~ x + (1 | g)",
    tolerance: float = 1e-3,
) -> None:
    right = fitted(method, family, "ordinary", priors, formula)
    made = fitted(method, family, unit, priors, formula)
    assert made.status is right.status is vr.Status.OK
    scale = UNITS[unit][0]
    mean, sd = right.mean()["beta"][0], right.sd()["beta"][0]
    if isinstance(method, vr.MeanField | vr.LinearResponse) and UNITS[unit][1]:
        tolerance = 0.1  # an intercept far off is another coordinate to be independent of
    assert made.mean()["beta"][0] * scale == pytest.approx(mean, abs=tolerance * sd)
    if not (isinstance(method, vr.MeanField) and UNITS[unit][1]):  # its sds are of one coordinate
        assert made.sd()["beta"][0] * scale == pytest.approx(sd, rel=tolerance)
    first = np.ravel(right.mean()["sd_g"])[0], np.ravel(right.sd()["sd_g"])[0]
    assert np.ravel(made.mean()["sd_g"])[0] == pytest.approx(first[0], abs=tolerance * first[1])


NOISE = 0.1
"""Sds by which the means of two fits by weighted points of theta, or by draws, may differ."""


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["dozens", "year"])
def test_nested_quadrature_finds_the_same_in_every_unit(unit: str) -> None:
    compare(vr.NestedQuadrature(), "poisson", unit, "flat", tolerance=NOISE)


EXACT = [vr.EM(), vr.MarginalMLE(), vr.MeanField(), vr.LinearResponse()]


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["thousandth", "dozens", "year"])
@pytest.mark.parametrize("method", EXACT, ids=lambda m: m.name)
def test_optima_are_the_same_in_every_unit_of_a_column(method: vr.Method, unit: str) -> None:
    compare(method, "poisson", unit, "flat", tolerance=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bernoulli", "negbinomial", "gamma"])
@pytest.mark.parametrize("unit", ["dozens", "year"])
def test_other_families_are_the_same_in_every_unit_of_a_column(family: str, unit: str) -> None:
    compare(vr.NestedQuadrature(), family, unit, "flat", tolerance=NOISE)
    compare(vr.LinearResponse(), family, unit, "flat", tolerance=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("priors", ["flat", None])
def test_slopes_by_group_are_the_same_in_every_unit(priors: str | None) -> None:
    formula = "y ~ x + (1 + x | g)"
    compare(vr.MarginalMLE(), "poisson", "thousandth", priors, formula, 0.02)


@pytest.mark.slow
def test_chains_are_the_same_in_every_unit_of_a_column() -> None:
    method = vr.NUTS(num_chains=2, num_warmup=500, num_samples=1_000)
    compare(method, "poisson", "dozens", "flat", tolerance=0.3)


@pytest.mark.slow
def test_columns_of_units_18_orders_apart_have_the_fit_of_columns_without() -> None:
    """Standard errors by MarginalMLE were off by a factor of 23, and mean field found no start."""
    rng = np.random.default_rng(2)
    plain = frame("poisson", "ordinary").assign(t=rng.normal(size=200), b=rng.normal(size=200))
    data = plain.assign(t=1e-4 * plain["t"], b=4e5 + 1e5 * plain["b"])
    scales = np.array([1.0, 1e-4, 1e5])
    for method in (vr.MarginalMLE(), vr.LinearResponse()):
        right, made = (
            method.fit(
                vr.Target(vr.glmm("y ~ x + t + b + (1 | g)", rows, "poisson", priors="flat")),
                key=0,
                throw=True,
            )
            for rows in (plain, data)
        )
        sd = right.sd()["beta"]
        away = (made.mean()["beta"] * scales - right.mean()["beta"]) / sd
        np.testing.assert_allclose(away, 0, atol=0.05)
        np.testing.assert_allclose(made.sd()["beta"] * scales / sd, 1, rtol=0.02)


@pytest.mark.parametrize("link", ["logit", pytest.param("probit", marks=pytest.mark.slow)])
def test_thresholds_move_with_a_column_that_is_far_from_0(link: str) -> None:
    """As an intercept does, so that the default prior of the slope is what it is at 0."""
    x, found = frame("poisson", "ordinary")["x"], {}
    level = np.digitize(x + np.random.default_rng(1).logistic(size=len(x)), [-1.0, 1.0, 3.0])
    for shift, scale in ((0.0, 1.0), (2_000.0, 3.0)):
        data = {"level": level, "x": shift + scale * x}
        made = vr.glmm("level ~ x", data, "cumulative", link=link)
        fit = vr.Laplace().fit(vr.Target(made), key=0, throw=True)
        slope, sd = fit.mean()["beta"][0] * scale, fit.sd()["beta"][0] * scale
        found[shift] = slope, sd, *(fit.mean()["cut"] - slope * shift / scale)
    assert "Normal(jnp.array([0.0, 0.0, 0.0]), jnp.array([1667.0, 2.5, 2.5]))" in str(made)
    close, far = found.values()
    # the prior of the first threshold at the mean of x is 2.5 wide, and no longer alone
    np.testing.assert_allclose(far, close, atol=0.05 * close[1])


def test_thresholds_begin_where_levels_have_their_shares() -> None:
    level, extra = np.repeat([0, 1, 2], [10, 30, 60]), np.full(100, 12.0)
    made = vr.glmm("level ~ x", {"level": level, "x": np.arange(100.0) % 7}, "cumulative",
                   offset=extra, priors={"beta": "flat"})  # fmt: skip
    assert "Normal(jnp.array([12.0, 0.0])" in made.priors["cut"]
    target = vr.Target(made)
    cut = target.constrain(target.start(jax.random.key(0)))["cut"]
    shares = np.diff(1 / (1 + np.exp(12.0 - np.array([-np.inf, *cut, np.inf]))))
    np.testing.assert_allclose(shares, [0.1, 0.3, 0.6], atol=0.01)


def test_slopes_of_groups_along_a_column_far_from_0_are_told_of() -> None:
    data = frame("poisson", "year").assign(z=lambda f: f["x"] - 1_990)
    together = "column x has its mean 667 sds from 0, where the intercepts of g are, which the"
    apart = "column x has its mean 667 sds from 0, where the intercepts of g are, and are taken"
    flat = {"sd_g": "flat"}
    for formula, priors, says in (
        ("y ~ x + (1 + x | g)", None, together),
        ("y ~ x + (1 + x || g)", "flat", apart),
    ):
        with pytest.warns(UserWarning, match=says):
            made = vr.glmm(formula, data, "poisson", priors=priors)
        assert f"note      {says}" in str(made)
    for formula, priors in (
        ("y ~ x + (1 + x | g)", flat),
        ("y ~ x + (1 + x | g)", {"sd_g[Intercept]": "HalfNormal(900)"}),
        ("y ~ x + (1 + center(x) | g)", None),
        ("y ~ x + (0 + x | g)", None),
        ("y ~ z + (1 + z | g)", None),
    ):
        assert not vr.glmm(formula, data, "poisson", priors=priors).notes
