"""The laws of mean-field factors against SciPy, and what they are refused for."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions.transforms import StickBreakingTransform
from scipy import stats
from scipy.integrate import quad
from scipy.special import expit, log_expit, logit

import vi_recipes as vr
from vi_recipes.elbo.factors import Factors, make_factors
from vi_recipes.posterior.factors import FactorPosterior

NORMAL, GAMMA, BETA = range(3)

# law, offset, parameters
LAWS = [
    (NORMAL, 0.0, (0.7, -1.2)),
    (NORMAL, 0.0, (-30.0, 2.0)),
    (GAMMA, 0.0, (np.log(3.5), np.log(0.4))),
    (GAMMA, 0.0, (np.log(0.6), np.log(20.0))),
    (GAMMA, 0.0, (np.log(5000.0), np.log(3.0))),
    (BETA, 0.0, (np.log(2.0), np.log(5.0))),
    (BETA, -1.3, (np.log(0.8), np.log(0.5))),
    (BETA, 2.0, (np.log(300.0), np.log(40.0))),
]
NAMES = [f"{('normal', 'gamma', 'beta')[law]}{k}" for k, (law, _, _) in enumerate(LAWS)]


def one(law: int, offset: float) -> Factors:
    return Factors(np.array([law]), np.array([offset]))


def log_pdf(law: int, offset: float, eta: tuple[float, float], z: Any) -> Any:
    """Return SciPy's log density of the coordinate: that of x, with the Jacobian of x(z)."""
    if law == NORMAL:
        return stats.norm.logpdf(z, eta[0], np.exp(eta[1]))
    a, b = np.exp(eta)
    if law == GAMMA:
        return stats.gamma.logpdf(np.exp(z), a, scale=1 / b) + z
    x = z - offset
    if np.ndim(x) == 0 and x > 0:  # near 1 a double has no room: mirror it
        a, b, x = b, a, -x
    return stats.beta.logpdf(expit(x), a, b) + log_expit(x) + log_expit(-x)


def edges(law: int, offset: float, eta: tuple[float, float]) -> tuple[float, float]:
    """Return an interval outside which there is a mass of 1e-12 at most, from quantiles."""
    if law == NORMAL:
        return eta[0] - 9 * np.exp(eta[1]), eta[0] + 9 * np.exp(eta[1])
    a, b = np.exp(eta)
    tail = 1e-13
    if law == GAMMA:
        x = stats.gamma(a, scale=1 / b)
        return np.log(x.ppf(tail)), np.log(x.isf(tail))
    x = stats.beta(a, b)
    return offset + logit(x.ppf(tail)), offset - logit(stats.beta(b, a).ppf(tail))  # mirrored


def expected(law: int, offset: float, eta: tuple[float, float], f: Any) -> float:
    low, high = edges(law, offset, eta)
    grid = np.linspace(low, high, 25)
    return sum(
        quad(lambda z: f(z) * np.exp(log_pdf(law, offset, eta, z)), a, b, epsabs=1e-13)[0]
        for a, b in pairwise(grid)
    )


def evaluate(name: str, factors: Factors, eta: Any, *args: Any) -> Any:
    with jax.enable_x64(True):
        method = jax.jit(getattr(factors, name))
        out = method(jnp.asarray(eta), *(jnp.asarray(a) for a in args))
        return jax.tree.map(np.asarray, out)


@pytest.mark.parametrize(("law", "offset", "eta"), LAWS, ids=NAMES)
def test_mean_and_sd(law: int, offset: float, eta: tuple[float, float]) -> None:
    m, s = one(law, offset).location_scale(np.array([eta]))
    mean = expected(law, offset, eta, lambda z: z)
    variance = expected(law, offset, eta, lambda z: (z - mean) ** 2)
    assert m[0] == pytest.approx(mean, rel=1e-8, abs=1e-9)
    assert s[0] == pytest.approx(np.sqrt(variance), rel=1e-7)


@pytest.mark.parametrize(("law", "offset", "eta"), LAWS, ids=NAMES)
def test_slopes_of_mean_and_log_sd(law: int, offset: float, eta: tuple[float, float]) -> None:
    factors, step = one(law, offset), 1e-5
    slopes = factors.location_scale_slopes(np.array([eta]))[0]
    for k in range(2):
        move = step * np.eye(2)[k]
        (up, high), (down, low) = (
            factors.location_scale(np.array([eta + by])) for by in (move, -move)
        )
        assert slopes[0, k] == pytest.approx((up - down)[0] / (2 * step), rel=1e-6, abs=1e-8)
        change = np.log(high / low)[0] / (2 * step)
        assert slopes[1, k] == pytest.approx(change, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize(("law", "offset", "eta"), LAWS, ids=NAMES)
def test_log_density(law: int, offset: float, eta: tuple[float, float]) -> None:
    factors = one(law, offset)
    for z in np.linspace(*edges(law, offset, eta), 9):
        found = evaluate("log_density", factors, [eta], [z])[0]
        right = log_pdf(law, offset, eta, z)
        assert found == pytest.approx(right, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize(("law", "offset", "eta"), LAWS, ids=NAMES)
def test_entropy(law: int, offset: float, eta: tuple[float, float]) -> None:
    right = expected(law, offset, eta, lambda z: -log_pdf(law, offset, eta, z))
    assert evaluate("entropy", one(law, offset), [eta]) == pytest.approx(right, rel=1e-8)


@pytest.mark.parametrize(("law", "offset", "eta"), LAWS, ids=NAMES)
def test_score(law: int, offset: float, eta: tuple[float, float]) -> None:
    factors = one(law, offset)

    def total(eta: jax.Array, z: jax.Array) -> jax.Array:
        return jnp.sum(factors.log_density(eta, z))

    score_at = jax.jit(jax.grad(total))
    low, high = edges(law, offset, eta)
    for z in np.linspace(low, high, 7)[1:-1]:
        with jax.enable_x64(True):
            score = np.asarray(score_at(jnp.asarray([eta]), jnp.asarray([z])))[0]
        for k in range(2):
            step = np.zeros(2)
            step[k] = 1e-5
            up, down = (log_pdf(law, offset, tuple(np.add(eta, s)), z) for s in (step, -step))
            # error of the differences: rounding 1e-16 |value| / 1e-5, and 1e-10 third derivatives
            scale = max(1.0, abs(up), np.exp(max(eta)))
            assert score[k] == pytest.approx((up - down) / 2e-5, rel=1e-5, abs=1e-7 * scale)


@pytest.mark.parametrize(
    ("law", "offset", "eta"),
    [pytest.param(*row, id=name) for row, name in zip(LAWS, NAMES, strict=True)],
)
def test_the_metric_is_the_fisher_information_within_its_known_bounds(
    law: int, offset: float, eta: tuple[float, float]
) -> None:
    metric = one(law, offset).metric(np.array([eta]))[0]
    for k in range(2):
        step = np.zeros(2)
        step[k] = 1e-4

        def score(z: float, step: np.ndarray = step) -> float:
            up, down = (log_pdf(law, offset, tuple(np.add(eta, s)), z) for s in (step, -step))
            return float(up - down) / 2e-4

        fisher = expected(law, offset, eta, lambda z: score(z) ** 2)
        if law == NORMAL:
            assert metric[k] == pytest.approx(fisher, rel=1e-5)
        else:
            # a measure of length only: right to a factor that does not grow with the parameters
            assert fisher / metric[k] < 1.01
            assert fisher / metric[k] > 0.05


def test_entropy_adds_up_over_unlike_laws() -> None:
    code = np.array([law for law, _, _ in LAWS])
    factors = Factors(code, np.array([offset for _, offset, _ in LAWS]))
    eta = np.array([eta for _, _, eta in LAWS])
    parts = [evaluate("entropy", one(law, offset), [e]) for law, offset, e in LAWS]
    assert evaluate("entropy", factors, eta) == pytest.approx(sum(parts), rel=1e-12)
    m, s = factors.location_scale(np.asarray(eta))
    log = evaluate("log_density", factors, eta, m)
    for k, (law, offset, e) in enumerate(LAWS):
        alone = one(law, offset).location_scale(np.array([e]))
        assert (m[k], s[k]) == pytest.approx((alone[0][0], alone[1][0]), rel=1e-12)
        assert log[k] == pytest.approx(log_pdf(law, offset, e, m[k]), rel=1e-8)
    assert factors.kinds == (0, 1, 2)


@pytest.mark.parametrize("law", [NORMAL, GAMMA, BETA])
@pytest.mark.parametrize("sd", [0.1, 0.7])
def test_start_is_centred_with_the_sd_asked_for(law: int, sd: float) -> None:
    z = np.array([-1.5, 0.0, 2.0])
    factors = Factors(np.full(3, law), np.zeros(3))
    m, s = factors.location_scale(factors.start(z, sd))
    # digamma(a) = log a - 1 / 2a + ..., with 1 / a about sd^2, and likewise trigamma
    np.testing.assert_allclose(m, z, atol=1e-9 if law == NORMAL else 4 * sd**2)
    np.testing.assert_allclose(s, sd, rtol=1e-9 if law == NORMAL else 2 * sd)


# -- weights of Gauss-Hermite nodes ---------------------------------------------------------------


@pytest.mark.parametrize(("law", "offset", "eta"), LAWS, ids=NAMES)
def test_log_ratio_weights_integrate_over_the_law(
    law: int, offset: float, eta: tuple[float, float]
) -> None:
    factors = one(law, offset)
    m, s = evaluate("placement", factors, [eta])
    x = np.linspace(-3, 3, 7)
    with jax.enable_x64(True):
        ratio = np.array(
            [np.asarray(factors.place(jnp.asarray([eta]), jnp.asarray([v]))[1])[0] for v in x]
        )
    z = m[0] + s[0] * x
    if law == NORMAL:
        assert (ratio == 0).all()
    else:
        right = np.array([log_pdf(law, offset, eta, v) for v in z]) - stats.norm.logpdf(z, *[m, s])
        np.testing.assert_allclose(ratio, right, rtol=1e-7, atol=1e-7)
    nodes, weights = np.polynomial.hermite_e.hermegauss(96)
    with jax.enable_x64(True):
        ratio = np.array(
            [np.asarray(factors.place(jnp.asarray([eta]), jnp.asarray([v]))[1])[0] for v in nodes]
        )
    mass = (weights / weights.sum() * np.exp(ratio)).sum()
    # shapes below 1 have tails that are far from normal ones
    assert mass == pytest.approx(1.0, abs=1e-9 if np.exp(min(eta)) > 1.5 or not law else 0.02)


# -- simplexes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [(2.0, 3.0, 1.5, 0.8), (12.0, 0.7), (1.0, 1.0, 1.0)])
def test_sticks_with_the_right_beta_laws_are_a_dirichlet(alpha: tuple[float, ...]) -> None:
    alpha_array = np.array(alpha)
    size = alpha_array.size

    def model() -> None:
        numpyro.sample("p", dist.Dirichlet(jnp.asarray(alpha_array)))

    made = vr.Target(model)
    factors = make_factors(made, {"p": "dirichlet"})
    rest = alpha_array[::-1].cumsum()[::-1]
    eta = np.log(np.stack([alpha_array[:-1], rest[1:]], axis=1))
    law = stats.dirichlet(alpha_array)
    # the density over z is the Dirichlet's times the Jacobian: an identity at every z
    breaking = StickBreakingTransform()
    points = np.random.default_rng(1).standard_normal((5, size - 1))

    def broken(z: jax.Array) -> tuple[jax.Array, jax.Array]:
        p = breaking(z)
        return p, breaking.log_abs_det_jacobian(z, p)

    break_all = jax.jit(jax.vmap(broken))
    with jax.enable_x64(True):
        broken_points = map(np.asarray, break_all(jnp.asarray(points)))
    for z, p, jacobian in zip(points, *broken_points, strict=True):
        found = evaluate("log_density", factors, eta, z).sum()
        assert found == pytest.approx(law.logpdf(p / p.sum()) + jacobian, rel=1e-7, abs=1e-7)
    # and the draws have its moments
    n = 20_000
    draws = FactorPosterior(made, factors, eta).draws(n, jax.random.key(5))["p"]
    np.testing.assert_allclose(draws.sum(-1), 1.0, atol=1e-12)
    # 9 means and 9 variances at 4.5 standard errors: 1e-4 that a right answer fails
    sd = np.sqrt(law.var())
    assert (np.abs(draws.mean(0) - law.mean()) < 4.5 * sd / np.sqrt(n)).all()
    squares = (draws - law.mean()) ** 2
    assert (np.abs(squares.mean(0) - law.var()) < 4.5 * squares.std(0) / np.sqrt(n)).all()
    # entropy on z is that of p, plus E log |dp/dz| over draws
    z = FactorPosterior(made, factors, eta).unconstrained_draws(n, jax.random.key(6))
    with jax.enable_x64(True):
        jacobians = np.asarray(break_all(jnp.asarray(z))[1])
    difference = law.entropy() - evaluate("entropy", factors, eta)
    assert abs(difference - jacobians.mean()) < 4.5 * jacobians.std() / np.sqrt(n)


# -- moments of the posterior made of them --------------------------------------------------------


@cache
def three_supports() -> vr.Target:
    def model() -> None:
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))
        with numpyro.plate("two", 2):
            rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
        p = numpyro.sample("p", dist.Beta(2.0, 2.0))
        numpyro.deterministic("sd", rate**-0.5)
        numpyro.deterministic("odds", p / (1 - p))
        numpyro.deterministic("product", rate[0] * p * x)
        numpyro.deterministic("constant", jnp.asarray(3.0))

    return vr.Target(model)


def three_laws() -> FactorPosterior:
    made = three_supports()
    factors = make_factors(made, {"rate": "gamma", "p": "beta"})
    eta = np.array([[0.5, -0.7], [np.log(4.0), np.log(2.0)], [np.log(40.0), np.log(0.5)],
                    [np.log(6.0), np.log(9.0)]])  # fmt: skip
    return FactorPosterior(made, factors, eta)


@pytest.mark.slow
def test_moments_of_constrained_quantities_are_the_closed_forms() -> None:
    posterior = three_laws()
    mean, sd = posterior.mean(), posterior.sd()
    rates = [stats.gamma(4, scale=0.5), stats.gamma(40, scale=2)]
    np.testing.assert_allclose(mean["rate"], [r.mean() for r in rates], rtol=1e-8)
    np.testing.assert_allclose(sd["rate"], [r.std() for r in rates], rtol=1e-6)
    share = stats.beta(6, 9)
    assert (mean["p"], sd["p"]) == pytest.approx((share.mean(), share.std()), rel=1e-7)
    assert (mean["x"], sd["x"]) == pytest.approx((0.5, np.exp(-0.7)), rel=1e-10)
    roots = [stats.invgamma(4, scale=2).expect(lambda v: v**0.5), np.nan]
    assert mean["sd"][0] == pytest.approx(roots[0], rel=1e-6)
    odds = stats.betaprime(6, 9)
    assert (mean["odds"], sd["odds"]) == pytest.approx((odds.mean(), odds.std()), rel=1e-5)
    assert (mean["constant"], sd["constant"]) == (3.0, 0.0)
    for errors in (posterior.mcse_mean(), posterior.mcse_sd()):
        for name in ("x", "rate", "p", "sd", "odds", "constant"):
            assert (np.asarray(errors[name]) == 0).all()
    # independent factors: the product's moments are products, here by draws with their errors
    first = 0.5 * rates[0].mean() * share.mean()
    second = (0.25 + np.exp(-1.4)) * rates[0].moment(2) * share.moment(2)
    assert abs(mean["product"] - first) < 4.5 * posterior.mcse_mean()["product"]
    right = np.sqrt(second - first**2)
    # its fourth moment is far above the normal's: the error given assumes normality
    assert mean["product"] != first
    assert sd["product"] == pytest.approx(right, rel=0.1)


@pytest.mark.slow
def test_covariances_within_a_coordinate_and_none_across() -> None:
    posterior = three_laws()
    names = ["x", "rate", "p", "sd"]
    cov = posterior.cov(names)
    flat = np.concatenate([np.ravel(posterior.sd()[n]) for n in names])
    np.testing.assert_allclose(np.sqrt(np.diag(cov)), flat, rtol=1e-10)
    # rate ~ Gamma(4, 2), sd = rate^-1/2: E[rate sd] - E[rate] E[sd]
    rate = stats.gamma(4, scale=0.5)
    right = rate.expect(np.sqrt) - rate.mean() * rate.expect(lambda v: v**-0.5)
    assert cov[1, 4] == pytest.approx(right, rel=1e-5)
    independent = cov.copy()
    np.fill_diagonal(independent, 0)
    independent[[1, 2, 4, 5], [4, 5, 1, 2]] = 0
    assert (independent == 0).all()


def test_draws_follow_the_laws() -> None:
    n = 20_000
    draws = three_laws().draws(n, jax.random.key(2))
    laws = {
        "x": stats.norm(0.5, np.exp(-0.7)),
        "p": stats.beta(6, 9),
        "sd": None,
        "rate": stats.gamma([4, 40], scale=[0.5, 2]),
    }
    for name, law in laws.items():
        if law is None:
            continue
        error = law.std() / np.sqrt(n)
        assert (np.abs(draws[name].mean(0) - law.mean()) < 4.5 * error).all(), name
        flat = draws[name].reshape(n, -1)
        for k in range(flat.shape[1]):
            one_law = law if flat.shape[1] == 1 else stats.gamma([4, 40][k], scale=[0.5, 2][k])
            # Kolmogorov and Smirnov: 1e-6 that a right sampler fails
            assert stats.kstest(flat[:, k], one_law.cdf).pvalue > 1e-6
    same = three_laws().draws(50, jax.random.key(2))
    again = three_laws().draws(50, jax.random.key(2))
    for name in same:
        np.testing.assert_array_equal(same[name], again[name])


# -- what is refused ------------------------------------------------------------------------------


def test_families_by_site() -> None:
    factors = make_factors(three_supports(), {"rate": "gamma", "x": "normal"})
    np.testing.assert_array_equal(factors.code, [0, 1, 1, 0])
    assert (factors.offset == 0).all()
    assert make_factors(three_supports(), {}).kinds == (0,)


@pytest.mark.parametrize(
    ("families", "match"),
    [
        (
            {"nowhere": "gamma"},
            "got site 'nowhere', expected latent sites of the model: x, rate, p",
        ),
        ({"sd": "gamma"}, "got site 'sd'"),  # deterministic, not latent
        ({"rate": "wishart"}, "got 'wishart' for site 'rate', expected normal, point, gamma, beta"),
        ({"x": "gamma"}, "'gamma' does not match site 'x', whose support is Real"),
        ({"rate": "beta"}, "'beta' does not match site 'rate', whose support is"),
        ({"p": "dirichlet"}, "'dirichlet' does not match site 'p'"),
    ],
)
def test_what_does_not_fit_is_named(families: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make_factors(three_supports(), families)


def bounded(low: float, high: float) -> vr.Target:
    def model() -> None:
        numpyro.sample("x", dist.Uniform(low, high))

    return vr.Target(model)


def test_a_beta_on_an_interval_is_scaled_to_it() -> None:
    """sigmoid(z) is the share of the interval that lies below x."""
    made = bounded(-2.0, 6.0)
    factors = make_factors(made, {"x": "beta"})
    posterior = FactorPosterior(made, factors, np.log([[3.0, 5.0]]))
    share = stats.beta(3, 5)
    assert posterior.mean()["x"] == pytest.approx(-2 + 8 * share.mean(), rel=1e-7)
    assert posterior.sd()["x"] == pytest.approx(8 * share.std(), rel=1e-7)


@pytest.mark.parametrize(
    ("law", "family"),
    [
        (dist.LogNormal(0.0, 1.0), "gamma"),
        (dist.HalfCauchy(1.0), "gamma"),
        (dist.HalfNormal(1.0), "gamma"),
        (dist.Exponential(1.0), "gamma"),
        (dist.InverseGamma(2.0, 1.0), "gamma"),
        (dist.Uniform(0.0, 1.0), "beta"),
        (dist.Dirichlet(np.ones(3)), "dirichlet"),
    ],
)
def test_families_that_fit_a_support(law: Any, family: Any) -> None:
    def model() -> None:
        with numpyro.plate("group", 2):
            numpyro.sample("v", law)

    factors = make_factors(vr.Target(model), {"v": family})
    code = {"gamma": GAMMA, "beta": BETA, "dirichlet": BETA}[family]
    assert (factors.code == code).all()
    if family == "dirichlet":
        # z = 0 is the even share: the first stick is a third, the second a half of the rest
        np.testing.assert_allclose(expit(-factors.offset.reshape(2, 2)), [[1 / 3, 1 / 2]] * 2)


@pytest.mark.parametrize(
    ("law", "family"), [(dist.Gamma(2.0, 1.0), "gamma"), (dist.Beta(2.0, 1.0), "beta")]
)
def test_families_that_fit_a_vector_site(law: Any, family: Any) -> None:
    def model() -> None:
        numpyro.sample("v", law.expand([3]).to_event(1))

    factors = make_factors(vr.Target(model), {"v": family})
    np.testing.assert_array_equal(factors.code, [GAMMA if family == "gamma" else BETA] * 3)


@pytest.mark.parametrize(
    "law",
    [
        dist.InverseWishart(5.0, np.eye(2)),
        dist.ImproperUniform(dist.constraints.positive_ordered_vector, (), (3,)),
    ],
    ids=["positive definite", "positive ordered"],
)
def test_a_gamma_is_refused_where_coordinates_are_not_logarithms(law: Any) -> None:
    def model() -> None:
        numpyro.sample("v", law)

    with pytest.raises(ValueError, match="'gamma' does not match site 'v'"):
        make_factors(vr.Target(model), {"v": "gamma"})


def half_line_from(low: float) -> vr.Target:
    def model() -> None:
        numpyro.sample("x", dist.Pareto(low, 2.0))  # x > low

    return vr.Target(model)


def test_a_gamma_on_another_half_line_is_refused() -> None:
    with pytest.raises(ValueError, match="'gamma' does not match site 'x'"):
        make_factors(half_line_from(3.0), {"x": "gamma"})
