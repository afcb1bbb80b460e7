"""The expected log density: brute-force Monte Carlo, finite differences, and how it is taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from models_for_tests import target
from numpyro import handlers
from scipy import stats

import vi_recipes as vr
from vi_recipes.algebra.block_arrow import VERIFIED, recovery_error
from vi_recipes.core.timing import Timing
from vi_recipes.elbo import inspect
from vi_recipes.elbo.curvature import CurvedKL
from vi_recipes.elbo.factors import make_factors

RNG = np.random.default_rng(12)
ROWS = 12
GROUP = np.arange(ROWS) % 3
NUM_DRAWS = 50_000


@dataclass(frozen=True)
class Example:
    """A model, and how its sites' expectations should be taken.

    Parameters
    ----------
    model, data
        A NumPyro function and its arguments.
    plans
        Site -> the description expected.
    families
        Laws that are not normal.
    centre
        Shift of the laws' locations from zero.
    """

    model: Callable[..., Any]
    data: Mapping[str, Any]
    plans: Mapping[str, str]
    families: Mapping[str, Any] = field(default_factory=dict)
    centre: float = 0.0


ZOO: dict[str, Example] = {}


def zoo(
    plans: Mapping[str, str], *, families: Mapping[str, Any] | None = None, **data: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def add(model: Callable[..., Any]) -> Callable[..., Any]:
        ZOO[model.__name__] = Example(model, data, plans, families or {})
        return model

    return add


EXACT, NODES = "quadrature (exact)", "quadrature (nodes)"
BOTH = "quadrature (exact x nodes)"
Y = RNG.standard_normal(ROWS)
X = RNG.standard_normal(ROWS)


@zoo({"mu": EXACT, "u": EXACT, "y": EXACT}, y=Y, g=GROUP)
def normal_hierarchy(y: jax.Array, g: jax.Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.3, 2.0))
    with numpyro.plate("group", 3):
        u = numpyro.sample("u", dist.Normal(mu, 0.7))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(u[g], 1.3), obs=y)


@zoo(
    {"tau": NODES, "u": BOTH, "y": NODES},
    y=(Y > 0).astype(int),
    x=X,
    g=GROUP,
)
def logistic_random_effects(y: jax.Array, x: jax.Array, g: jax.Array) -> None:
    beta = numpyro.sample("beta", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    tau = numpyro.sample("tau", dist.Gamma(3.0, 3.0))
    with numpyro.plate("group", 3):
        u = numpyro.sample("u", dist.Normal(mu, tau**-0.5))
    with numpyro.plate("row", len(y)):
        logits = beta[0] * x + beta[1] * x**2 + u[g]
        numpyro.sample("y", dist.Bernoulli(logits=logits), obs=y)


@zoo({"a": EXACT, "b": NODES, "c": NODES, "d": NODES, "y": BOTH, "w": NODES}, y=Y)
def positive_priors(y: jax.Array) -> None:
    a = numpyro.sample("a", dist.LogNormal(0.2, 0.6))
    b = numpyro.sample("b", dist.HalfNormal(1.5))
    c = numpyro.sample("c", dist.Gamma(2.5, 1.5))
    d = numpyro.sample("d", dist.Uniform(-1.0, 3.0))
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(m, b), obs=y)
    numpyro.sample("w", dist.Exponential(a), obs=1.3)
    numpyro.sample("v", dist.Exponential(c), obs=0.4)
    numpyro.sample("t", dist.Normal(d, 1.0), obs=0.4)


@zoo({"nu": NODES, "y": "quadrature (nodes x nodes x nodes)"}, y=3 * Y)
def student_t_likelihood(y: jax.Array) -> None:
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    s = numpyro.sample("s", dist.LogNormal(0.0, 0.5))
    nu = numpyro.sample("nu", dist.Gamma(4.0, 1.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.StudentT(nu, m + slope * jnp.arange(len(y)), s), obs=y)


@zoo(
    {"one": NODES, "several": "draws (an input is not affine and depends on several scalars)"},
    y=np.array([0, 3, 1, 2, 1, 4, 0, 0, 2, 1, 1, 2]),
    g=GROUP,
)
def poisson_with_log_link(y: jax.Array, g: jax.Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 0.5))
    with numpyro.plate("group", 3):
        u = numpyro.sample("u", dist.Normal(0.0, 0.5))
    with numpyro.plate("row", len(y)):
        numpyro.sample("one", dist.Poisson(jnp.exp(u[g])), obs=y)
        numpyro.sample("several", dist.Poisson(jnp.exp(mu + u[g])), obs=y)


@zoo({"u": EXACT, "y": NODES}, y=np.zeros(40), censored=(np.arange(40) == 37).astype(int))
def one_censored(y: jax.Array, censored: jax.Array) -> None:
    """Rows that are normal, but for one of which no more is known than that it is larger."""
    with numpyro.plate("row", len(y)):
        u = numpyro.sample("u", dist.Normal(0.0, 3.0))
        law = dist.RightCensoredDistribution(dist.Normal(u, 0.5), censored=censored)
        numpyro.sample("y", law, obs=y)


@zoo({"y": EXACT, "w": EXACT}, y=Y, seen=np.arange(ROWS) % 4 > 0, g=GROUP)
def masked(y: jax.Array, seen: jax.Array, g: jax.Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("group", 3):
        u = numpyro.sample("u", dist.Normal(mu, 1.0).expand([2]).to_event(1))
    with numpyro.plate("row", len(y)), handlers.mask(mask=seen):
        numpyro.sample("y", dist.Normal(u[g, 0], 1.0), obs=y)
        pair = jnp.stack([y, y**2], -1)
        numpyro.sample("w", dist.Normal(u[g], 1.0).to_event(1), obs=pair)
    with handlers.mask(mask=False):
        numpyro.sample("all", dist.Normal(mu, 1.0), obs=3.0)


@zoo({"y": EXACT, "w": EXACT, "b": "draws (its density is not a product over scalars)"}, y=Y)
def scaled(y: jax.Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with handlers.scale(scale=0.3):
        numpyro.sample("b", dist.Normal(mu, 0.5).expand([3]).to_event(1))
    with handlers.scale(scale=2.5), numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)
    with numpyro.plate("other", len(y)), handlers.scale(scale=jnp.linspace(0.1, 2, len(y))):
        numpyro.sample("w", dist.Normal(mu * jnp.ones(2), 1.0).to_event(1),
                       obs=jnp.stack([y, y], -1))  # fmt: skip


@zoo(
    {"count": NODES, "trial": NODES, "kind": "draws (its density is not a product over scalars)"},
    count=np.arange(4),
    trial=np.array([3, 0, 5, 2]),
    kind=np.array([0, 2, 1, 1]),
)
def integer_data(count: jax.Array, trial: jax.Array, kind: jax.Array) -> None:
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    r = numpyro.sample("r", dist.Gamma(2.0, 2.0))
    logits = numpyro.sample("logits", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    with numpyro.plate("row", 4):
        numpyro.sample("count", dist.Poisson(r), obs=count)
        total = jnp.array([3, 4, 5, 6])
        numpyro.sample("trial", dist.Binomial(total, logits=a + b), obs=trial)
        numpyro.sample("kind", dist.Categorical(logits=logits), obs=kind)


@zoo(
    {"few": "quadrature (nodes x nodes)", "one": NODES, "many": "draws (its density is not a "
     "product over scalars)", "none": "constant"}
)  # fmt: skip
def factor_terms() -> None:
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    b = numpyro.sample("b", dist.LogNormal(0.0, 0.5))
    c = numpyro.sample("c", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    numpyro.factor("one", -jnp.cosh(a))
    numpyro.factor("few", jnp.sin(a * b) - b)
    numpyro.factor("many", jnp.tanh(c).prod() - a**2)
    numpyro.factor("none", 2.5)


@zoo(
    {
        "beta": "draws (its density is not a product over scalars)",
        "pair": "quadrature (nodes x nodes)",
        "y": EXACT,
        "z": NODES,
    },
    y=Y,
)
def vector_site(y: jax.Array) -> None:
    cov = jnp.array([[1.0, 0.6, 0.1], [0.6, 2.0, 0.3], [0.1, 0.3, 1.5]])
    beta = numpyro.sample("beta", dist.MultivariateNormal(jnp.zeros(3), cov))
    numpyro.sample("pair", dist.MultivariateNormal(jnp.ones(2), cov[:2, :2]))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(beta[0] - 2 * beta[1], 1.0), obs=y)
        numpyro.sample("z", dist.StudentT(3.0, beta[0] + beta[1], 1.0), obs=y)


@zoo({"y": "draws (its density is not a product over scalars)", "p": NODES}, y=2 * Y)
def mixture_of_normals(y: jax.Array) -> None:
    p = numpyro.sample("p", dist.Beta(2.0, 3.0))
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    s = numpyro.sample("s", dist.HalfNormal(1.0))
    with numpyro.plate("row", len(y)):
        parts = dist.Normal(mu, s)
        numpyro.sample(
            "y",
            dist.MixtureSameFamily(dist.Categorical(jnp.stack([p, 1 - p])), parts),
            obs=y,
        )


@zoo({"y": BOTH, "u": BOTH, "v": BOTH}, y=Y, g=GROUP, h=np.arange(ROWS) % 4)
def crossed_effects(y: jax.Array, g: jax.Array, h: jax.Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    s = numpyro.sample("s", dist.LogNormal(0.0, 0.4).expand([3]).to_event(1))
    with numpyro.plate("first", 3):
        u = numpyro.sample("u", dist.Normal(0.0, s[0]))
    with numpyro.plate("second", 4):
        v = numpyro.sample("v", dist.Normal(0.0, s[1]))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(mu + u[g] + v[h] * 1.5, s[2]), obs=y)


@zoo({"first": BOTH, "step": BOTH, "y": EXACT}, y=np.cumsum(Y))
def random_walk(y: jax.Array) -> None:
    """Sites of both sizes whose value less location is one normal input."""
    s = numpyro.sample("s", dist.LogNormal(-0.5, 0.4))
    first = numpyro.sample("first", dist.Normal(0.0, s))
    rest = numpyro.sample("rest", dist.ImproperUniform(dist.constraints.real, (), (len(y) - 1,)))
    x = jnp.concatenate([first[None], rest])
    numpyro.sample("step", dist.Normal(x[:-1], s).to_event(1), obs=x[1:])
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(x, 0.5), obs=y)


@zoo({"step": BOTH, "y": EXACT, "walk": BOTH}, y=np.cumsum(RNG.standard_normal(30)))
def long_random_walk(y: jax.Array) -> None:
    s = numpyro.sample("s", dist.LogNormal(-0.5, 0.4))
    drift = numpyro.sample("drift", dist.Normal(0.0, 0.3))
    x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), (len(y),)))
    numpyro.sample("step", dist.Normal(x[:-1] + drift, s).to_event(1), obs=x[1:])
    numpyro.sample("walk", dist.Normal(0.5 * x[1:-1], s).to_event(1), obs=x[2:])
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(x, 0.5), obs=y)


@zoo(
    {"w": "draws (an input is not affine and depends on several scalars)", "y": EXACT},
    y=Y[:4],
)
def horseshoe_scale(y: jax.Array) -> None:
    tau = numpyro.sample("tau", dist.LogNormal(-0.5, 0.3))
    with numpyro.plate("feature", 4):
        lam = numpyro.sample("lam", dist.LogNormal(0.0, 0.3))
        w = numpyro.sample("w", dist.Normal(0.0, tau * lam))
        numpyro.sample("y", dist.Normal(w, 1.0), obs=y)


@zoo({"s": EXACT, "c": EXACT, "y": BOTH}, y=Y[:6].reshape(2, 3))
def nested(y: jax.Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    sd = numpyro.sample("sd", dist.LogNormal(0.0, 0.3))
    with numpyro.plate("school", 3, dim=-1):
        s = numpyro.sample("s", dist.Normal(mu, 1.0))
        with numpyro.plate("class", 2, dim=-2):
            c = numpyro.sample("c", dist.Normal(s, 0.7))
            numpyro.sample("y", dist.Normal(c, sd), obs=y)


@zoo(
    {"rate": NODES, "p": NODES, "n": NODES, "z": BOTH},
    families={"rate": "gamma", "p": "beta"},
    n=np.array([3, 1, 4]),
)
def other_laws(n: jax.Array) -> None:
    with numpyro.plate("row", 3):
        rate = numpyro.sample("rate", dist.Gamma(4.0, 2.0))
    p = numpyro.sample("p", dist.Beta(3.0, 3.0))
    numpyro.sample("n", dist.Binomial(5, p).expand([3]).to_event(1), obs=n)
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    numpyro.sample("z", dist.Normal(m, rate**-0.5).to_event(1), obs=jnp.array([0.3, 1.0, -1.0]))


@zoo({"rate": NODES, "z": BOTH}, families={"rate": "gamma"})
def gamma_law() -> None:
    rate = numpyro.sample("rate", dist.Gamma(4.0, 2.0))
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", 3):
        numpyro.sample("z", dist.Normal(m, rate**-0.5), obs=jnp.array([0.3, 1.0, -1.0]))


@zoo({"b": EXACT, "u": EXACT, "y": EXACT}, y=RNG.standard_normal((20, 2)))
def vectors_in_a_plate(y: jax.Array) -> None:
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("row", len(y)):
        u = numpyro.sample("u", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        numpyro.sample("y", dist.Normal(b + u, 0.8).to_event(1), obs=y)


def make_kl(example: Example, expectations: Mapping[str, str] | None = None) -> CurvedKL:
    made = vr.Target(example.model, **example.data)
    with jax.enable_x64(True):
        factors = make_factors(made, example.families)
        return CurvedKL(made, factors, expectations or {}, jax.random.key(0), Timing())


@cache
def kl_of(name: str) -> CurvedKL:
    return make_kl(ZOO[name])


def ready(kl: CurvedKL, num_nodes: int = 24, num_pairs: int = 4_000) -> CurvedKL:
    with jax.enable_x64(True):
        kl.use_nodes(num_nodes)
        kl.use_pairs(num_pairs)
    return kl


@cache
def compiled_value(kl: CurvedKL) -> Callable[..., Any]:
    return jax.jit(kl.value)


@cache
def compiled_pairs(kl: CurvedKL) -> Callable[..., Any]:
    return jax.jit(jax.vmap(kl.expectation.pair, in_axes=(None, 0, None)))


@cache
def compiled_log_densities(made: vr.Target) -> Callable[..., Any]:
    return jax.jit(jax.vmap(made.log_density_fn, in_axes=(0, None)))


def value_of(kl: CurvedKL, eta: np.ndarray) -> float:
    """Return minus the ELBO."""
    with jax.enable_x64(True):
        return float(compiled_value(kl)(jnp.asarray(eta.ravel()), kl.held))


def variance_of_pairs(kl: CurvedKL, eta: np.ndarray) -> float:
    """Return the variance of the part of the ELBO that is averaged over fixed draws."""
    if not kl.expectation.drawn:
        return 0.0
    with jax.enable_x64(True):
        values = compiled_pairs(kl)(jnp.asarray(eta), kl.held.noise, kl.held.arrays)
        values = np.asarray(values)
    return float(values.var() / values.size)


def check_by_brute_force(
    kl: CurvedKL, eta: np.ndarray, num_draws: int = NUM_DRAWS, share: float = 0.0
) -> None:
    """Compare with draws of the log density; ``share`` of their spread is allowed on top."""
    found = -value_of(kl, eta) - entropy(kl, eta)
    values = log_densities(kl.target, draw_from(kl, eta, num_draws))
    assert np.isfinite(values).all()
    variance = values.var() / num_draws + variance_of_pairs(kl, eta)
    # 40 calls in this file at 4.5 standard errors: 3e-4 that a right answer fails
    assert abs(found - values.mean()) < 4.5 * np.sqrt(variance) + share * values.std() + 1e-9


def random_eta(kl: CurvedKL, seed: int = 3) -> np.ndarray:
    """Return parameters with sds from a quarter to three quarters, unlike for every coordinate."""
    rng = np.random.default_rng(seed)
    eta = np.stack(
        [0.4 * rng.standard_normal(kl.target.dim), np.log(rng.uniform(0.25, 0.75, kl.target.dim))],
        axis=1,
    )
    other = kl.factors.code != 0
    eta[other] = np.log(rng.uniform(4, 12, (other.sum(), 2)))
    return eta


def draw_from(kl: CurvedKL, eta: np.ndarray, num_draws: int) -> np.ndarray:
    """Return draws by SciPy of the laws."""
    rng = np.random.default_rng(7)
    z = eta[:, 0] + np.exp(eta[:, 1]) * rng.standard_normal((num_draws, len(eta)))
    for j in np.flatnonzero(kl.factors.code):
        a, b = np.exp(eta[j])
        if kl.factors.code[j] == 1:
            z[:, j] = np.log(stats.gamma(a, scale=1 / b).rvs(num_draws, random_state=rng))
        else:
            x = stats.beta(a, b).rvs(num_draws, random_state=rng)
            z[:, j] = np.log(x / (1 - x)) + kl.factors.offset[j]
    return z


def log_densities(made: vr.Target, z: np.ndarray) -> np.ndarray:
    with jax.enable_x64(True):
        return np.asarray(compiled_log_densities(made)(jnp.asarray(z), made.arrays()))


def entropy(kl: CurvedKL, eta: np.ndarray) -> float:
    """Return the entropy of the laws, over z, by SciPy."""
    total = 0.0
    for j, (p, q) in enumerate(eta):
        a, b = np.exp([p, q])
        if kl.factors.code[j] == 0:
            total += stats.norm(p, np.exp(q)).entropy()
        elif kl.factors.code[j] == 1:  # z = log x: less E log |dx/dz| = E z
            total += stats.gamma(a, scale=1 / b).entropy() - stats.loggamma(a).mean() + q
        else:
            x = stats.beta(a, b)
            total += x.entropy() - x.expect(np.log) - x.expect(lambda v: np.log1p(-v))
    return float(total)


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_the_elbo_is_that_of_brute_force(name: str) -> None:
    kl = ready(kl_of(name))
    eta = random_eta(kl)
    check_by_brute_force(kl, eta)


@pytest.mark.parametrize("name", ZOO)
def test_plans_are_as_expected(name: str) -> None:
    plans = {p.name: p.describe() for p in kl_of(name).expectation.plans}
    for site, right in ZOO[name].plans.items():
        words = right.removeprefix("quadrature (").rstrip(")").split(" x ")
        found = plans[site].removeprefix("quadrature (").rstrip(")").split(" x ")
        assert sorted(found) == sorted(words), (site, plans[site])


@pytest.mark.parametrize("name", [n for n in ZOO if not ZOO[n].families])
def test_without_spread_the_expectation_is_the_log_density(name: str) -> None:
    kl = ready(kl_of(name))
    eta = random_eta(kl, seed=5)
    eta[:, 1] = -30.0
    value = -value_of(kl, eta) - entropy(kl, eta)
    assert value == pytest.approx(kl.target.log_density(eta[:, 0]), rel=1e-9, abs=1e-9)


# -- derivatives ----------------------------------------------------------------------------------


def differentiated(kl: CurvedKL) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the gradient and Hessian at random parameters, and the parameters."""
    flat = random_eta(kl, seed=9).ravel()
    with jax.enable_x64(True):
        _, gradient = kl.evaluate(flat)
        bend = kl.hessian(flat)
    assert bend is not None
    return flat, gradient, np.column_stack([bend.dot(row) for row in np.eye(flat.size)])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["logistic_random_effects", "horseshoe_scale", "gamma_law"])
def test_gradient_and_hessian_are_those_of_finite_differences(name: str) -> None:
    # nodes of laws that are not normal move with them, which derivatives leave out: the integral is
    # the same, so enough nodes make the two agree
    kl = ready(kl_of(name), num_nodes=32 if ZOO[name].families else 8, num_pairs=8)
    with jax.enable_x64(True):
        kl.find_structure(jax.random.key(0))
    flat, gradient, hessian = differentiated(kl)
    h = 1e-4
    rng = np.random.default_rng(0)
    for direction in rng.standard_normal((3, flat.size)):
        up, down = flat + h * direction, flat - h * direction
        slope = (value_of(kl, up) - value_of(kl, down)) / (2 * h)
        # central differences: relative error h^2 = 1e-8 of third derivatives, rounding 1e-11
        assert gradient @ direction == pytest.approx(slope, rel=1e-5, abs=1e-5)
        with jax.enable_x64(True):
            bent = (kl.evaluate(up)[1] - kl.evaluate(down)[1]) / (2 * h)
        scale = np.abs(bent).max()
        np.testing.assert_allclose(hessian @ direction, bent, rtol=1e-5, atol=1e-5 * scale)


def many_rows(y: jax.Array, x: jax.Array, g: jax.Array) -> None:
    """More elements than the size up to which derivatives are taken as they are written."""
    beta = numpyro.sample("beta", dist.Normal(0.0, 2.0))
    s = numpyro.sample("s", dist.LogNormal(0.0, 0.5))
    with numpyro.plate("group", 40):
        u = numpyro.sample("u", dist.Normal(0.0, s))
        r = numpyro.sample("r", dist.Gamma(5.0, 4.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.StudentT(4.0, beta * x + u[g], s), obs=y)
        numpyro.sample("n", dist.Poisson(r[g]), obs=jnp.round(jnp.abs(y)))


@pytest.mark.slow
def test_large_sites_have_the_same_value_and_derivatives() -> None:
    rng = np.random.default_rng(1)
    n = 400
    data = {"y": rng.standard_normal(n), "x": rng.standard_normal(n), "g": rng.integers(40, size=n)}
    kl = ready(make_kl(Example(many_rows, data, {}, {"r": "gamma"})))
    eta = random_eta(kl)
    check_by_brute_force(kl, eta, 20_000)
    with jax.enable_x64(True):
        kl.find_structure(jax.random.key(0))
        assert kl.structure is not None
        assert kl.structure.sites == ("u", "r")
        assert (
            recovery_error(kl.structure, kl.products(eta.ravel(), kl.structure.basis())).max()
            < VERIFIED
        )
    flat, gradient, hessian = differentiated(kl)
    h = 1e-4
    for direction in rng.standard_normal((2, flat.size)):
        up, down = flat + h * direction, flat - h * direction
        slope = (value_of(kl, up) - value_of(kl, down)) / (2 * h)
        assert gradient @ direction == pytest.approx(slope, rel=1e-6, abs=1e-4)
        with jax.enable_x64(True):
            bent = (kl.evaluate(up)[1] - kl.evaluate(down)[1]) / (2 * h)
        scale = np.abs(bent).max()
        np.testing.assert_allclose(hessian @ direction, bent, rtol=1e-5, atol=1e-5 * scale)


def test_doubling_the_nodes_converges_and_leaves_exact_sites_alone() -> None:
    kl = kl_of("logistic_random_effects")
    eta = random_eta(kl)
    values = [value_of(ready(kl, n), eta) for n in (4, 8, 16, 32)]
    steps = np.abs(np.diff(values))
    assert steps[0] > 1e-4  # four nodes are not enough
    # Gauss-Hermite sums of functions with poles converge like exp(-c sqrt(n))
    assert (steps[1:] < 0.2 * steps[:-1]).all()
    assert steps[-1] < 1e-5
    exact = kl_of("normal_hierarchy")
    eta = random_eta(exact)
    two, many = (value_of(ready(exact, n), eta) for n in (2, 16))
    assert two == pytest.approx(many, rel=1e-12)


def test_room_for_nodes_is_not_used_before_they_are() -> None:
    """The arrays of nodes are padded, so that doubling compiles nothing."""
    kl = ready(kl_of("logistic_random_effects"), 6)
    eta = random_eta(kl)
    with jax.enable_x64(True):
        tight = kl.expectation.nodes(6, 6)
        sizes = [len(nodes.w) for nodes in tight.values()]
        assert sizes < [len(nodes.w) for nodes in kl.held.nodes.values()]
        value = compiled_value(kl)(jnp.asarray(eta.ravel()), kl.held._replace(nodes=tight))
    assert value_of(kl, eta) == pytest.approx(float(value), rel=1e-13)


# -- choices --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_draws_where_asked_agree_with_quadrature() -> None:
    example = ZOO["logistic_random_effects"]
    drawn = ready(make_kl(example, {"y": "draws", "u": "draws"}), num_pairs=4_000)
    plans = {p.name: p.describe() for p in drawn.expectation.plans}
    assert plans["y"] == plans["u"] == "draws (as asked)"
    assert drawn.expectation.drawn == ["u", "y"]
    eta = random_eta(drawn)
    variance = variance_of_pairs(drawn, eta)
    assert variance > 0
    exact = value_of(ready(kl_of("logistic_random_effects")), eta)
    assert abs(value_of(drawn, eta) - exact) < 4.5 * np.sqrt(variance)


def test_draws_of_laws_that_are_not_normal_are_weighted() -> None:
    drawn = ready(make_kl(ZOO["gamma_law"], {"z": "draws"}), num_pairs=20_000)
    eta = random_eta(drawn)
    variance = variance_of_pairs(drawn, eta)
    assert variance > 0
    exact = value_of(ready(kl_of("gamma_law"), 48), eta)
    assert abs(value_of(drawn, eta) - exact) < 4.5 * np.sqrt(variance)


@pytest.mark.parametrize(
    ("name", "site", "match"),
    [
        ("horseshoe_scale", "w", "depends on several scalars"),
        ("factor_terms", "many", "not a product over scalars"),
    ],
)
def test_quadrature_that_is_impossible_is_refused_by_name(name: str, site: str, match: str) -> None:
    with pytest.raises(ValueError, match=f"site '{site}' cannot be integrated.*{match}"):
        make_kl(ZOO[name], {site: "quadrature"})


def test_hosts_agree_before_a_program_is_made_of_a_plan_and_before_one_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One whose rows plan otherwise would else leave the others waiting."""
    done: list[str] = []
    monkeypatch.setattr(vr.Target, "num_hosts", 2)
    monkeypatch.setattr(inspect, "agree", lambda _, text: done.append(text))
    monkeypatch.setattr(inspect, "note_forms", lambda *_: done.append("forms"))
    with pytest.raises(ValueError, match="site 'w' cannot be integrated"):
        make_kl(ZOO["horseshoe_scale"], {"w": "quadrature"})
    first, made, last = done
    assert made == "forms"
    assert last.startswith(first)
    assert "site 'w' cannot be integrated" in last


def test_quadrature_that_is_possible_is_no_change() -> None:
    made = make_kl(ZOO["normal_hierarchy"], {"y": "quadrature"})
    assert not made.expectation.drawn


def too_many_inputs(y: jax.Array) -> None:
    a, b, c = (numpyro.sample(n, dist.LogNormal(0.0, 0.3)) for n in "abc")
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    numpyro.sample("x", dist.StudentT(a, m, b), obs=y)
    numpyro.sample("d", dist.Normal(m * 2, a), obs=m)  # value and location share a scalar
    numpyro.sample("e", dist.Gamma(a, c), obs=c)  # value and rate share a scalar


def test_inputs_that_share_a_scalar_are_not_taken_for_independent() -> None:
    example = Example(too_many_inputs, {"y": 0.7}, {})
    kl = ready(make_kl(example))
    eta = random_eta(kl)
    check_by_brute_force(kl, eta)


# -- what small probes could miss ------------------------------------------------------------------


def far_laplace(y: jax.Array) -> None:
    m = numpyro.sample("m", dist.Normal(0.0, 10.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Laplace(m, 1.0), obs=y)


def unscaled_covariates(y: jax.Array, x: jax.Array) -> None:
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=b * x), obs=y)


def kinked_mean(y: jax.Array, x: jax.Array) -> None:
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(jnp.maximum(b * x, 0.0), 1.0), obs=y)


def kinked_mean_of_two(y: jax.Array, x: jax.Array) -> None:
    b = numpyro.sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(jnp.maximum(b[0], b[1] - 1.0) * x, 1.0), obs=y)


def masked_missing(y: jax.Array) -> None:
    """Missing values are coded -1, which is outside the support."""
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(y)), handlers.mask(mask=y > 0):
        numpyro.sample("y", dist.LogNormal(m, 1.0), obs=y)


def unlike_rows(y: jax.Array, x: jax.Array) -> None:
    """Rows that differ after the first few: zeros, then a covariate."""
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.StudentT(3.0, b * x, 1.0), obs=y)


def own_parent(y: jax.Array, parent: jax.Array, g: jax.Array) -> None:
    """Differences along a tree whose root is its own parent, with a second large site."""
    v = numpyro.sample("v", dist.Normal(0.0, 1.0).expand([40]).to_event(1))
    x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([30]).to_event(1))
    numpyro.sample("edge", dist.Normal(x[parent] + v[g], 0.7).to_event(1), obs=x)
    numpyro.sample("y", dist.Normal(x[: len(y)], 1.0).to_event(1), obs=y)


def apart_among_others(y: jax.Array, parent: jax.Array, g: jax.Array) -> None:
    """The same where the other site stands between the two inputs that are one scalar."""
    v = numpyro.sample("v", dist.Normal(0.0, 1.0).expand([40]).to_event(1))
    x = numpyro.sample("x", dist.Normal(0.0, 1.0).expand([30]).to_event(1))
    numpyro.sample("y", dist.Normal(v[g] + x[parent], 0.7).to_event(1), obs=y + x)


def kinked_deterministic(y: jax.Array) -> None:
    """An interaction that is off near the start: relu(a - 3) multiplies b."""
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(b * jnp.maximum(a - 2.0, 0.0), 1.0), obs=y)


PROBES: dict[str, tuple[Callable[..., Any], dict[str, Any], float]] = {
    "far_laplace": (far_laplace, {"y": 20 + Y}, 20.0),
    "unscaled_covariates": (
        unscaled_covariates,
        {"y": (X > 0).astype(int), "x": 400 * X + 1000 * np.sign(X)},
        0.0,
    ),
    "kinked_mean": (kinked_mean, {"y": Y, "x": np.abs(X)}, 0.0),
    "kinked_mean_of_two": (kinked_mean_of_two, {"y": Y, "x": X}, 1.0),
    "masked_missing": (masked_missing, {"y": np.where(Y > 0, np.exp(Y), -1.0)}, 0.0),
    "unlike_rows": (
        unlike_rows,
        {"y": np.zeros(40), "x": np.concatenate([np.zeros(20), np.ones(20)])},
        0.0,
    ),
    "own_parent": (
        own_parent,
        {
            "y": Y,
            "parent": np.maximum(np.arange(30) - 1, 0) // 2,
            "g": np.arange(30),
        },
        0.0,
    ),
    "apart_among_others": (
        apart_among_others,
        {"y": np.zeros(30), "parent": np.arange(30) // 2 * 2, "g": np.arange(30)},
        0.0,
    ),
    "kinked_deterministic": (kinked_deterministic, {"y": Y}, 2.0),
}


@pytest.mark.parametrize("name", PROBES)
def test_forms_that_a_probe_near_the_start_could_mistake(name: str) -> None:
    model, data, centre = PROBES[name]
    kl = ready(make_kl(Example(model, data, {})), num_nodes=64)
    eta = random_eta(kl)
    eta[:, 0] += centre
    # nodes at a kink converge slowly
    check_by_brute_force(kl, eta, share=0.01)


# -- structure of the KL divergence ----------------------------------------------------------------


@pytest.mark.slow
def test_the_structure_is_found_or_the_hessian_is_dense() -> None:
    kl = ready(kl_of("normal_hierarchy"))
    with jax.enable_x64(True):
        kl.find_structure(jax.random.key(0))
    assert kl.structure is not None
    assert kl.structure.sites == ("u",)
    assert kl.structure.local.shape == (3, 2)
    walk = ready(make_kl(Example(coupled_members, {"y": Y[:5]}, {})))
    with jax.enable_x64(True):
        start = walk.find_structure(jax.random.key(0))
    assert walk.structure is not None
    assert walk.structure.local.size == 0
    assert start.size == 2 * walk.target.dim


def coupled_members(y: jax.Array) -> None:
    s = numpyro.sample("s", dist.LogNormal(0.0, 0.5))
    with numpyro.plate("time", len(y)):
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(x, 0.5), obs=y)
    numpyro.sample("smooth", dist.StudentT(4.0, x[:-1], s).to_event(1), obs=x[1:])


@pytest.mark.slow
def test_a_site_whose_support_moves() -> None:
    made = target("dynamic_support")
    with jax.enable_x64(True):
        kl = CurvedKL(made, make_factors(made, {}), {}, jax.random.key(0), Timing())
    plans = {p.name: p.describe() for p in kl.expectation.plans}
    # x = lo + (5 - lo) share: its Jacobian and its density cancel but for the share's own law; by
    # slopes that cannot be told from a dependence that begins further out than they are looked at
    assert plans["x"].startswith("draws (its density depends on lo without a slope")
    check_by_brute_force(ready(kl), random_eta(kl))
