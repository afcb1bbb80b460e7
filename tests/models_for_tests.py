"""One table of small models with answers that owe nothing to the library.

Every answer is a closed form or a dense quadrature with NumPy and SciPy. The table drives the
conformance tests (methods x models), and the tests of single modules take their targets from it.
"""

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
from numpyro.contrib.control_flow import cond, scan
from scipy import stats
from scipy.special import gammaln, multigammaln

import vi_recipes as vr

Sites = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model conditioned on data, with what is known of its posterior.

    Parameters
    ----------
    model
        A NumPyro function, or a :class:`vi_recipes.Model` of one.
    data
        Its keyword arguments.
    mean, sd
        Exact posterior moments on the constrained scale, of the sites named.
    mode
        Exact mode of the density on the constrained scale; ``None`` where it is not known.
    has_mode
        Whether the joint density has a maximum at all.
    log_evidence
        Exact log p(y).
    is_gaussian
        Whether the posterior is Gaussian on the unconstrained scale, where Laplace is exact.
    cov
        Exact joint covariance of all latent sites, for Gaussian posteriors.
    """

    model: vr.Model | Callable[..., Any]
    data: Mapping[str, Any] = field(default_factory=dict)
    mean: Sites = field(default_factory=dict)
    sd: Sites = field(default_factory=dict)
    mode: Sites | None = None
    has_mode: bool = True
    log_evidence: float | None = None
    is_gaussian: bool = False
    cov: np.ndarray | None = None


def gaussian(prior_mean: Any, prior_cov: Any, design: Any, noise: Any, y: Any) -> tuple[Any, ...]:
    """Return mean, covariance and log evidence of x ~ N(m, P), y | x ~ N(A x, R)."""
    A, P, R = (np.asarray(v, float) for v in (design, prior_cov, noise))
    y, prior_mean = np.asarray(y, float), np.asarray(prior_mean, float)
    marginal = A @ P @ A.T + R
    gain = P @ A.T @ np.linalg.inv(marginal)
    mean = prior_mean + gain @ (y - A @ prior_mean)
    evidence = stats.multivariate_normal(A @ prior_mean, marginal).logpdf(y)
    return mean, P - gain @ A @ P, float(evidence)


# -- Gaussian posteriors ---------------------------------------------------------------------


def normal_mean() -> Case:
    y = np.array([1.3, 0.2, 2.4, 1.9, -0.3])

    def model(y: jax.Array) -> None:
        mu = numpyro.sample("mu", dist.Normal(0.5, 2.0))
        numpyro.deterministic("exp_mu", jnp.exp(mu))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.Normal(mu, 1.5), obs=y)

    mean, cov, evidence = gaussian([0.5], [[4.0]], np.ones((5, 1)), 2.25 * np.eye(5), y)
    m, v = mean[0], cov[0, 0]
    lognormal = stats.lognorm(np.sqrt(v), scale=np.exp(m))
    return Case(
        model=model,
        data={"y": y},
        mean={"mu": m, "exp_mu": lognormal.mean()},
        sd={"mu": np.sqrt(v), "exp_mu": lognormal.std()},
        mode={"mu": m, "exp_mu": np.exp(m)},
        log_evidence=evidence,
        is_gaussian=True,
        cov=cov,
    )


def linear_regression() -> Case:
    rng = np.random.default_rng(1)
    X = np.column_stack([np.ones(20), 1.0 + 0.6 * rng.standard_normal(20)])
    y = X @ [1.0, -0.5] + 0.7 * rng.standard_normal(20)

    def model(X: jax.Array, y: jax.Array) -> None:
        beta = numpyro.sample("beta", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
        numpyro.deterministic("contrast", beta[0] - 2 * beta[1])
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.Normal(X @ beta, 0.7), obs=y)

    mean, cov, evidence = gaussian(np.zeros(2), 4 * np.eye(2), X, 0.49 * np.eye(20), y)
    c = np.array([1.0, -2.0])
    return Case(
        model=model,
        data={"X": X, "y": y},
        mean={"beta": mean, "contrast": c @ mean},
        sd={"beta": np.sqrt(np.diag(cov)), "contrast": np.sqrt(c @ cov @ c)},
        mode={"beta": mean, "contrast": c @ mean},
        log_evidence=evidence,
        is_gaussian=True,
        cov=cov,
    )


def nested_plates() -> Case:
    y = np.array([[0.4, 2.1, -0.9], [1.0, 1.4, -1.6]])

    def model(y: jax.Array) -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
        with numpyro.plate("school", 3, dim=-1):
            s = numpyro.sample("s", dist.Normal(mu, 1.0))
            with numpyro.plate("class", 2, dim=-2):
                c = numpyro.sample("c", dist.Normal(s, 0.7))
                numpyro.sample("y", dist.Normal(c, 0.5), obs=y)

    # mu, s (3), c (2, 3) in C order, as x = L e with e the independent innovations
    school = np.tile(np.arange(3), 2)
    to_s = np.column_stack([np.ones(3), np.eye(3), np.zeros((3, 6))])
    L = np.vstack([np.eye(1, 10), to_s, to_s[school] + np.eye(10)[4:]])
    P = L @ np.diag([4.0] + [1.0] * 3 + [0.49] * 6) @ L.T
    mean, cov, evidence = gaussian(np.zeros(10), P, np.eye(10)[4:], 0.25 * np.eye(6), y.ravel())
    sd = np.sqrt(np.diag(cov))

    def split(v: np.ndarray) -> dict[str, Any]:
        return {"mu": v[0], "s": v[1:4], "c": v[4:].reshape(2, 3)}

    return Case(
        model=model, data={"y": y}, mean=split(mean), sd=split(sd), mode=split(mean),
        log_evidence=evidence, is_gaussian=True, cov=cov,
    )  # fmt: skip


def state_space() -> Case:
    y = np.array([0.3, 0.9, 1.8, 1.1, 2.2, 2.9])
    T = len(y)

    def model(y: jax.Array) -> None:
        def step(level: jax.Array, y_t: jax.Array) -> tuple[jax.Array, None]:
            level = numpyro.sample("level", dist.Normal(level, 0.8))
            numpyro.sample("y", dist.Normal(level, 0.5), obs=y_t)
            return level, None

        scan(step, jnp.zeros(()), y)

    walk = np.tril(np.ones((T, T)))
    mean, cov, evidence = gaussian(
        np.zeros(T), 0.64 * walk @ walk.T, np.eye(T), 0.25 * np.eye(T), y
    )
    return Case(
        model=model, data={"y": y}, mean={"level": mean}, sd={"level": np.sqrt(np.diag(cov))},
        mode={"level": mean}, log_evidence=evidence, is_gaussian=True, cov=cov,
    )  # fmt: skip


def improper_factor() -> Case:
    """A likelihood that lives in a factor only, under a flat prior."""
    mean, cov = np.array([1.0, -2.0]), np.array([[1.0, 0.9], [0.9, 1.6]])

    def model(mean: jax.Array, cov: jax.Array) -> None:
        x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), (2,)))
        numpyro.factor("likelihood", dist.MultivariateNormal(mean, cov).log_prob(x))

    return Case(
        model=model, data={"mean": mean, "cov": cov}, mean={"x": mean},
        sd={"x": np.sqrt(np.diag(cov))}, mode={"x": mean}, log_evidence=0.0, is_gaussian=True,
        cov=cov,
    )  # fmt: skip


# -- other closed forms ----------------------------------------------------------------------


def normal_precision() -> Case:
    """Normal-gamma: a location and a precision, both unknown, with a derived sd."""
    y = np.random.default_rng(2).normal(1.0, 0.5, 30)
    a, b, m, k = 3.0, 2.0, 0.0, 0.5

    def model(y: jax.Array) -> None:
        tau = numpyro.sample("tau", dist.Gamma(a, b))
        mu = numpyro.sample("mu", dist.Normal(m, (k * tau) ** -0.5))
        sigma = numpyro.deterministic("sigma", tau**-0.5)
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.Normal(mu, sigma), obs=y)

    n = len(y)
    kn, an = k + n, a + n / 2
    mn = (k * m + y.sum()) / kn
    bn = b + 0.5 * ((y - y.mean()) ** 2).sum() + k * n * (y.mean() - m) ** 2 / (2 * kn)
    e_sigma = np.sqrt(bn) * np.exp(gammaln(an - 0.5) - gammaln(an))
    evidence = (
        gammaln(an) - gammaln(a) + a * np.log(b) - an * np.log(bn)
        + 0.5 * np.log(k / kn) - n / 2 * np.log(2 * np.pi)
    )  # fmt: skip
    tau = (an - 0.5) / bn
    return Case(
        model=model,
        data={"y": y},
        mean={"tau": an / bn, "mu": mn, "sigma": e_sigma},
        sd={
            "tau": np.sqrt(an) / bn,
            "mu": np.sqrt(bn / (kn * (an - 1))),
            "sigma": np.sqrt(bn / (an - 1) - e_sigma**2),
        },
        mode={"tau": tau, "mu": mn, "sigma": tau**-0.5},
        log_evidence=float(evidence),
    )


def simplex() -> Case:
    alpha, counts = np.array([2.0, 3.0, 1.5]), np.array([4, 9, 7])

    def model(alpha: jax.Array, counts: jax.Array) -> None:
        p = numpyro.sample("p", dist.Dirichlet(alpha))
        numpyro.sample("counts", dist.Multinomial(total_count=20, probs=p), obs=counts)

    posterior = stats.dirichlet(alpha + counts)
    return Case(
        model=model,
        data={"alpha": alpha, "counts": counts},
        mean={"p": posterior.mean()},
        sd={"p": np.sqrt(posterior.var())},
        mode={"p": (alpha + counts - 1) / (alpha + counts - 1).sum()},
        log_evidence=float(stats.dirichlet_multinomial(alpha, 20).logpmf(counts)),
    )


def ordered() -> Case:
    """Two normals kept in order: their sum is normal, their difference a truncated normal."""
    centre, s = np.array([0.0, 0.6]), 1.0

    def model(centre: jax.Array) -> None:
        x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.ordered_vector, (), (2,)))
        numpyro.factor("likelihood", dist.Normal(centre, s).log_prob(x).sum())

    gap, width = centre[1] - centre[0], s * np.sqrt(2)
    d = stats.truncnorm(-gap / width, np.inf, gap, width)
    sd = np.sqrt((width**2 + d.var()) / 4)
    return Case(
        model=model,
        data={"centre": centre},
        mean={"x": (centre.sum() + np.array([-1, 1]) * d.mean()) / 2},
        sd={"x": np.array([sd, sd])},
        mode={"x": centre},
        log_evidence=float(stats.norm.logcdf(gap / width)),
    )


def correlation() -> Case:
    """A prior and nothing else: no observed site, and a matrix with a constant diagonal."""

    def model() -> None:
        numpyro.sample("C", dist.LKJ(3, 2.0))

    # each off-diagonal element is 2 Beta(a, a) - 1 with a = eta + d/2 - 1 (Lewandowski et al.)
    sd = 2 * stats.beta(2.5, 2.5).std()
    return Case(
        model=model,
        mean={"C": np.eye(3)},
        sd={"C": sd * (1 - np.eye(3))},
        mode={"C": np.eye(3)},
        log_evidence=0.0,
    )


def covariance() -> Case:
    y = np.random.default_rng(3).multivariate_normal([0, 0], [[1.0, 0.5], [0.5, 0.8]], 25)
    df, scale = 6, np.array([[2.0, 0.3], [0.3, 1.0]])

    def model(y: jax.Array, scale: jax.Array) -> None:
        Sigma = numpyro.sample("Sigma", dist.InverseWishart(df, scale))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.MultivariateNormal(jnp.zeros(2), Sigma), obs=y)

    D, n = 2, len(y)
    nu, Psi = df + n, scale + y.T @ y
    diagonal = np.diag(Psi)
    variance = ((nu - D + 1) * Psi**2 + (nu - D - 1) * np.outer(diagonal, diagonal)) / (
        (nu - D) * (nu - D - 1) ** 2 * (nu - D - 3)
    )
    evidence = (
        -n * D / 2 * np.log(np.pi) + multigammaln(nu / 2, D) - multigammaln(df / 2, D)
        + df / 2 * np.linalg.slogdet(scale)[1] - nu / 2 * np.linalg.slogdet(Psi)[1]
    )  # fmt: skip
    return Case(
        model=model,
        data={"y": y, "scale": scale},
        mean={"Sigma": Psi / (nu - D - 1)},
        sd={"Sigma": np.sqrt(variance)},
        mode={"Sigma": Psi / (nu + D + 1)},
        log_evidence=float(evidence),
    )


# -- answers by quadrature -------------------------------------------------------------------


def moments_on_grid(log_density: np.ndarray, cell: float, values: Sites) -> tuple[Any, ...]:
    """Return means, sds and log integral of a density tabulated on a grid."""
    peak = log_density.max()
    weight = np.exp(log_density - peak)
    total = weight.sum()
    mean = {name: (weight * v).sum() / total for name, v in values.items()}
    sd = {
        name: np.sqrt((weight * (v - mean[name]) ** 2).sum() / total) for name, v in values.items()
    }
    return mean, sd, float(peak + np.log(total * cell))


def dynamic_support() -> Case:
    """A support that depends on another site: Uniform(lo, 5)."""
    y = np.array([1.2, 2.3, 0.4])

    def model(y: jax.Array) -> None:
        lo = numpyro.sample("lo", dist.Normal(0.0, 1.0))
        x = numpyro.sample("x", dist.Uniform(lo, 5.0))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.Normal(x, 1.0), obs=y)

    # lo = -8 + (x + 8) share, so the grid's edge is the support's edge
    x = np.linspace(-8, 5, 3001)[1:-1, None]
    share = (np.arange(3000)[None, :] + 0.5) / 3000
    lo = -8 + (x + 8) * share
    log_p = (
        stats.norm.logpdf(lo) - np.log(5 - lo) + np.log(x + 8)
        + stats.norm.logpdf(y[:, None, None], x).sum(0)
    )  # fmt: skip
    mean, sd, evidence = moments_on_grid(log_p, 13 / 3000 / 3000, {"lo": lo, "x": x})
    return Case(
        model=model,
        data={"y": y},
        mean=mean,
        sd=sd,
        # d/d lo of log N(lo; 0, 1) - log(5 - lo) is zero
        mode={"lo": (5 - np.sqrt(21)) / 2, "x": y.mean()},
        log_evidence=evidence,
    )


def eight_schools() -> Case:
    y = np.array([28.0, 8, -3, 7, -1, 1, 18, 12])
    sigma = np.array([15.0, 10, 16, 11, 9, 11, 10, 18])

    def model(y: jax.Array, sigma: jax.Array) -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
        with numpyro.plate("school", len(y)):
            theta = numpyro.sample("theta", dist.Normal(mu, tau))
            numpyro.sample("y", dist.Normal(theta, sigma), obs=y)

    # given tau everything is Gaussian; tau = exp(t) is integrated on a grid
    t = np.linspace(-16, 8, 4001)
    tau = np.exp(t)
    log_p, means, second = np.empty(t.size), np.empty((t.size, 9)), np.empty((t.size, 9))
    A = np.eye(9)[1:]
    log_prior = stats.halfcauchy(0, 5).logpdf(tau) + t
    for i, value in enumerate(tau):
        P = 25 * np.ones((9, 9))
        P[1:, 1:] += value**2 * np.eye(8)
        m, V, evidence = gaussian(np.zeros(9), P, A, np.diag(sigma**2), y)
        log_p[i] = evidence + log_prior[i]
        means[i], second[i] = m, np.diag(V) + m**2
    weight = np.exp(log_p - log_p.max())
    weight /= weight.sum()
    mean = weight @ means
    sd = np.sqrt(weight @ second - mean**2)
    tau_mean = weight @ tau
    model_with_options = vr.Model(
        function=model,
        name="eight_schools",
        options={"nuts": {"noncentered": ("theta",)}},
        dims={"theta": ("school",)},
        coords={"school": list("ABCDEFGH")},
    )
    return Case(
        model=model_with_options,
        data={"y": y, "sigma": sigma},
        mean={"mu": mean[0], "tau": tau_mean, "theta": mean[1:]},
        sd={"mu": sd[0], "tau": np.sqrt(weight @ tau**2 - tau_mean**2), "theta": sd[1:]},
        has_mode=False,
        log_evidence=float(log_p.max() + np.log(np.exp(log_p - log_p.max()).sum() * (t[1] - t[0]))),
    )


def mixture() -> Case:
    """Two exchangeable normals, labels summed out, with closed-form EM for their means."""
    rng = np.random.default_rng(4)
    y = np.concatenate([rng.normal(-2.0, 1.0, 24), rng.normal(2.5, 1.0, 36)])
    scale = 3.0

    def model(y: jax.Array) -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, scale).expand([2]).to_event(1))
        with numpyro.plate("row", len(y)):
            parts = dist.Normal(mu, 1.0)
            half = dist.Categorical(probs=jnp.array([0.5, 0.5]))
            numpyro.sample("y", dist.MixtureSameFamily(half, parts), obs=y)

    def e_step(theta: dict[str, Any], y: jax.Array) -> tuple[Any, jax.Array]:
        joint = dist.Normal(theta["mu"], 1.0).log_prob(y[:, None]) + jnp.log(0.5)
        marginal = jax.nn.logsumexp(joint, axis=1)
        weight = jnp.exp(joint - marginal[:, None])
        return (weight.sum(0), weight.T @ y), marginal.sum()

    def m_step(stats_: Any, objective: str, y: jax.Array) -> dict[str, Any]:
        counts, totals = stats_
        return {"mu": totals / (counts + (scale**-2 if objective == "map" else 0.0))}

    wrapped = vr.Model(
        function=model,
        name="mixture",
        dims={"mu": ("component",)},
        exchangeable=(vr.Exchangeable(sites={"mu": 0}),),
        em=vr.EMSteps(
            start=lambda key, y: {"mu": jax.random.choice(key, y, (2,), replace=False)},
            e_step=e_step,
            m_step=m_step,
            log_prior=lambda theta, y: dist.Normal(0.0, scale).log_prob(theta["mu"]).sum(),
        ),
    )
    # the posterior of one labelling, mu_0 < mu_1, on a grid; the modes are far apart
    grid = np.linspace(-4, 5, 901)
    joint = stats.norm.logpdf(y[:, None], grid)
    log_p = np.logaddexp(joint[:, :, None], joint[:, None, :]).sum(0) + len(y) * np.log(0.5)
    log_prior = stats.norm.logpdf(grid, 0, scale)
    log_p += log_prior[:, None] + log_prior[None, :]
    a, b = np.broadcast_arrays(grid[:, None], grid[None, :])
    mean, sd, evidence = moments_on_grid(np.where(a < b, log_p, -np.inf), 0.01**2, {"a": a, "b": b})
    return Case(
        model=wrapped,
        data={"y": y},
        mean={"mu": np.array([mean["a"], mean["b"]])},
        sd={"mu": np.array([sd["a"], sd["b"]])},
        log_evidence=evidence + np.log(2),
    )


# -- without answers -------------------------------------------------------------------------


def branch() -> None:
    """The density of x jumps where c changes its sign."""
    c = numpyro.sample("c", dist.Normal(0.0, 1.0))
    cond(
        c > 0,
        lambda _: numpyro.sample("x", dist.Normal(-2.0, 1.0)),
        lambda _: numpyro.sample("x", dist.Normal(3.0, 0.5)),
        None,
    )


def slopes(
    y: jax.Array,
    x: jax.Array,
    group: jax.Array,
    num_groups: int,
    centre: Any = (0.0, 0.0),
    width: Any = (10.0, 10.0),
    spread: Any = (5.0, 5.0),
) -> None:
    """Intercepts and slopes of groups, correlated."""
    centre, width, spread = map(jnp.asarray, (centre, width, spread))
    beta = numpyro.sample("beta", dist.Normal(centre, width).to_event(1))
    sd = numpyro.sample("sd", dist.HalfNormal(spread).to_event(1))
    L = numpyro.sample("L", dist.LKJCholesky(2, 2.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(spread[0]))
    with numpyro.plate("groups", num_groups):
        root = sd[:, None] * L
        u = numpyro.sample("u", dist.MultivariateNormal(jnp.zeros(2), scale_tril=root))
    with numpyro.plate("row", len(y)):
        mean = beta[0] + u[group, 0] + (beta[1] + u[group, 1]) * x
        numpyro.sample("y", dist.Normal(mean, sigma), obs=y)


CASES: dict[str, Callable[[], Case]] = {
    make.__name__: make
    for make in (
        normal_mean,
        linear_regression,
        nested_plates,
        state_space,
        improper_factor,
        normal_precision,
        simplex,
        ordered,
        correlation,
        covariance,
        dynamic_support,
        eight_schools,
        mixture,
    )
}


@cache
def case(name: str) -> Case:
    """Return the case of that name, made once."""
    return CASES[name]()


@cache
def target(name: str) -> vr.Target:
    """Return the target of the case of that name, made once, so that its compilations are too."""
    this = case(name)
    model = this.model
    if not isinstance(model, vr.Model):
        model = vr.Model(function=model, name=name)
    return vr.Target(model, **this.data)


GAUSSIAN = ("normal_mean", "linear_regression", "nested_plates", "state_space", "improper_factor")
"""The cases with Gaussian posteriors."""
