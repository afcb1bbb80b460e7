"""Check the canon against independent calculations: ``python docs/canon.py``.

It writes ``docs/canon.md``: each item, where it is, the independent value and how it was had, and
ours. Independent values are closed forms and SciPy's optima and integrals of densities written out
here, without the library's models. ``--check`` writes nothing; either way it ends with 1 where one
of ours is not the independent value.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from scipy import integrate, optimize, special, stats

import vi_recipes as vr
from vi_recipes.core import find, import_file

PAGE = Path(__file__).with_name("canon.md")

HEAD = """# The canon, item by item

Made by `python docs/canon.py`, which computes both columns of numbers and fails where ours is not
within the tolerance of the independent one. The slow tests run it.

| item | where | independent value | how it was had | ours | tolerance |
|---|---|---|---|---|---|
"""

Numbers = Callable[[], Any]


@dataclass(frozen=True)
class Item:
    """A row of the table.

    Parameters
    ----------
    name, where, how
        What it is, where it is found, and how the independent value was had.
    expected, ours
        The two values: numbers, or words.
    tolerance
        Largest difference, relative to the larger of 1 and the independent value.
    """

    name: str
    where: str
    how: str
    expected: Numbers
    ours: Numbers
    tolerance: float = 0.0


ITEMS: list[Item] = []


def item(name: str, where: str, how: str, tolerance: float = 0.0) -> Callable[[Numbers], Numbers]:
    """Add a row whose function returns the pair (independent value, ours), computed once."""

    def add(pair: Numbers) -> Numbers:
        both = cache(pair)
        ITEMS.append(Item(name, where, how, lambda: both()[0], lambda: both()[1], tolerance))
        return both

    return add


def target(name: str, part: str = "MODEL", **data: Any) -> vr.Target:
    """Return a shipped model, or another model of its file, with its data."""
    return vr.Target(getattr(module(name), part), **data)


@cache
def module(name: str) -> Any:
    """Return the file of a shipped model."""
    return import_file(find("models")[name])


@cache
def study(name: str) -> Any:
    """Return the file of a shipped study."""
    return import_file(find("comparisons")[name])


def part(name: str, file: str) -> Any:
    """Return one of the files of a study that is a folder."""
    return sys.modules[f"{study(name).__name__}.{file}"]


def numbers(fit: vr.Fit, *sites: str) -> np.ndarray:
    """Return means and then sds of some sites of a fit, constrained scale."""
    parts = [np.ravel(values[s]) for values in (fit.mean(), fit.sd()) for s in sites]
    return np.concatenate(parts)


# -- EM ------------------------------------------------------------------------------------------

LINKAGE = np.array([125, 18, 20, 34])


@item(
    "EM for multinomial cells (Dempster, Laird and Rubin 1977): theta and its sd",
    "`linkage`, `em`",
    "root of the quadratic score equation; observed information",
    1e-6,
)
def _linkage() -> Any:
    a, b, c, d = LINKAGE
    n = a + b + c + d
    theta = max(np.roots([-n, a - 2 * (b + c) - d, 2 * d]))
    sd = (a / (2 + theta) ** 2 + (b + c) / (1 - theta) ** 2 + d / theta**2) ** -0.5
    fit = vr.EM(num_starts=1, tolerance=1e-15).fit(target("linkage"), throw=True)
    return (theta, sd), numbers(fit, "theta")


@item(
    "its linear rate, the share of information that is missing",
    "`linkage`, `em`",
    "derivative of the EM map at its fixed point",
    2e-3,
)
def _rate() -> Any:
    a, b, c, d = LINKAGE

    def step(theta: float) -> float:
        second = a * theta / (2 + theta)
        return float((second + d) / (second + d + b + c))

    theta = float(optimize.brentq(lambda t: step(t) - t, 0.1, 0.9, xtol=1e-14))
    slope = (step(theta + 1e-6) - step(theta - 1e-6)) / 2e-6
    fit = vr.EM(num_starts=1, tolerance=1e-15).fit(target("linkage"), throw=True)
    rises = np.diff(fit.trace["log_likelihood"][0])[1:5]
    return slope, (rises[3] / rises[2]) ** 0.5  # log p has twice the rate of theta


@item(
    "incremental and sparse EM (Neal and Hinton 1998) end at that theta",
    "`linkage`, `em` with `num_blocks` and with `num_sparse`",
    "as above",
    1e-6,
)
def _partial() -> Any:
    theta = _linkage()[0][0]
    ways: tuple[dict[str, Any], ...] = ({"num_blocks": 5}, {"num_sparse": 4})
    shared: dict[str, Any] = {"num_starts": 1, "tolerance": 1e-14}
    fits = [vr.EM(**shared, **way).fit(target("linkage"), throw=True) for way in ways]
    return (theta, theta), [float(fit.mean()["theta"]) for fit in fits]


@item(
    "EM for a mixture of Poisson laws (Hasselblad 1969): weight, rates, log-likelihood",
    "`times_deaths`, `em`",
    "SciPy's Nelder-Mead on the likelihood of the counts",
    1e-4,
)
def _times_deaths() -> Any:
    this = target("times_deaths")
    y = np.asarray(this.data["y"])

    def loss(x: np.ndarray) -> float:
        log_pi = np.array([special.log_expit(x[0]), special.log_expit(-x[0])])
        each = log_pi + stats.poisson.logpmf(y[:, None], np.exp(x[1:]))
        return -float(special.logsumexp(each, axis=1).sum())

    options = {"xatol": 1e-9, "fatol": 1e-11, "maxiter": 4_000}
    found = optimize.minimize(loss, [0.0, 0.0, 1.0], method="Nelder-Mead", options=options)
    fit = vr.EM(num_starts=1, tolerance=1e-15, accelerate=True).fit(this, throw=True)
    expected = (special.expit(found.x[0]), *np.exp(found.x[1:]), -found.fun)
    return expected, (fit.mean()["pi"][0], *fit.mean()["lam"], fit.log_likelihood)


@item(
    "EM for a normal mixture: log-likelihood on Old Faithful",
    "`gmm`, `em`",
    "SciPy's BFGS on the likelihood, from mclust's grouping",
    1e-6,
)
def _gmm() -> Any:
    gmm = module("gmm")
    this = vr.Target(gmm.gmm(2, "full"))
    y = np.asarray(this.data["y"])

    def loss(x: np.ndarray) -> float:
        log_pi = np.array([special.log_expit(x[0]), special.log_expit(-x[0])])
        parts = []
        for k in range(2):
            mean, log_sds, below = x[1 + 5 * k : 3 + 5 * k], x[3 + 5 * k : 5 + 5 * k], x[5 + 5 * k]
            root = np.array([[np.exp(log_sds[0]), 0], [below, np.exp(log_sds[1])]])
            parts.append(stats.multivariate_normal.logpdf(y, mean, root @ root.T))
        return -float(special.logsumexp(log_pi[:, None] + np.stack(parts), axis=0).sum())

    start = np.array([0.6, 4.3, 80, -1, 1.7, 2.3, 2.0, 54.5, -1.3, 1.7, 1.7])
    found = optimize.minimize(loss, start, method="BFGS", options={"gtol": 1e-6})
    fit = vr.EM(tolerance=1e-12).fit(this, throw=True)
    return -found.fun, fit.log_likelihood


@item(
    "variance components: sigma and sigma_b of a balanced one-way design",
    "`linear_mixed:DYE`, `marginalmle`",
    "closed form of maximum likelihood",
    1e-5,
)
def _dyestuff() -> Any:
    this = target("linear_mixed", "DYE")
    y = np.asarray(this.data["y"]).reshape(6, 5)
    within = np.square(y - y.mean(axis=1, keepdims=True)).sum() / 24
    between = 5 * np.square(y.mean(axis=1) - y.mean()).sum() / 6
    fit = vr.MarginalMLE().fit(this, throw=True)
    ours = (fit.mean()["sigma"], np.ravel(fit.mean()["sigma_b"])[0])
    return (within**0.5, ((between - within) / 5) ** 0.5), ours


@item(
    "probabilistic principal components: log-likelihood of irises",
    "`ppca`, `em`",
    "closed form by eigenvalues (Tipping and Bishop 1999)",
    1e-6,
)
def _ppca() -> Any:
    this = target("ppca")
    y = np.asarray(this.data["y"])
    n, D = y.shape
    values = np.linalg.eigvalsh(np.cov(y, rowvar=False, bias=True))[::-1]
    rest = values[2:].mean()
    log_det = np.log(values[:2]).sum() + (D - 2) * np.log(rest)
    expected = -n / 2 * (D * np.log(2 * np.pi) + log_det + D)
    fit = vr.EM(num_starts=1, tolerance=1e-14).fit(this, throw=True)
    return expected, fit.log_likelihood


@item(
    "a random intercept with binomial counts: coefficients and sigma",
    "`cbpp`, `marginalmle`",
    "SciPy's BFGS on a trapezoid rule of 401 points a herd",
    1e-4,
)
def _cbpp() -> Any:
    this = target("cbpp")
    d = {name: np.asarray(value) for name, value in this.data.items()}
    grid = np.linspace(-8, 8, 401)
    weight = stats.norm.logpdf(grid) + np.log(grid[1] - grid[0])
    herds = d["herd"][:, None] == np.arange(15)

    def loss(x: np.ndarray) -> float:
        line = d["X"] @ x[:3] + x[3]
        eta = line[:, None] + np.exp(x[4]) * grid
        each = d["incidence"][:, None] * eta - d["size"][:, None] * np.logaddexp(0, eta)
        return -float(special.logsumexp(herds.T @ each + weight, axis=1).sum())

    found = optimize.minimize(loss, np.zeros(5), method="BFGS", options={"gtol": 1e-7})
    fit = vr.MarginalMLE().fit(this, throw=True)
    mean = fit.mean()
    expected = (*found.x[:4], np.exp(found.x[4]))
    return expected, (*mean["beta"], mean["mu"], mean["tau"] ** -0.5)


@item(
    "the convergence proof as numbers: rise of log p, by log p and by [Q - Q] + KL",
    "`times_deaths`, `vr.FreeEnergy`",
    "log-likelihoods of the mixture by SciPy's Poisson law",
    1e-9,
)
def _rise() -> Any:
    this = target("times_deaths")
    y = np.asarray(this.data["y"])
    F = vr.FreeEnergy(this)

    def at(pi: float, first: float, second: float) -> tuple[np.ndarray, np.ndarray, float]:
        weights, rates = np.array([pi, 1 - pi]), np.array([first, second])
        theta = F.unconstrain({"pi": weights, "log_lam": np.log(rates)})
        joint = np.log(weights) + stats.poisson.logpmf(y[:, None], rates)
        each = special.logsumexp(joint, axis=1)
        return theta, np.exp(joint - each[:, None]), float(each.sum())

    (old, p, before), (new, q, after) = at(0.3, 1.0, 2.0), at(0.36, 1.26, 2.66)
    posterior = F.posterior(old)
    kl = float((p * (np.log(p) - np.log(q))).sum())
    return after - before, F.q(posterior, new) - F.q(posterior, old) + kl


@item(
    "what an exact E-step gives away: log p(y | theta) of a Poisson-gamma model, y = 0 to 9",
    "study `em_is_vi`, exhibit `given_away`",
    "SciPy's negative binomial law",
    1e-10,
)
def _given_away() -> Any:
    found = part("em_is_vi", "e_steps").given_away()
    rows = found[found["model"] == "Poisson-gamma"]
    expected = stats.nbinom(1.5, 0.6 / 1.6).logpmf(rows["y"].astype(int))
    return expected, rows["by log partition functions"].astype(float)


@item(
    "a deep linear model has the likelihood of principal components, nats a row",
    "`deep_latent_gaussian`, `svi` with the model's guide",
    "closed form by eigenvalues, both layers being one",
    1e-3,
)
def _deep() -> Any:
    deep = module("deep_latent_gaussian")
    choices: dict[str, Any] = {
        "num_lower": 2, "num_upper": 1, "activation": "identity", "likelihood": "gaussian",
    }  # fmt: skip
    y = deep.simulate(num_columns=5, **choices)["y"]
    values = np.linalg.eigvalsh(np.cov(y, rowvar=False, bias=True))[::-1]
    log_det = np.log(values[:2]).sum() + 3 * np.log(values[2:].mean())
    method = vr.SVI(guide=deep.make_guide(**choices), num_steps=6_000)
    fit = method.fit(vr.Target(deep.build(**choices), y=y), key=0, throw=True)
    A, W, b, sigma = (fit.mean()[name] for name in ("A", "W", "b", "sigma"))
    Sigma = W.T @ (A.T @ A + np.eye(2)) @ W + sigma**2 * np.eye(5)
    reached = stats.multivariate_normal.logpdf(y, b, Sigma).mean()
    return -0.5 * (5 * np.log(2 * np.pi) + log_det + 5), reached


# -- point masses --------------------------------------------------------------------------------


@item(
    "Neyman and Scott: sigma by the joint and by the marginal maximum",
    "`neyman_scott`, `map` and `marginalmle`",
    "S / (N M) and S / (N (M - 1)), S the sum of squares around members' means",
    1e-5,
)
def _neyman_scott() -> Any:
    this = target("neyman_scott")
    y = np.asarray(this.data["y"])
    n, m = y.shape
    s = np.square(y - y.mean(axis=1, keepdims=True)).sum()
    fits = (vr.MAP().fit(this, throw=True), vr.MarginalMLE().fit(this, throw=True))
    expected = ((s / (n * m)) ** 0.5, (s / (n * (m - 1))) ** 0.5)
    return expected, [float(fit.mean()["sigma"]) for fit in fits]


@item(
    "the VI explanation, M = 2: sd of the best q(z_n), KL of a near-point, sigma^2 at its top",
    "study `neyman_scott`",
    "h the marginal maximum: (h / M)^(1/2), KL between normals, h (M - 1) / M",
    1e-5,
)
def _gap() -> Any:
    y = np.asarray(target("neyman_scott").data["y"])
    n, m = y.shape
    gap = study("neyman_scott").Gap(vr.load_model("neyman_scott"), y)
    h = np.square(y - y.mean(axis=1, keepdims=True)).sum() / (n * (m - 1))
    sd, near = (h / m) ** 0.5, 0.01
    kl = np.log(sd / near) + ((near / sd) ** 2 - 1) / 2
    return (sd, kl, (m - 1) / m), (gap.sd, gap.kl(near), gap.estimate(0.0))


@item(
    "a scale's posterior, 10 and 1,000 deviations: mean, sd, and entropy",
    "study `point_masses`",
    "sigma^-2 has a gamma law under a flat prior of sigma",
    1e-8,
)
def _scales() -> Any:
    expected, ours = [], []
    for k in (10, 1_000):
        shape = (k - 1) / 2  # p(sigma | y) is in proportion to sigma^-k exp(-k / (2 sigma^2))
        first, second = (
            np.exp(special.gammaln(shape - p / 2) - special.gammaln(shape)) * (k / 2) ** (p / 2)
            for p in (1, 2)
        )
        log_rate = np.log(k / 2) - special.digamma(shape)  # mean of 2 log sigma
        entropy = special.gammaln(shape) - np.log(2) - shape * np.log(k / 2)
        expected += [first, (second - first**2) ** 0.5, entropy + k / 2 * log_rate + shape]
        scale = part("point_masses", "near").Scale(k)
        ours += [scale.mean, scale.sd, scale.entropy]
    return expected, ours


@item(
    "a point mass on a scale, flat prior: its best place, and KL(q || p) + entropy of q",
    "study `point_masses`, a normal of sd 0.001",
    "the maximum of the marginal likelihood, and -log p there, k = 15",
    1e-4,
)
def _point() -> Any:
    k, sd = 15, 1e-3
    shape = (k - 1) / 2
    log_p = np.log(2) + shape * np.log(k / 2) - special.gammaln(shape) - k / 2
    centre, kl = part("point_masses", "near").Scale(k).near_point(sd)
    return (1.0, -log_p), (centre, kl + stats.norm.entropy(0, sd))


@item(
    "a joint density without a maximum: all effects at one value",
    "`eight_schools`, `map`",
    "the density grows like tau^-8 as tau falls to 0",
)
def _collapse() -> Any:
    return vr.Status.DEGENERATE.name, vr.MAP().fit(target("eight_schools")).status.name


@item(
    "the Laplace approximation is singular where only a sum is known",
    "`laplace`",
    "the Hessian has rank 1 in two coordinates",
)
def _singular() -> Any:
    flat = dist.ImproperUniform(dist.constraints.real, (), ())

    def model(y: Any) -> None:
        a, b = numpyro.sample("a", flat), numpyro.sample("b", flat)
        numpyro.sample("y", dist.Normal(a + b, 1.0), obs=y)

    fit = vr.Laplace().fit(vr.Target(model, y=np.array([0.3, -0.1])))
    return vr.Status.SINGULAR.name, fit.status.name


# -- variational approximations ------------------------------------------------------------------


@item(
    "mean field of a correlated normal: sds and ELBO",
    "`bivariate_normal`, `meanfield`",
    "sd (1 - r^2)^(1/2), log (1 - r^2)^(1/2)",
    1e-6,
)
def _narrow() -> Any:
    fit = vr.MeanField().fit(target("bivariate_normal"), throw=True)
    return (0.6, 0.3, np.log(0.6)), (*fit.sd()["x"], fit.diagnostics["elbo"])


@item(
    "linear response repairs them: covariance",
    "`bivariate_normal`, `lrvb`",
    "the target's own",
    1e-6,
)
def _repaired() -> Any:
    fit = vr.LinearResponse().fit(target("bivariate_normal"), throw=True)
    return (1, 0.4, 0.4, 0.25), fit.cov().to_numpy().ravel()


@item(
    "Wasserstein variational inference (Ambrogioni et al. 2018) of that correlated normal: sds",
    '`bivariate_normal`, `svi` with `objective="wasserstein"`',
    "least 2-Wasserstein distance, coordinates in sds: ((1 + r)^(1/2) + (1 - r)^(1/2)) / 2 of each",
    0.03,
)
def _nearest() -> Any:
    share = (np.sqrt(1.8) + np.sqrt(0.2)) / 2
    method = vr.SVI(objective="wasserstein", num_steps=3_000, tolerance=None)
    fit = method.fit(target("bivariate_normal"), key=1, throw=True)
    return (share, share / 2), fit.sd()["x"]


SHAPE, SCALE = 3.0, 2.0


def log_gamma() -> vr.Target:
    """Return a gamma law, whose unconstrained density is log-gamma."""

    def model() -> None:
        numpyro.sample("x", dist.Gamma(SHAPE, SCALE))

    return vr.Target(model)


def of_log_normal(m: float, s: float) -> tuple[float, float]:
    """Return mean and sd of a log-normal law."""
    mean = np.exp(m + s**2 / 2)
    return mean, mean * np.expm1(s**2) ** 0.5


@item(
    "the normal closest to a log-gamma by KL(q || p): mean and sd of x",
    "`meanfield`",
    "m = log(a / b) - 1 / (2 a), s^2 = 1 / a",
    1e-6,
)
def _reverse() -> Any:
    expected = of_log_normal(np.log(SHAPE / SCALE) - 1 / (2 * SHAPE), SHAPE**-0.5)
    fit = vr.MeanField(factors={"x": "normal"}).fit(log_gamma(), throw=True)
    return expected, numbers(fit, "x")


@item(
    "the normal closest by KL(p || q): mean and sd of x",
    "`forward_kl`",
    "moments of log x: digamma(a) - log b, trigamma(a)",
    0.03,
)
def _forward() -> Any:
    m = special.digamma(SHAPE) - np.log(SCALE)
    expected = of_log_normal(m, special.polygamma(1, SHAPE) ** 0.5)
    return expected, numbers(vr.ForwardKL().fit(log_gamma(), throw=True), "x")


@item(
    "a normal law at the mode of the unconstrained density: mean and sd of x",
    "`laplace`",
    "m = log(a / b), s^2 = 1 / a",
    1e-6,
)
def _at_the_mode() -> Any:
    expected = of_log_normal(np.log(SHAPE / SCALE), SHAPE**-0.5)
    return expected, numbers(vr.Laplace().fit(log_gamma(), throw=True), "x")


@item(
    "mean field of a normal with unknown mean and precision (Bishop 2006, 10.1.3)",
    "`meanfield`, a normal and a gamma factor",
    "its fixed-point equations, iterated",
    1e-4,
)
def _normal_gamma() -> Any:
    y = np.random.default_rng(0).normal(1.0, 2.0, 25)
    n, a0, b0, kappa = y.size, 2.0, 3.0, 0.5

    def model(y: Any) -> None:
        tau = numpyro.sample("tau", dist.Gamma(a0, b0))
        mu = numpyro.sample("mu", dist.Normal(0.0, (kappa * tau) ** -0.5))
        numpyro.sample("y", dist.Normal(mu, tau**-0.5), obs=y)

    m = y.sum() / (kappa + n)
    a, mean_tau = a0 + (n + 1) / 2, 1.0
    for _ in range(200):
        v = 1 / ((kappa + n) * mean_tau)
        b = b0 + 0.5 * (np.square(y - m).sum() + n * v + kappa * (m**2 + v))
        mean_tau = a / b
    expected = (m, a / b, v**0.5, a**0.5 / b)
    factors = {"mu": "normal", "tau": "gamma"}
    fit = vr.MeanField(factors=factors).fit(vr.Target(model, y=y), throw=True)
    return expected, numbers(fit, "mu", "tau")


@item(
    "the KL that a normal of log lambda leaves of a gamma posterior",
    "`meanfield`: log p(y) less its ELBO",
    "least KL of a normal from a log-gamma density: SciPy's quad and Nelder-Mead",
    1e-6,
)
def _left() -> Any:
    a, b, y = 1.5, 0.6, 3  # and with y = 3 the posterior is Gamma(4.5, 1.6)

    def model(y: Any) -> None:
        rate = numpyro.sample("rate", dist.Gamma(a, b))
        numpyro.sample("y", dist.Poisson(rate), obs=y)

    posterior = stats.loggamma(a + y, -np.log(b + 1))

    def kl(x: np.ndarray) -> float:
        q = stats.norm(x[0], np.exp(x[1]))
        edges = q.mean() - 12 * q.std(), q.mean() + 12 * q.std()
        f = lambda u: q.pdf(u) * (q.logpdf(u) - posterior.logpdf(u))  # noqa: E731
        return float(integrate.quad(f, *edges, epsabs=1e-12, limit=200)[0])

    least = optimize.minimize(kl, [0.8, -0.7], method="Nelder-Mead", tol=1e-9).fun
    method = vr.MeanField(factors={"rate": "normal"})
    fit = method.fit(vr.Target(model, y=np.array(y)), throw=True)
    return least, stats.nbinom(a, b / (b + 1)).logpmf(y) - fit.diagnostics["elbo"]


@item(
    "the best normals of local variables given the global one, Poisson rows: means and sds",
    '`svi`, `"optimal_normal"`',
    "SciPy's BFGS on each member's KL in closed form",
    1e-3,
)
def _members() -> Any:
    y = np.array([0, 2, 7])

    def model(y: Any) -> None:
        mu = numpyro.sample("mu", dist.Normal(0.3, 1e-4))  # known, so that q(u | mu) is q(u)
        with numpyro.plate("member", len(y)):
            u = numpyro.sample("u", dist.Normal(mu, 1.0))
            numpyro.sample("y", dist.Poisson(jnp.exp(u)), obs=y)

    found = []
    for count in y:

        def loss(x: np.ndarray, count: int = count) -> float:
            v = np.exp(2 * x[1])
            prior = ((x[0] - 0.3) ** 2 + v) / 2
            return float(np.exp(x[0] + v / 2) - count * x[0] + prior - x[1])

        found.append(optimize.minimize(loss, [0.5, -0.5], options={"gtol": 1e-9}).x)
    m, log_s = np.transpose(found)
    method = vr.SVI(guide={"u": "optimal_normal"}, num_steps=3_000)
    fit = method.fit(vr.Target(model, y=y))
    return (*m, *np.exp(log_s)), numbers(fit, "u")


@item(
    "minibatches of groups, effects at their optimum (Hoffman et al. 2013): mean and sd of mu",
    '`svi`, `"optimal_normal"` and `plate="group"`; criteo times 100 in benchmarks/README.md',
    "the posterior of a normal hierarchy in closed form",
    0.01,
)
def _groups() -> Any:
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(100), 4)
    y = 1.5 + rng.standard_normal(100)[group] + rng.standard_normal(400)

    def model(y: Any, group: Any, num_groups: int) -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
        with numpyro.plate("group", num_groups):
            u = numpyro.sample("u", dist.Normal(mu, 1.0))
        with numpyro.plate("row", len(y)):
            numpyro.sample("y", dist.Normal(u[group], 1.0), obs=y)

    precision = 0.01 + 100 / 1.25  # a group's mean has variance 1 + 1 / 4 around mu
    guide = {"u": "optimal_normal"}
    fit = vr.SVI(guide=guide, plate="group", batch_size=20).fit(
        vr.Target(model, y=y, group=group, num_groups=100), key=0
    )
    return (y.mean() * 80 / precision, precision**-0.5), numbers(fit, "mu")


@item(
    "maximum likelihood minimises KL, misspecified too: n times the mean excess, n = 2,000",
    "study `what_is_vi`",
    "normal fitted to exponential samples: (V11 / J11 + V22 / J22) / 2 = (1 + 8 / 2) / 2",
    0.1,
)
def _misspecified() -> Any:
    samples = np.random.default_rng(0).exponential(size=(4_000, 2_000))
    return 2.5, 2_000 * study("what_is_vi").excess(samples).mean()


@item(
    "normals of least D_alpha(q || p) for a skewed density, alpha = 0 and 1/2: mean and sd",
    "study `divergences`",
    "alpha = 0: moments of the skew-normal law; 1/2: SciPy's quad and Nelder-Mead",
    1e-4,
)
def _alpha() -> Any:
    p = stats.skewnorm(5.0)

    def loss(x: np.ndarray) -> float:
        def f(u: float) -> float:
            return float(np.exp((stats.norm.logpdf(u, x[0], np.exp(x[1])) + p.logpdf(u)) / 2))

        return -float(integrate.quad(f, -4, 8, epsabs=1e-12, limit=400)[0])

    half = optimize.minimize(loss, [0.8, -0.5], method="Nelder-Mead", tol=1e-9).x
    skewed = study("divergences")
    density = skewed.densities(vr.load_study("divergences").target())["skewed"]
    ours = [density.best(order) for order in (0.0, 0.5)]
    expected = (p.mean(), p.std(), half[0], np.exp(half[1]))
    return expected, [value for q in ours for value in (q.mean, q.sd)]


@item(
    "sds of a normal from which D_alpha(q || p) is infinite: alpha = 2, 3 and -1",
    "study `divergences`",
    "tails of the skewed density: (alpha / (26 (alpha - 1)))^(1/2)",
    1e-6,
)
def _limits() -> Any:
    skewed = study("divergences")
    density = skewed.densities(vr.load_study("divergences").target())["skewed"]
    expected = [(alpha / (26 * (alpha - 1))) ** 0.5 for alpha in (2.0, 3.0)]
    ours = [density.sds(alpha)[1] for alpha in (2.0, 3.0)]
    return (*expected, 0.5**0.5), (*ours, density.sds(-1.0)[0])


@item(
    "mean field's KL(q || p), KL(p || q) and chi^2(q || p), r = 0.8",
    "study `kl_bounds`",
    "-log(1 - r^2) / 2, r^2 / (1 - r^2) less that, r^2 / (1 - r^2)",
    1e-6,
)
def _asymmetry() -> Any:
    module = study("kl_bounds")
    pairs = module.Pairs(vr.load_study("kl_bounds").target())
    q = module.Normal(pairs.p.mean, np.diag(np.diagonal(pairs.p.covariance) * (1 - 0.64)))
    found = pairs.measure(q)
    kl, odds = -0.5 * np.log(0.36), 0.64 / 0.36
    return (kl, odds - kl, odds), (found.kl_qp, found.kl_pq, found.chi2_qp)


@item(
    "Renyi's bound without a finite value: a log-gamma density, any normal, alpha = 2",
    '`svi` with `objective="renyi"`',
    "the mean of (p / q)^-1 under q is infinite",
)
def _no_value() -> Any:
    method = vr.SVI(objective="renyi", alpha=2.0, num_particles=20, num_steps=3_000)
    return vr.Status.UNCONVERGED.name, method.fit(log_gamma(), key=0).status.name


# -- evidence and posteriors by integration --------------------------------------------------------

SCHOOLS = np.array([28, 8, -3, 7, -1, 1, 18, 12.0]), np.array([15, 10, 16, 11, 9, 11, 10, 18.0])


@cache
def schools() -> tuple[float, float, float]:
    """Return log p(y) of eight schools, and mean and sd of tau, mu integrated out exactly."""
    y, sigma = SCHOOLS

    def log_density(tau: float) -> float:
        v = sigma**2 + tau**2
        Sigma = np.diag(v) + 25.0  # mu ~ Normal(0, 5)
        prior = np.log(2 / (np.pi * 5 * (1 + (tau / 5) ** 2)))
        return float(stats.multivariate_normal.logpdf(y, np.zeros(8), Sigma) + prior)

    top = log_density(3.0)

    def moment(k: int) -> float:
        def f(tau: float) -> float:
            return tau**k * float(np.exp(log_density(tau) - top))

        edges = (0, 5, 20, 100, 1_000, 1e5)
        pieces = pairwise(edges)
        return float(sum(integrate.quad(f, a, b, epsabs=1e-13)[0] for a, b in pieces))

    z, first, second = (moment(k) for k in range(3))
    return top + np.log(z), first / z, (second / z - (first / z) ** 2) ** 0.5


@item(
    "log p(y) of a hierarchy",
    "`eight_schools`, `vr.quadrature`",
    "mu and theta integrated exactly, tau by SciPy's quad",
    1e-4,
)
def _evidence() -> Any:
    return schools()[0], vr.quadrature(target("eight_schools")).value


@item(
    "its posterior by Markov chains: mean and sd of tau",
    "`eight_schools`, `nuts`",
    "as above",
    0.05,
)
def _chains() -> Any:
    nuts = vr.NUTS(num_warmup=1_000, num_samples=5_000, target_accept_prob=0.99)
    fit = nuts.fit(target("eight_schools"))
    return schools()[1:], numbers(fit, "tau")


@item(
    "a Monte Carlo ELBO: log p(y) less KL for a conjugate normal",
    "`svi`",
    "closed form; its family holds the posterior, so that KL is 0",
    0.01,
)
def _conjugate() -> Any:
    y = np.random.default_rng(1).normal(0.5, 1.0, 20)

    def model(y: Any) -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    Sigma = np.eye(20) + 4.0
    precision = 20 + 0.25
    log_p = stats.multivariate_normal.logpdf(y, np.zeros(20), Sigma)
    fit = vr.SVI().fit(vr.Target(model, y=y), throw=True)
    assert fit.log_evidence is not None
    expected = (y.sum() / precision, precision**-0.5, log_p)
    return expected, (*numbers(fit, "mu"), fit.log_evidence.value)


# -- the page ------------------------------------------------------------------------------------


def agree(row: Item) -> bool:
    """Return whether ours is the independent value, within the row's tolerance."""
    expected, ours = row.expected(), row.ours()
    if isinstance(expected, str):
        return bool(expected == ours)
    a, b = (np.ravel(np.asarray(value, float)) for value in (expected, ours))
    if a.shape != b.shape:
        return False
    return bool((np.abs(a - b) <= row.tolerance * np.maximum(1, np.abs(a))).all())


def words(value: Any) -> str:
    """Return numbers in eight digits, or words."""
    if isinstance(value, str):
        return value
    return ", ".join(f"{x:.8g}" for x in np.ravel(np.asarray(value, float)))


def escaped(text: str) -> str:
    """Return text whose bars end no cell."""
    return text.replace("|", "\\|")


def page() -> str:
    """Return the table."""
    rows = [
        f"| {escaped(r.name)} | {r.where} | {words(r.expected())} | {escaped(r.how)} "
        f"| {words(r.ours())} | {r.tolerance:g} |"
        for r in ITEMS
    ]
    return HEAD + "\n".join(rows) + "\n"


def main() -> int:
    """Write the page, or only check."""
    wrong = [row for row in ITEMS if not agree(row)]
    for row in wrong:
        print(f"{row.name}: got {words(row.ours())}, expected {words(row.expected())}")
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page(), encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
