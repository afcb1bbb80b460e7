"""The target: sites, densities, structure, starting points and bad input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import CASES, case, target
from programs_for_tests import compiled_programs
from scipy import stats

import vi_recipes as vr
from vi_recipes.model import log_likelihood_at, observed_data, replicate_at


def somewhere(name: str, seed: int = 0, spread: float = 0.5) -> np.ndarray:
    """Return a point of finite density, away from anything special."""
    noise = np.random.default_rng(seed).standard_normal(target(name).dim)
    return target(name).start(jax.random.key(0)) + spread * noise


# -- sites -------------------------------------------------------------------------------------


def test_sites_follow_the_plates() -> None:
    sites = target("nested_plates").sites
    assert {n: (s.kind, s.shape, s.dims) for n, s in sites.items()} == {
        "mu": ("latent", (), ()),
        "s": ("latent", (3,), ("school",)),
        "c": ("latent", (2, 3), ("class", "school")),
        "y": ("observed", (2, 3), ("class", "school")),
    }
    assert set(sites["c"].plates) == {("school", 3, 1), ("class", 2, 0)}  # name, size, axis


def test_a_plate_of_one_is_a_plate() -> None:
    """It counted for none, and its site for a parameter of the population."""

    def model(y: jax.Array) -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        with numpyro.plate("school", 1, dim=-2):
            a = numpyro.sample("a", dist.Normal(mu, 1.0))
            with numpyro.plate("class", 1, dim=-1):
                b = numpyro.sample("b", dist.Normal(a, 1.0))
                numpyro.deterministic("gain", b - a)
        with numpyro.plate("pupil", len(y)):
            shift = numpyro.sample("shift", dist.Normal(0.0, 1.0).expand([1]))
            numpyro.sample("y", dist.Normal(b[0, 0] + shift, 1.0), obs=y)

    sites = vr.Target(model, y=np.ones(3)).sites
    assert {n: (s.shape, s.dims) for n, s in sites.items()} == {
        "mu": ((), ()),
        "a": ((1, 1), ("school", "a_dim_1")),
        "b": ((1, 1), ("school", "class")),
        "gain": ((1, 1), ("school", "class")),
        "shift": ((3,), ("pupil",)),
        "y": ((3,), ("pupil",)),
    }
    assert sites["a"].plates == (("school", 1, 0),)


def test_sites_of_no_elements_are_left_out() -> None:
    """NUTS, SVGD and Pathfinder ended in messages about arrays of size 0."""

    def model(y: jax.Array, covariates: int) -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
        beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([covariates]).to_event(1))
        numpyro.deterministic("odds", jnp.exp(beta))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.Normal(mu + jnp.ones((len(y), covariates)) @ beta, 1.0), obs=y)

    y = np.array([1.0, 2.0, 4.0])
    named = vr.Model(function=model, name="m", dims={"beta": ("covariate",)}, parameters=("beta",))
    none, one = (vr.Target(named, y=y, covariates=count) for count in (0, 1))
    assert list(none.sites) == ["mu", "y"]
    assert none.empty == ("beta", "odds")
    assert list(one.sites) == ["mu", "beta", "odds", "y"]
    right = stats.norm(0, 2).logpdf(0.5) + stats.norm(0.5, 1).logpdf(y).sum()
    assert none.log_densities(np.array([[0.5]]))[0] == pytest.approx(right)
    for method in (vr.NUTS(num_warmup=50, num_samples=50), vr.SVGD(num_steps=20)):
        fit = method.fit(none)
        assert fit.status in (vr.Status.OK, vr.Status.UNCONVERGED), fit.message
        assert np.shape(vr.posterior_predictive(fit, none, num_draws=8)["y"])[-1] == 3
    assert vr.Target(none.complete_model, y=y, covariates=2).dim == 3


def test_a_model_of_sites_without_elements_has_nothing_to_fit() -> None:
    def model() -> None:
        numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([0]))
        numpyro.factor("f", 0.0)

    with pytest.raises(ValueError, match=r"no latent site with an element: beta .* \[0\]"):
        vr.Target(model)


def test_deterministic_sites_are_reported_after_the_latent_ones() -> None:
    names = [s.name for s in target("normal_precision").quantities]
    assert names == ["tau", "mu", "sigma"]
    assert target("normal_precision").dim == 2


@pytest.mark.parametrize(
    ("name", "site", "shape", "unconstrained_shape", "bounded"),
    [
        ("normal_mean", "mu", (), (), False),
        ("normal_precision", "tau", (), (), True),
        ("simplex", "p", (3,), (2,), True),
        ("ordered", "x", (2,), (2,), False),
        ("correlation", "C", (3, 3), (3,), True),
        ("covariance", "Sigma", (2, 2), (3,), True),
        ("dynamic_support", "x", (), (), True),
        ("state_space", "level", (6,), (6,), False),
    ],
)
def test_supports(
    name: str, site: str, shape: Any, unconstrained_shape: Any, bounded: bool
) -> None:
    found = target(name).sites[site]
    assert found.shape == shape
    assert found.unconstrained_shape == unconstrained_shape
    assert found.bounded == bounded


def test_a_support_that_depends_on_another_site_is_known() -> None:
    moving = {name: target(name).moving_supports for name in CASES}
    assert moving.pop("dynamic_support") == ("x",)
    assert set(moving.values()) == {()}


def test_labels_and_coords() -> None:
    schools = target("eight_schools")
    assert schools.labels(["theta"])[:2] == ["theta[0]", "theta[1]"]
    assert schools.labels(["theta"], coords=True)[:2] == ["theta[A]", "theta[B]"]
    assert schools.labels()[:3] == ["mu", "tau", "theta[0]"]
    assert target("nested_plates").labels(["c"]) == [
        "c[0, 0]", "c[0, 1]", "c[0, 2]", "c[1, 0]", "c[1, 1]", "c[1, 2]"
    ]  # fmt: skip


def test_default_data_may_be_replaced_one_by_one() -> None:
    model = vr.Model(function=lambda a, b: numpyro.sample("x", dist.Normal(a, b)), name="m",
                     data=lambda: {"a": 0.0, "b": 1.0})  # fmt: skip
    assert vr.Target(model).data == {"a": 0.0, "b": 1.0}
    assert vr.Target(model, b=2.0).data == {"a": 0.0, "b": 2.0}


# -- densities ---------------------------------------------------------------------------------


def by_hand(name: str, v: dict[str, np.ndarray]) -> tuple[float, float]:
    """Return the log joint density and the log Jacobian of the constraining map, from SciPy."""
    data = case(name).data
    y = data["y"]
    norm = stats.norm.logpdf
    if name == "normal_precision":
        joint = (
            stats.gamma(3.0, scale=1 / 2.0).logpdf(v["tau"])
            + norm(v["mu"], 0.0, (0.5 * v["tau"]) ** -0.5)
            + norm(y, v["mu"], v["tau"] ** -0.5).sum()
        )
        return joint, np.log(v["tau"])
    if name == "eight_schools":
        joint = (
            norm(v["mu"], 0, 5)
            + stats.halfcauchy(0, 5).logpdf(v["tau"])
            + norm(v["theta"], v["mu"], v["tau"]).sum()
            + norm(y, v["theta"], data["sigma"]).sum()
        )
        return joint, np.log(v["tau"])
    if name == "dynamic_support":
        lo, x = v["lo"], v["x"]
        joint = norm(lo) - np.log(5 - lo) + norm(y, x, 1.0).sum()
        return joint, np.log((x - lo) * (5 - x) / (5 - lo))  # of lo + (5 - lo) expit(z)
    if name == "state_space":
        level = v["level"]
        joint = norm(np.diff(level, prepend=0.0), 0, 0.8).sum() + norm(y, level, 0.5).sum()
        return joint, 0.0
    if name == "nested_plates":
        joint = (
            norm(v["mu"], 0, 2)
            + norm(v["s"], v["mu"], 1).sum()
            + norm(v["c"], v["s"], 0.7).sum()
            + norm(y, v["c"], 0.5).sum()
        )
        return joint, 0.0
    assert name == "mixture"
    parts = norm(y[:, None], v["mu"], 1.0) + np.log(0.5)
    return norm(v["mu"], 0, 3).sum() + np.logaddexp(*parts.T).sum(), 0.0


@pytest.mark.parametrize(
    "name",
    ["normal_precision", "eight_schools", "dynamic_support", "state_space", "nested_plates",
     "mixture"],
)  # fmt: skip
def test_log_density_is_the_sum_written_by_hand(name: str) -> None:
    z = somewhere(name)
    joint, jacobian = by_hand(name, target(name).constrain(z))
    assert target(name).log_density(z, jacobian=False) == pytest.approx(joint, rel=1e-12)
    assert target(name).log_density(z) == pytest.approx(joint + jacobian, rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "site", "free"),
    [
        ("simplex", "p", [0, 1]),  # the last probability follows from the others
        ("ordered", "x", [0, 1]),
        ("correlation", "C", [3, 6, 7]),  # the lower triangle
        ("covariance", "Sigma", [0, 2, 3]),
    ],
)
def test_jacobian_is_the_determinant_by_finite_differences(
    name: str, site: str, free: list[int]
) -> None:
    z, step = somewhere(name), 1e-5
    shifts = step * np.eye(z.size)
    values = target(name).constrain(np.concatenate([z + shifts, z - shifts]))[site]
    flat = values.reshape(2, z.size, -1)[..., free]
    log_det = np.linalg.slogdet((flat[0] - flat[1]) / (2 * step))[1]
    found = target(name).log_density(z) - target(name).log_density(z, jacobian=False)
    assert found == pytest.approx(log_det, abs=1e-7)  # second-order differences at step 1e-5


@pytest.mark.parametrize("name", CASES)
def test_gradient_agrees_with_finite_differences(name: str) -> None:
    this, z, step = target(name), somewhere(name, spread=0.2), 1e-5
    with jax.enable_x64(True):
        gradient = jax.jit(jax.grad(this.log_density_fn))(jnp.asarray(z), this.arrays())
    differences = [
        (this.log_density(z + step * e) - this.log_density(z - step * e)) / (2 * step)
        for e in np.eye(this.dim)
    ]
    np.testing.assert_allclose(gradient, differences, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_unconstrain_inverts_constrain(name: str) -> None:
    z = somewhere(name)
    np.testing.assert_allclose(target(name).unconstrain(target(name).constrain(z)), z, atol=1e-10)


def test_constrain_takes_any_number_of_points() -> None:
    this = target("normal_precision")
    z = np.random.default_rng(0).standard_normal((3, 50, 2))  # more than one block of rows
    values = this.constrain(z)
    assert values["tau"].shape == (3, 50)
    np.testing.assert_allclose(values["tau"], np.exp(z[..., 0]), rtol=1e-12)
    np.testing.assert_allclose(values["sigma"], np.exp(-z[..., 0] / 2), rtol=1e-12)


def test_complete_adds_the_deterministic_sites() -> None:
    tau, mu = np.array([0.5, 4.0]), np.array([1.0, 2.0])
    values = target("normal_precision").complete({"tau": tau, "mu": mu})
    np.testing.assert_allclose(values["sigma"], tau**-0.5, rtol=1e-12)
    np.testing.assert_allclose(values["mu"], mu, rtol=1e-12)


def test_pointwise_log_likelihood() -> None:
    z = somewhere("eight_schools")
    values, data = target("eight_schools").constrain(z), case("eight_schools").data
    np.testing.assert_allclose(
        target("eight_schools").log_likelihood(z)["y"],
        stats.norm.logpdf(data["y"], values["theta"], data["sigma"]),
        rtol=1e-12,
    )


def test_no_pointwise_likelihood_in_a_factor() -> None:
    with pytest.raises(ValueError, match=r"numpyro\.factor"):
        target("improper_factor").log_likelihood(np.zeros(2))


@pytest.mark.parametrize("x64", [False, True])
def test_densities_are_float64_whatever_the_caller_has_set(x64: bool) -> None:
    z = somewhere("normal_precision")
    with jax.enable_x64(x64):
        found = target("normal_precision").log_density(z)
        assert jax.config.jax_enable_x64 == x64
    expected = sum(by_hand("normal_precision", target("normal_precision").constrain(z)))
    assert found == pytest.approx(expected, rel=1e-13)


def test_few_points_of_much_data_are_computed_for_nothing() -> None:
    counts: list[int] = []

    def counted(x: np.ndarray) -> np.ndarray:
        counts.append(x.size)
        return np.zeros(x.shape, np.int32)

    def model(y: Any) -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        fixed = jax.lax.stop_gradient(mu)
        kind = jax.ShapeDtypeStruct((), jnp.int32)
        nothing = jax.pure_callback(counted, kind, fixed, vmap_method="broadcast_all")
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.Normal(mu + nothing, 1.0), obs=y)

    y = np.linspace(-1, 1, 60_000)
    this = vr.Target(model, y=y)
    z = np.random.default_rng(0).standard_normal((200, 1))
    counts.clear()
    found = this.log_densities(z)
    assert sum(counts) <= 1.1 * len(z)
    assert set(counts) == {5}  # side by side, which is quicker
    expected = stats.norm.logpdf(z[:, 0]) + stats.norm.logpdf(y, z).sum(axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_sizes_may_be_read_off_the_data() -> None:
    def model(group: Any, y: Any) -> None:
        with numpyro.plate("group", len(np.unique(group))):
            u = numpyro.sample("u", dist.Normal(0.0, 1.0))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.Normal(u[group], 1.0), obs=y)

    group, y = np.array([0, 1, 1, 2]), np.array([0.1, 0.2, 0.3, 0.4])
    this = vr.Target(model, group=group, y=y)
    u = np.array([0.5, -0.5, 1.0])
    expected = stats.norm.logpdf(u).sum() + stats.norm.logpdf(y, u[group]).sum()
    assert this.log_density(u) == pytest.approx(expected, rel=1e-12)


def test_fingerprint_depends_on_the_data_alone() -> None:
    data = case("linear_regression").data
    model = case("linear_regression").model
    again = {name: np.array(value) for name, value in data.items()}
    changed = {**again, "y": again["y"] + 1e-12}
    assert vr.Target(model, **again).fingerprint == target("linear_regression").fingerprint
    assert vr.Target(model, **changed).fingerprint != target("linear_regression").fingerprint


@pytest.mark.parametrize(
    "use",
    [
        lambda this, z: this.log_density(z),
        lambda this, z: this.log_densities(z[None]),
        lambda this, z: this.scores(z[None]),
        lambda this, z: this.constrain(z),
        lambda this, z: this.complete({"mu": z[:1], "tau": np.exp(z[1:])}),
        lambda this, z: this.unconstrain({"mu": z[0], "tau": np.exp(z[1])}),
        lambda this, z: this.log_likelihood(z),
        lambda this, z: this.site_log_densities(z),
        lambda this, z: this.slopes(z),
        lambda this, z: this.start(jax.random.key(0), scatter=float(z[0])),
        lambda this, z: this.check_indices(this.arrays()),
        lambda this, z: this.coordinate_of,
        lambda this, z: observed_data(this),
        lambda this, z: log_likelihood_at(this, {"mu": z[None, :1], "tau": np.exp(z[None, 1:])}),
        lambda this, z: replicate_at(
            this, {"mu": z[None, :1], "tau": np.exp(z[None, 1:])}, jax.random.key(0)
        ),
    ],
    ids=["log_density", "log_densities", "scores", "constrain", "complete", "unconstrain",
         "log_likelihood", "site_log_densities", "slopes", "start", "check_indices",
         "coordinate_of", "observed_data", "log_likelihood_at", "replicate_at"],
)  # fmt: skip
def test_the_model_is_compiled_once(use: Callable[[vr.Target, np.ndarray], object]) -> None:
    calls = 0

    def counted(y: Any) -> None:
        nonlocal calls
        calls += 1
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        tau = numpyro.sample("tau", dist.Gamma(2.0, 1.0))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.Normal(mu, tau**-0.5), obs=y)

    this = vr.Target(counted, y=np.arange(4.0))
    before = calls
    use(this, np.array([0.5, 0.2]))
    known = calls
    assert known > before
    use(this, np.array([1.5, -0.2]))
    assert calls == known
    # data of the same form are an argument of the same code
    use(this.with_data(y=np.array([3.0, 1.0, 4.0, 1.0])), np.array([1.5, -0.2]))
    assert calls == known


# -- which coordinate a scalar depends on ------------------------------------------------------


@pytest.mark.slow
def test_coordinate_of_hand_known_cases() -> None:
    def model() -> None:
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        b = numpyro.sample("b", dist.LogNormal(0.0, 1.0).expand([3]).to_event(1))
        p = numpyro.sample("p", dist.Dirichlet(jnp.ones(3)))
        c = numpyro.sample("c", dist.Normal(1.0, 1.0))
        numpyro.deterministic("mixed", jnp.stack([jnp.exp(a), a * b[1], b[2] ** -0.5]))
        numpyro.deterministic("constant", jnp.float64(3.0))
        numpyro.deterministic("largest", jnp.maximum(a, c))  # at the medians, c
        numpyro.deterministic("ratio", p[0] / (p[1] + p[2]))

    found = vr.Target(model).coordinate_of
    # z is a (0), b (1 to 3), the two stick-breaking fractions of p (4, 5), c (6)
    assert found["a"] == 0
    assert found["b"].tolist() == [1, 2, 3]
    assert found["p"].tolist() == [4, -1, -1]
    assert found["c"] == 6
    assert found["mixed"].tolist() == [0, -1, 3]
    assert found["constant"] == -1
    assert found["largest"] == -1
    assert found["ratio"] == 4


def test_coordinate_of_a_moving_support() -> None:
    found = target("dynamic_support").coordinate_of
    assert found["lo"] == 0
    assert found["x"] == -1


# -- starting points ---------------------------------------------------------------------------


def test_start_is_the_prior_median_or_the_models_own() -> None:
    def model() -> None:
        numpyro.sample("a", dist.Normal(3.0, 1e-3))
        numpyro.sample("b", dist.LogNormal(-2.0, 1e-3))

    # medians of 15 draws from priors with an sd of 1e-3
    np.testing.assert_allclose(vr.Target(model).start(jax.random.key(1)), [3, -2], atol=4e-3)
    init = vr.Model(function=model, name="m", init=lambda key: {"a": 1.0, "b": np.exp(-1.0)})
    np.testing.assert_allclose(vr.Target(init).start(jax.random.key(1)), [1, -1], atol=1e-12)
    partly = vr.Model(function=model, name="m", init=lambda key: {"a": 1.0})
    found = vr.Target(partly).start(jax.random.key(1))
    np.testing.assert_allclose(found, [1, -2], atol=4e-3)


@pytest.mark.parametrize(
    "law",
    [
        dist.Gamma(0.001, 0.001),
        dist.InverseGamma(0.001, 0.001),
        dist.Dirichlet(jnp.full(3, 1e-3)),
    ],
    ids=lambda law: type(law).__name__,
)
def test_starts_are_not_where_vague_priors_have_their_medians(law: dist.Distribution) -> None:
    """Medians of 1e-300, rounded to 0 as often as not, and what is drawn given those."""

    def model(y: jax.Array) -> None:
        tau = numpyro.sample("tau", law)
        with numpyro.plate("member", 4):
            theta = numpyro.sample("theta", dist.Normal(100.0, 1 / jnp.sqrt(tau.reshape(-1)[0])))
            numpyro.sample("y", dist.Normal(theta, 1.0), obs=y)

    this = vr.Target(model, y=np.arange(4.0))
    for seed in range(3):
        z = this.start(jax.random.key(seed))
        assert (np.abs(z[this.slices["tau"]]) <= 40).all()
        assert np.abs(z[this.slices["theta"]] - 100).max() < 1e3  # its own medians, given that

    init = vr.Model(function=model, name="m", init=lambda key, y: {"theta": y})
    np.testing.assert_allclose(
        vr.Target(init, y=np.arange(4.0)).start(jax.random.key(1))[-4:], [0, 1, 2, 3], atol=1e-12
    )


@pytest.mark.parametrize(
    "law", [dist.Bernoulli, lambda logits: dist.Binomial(1, logits=logits)], ids=["0/1", "trials"]
)
@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_a_search_leaves_a_start_where_every_logit_is_0(law: Any, share: float) -> None:
    """There NumPyro's derivatives are y, and not y - 1/2: those below a half went upwards."""

    def model(y: np.ndarray, x: np.ndarray) -> None:
        a = numpyro.sample("a", dist.Normal(0.0, 5.0))
        b = numpyro.sample("b", dist.Normal(0.0, 5.0))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", law(logits=a + b * x), obs=y)

    y, x = (np.arange(40) % 4 < 4 * share).astype(int), np.sin(np.arange(40.0))
    own = vr.Model(function=model, name="m", init=lambda key, y, x: {"a": 0.0, "b": 0.0})
    fit = vr.MAP().fit(vr.Target(own, y=y, x=x))

    def up(ab: np.ndarray) -> np.ndarray:
        left = y - 1 / (1 + np.exp(-(ab[0] + ab[1] * x)))
        return np.array([left.sum(), (left * x).sum()]) - ab / 25

    assert fit.status is vr.Status.OK, fit.message
    np.testing.assert_allclose(up(np.array([fit.mean()["a"], fit.mean()["b"]])), 0, atol=1e-3)


def test_a_start_that_finds_no_density_around_its_centre_has_no_scatter() -> None:
    """The largest of the data bounds the support: NUTS and all that starts anew ended there."""

    def model(y: Any) -> None:
        end = numpyro.sample("end", dist.HalfNormal(10.0))
        numpyro.factor("likelihood", jnp.where(end > y, -jnp.log(end), -jnp.inf).sum())

    this = vr.Target(model, y=np.array([0.5, 1.0, 3.0]))
    z = this.start(jax.random.key(0), scatter=1.0)
    assert this.constrain(z)["end"] > 3


def test_scatter_is_seeded_and_bounded() -> None:
    this = target("normal_precision")
    a, b, c = (this.start(jax.random.key(k), scatter=2.0) for k in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert (a != c).all()
    assert (np.abs(a) <= 2).all()


def test_no_finite_density_names_the_site() -> None:
    def model(y: Any) -> None:
        rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
        numpyro.sample("count", dist.Exponential(rate), obs=y)

    with pytest.raises(ValueError, match=r"no finite density.*'count'"):
        vr.Target(model, y=np.array([-1.0, 2.0])).start(jax.random.key(0))


def test_an_infinite_density_is_said_and_where() -> None:
    """It was called none, and data within the support were to be looked for outside it."""

    def model(y: Any) -> None:
        a = numpyro.sample("a", dist.Beta(1.0, 1.0))
        with numpyro.plate("row", len(y)):
            numpyro.sample("share", dist.Beta(a, 1.0), obs=y)

    with pytest.raises(ValueError, match="infinite at the last: at site 'share'") as failure:
        vr.Target(model, y=np.array([0.3, 0.0, 0.5, 0.0])).start(jax.random.key(0))
    assert "at 2 of its 4 values, first at index 1, value 0." in str(failure.value)
    assert "lie in the support" not in str(failure.value)

    def of_one(y: Any) -> None:
        s = numpyro.sample("s", dist.HalfNormal(1.0))
        numpyro.sample("z", dist.Gamma(0.5, s), obs=y)
        numpyro.sample("w", dist.Beta(0.5, 1.0), obs=y)

    with pytest.raises(ValueError, match=r"at site 'w' = 0"):
        vr.Target(of_one, y=np.array(0.0)).start(jax.random.key(0))


def test_a_gradient_that_is_not_finite_is_said() -> None:
    def model() -> None:
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))
        numpyro.factor("f", jnp.where(x > 1e9, jnp.sqrt(x - 1e9), 0.0))

    with pytest.raises(ValueError, match="gradient of the log density is not finite"):
        vr.Target(model).start(jax.random.key(0))


# -- bad input ---------------------------------------------------------------------------------


def regression(X: Any, y: Any) -> None:
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(X @ beta, 1.0), obs=y)


GOOD: dict[str, Any] = {"X": np.ones((4, 2)), "y": np.arange(4.0)}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"y": np.array([0.0, np.nan, 1.0, 2.0])}, r"'y' has 1 NaN.*first at index 1"),
        ({"X": np.array([[1.0, 2], [3, 4], [5, np.inf], [7, 8]])}, r"'X'.*index \(2, 1\)"),
        ({"y": np.array(["a", "b", "c", "d"])}, r"'y' has dtype.*'a'.*numbers are expected"),
        ({"y": [[1.0, 2.0], [3.0]]}, r"'y' is not a rectangular array"),
        (
            {"y": np.ma.array([1.0, 2.0, 99.0], mask=[0, 0, 1])},
            r"'y' has 1 masked value\(s\) out of 3 \(the first at index 2\); drop or impute",
        ),
        ({"y": np.array([])}, r"'y' is empty"),
        ({"y": np.arange(5.0)}, r"shapes .*X \[4, 2\], y \[5\]: check that the lengths"),
        ({"X": np.ones(4)}, r"shapes .*X \[4\], y \[4\]: check that the lengths"),
        ({"z": 1.0}, r"unknown argument\(s\) z\. The model takes \(X, y\)"),
    ],
)
def test_bad_data(change: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        vr.Target(regression, **{**GOOD, **change})


def test_missing_data() -> None:
    with pytest.raises(ValueError, match=r"missing argument\(s\) y\. The model takes \(X, y\)"):
        vr.Target(regression, X=GOOD["X"])


def observed_only(y: Any) -> None:
    numpyro.sample("y", dist.Normal(0.0, 1.0), obs=y)


def discrete(y: Any) -> None:
    k = numpyro.sample("k", dist.Poisson(2.0))
    numpyro.sample("y", dist.Normal(k, 1.0), obs=y)


def with_param(y: Any) -> None:
    theta = numpyro.param("theta", 0.0)
    numpyro.sample("y", dist.Normal(theta, 1.0), obs=y)


def subsampled(y: Any) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(y), subsample_size=2) as rows:
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y[rows])


def point_mass(y: Any) -> None:
    x = numpyro.sample("x", dist.Delta(1.0))
    numpyro.sample("y", dist.Normal(x, 1.0), obs=y)


def too_many(y: Any) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(mu, 1.0).expand([2, 4]).to_event(2), obs=y)


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (observed_only, "no latent site"),
        (discrete, r"'k' is a discrete latent variable.*cannot be enumerated \(Poisson"),
        (with_param, r"'theta' is a numpyro\.param"),
        (subsampled, r"plate 'row' subsamples 2 of 4"),
        (point_mass, r"'x' is a latent point mass"),
        (too_many, r"observed site 'y'.*\(4,\).*\(2, 4\)"),
    ],
)
def test_models_that_cannot_be_fitted(model: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        vr.Target(model, y=GOOD["y"])


def test_not_a_model() -> None:
    with pytest.raises(ValueError, match="model: got int"):
        vr.Target(3)  # type: ignore[arg-type]


def test_positional_only_arguments() -> None:
    def model(y: Any, /) -> None:
        numpyro.sample("x", dist.Normal(y, 1.0))

    with pytest.raises(ValueError, match="y are positional-only"):
        vr.Target(model, y=1.0)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"dims": {"beat": ("k",)}}, r"site 'beat'.*its sites are beta, y"),
        ({"dims": {"beta": ("j", "k")}}, r"dims\['beta'\].*shape \(2,\)"),
    ],
)
def test_bad_dims(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        vr.Target(vr.Model(function=regression, name="m", **options), **GOOD)


def test_coords_of_the_wrong_length() -> None:
    model = vr.Model(
        function=regression, name="m", dims={"beta": ("k",)}, coords={"k": ["a", "b", "c"]}
    )
    with pytest.raises(ValueError, match=r"coords\['k'\].*3 labels.*'beta' has size 2"):
        _ = vr.Target(model, **GOOD).coords


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"tau": 1.0}, "'mu' is missing"),
        ({"tau": 1.0, "mu": np.zeros(2)}, r"'mu': got shape \(2,\), expected \(\)"),
        ({"tau": -1.0, "mu": 0.0}, "outside the support of site.s. tau"),
    ],
)
def test_unconstrain_refuses(values: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        target("normal_precision").unconstrain(values)


def test_observed_vectors_have_their_plate_in_front() -> None:
    def model(y: jax.Array) -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.Normal(mu, 1.0).to_event(1), obs=y)

    site = vr.Target(model, y=np.zeros((5, 2))).sites["y"]
    assert site.plates == (("row", 5, 0),)
    assert site.dims == ("row", "y_dim_1")


def scaled(y: jax.Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 100.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(10.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


def test_units_are_numbers_while_something_is_traced_and_else_one_program() -> None:
    data = {"y": np.array([3.0, 5.0, 4.0])}
    made, seen = vr.Target(scaled, **data), []
    with jax.enable_x64(True):
        jax.eval_shape(lambda x: seen.append(made.units), 0.0)
    other = vr.Target(scaled, **data)
    other.anywhere()
    with compiled_programs() as programs:
        units = other.units
    assert len(programs) <= 3  # some 30 where JAX runs what is traced operation by operation
    np.testing.assert_array_equal(seen[0], units)
