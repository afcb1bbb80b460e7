"""Factor analysis: correlated measurements explained by a few latent factors.

The loadings W are lower triangular with a positive diagonal in their first rows, which leaves out
the rotations that the likelihood cannot tell apart. With s_d the sd of column d of the data,

    mu_d ~ Normal(mean of column d, 10 s_d)
    W_dj ~ Normal(0, s_d) below the diagonal, W_jj / s_j ~ chi with k - j + 1 degrees of freedom
    psi_d ~ InverseGamma(2, 0.2 s_d^2)

for factors j = 1, ..., k. With these degrees of freedom W W' has the distribution that it has if
all elements of W are independent normals of their row's sd, so that the order of the columns does
not matter (Leung and Drton 2016), and units do not either. The prior of psi goes to zero with psi
(Martin and McDonald 1975): the likelihood may be largest there (a Heywood case), and the joint
density with the scores would have no bound.
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

COLLAPSED = 1e-4
"""A variable that keeps less than this share of its variance as noise is a Heywood case."""


def sample_theta(y: jax.Array, num_factors: int) -> tuple[Any, Any, Any]:
    """Sample mu, W and psi from the prior, and derive the covariance they imply."""
    D, k = y.shape[1], num_factors
    if not 1 <= k < D:
        raise ValueError(
            f"num_factors={k}: y has {D} column(s), so expected 1 to {D - 1}"
            if D > 1
            else f"y has {D} column; factor analysis needs two or more"
        )
    s = y.std(axis=0)
    mu = numpyro.sample("mu", dist.Normal(y.mean(axis=0), 10 * s).to_event(1))
    square = dist.Gamma((k - jnp.arange(k)) / 2, 0.5 / jnp.square(s[:k]))
    chi = dist.TransformedDistribution(square, PowerTransform(0.5)).to_event(1)
    W_diag = numpyro.sample("W_diag", chi)
    rows, columns = np.tril_indices(D, -1, k)
    W_lower = numpyro.sample("W_lower", dist.Normal(0.0, s[rows]).to_event(1))
    W = jnp.zeros((D, k), W_diag.dtype)
    W = W.at[np.arange(k), np.arange(k)].set(W_diag).at[rows, columns].set(W_lower)
    numpyro.deterministic("W", W)
    psi = numpyro.sample("psi", dist.InverseGamma(2.0, 0.2 * jnp.square(s)).to_event(1))
    numpyro.deterministic("Sigma", W @ W.T + jnp.diag(psi))
    return mu, W, psi


def factor_analysis(y: jax.Array, num_factors: int = 2) -> None:
    """Measurements of each individual, given its scores ``z`` on the factors.

    Parameters
    ----------
    y
        Measurements, individuals by variables.
    num_factors
        Number of factors, less than there are variables.
    """
    mu, W, psi = sample_theta(y, num_factors)
    with numpyro.plate("observation", len(y)):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([num_factors]).to_event(1))
        noise = jnp.broadcast_to(jnp.sqrt(psi), y.shape)
        numpyro.sample("y", dist.Normal(mu + z @ W.T, noise).to_event(1), obs=y)


def marginal(y: jax.Array, num_factors: int = 2) -> None:
    """Measurements of each individual, its scores integrated out.

    Parameters
    ----------
    y, num_factors
        As for :func:`factor_analysis`.
    """
    mu, W, psi = sample_theta(y, num_factors)
    with numpyro.plate("observation", len(y)):
        numpyro.sample("y", dist.LowRankMultivariateNormal(mu, W, psi), obs=y)


def simulate(seed: int = 0, num_rows: int = 112, num_factors: int = 2) -> dict[str, Any]:
    """Draw measurements of six variables in two groups of three, one factor to each.

    Parameters
    ----------
    seed
        Seed of NumPy's generator.
    num_rows
        Number of individuals.
    num_factors
        1 leaves the second factor out.

    Returns
    -------
    dict
        Arguments of :func:`factor_analysis`. The loadings on the own factor are 0.9, 0.8 and 0.7,
        on the other one 0, 0.2 and 0.1; the variances are 1.
    """
    if num_factors not in (1, 2):
        raise ValueError(f"num_factors={num_factors}: this design has 1 or 2")
    own, other = np.array([0.9, 0.8, 0.7]), np.array([0.0, 0.2, 0.1])
    W = np.column_stack([np.append(own, other), np.append(other, own)])[:, :num_factors]
    psi = 1 - np.square(W).sum(axis=1)
    rng = np.random.default_rng(seed)
    z = rng.standard_normal((num_rows, num_factors))
    return {"y": z @ W.T + np.sqrt(psi) * rng.standard_normal((num_rows, len(W)))}


def rows_with_covariance(covariance: np.ndarray, num_rows: int, seed: int = 0) -> np.ndarray:
    """Return rows whose mean is zero and whose sample covariance is the one given, exactly.

    A normal likelihood depends on the rows through mean and covariance only.

    Parameters
    ----------
    covariance
        What ``numpy.cov`` of the rows is to be, with n - 1 in the denominator.
    num_rows
        Number of rows, more than there are columns.
    seed
        Seed of NumPy's generator; another one gives other rows with the same covariance.
    """
    draws = np.random.default_rng(seed).standard_normal((num_rows, len(covariance)))
    draws -= draws.mean(axis=0)
    white = draws @ np.linalg.inv(np.linalg.cholesky(np.cov(draws, rowvar=False))).T
    return white @ np.linalg.cholesky(covariance).T


def load(path: Path | str) -> dict[str, Any]:
    """Read a CSV whose numeric columns are the variables.

    Parameters
    ----------
    path
        The file, one row per individual.

    Returns
    -------
    dict
        Arguments of :func:`factor_analysis`.
    """
    frame = vr.read_numeric(path, "each is a variable", fewest=2, varying=True)
    return {"y": frame.to_numpy()}


def ability() -> tuple[np.ndarray, list[str], int]:
    """Return the covariance of six tests of ability, their names and the number of people."""
    import pandas as pd

    frame = pd.read_csv(Path(__file__).with_name("data.csv"), index_col="test")
    names = [str(name) for name in frame.index]
    return frame[names].to_numpy(dtype=float), names, int(frame["num_people"].iloc[0])


def data() -> dict[str, Any]:
    """Return 112 rows that have exactly the covariance of the six tests of ability."""
    covariance, _, num_people = ability()
    return {"y": rows_with_covariance(covariance, num_people)}


def init(key: jax.Array, y: jax.Array, num_factors: int, *, scores: bool) -> dict[str, Any]:
    """Start from the principal components of the correlations."""
    y, k = np.asarray(y, float), num_factors
    s, D = y.std(axis=0), y.shape[1]
    variances, directions = np.linalg.eigh(np.corrcoef(y, rowvar=False))
    W = directions[:, -k:] * np.sqrt(variances[-k:])
    W *= np.sqrt(np.minimum(1.0, 0.9 / np.square(W).sum(axis=1)))[:, None]
    W = W @ np.linalg.qr(W[:k].T)[0]
    W = W * np.where(np.diagonal(W) < 0, -1.0, 1.0)
    psi = 1 - np.square(W).sum(axis=1)
    values = {
        "mu": y.mean(axis=0),
        "W_diag": np.maximum(np.diagonal(W), 0.01) * s[:k],
        "W_lower": (W * s[:, None])[np.tril_indices(D, -1, k)],
        "psi": psi * np.square(s),
    }
    if not scores:
        return values
    white = (y - values["mu"]) / s / psi
    return values | {"z": np.linalg.solve(W.T @ (W / psi[:, None]) + np.eye(k), (white @ W).T).T}


# -- Rubin and Thayer's EM: theta is mu, W, not yet rotated, and psi ------------------------------


def e_step(
    theta: dict[str, Any], num_rows: jax.Array, mean: jax.Array, covariance: jax.Array
) -> tuple[Any, jax.Array]:
    """Return the expected moments of the scores, and the log-likelihood."""
    return vr.LinearFactors(theta["W"], theta["psi"]).e_step(num_rows, covariance)


def m_step(
    stats: Any, objective: str, num_rows: jax.Array, mean: jax.Array, covariance: jax.Array
) -> dict[str, Any]:
    """Return the maximiser of the expected complete-data log-likelihood."""
    factors = vr.LinearFactors.m_step(stats, covariance)
    return {"mu": mean, "W": factors.W, "psi": factors.psi}


def start(key: jax.Array, y: jax.Array, num_factors: int) -> dict[str, Any]:
    """Start from random loadings that leave half of every variance to the noise."""
    y = np.asarray(y, float)
    if len(y) < 2 or (np.ptp(y, axis=0) == 0).any():
        raise ValueError(
            f"y has {len(y)} row(s) and columns of one value: factor analysis needs two rows or "
            "more, and columns that vary"
        )
    s = y.std(axis=0)
    W = np.asarray(jax.random.normal(key, (y.shape[1], num_factors)))
    W = W / np.sqrt(2 * np.square(W).sum(axis=1))[:, None] * s[:, None]
    return {"mu": y.mean(axis=0), "W": W, "psi": np.square(s) / 2}


def collapse(
    theta: dict[str, Any], num_rows: jax.Array, mean: jax.Array, covariance: jax.Array
) -> dict[str, tuple[jax.Array, float]]:
    """Return what goes to zero in a Heywood case: the noise's share of a variable's variance."""
    return {"psi": (theta["psi"] / jnp.diagonal(covariance), COLLAPSED)}


def complete(theta: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Return the values of the model's sites, W rotated to be lower triangular."""
    factors = vr.LinearFactors(theta["W"], theta["psi"]).lower_triangular()
    W = factors.W
    return theta | {
        "W": W,
        "W_diag": jnp.diagonal(W),
        "W_lower": W[np.tril_indices(len(W), -1, W.shape[1])],
        "Sigma": factors.covariance(),
    }


def coords(y: jax.Array, num_factors: int, **_: Any) -> dict[str, list[Any]]:
    """Label the variables, by name for the shipped data, else by number."""
    covariance, names, _ = ability()
    D = y.shape[1]
    known = len(names) == D and np.allclose(np.cov(np.asarray(y), rowvar=False), covariance)
    variables: list[Any] = names if known else list(range(D))
    below = zip(*np.tril_indices(D, -1, num_factors), strict=True)
    return {
        "variable": variables,
        "variable_bis": variables,
        "factor": list(range(num_factors)),
        "loading": [f"{variables[row]}.{column}" for row, column in below],
    }


def build(num_factors: int = 2) -> vr.Model:
    """Build the model with ``num_factors`` factors.

    Parameters
    ----------
    num_factors
        Number of factors, less than there are variables.

    Returns
    -------
    vi_recipes.Model
        The choice stays an argument of the model, with the value given here as default.
    """
    return vr.Model(
        function=partial(factor_analysis, num_factors=num_factors),
        name="factor_analysis",
        data=data,
        load=load,
        simulate=simulate,
        parameters=("mu", "W_diag", "W_lower", "psi"),
        latents=("z",),
        dims={
            "mu": ("variable",),
            "W_diag": ("factor",),
            "W_lower": ("loading",),
            "W": ("variable", "factor"),
            "psi": ("variable",),
            "Sigma": ("variable", "variable_bis"),
            "z": ("observation", "factor"),
            "y": ("observation", "variable"),
        },
        coords=partial(coords, num_factors=num_factors),
        init=partial(init, num_factors=num_factors, scores=True),
        em=vr.EMSteps(
            start=partial(start, num_factors=num_factors),
            summary=vr.LinearFactors.summary,
            e_step=e_step,
            m_step=m_step,
            collapse=collapse,
            complete=complete,
        ),
        description=f"Factor analysis with {num_factors} factors of six tests of ability.",
        citation=(
            "Rubin and Thayer (1982), EM algorithms for ML factor analysis, Psychometrika 47(1), "
            "69-76, doi:10.1007/BF02293851; prior: Leung and Drton (2016), Order-invariant prior "
            "specification in Bayesian factor analysis, Statistics and Probability Letters 111, "
            "60-66, doi:10.1016/j.spl.2016.01.006, and Martin and McDonald (1975), Bayesian "
            "estimation in unrestricted factor analysis: a treatment for Heywood cases, "
            "Psychometrika 40(4), 505-517, doi:10.1007/BF02291552"
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
