"""Linear mixed model: coefficients that vary from group to group, normally.

With s the sd of the response,

    beta ~ Normal(0, 100 s),  sigma ~ HalfNormal(2 s),  sigma_b ~ HalfNormal(s)
    Omega ~ LKJ(1), uniform over correlation matrices, where the effects may correlate
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist

import vi_recipes as vr

COVARIANCES = ("full", "diagonal")
SLEEPSTUDY = Path(__file__).with_name("data.csv")
DYESTUFF = Path(__file__).with_name("dyestuff.csv")


def linear_mixed(
    y: jax.Array,
    X: jax.Array,
    Z: jax.Array,
    group: jax.Array,
    num_groups: int,
    covariance: str = "full",
) -> None:
    """Response of each row, given the effects ``b`` of its group.

    Parameters
    ----------
    y
        The response.
    X
        Covariates of the coefficients that all groups share, rows by columns.
    Z
        Covariates of the coefficients that vary, rows by columns.
    group
        Group of each row, 0 to ``num_groups - 1``.
    num_groups
        Number of groups.
    covariance
        "full": effects of a group correlate; "diagonal": they do not.
    """
    check(covariance, Z.shape[1])
    s = y.std()
    q = Z.shape[1]
    beta = numpyro.sample("beta", dist.Normal(0.0, 100 * s).expand([X.shape[1]]).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2 * s))
    sigma_b = numpyro.sample("sigma_b", dist.HalfNormal(s).expand([q]).to_event(1))
    if covariance == "full":
        Omega = numpyro.sample("Omega", dist.LKJ(q, 1.0))
        scale_tril = sigma_b[:, None] * jnp.linalg.cholesky(Omega)
        numpyro.deterministic("D", scale_tril @ scale_tril.T)
        effects = dist.MultivariateNormal(jnp.zeros(q), scale_tril=scale_tril)
    else:
        effects = dist.Normal(0.0, sigma_b).to_event(1)
    with numpyro.plate("group", num_groups):
        b = numpyro.sample("b", effects)
    with numpyro.plate("observation", len(y)):
        mean = jnp.matmul(X, beta) + (Z * b[group]).sum(axis=-1)
        numpyro.sample("y", dist.Normal(mean, sigma), obs=y)


def check(covariance: str, num_effects: int = 2) -> None:
    """Refuse an unknown kind of covariance, and correlations of one effect alone."""
    if covariance not in COVARIANCES:
        raise ValueError(f"covariance={covariance!r}: choose one of {', '.join(COVARIANCES)}")
    if covariance == "full" and num_effects < 2:
        raise ValueError(
            "Z has one column, so there is no correlation: choose covariance='diagonal'"
        )


def simulate(
    seed: int = 0,
    num_groups: int = 18,
    num_rows: int = 10,
    beta: tuple[float, ...] = (250.0, 10.0),
    sigma: float = 25.0,
    sigma_b: tuple[float, ...] = (25.0, 6.0),
    correlation: float = 0.0,
) -> dict[str, Any]:
    """Draw groups whose rows are at 0, 1, 2, ..., as the days of sleepstudy are.

    Parameters
    ----------
    seed
        Seed of NumPy's generator.
    num_groups
        Number of groups.
    num_rows
        Number of rows in each.
    beta
        Intercept and slope, or the intercept alone.
    sigma
        Sd of the noise.
    sigma_b
        Sd of the effects, as many as there are coefficients.
    correlation
        Of intercepts with slopes.

    Returns
    -------
    dict
        Arguments of :func:`linear_mixed`.
    """
    if len(beta) != len(sigma_b) or len(beta) not in (1, 2):
        raise ValueError(
            f"beta has {len(beta)} element(s) and sigma_b {len(sigma_b)}; this design has one or "
            "two of each"
        )
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(num_groups), num_rows)
    X = np.column_stack([np.ones(len(group)), np.tile(np.arange(float(num_rows)), num_groups)])
    X = X[:, : len(beta)]
    b = rng.standard_normal((num_groups, len(beta)))
    if len(beta) == 2:
        b[:, 1] = correlation * b[:, 0] + np.sqrt(1 - correlation**2) * b[:, 1]
    b *= sigma_b
    mean = X @ np.asarray(beta) + (X * b[group]).sum(axis=1)
    y = mean + sigma * rng.standard_normal(len(group))
    return {"y": y, "X": X, "Z": X, "group": group, "num_groups": num_groups}


def load(path: Path | str) -> dict[str, Any]:
    """Read a CSV with columns y and group; its other columns are covariates.

    Parameters
    ----------
    path
        The file, one row per observation; groups are names or numbers.

    Returns
    -------
    dict
        Arguments of :func:`linear_mixed`: X and Z are both a column of ones and the covariates, so
        that every coefficient varies from group to group. Groups are numbered in the sorted order
        of their labels.
    """
    import pandas as pd

    frame = vr.read_columns(path, ("y", "group"), model="linear_mixed", rest=True, whole=True)
    for name in frame.columns.drop("group"):
        if not pd.api.types.is_numeric_dtype(frame[name]):
            raise ValueError(f"{path}: column {name} should hold numbers")
    labels, group = np.unique(frame["group"].to_numpy(), return_inverse=True)
    covariates = frame.drop(columns=["y", "group"]).to_numpy(dtype=float)
    X = np.column_stack([np.ones(len(frame)), covariates])
    return {
        "y": frame["y"].to_numpy(dtype=float),
        "X": X,
        "Z": X,
        "group": group,
        "num_groups": len(labels),
    }


def data() -> dict[str, Any]:
    """Return sleepstudy: 180 reaction times of 18 subjects over ten days."""
    return load(SLEEPSTUDY)


def data_dyestuff() -> dict[str, Any]:
    """Return Dyestuff: 30 yields, five of each of six batches."""
    return load(DYESTUFF)


def init(
    key: jax.Array,
    y: jax.Array,
    X: jax.Array,
    Z: jax.Array,
    group: jax.Array,
    num_groups: int,
    **_: Any,
) -> dict[str, Any]:
    """Start from one regression for all groups and a ridge regression of its residuals in each.

    Not from effects of zero, from where climbing the joint density only makes sigma_b collapse.
    """
    y, X, Z = (np.asarray(v, float) for v in (y, X, Z))
    group = np.asarray(group)
    beta = np.linalg.lstsq(X, y, rcond=None)[0]
    residual = y - X @ beta
    sigma = np.sqrt(np.square(residual).mean())
    penalty = np.diag(np.square(Z).mean(axis=0))
    b = np.zeros((num_groups, Z.shape[1]))
    for j in range(num_groups):
        rows = Z[group == j]
        b[j] = np.linalg.solve(rows.T @ rows + penalty, rows.T @ residual[group == j])
    return {
        "beta": beta,
        "sigma": sigma,
        "sigma_b": sigma / np.sqrt(np.diagonal(penalty)),
        "b": b,
    }


def coords(y: jax.Array, X: jax.Array, Z: jax.Array, num_groups: int, **_: Any) -> dict[str, Any]:
    """Label groups and coefficients, by name for the shipped data, else by number.

    Names are text and so no arguments of the model; the shipped data are known by their response.
    """
    import pandas as pd

    for path, names in ((SLEEPSTUDY, ["intercept", "days"]), (DYESTUFF, ["intercept"])):
        frame = pd.read_csv(path)
        if np.array_equal(np.asarray(y), frame["y"].to_numpy(dtype=float)):
            groups: list[Any] = np.unique(frame["group"].to_numpy()).tolist()
            covariates: list[Any] = list(names)
            break
    else:
        groups, covariates = list(range(num_groups)), list(range(X.shape[1]))
    same = X.shape[1] == Z.shape[1] and np.array_equal(np.asarray(X), np.asarray(Z))
    effects = covariates if same else list(range(Z.shape[1]))
    return {
        "group": groups if len(groups) == num_groups else list(range(num_groups)),
        "covariate": covariates if len(covariates) == X.shape[1] else list(range(X.shape[1])),
        "effect": effects,
        "effect_bis": effects,
    }


def build(covariance: str = "full", data: Any = data, about: str = "reaction times") -> vr.Model:
    """Build the model with the kind of covariance given.

    Parameters
    ----------
    covariance
        "full" or "diagonal".
    data
        Function that returns the default data.
    about
        What the default data are.

    Returns
    -------
    vi_recipes.Model
        The choice stays an argument of the model, with the value given here as default. Sites
        depend on it: to change it, build the model anew rather than pass another argument.
    """
    check(covariance)
    correlation = ("Omega",) if covariance == "full" else ()
    matrix = ("effect", "effect_bis")
    return vr.Model(
        function=partial(linear_mixed, covariance=covariance),
        name="linear_mixed",
        data=data,
        load=load,
        simulate=simulate,
        parameters=("beta", "sigma", "sigma_b", *correlation),
        latents=("b",),
        dims={
            "beta": ("covariate",),
            "sigma_b": ("effect",),
            "b": ("group", "effect"),
            **({"Omega": matrix, "D": matrix} if correlation else {}),
        },
        coords=coords,
        init=init,
        description=f"Linear mixed model of {about}, effects with {covariance} covariance.",
        citation=(
            "Laird and Ware (1982), Random-effects models for longitudinal data, Biometrics 38(4), "
            "963-974, doi:10.2307/2529876; data: Bates, Maechler, Bolker and Walker (2015), "
            "Fitting Linear Mixed-Effects Models Using lme4, Journal of Statistical Software "
            "67(1), doi:10.18637/jss.v067.i01"
        ),
    )


MODEL = build()
DIAGONAL = build("diagonal")
DYE = build("diagonal", data_dyestuff, "yields")
