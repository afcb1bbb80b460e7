"""A deep latent Gaussian model: two layers of latent variables, one decoded from the other.

With k_1 and k_2 latent variables per row in the lower and the upper layer, and T = tanh, or the
identity,

    z2_n ~ Normal(0, I)
    z1_n ~ Normal(A' T(z2_n), I)
    y_n  ~ Bernoulli(logit = b + W' T(z1_n))     for binary data, or
    y_n  ~ Normal(b + W' T(z1_n), sigma)         for real ones

The noise of z1 has sd 1, because W has its scale. ``guide`` is the recognition model: q(z1_n | y_n)
and q(z2_n | z1_n), normal with independent coordinates, and points for the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, update_wrapper
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

import vi_recipes as vr

LIKELIHOODS = ("bernoulli", "gaussian")

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {"tanh": jnp.tanh, "identity": lambda z: z}

NUM_ENCODER = 32
"""Hidden units of the recognition model, where T is not the identity."""


def deep_latent_gaussian(
    y: jax.Array,
    num_lower: int = 4,
    num_upper: int = 2,
    activation: str = "tanh",
    likelihood: str = "bernoulli",
) -> None:
    """Decode each row from two layers of latent variables, ``z2`` and ``z1``.

    Parameters
    ----------
    y
        Rows by columns: zeros and ones for ``"bernoulli"``, any numbers for ``"gaussian"``.
    num_lower, num_upper
        Latent variables per row in the lower layer, which the data hang on, and in the upper one.
    activation
        ``"tanh"`` or ``"identity"``.
    likelihood
        ``"bernoulli"`` or ``"gaussian"``.
    """
    check(y, num_lower, num_upper, activation, likelihood)
    D, T, gaussian = y.shape[1], ACTIVATIONS[activation], likelihood == "gaussian"
    s = scale(y, likelihood)
    A = numpyro.sample("A", dist.Normal(0.0, 1.0).expand([num_upper, num_lower]).to_event(2))
    W = numpyro.sample("W", dist.Normal(0.0, s).expand([num_lower, D]).to_event(2))
    centre = y.mean(axis=0) if gaussian else jnp.zeros(D)
    b = numpyro.sample("b", dist.Normal(centre, 10 * s if gaussian else 3.0).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(s)) if gaussian else None
    with numpyro.plate("observation", len(y)):
        z2 = numpyro.sample("z2", dist.Normal(0.0, 1.0).expand([num_upper]).to_event(1))
        z1 = numpyro.sample("z1", dist.Normal(T(z2) @ A, 1.0).to_event(1))
        eta = b + T(z1) @ W
        law = dist.Normal(eta, sigma) if gaussian else dist.Bernoulli(logits=eta)
        numpyro.sample("y", law.to_event(1), obs=y)


def scale(y: jax.Array, likelihood: str) -> Any:
    """Return the prior sd of W: that of the data, or 2 for logits."""
    return jnp.sqrt(y.var(axis=0).mean()) if likelihood == "gaussian" else 2.0


def check(y: jax.Array, num_lower: int, num_upper: int, activation: str, likelihood: str) -> None:
    """Refuse what cannot be decoded."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation={activation!r}: choose one of {', '.join(ACTIVATIONS)}")
    if likelihood not in LIKELIHOODS:
        raise ValueError(f"likelihood={likelihood!r}: choose one of {', '.join(LIKELIHOODS)}")
    if y.ndim != 2:
        raise ValueError(f"y has shape {y.shape}; expected rows by columns")
    if min(num_lower, num_upper) < 1:
        raise ValueError(
            f"num_lower={num_lower}, num_upper={num_upper}: expected one or more in each layer"
        )


def amortised(
    y: jax.Array,
    num_lower: int = 4,
    num_upper: int = 2,
    activation: str = "tanh",
    likelihood: str = "bernoulli",
) -> None:
    """Recognise ``z1`` from each row and ``z2`` from ``z1``; arguments are the model's."""
    D, gaussian = y.shape[1], likelihood == "gaussian"
    s = scale(y, likelihood)
    vr.point_mass("A", vr.random_start((num_upper, num_lower), 0.1))
    vr.point_mass("W", vr.random_start((num_lower, D), 0.1 * s))
    if gaussian:
        centre = y.mean(axis=0)
        vr.point_mass("b", centre)
        vr.point_mass("sigma", s / 2, constraint=constraints.positive)
        inputs = (y - centre) / s
    else:
        vr.point_mass("b", jnp.zeros(D))
        inputs = y - 0.5
    num_hidden = 0 if activation == "identity" else NUM_ENCODER
    with numpyro.plate("observation", len(y)):
        z1 = numpyro.sample("z1", vr.normal_encoder("lower", inputs, num_lower, num_hidden))
        numpyro.sample("z2", vr.normal_encoder("upper", z1, num_upper, num_hidden))


def make_guide(
    num_lower: int = 4,
    num_upper: int = 2,
    activation: str = "tanh",
    likelihood: str = "bernoulli",
) -> Callable[..., None]:
    """Return the amortised guide for a model built with the same choices.

    Parameters
    ----------
    num_lower, num_upper, activation, likelihood
        As for :func:`build`.

    Returns
    -------
    Callable
        ``SVI(guide=make_guide(...))``. Each layer of the recognition model is linear where T is
        the identity, else it has a layer of hidden units.
    """
    choices: dict[str, Any] = {
        "num_lower": num_lower,
        "num_upper": num_upper,
        "activation": activation,
        "likelihood": likelihood,
    }
    # its name is what reports show; a partial can be sent to another process
    return update_wrapper(partial(amortised, **choices), amortised)


guide = make_guide()


def simulate(
    seed: int = 0,
    num_rows: int = 200,
    num_columns: int = 12,
    num_lower: int = 4,
    num_upper: int = 2,
    activation: str = "tanh",
    likelihood: str = "bernoulli",
) -> dict[str, Any]:
    """Draw rows from a model with random weights.

    Parameters
    ----------
    seed
        Seed of NumPy's generator.
    num_rows, num_columns
        Size of the data.
    num_lower, num_upper, activation, likelihood
        As for :func:`deep_latent_gaussian`; the noise of real data has sd 0.3.

    Returns
    -------
    dict
        ``y``.
    """
    rng = np.random.default_rng(seed)
    T: Callable[[Any], np.ndarray] = np.tanh if activation == "tanh" else np.asarray
    z2 = rng.standard_normal((num_rows, num_upper))
    z1 = T(z2) @ rng.normal(0, 2, (num_upper, num_lower))
    z1 += rng.standard_normal(z1.shape)
    eta = T(z1) @ rng.normal(0, 2, (num_lower, num_columns))
    if likelihood == "gaussian":
        return {"y": eta + 0.3 * rng.standard_normal(eta.shape)}
    return {"y": (rng.random(eta.shape) < 1 / (1 + np.exp(-eta))).astype(float)}


def load(path: Path | str, likelihood: str = "bernoulli") -> dict[str, Any]:
    """Read a CSV whose numeric columns are the columns of ``y``.

    Parameters
    ----------
    path
        The file, one row per individual.
    likelihood
        ``"bernoulli"`` wants zeros and ones.

    Returns
    -------
    dict
        ``y``.
    """
    y = vr.read_numeric(path, "each is a column of y").to_numpy()
    if likelihood == "bernoulli" and not np.isin(y, (0, 1)).all():
        raise ValueError(
            f"{path} has values other than 0 and 1: expected zeros and ones for "
            "likelihood='bernoulli'; set a threshold, or use likelihood='gaussian'"
        )
    return {"y": y}


def init(
    key: jax.Array, y: jax.Array, num_lower: int, num_upper: int, likelihood: str, **_: Any
) -> dict[str, Any]:
    """Start from random weights: at the prior medians, all zero, all units are alike."""
    data = np.asarray(y, float)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    N, D = data.shape
    s = float(scale(y, likelihood))
    values: dict[str, Any] = {
        "A": rng.normal(0, 0.3, (num_upper, num_lower)),
        "W": rng.normal(0, 0.3 * s, (num_lower, D)),
        "z2": rng.normal(0, 0.3, (N, num_upper)),
        "z1": rng.normal(0, 0.3, (N, num_lower)),
    }
    if likelihood == "gaussian":
        return values | {"b": data.mean(axis=0), "sigma": s / 2}
    share = np.clip(data.mean(axis=0), 0.01, 0.99)
    return values | {"b": np.log(share / (1 - share))}


def build(
    num_lower: int = 4,
    num_upper: int = 2,
    activation: str = "tanh",
    likelihood: str = "bernoulli",
) -> vr.Model:
    """Build the model with layers of some width.

    Parameters
    ----------
    num_lower, num_upper
        Latent variables per row in the lower and in the upper layer.
    activation
        ``"tanh"`` or ``"identity"``.
    likelihood
        ``"bernoulli"`` or ``"gaussian"``.

    Returns
    -------
    vi_recipes.Model
        The choices stay arguments of the model, with the values given here as defaults.
    """
    choices: dict[str, Any] = {
        "num_lower": num_lower,
        "num_upper": num_upper,
        "activation": activation,
        "likelihood": likelihood,
    }
    return vr.Model(
        function=partial(deep_latent_gaussian, **choices),
        name="deep_latent_gaussian",
        data=partial(simulate, **choices),
        load=partial(load, likelihood=likelihood),
        simulate=partial(simulate, **choices),
        parameters=("A", "W", "b", *(["sigma"] if likelihood == "gaussian" else [])),
        latents=("z2", "z1"),
        dims={
            "A": ("upper", "lower"),
            "W": ("lower", "column"),
            "b": ("column",),
            "z2": ("observation", "upper"),
            "z1": ("observation", "lower"),
            "y": ("observation", "column"),
        },
        coords=partial(coords, num_lower=num_lower, num_upper=num_upper),
        init=partial(init, **choices),
        # independent normals over all weights and rows do not converge; this does with some seeds
        options={"svi": {"guide": make_guide(**choices), "num_steps": 160_000}},
        description="Two layers of latent variables per row, the lower decoded from the upper.",
        citation=(
            "Rezende, Mohamed and Wierstra (2014), Stochastic backpropagation and approximate "
            "inference in deep generative models, ICML, arXiv:1401.4082"
        ),
    )


def coords(y: jax.Array, num_lower: int, num_upper: int, **_: Any) -> dict[str, list[int]]:
    """Return numbers from zero."""
    N, D = y.shape
    sizes = {"observation": N, "column": D, "lower": num_lower, "upper": num_upper}
    return {name: list(range(size)) for name, size in sizes.items()}


MODEL = build()
