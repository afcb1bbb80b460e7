"""Densities and likelihoods without a maximum, in which a search comes to rest all the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vi_recipes as vr

RNG = np.random.default_rng(0)
REAL = dist.constraints.real
FLAT = dist.ImproperUniform(REAL, (), ())
X = RNG.normal(size=40)
SPLIT = (X > 0.1).astype(int)
DUMMY = RNG.integers(0, 2, 60)
OTHER = RNG.normal(size=60)
QUASI = np.where(DUMMY == 1, 1, RNG.integers(0, 2, 60))
TURN, BOTH = RNG.integers(-1, 2, 80), RNG.normal(size=80)
PAIR = np.stack([BOTH + TURN, BOTH - TURN], axis=1)
TURNED = np.where(TURN == 0, (RNG.uniform(size=80) < 0.5).astype(int), (TURN > 0).astype(int))


def logit(x: Any, y: Any) -> None:
    a, b = numpyro.sample("a", FLAT), numpyro.sample("b", FLAT)
    numpyro.sample("y", dist.Bernoulli(logits=a + b * x), obs=y)


def two(dummy: Any, x: Any, y: Any) -> None:
    a, b, c = (numpyro.sample(name, FLAT) for name in "abc")
    numpyro.sample("y", dist.Bernoulli(logits=a + b * dummy + c * x), obs=y)


def combination(x: Any, y: Any) -> None:
    """Separated along b[0] - b[1] alone; along their sum outcomes overlap."""
    b = numpyro.sample("b", dist.ImproperUniform(dist.constraints.real_vector, (), (2,)))
    numpyro.sample("y", dist.Bernoulli(logits=x @ b), obs=y)


def counts(x: Any, y: Any) -> None:
    a, b = numpyro.sample("a", FLAT), numpyro.sample("b", FLAT)
    numpyro.sample("y", dist.Poisson(jnp.exp(a + b * x)), obs=y)


def cox(x: Any) -> None:
    """All of one group fail before any of the other: a monotone partial likelihood."""
    risk = numpyro.sample("b", FLAT) * x
    at_risk = jnp.log(jnp.cumsum(jnp.exp(risk)[::-1])[::-1])
    numpyro.factor("partial", jnp.sum(risk - at_risk))


def mixed(x: Any, y: Any, group: Any) -> None:
    a, b = numpyro.sample("a", FLAT), numpyro.sample("b", FLAT)
    with numpyro.plate("G", 10):
        w = numpyro.sample("w", dist.Normal(0.0, 1.0))
    with numpyro.plate("i", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=a + b * x + w[group]), obs=y)


def wide_scale(y: Any) -> None:
    s = numpyro.sample("s", dist.ImproperUniform(dist.constraints.positive, (), ()))
    numpyro.sample("y", dist.Normal(0.0, s), obs=y)
    numpyro.factor("flat", len(y) * jnp.log(s))


CASES: dict[str, tuple[Callable[..., None], dict[str, Any], str]] = {
    "separated": (logit, {"x": X, "y": SPLIT}, "along (a, )?b"),
    "separated, in another unit": (logit, {"x": 1e6 * X, "y": SPLIT}, "along (a, )?b"),
    "a dummy": (two, {"dummy": DUMMY, "x": OTHER, "y": QUASI}, "along b,"),
    "a combination": (combination, {"x": PAIR, "y": TURNED}, "along b,"),
    "a cell of zeros": (
        counts,
        {"x": np.repeat([0, 1], 10), "y": np.r_[RNG.poisson(3, 10), np.zeros(10, int)]},
        "along b,",
    ),
    "cox": (cox, {"x": (np.arange(20) < 8).astype(float)}, "along b,"),
    "scale": (wide_scale, {"y": X}, "s runs to .* edge of its support, where the log density"),
}


@pytest.mark.parametrize("solver", ["newton", pytest.param("l-bfgs", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CASES)
def test_map_names_the_direction(name: str, solver: Any) -> None:
    model, data, words = CASES[name]
    fit = vr.MAP(solver=solver).fit(vr.Target(model, **data))
    assert fit.status is vr.Status.DEGENERATE, fit.message
    with pytest.raises(vr.FitError, match=words):
        fit.mean()


@pytest.mark.parametrize("name", ["a combination"])
def test_laplace_expands_around_no_such_point(name: str) -> None:
    model, data, words = CASES[name]
    fit = vr.Laplace().fit(vr.Target(model, **data))
    assert fit.status is vr.Status.SINGULAR
    with pytest.raises(vr.FitError, match=words):
        fit.mean()


@pytest.mark.parametrize("name", ["separated", "a combination"])
def test_maximum_likelihood_names_the_direction(name: str) -> None:
    model, data, words = CASES[name]
    fit = vr.MarginalMLE().fit(vr.Target(model, **data))
    assert fit.status is vr.Status.DEGENERATE, fit.message
    with pytest.raises(vr.FitError, match=words):
        fit.mean()


@pytest.mark.slow
@pytest.mark.parametrize("method", [vr.MarginalMLE(), vr.EM()], ids=lambda m: m.name)
def test_random_intercepts_do_not_hide_it(method: vr.Method) -> None:
    data = {"x": X, "y": SPLIT, "group": np.repeat(np.arange(10), 4)}
    fit = method.fit(vr.Target(mixed, **data))
    assert fit.status is vr.Status.DEGENERATE, fit.message
    assert "along b" in fit.message or "along a, b" in fit.message


def test_a_variance_of_zero_does_not_hide_it() -> None:
    """The sd of groups is best at 0, and the slope has no estimate: it was one, of 700."""

    def model(x: Any, y: Any, group: Any) -> None:
        a, b = numpyro.sample("a", FLAT), numpyro.sample("b", FLAT)
        s = numpyro.sample("s", dist.HalfNormal(1.0))
        with numpyro.plate("G", 3):
            w = numpyro.sample("w", dist.Normal(0.0, s))
        with numpyro.plate("i", len(y)):
            numpyro.sample("y", dist.Bernoulli(logits=a + b * x + w[group]), obs=y)

    x = np.linspace(-1.0, 1.0, 24)
    data = {"x": x, "y": (x > 0.1).astype(int), "group": np.repeat([0, 1, 2], 8)}
    fit = vr.MarginalMLE().fit(vr.Target(model, **data))
    assert fit.status is vr.Status.DEGENERATE, fit.message
    assert "gets no lower along" in fit.message
    assert "as where outcomes are separated" in fit.message


def test_what_grows_without_end_is_no_scale_to_keep_from_zero() -> None:
    def model(y: Any) -> None:
        m = numpyro.sample("m", dist.LogNormal(0.0, 2.0))
        shape = numpyro.sample("shape", dist.ImproperUniform(dist.constraints.positive, (), ()))
        numpyro.sample("y", dist.NegativeBinomial2(m, shape), obs=y)

    fit = vr.MAP().fit(vr.Target(model, y=np.array([2, 3, 2, 3, 3, 2])))
    assert fit.status is vr.Status.DEGENERATE, fit.message
    assert "shape runs to" in fit.message
    assert fit.advice.startswith("give it a prior that falls as it grows")


def test_a_prior_that_falls_makes_a_mode_however_wide_it_is() -> None:
    def model(x: Any, y: Any) -> None:
        a, b = (numpyro.sample(name, dist.Normal(0.0, 100.0)) for name in "ab")
        numpyro.sample("unseen", dist.Normal(0.0, 1e6))
        numpyro.sample("y", dist.Bernoulli(logits=a + b * x), obs=y)

    fit = vr.MAP().fit(vr.Target(model, x=X, y=SPLIT))
    assert fit.status is vr.Status.OK
    assert float(fit.mean()["b"]) > 20


@pytest.mark.parametrize(
    "factor",
    [
        lambda b: jnp.logaddexp(-(b**2) / 2, 1.0 - (b - 10) ** 2 / 2),  # a better mode 10 sds away
        lambda b: -jnp.log1p(b**2),  # falls as slowly as a Cauchy law
        lambda b: -jnp.log1p((b - 1e8) ** 2),
    ],
)
def test_modes_among_heavy_tails_and_other_modes_are_modes(factor: Any) -> None:
    def model() -> None:
        numpyro.factor("f", factor(numpyro.sample("b", FLAT)))

    assert vr.MAP().fit(vr.Target(model)).status is not vr.Status.DEGENERATE


def test_a_ridge_is_one_of_many_modes_and_no_missing_maximum() -> None:
    def model(y: Any) -> None:
        a, b = numpyro.sample("a", FLAT), numpyro.sample("b", FLAT)
        numpyro.sample("y", dist.Normal(a + b, 1.0), obs=y)

    fit = vr.MAP().fit(vr.Target(model, y=X))
    assert fit.status is vr.Status.UNCONVERGED
    assert "one of many" in fit.message


@pytest.mark.parametrize("space", ["constrained", "unconstrained"])
def test_a_ridge_is_seen_where_another_parameter_makes_the_search_converge(space: Any) -> None:
    def model(y: Any) -> None:
        a, b = numpyro.sample("a", FLAT), numpyro.sample("b", FLAT)
        s = numpyro.sample("s", dist.HalfNormal(1.0))
        numpyro.sample("y", dist.Normal(a + b, s), obs=y)

    fit = vr.MAP(space=space).fit(vr.Target(model, y=2 + np.random.default_rng(1).normal(size=40)))
    assert fit.status is vr.Status.UNCONVERGED
    assert fit.message == "the density is flat along a, b, so the mode is one of many"


def test_a_finite_edge_is_said_to_be_one() -> None:
    def interval(y: Any) -> None:
        numpyro.sample("y", dist.Normal(numpyro.sample("mu", dist.Uniform(0.0, 1.0)), 1.0), obs=y)

    def half() -> None:
        numpyro.sample("s", dist.HalfNormal(5.0))

    for model, data, at, value in (
        # the density is bounded, and highest at the edge: by hand
        (interval, {"y": np.array([1.2, 1.4])}, "mu runs to 1", -np.log(2 * np.pi) - 0.1),
        (half, {}, "s runs to", np.log(np.sqrt(2 / np.pi) / 5)),
    ):
        fit = vr.MAP().fit(vr.Target(model, **data))
        assert fit.status is vr.Status.DEGENERATE
        assert "without bound" not in fit.explanation
        assert f"an edge of its support, where the log density is highest ({value:.6g})" in (
            fit.message
        )
        assert fit.message.startswith(at)


def test_an_edge_of_a_simplex_is_named_once() -> None:
    def shares(y: Any) -> None:
        p = numpyro.sample("p", dist.Dirichlet(np.ones(3)))
        numpyro.sample("y", dist.Multinomial(10, p), obs=y)

    fit = vr.MAP().fit(vr.Target(shares, y=np.array([0, 5, 5])))
    assert fit.status is vr.Status.DEGENERATE
    assert fit.message.startswith("p runs to an edge of its support, where the log density is hi")


def test_an_empty_category_puts_thresholds_together() -> None:
    def ordinal(x: Any, y: Any) -> None:
        b = numpyro.sample("b", FLAT)
        ordered = dist.constraints.ordered_vector
        c = numpyro.sample("c", dist.ImproperUniform(ordered, (), (2,)))
        numpyro.sample("y", dist.OrderedLogistic(b * x, c), obs=y)

    fit = vr.MAP().fit(vr.Target(ordinal, x=OTHER, y=2 * RNG.integers(0, 2, 60)))
    assert fit.status is vr.Status.DEGENERATE
    assert "c[1] runs to" in fit.message
