"""Log joints that look quadratic in the latent variables and are not, where the answer lies."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.integrate import trapezoid
from scipy.optimize import minimize
from scipy.special import logsumexp
from scipy.stats import norm

import vi_recipes as vr
from vi_recipes.core import MethodFailure, Timing
from vi_recipes.latent import curvature, marginal_of, split_target

RNG = np.random.default_rng(1)
KNOT, S = 20.0, 0.5
BENT = np.maximum(20.5 + 1.5 * RNG.normal(size=40), KNOT) + S * RNG.normal(size=40)


def broken(z: Any) -> Any:
    """Return a line that is three times as steep below a knot far from the start."""
    return jnp.where(z > KNOT, z, KNOT + 3.0 * (z - KNOT))


def hinge(z: Any) -> Any:
    """Return a line that is flat below the knot: near the start it does not depend on z."""
    return jnp.maximum(z, KNOT)


def turned(z: Any) -> Any:
    """Return the same as ``broken`` with a smooth turn, which no program tells."""
    return z + (1.0 - jnp.tanh(50.0 * (z - KNOT))) * (z - KNOT)


def model_of(mean: Callable[[Any], Any]) -> Callable[..., None]:
    """Return a hierarchy whose members are seen through a function."""

    def model(y: Any) -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 50.0))
        tau = numpyro.sample("tau", dist.HalfNormal(5.0))
        with numpyro.plate("members", len(y)):
            z = numpyro.sample("z", dist.Normal(mu, tau))
            numpyro.sample("y", dist.Normal(mean(z), S), obs=y)

    return model


def log_likelihood(mean: Callable[[Any], Any], mu: float, tau: float) -> float:
    """Return the marginal log-likelihood of the data above by the trapezoidal rule."""
    z = np.linspace(mu - 10 * tau, mu + 10 * tau, 1_001)
    seen = np.asarray(mean(z), float)
    joint = -(((BENT[:, None] - seen) / S) ** 2) / 2 - ((z - mu) / tau) ** 2 / 2
    constant = len(BENT) * np.log(2 * np.pi * S * tau)
    return float(np.log(trapezoid(np.exp(joint), z, axis=1)).sum() - constant)


def best(mean: Callable[[Any], Any]) -> tuple[float, float, float]:
    """Return the highest of the likelihoods, and where it is."""

    def fall(x: np.ndarray) -> float:
        return -log_likelihood(mean, x[0], float(np.exp(x[1])))

    end = minimize(fall, [20.5, 0.0], method="Nelder-Mead")
    return -float(end.fun), float(end.x[0]), float(np.exp(end.x[1]))


@pytest.mark.parametrize("mean", [broken, turned])
def test_a_knot_far_from_the_start_is_known_or_seen_at_the_estimate(
    mean: Callable[[Any], Any],
) -> None:
    """It was OK at a log-likelihood 1 nat off, with a tau 0.6 standard errors off."""
    fit = vr.MarginalMLE().fit(vr.Target(model_of(mean), y=BENT), key=0)
    value, mu, tau = best(mean)
    assert fit.status.ok
    assert "exact" not in fit.message
    kinks = "the log density of y has kinks in z (abs, max, where): a higher maximum may lie past"
    assert (kinks in fit.message) == (mean is broken)
    assert fit.log_likelihood == pytest.approx(value, abs=0.3)  # the nodes' share is told
    assert fit.mean()["mu"] == pytest.approx(mu, abs=0.2 * fit.sd()["mu"])
    assert fit.mean()["tau"] == pytest.approx(tau, abs=0.2 * fit.sd()["tau"] + 0.03)


@pytest.mark.parametrize("mean", [broken, turned, pytest.param(hinge, marks=pytest.mark.slow)])
def test_em_and_nested_are_not_ok_with_a_wrong_integral(mean: Callable[[Any], Any]) -> None:
    """EM was OK two nats off, nested quadrature 1.1 of its sds off."""
    target = vr.Target(model_of(mean), y=BENT)
    value, mu, _ = best(mean)
    fits = [method.fit(target, key=0) for method in (vr.EM(), vr.NestedQuadrature())]
    for fit in fits:
        if fit.status.ok:
            assert fit.mean()["mu"] == pytest.approx(mu, abs=0.3 * fit.sd()["mu"])
            assert fit.log_likelihood is None or fit.log_likelihood == pytest.approx(value, abs=0.3)
        assert "exact Gaussian" not in fit.message
        assert "report this" not in fit.explanation


@pytest.mark.parametrize("mean", [broken, turned, hinge])
def test_a_free_energy_with_a_knot_is_refused_where_it_lies(mean: Callable[[Any], Any]) -> None:
    """Its log-likelihood was tens of nats off there, as one that is exact."""
    target = vr.Target(model_of(mean), y=BENT)
    energy = vr.FreeEnergy(target)
    far = energy.unconstrain({"mu": KNOT, "tau": 1.0})
    near = energy.unconstrain({"mu": -20.0, "tau": 0.1})
    q = energy.posterior(near)
    slope = float(mean(-20.0) - mean(-21.0))
    right = norm.logpdf(BENT, float(mean(-20.0)), np.hypot(S, 0.1 * slope)).sum()
    assert energy(q, near) == pytest.approx(right, rel=1e-6)
    for wrong in (
        lambda: energy.log_likelihood(far),
        lambda: energy.posterior(far),
        lambda: energy(q._replace(mean=np.full((40, 1), KNOT)), near),
    ):
        with pytest.raises(vr.MethodFailure, match="not normal at this theta"):
            wrong()
    with pytest.raises(vr.MethodFailure, match="neither a table"):
        vr.FreeEnergy(target)  # it is remembered what was seen


def test_a_joint_ascent_is_refused_where_the_program_has_kinks() -> None:
    """It climbs to where no one can tell beforehand, by E-steps that would not be exact."""
    target = vr.Target(model_of(broken), y=BENT)
    assert "neither a table" in str(vr.MarginalMLE(ascent="joint").applies(target))


def test_what_depends_on_members_far_from_the_start_is_theirs() -> None:
    """A site that is flat near the start counted as one that no latent variable touches."""
    with jax.enable_x64(True):
        split = split_target(vr.Target(model_of(hinge), y=BENT))
    np.testing.assert_array_equal(split.index["y"], np.arange(40))


def centred(y: Any, bend: Callable[[Any], Any]) -> None:
    """Members around 0, seen through a function."""
    tau = numpyro.sample("tau", dist.HalfNormal(1.0))
    with numpyro.plate("members", len(y)):
        z = numpyro.sample("z", dist.Normal(0.0, tau))
        numpyro.sample("y", dist.Normal(bend(z), S), obs=y)


def test_slopes_tell_a_kink_that_curvatures_do_not() -> None:
    """The square of an absolute value bends as that of a line does."""

    def rule(bend: Callable[[Any], Any]) -> str:
        with jax.enable_x64(True):
            target = vr.Target(lambda y: centred(y, bend), y=BENT - KNOT)
            return marginal_of(target, None, "auto", 9, False, Timing()).rule

    assert rule(jnp.abs) == "quadrature"
    assert rule(lambda z: 2 * z) == "gaussian"


def walk(y: Any, bend: Callable[[Any], Any]) -> None:
    """A random walk, one member of many scalars, seen through a function."""
    tau = numpyro.sample("tau", dist.HalfNormal(1.0))
    x = numpyro.sample("x", dist.GaussianRandomWalk(1.0, num_steps=len(y)))
    numpyro.sample("y", dist.Normal(bend(tau * x), 1.0).to_event(1), obs=y)


@pytest.mark.parametrize("size", [12, pytest.param(310, marks=pytest.mark.slow)])
def test_a_kink_of_one_wide_member_is_told(size: int) -> None:
    """Its precision is looked at by products with some directions, and so are its slopes."""
    y = np.cumsum(RNG.normal(size=size))

    def look(bend: Callable[[Any], Any]) -> bool:
        target = vr.Target(lambda y: walk(y, bend), y=y)
        with jax.enable_x64(True):
            split = split_target(target, ("x",))
            start = target.start(jax.random.key(0), scatter=0.0)
            return curvature.examine(split, lambda: start, Timing().compile).quadratic

    assert look(lambda x: x)
    assert not look(jnp.abs)


def test_quadrature_sees_the_knot_too() -> None:
    """The integral over theta rests on the members'."""
    target = vr.Target(model_of(broken), y=BENT)
    mu, tau = np.linspace(19.5, 22.0, 61), np.linspace(0.3, 2.5, 61)
    terms = [
        [log_likelihood(broken, m, t) + norm.logpdf(m, 0, 50) + norm.logpdf(t, 0, 5) for t in tau]
        for m in mu
    ]
    area = (mu[1] - mu[0]) * (tau[1] - tau[0])
    truth = logsumexp(terms) + np.log(area) + np.log(2)
    try:
        found = vr.quadrature(target)
    except MethodFailure:
        return  # nodes do not integrate a kink to the digits that it asks for
    assert found.value == pytest.approx(truth, abs=3 * found.se + 0.01)


GROUP = np.repeat(np.arange(4), 3)
ROWS = RNG.normal(size=12)

KINKED: dict[str, Callable[[Any], Any]] = {
    "absolute value": lambda z: jnp.abs(z - 500.0)[GROUP],
    "maximum": lambda z: jnp.maximum(z, -500.0)[GROUP],
    "clip": lambda z: jnp.clip(z, -500.0, 500.0)[GROUP],
    "relu": lambda z: jax.nn.relu(z + 500.0)[GROUP],
    "leaky relu": lambda z: jax.nn.leaky_relu(z + 500.0)[GROUP],
    "where": lambda z: jnp.where(z > 500.0, 2 * z, z)[GROUP],
    "largest": lambda z: jnp.stack([z, z - 500.0]).max(axis=0)[GROUP],
    "sorted": lambda z: jnp.sort(jnp.stack([z, z - 500.0, z + 500.0]), axis=0)[1][GROUP],
    "median": lambda z: jnp.median(jnp.stack([z, z - 500.0, z + 500.0]), axis=0)[GROUP],
    "branch": lambda z: jax.vmap(
        lambda z: jax.lax.cond(z > 500.0, lambda: z * 2, lambda: z)
    )(z)[GROUP],
}  # fmt: skip

SMOOTH: dict[str, Callable[[Any], Any]] = {
    "data": lambda z: z[GROUP] + jnp.maximum(jnp.sort(ROWS), 0.0),
    "where of the data": lambda z: jnp.where(ROWS > 0, z[GROUP], 0.0),
    "an even power": lambda z: (z + (jnp.abs(z) ** 2 - z**2))[GROUP],
    "a log of a sum": lambda z: (z + jax.nn.logsumexp(jnp.stack([z, z]), axis=0) - z)[GROUP],
    "rows by position": lambda z: jnp.take(z, GROUP, mode="clip"),
}


def of_groups(y: Any, mean: Callable[[Any], Any]) -> None:
    """Members of three rows, with kinks in parameters at any rate."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    tau = numpyro.sample("tau", dist.HalfNormal(1.0))
    with numpyro.plate("members", 4):
        z = numpyro.sample("z", dist.Normal(jnp.abs(mu), jnp.maximum(tau, 1e-3)))
    with numpyro.plate("rows", 12):
        numpyro.sample("y", dist.Normal(mean(z) + jax.nn.relu(mu), 1.0), obs=y)


def members_of(
    model: Callable[..., None], latent: str = "z"
) -> tuple[curvature.MembersCurvature, str]:
    """Return what the members' precision is like, and what is said of their kinks."""
    with jax.enable_x64(True):
        target = vr.Target(model, y=ROWS)
        split = split_target(target, (latent,))
        start = target.start(jax.random.key(0), scatter=0.0)
        seen = curvature.examine(split, lambda: start, Timing().compile)
        return seen, curvature.kinks_of(split)


@pytest.mark.parametrize("name", KINKED)
def test_a_kink_that_no_place_comes_near_is_known_by_the_program(name: str) -> None:
    """It is 500 away: members were normal, by what was seen of them."""
    seen, told = members_of(lambda y: of_groups(y, KINKED[name]))
    assert not seen.quadratic
    assert told == "the log density of y has kinks in z (abs, max, where)"


@pytest.mark.parametrize("name", SMOOTH)
def test_kinks_in_the_data_or_in_parameters_are_none_of_the_members(name: str) -> None:
    seen, told = members_of(lambda y: of_groups(y, SMOOTH[name]))
    assert seen.quadratic
    assert not told


def test_functions_that_are_smooth_by_way_of_others_have_the_curvature_that_was_seen() -> None:
    """NumPyro makes a logistic log density of an absolute value and a maximum."""

    def model(y: Any) -> None:
        walk = numpyro.sample("x", dist.GaussianRandomWalk(1.0, num_steps=12))
        tau = numpyro.sample("tau", dist.HalfNormal(1.0))
        numpyro.sample("y", dist.Bernoulli(logits=tau * walk).to_event(1), obs=(y > 0).astype(int))

    seen, told = members_of(model, "x")
    assert seen.concave
    assert not seen.quadratic
    assert not told


@pytest.mark.parametrize("where", ["prior", "likelihood"])
def test_a_laplace_law_names_the_site_that_has_the_kink(where: str) -> None:
    def model(y: Any) -> None:
        tau = numpyro.sample("tau", dist.HalfNormal(1.0))
        laws = {"prior": (dist.Laplace, dist.Normal), "likelihood": (dist.Normal, dist.Laplace)}
        first, second = laws[where]
        with numpyro.plate("members", 4):
            z = numpyro.sample("z", first(0.0, tau))
        with numpyro.plate("rows", 12):
            numpyro.sample("y", second(z[GROUP], 1.0), obs=y)

    seen, told = members_of(model)
    site = "z" if where == "prior" else "y"
    assert not seen.quadratic
    assert told == f"the log density of {site} has kinks in z (abs, max, where)"


def test_coupled_members_with_kinks_are_refused_with_what_has_them() -> None:
    """Laplace's approximation around one mode was called an exact Gaussian integral."""
    target = vr.Target(lambda y: walk(y, lambda x: jnp.abs(x - 30.0)), y=ROWS + 30.0)
    why = str(vr.MarginalMLE(latent=("x",)).applies(target))
    assert "the log density of y has kinks in x" in why
    assert "NUTS" in why


@pytest.mark.slow
def test_a_clip_for_safety_leaves_coupled_members_normal() -> None:
    target = vr.Target(lambda y: walk(y, lambda x: jnp.clip(x, -1e4, 1e4)), y=ROWS)
    fit = vr.MarginalMLE(latent=("x",)).fit(target, key=0)
    assert "exact Gaussian" in fit.message
    assert "the log density of y has kinks in x" in fit.message


def quantiles(y: Any) -> None:
    """Quantile regression with intercepts by group, 6 rows each."""
    a = numpyro.sample("a", dist.Normal(0.0, 3.0))
    tau = numpyro.sample("tau", dist.HalfNormal(1.0))
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    with numpyro.plate("members", 12):
        z = numpyro.sample("z", dist.Normal(0.0, tau))
    with numpyro.plate("rows", 72):
        mean = a + z[np.repeat(np.arange(12), 6)]
        numpyro.sample("y", dist.AsymmetricLaplaceQuantile(mean, s, 0.75), obs=y)


def test_members_whose_density_is_a_line_are_told_of_in_words_alone() -> None:
    """NumPy told of 0 / 0, which pytest takes for an error, where curvatures are all 0."""

    def model(y: Any) -> None:
        m = numpyro.sample("m", dist.Normal())
        with numpyro.plate("members", 5):
            z = numpyro.sample("z", dist.ImproperUniform(dist.constraints.real, (), ()))
            numpyro.factor("line", m * z)
        numpyro.sample("y", dist.Normal(m, 1.0), obs=y)

    fit = vr.NestedQuadrature().fit(vr.Target(model, y=np.zeros(3)), key=0)
    assert not fit.status.ok
    assert "no maximum" in fit.explanation


def quantile_data() -> np.ndarray:
    rng = np.random.default_rng(419)
    return 1.0 + np.repeat(0.6 * rng.normal(size=12), 6) + 0.7 * rng.standard_t(3, 72)


@pytest.mark.parametrize("method", [vr.MarginalMLE(), vr.EM()])
def test_quantile_regression_that_fails_says_which_density_has_kinks(method: vr.Method) -> None:
    """Another start was the advice, and other scales of the data, which cannot help."""
    fit = method.fit(vr.Target(quantiles, y=quantile_data()), key=0)
    assert not fit.status.ok
    assert "he log density of y has kinks in z (abs, max, where)" in fit.explanation
    assert "NUTS" in fit.explanation
    assert "elsewhere" not in fit.explanation
    assert "escale" not in fit.explanation


@pytest.mark.slow
def test_members_whose_modes_are_kinks_do_not_end_quantile_regression() -> None:
    """No mode was found of a member that has one where a row is met exactly."""
    y = quantile_data()
    fit = vr.NestedQuadrature().fit(vr.Target(quantiles, y=y), key=0)
    assert fit.status in (vr.Status.OK, vr.Status.UNCONVERGED), fit.explanation

    a, tau, at = np.linspace(0.4, 2.8, 49), np.linspace(0.02, 2.4, 60), np.linspace(-4, 7, 2201)
    law = norm(a[:, None, None], tau[:, None]).pdf(at) * (at[1] - at[0])  # a, tau, at
    scales = np.linspace(0.16, 0.5, 35)
    log_p = np.zeros((scales.size, a.size, tau.size))
    for k, s in enumerate(scales):
        short = y.reshape(12, 6, 1) - at
        by_row = np.log(0.75 * 0.25 / s) - short * (0.75 - (short < 0)) / s
        inside = np.exp(by_row.sum(1) - by_row.sum(1).max(1, keepdims=True))
        log_p[k] = np.log(np.einsum("iju,mu->mij", law, inside)).sum(0)
        log_p[k] += by_row.sum(1).max(1).sum() - s**2 / 2
    log_p += -(a[:, None] ** 2) / 18 - tau**2 / 2
    w = np.exp(log_p - log_p.max())
    w /= w.sum()
    for name, grid in ("a", a[:, None]), ("tau", tau), ("s", scales[:, None, None]):
        mean = (w * grid).sum()
        sd = np.sqrt((w * (grid - mean) ** 2).sum())
        # not the 0.002 nats and 0.008 sds that a few nodes less change
        assert abs(fit.mean()[name] - mean) < 2 * fit.diagnostics["largest_error"] * sd
        assert abs(fit.mean()[name] - mean) < 0.05 * sd
        assert abs(fit.sd()[name] / sd - 1) < 0.03


def test_both_modes_of_a_member_that_is_seen_by_its_distance_are_told() -> None:
    """Members were normal around one of them, and nested quadrature was OK."""
    centres = np.array([2.9, 4.4, 3.1, 5.6, 4.8, 5.3])
    target = vr.Target(model_of(lambda z: jnp.abs(z - KNOT)), y=centres)
    fit = vr.NestedQuadrature().fit(target, key=0)
    assert not fit.status.ok
    assert "another mode" in fit.message


def beyond(mu: float | None) -> vr.Fit:
    """Return the fit of six members of five rows that are flat below 20, started at a mean."""
    member = np.repeat(np.arange(6), 5)
    noise = np.random.default_rng(3).normal(size=30)
    y = np.array([23.4, 24.1, 22.2, 25.3, 21.8, 24.6])[member] + noise

    def model(y: Any) -> None:
        mean = numpyro.sample("mu", dist.Normal(0.0, 50.0))
        tau = numpyro.sample("tau", dist.HalfNormal(5.0))
        with numpyro.plate("members", 6):
            z = numpyro.sample("z", dist.Normal(mean, tau))
        with numpyro.plate("rows", 30):
            numpyro.sample("y", dist.Normal(hinge(z[member]), 1.0), obs=y)

    def start(key: jax.Array, y: Any) -> dict[str, Any]:
        return {"mu": mu, "tau": 1.0, "z": np.full(6, mu)}

    given = vr.Model(
        function=model, name="beyond", data=lambda: {"y": y}, init=None if mu is None else start
    )
    return vr.MarginalMLE().fit(vr.Target(given), key=0)


@pytest.mark.slow
def test_a_start_past_the_kinks_is_the_advice_and_finds_the_higher_maximum() -> None:
    """More steps were, or priors that settle what is flat."""
    flat, past = beyond(None), beyond(25.0)
    assert not flat.status.ok
    assert "the log density of y has kinks in z" in flat.message
    assert "start past it with Model(init=...)" in flat.explanation
    assert past.status.ok
    assert past.log_likelihood is not None
    assert flat.log_likelihood is not None
    assert past.log_likelihood > flat.log_likelihood + 1.0


def test_kinks_are_named_where_the_start_has_some_members_on_either_side() -> None:
    """Curvatures differ there, by two values, and another scale of the data was the advice."""
    _, told = members_of(lambda y: of_groups(y, lambda z: 5.0 * jnp.maximum(z, 0.05)[GROUP]))
    assert told == "the log density of y has kinks in z (abs, max, where)"
