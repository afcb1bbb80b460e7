"""Laplace: exact on Gaussians, finite differences elsewhere, and Hessians that fit no Gaussian."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import GAUSSIAN, case, target

import vi_recipes as vr
from vi_recipes.core.status import MethodFailure
from vi_recipes.core.timing import Timing
from vi_recipes.modes.gaussian import gaussian_at
from vi_recipes.modes.objective import JointObjective


@pytest.mark.parametrize("name", GAUSSIAN)
def test_exact_on_gaussian_posteriors(name: str) -> None:
    known, fit = case(name), vr.Laplace().fit(target(name), throw=True)
    latents = [s.name for s in target(name).latents]
    for site in known.mean:
        error, error_sd = fit.mcse()[site], fit.mcse_sd()[site]
        # error is zero but for functions of several coordinates, which come from 10,000 draws;
        # one of those is in the table: 1e-5 that it fails at 4.5 standard errors
        assert (np.abs(fit.mean()[site] - known.mean[site]) <= 1e-8 + 4.5 * error).all()
        assert (np.abs(fit.sd()[site] - known.sd[site]) <= 1e-8 + 4.5 * error_sd).all()
        assert site not in latents or (error == 0).all()
    np.testing.assert_allclose(fit.cov(latents).to_numpy(), known.cov, atol=1e-10)
    assert fit.log_evidence is not None
    assert fit.log_evidence.value == pytest.approx(known.log_evidence, abs=1e-9)
    assert fit.log_evidence.kind == "Laplace approximation"


def numerical_hessian(f: Callable[[np.ndarray], float], z: np.ndarray, h: float) -> np.ndarray:
    eye = h * np.eye(z.size)
    return np.array(
        [
            [(f(z + a + b) - f(z + a - b) - f(z - a + b) + f(z - a - b)) / (4 * h * h) for b in eye]
            for a in eye
        ]
    )


@pytest.mark.parametrize("name", ["normal_precision", "simplex", "covariance", "dynamic_support"])
def test_the_gaussian_is_that_of_the_curvature_at_the_mode(name: str) -> None:
    this = target(name)
    fit = vr.Laplace().fit(this, throw=True)
    z = fit.posterior.loc  # type: ignore[union-attr]
    hessian = -numerical_hessian(this.log_density, z, 1e-3)
    # central differences of step 1e-3: relative error of about 1e-6 times the fourth derivative
    found = fit.posterior.unconstrained_cov(np.arange(this.dim))  # type: ignore[union-attr]
    np.testing.assert_allclose(found @ hessian, np.eye(this.dim), atol=1e-4)
    log_det = np.linalg.slogdet(hessian)[1]
    evidence = this.log_density(z) + this.dim / 2 * np.log(2 * np.pi) - log_det / 2
    assert fit.log_evidence is not None
    assert fit.log_evidence.value == pytest.approx(evidence, abs=1e-4)
    eigenvalues = np.linalg.eigvalsh(hessian)
    assert fit.diagnostics["smallest_eigenvalue"] == pytest.approx(eigenvalues[0], rel=1e-3)
    assert fit.diagnostics["largest_eigenvalue"] == pytest.approx(eigenvalues[-1], rel=1e-3)


def test_evidence_of_a_posterior_close_to_gaussian() -> None:
    # the error of the Laplace evidence is O(1/n), here n = 30
    fit = vr.Laplace().fit(target("normal_precision"))
    assert fit.log_evidence is not None
    assert fit.log_evidence.value == pytest.approx(case("normal_precision").log_evidence, abs=0.05)


def flat_direction() -> None:
    a = numpyro.sample("a", dist.ImproperUniform(dist.constraints.real, (), ()))
    b = numpyro.sample("b", dist.ImproperUniform(dist.constraints.real, (), ()))
    numpyro.sample("c", dist.Normal(0.0, 1.0))
    numpyro.factor("f", dist.Normal(1.0, 1.0).log_prob(a + b))


def test_a_flat_direction_is_singular() -> None:
    fit = vr.Laplace().fit(vr.Target(flat_direction))
    assert fit.status is vr.Status.SINGULAR
    assert "singular" in fit.message
    assert "along a, b," in fit.message
    assert "largest 2," in fit.message  # the eigenvalues are 0, 1 and 2
    with pytest.raises(vr.FitError):
        fit.sd()
    with pytest.raises(vr.FitError):
        fit.cov()


def test_a_saddle_is_indefinite_and_says_its_eigenvalue() -> None:
    def model() -> None:
        x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))
        numpyro.sample("y", dist.Normal(0.0, 1.0))
        numpyro.factor("f", -((x**2 - 1) ** 2))

    saddle = vr.Target(model)
    with jax.enable_x64(True), pytest.raises(MethodFailure) as caught:
        gaussian_at(JointObjective(saddle, Timing(), jacobian=True), np.zeros(2))
    assert caught.value.status is vr.Status.SINGULAR
    assert "indefinite: smallest eigenvalue -4 along x" in caught.value.message
    # started on the saddle, the method itself walks off it, to a mode at x = 1 or -1
    started = vr.Model(function=model, name="saddle", init=lambda key: {"x": 0.0, "y": 0.0})
    fit = vr.Laplace().fit(vr.Target(started))
    assert fit.status is vr.Status.OK
    np.testing.assert_allclose(abs(fit.mean()["x"]), 1.0, rtol=1e-6)


@pytest.mark.slow
def test_no_mode_is_singular_with_the_eigenvalues_where_it_stopped() -> None:
    fit = vr.Laplace().fit(target("eight_schools"))
    assert fit.status is vr.Status.SINGULAR
    assert "tau runs to" in fit.message
    assert "eigenvalues run from" in fit.message
    assert fit.log_evidence is None


@pytest.mark.parametrize("method", [vr.Laplace(), vr.MAP()], ids=["laplace", "map"])
def test_a_hessian_that_is_not_finite_is_said_to_be_none(method: vr.Method) -> None:
    """Value and gradient of a power below 2 are finite at its tip, where the search begins."""

    def tip() -> None:
        z = numpyro.sample("z", dist.ImproperUniform(dist.constraints.real, (), (2,)))
        numpyro.factor("tip", -(jnp.abs(z - 1.0) ** 1.5).sum())

    target = vr.Target(vr.Model(function=tip, name="tip", init=lambda key: {"z": np.ones(2)}))
    fit = method.fit(target, key=0)
    assert fit.status is vr.Status.DIVERGED
    assert "the Hessian is not finite where the search stopped, after 0 steps" in fit.message


@pytest.mark.slow
def test_units_are_not_singularity() -> None:
    def model() -> None:
        numpyro.sample("metres", dist.Normal(0.0, 1e-9))
        numpyro.sample("light_years", dist.Normal(0.0, 1e9))

    fit = vr.Laplace().fit(vr.Target(model), throw=True)
    assert fit.sd()["metres"] == pytest.approx(1e-9, rel=1e-6)
    assert fit.sd()["light_years"] == pytest.approx(1e9, rel=1e-6)


def test_near_collinearity_beyond_the_limit_is_singular() -> None:
    def model() -> None:
        x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        numpyro.factor("f", dist.Normal(0.0, 1e-3).log_prob(jnp.sum(x)))

    this = vr.Target(model)  # condition number 2e6 at unit diagonal
    assert vr.Laplace().fit(this).status is vr.Status.OK
    fit = vr.Laplace(condition_limit=1e5).fit(this)
    assert fit.status is vr.Status.SINGULAR
    assert "condition number 2e+06" in fit.message


def test_too_many_dimensions() -> None:
    size = target("state_space").dim
    fit = vr.Laplace(max_dim=size - 1).fit(target("state_space"))
    assert fit.status is vr.Status.NOT_APPLICABLE
    assert f"{size} coordinates" in fit.message
    assert f"max_dim is {size - 1}" in fit.message


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_dim": 0}, "max_dim: got 0"),
        ({"condition_limit": 0.5}, "condition_limit: got 0.5"),
        ({"tolerance": 0.0}, "tolerance: got 0.0"),
        ({"solver": "sgd"}, "solver: got 'sgd'"),
        ({"max_steps": 0}, "max_steps: got 0"),
        ({"num_starts": 0}, "num_starts: got 0"),
    ],
)
def test_bad_options(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        vr.Laplace(**options)


def test_a_small_density_has_gradient_and_hessian_of_one_program() -> None:
    """Gamma and Poisson in the logarithm of the rate, in closed form."""

    def counts(y: jax.Array) -> None:
        rate = numpyro.sample("rate", dist.Gamma(2.0, 0.5))
        numpyro.sample("y", dist.Poisson(rate).expand([3]).to_event(1), obs=y)

    timing, z = Timing(), np.array([0.4])
    for jacobian, shape in ((False, 6.0), (True, 7.0)):
        with jax.enable_x64(True):
            this = JointObjective(
                vr.Target(counts, y=np.array([1, 0, 4])), timing, jacobian=jacobian
            )
            gradient = this.value_and_grad(z)[1]
            spent = timing.compile_seconds
            hessian = this.hessian(z)
        assert timing.compile_seconds == spent
        assert gradient == pytest.approx(3.5 * np.exp(z) - shape)
        assert hessian == pytest.approx(3.5 * np.exp(z)[:, None])
