"""A target taken apart: who belongs to whom, what the marginal likelihood is, what is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import slopes
from models_for_tests import target as shared_target
from scipy import stats
from scipy.special import logsumexp

import vi_recipes as vr
from vi_recipes.algebra.derivatives import second_order
from vi_recipes.core.status import Status
from vi_recipes.core.timing import Timing
from vi_recipes.latent.marginal import Marginal
from vi_recipes.latent.members import split_target
from vi_recipes.latent.rules import choose
from vi_recipes.latent.split import Split

RNG = np.random.default_rng(8)
GROUP = RNG.integers(6, size=40)
X = RNG.standard_normal(40)
COUNTS = RNG.poisson(np.exp(0.4 * X + 0.7 * RNG.standard_normal(6)[GROUP]))


def poisson(x, group, num_groups, y):
    beta = numpyro.sample("beta", dist.Normal(0, 2))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0))
    with numpyro.plate("group", num_groups):
        u = numpyro.sample("u", dist.Normal(0.0, sigma))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Poisson(jnp.exp(beta * x + u[group])), obs=y)


def poisson_target(model=poisson):
    return vr.Target(model, x=X, group=GROUP, num_groups=6, y=COUNTS)


def made(target: vr.Target, rule: str = "auto", num_nodes: int = 9, latent=None) -> Marginal:
    flat = target.start(jax.random.key(0))
    return choose(
        split_target(target, latent), rule, num_nodes, False, lambda: flat, Timing().compile
    )


def evaluate(marginal: Marginal, theta: np.ndarray) -> float:
    target = marginal.split.target

    def value(theta, z, arrays):
        return marginal.value(theta, marginal.seek(theta, z, arrays).z, arrays)

    compiled = target.compiled_once(("value", marginal.key), lambda: jax.jit(value))
    z = jnp.zeros(marginal.split.local.shape)
    return float(compiled(jnp.asarray(theta), z, target.arrays()))


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


# -- taking apart ---------------------------------------------------------------------------------


def test_members_are_found_from_the_model_alone() -> None:
    found = split_target(poisson_target())
    assert (found.parameters, found.latents) == (("beta", "sigma"), ("u",))
    assert (found.kind, found.num_members, found.width, found.plate) == (
        "continuous", 6, 1, "group",
    )  # fmt: skip
    np.testing.assert_array_equal(found.index["y"], GROUP)
    np.testing.assert_array_equal(found.index["u"], np.arange(6))


def test_the_log_joint_of_each_member() -> None:
    this = poisson_target()
    found = split_target(this)
    theta, u = np.array([0.3, np.log(0.8)]), RNG.standard_normal(6)
    joint = found.log_joint(jnp.asarray(theta), jnp.asarray(u[:, None]), this.arrays())
    expected = stats.norm(0, 0.8).logpdf(u)
    np.add.at(expected, GROUP, stats.poisson(np.exp(0.3 * X + u[GROUP])).logpmf(COUNTS))
    np.testing.assert_allclose(joint.members, expected, rtol=1e-12)
    assert joint.shared == 0
    prior = stats.norm(0, 2).logpdf(0.3) + stats.halfnorm(0, 2).logpdf(0.8)
    np.testing.assert_allclose(joint.prior, prior, rtol=1e-12)


def test_nested_plates_make_members_of_the_outer_one() -> None:
    found = split_target(shared_target("nested_plates"))
    assert found.latents == ("s", "c")
    assert (found.num_members, found.width) == (3, 3)
    np.testing.assert_array_equal(found.index["y"], np.tile(np.arange(3), (2, 1)))


def test_latents_on_a_constrained_scale_masks_scales_and_shared_data() -> None:
    weight = RNG.uniform(0.5, 2, 40)

    def model(group, y, extra, weight):
        shape = numpyro.sample("shape", dist.Gamma(2, 1))
        numpyro.sample("extra", dist.Gamma(shape, 1.0), obs=extra)
        with numpyro.plate("group", 6):
            rate = numpyro.sample("rate", dist.Gamma(shape, shape))
        with numpyro.plate("row", 40), numpyro.handlers.scale(scale=weight):
            law = dist.Poisson(rate[group])
            numpyro.sample("y", law.mask(jnp.arange(40) < 30), obs=y)

    this = vr.Target(model, group=GROUP, y=COUNTS, extra=np.array([1.2, 0.7]), weight=weight)
    found = split_target(this)
    assert found.latents == ("rate",)
    log_rate = RNG.standard_normal(6)
    joint = found.log_joint(
        jnp.log(jnp.array([1.7])), jnp.asarray(log_rate)[:, None], this.arrays()
    )
    rate = np.exp(log_rate)
    expected = stats.gamma(1.7, scale=1 / 1.7).logpdf(rate) + log_rate
    terms = weight * stats.poisson(rate[GROUP]).logpmf(COUNTS)
    np.add.at(expected, GROUP[:30], terms[:30])
    np.testing.assert_allclose(joint.members, expected, rtol=1e-12)
    np.testing.assert_allclose(joint.shared, stats.gamma(1.7).logpdf([1.2, 0.7]).sum(), rtol=1e-12)


@pytest.mark.parametrize(("low", "high"), [(-12, 12), (-60, 60), (1_990, 2_010), (2e4, 9e4)])
def test_members_are_found_where_links_saturate(low: float, high: float) -> None:
    """Covariates that nobody standardised: almost everywhere slopes are 0, or rounding."""
    group = np.repeat(np.arange(30), 4)
    x = np.random.default_rng(0).uniform(low, high, 120)

    def logit(x, group, y):
        b = numpyro.sample("b", dist.Normal(0, 10))
        with numpyro.plate("group", 30):
            u = numpyro.sample("u", dist.Normal(0, 1))
        with numpyro.plate("row", 120):
            numpyro.sample("y", dist.Bernoulli(logits=b * x + u[group]), obs=y)

    def log_link(x, group, y):
        b = numpyro.sample("b", dist.Normal(0, 1))
        with numpyro.plate("group", 30):
            u = numpyro.sample("u", dist.Normal(0, 1))
        with numpyro.plate("row", 120):
            numpyro.sample("y", dist.Poisson(jnp.exp(b * x + u[group])), obs=y)

    for model in (logit, log_link):
        target = vr.Target(model, x=x, group=group, y=np.arange(120) % 2)
        if model is logit:
            assert made(target).rule == "quadrature"  # saturated, it would pass for Gaussian
        found = split_target(target)
        assert found.num_members == 30
        np.testing.assert_array_equal(found.index["y"], group)


def test_rows_whose_member_cannot_be_told_are_refused() -> None:
    def steps(group, y):
        b = numpyro.sample("b", dist.Normal(0, 10))
        with numpyro.plate("group", 6):
            u = numpyro.sample("u", dist.Normal(0, 1))
        with numpyro.plate("row", 40):
            numpyro.sample("y", dist.Bernoulli(logits=b + (u[group] > 0)), obs=y)

    fit = vr.MarginalMLE(latent=("u",)).fit(vr.Target(steps, group=GROUP, y=COUNTS % 2))
    assert fit.status is Status.NOT_APPLICABLE
    assert "elements of y hardly change with u, or by steps" in fit.message


def test_coefficients_in_a_plate_are_parameters() -> None:
    def regression(X, y):
        with numpyro.plate("column", 3):
            beta = numpyro.sample("beta", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(X @ beta, 1.0), obs=y)

    found = split_target(vr.Target(regression, X=RNG.standard_normal((20, 3)), y=np.zeros(20)))
    assert found.kind == "none"
    assert found.parameters == ("beta",)


# -- discrete states ------------------------------------------------------------------------------


def labels(y, K=3):
    pi = numpyro.sample("pi", dist.Dirichlet(jnp.ones(K)))
    mu = numpyro.sample("mu", dist.Normal(0, 5).expand([K]).to_event(1))
    with numpyro.plate("member", y.shape[-1], dim=-1):
        z = numpyro.sample("z", dist.Categorical(pi))
        if y.ndim == 1:
            numpyro.sample("y", dist.Normal(mu[z], 1.0), obs=y)
        else:
            with numpyro.plate("again", len(y), dim=-2):
                numpyro.sample("y", dist.Normal(mu[z], 1.0), obs=y)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(30,), (4, 7)])
def test_the_members_of_discrete_states(shape: tuple[int, ...]) -> None:
    y = RNG.standard_normal(shape)
    this = vr.Target(labels, y=y)
    found = split_target(this)
    assert (found.kind, found.num_members) == ("discrete", shape[-1])
    np.testing.assert_array_equal(found.index["y"], np.broadcast_to(np.arange(shape[-1]), shape))
    pi, mu = np.array([0.2, 0.5, 0.3]), np.array([-1.0, 0.5, 2.0])
    theta = this.unconstrain({"pi": pi, "mu": mu})
    terms = stats.norm.logpdf(y.reshape(-1, shape[-1])[..., None], mu).sum(0)
    expected = logsumexp(terms + np.log(pi), axis=1).sum()
    assert evaluate(made(this), theta) == pytest.approx(expected, rel=1e-12)


@pytest.mark.slow
def test_one_state_stands_for_all_members_where_the_model_broadcasts() -> None:
    assert split_target(vr.Target(labels, y=RNG.standard_normal(30))).broadcast


@pytest.mark.slow
def test_states_that_couple_are_one_member_with_all_their_combinations() -> None:
    def chain(y):
        stay = numpyro.sample("stay", dist.Beta(5, 2))
        state = 0
        for t in range(len(y)):
            go = jnp.where(state == 0, 1 - stay, stay)
            state = numpyro.sample(f"z{t}", dist.Bernoulli(go))
            numpyro.sample(f"y{t}", dist.Normal(2.0 * state - 1.0, 1.0), obs=y[t])

    this = vr.Target(chain, y=np.array([-2.1, -1.4, 0.2, 1.7]))
    found = split_target(this)
    assert (found.num_members, len(found.states)) == (1, 16)
    theta = this.unconstrain({"stay": np.array(0.8)})
    joint = this.log_density(theta, jacobian=False) - stats.beta(5, 2).logpdf(0.8)
    assert evaluate(made(this), theta) == pytest.approx(joint, rel=1e-12)


# -- the integral ---------------------------------------------------------------------------------


def by_grid(theta: np.ndarray) -> float:
    beta, sigma = theta[0], np.exp(theta[1])
    u = np.linspace(-8, 8, 20_001)
    total = 0.0
    for g in range(6):
        own = g == GROUP
        rate = np.exp(beta * X[own][:, None] + u)
        log_p = stats.poisson.logpmf(COUNTS[own][:, None], rate).sum(0)
        total += logsumexp(log_p + stats.norm.logpdf(u, 0, sigma)) + np.log(u[1] - u[0])
    return float(total)


@pytest.mark.slow
def test_quadrature_is_the_integral() -> None:
    theta = np.array([0.2, -0.3])
    expected = by_grid(theta)
    errors = [
        abs(evaluate(made(poisson_target(), num_nodes=n), theta) - expected) for n in (3, 9, 25)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("num_nodes", [1, 3])
def test_derivatives_go_through_the_modes(num_nodes: int) -> None:
    marginal = made(poisson_target(), num_nodes=num_nodes)
    theta = np.array([0.2, -0.3])
    arrays = marginal.split.target.arrays()
    z, _ = marginal.seek(jnp.asarray(theta), jnp.zeros((6, 1)), arrays)
    differentiate = jax.jit(
        lambda t, z: second_order(lambda t: marginal.value(t, z, arrays), t, True)
    )
    _, gradient, hessian = differentiate(jnp.asarray(theta), z)
    step = 1e-4
    value = [[evaluate(marginal, theta + step * np.array([a, b])) for b in (-1, 0, 1)]
             for a in (-1, 0, 1)]  # fmt: skip
    v = np.array(value)
    numeric = np.array([v[2, 1] - v[0, 1], v[1, 2] - v[1, 0]]) / (2 * step)
    np.testing.assert_allclose(gradient, numeric, rtol=1e-6)
    diagonal = np.array([v[2, 1] + v[0, 1], v[1, 2] + v[1, 0]]) - 2 * v[1, 1]
    np.testing.assert_allclose(np.diag(hessian), diagonal / step**2, rtol=1e-5)
    cross = (v[2, 2] - v[2, 0] - v[0, 2] + v[0, 0]) / (4 * step**2)
    np.testing.assert_allclose(hessian[0, 1], cross, rtol=1e-4)
    order_one = jax.jit(jax.grad(lambda t: marginal.value(t, z, arrays, order=1)))(
        jnp.asarray(theta)
    )
    np.testing.assert_allclose(order_one, gradient, rtol=1e-8)


@pytest.mark.slow
def test_two_dimensional_quadrature() -> None:
    y = RNG.integers(0, 2, size=(5, 8))
    x = np.linspace(-1, 1, 8)

    def model(x, y):
        sigma = numpyro.sample("sigma", dist.HalfNormal(2.0).expand([2]).to_event(1))
        with numpyro.plate("person", 5):
            b = numpyro.sample("b", dist.Normal(0.0, sigma).to_event(1))
            numpyro.sample("y", dist.Bernoulli(logits=b[:, :1] + b[:, 1:] * x).to_event(1), obs=y)

    marginal = made(vr.Target(model, x=x, y=y), num_nodes=15)
    assert marginal.rule == "quadrature"
    grid = np.linspace(-7, 7, 281)
    a, b = np.meshgrid(grid, grid, indexing="ij")
    log_prior = stats.norm.logpdf(a, 0, 1.1) + stats.norm.logpdf(b, 0, 0.6)
    expected = 0.0
    for row in y:
        eta = a[..., None] + b[..., None] * x
        log_p = (row * eta - np.logaddexp(0, eta)).sum(-1)
        expected += logsumexp(log_p + log_prior) + 2 * np.log(grid[1] - grid[0])
    assert evaluate(marginal, np.log([1.1, 0.6])) == pytest.approx(expected, abs=1e-5)


def test_a_gaussian_integral_is_exact() -> None:
    this = shared_target("nested_plates")
    marginal = made(this)
    assert marginal.rule == "gaussian"
    y = np.asarray(this.data["y"])
    within = np.ones((2, 2)) + (0.49 + 0.25) * np.eye(2)
    expected = sum(stats.multivariate_normal([0.4] * 2, within).logpdf(y[:, j]) for j in range(3))
    assert evaluate(marginal, np.array([0.4])) == pytest.approx(expected, rel=1e-12)


@pytest.mark.slow
def test_crossed_gaussian_effects_are_one_member() -> None:
    row, column = np.repeat(np.arange(4), 3), np.tile(np.arange(3), 4)
    y = RNG.standard_normal(12)

    def crossed(row, column, y):
        sigma = numpyro.sample("sigma", dist.HalfNormal(1.0).expand([2]).to_event(1))
        with numpyro.plate("rows", 4):
            a = numpyro.sample("a", dist.Normal(0.0, sigma[0]))
        with numpyro.plate("columns", 3):
            b = numpyro.sample("b", dist.Normal(0.0, sigma[1]))
        numpyro.sample("y", dist.Normal(a[row] + b[column], 0.5), obs=y)

    marginal = made(vr.Target(crossed, row=row, column=column, y=y))
    assert (marginal.rule, marginal.split.num_members, marginal.split.width) == ("gaussian", 1, 7)
    cov = 0.64 * (row[:, None] == row) + 0.09 * (column[:, None] == column) + 0.25 * np.eye(12)
    expected = stats.multivariate_normal(np.zeros(12), cov).logpdf(y)
    assert evaluate(marginal, np.log([0.8, 0.3])) == pytest.approx(expected, rel=1e-12)


@pytest.mark.slow
def test_a_gaussian_integral_is_right_or_refused_where_the_effects_covariance_is_singular() -> None:
    group, x = np.repeat(np.arange(4), 5), np.tile(np.linspace(-1, 1, 5), 4)
    y = 1 + RNG.standard_normal(4)[group] + 0.5 * x + RNG.standard_normal(20)
    this = vr.Target(slopes, y=y, x=x, group=group, num_groups=4)
    marginal = made(this)
    assert (marginal.rule, marginal.split.num_members, marginal.split.width) == ("gaussian", 4, 2)
    Z, finite = np.column_stack([np.ones(20), x]), []
    for bend in (0.0, 3.0, 6.0, 9.0, 12.0, 15.0, 18.0, 30.0):  # to a correlation of one
        for log_sd in (0.0, -12.0, -33.0):
            flat = np.zeros(this.dim)
            flat[this.slices["sd"]] = log_sd, 0.4
            flat[this.slices["L"]] = bend
            at = this.constrain(flat)
            root = at["sd"][:, None] * at["L"]
            cov = (group[:, None] == group) * (Z @ root @ root.T @ Z.T) + np.eye(20)
            expected = stats.multivariate_normal(np.zeros(20), cov).logpdf(y)
            value = evaluate(marginal, flat[marginal.split.border])
            if np.isfinite(value):
                finite.append(bend)
                assert value == pytest.approx(expected, abs=1e-4), (bend, log_sd)
    for bend in (0.0, 3.0, 6.0, 9.0):
        assert finite.count(bend) == 3


# -- refusals -------------------------------------------------------------------------------------


def four_slopes(x, y):
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    with numpyro.plate("person", 5):
        b = numpyro.sample("b", dist.Normal(0.0, sigma).expand([4]).to_event(1))
        numpyro.sample("y", dist.Bernoulli(logits=b @ x).to_event(1), obs=y)


def test_no_e_step_for_four_dimensions_that_are_not_gaussian() -> None:
    this = vr.Target(four_slopes, x=RNG.standard_normal((4, 8)), y=np.ones((5, 8), int))
    fit = vr.EM().fit(this)
    assert fit.status is Status.NOT_APPLICABLE
    assert "latent b: each of 5 members has 4 latent scalars" in fit.message
    assert "variational" in fit.message


def test_latent_sites_that_couple_are_named() -> None:
    def crossed(row, column, y):
        sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
        with numpyro.plate("rows", 4):
            a = numpyro.sample("a", dist.Normal(0.0, sigma))
        with numpyro.plate("columns", 3):
            b = numpyro.sample("b", dist.Normal(0.0, sigma))
        numpyro.sample("y", dist.Bernoulli(logits=a[row] + b[column]), obs=y)

    row, column = np.repeat(np.arange(4), 3), np.tile(np.arange(3), 4)
    this = vr.Target(crossed, row=row, column=column, y=np.tile([0, 1], 6))
    fit = vr.EM().fit(this)
    assert fit.status is Status.NOT_APPLICABLE
    assert "a, b" in fit.message
    assert "7 latent scalars" in fit.message
    # with the columns as parameters the rows are members
    assert split_target(this, "a").num_members == 4


@pytest.mark.slow
def test_wrong_names_and_rules() -> None:
    this = poisson_target()
    with pytest.raises(ValueError, match=r"latent: got 'v', expected .* beta, sigma, u"):
        vr.EM(latent=("v",)).fit(this)
    model = vr.Model(function=poisson, name="poisson", latents=("w",))
    with pytest.raises(ValueError, match=r"latents of model 'poisson': unknown site 'w'"):
        vr.MarginalMLE().fit(poisson_target(model))
    for rule, words in (("gaussian", "not quadratic in u"), ("enumerate", "u is continuous")):
        fit = vr.MarginalMLE(e_step=rule).fit(this)
        assert fit.status is Status.NOT_APPLICABLE
        assert words in fit.message
    fit = vr.EM(e_step="quadrature").fit(vr.Target(labels, y=RNG.standard_normal(5)))
    assert fit.status is Status.NOT_APPLICABLE
    assert "z is discrete" in fit.message
    fit = vr.EM(latent=("beta", "sigma", "u")).fit(this)
    assert fit.status is Status.NOT_APPLICABLE


def test_a_model_without_likelihood() -> None:
    fit = vr.MarginalMLE().fit(shared_target("correlation"))
    assert fit.status is Status.NOT_APPLICABLE
    assert "observes nothing" in fit.message


def test_split_is_kept() -> None:
    this = poisson_target()
    assert split_target(this) is split_target(this)
    assert isinstance(split_target(this), Split)


def test_no_derivative_in_the_members_goes_through_what_depends_on_theta_alone() -> None:
    def process(y: jax.Array) -> None:
        scale = numpyro.sample("scale", dist.LogNormal(0.0, 1.0))
        x = jnp.arange(8.0)
        cov = jnp.exp(-jnp.abs(x[:, None] - x) / scale)
        f = numpyro.sample("f", dist.MultivariateNormal(jnp.zeros(8), cov))
        numpyro.sample("y", dist.Normal(f, 1.0), obs=y)

    target = vr.Target(process, y=np.zeros(8))
    with jax.enable_x64(True):
        split = split_target(target, "f")
        arrays = target.arrays()

        def slope(theta: jax.Array, z: jax.Array) -> jax.Array:
            return jax.grad(lambda z: split.log_joint(theta, z, arrays).members.sum())(z)

        made = jax.jit(slope).lower(jnp.zeros(1), jnp.zeros((1, 8))).as_text()
    # a derivative of the factor would solve triangles of whole matrices by it
    assert "8x8xf64" in made
    assert "(tensor<8x8xf64>, tensor<8x8xf64>)" not in made
