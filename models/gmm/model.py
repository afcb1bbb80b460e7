"""Normal mixture with full, tied, diagonal or spherical covariances, labels summed out.

One conjugate prior serves every method. With ``m0`` and ``S`` the mean and covariance of the data,

    pi ~ Dirichlet(2, ..., 2),
    Sigma_k ~ InverseWishart(D + 2, S / K^(2/D)),
    mu_k | Sigma_k ~ Normal(m0, Sigma_k / 0.01),

which is weak: each component is given the weight of a hundredth of an observation for its mean and
of a few for its covariance, whose expectation makes K equal components fill the data's volume
(Fraley and Raftery 2007). Two pseudo-counts put the mode of pi inside the simplex. Under "diagonal"
and "spherical" the variances have the inverse gamma distribution that the inverse Wishart gives
each of its variances, with the mean of the data's variances under "spherical". The prior needs more
rows than dimensions and no collinear columns.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import digamma, multigammaln
from numpyro.distributions import kl_divergence
from numpyro.infer.util import log_density
from scipy.stats import invwishart

import vi_recipes as vr

COVARIANCES = ("full", "tied", "diagonal", "spherical")
CONCENTRATION = 2.0
KAPPA = 0.01
COLLAPSED = 1e-6
"""A component's smallest variance below this share of the data's has collapsed."""

Theta = dict[str, Any]


class Prior(NamedTuple):
    """Hyperparameters of the conjugate prior."""

    mean: jax.Array
    df: int
    scale: jax.Array


class Stats(NamedTuple):
    """Expected sufficient statistics of the components, of rows less the mean of all rows."""

    counts: jax.Array  # (K,)
    totals: jax.Array  # (K, D)
    products: jax.Array  # (K, D, D)


def prior(y: jax.Array, num_components: int) -> Prior:
    """Return weakly informative hyperparameters taken from the data."""
    num_dims = y.shape[1]
    covariance = jnp.cov(y, rowvar=False).reshape(num_dims, num_dims)
    return Prior(
        mean=y.mean(axis=0),
        df=num_dims + 2,
        scale=covariance / num_components ** (2 / num_dims),
    )


def inverse_gamma(hyper: Prior, covariance: str) -> tuple[float, jax.Array]:
    """Return the shape and the rates of the variances under "diagonal" and "spherical"."""
    variances = jnp.diagonal(hyper.scale)
    rate = variances.mean() if covariance == "spherical" else variances
    return (hyper.df - len(variances) + 1) / 2, rate / 2


def sample_theta(y: jax.Array, num_components: int, covariance: str) -> Theta:
    """Sample pi, mu and Sigma, or the variances that make Sigma, from the prior."""
    hyper = prior(y, num_components)
    K, D = num_components, y.shape[1]
    theta = {"pi": numpyro.sample("pi", dist.Dirichlet(jnp.full(K, CONCENTRATION)))}
    if covariance == "tied":
        theta["Sigma"] = numpyro.sample("Sigma", dist.InverseWishart(hyper.df, hyper.scale))
    elif covariance == "full":
        wishart = dist.InverseWishart(hyper.df, hyper.scale)
        theta["Sigma"] = numpyro.sample("Sigma", wishart.expand([K]).to_event(1))
    else:
        shape = (K, D) if covariance == "diagonal" else (K,)
        gamma = dist.InverseGamma(*inverse_gamma(hyper, covariance)).expand(shape)
        theta["variance"] = numpyro.sample("variance", gamma.to_event(len(shape)))
    scale_tril = jnp.linalg.cholesky(covariances(theta, D))
    scale_tril = jnp.broadcast_to(scale_tril, (K, D, D))
    mean = dist.MultivariateNormal(hyper.mean, scale_tril=scale_tril / KAPPA**0.5)
    theta["mu"] = numpyro.sample("mu", mean.to_event(1))
    return theta


def covariances(theta: Theta, num_dims: int) -> jax.Array:
    """Return Sigma, ``(K, D, D)``, or ``(D, D)`` where it is tied."""
    if "Sigma" in theta:
        return theta["Sigma"]
    variance = theta["variance"]
    variance = variance[:, None] if variance.ndim == 1 else variance
    return variance[..., None] * jnp.eye(num_dims)


def mixture(y: jax.Array, num_components: int = 2, covariance: str = "full") -> None:
    """Observations from one of several multivariate normals, which one being summed out.

    Parameters
    ----------
    y
        Observations, rows by dimensions.
    num_components
        Number of components, K.
    covariance
        "full": a covariance matrix per component; "tied": one for all; "diagonal": a variance per
        component and dimension; "spherical": a variance per component.
    """
    theta, scale_tril = sample_components(y, num_components, covariance)
    components = dist.MultivariateNormal(theta["mu"], scale_tril=scale_tril)
    with numpyro.plate("observation", len(y)):
        labels = dist.Categorical(probs=theta["pi"])
        numpyro.sample("y", dist.MixtureSameFamily(labels, components), obs=y)


def labelled(y: jax.Array, num_components: int = 2, covariance: str = "full") -> None:
    """Observations from one of several multivariate normals, given ``z``, which one it is.

    Parameters
    ----------
    y, num_components, covariance
        As for :func:`mixture`.
    """
    theta, scale_tril = sample_components(y, num_components, covariance)
    with numpyro.plate("observation", len(y)):
        z = numpyro.sample("z", dist.Categorical(probs=theta["pi"]))
        own = scale_tril if covariance == "tied" else scale_tril[z]
        numpyro.sample("y", dist.MultivariateNormal(theta["mu"][z], scale_tril=own), obs=y)


def sample_components(y: jax.Array, num_components: int, covariance: str) -> tuple[Theta, Any]:
    """Sample the parameters and derive Sigma where they are variances; return its root too."""
    check(covariance)
    check_rows(y, covariance)
    theta = sample_theta(y, num_components, covariance)
    Sigma = covariances(theta, y.shape[1])
    if "Sigma" not in theta:
        numpyro.deterministic("Sigma", Sigma)
    return theta, jnp.linalg.cholesky(Sigma)


def check(covariance: str) -> None:
    """Refuse an unknown kind of covariance."""
    if covariance not in COVARIANCES:
        raise ValueError(f"covariance={covariance!r}: choose one of {', '.join(COVARIANCES)}")


def check_rows(y: Any, covariance: str) -> None:
    """Refuse rows that the prior, and the likelihood, have no covariance for."""
    if isinstance(y, jax.core.Tracer):  # checked when the model was given its data
        return
    y = np.asarray(y, dtype=float)
    constant = np.flatnonzero(np.ptp(y, axis=0) == 0)
    if len(constant):
        raise ValueError(
            f"column(s) {', '.join(map(str, constant))} of y hold one value only: no component has "
            "a density there; drop them"
        )
    D = y.shape[1]
    rank = np.linalg.matrix_rank(np.corrcoef(y, rowvar=False)) if D > 1 else 1
    if covariance in ("full", "tied") and rank < D:
        raise ValueError(
            f"the {D} columns of y, in {len(y)} rows, are collinear (rank {rank}): drop columns, "
            "or choose covariance='diagonal' or 'spherical'"
        )


def e_step(
    theta: Theta, y: jax.Array, num_components: int, covariance: str
) -> tuple[Stats, jax.Array]:
    """Return the expected sufficient statistics and the log-likelihood at theta.

    The data are standardised first, so that no digits are lost to a large mean or to large units.
    The largest arrays are N x K and N x (D + 1) (D + 2) / 2.
    """
    return responsible(*densities(theta, y.shape[1], num_components), y)


def partial_e_step(
    theta: Theta,
    rows: jax.Array,
    weights: jax.Array,
    y: jax.Array,
    num_components: int,
    covariance: str,
) -> tuple[Stats, jax.Array]:
    """Return what :func:`e_step` does for some of the rows, each taken ``weights`` times."""
    return responsible(*densities(theta, y.shape[1], num_components), y, rows, weights)


def densities(
    theta: Theta, num_dims: int, num_components: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return by component log pi with the normal's constant, (K,), mu and the root of Sigma."""
    scale_tril = jnp.linalg.cholesky(covariances(theta, num_dims))
    scale_tril = jnp.broadcast_to(scale_tril, (num_components, num_dims, num_dims))
    log_det = jnp.log(jnp.diagonal(scale_tril, axis1=-2, axis2=-1)).sum(axis=-1)
    constant = jnp.log(theta["pi"]) - log_det - 0.5 * num_dims * jnp.log(2 * jnp.pi)
    return constant, theta["mu"], scale_tril


def expected(
    theta: Theta, stats: Stats, y: jax.Array, num_components: int, covariance: str
) -> jax.Array:
    """Return the expected log density of the rows and their labels at theta."""
    constant, mu, scale_tril = densities(theta, y.shape[1], num_components)
    mu = mu - y.mean(axis=0)
    cross = mu[:, :, None] * stats.totals[:, None, :]
    outer = mu[:, :, None] * mu[:, None, :] * stats.counts[:, None, None]
    scatter = stats.products - cross - jnp.swapaxes(cross, 1, 2) + outer
    half = solve_triangular(scale_tril, scatter, lower=True)
    whitened = solve_triangular(scale_tril, jnp.swapaxes(half, 1, 2), lower=True)
    return stats.counts @ constant - 0.5 * jnp.trace(whitened, axis1=1, axis2=2).sum()


def responsible(
    constant: jax.Array,
    mu: jax.Array,
    scale_tril: jax.Array,
    y: jax.Array,
    rows: Any = slice(None),
    weights: jax.Array | None = None,
) -> tuple[Stats, jax.Array]:
    """Share the rows out to components, by a constant less half the squared distance to each.

    Return the sufficient statistics and the sum of the logarithms of what is shared out, of all
    rows or of some, each taken ``weights`` times.
    """
    D = y.shape[1]
    center, unit = y.mean(axis=0), y.std(axis=0)
    features = quadratic_features((y[rows] - center) / unit)
    # in these units: x' P x - 2 x' P m + m' P m is one product of the features and of coefficients
    identity = jnp.broadcast_to(jnp.eye(D, dtype=scale_tril.dtype), scale_tril.shape)
    whiten = solve_triangular(scale_tril, identity, lower=True) * unit
    precision = jnp.einsum("kij,kil->kjl", whiten, whiten)
    m = (mu - center) / unit
    along = jnp.einsum("kij,kj->ki", precision, m)
    upper, columns = np.triu_indices(D)
    squares = precision[:, upper, columns] * np.where(upper == columns, -0.5, -1.0)
    constant = constant - 0.5 * (along * m).sum(axis=1)
    coefficients = jnp.concatenate([constant[:, None], along, squares], axis=1)
    log_joint = features @ coefficients.T
    log_marginal = jax.nn.logsumexp(log_joint, axis=1)
    responsibility = jnp.exp(log_joint - log_marginal[:, None])
    if weights is not None:
        responsibility, log_marginal = weights[:, None] * responsibility, weights * log_marginal
    return statistics(responsibility, features, unit), log_marginal.sum()


def quadratic_features(x: jax.Array) -> jax.Array:
    """Return 1, x and the distinct elements of x x' for every row."""
    rows, columns = np.triu_indices(x.shape[1])
    ones = jnp.ones((len(x), 1), x.dtype)
    return jnp.concatenate([ones, x, x[:, rows] * x[:, columns]], axis=1)


def statistics(responsibility: jax.Array, features: jax.Array, unit: jax.Array) -> Stats:
    """Return the sufficient statistics of the rows with these features, in the data's units."""
    D = len(unit)
    sums = responsibility.T @ features
    rows, columns = np.triu_indices(D)
    products = jnp.zeros((len(sums), D, D), sums.dtype)
    products = products.at[:, rows, columns].set(sums[:, D + 1 :])
    products = products.at[:, columns, rows].set(sums[:, D + 1 :])
    return Stats(
        counts=sums[:, 0],
        totals=sums[:, 1 : D + 1] * unit,
        products=products * jnp.outer(unit, unit),
    )


def moments(responsibility: jax.Array, y: jax.Array) -> Stats:
    """Return the sufficient statistics of the rows of y under the responsibilities, (N, K)."""
    center, unit = y.mean(axis=0), y.std(axis=0)
    return statistics(responsibility, quadratic_features((y - center) / unit), unit)


def m_step(
    stats: Stats, objective: str, y: jax.Array, num_components: int, covariance: str
) -> Theta:
    """Maximise the expected complete-data log-likelihood, plus the log prior for "map".

    The prior of mu, being relative to Sigma, acts as ``kappa`` rows at ``m0`` in each component and
    adds one row (its own log determinant) to the count that divides the scatter.
    """
    if objective not in ("mle", "map"):
        raise ValueError(f"objective={objective!r}: choose 'mle' or 'map'")
    is_map = objective == "map"
    K, D = num_components, y.shape[1]
    hyper = prior(y, K)
    kappa = KAPPA if is_map else 0.0
    pseudo_count = CONCENTRATION - 1.0 if is_map else 0.0

    # An empty component keeps finite values, for `collapse` to report rather than NaN.
    count = jnp.maximum(stats.counts, jnp.finfo(stats.counts.dtype).tiny)
    pi = (count + pseudo_count) / (count + pseudo_count).sum()
    # The prior mean is where the data are centred, so in these coordinates it is zero.
    mean = stats.totals / (count + kappa)[:, None]
    scatter = stats.products - mean[:, :, None] * stats.totals[:, None, :]

    theta: Theta = {"pi": pi, "mu": hyper.mean + mean}
    if covariance in ("full", "tied"):
        scale = hyper.scale if is_map else 0.0
        extra = hyper.df + D + 1 if is_map else 0.0
        if covariance == "tied":
            Sigma = (scale + scatter.sum(axis=0)) / (count.sum() + extra + is_map * K)
        else:
            Sigma = (scale + scatter) / (count + extra + is_map)[:, None, None]
        theta["Sigma"] = (Sigma + jnp.swapaxes(Sigma, -1, -2)) / 2
    else:
        shape, prior_rate = inverse_gamma(hyper, covariance)
        extra = 2 * shape + 2 if is_map else 0.0
        rate = prior_rate if is_map else 0.0
        squares = jnp.diagonal(scatter, axis1=1, axis2=2)
        if covariance == "diagonal":
            theta["variance"] = (2 * rate + squares) / (count + extra + is_map)[:, None]
        else:
            theta["variance"] = (2 * rate + squares.sum(axis=1)) / (D * (count + is_map) + extra)
    return theta


def log_prior(theta: Theta, y: jax.Array, num_components: int, covariance: str) -> jax.Array:
    """Return log p(pi, mu, Sigma), read off the NumPyro prior itself."""
    return log_density(sample_theta, (y, num_components, covariance), {}, theta)[0]


def start(key: jax.Array, y: jax.Array, num_components: int, covariance: str) -> Theta:
    """Start from k-means on the standardised columns and one M-step.

    The M-step is that of "map": a cluster of few points would have no covariance without a prior.
    """
    from scipy.cluster.vq import ClusterError, kmeans2

    check(covariance)
    check_rows(y, covariance)
    y = jnp.asarray(y, dtype=float)
    rows = np.asarray(y, dtype=float)
    if (distinct := len(np.unique(rows, axis=0))) < num_components:
        raise ValueError(
            f"num_components={num_components}, but y has only {distinct} distinct row(s); "
            "ask for fewer components"
        )
    rows = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    rng = np.random.default_rng(int(jax.random.randint(key, (), 0, np.iinfo(np.int32).max)))
    for _ in range(20):
        try:
            _, label = kmeans2(rows, num_components, minit="++", missing="raise", rng=rng)
            break
        except ClusterError:  # an empty cluster: seed again
            continue
    else:
        raise ValueError(
            f"k-means finds no {num_components} clusters without an empty one in {len(rows)} rows; "
            "ask for fewer components"
        )
    membership = jnp.asarray(label[:, None] == np.arange(num_components), dtype=y.dtype)
    return m_step(moments(membership, y), "map", y, num_components, covariance)


def collapse(
    theta: Theta, y: jax.Array, num_components: int, covariance: str
) -> dict[str, tuple[jax.Array, float]]:
    """Return what goes to zero when a component collapses on a few points or loses them all.

    These are the smallest eigenvalue of each Sigma_k relative to the data's covariance (or their
    variances, where Sigma_k has variances only), and the expected number of rows in each component.
    """
    D = y.shape[1]
    total = jnp.cov(y, rowvar=False).reshape(D, D)
    if covariance in ("diagonal", "spherical"):  # columns may then be collinear
        total = jnp.diag(jnp.diagonal(total))
    scale_tril = jnp.linalg.cholesky(total)

    def smallest(Sigma: jax.Array) -> jax.Array:
        half = solve_triangular(scale_tril, Sigma, lower=True)
        return jnp.linalg.eigvalsh(solve_triangular(scale_tril, half.T, lower=True))[0]

    Sigma = covariances(theta, D).reshape(-1, D, D)
    return {
        "Sigma": (jax.vmap(smallest)(Sigma), COLLAPSED),
        "pi": (theta["pi"] * len(y), 1.0),
    }


def complete(theta: Theta, y: jax.Array, num_components: int, covariance: str) -> Theta:
    """Add Sigma where the parameters are variances."""
    return {**theta, "Sigma": covariances(theta, y.shape[1])}


# -- coordinate-ascent VB, for full covariances ----------------------------------------------------


class Eta(NamedTuple):
    """Factors: pi ~ Dirichlet(alpha), Sigma_k ~ InverseWishart(df, scale), mu_k given Sigma_k."""

    alpha: jax.Array  # (K,)
    kappa: jax.Array  # (K,): mu_k ~ Normal(mean, Sigma_k / kappa)
    mean: jax.Array  # (K, D)
    df: jax.Array  # (K,)
    scale: jax.Array  # (K, D, D)


def vb_update(stats: Stats, y: jax.Array, num_components: int) -> Eta:
    """Return the factors of theta that are best for the rows as they are shared out."""
    hyper = prior(y, num_components)
    kappa = KAPPA + stats.counts
    # the prior mean is where the data are centred, so in these coordinates it is zero
    mean = stats.totals / kappa[:, None]
    shift = kappa[:, None, None] * mean[:, :, None] * mean[:, None, :]
    scale = hyper.scale + stats.products - shift
    scale = (scale + jnp.swapaxes(scale, -1, -2)) / 2
    return Eta(
        CONCENTRATION + stats.counts, kappa, hyper.mean + mean, hyper.df + stats.counts, scale
    )


def vb_start(key: jax.Array, y: jax.Array, num_components: int, covariance: str) -> Eta:
    """Start where EM starts, from k-means."""
    return vb_first(start(key, y, num_components, covariance), y, num_components, covariance)


@partial(jax.jit, static_argnames=("num_components", "covariance"))
def vb_first(theta: Theta, y: jax.Array, num_components: int, covariance: str) -> Eta:
    """Return the factors that are best for the rows as they are shared out at theta."""
    stats, _ = e_step(theta, y, num_components, covariance)
    return vb_update(stats, y, num_components)


def vb_step(eta: Eta, y: jax.Array, num_components: int, covariance: str) -> tuple[Eta, jax.Array]:
    """Update q(z), then q(theta); the ELBO is that between the two."""
    K, D = num_components, y.shape[1]
    scale_tril = jnp.linalg.cholesky(eta.scale)
    log_det = 2 * jnp.log(jnp.diagonal(scale_tril, axis1=-2, axis2=-1)).sum(axis=-1)
    halves = (eta.df[:, None] - jnp.arange(D)) / 2
    log_precision = digamma(halves).sum(axis=1) + D * jnp.log(2.0) - log_det
    constant = (
        digamma(eta.alpha) - digamma(eta.alpha.sum())
        + 0.5 * (log_precision - D * jnp.log(2 * jnp.pi) - D / eta.kappa)
    )  # fmt: skip
    effective = scale_tril / jnp.sqrt(eta.df)[:, None, None]
    stats, total = responsible(constant, eta.mean, effective, y)

    hyper = prior(y, K)
    prior_log_det = jnp.linalg.slogdet(hyper.scale)[1]
    away = solve_triangular(scale_tril, (eta.mean - hyper.mean)[..., None], lower=True)[..., 0]
    root = jnp.linalg.cholesky(hyper.scale)
    ratio = solve_triangular(scale_tril, jnp.broadcast_to(root, scale_tril.shape), lower=True)
    kl_mu = 0.5 * (
        D * (KAPPA / eta.kappa - 1 - jnp.log(KAPPA / eta.kappa))
        + KAPPA * eta.df * jnp.square(away).sum(axis=1)
    )
    kl_sigma = (
        0.5 * (eta.df - hyper.df) * log_precision
        + 0.5 * eta.df * (jnp.square(ratio).sum(axis=(1, 2)) - D)
        - log_wishart(eta.df, log_det, D)
        + log_wishart(jnp.asarray(float(hyper.df)), prior_log_det, D)
    )
    kl_pi = kl_divergence(dist.Dirichlet(eta.alpha), dist.Dirichlet(jnp.full(K, CONCENTRATION)))
    elbo = total - kl_pi - kl_mu.sum() - kl_sigma.sum()
    return vb_update(stats, y, K), elbo


def log_wishart(df: jax.Array, log_det: jax.Array, num_dims: int) -> jax.Array:
    """Return the logarithm of the Wishart's normaliser, given that of its inverse scale."""
    return 0.5 * df * (num_dims * jnp.log(2.0) - log_det) + multigammaln(df / 2, num_dims)


def vb_draws(key: jax.Array, eta: Eta, num_draws: int, **_: Any) -> dict[str, np.ndarray]:
    """Draw pi, mu and Sigma from their factors: by SciPy, which has nothing to compile."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    alpha, kappa, mean, df, scale = map(np.asarray, eta)
    K, D = mean.shape
    Sigma = np.empty((num_draws, K, D, D))
    for k in range(K):
        law = invwishart(df[k], scale[k])
        Sigma[:, k] = law.rvs(num_draws, random_state=rng).reshape(num_draws, D, D)
    scale_tril = np.linalg.cholesky(Sigma) / np.sqrt(kappa)[:, None, None]
    noise = rng.standard_normal((num_draws, K, D, 1))
    return {
        "pi": rng.dirichlet(alpha, num_draws),
        "mu": mean + (scale_tril @ noise)[..., 0],
        "Sigma": Sigma,
    }


def vb_diagnostics(eta: Eta, **_: Any) -> dict[str, float]:
    """Return how many components are in use: the exponential of the entropy of their shares."""
    alpha = np.asarray(eta.alpha)
    share = alpha / alpha.sum()
    return {"effective_components": float(np.exp(-(share * np.log(share)).sum()))}


def load(path: Path | str) -> dict[str, Any]:
    """Read a CSV whose numeric columns are the dimensions of y.

    Parameters
    ----------
    path
        The file, one row per observation.

    Returns
    -------
    dict
        Arguments of :func:`mixture`.
    """
    return {"y": vr.read_numeric(path, "each is a dimension of y").to_numpy()}


def data() -> dict[str, Any]:
    """Return the 272 eruptions of Old Faithful."""
    return load(Path(__file__).with_name("data.csv"))


def coords(y: jax.Array, num_components: int, **_: Any) -> dict[str, list[Any]]:
    """Label the dimensions, by name for the shipped data, else by number."""
    import pandas as pd

    shipped = pd.read_csv(Path(__file__).with_name("data.csv"))
    known = np.array_equal(np.asarray(y), shipped.to_numpy())
    features: list[Any] = list(shipped.columns) if known else list(range(y.shape[1]))
    return {
        "component": list(range(num_components)),
        "feature": features,
        "feature_bis": features,
    }


def gmm(num_components: int = 2, covariance: str = "full", *, labels: bool = False) -> vr.Model:
    """Build the mixture with ``num_components`` components and the kind of covariance given.

    Parameters
    ----------
    num_components
        Number of components.
    covariance
        "full", "tied", "diagonal" or "spherical".
    labels
        Whether the labels are a site ``z`` of their own, which methods sum out by enumeration
        (with the extra ``enumerate``), rather than summed out in the model.

    Returns
    -------
    vi_recipes.Model
        Both choices stay arguments of the model, with the values given here as defaults. Sites and
        labels depend on them (a tied Sigma carries no label, so it is not exchangeable): to change
        them, build the model anew rather than pass other arguments.
    """
    check(covariance)
    choices: dict[str, Any] = {"num_components": num_components, "covariance": covariance}
    exchanged = {"full": ("Sigma",), "tied": ()}.get(covariance, ("variance", "Sigma"))
    matrix = ("feature", "feature_bis")
    dims = {
        "pi": ("component",),
        "mu": ("component", "feature"),
        "Sigma": matrix if covariance == "tied" else ("component", *matrix),
    }
    if covariance in ("diagonal", "spherical"):
        dims["variance"] = dims["mu" if covariance == "diagonal" else "pi"]
    return vr.Model(
        function=partial(labelled if labels else mixture, **choices),
        name="gmm",
        data=data,
        load=load,
        parameters=("pi", "mu", "Sigma" if covariance in ("full", "tied") else "variance"),
        latents=("z",) if labels else (),
        dims=dims,
        coords=partial(coords, num_components=num_components),
        exchangeable=(vr.Exchangeable(sites=dict.fromkeys(("pi", "mu", *exchanged), 0)),),
        em=vr.EMSteps(
            start=partial(start, **choices),
            e_step=partial(e_step, **choices),
            m_step=partial(m_step, **choices),
            log_prior=partial(log_prior, **choices),
            collapse=partial(collapse, **choices),
            complete=partial(complete, **choices),
            partial=vr.PartialEStep(
                num_members=lambda y, **_: len(y),
                e_step=partial(partial_e_step, **choices),
                expected=partial(expected, **choices),
            ),
        ),
        vb=vr.VBSteps(
            start=partial(vb_start, **choices),
            step=partial(vb_step, **choices),
            draws=vb_draws,
            diagnostics=vb_diagnostics,
        )
        if covariance == "full"
        else None,
        init=partial(start, **choices),
        description=f"Mixture of {num_components} normals with {covariance} covariances.",
        citation=(
            "Bishop (2006), Pattern Recognition and Machine Learning, section 10.2; prior: Fraley "
            "and Raftery (2007), Bayesian regularization for normal mixture estimation and "
            "model-based clustering, Journal of Classification 24, 155-181, "
            "doi:10.1007/s00357-007-0004-5"
        ),
    )


MODEL = gmm()
LABELS = gmm(labels=True)
