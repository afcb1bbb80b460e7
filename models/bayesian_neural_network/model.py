"""Regression by a neural network with one hidden layer, and normal priors on its weights.

With covariates in units of their sds, y's mean m and sd s, and H hidden units,

    f(x) = b + sum_j v_j tanh(a_j + w_j' x)
    a_j ~ Normal(0, 2), w_jp ~ Normal(0, 2), v_j ~ Normal(0, 2 s / H^(1/2)), b ~ Normal(m, s)
    sigma ~ HalfNormal(s), y_n ~ Normal(f(x_n), sigma)

Units may change places, and each may change its sign, tanh being odd: every posterior mode of the
weights is one of 2^H H!, all alike. They leave f as it is, so f at a few points is reported, and it
is what to compare.
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

NUM_POINTS = 7
"""Points at which f is reported by default."""


def bayesian_neural_network(
    X: jax.Array, y: jax.Array, points: jax.Array, num_hidden: int = 4
) -> None:
    """Observe a smooth function of the covariates, with noise.

    Parameters
    ----------
    X
        Covariates, shape (N, P).
    y
        Response, shape (N,).
    points
        Where the function is reported, in the units of ``X``, shape (M, P).
    num_hidden
        Number H of hidden units.
    """
    check(X, y, points, num_hidden)
    H, s = num_hidden, y.std()
    w = numpyro.sample("w", dist.Normal(0.0, 2.0).expand([X.shape[1], H]).to_event(2))
    a = numpyro.sample("a", dist.Normal(0.0, 2.0).expand([H]).to_event(1))
    # Neal's scale: the prior of f has a limit as H grows
    v = numpyro.sample("v", dist.Normal(0.0, 2.0 * s / H**0.5).expand([H]).to_event(1))
    b = numpyro.sample("b", dist.Normal(y.mean(), s))
    sigma = numpyro.sample("sigma", dist.HalfNormal(s))

    def f(x: jax.Array) -> Any:
        scaled = (x - X.mean(axis=0)) / X.std(axis=0)
        return b + jnp.tanh(a + scaled @ w) @ v

    numpyro.deterministic("f", f(points))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(f(X), sigma), obs=y)


def check(X: jax.Array, y: jax.Array, points: jax.Array, num_hidden: int) -> None:
    """Refuse what is no regression."""
    if X.ndim != 2 or y.shape != X.shape[:1] or points.shape[1:] != X.shape[1:]:
        raise ValueError(
            f"X has shape {X.shape}, y {y.shape} and points {points.shape}; expected (N, P), (N,) "
            "and (M, P)"
        )
    if num_hidden < 1:
        raise ValueError(f"num_hidden={num_hidden}: expected one or more")


def simulate(seed: int = 0, num_rows: int = 60, sigma: float = 0.2) -> dict[str, Any]:
    """Draw points of the curve sin(2 x) on both sides of a gap.

    Parameters
    ----------
    seed
        Seed of NumPy's generator.
    num_rows
        Number of points, half of them in (-2, -0.4) and half in (0.4, 2).
    sigma
        Sd of the noise.

    Returns
    -------
    dict
        Arguments of :func:`bayesian_neural_network`.
    """
    rng = np.random.default_rng(seed)
    x = rng.uniform(0.4, 2.0, num_rows) * np.where(np.arange(num_rows) % 2, 1, -1)
    y = np.sin(2 * x) + sigma * rng.standard_normal(num_rows)
    return {"X": x[:, None], "y": y, "points": np.linspace(-2, 2, NUM_POINTS)[:, None]}


def load(path: Path | str) -> dict[str, Any]:
    """Read a CSV with a column y, whose other numeric columns are the covariates.

    Parameters
    ----------
    path
        The file. The function is reported at rows of it, evenly spaced in the order of y.

    Returns
    -------
    dict
        Arguments of :func:`bayesian_neural_network`.
    """
    use = "the model needs y and a covariate or more"
    frame = vr.read_numeric(path, use, needs=("y",), fewest=2, varying=True)
    X, y = frame.drop(columns="y").to_numpy(), frame["y"].to_numpy()
    rows = np.linspace(0, len(y) - 1, NUM_POINTS).round().astype(int)
    return {"X": X, "y": y, "points": X[np.argsort(y, kind="stable")[rows]]}


def build(num_hidden: int = 4) -> vr.Model:
    """Build the model with ``num_hidden`` hidden units.

    Parameters
    ----------
    num_hidden
        Number of hidden units.

    Returns
    -------
    vi_recipes.Model
        The choice stays an argument of the model, with the value given here as default.
    """
    return vr.Model(
        function=partial(bayesian_neural_network, num_hidden=num_hidden),
        name="bayesian_neural_network",
        data=simulate,
        load=load,
        simulate=simulate,
        parameters=("w", "a", "v", "b", "sigma"),
        dims={
            "w": ("covariate", "hidden"),
            "a": ("hidden",),
            "v": ("hidden",),
            "f": ("point",),
            "y": ("row",),
        },
        coords=partial(coords, num_hidden=num_hidden),
        # independent normals find their own poor optima; the weights' flat directions are slow
        options={"svi": {"guide": "multivariate_normal", "num_steps": 60_000}},
        description=f"Regression by a network of {num_hidden} hidden units: compare its function.",
        citation=(
            "Neal (1996), Bayesian Learning for Neural Networks, Lecture Notes in Statistics 118, "
            "doi:10.1007/978-1-4612-0745-0"
        ),
    )


def coords(X: jax.Array, points: jax.Array, num_hidden: int = 4, **_: Any) -> dict[str, list[int]]:
    """Return numbers from zero."""
    sizes = {"covariate": X.shape[1], "hidden": num_hidden, "point": len(points), "row": len(X)}
    return {name: list(range(size)) for name, size in sizes.items()}


MODEL = build()
