"""SVI: guides against closed forms and against NumPyro's own reading of them, and how runs end."""

from __future__ import annotations

import re
import warnings
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from interrupts_for_tests import InterruptAt
from models_for_tests import case, target
from numpyro.contrib.control_flow import scan
from numpyro.infer import SVI as Engine
from numpyro.infer import Trace_ELBO, autoguide

import vi_recipes as vr
from vi_recipes.methods.guides.coordinates import FittedGuide
from vi_recipes.methods.guides.families import read_guide
from vi_recipes.methods.guides.making import make_guide, start_values
from vi_recipes.methods.svi.outcome import NUM_ELBO_DRAWS
from vi_recipes.posterior.draws import DrawsPosterior
from vi_recipes.posterior.gaussian import GaussianPosterior

# -- fits of Gaussian posteriors, whose optimum is known ----------------------------------------


@cache
def fitted(name: str, guide: str, **options: Any) -> vr.Fit:
    options = {"num_steps": 8_000, "tolerance": None, **options}
    return vr.SVI(guide=guide, **options).fit(target(name), key=0, throw=True)


@pytest.mark.slow
@pytest.mark.parametrize("guide", ["normal", "multivariate_normal", "lowrank_normal"])
def test_means_are_right_within_the_error_they_state(guide: str) -> None:
    fit = fitted("linear_regression", guide)
    assert fit.status is vr.Status.OK
    error = fit.mcse()["beta"]
    sd = case("linear_regression").sd["beta"]
    # The error comes from a few batch means, which in a posterior with a correlation of -0.87 are
    # not independent yet. So twice the 5 standard errors that 2 comparisons x 3 guides would ask
    # for (5e-4).
    assert (np.abs(fit.mean()["beta"] - case("linear_regression").mean["beta"]) < 10 * error).all()
    assert (error < 0.1 * sd).all()  # and the error is small enough for this to mean something


@pytest.mark.parametrize("guide", ["multivariate_normal", "lowrank_normal"])
def test_a_full_covariance_is_found(guide: str) -> None:
    cov = case("linear_regression").cov
    assert cov is not None
    found = fitted("linear_regression", guide).cov(["beta"]).to_numpy()
    sd = np.sqrt(np.diag(cov))
    # 8,000 Adam steps of 0.01, the last half averaged, leave up to a tenth on variances; without
    # the correlation of -0.87 the difference would be 0.87
    assert np.abs((found - cov) / np.outer(sd, sd)).max() < 0.15


def test_mean_field_reaches_its_own_optimum() -> None:
    known = case("linear_regression")
    assert known.cov is not None
    assert known.log_evidence is not None
    precision = np.linalg.inv(known.cov)
    fit = fitted("linear_regression", "normal")
    # the factors' sds are 1 / sqrt(precision_ii): not the marginal sds, which are twice those
    np.testing.assert_allclose(fit.sd()["beta"], np.diag(precision) ** -0.5, rtol=0.05)
    assert (fit.sd()["beta"] < 0.6 * known.sd["beta"]).all()
    # and KL(q || p) = (sum log precision_ii - log det precision) / 2
    kl = (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1]) / 2
    assert fit.log_evidence is not None
    error = fit.log_evidence.value - (known.log_evidence - kl)
    # 400 draws; the excess over the optimum is second order in the few per cent of the scales
    assert abs(error) < 4.5 * fit.log_evidence.se + 0.01
    assert kl > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("guide", ["normal", "multivariate_normal", "iaf"])
def test_the_elbo_bounds_the_evidence(guide: str) -> None:
    known = case("normal_precision")
    # a flow takes its time
    fit = fitted("normal_precision", guide, num_steps=15_000 if guide == "iaf" else 3_000)
    assert fit.log_evidence is not None
    assert known.log_evidence is not None
    assert fit.log_evidence.kind == "lower bound (ELBO)"
    gap = known.log_evidence - fit.log_evidence.value
    assert -4.5 * fit.log_evidence.se < gap < 0.5  # near: every one of these guides fits well
    assert fit.diagnostics["elbo"] == fit.log_evidence.value


def test_delta_is_the_mode_of_the_constrained_density() -> None:
    mode = case("normal_precision").mode
    assert mode is not None
    fit = fitted("normal_precision", "delta", num_steps=3_000, dtype="float64")
    for site in ("tau", "mu", "sigma"):
        # deterministic gradients; Adam of step 0.01, averaged, ends within 1e-3
        assert fit.mean()[site] == pytest.approx(mode[site], rel=1e-3)
    assert np.isnan(fit.sd()["tau"])
    assert fit.log_evidence is None


def test_the_laplace_guide_is_laplace() -> None:
    expected = vr.Laplace().fit(target("normal_precision"), throw=True)
    fit = fitted("normal_precision", "laplace", num_steps=3_000, dtype="float64")
    for site in ("tau", "mu", "sigma"):
        assert fit.mean()[site] == pytest.approx(expected.mean()[site], rel=2e-3)
        assert fit.sd()[site] == pytest.approx(expected.sd()[site], rel=2e-3)


def test_the_laplace_guide_reports_a_singular_hessian() -> None:
    def model() -> None:
        x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), (2,)))
        numpyro.factor("f", dist.Normal(1.0, 1.0).log_prob(x.sum()))

    fit = vr.SVI(guide="laplace", num_steps=200).fit(vr.Target(model))
    assert fit.status is vr.Status.SINGULAR
    assert "smallest eigenvalue" in fit.message


# -- reading a guide ----------------------------------------------------------------------------


@cache
def unsorted() -> vr.Target:
    """Sites of many shapes and supports whose names are not in alphabetical order."""

    def model() -> None:
        with numpyro.plate("m", 2):
            numpyro.sample("w", dist.Normal(0.0, 1.0))
        z = numpyro.sample("z", dist.Dirichlet(jnp.ones(3)))
        numpyro.sample("b", dist.LogNormal(0.0, 1.0))
        with numpyro.plate("n", 2):
            numpyro.sample("a", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        numpyro.deterministic("c", z[0] / z[1])

    return vr.Target(model)


GAUSSIAN_GUIDES = [
    autoguide.AutoNormal,
    autoguide.AutoDiagonalNormal,
    autoguide.AutoMultivariateNormal,
    autoguide.AutoLowRankMultivariateNormal,
]


@pytest.mark.slow
@pytest.mark.parametrize("family", GAUSSIAN_GUIDES)
def test_gaussian_guides_are_read_as_numpyro_draws_them(family: Any) -> None:
    this, n = unsorted(), 20_000
    guide = make_guide(family, this, start_values(this, np.zeros(this.dim)))
    engine = Engine(this.model.function, guide, optax.adam(0.01), Trace_ELBO())
    state = engine.init(jax.random.key(0))
    rng = np.random.default_rng(7)
    # parameters of a guide nobody optimised: every coordinate has its own location and scale
    free = jax.tree.map(
        lambda v: v + jnp.asarray(0.4 * rng.standard_normal(v.shape), v.dtype),
        engine.optim.get_params(state.optim_state),
    )
    params = engine.constrain_fn(free)
    found = read_guide(guide, FittedGuide(params, this, jax.random.key(1)))
    assert isinstance(found, GaussianPosterior)
    drawn = guide.sample_posterior(jax.random.key(2), params, sample_shape=(n,))
    values = this.complete({k: np.asarray(v, float) for k, v in drawn.items()})
    names = ["w", "z", "b", "a"]
    flat = np.concatenate([values[k].reshape(n, -1) for k in names], axis=1)
    mean = np.concatenate([np.ravel(found.mean()[k]) for k in names])
    error = np.concatenate([np.ravel(found.mcse_mean()[k]) for k in names])
    sampled = flat.std(0) / np.sqrt(n)
    # 12 means and 78 covariances a guide, four guides, at 5 standard errors: 2e-4 that a right
    # reading fails. A swap of two coordinates would be off by tens of them.
    assert (np.abs(flat.mean(0) - mean) < 5 * np.hypot(error, sampled)).all()
    centred = flat - flat.mean(0)
    products = centred[:, :, None] * centred[:, None, :]
    error = products.std(0) / np.sqrt(n)
    exact = (this.coordinate_of["z"] >= 0).tolist()
    keep = np.array([True, True, *exact, *[True] * 7])  # the others were drawn on both sides
    cov = found.cov(names)
    assert (np.abs(products.mean(0) - cov) < 5 * error)[np.ix_(keep, keep)].all()


@pytest.mark.slow
@pytest.mark.parametrize("guide", ["normal", "multivariate_normal", "lowrank_normal", "laplace"])
def test_sites_are_not_mixed_up(guide: str) -> None:
    """Sites out of alphabetical order, each with a location of its own, through the whole fit."""

    def model() -> None:
        numpyro.sample("w", dist.Normal(1.0, 0.1))
        numpyro.sample("z", dist.Normal(jnp.array([2.0, 3.0]), 0.1).to_event(1))
        numpyro.sample("b", dist.LogNormal(jnp.log(4.0), 0.01))
        numpyro.sample("a", dist.Normal(5.0, 0.1))

    fit = vr.SVI(guide=guide, num_steps=1_000).fit(vr.Target(model), throw=True)
    found = [float(x) for site in "wzba" for x in np.ravel(fit.mean()[site])]
    np.testing.assert_allclose(found, [1, 2, 3, 4, 5], atol=0.3)  # three sds


@pytest.mark.slow
def test_a_flow_is_read_from_draws() -> None:
    fit = fitted("normal_precision", "iaf", num_steps=15_000)
    assert isinstance(fit.posterior, DrawsPosterior)
    assert not fit.is_sampler
    assert (fit.mcse()["tau"] > 0).all()
    assert (
        abs(fit.mean()["tau"] - case("normal_precision").mean["tau"])
        < 0.3 * (case("normal_precision").sd["tau"])
    )


@pytest.mark.slow
@pytest.mark.parametrize("guide", ["bnaf", "dais"])
def test_guides_beyond_the_normal(guide: str) -> None:
    known, fit = case("normal_precision"), fitted("normal_precision", guide, num_steps=3_000)
    assert isinstance(fit.posterior, DrawsPosterior)
    for site in ("tau", "mu"):
        assert abs(fit.mean()[site] - known.mean[site]) < 0.2 * known.sd[site]
        assert fit.sd()[site] == pytest.approx(known.sd[site], rel=0.2)
    assert fit.log_evidence is not None
    assert -0.2 < fit.log_evidence.value - known.log_evidence < 4.5 * fit.log_evidence.se


def hand_made(y: Any) -> None:
    loc = numpyro.param("loc", 0.0)
    scale = numpyro.param("scale", 1.0, constraint=dist.constraints.positive)
    numpyro.sample("mu", dist.Normal(loc, scale))


def test_a_guide_function() -> None:
    fit = vr.SVI(guide=hand_made, num_steps=4_000).fit(target("normal_mean"), throw=True)
    known = case("normal_mean")
    assert fit.method == "svi_hand_made"
    assert fit.config["guide"] == "hand_made"
    # 4,000 draws of the fitted guide at 4.5 standard errors, and a few per cent of optimisation
    noise = 0.05 * known.sd["mu"]
    assert abs(fit.mean()["mu"] - known.mean["mu"]) < 4.5 * fit.mcse()["mu"] + noise
    assert abs(fit.sd()["mu"] - known.sd["mu"]) < 4.5 * fit.mcse_sd()["mu"] + noise


def test_an_autoguide_class_and_an_autoguide() -> None:
    this = target("normal_mean")
    by_class = vr.SVI(guide=autoguide.AutoDiagonalNormal, num_steps=2_000).fit(this, throw=True)
    ready = autoguide.AutoDiagonalNormal(this.model.function, prefix="mine")
    by_object = vr.SVI(guide=ready, num_steps=2_000).fit(this, throw=True)
    assert by_class.method == by_object.method == "svi_AutoDiagonalNormal"
    for fit in (by_class, by_object):
        assert fit.sd()["mu"] == pytest.approx(case("normal_mean").sd["mu"], rel=0.1)


def test_a_guide_without_a_site_of_the_model() -> None:
    def empty(y: Any) -> None:
        numpyro.sample("nu", dist.Normal(numpyro.param("loc", 0.0), 1.0))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPyro's own, of the same thing
        fit = vr.SVI(guide=empty, num_steps=10).fit(target("normal_mean"))
    assert fit.status is vr.Status.FAILED
    assert "no sample site for latent site(s) mu" in fit.message


def test_a_support_that_moves_is_refused_for_numpyros_own_guides() -> None:
    fit = vr.SVI(num_steps=10).fit(target("dynamic_support"))
    assert fit.status is vr.Status.NOT_APPLICABLE
    assert "support of x depends on other sites" in fit.message


@pytest.mark.slow
def test_a_support_that_moves_is_fitted_by_a_guide_that_moves_with_it() -> None:
    def guide(y: Any) -> None:
        lo = numpyro.sample("lo", dist.Normal(numpyro.param("m", 0.0), 0.1))
        share = dist.Beta(numpyro.param("a", 5.0, constraint=dist.constraints.positive), 8.0)
        to_support = dist.transforms.AffineTransform(lo, 5.0 - lo)
        numpyro.sample("x", dist.TransformedDistribution(share, to_support))

    assert vr.SVI(guide=guide, num_steps=200).fit(target("dynamic_support")).has_result


def test_a_support_whose_bounds_are_data() -> None:
    def model(top: Any) -> None:
        numpyro.sample("x", dist.Uniform(0.0, top).to_event(1))

    this = vr.Target(model, top=np.array([2.0, 3.0]))
    fit = vr.SVI(num_steps=200).fit(this, throw=True)
    assert (fit.draws(100)["x"] < [2.0, 3.0]).all()


@pytest.mark.parametrize("guide", ["laplace", {"u": "normal"}])
def test_plates_within_a_scan(guide: Any) -> None:
    """Independent normals: the mean is half of y, the variance a half."""

    def model(y: Any) -> None:
        def step(carry: Any, row: Any) -> Any:
            with numpyro.plate("column", 2):
                u = numpyro.sample("u", dist.Normal(0.0, 1.0))
                numpyro.sample("y", dist.Normal(u, 1.0), obs=row)
            return carry, None

        scan(step, 0.0, y)

    y = np.array([[1.0, -0.5], [0.3, 2.0], [-1.2, 0.8]])
    fit = vr.SVI(guide=guide, num_steps=1_500).fit(vr.Target(model, y=y), throw=True)
    exact = guide == "laplace"
    np.testing.assert_allclose(fit.mean()["u"], y / 2, atol=0.01 if exact else 0.15)
    np.testing.assert_allclose(fit.sd()["u"], np.sqrt(0.5), rtol=1e-5 if exact else 0.2)


# -- how a run ends -----------------------------------------------------------------------------


def test_divergence_names_the_step() -> None:
    fit = vr.SVI(num_steps=400, step_size=1e3).fit(target("normal_precision"))
    assert fit.status is vr.Status.DIVERGED
    found = re.search(r"became \S+ at step (\d+)", fit.message)
    assert found
    assert 1 < int(found[1]) <= 400
    assert "step_size" in fit.advice
    with pytest.raises(vr.FitError):
        fit.mean()


def test_divergence_keeps_what_went_before() -> None:
    """Adam's step grows a thousandfold after 25 steps: the first chunk of 10 is good."""
    schedule = optax.piecewise_constant_schedule(1e-2, {25: 1e5})
    fit = vr.SVI(num_steps=400, optimizer=optax.adam(schedule)).fit(target("normal_precision"))
    assert fit.status is vr.Status.DIVERGED
    found = re.search(r"at step (\d+); over the 10 steps to step (\d+) it still", fit.message)
    assert found
    assert int(found[2]) < int(found[1]) <= int(found[2]) + 10
    assert fit.trace["elbo_step"][-1] == int(found[1]) - 1
    assert np.isfinite(fit.trace["elbo"]).all()


def test_the_default_stops_by_its_rule() -> None:
    known, fit = (
        case("linear_regression"),
        vr.SVI(guide="multivariate_normal").fit(target("linear_regression"), key=1),
    )
    assert fit.status is vr.Status.OK
    assert fit.message.startswith(f"stopped by its rule after {fit.diagnostics['num_steps']:.0f}")
    assert fit.diagnostics["num_steps"] < 15_000
    assert 0.04 / fit.diagnostics["step_size"] >= 4  # and R-hat is put as at the first one
    assert fit.diagnostics["r_hat"] < 1.1
    # the rule asks for a twentieth of a sd; four times that, as the error is itself an estimate
    assert (np.abs(fit.mean()["beta"] - known.mean["beta"]) < 0.2 * known.sd["beta"]).all()
    assert (fit.mcse()["beta"] < 0.06 * known.sd["beta"]).all()


def test_a_run_whose_average_is_not_known_well_enough_says_so() -> None:
    fit = vr.SVI(num_steps=2_000, tolerance=1e-4).fit(target("normal_mean"))
    assert fit.status is vr.Status.UNCONVERGED
    assert fit.message.startswith("all 2000 steps were taken; the locations' R-hat")
    assert "tolerance" in fit.advice


def test_a_climbing_elbo_has_not_converged() -> None:
    fit = vr.SVI(num_steps=400, step_size=1e-3).fit(target("nested_plates"))
    assert fit.status is vr.Status.UNCONVERGED
    assert "the ELBO gained" in fit.message
    assert fit.has_result


def test_the_trace_covers_every_step() -> None:
    fit = fitted("linear_regression", "normal")
    steps = fit.trace["elbo_step"]
    assert steps[-1] == 8_000
    assert (np.diff(steps) > 0).all()
    assert fit.trace["elbo"].shape == fit.trace["elbo_se"].shape == steps.shape
    assert (fit.trace["elbo_se"] > 0).all()
    assert fit.timing.gradient_evaluations == 8_000 + drawn_freshly(fit)
    # the last windows sit at the ELBO of the fitted guide, about 0.5 a draw
    late = fit.trace["elbo"][-50:].mean()
    assert late == pytest.approx(fit.diagnostics["elbo"], abs=0.2)


def drawn_freshly(fit: vr.Fit) -> int:
    """Return how often the objective was evaluated besides the steps."""
    extra = re.search(r"from (\d+) fresh draws", fit.message)
    return 2 * NUM_ELBO_DRAWS + (2 * int(extra[1]) if extra else 0)


def test_any_number_of_steps_is_run_exactly() -> None:
    fit = vr.SVI(num_steps=123, num_particles=2).fit(target("normal_mean"))
    assert fit.diagnostics["num_steps"] == 123
    assert fit.trace["elbo_step"][-1] == 123
    assert fit.timing.gradient_evaluations == 2 * (123 + drawn_freshly(fit))


def test_an_interrupt_keeps_what_is_done() -> None:
    fit = vr.SVI(num_steps=2_000).fit(target("normal_mean"), progress=InterruptAt(0.5))
    assert fit.status is vr.Status.INTERRUPTED
    assert 1_000 <= fit.diagnostics["num_steps"] < 1_200
    assert np.isfinite(fit.sd()["mu"])


def test_an_interrupt_at_once_has_nothing_to_keep() -> None:
    with pytest.raises(KeyboardInterrupt):
        vr.SVI(num_steps=2_000).fit(target("normal_mean"), progress=InterruptAt(0.0))


def test_seeds() -> None:
    a, b, c = (
        vr.SVI(num_steps=500).fit(target("normal_mean"), key=k).mean()["mu"]
        for k in (1, jax.random.key(1), 2)
    )
    assert a == b != c


def test_optimizer_and_step_size() -> None:
    this, known = target("normal_mean"), case("normal_mean")
    clipped = optax.chain(optax.clip(10.0), optax.sgd(0.02))
    fit = vr.SVI(optimizer=clipped, num_steps=4_000).fit(this, throw=True)
    assert abs(fit.mean()["mu"] - known.mean["mu"]) < 0.1 * known.sd["mu"]
    one, two = (
        vr.SVI(step_size=step, num_steps=100).fit(this).mean()["mu"] for step in (1e-9, 2e-9)
    )
    assert one == pytest.approx(two, abs=1e-6)  # neither has left the start
    assert abs(one - vr.SVI(step_size=0.1, num_steps=100).fit(this).mean()["mu"]) > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("x64", [False, True])
def test_precision_is_the_methods_own(dtype: Any, x64: bool) -> None:
    seen: list[Any] = []

    def model(y: Any) -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        seen.append(jnp.result_type(mu))
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    this = vr.Target(model, y=np.array([0.5, 1.5]))
    with jax.enable_x64(x64):
        seen.clear()
        fit = vr.SVI(dtype=dtype, num_steps=50).fit(this)
        assert jax.config.jax_enable_x64 == x64
    assert fit.provenance.dtype == dtype
    assert jnp.dtype(dtype) in seen


@pytest.mark.slow
def test_arrays_that_the_model_closes_over_keep_one_precision() -> None:
    scales = np.array([1.0, 2.0])

    def model() -> None:
        numpyro.sample("x", dist.Normal(0.0, scales).to_event(1))

    engine = Engine(model, autoguide.AutoNormal(model), optax.adam(0.01), Trace_ELBO())
    engine.run(jax.random.key(0), 10, progress_bar=False)  # the caller's own use, in float32
    this = vr.Target(model)
    assert this.closes_over_arrays
    assert vr.SVI(num_steps=50).fit(this).has_result
    refused = vr.SVI(num_steps=50, dtype="float32").fit(this)
    assert refused.status is vr.Status.NOT_APPLICABLE
    assert "pass them as arguments" in refused.message
    assert not target("linear_regression").closes_over_arrays


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"guide": "norml"}, "guide: got 'norml'.*did you mean 'normal'"),
        ({"guide": 3}, "guide: got 3"),
        ({"num_steps": 0}, "num_steps: got 0"),
        ({"step_size": 0.0}, "step_size: got 0.0"),
        ({"num_particles": 0}, "num_particles: got 0"),
        ({"dtype": "float16"}, "dtype: got 'float16'"),
        ({"optimizer": "adam"}, "optimizer: got 'adam', expected an optax"),
    ],
)
def test_bad_options(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        vr.SVI(**options)
