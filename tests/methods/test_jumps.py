"""Densities that jump, which slopes do not show, and quantities that change by steps."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, override

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import branch
from scipy import stats
from threadpoolctl import ThreadpoolController, threadpool_limits

import vi_recipes as vr
from vi_recipes.core import MethodFailure, Progress, Timing
from vi_recipes.elbo import CurvedKL, make_factors
from vi_recipes.methods import base
from vi_recipes.methods.base import Method, Result

COUNTS = np.array([3, 2, 4, 3, 5, 2, 3, 1, 0, 1, 2, 0, 1, 1, 0, 1, 2, 1, 0, 1])
"""Poisson counts at 0.5, 1.5, ..., of rate 3 before a change and 1 after it."""


def switch(n: np.ndarray, t: np.ndarray) -> None:
    tau = numpyro.sample("tau", dist.Normal(10.0, 5.0))
    with numpyro.plate("i", len(t)):
        numpyro.sample("n", dist.Poisson(jnp.where(t > tau, 1.0, 3.0)), obs=n)


def stairs(y: np.ndarray) -> None:
    with numpyro.plate("rows", len(y)):
        c = numpyro.sample("c", dist.Normal(0.0, 3.0))
        numpyro.sample("y", dist.Normal(jnp.floor(c), 1.0), obs=y)


@cache
def jumping(name: str) -> vr.Target:
    if name == "switch":
        return vr.Target(switch, n=COUNTS, t=np.arange(20) + 0.5)
    return vr.Target(branch) if name == "branch" else vr.Target(stairs, y=np.array([4.0, -1.0]))


STEPS = {"switch": ("n", "tau"), "branch": ("x", "c"), "stairs": ("y", "c")}


@dataclass(frozen=True, kw_only=True)
class GivesUp(Method):
    """Follows slopes, and comes to nothing."""

    key = "gives_up"
    summary = "none"

    @property
    @override
    def where_it_jumps(self) -> vr.Status:
        return vr.Status.DEGENERATE

    @override
    def _fit(self, target: vr.Target, key: jax.Array, timing: Timing, progress: Progress) -> Result:
        raise MethodFailure(vr.Status.FAILED, "no way")


def test_where_a_method_gives_up_jumps_are_looked_for_as_it_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In its precision, and on one core where matrices are small."""
    seen = []

    def met(posterior: object, *_: object) -> str:
        libraries = ThreadpoolController().select(user_api="blas").lib_controllers
        seen.append((jax.config.jax_enable_x64, {library.num_threads for library in libraries}))
        return "it jumps"

    monkeypatch.setattr(base, "met_jumps", met)
    with threadpool_limits(2, user_api="blas"):
        fit = GivesUp().fit(jumping("branch"))
    assert seen == [(True, {1})]
    assert fit.status is vr.Status.DEGENERATE
    assert fit.message.startswith("it jumps: the slopes that gives_up follows do not see it; no")


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("switch", vr.Laplace()),
        ("branch", vr.Laplace()),
        ("stairs", vr.MeanField()),
        ("stairs", vr.LinearResponse()),
        pytest.param("stairs", vr.Laplace(), marks=pytest.mark.slow),
        *(
            pytest.param(name, method, marks=pytest.mark.slow)
            for name in ("switch", "branch")
            for method in (vr.MeanField(), vr.LinearResponse())
        ),
    ],
)
def test_no_law_is_made_of_slopes_where_the_density_jumps(name: str, method: vr.Method) -> None:
    site, latent = STEPS[name]
    fit = method.fit(jumping(name))
    assert fit.status is vr.Status.NOT_APPLICABLE
    assert f"the log density of site {site} jumps by" in fit.message
    assert f"as {latent} moves: the slopes that {method.key} follows do not see it" in fit.message
    assert fit.log_evidence is None


@pytest.mark.parametrize("name", STEPS)
def test_a_mode_among_jumps_is_of_one_piece(name: str) -> None:
    fit = vr.MAP().fit(jumping(name))
    assert fit.status is vr.Status.UNCONVERGED
    assert f"of site {STEPS[name][0]} jumps" in fit.message
    assert "this is the mode of one piece, and others may be higher" in fit.message


def test_an_integral_over_steps_that_collapses_is_not_called_exact() -> None:
    def model(y: np.ndarray) -> None:
        m = numpyro.sample("m", dist.Normal(0.0, 1.0))
        s = numpyro.sample("s", dist.HalfNormal(1.0))
        with numpyro.plate("group", len(y)):
            u = numpyro.sample("u", dist.Normal(m, s))
            numpyro.sample("y", dist.Normal(jnp.round(u), 1.0), obs=y)

    target = vr.Target(model, y=np.array([1.0, 2.0, 0.3, -0.4, 2.0, 1.0]))
    fit = vr.MarginalMLE().fit(target)
    assert fit.status is vr.Status.NOT_APPLICABLE
    assert "elements of y hardly change with u, or by steps" in fit.message


@pytest.mark.slow
def test_gradients_through_draws_miss_jumps_and_those_of_scores_do_not() -> None:
    short: Any = {"num_steps": 30, "tolerance": None}
    fit = vr.SVI(**short).fit(jumping("stairs"))
    assert fit.status is vr.Status.UNCONVERGED
    assert "of site y jumps" in fit.message
    assert "jumps" not in vr.SVI(objective="score", **short).fit(jumping("stairs")).message


def hinged(y: float, knee: float = 0.0) -> None:
    c = numpyro.sample("c", dist.Normal(1.0, 1.0))
    numpyro.sample("y", dist.Normal(jnp.where(c > knee, c, 0.1 * c + 0.9 * knee), 1.0), obs=y)


@pytest.mark.parametrize("method", [vr.MAP(), vr.Laplace(), vr.MeanField()])
def test_a_kink_is_no_jump(method: vr.Method) -> None:
    fit = method.fit(vr.Target(hinged, y=2.0))
    assert fit.status is vr.Status.OK
    assert "jump" not in fit.message


def test_a_jump_out_of_reach_is_nothing() -> None:
    def model(y: np.ndarray) -> None:
        c = numpyro.sample("c", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(jnp.where(c > -5, c, 1.0), 0.1).expand([9]), obs=y)

    fit = vr.Laplace().fit(vr.Target(model, y=np.full(9, 0.5)))
    assert fit.status is vr.Status.OK
    assert fit.sd()["c"] == pytest.approx(1 / np.sqrt(901), rel=1e-6)


def test_an_input_that_is_flat_where_it_is_probed_is_no_constant() -> None:
    """The slope is 0 within 5 of the start, where probes look, and the input is not constant."""

    def model(y: float) -> None:
        z = numpyro.sample("z", dist.Normal(100.0, 50.0))
        numpyro.sample("y", dist.Normal(jnp.maximum(z - 150.0, 0.0), 20.0), obs=y)

    fit = vr.MeanField().fit(vr.Target(model, y=80.0))
    grid = np.linspace(-300, 600, 90_001)
    joint = stats.norm.pdf(grid, 100, 50) * stats.norm.pdf(80, np.maximum(grid - 150, 0), 20)
    exact = np.log(joint.sum() * (grid[1] - grid[0]))
    mean = (grid * joint).sum() / joint.sum()
    assert "y by draws (an input depends on z without a slope at the points tried)" in fit.message
    assert fit.status is vr.Status.OK
    assert fit.mean()["z"] == pytest.approx(mean, abs=0.1 * 20)
    assert fit.log_evidence is not None
    assert fit.log_evidence.value < exact + 3 * fit.log_evidence.se


def test_a_weight_that_depends_on_a_latent_site_is_no_constant() -> None:
    def model(y: float) -> None:
        c = numpyro.sample("c", dist.Normal(0.0, 1.0))
        with numpyro.handlers.scale(scale=jnp.exp(c)):
            numpyro.sample("y", dist.Normal(0.0, 1.0), obs=y)

    fit = vr.MeanField().fit(vr.Target(model, y=1.0))
    grid = np.linspace(-12, 12, 48_001)
    joint = np.exp(stats.norm.logpdf(grid) + np.exp(grid) * stats.norm.logpdf(1.0))
    exact = np.log(joint.sum() * (grid[1] - grid[0]))
    assert "y by draws (its mask or scale depends on c)" in fit.message
    assert fit.log_evidence is not None
    assert exact - 0.5 < fit.log_evidence.value < exact + 3 * fit.log_evidence.se


def test_a_mask_that_steps_is_found() -> None:
    def model(y: float) -> None:
        c = numpyro.sample("c", dist.Normal(0.0, 1.0))
        with numpyro.handlers.mask(mask=c > 0):
            numpyro.sample("y", dist.Normal(0.0, 1.0), obs=y)

    fit = vr.Laplace().fit(vr.Target(model, y=1.0))
    assert fit.status is vr.Status.NOT_APPLICABLE
    assert "of site y jumps" in fit.message


def test_an_input_of_two_sites_one_of_which_is_flat_is_not_affine() -> None:
    def model(y: float) -> None:
        c = numpyro.sample("c", dist.Normal(0.0, 1.0))
        z = numpyro.sample("z", dist.Normal(100.0, 50.0))
        numpyro.sample("y", dist.Normal(c + jnp.maximum(z - 150.0, 0.0), 20.0), obs=y)

    target = vr.Target(model, y=80.0)
    with jax.enable_x64(True):
        kl = CurvedKL(target, make_factors(target, {}), {}, jax.random.key(0), Timing())
    assert "y by draws (an input depends on z without a slope" in kl.describe()


# -- quantities that change by steps -----------------------------------------------------------


def positive(y: float) -> None:
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    numpyro.deterministic("positive", z > 0)
    numpyro.deterministic("whole", jnp.floor(z).astype(int))
    numpyro.deterministic("mixed", z + jnp.floor(z))
    numpyro.sample("y", dist.Normal(z, 1.0), obs=y)


@cache
def positive_target() -> vr.Target:
    return vr.Target(positive, y=0.5)


def exact_moments() -> tuple[dict[str, float], dict[str, float]]:
    """Return means and sds given y: z is normal of mean 1/4 and variance 1/2."""
    z = 0.25 + np.sqrt(0.5) * stats.norm.ppf((np.arange(400_000) + 0.5) / 400_000)
    values = {"z": z, "positive": z > 0, "whole": np.floor(z), "mixed": z + np.floor(z)}
    return {n: np.mean(v) for n, v in values.items()}, {n: np.std(v) for n, v in values.items()}


@pytest.mark.parametrize("method", [vr.Laplace(), vr.MeanField(), vr.LinearResponse()])
def test_the_mean_of_a_boolean_is_a_probability(method: vr.Method, tmp_path: Path) -> None:
    fit = method.fit(positive_target())
    means, sds = exact_moments()
    assert fit.status is vr.Status.OK
    assert means["positive"] == pytest.approx(0.6382, abs=1e-4)
    for name, mean in means.items():
        # 10,000 draws leave 0.01 sds; four standard errors
        assert fit.mean()[name] == pytest.approx(mean, abs=0.04 * sds[name])
        assert fit.sd()[name] == pytest.approx(sds[name], rel=0.04)
        assert fit.mean()[name].dtype == fit.sd()[name].dtype == np.float64
    cov = fit.cov(["z", "positive"]).to_numpy()
    # cov(z, z > 0) is the density of z at 0 times its variance
    assert cov[0, 1] == pytest.approx(stats.norm.pdf(0, 0.25, np.sqrt(0.5)) * 0.5, rel=0.04)
    fit.save(tmp_path / "fit.nc")
    assert vr.Fit.load(tmp_path / "fit.nc").mean()["positive"] == fit.mean()["positive"]


def test_at_a_point_it_is_the_value_there() -> None:
    mode = vr.MAP().fit(positive_target()).mean()
    assert (mode["positive"], mode["whole"]) == (1.0, 0.0)
    assert mode["mixed"] == pytest.approx(mode["z"])


def test_an_estimate_has_the_value_there_and_the_spread_of_draws() -> None:
    fit = vr.MarginalMLE(objective="map").fit(positive_target())
    _, sds = exact_moments()
    assert fit.mean()["positive"] == 1.0
    for name, sd in sds.items():
        assert fit.sd()[name] == pytest.approx(sd, rel=0.04)


@pytest.mark.slow
def test_a_sampler_and_stochastic_gradients_count_too() -> None:
    means, _ = exact_moments()
    fit = vr.NUTS(num_warmup=200, num_samples=500, num_chains=2).fit(positive_target())
    error = fit.posterior.mcse_mean()["positive"]  # type: ignore[union-attr]
    assert fit.mean()["positive"] == pytest.approx(means["positive"], abs=4 * error)
    fit = vr.SVI(num_steps=200, tolerance=None).fit(positive_target())
    assert 0 < fit.mean()["positive"] < 1


def test_a_probability_answers_to_a_prior() -> None:
    """The derivative of P(z > 0) in the prior's mean, by linear response, is in closed form."""

    def model(y: jax.Array, centre: jax.Array) -> None:
        z = numpyro.sample("z", dist.Normal(centre, 1.0))
        numpyro.deterministic("positive", z > 0)
        numpyro.sample("y", dist.Normal(z, 1.0), obs=y)

    target = vr.Target(model, y=np.array(0.5), centre=np.array(0.0))
    fit = vr.LinearResponse().fit(target)
    table = vr.data_sensitivity(fit, "centre")
    # z | y is normal of mean (y + centre) / 2 and variance 1/2
    exact = stats.norm.pdf(0.25 / np.sqrt(0.5)) / np.sqrt(0.5) / 2
    assert table["positive"].item() == pytest.approx(exact, rel=0.05)
