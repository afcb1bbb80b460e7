"""MAP: the mode by hand, both scales, every solver, and what has no mode."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import case, target
from scipy import stats
from scipy.special import logsumexp

import vi_recipes as vr


@pytest.mark.parametrize("solver", ["newton", "l-bfgs"])
@pytest.mark.parametrize("name", ["normal_precision", "nested_plates", "covariance"])
def test_every_solver_finds_the_mode(name: str, solver: Any) -> None:
    fit = vr.MAP(solver=solver).fit(target(name), throw=True)
    assert fit.status is vr.Status.OK
    mode = case(name).mode
    assert mode is not None
    for site, value in mode.items():
        # "newton" stops at 1e-4 posterior sds or better, the others at a relative gradient of 1e-4
        np.testing.assert_allclose(fit.mean()[site], value, rtol=1e-3, atol=1e-4)


def test_the_mode_of_the_unconstrained_density_has_the_jacobian_in_it() -> None:
    # Gamma-normal: tau^(a - 1/2) exp(-b tau) has its mode at (a - 1/2) / b, and with the Jacobian
    # of the logarithm, one more power of tau, at (a + 1/2) / b
    known = case("normal_precision")
    assert known.mode is not None
    mean, sd = known.mean["tau"], known.sd["tau"]
    a, b = (mean / sd) ** 2, mean / sd**2
    for space, power in (("constrained", -0.5), ("unconstrained", 0.5)):
        fit = vr.MAP(space=space).fit(target("normal_precision"))  # type: ignore[arg-type]
        assert fit.mean()["tau"] == pytest.approx((a + power) / b, rel=1e-6)
        assert fit.mean()["sigma"] == pytest.approx(((a + power) / b) ** -0.5, rel=1e-6)
    # Dirichlet: the Jacobian of the stick breaking is the product of the probabilities
    fit = vr.MAP(space="unconstrained").fit(target("simplex"))
    np.testing.assert_allclose(fit.mean()["p"], case("simplex").mean["p"], rtol=1e-6)


def test_the_trace_climbs_to_the_reported_log_density() -> None:
    fit = vr.MAP().fit(target("normal_precision"))
    trace = fit.trace["log_density"]
    assert (np.diff(trace) >= -1e-9 * abs(trace[-1])).all()
    assert trace.size == fit.diagnostics["iterations"] > 2
    z = target("normal_precision").unconstrain(fit.mean())
    expected = target("normal_precision").log_density(z, jacobian=False)
    assert fit.diagnostics["log_density"] == pytest.approx(expected, rel=1e-12)
    assert trace[-1] == pytest.approx(expected, rel=1e-12)


def test_evaluations_are_counted() -> None:
    newton = vr.MAP().fit(target("nested_plates"))
    assert newton.timing.gradient_evaluations > 0
    assert newton.timing.hvp_evaluations % target("nested_plates").dim == 0
    assert newton.timing.hvp_evaluations > 0
    assert newton.timing.total_seconds > 0
    assert newton.timing.run_seconds > 0
    quasi = vr.MAP(solver="l-bfgs").fit(target("nested_plates"))
    assert quasi.timing.hvp_evaluations == 0


def test_a_point_has_no_spread() -> None:
    fit = vr.MAP().fit(target("normal_precision"))
    assert np.isnan(fit.sd()["tau"])
    assert np.isnan(fit.cov().to_numpy()).all()


def two_modes() -> None:
    x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))
    low = jnp.log(0.2) + dist.Normal(-0.9, 0.2).log_prob(x)
    high = jnp.log(0.8) + dist.Normal(0.9, 0.2).log_prob(x)
    numpyro.factor("f", jnp.logaddexp(low, high))


def test_several_starts_find_the_better_mode() -> None:
    model = vr.Model(function=two_modes, name="two_modes", init=lambda key: {"x": -1.0})
    first = vr.MAP().fit(vr.Target(model))
    assert first.mean()["x"] == pytest.approx(-0.9, abs=1e-6)
    # all starting points but the first scatter by 1 around init: none leaves the worse basin
    free = vr.Target(two_modes)
    best = vr.MAP(num_starts=11).fit(free, key=1)
    assert best.mean()["x"] == pytest.approx(0.9, abs=1e-6)


@pytest.mark.slow
def test_a_density_with_states_summed_out_is_climbed_from_several_starts() -> None:
    """Counts whose rate rises and falls, in a model of one change: it is the rise or the fall."""
    y = np.concatenate([np.tile([1, 0, 2], 10), [4, 3, 5, 4, 2, 6, 5, 3, 4, 4], [1, 2, 0, 1] * 5])
    T = len(y)

    def switch(y: np.ndarray) -> None:
        early = numpyro.sample("early", dist.Exponential(1.0))
        late = numpyro.sample("late", dist.Exponential(1.0))
        s = numpyro.sample("s", dist.DiscreteUniform(0, T - 1), infer={"enumerate": "parallel"})
        with numpyro.plate("year", T):
            numpyro.sample("y", dist.Poisson(jnp.where(jnp.arange(T) <= s, early, late)), obs=y)

    grid = np.linspace(0.3, 5.0, 236)
    rates = stats.poisson.logpmf(y, grid[:, None])
    before = np.cumsum(rates, axis=1)
    after = before[:, -1:] - before
    joint = logsumexp(before[:, None] + after[None], axis=2) - np.log(T)
    joint -= grid[:, None] + grid
    right = joint.max()

    def init(key: jax.Array, y: np.ndarray) -> dict[str, Any]:
        return {"early": 1.75, "late": 1.0}

    this = vr.Target(vr.Model(function=switch, name="switch", init=init), y=y)
    alone = vr.MAP(num_starts=1).fit(this, throw=True)
    assert alone.diagnostics["log_density"] < right - 1
    for method in (vr.MAP(), vr.Laplace()):
        fit = method.fit(this, throw=True)
        assert fit.status is vr.Status.OK
        assert "of 5 starts" in fit.message
        assert fit.mean()["early"] < 1.3 < fit.mean()["late"]
        if isinstance(method, vr.MAP):
            assert right - 1e-6 < fit.diagnostics["log_density"] < right + 0.01


def test_too_few_steps_are_said() -> None:
    fit = vr.MAP(max_steps=1).fit(target("covariance"))
    assert fit.status is vr.Status.UNCONVERGED
    assert "Newton decrement" in fit.message
    assert "max_steps" in fit.advice
    assert fit.has_result


def test_a_scale_that_collapses_is_named() -> None:
    fit = vr.MAP().fit(target("eight_schools"))
    assert fit.status is vr.Status.DEGENERATE
    assert fit.message.startswith("tau runs to ")
    assert "no maximum" in fit.message
    with pytest.raises(vr.FitError, match="tau runs to"):
        fit.mean()


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["newton", "l-bfgs"])
def test_the_joint_mode_of_radon_collapses(solver: Any) -> None:
    fit = vr.MAP(solver=solver).fit(vr.Target(vr.load_model("radon")))
    assert fit.status is vr.Status.DEGENERATE
    assert "sigma_a runs to" in fit.message
    assert "EM" in fit.advice


def test_throw_raises_what_the_fit_would_have_said() -> None:
    with pytest.raises(vr.FitError, match="tau runs to") as caught:
        vr.MAP().fit(target("eight_schools"), throw=True)
    assert caught.value.status is vr.Status.DEGENERATE


def test_a_density_that_turns_nan_is_divergence_or_failure_not_an_answer() -> None:
    def model() -> None:
        x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.factor("f", jnp.where(x < 1.0, x, jnp.nan))  # rises towards a cliff of NaN

    fit = vr.MAP().fit(vr.Target(model))
    assert fit.status is not vr.Status.OK


def test_an_improper_posterior_is_not_called_converged() -> None:
    def model() -> None:
        numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), (2,)))
        numpyro.sample("y", dist.Normal(0.0, 1.0))

    fit = vr.MAP().fit(vr.Target(model))
    assert fit.status is vr.Status.UNCONVERGED
    assert "flat along x" in fit.message


@pytest.mark.parametrize("solver", ["newton", "l-bfgs"])
def test_a_density_that_rises_for_ever_has_no_mode(solver: str) -> None:
    def model() -> None:
        x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.factor("f", x)

    fit = vr.MAP(solver=solver).fit(vr.Target(model))
    assert fit.status is vr.Status.DEGENERATE
    assert "x runs to" in fit.message


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"space": "natural"}, "space: got 'natural', expected 'constrained' or 'unconstrained'"),
        ({"solver": "sgd"}, "solver: got 'sgd'"),
        ({"max_steps": 0}, "max_steps: got 0, expected a positive integer"),
        ({"tolerance": -1.0}, "tolerance: got -1.0"),
        ({"num_starts": 0}, "num_starts: got 0"),
    ],
)
def test_bad_options(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        vr.MAP(**options)


def test_a_target_is_asked_for() -> None:
    with pytest.raises(ValueError, match="target: got two_modes, expected a Target"):
        vr.MAP().fit(two_modes)  # type: ignore[arg-type]


@pytest.mark.parametrize("x64", [False, True])
def test_precision_of_the_caller_does_not_matter(x64: bool) -> None:
    with jax.enable_x64(x64):
        fit = vr.MAP().fit(target("normal_precision"))
        assert jax.config.jax_enable_x64 == x64
    assert fit.mean()["tau"].dtype == np.float64
    mode = case("normal_precision").mode
    assert mode is not None
    assert fit.mean()["tau"] == pytest.approx(mode["tau"], rel=1e-6)
