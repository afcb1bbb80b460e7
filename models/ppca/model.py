"""Probabilistic principal components: factor analysis with one noise variance for all columns.

The loadings W are lower triangular with a positive diagonal in their first rows, which leaves out
the rotations that the likelihood cannot tell apart. With s^2 the mean of the variances of the
columns,

    mu_d ~ Normal(mean of column d, 10 s)
    W_dj ~ Normal(0, s) below the diagonal, W_jj / s ~ chi with k - j + 1 degrees of freedom
    sigma ~ HalfNormal(s)

for components j = 1, ..., k. With these degrees of freedom W W' has the distribution that it has if
all elements of W are independent normals, so that the order of the columns does not matter (Leung
and Drton 2016), and neither do units, as long as the columns share them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions.transforms import PowerTransform

import vi_recipes as vr

COLLAPSED = 1e-8
"""Noise of less than this share of the variance is none."""


def sample_theta(y: jax.Array, num_components: int) -> tuple[Any, Any, Any]:
    """Sample mu, W and sigma from the prior, and derive the covariance they imply."""
    D, k = y.shape[1], num_components
    if not 1 <= k < D:
        raise ValueError(
            f"num_components={k}: y has {D} column(s), so expected 1 to {D - 1}"
            if D > 1
            else f"y has {D} column; principal components need two or more"
        )
    s = jnp.sqrt(y.var(axis=0).mean())
    mu = numpyro.sample("mu", dist.Normal(y.mean(axis=0), 10 * s).to_event(1))
    square = dist.Gamma((k - jnp.arange(k)) / 2, 0.5 / jnp.square(s))
    chi = dist.TransformedDistribution(square, PowerTransform(0.5)).to_event(1)
    W_diag = numpyro.sample("W_diag", chi)
    rows, columns = np.tril_indices(D, -1, k)
    W_lower = numpyro.sample("W_lower", dist.Normal(0.0, s).expand([len(rows)]).to_event(1))
    W = jnp.zeros((D, k), W_diag.dtype)
    W = W.at[np.arange(k), np.arange(k)].set(W_diag).at[rows, columns].set(W_lower)
    numpyro.deterministic("W", W)
    sigma = numpyro.sample("sigma", dist.HalfNormal(s))
    numpyro.deterministic("Sigma", W @ W.T + jnp.square(sigma) * jnp.eye(D))
    return mu, W, sigma


def ppca(y: jax.Array, num_components: int = 2) -> None:
    """Measurements of each individual, given its scores ``z`` on the components.

    Parameters
    ----------
    y
        Measurements, individuals by variables in the same units.
    num_components
        Number of components, less than there are variables.
    """
    mu, W, sigma = sample_theta(y, num_components)
    with numpyro.plate("observation", len(y)):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([num_components]).to_event(1))
        numpyro.sample("y", dist.Normal(mu + z @ W.T, sigma).to_event(1), obs=y)


def marginal(y: jax.Array, num_components: int = 2) -> None:
    """Measurements of each individual, its scores integrated out.

    Parameters
    ----------
    y, num_components
        As for :func:`ppca`.
    """
    mu, W, sigma = sample_theta(y, num_components)
    noise = jnp.full(y.shape[1], jnp.square(sigma))
    with numpyro.plate("observation", len(y)):
        numpyro.sample("y", dist.LowRankMultivariateNormal(mu, W, noise), obs=y)


def simulate(
    seed: int = 0, num_rows: int = 150, num_components: int = 2, sigma: float = 0.2
) -> dict[str, Any]:
    """Draw measurements of four variables with one strong component and weaker ones.

    Parameters
    ----------
    seed
        Seed of NumPy's generator.
    num_rows
        Number of individuals.
    num_components
        1 to 3.
    sigma
        Sd of the noise.

    Returns
    -------
    dict
        Arguments of :func:`ppca`.
    """
    if num_components not in (1, 2, 3):
        raise ValueError(f"num_components={num_components}: this design has 1 to 3")
    W = np.array([[0.8, 0.0, 0.0], [-0.2, 0.4, 0.0], [1.7, -0.1, 0.3], [0.7, 0.1, -0.2]])
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((num_rows, num_components))
    return {"y": z @ W[:, :num_components].T + sigma * rng.standard_normal((num_rows, len(W)))}


def load(path: Path | str) -> dict[str, Any]:
    """Read a CSV whose numeric columns are the variables.

    Parameters
    ----------
    path
        The file, one row per individual.

    Returns
    -------
    dict
        Arguments of :func:`ppca`.
    """
    return {"y": vr.read_numeric(path, "each is a variable", fewest=2).to_numpy()}


def data() -> dict[str, Any]:
    """Return four measurements of 150 irises, in centimetres."""
    return load(Path(__file__).with_name("data.csv"))


def mle(y: np.ndarray, num_components: int = 2) -> dict[str, np.ndarray]:
    """Return the maximum of the likelihood, which Tipping and Bishop give in closed form.

    Parameters
    ----------
    y
        Measurements, individuals by variables.
    num_components
        Number of components.

    Returns
    -------
    dict
        ``mu``, ``W_diag``, ``W_lower`` and ``sigma``, W being rotated to be lower triangular.
    """
    k = num_components
    covariance = np.cov(y, rowvar=False, ddof=0)
    variances, directions = np.linalg.eigh(covariance)
    noise = variances[:-k].mean()
    W = directions[:, -k:] * np.sqrt(variances[-k:] - noise)
    W = W @ np.linalg.qr(W[:k].T)[0]
    W = W * np.sign(np.diagonal(W))
    return {
        "mu": y.mean(axis=0),
        "W_diag": np.diagonal(W).copy(),
        "W_lower": W[np.tril_indices(len(W), -1, k)],
        "sigma": np.sqrt(noise),
    }


def init(key: jax.Array, y: jax.Array, num_components: int, *, scores: bool) -> dict[str, Any]:
    """Start from the maximum of the likelihood, the scores from their mean given it."""
    y, k = np.asarray(y, float), num_components
    values: dict[str, Any] = mle(y, k)
    if not scores:
        return values
    W = np.zeros((y.shape[1], k))
    W[np.arange(k), np.arange(k)] = values["W_diag"]
    W[np.tril_indices(len(W), -1, k)] = values["W_lower"]
    precision = W.T @ W + values["sigma"] ** 2 * np.eye(k)
    return values | {"z": np.linalg.solve(precision, W.T @ (y - values["mu"]).T).T}


# -- Tipping and Bishop's EM: theta is mu, W, not yet rotated, and sigma ---------------------------


def factors_of(theta: dict[str, Any]) -> vr.LinearFactors:
    """Return the linear factors whose noise has one variance."""
    W = theta["W"]
    return vr.LinearFactors(W, jnp.full(len(W), jnp.square(theta["sigma"])))


def e_step(
    theta: dict[str, Any], num_rows: jax.Array, mean: jax.Array, covariance: jax.Array
) -> tuple[Any, jax.Array]:
    """Return the expected moments of the scores, and the log-likelihood."""
    return factors_of(theta).e_step(num_rows, covariance)


def m_step(
    stats: Any, objective: str, num_rows: jax.Array, mean: jax.Array, covariance: jax.Array
) -> dict[str, Any]:
    """Return the maximiser of the expected complete-data log-likelihood."""
    factors = vr.LinearFactors.m_step(stats, covariance)
    return {"mu": mean, "W": factors.W, "sigma": jnp.sqrt(factors.psi.mean())}


def start(key: jax.Array, y: jax.Array, num_components: int) -> dict[str, Any]:
    """Start from random loadings that leave half of the variance to the noise."""
    y = np.asarray(y, float)
    if len(y) < 2 or (np.ptp(y, axis=0) == 0).all():
        raise ValueError(
            f"y has {len(y)} row(s): principal components need two rows or more that differ"
        )
    s = np.sqrt(y.var(axis=0).mean())
    W = np.asarray(jax.random.normal(key, (y.shape[1], num_components)))
    W = s * W / np.sqrt(2 * np.square(W).sum(axis=1))[:, None]
    return {"mu": y.mean(axis=0), "W": W, "sigma": s / 2**0.5}


def collapse(
    theta: dict[str, Any], num_rows: jax.Array, mean: jax.Array, covariance: jax.Array
) -> dict[str, tuple[jax.Array, float]]:
    """Return what goes to zero where the components explain everything: the noise's share."""
    return {"sigma": (jnp.square(theta["sigma"]) / jnp.diagonal(covariance).mean(), COLLAPSED)}


def complete(theta: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Return the values of the model's sites, W rotated to be lower triangular."""
    factors = factors_of(theta).lower_triangular()
    W = factors.W
    return theta | {
        "W": W,
        "W_diag": jnp.diagonal(W),
        "W_lower": W[np.tril_indices(len(W), -1, W.shape[1])],
        "Sigma": factors.covariance(),
    }


def coords(y: jax.Array, num_components: int, **_: Any) -> dict[str, list[Any]]:
    """Label the variables, by name for the shipped data, else by number."""
    import pandas as pd

    shipped = pd.read_csv(Path(__file__).with_name("data.csv"))
    D = y.shape[1]
    known = np.array_equal(np.asarray(y), shipped.to_numpy())
    variables: list[Any] = list(shipped.columns) if known else list(range(D))
    below = zip(*np.tril_indices(D, -1, num_components), strict=True)
    return {
        "variable": variables,
        "variable_bis": variables,
        "component": list(range(num_components)),
        "loading": [f"{variables[row]}.{column}" for row, column in below],
    }


def build(num_components: int = 2) -> vr.Model:
    """Build the model with ``num_components`` components.

    Parameters
    ----------
    num_components
        Number of components, less than there are variables.

    Returns
    -------
    vi_recipes.Model
        The choice stays an argument of the model, with the value given here as default.
    """
    return vr.Model(
        function=partial(ppca, num_components=num_components),
        name="ppca",
        data=data,
        load=load,
        simulate=simulate,
        parameters=("mu", "W_diag", "W_lower", "sigma"),
        latents=("z",),
        dims={
            "mu": ("variable",),
            "W_diag": ("component",),
            "W_lower": ("loading",),
            "W": ("variable", "component"),
            "Sigma": ("variable", "variable_bis"),
            "z": ("observation", "component"),
            "y": ("observation", "variable"),
        },
        coords=partial(coords, num_components=num_components),
        init=partial(init, num_components=num_components, scores=True),
        em=vr.EMSteps(
            start=partial(start, num_components=num_components),
            summary=vr.LinearFactors.summary,
            e_step=e_step,
            m_step=m_step,
            collapse=collapse,
            complete=complete,
        ),
        description=f"Probabilistic principal components of irises, {num_components} of them.",
        citation=(
            "Tipping and Bishop (1999), Probabilistic principal component analysis, Journal of the "
            "Royal Statistical Society B 61(3), 611-622, doi:10.1111/1467-9868.00196; prior: Leung "
            "and Drton (2016), Order-invariant prior specification in Bayesian factor analysis, "
            "Statistics and Probability Letters 111, 60-66, doi:10.1016/j.spl.2016.01.006"
        ),
    )


def without_scores(model: vr.Model) -> vr.Model:
    """Return the model with its scores integrated out."""
    function = model.function
    assert isinstance(function, partial)
    return replace(
        model,
        function=partial(marginal, **function.keywords),
        latents=(),
        init=partial(init, **function.keywords, scores=False),
        dims={name: dims for name, dims in model.dims.items() if name != "z"},
    )


MODEL = build()
MARGINAL = without_scores(MODEL)
