"""Mixture of experts: linear regressions, which of them applies depending on the covariates.

With s the sd of the response, K experts and P covariates, the first of which is constant,

    V_p ~ Normal(0, 5) on the K - 1 dimensional space of vectors that sum to zero
    w_kp ~ Normal(0, 10 s),  sigma_k ~ InverseGamma(3, s)

The softmax does not change when a number is added to all of its arguments; that V sums to zero over
the experts takes this freedom away and leaves the experts exchangeable, which they would not be if
one of them had V = 0. The prior of sigma goes to zero with sigma, so that no expert collapses on a
few points.
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

import vi_recipes as vr


def sample_theta(y: jax.Array, X: jax.Array, num_experts: int) -> tuple[Any, Any, Any]:
    """Sample V, w and sigma from the prior."""
    if num_experts < 2:
        raise ValueError(f"num_experts={num_experts}: expected two or more")
    K, P = num_experts, X.shape[1]
    s = y.std()
    gate = dist.ZeroSumNormal(5.0, event_shape=(K,)).expand([P]).to_event(1)
    V = numpyro.sample("V", gate)
    w = numpyro.sample("w", dist.Normal(0.0, 10 * s).expand([K, P]).to_event(2))
    sigma = numpyro.sample("sigma", dist.InverseGamma(3.0, s).expand([K]).to_event(1))
    return V, w, sigma


def mixture_of_experts(y: jax.Array, X: jax.Array, num_experts: int = 2) -> None:
    """Response of each row, given the expert ``z`` that is in charge of it.

    Parameters
    ----------
    y
        The response.
    X
        Covariates, rows by columns, a column of ones among them.
    num_experts
        Number of experts, K.
    """
    V, w, sigma = sample_theta(y, X, num_experts)
    with numpyro.plate("observation", len(y)):
        z = numpyro.sample("z", dist.Categorical(logits=X @ V))
        mean = (w[z] * X).sum(axis=-1)
        numpyro.sample("y", dist.Normal(mean, sigma[z]), obs=y)


def marginal(y: jax.Array, X: jax.Array, num_experts: int = 2) -> None:
    """Response of each row, which expert is in charge being summed out.

    Parameters
    ----------
    y, X, num_experts
        As for :func:`mixture_of_experts`.
    """
    V, w, sigma = sample_theta(y, X, num_experts)
    with numpyro.plate("observation", len(y)):
        experts = dist.Normal(X @ w.T, jnp.broadcast_to(sigma, (len(y), num_experts)))
        gate = dist.Categorical(logits=X @ V)
        numpyro.sample("y", dist.MixtureSameFamily(gate, experts), obs=y)


def simulate(
    seed: int = 0,
    num_rows: int = 200,
    V: tuple[tuple[float, ...], ...] = ((0.0, 0.0), (-1.0, 1.0)),
    w: tuple[tuple[float, ...], ...] = ((1.0, 1.0), (-1.0, -0.5)),
    sigma: tuple[float, ...] = (0.3, 0.5),
) -> dict[str, Any]:
    """Draw rows with one covariate, uniform from -2 to 2, beside the constant.

    Parameters
    ----------
    seed
        Seed of NumPy's generator.
    num_rows
        Number of rows.
    V
        Coefficients of the gate, two covariates by experts.
    w
        Coefficients of the experts, experts by two covariates.
    sigma
        Sd of each expert.

    Returns
    -------
    dict
        Arguments of :func:`mixture_of_experts`.
    """
    rng = np.random.default_rng(seed)
    X = np.column_stack([np.ones(num_rows), rng.uniform(-2, 2, num_rows)])
    gumbel = rng.gumbel(size=(num_rows, len(sigma)))
    z = (X @ np.asarray(V) + gumbel).argmax(axis=1)
    noise = np.asarray(sigma)[z] * rng.standard_normal(num_rows)
    return {"y": (np.asarray(w)[z] * X).sum(axis=1) + noise, "X": X}


def load(path: Path | str) -> dict[str, Any]:
    """Read a CSV with a column y; its other numeric columns are covariates.

    Parameters
    ----------
    path
        The file, one row per observation.

    Returns
    -------
    dict
        Arguments of :func:`mixture_of_experts`, a column of ones put before the covariates.
    """
    frame = vr.read_numeric(path, "the other ones are covariates", needs=("y",))
    covariates = frame.drop(columns="y").to_numpy()
    return {
        "y": frame["y"].to_numpy(),
        "X": np.column_stack([np.ones(len(covariates)), covariates]),
    }


def data() -> dict[str, Any]:
    """Return the 88 runs of an engine on ethanol."""
    return load(Path(__file__).with_name("data.csv"))


def init(key: jax.Array, y: jax.Array, X: jax.Array, num_experts: int) -> dict[str, Any]:
    """Start from one regression, its residuals cut into K slices with a regression for each."""
    y, X = np.asarray(y, float), np.asarray(X, float)
    K = num_experts
    residual = y - X @ np.linalg.lstsq(X, y, rcond=None)[0]
    rank = residual.argsort().argsort()
    slices = [rank * K // len(y) == k for k in range(K)]
    w = np.stack([np.linalg.lstsq(X[rows], y[rows], rcond=None)[0] for rows in slices])
    return {
        "V": np.zeros((X.shape[1], K)),
        "w": w,
        "sigma": np.full(K, residual.std() / K),
    }


def coords(y: jax.Array, X: jax.Array, num_experts: int, **_: Any) -> dict[str, list[Any]]:
    """Label the covariates, by name for the shipped data, else by number."""
    shipped = data()["X"]
    known = np.array_equal(np.asarray(X), shipped)
    return {
        "expert": list(range(num_experts)),
        "covariate": ["intercept", "NOx"] if known else list(range(X.shape[1])),
    }


def build(num_experts: int = 2) -> vr.Model:
    """Build the mixture with ``num_experts`` experts.

    Parameters
    ----------
    num_experts
        Number of experts.

    Returns
    -------
    vi_recipes.Model
        The choice stays an argument of the model, with the value given here as default.
    """
    return vr.Model(
        function=partial(mixture_of_experts, num_experts=num_experts),
        name="mixture_of_experts",
        data=data,
        load=load,
        simulate=simulate,
        parameters=("V", "w", "sigma"),
        latents=("z",),
        dims={
            "V": ("covariate", "expert"),
            "w": ("expert", "covariate"),
            "sigma": ("expert",),
        },
        coords=partial(coords, num_experts=num_experts),
        exchangeable=(vr.Exchangeable(sites={"V": 1, "w": 0, "sigma": 0}),),
        init=partial(init, num_experts=num_experts),
        description=f"Mixture of {num_experts} linear regressions with weights that vary.",
        citation=(
            "Jordan and Jacobs (1994), Hierarchical mixtures of experts and the EM algorithm, "
            "Neural Computation 6(2), 181-214, doi:10.1162/neco.1994.6.2.181; data: Brinkman "
            "(1981), Ethanol fuel: a single-cylinder engine study of efficiency and exhaust "
            "emissions, SAE Transactions 90, 1410-1424"
        ),
    )


def without_labels(model: vr.Model) -> vr.Model:
    """Return the model with the choice of expert summed out in the likelihood."""
    function = model.function
    assert isinstance(function, partial)
    return replace(model, function=partial(marginal, **function.keywords), latents=())


MODEL = build()
MARGINAL = without_labels(MODEL)
