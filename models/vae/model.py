"""A variational autoencoder's model: images decoded from a few latent variables by a network.

The decoder's weights are sites like any other, so every method sees one model. With k latent
variables z_n per row and H hidden units,

    z_n ~ Normal(0, I)
    h_n = tanh(c + V' z_n), or z_n where the decoder is linear (H = 0)
    y_n ~ Bernoulli(logit = b + W' h_n)          for binary data, or
    y_n ~ Normal(b + W' h_n, sigma)              for real ones

``guide`` is the other half, the encoder: q(z_n | y_n) normal with independent coordinates, whose
means and sds are a network's function of y_n, and points for the decoder's weights.
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

NUM_ENCODER = 32
"""Hidden units of the encoder, where the decoder has some."""

LEVELS = 16
"""Intensities of the pixels of the shipped digits run from 0 to this."""


def vae(
    y: jax.Array, num_latents: int = 2, num_hidden: int = 8, likelihood: str = "bernoulli"
) -> None:
    """Decode each row from its latent variables ``z``.

    Parameters
    ----------
    y
        Rows by columns: zeros and ones for ``"bernoulli"``, any numbers for ``"gaussian"``.
    num_latents
        Number k of latent variables per row.
    num_hidden
        Number H of the decoder's hidden units; 0 makes it linear.
    likelihood
        ``"bernoulli"`` or ``"gaussian"``.
    """
    check(y, num_latents, num_hidden, likelihood)
    D, k, H = y.shape[1], num_latents, num_hidden
    gaussian = likelihood == "gaussian"
    s = scale(y, likelihood)
    if H:
        V = numpyro.sample("V", dist.Normal(0.0, 1.0).expand([k, H]).to_event(2))
        c = numpyro.sample("c", dist.Normal(0.0, 1.0).expand([H]).to_event(1))
    W = numpyro.sample("W", dist.Normal(0.0, s).expand([H or k, D]).to_event(2))
    centre = y.mean(axis=0) if gaussian else jnp.zeros(D)
    b = numpyro.sample("b", dist.Normal(centre, 10 * s if gaussian else 3.0).to_event(1))
    sigma = numpyro.sample("sigma", dist.HalfNormal(s)) if gaussian else None
    with numpyro.plate("observation", len(y)):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([k]).to_event(1))
        eta = b + (jnp.tanh(c + z @ V) if H else z) @ W
        law = dist.Normal(eta, sigma) if gaussian else dist.Bernoulli(logits=eta)
        numpyro.sample("y", law.to_event(1), obs=y)


def scale(y: jax.Array, likelihood: str) -> Any:
    """Return the prior sd of W: that of the data, or 2 for logits."""
    return jnp.sqrt(y.var(axis=0).mean()) if likelihood == "gaussian" else 2.0


def check(y: jax.Array, num_latents: int, num_hidden: int, likelihood: str) -> None:
    """Refuse what cannot be decoded."""
    if likelihood not in LIKELIHOODS:
        raise ValueError(f"likelihood={likelihood!r}: choose one of {', '.join(LIKELIHOODS)}")
    if y.ndim != 2:
        raise ValueError(f"y has shape {y.shape}; expected rows by columns")
    if not 1 <= num_latents < y.shape[1]:
        raise ValueError(
            f"num_latents={num_latents}: y has {y.shape[1]} column(s), so expected at least one "
            "and fewer than that"
        )
    if num_hidden < 0:
        raise ValueError(f"num_hidden={num_hidden}: expected 0, for a linear decoder, or more")


def amortised(
    y: jax.Array, num_latents: int = 2, num_hidden: int = 8, likelihood: str = "bernoulli"
) -> None:
    """Encode each row, and put points on the decoder's weights; arguments as for :func:`vae`.

    The encoder is linear with constant sds where the decoder is linear, else it has one hidden
    layer.
    """
    D, k, H = y.shape[1], num_latents, num_hidden
    gaussian = likelihood == "gaussian"
    s = scale(y, likelihood)
    if H:
        vr.point_mass("V", vr.random_start((k, H)))
        vr.point_mass("c", jnp.zeros(H))
    vr.point_mass("W", vr.random_start((H or k, D), 0.1 * s))
    if gaussian:
        centre = y.mean(axis=0)
        vr.point_mass("b", centre)
        vr.point_mass("sigma", s / 2, constraint=constraints.positive)
        inputs = (y - centre) / s
    else:
        vr.point_mass("b", jnp.zeros(D))
        inputs = y - 0.5
    law = vr.normal_encoder("encoder", inputs, k, NUM_ENCODER if H else 0)
    with numpyro.plate("observation", len(y)):
        numpyro.sample("z", law)


def make_guide(
    num_latents: int = 2, num_hidden: int = 8, likelihood: str = "bernoulli"
) -> Callable[..., None]:
    """Return the amortised guide for a model built with the same choices.

    Parameters
    ----------
    num_latents, num_hidden, likelihood
        As for :func:`build`.

    Returns
    -------
    Callable
        ``SVI(guide=make_guide(...))``: :func:`amortised` with these choices.
    """
    chosen = {"num_latents": num_latents, "num_hidden": num_hidden, "likelihood": likelihood}
    return update_wrapper(partial(amortised, **chosen), amortised)


guide = amortised


def simulate(
    seed: int = 0,
    num_rows: int = 200,
    num_columns: int = 10,
    num_latents: int = 2,
    num_hidden: int = 8,
    likelihood: str = "bernoulli",
) -> dict[str, Any]:
    """Draw rows from a decoder with random weights.

    Parameters
    ----------
    seed
        Seed of NumPy's generator.
    num_rows, num_columns
        Size of the data.
    num_latents, num_hidden, likelihood
        As for :func:`vae`; the noise of real data has sd 0.3.

    Returns
    -------
    dict
        ``y``.
    """
    rng = np.random.default_rng(seed)
    h = rng.standard_normal((num_rows, num_latents))
    if num_hidden:
        h = np.tanh(h @ rng.standard_normal((num_latents, num_hidden)))
    eta = h @ rng.standard_normal((h.shape[1], num_columns))
    if likelihood == "gaussian":
        return {"y": eta + 0.3 * rng.standard_normal(eta.shape)}
    return {"y": (rng.random(eta.shape) < 1 / (1 + np.exp(-eta))).astype(float)}


def load(path: Path | str, likelihood: str = "bernoulli") -> dict[str, Any]:
    """Read a CSV whose numeric columns are the columns of ``y``.

    Parameters
    ----------
    path
        The file, one row per image or individual.
    likelihood
        ``"bernoulli"`` wants zeros and ones.

    Returns
    -------
    dict
        ``y``.
    """
    y = vr.read_numeric(path, "each is a column of y", fewest=2).to_numpy()
    if likelihood == "bernoulli" and not np.isin(y, (0, 1)).all():
        raise ValueError(
            f"{path} has values other than 0 and 1: expected zeros and ones for "
            "likelihood='bernoulli'; set a threshold, or use likelihood='gaussian'"
        )
    return {"y": y}


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return 500 images of 8 x 8 pixels, intensities from 0 to 16, and the digits they show."""
    import pandas as pd

    frame = pd.read_csv(Path(__file__).with_name("data.csv"))
    return frame.drop(columns="digit").to_numpy(), frame["digit"].to_numpy()


def data(likelihood: str = "bernoulli") -> dict[str, Any]:
    """Return the digits: pixels of half the intensity or more, or intensities from 0 to 1."""
    pixels = digits()[0]
    return {"y": pixels / LEVELS if likelihood == "gaussian" else (pixels >= LEVELS / 2) * 1.0}


def init(
    key: jax.Array, y: jax.Array, num_latents: int, num_hidden: int, likelihood: str
) -> dict[str, Any]:
    """Start from principal components: at the prior medians, all zero, all units are alike."""
    data, k, H = np.asarray(y, float), num_latents, num_hidden
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    U, S, rows = np.linalg.svd(data - data.mean(axis=0), full_matrices=False)
    values: dict[str, Any] = {"z": U[:, :k] * len(data) ** 0.5}
    s = float(scale(y, likelihood))
    if H:
        values["V"], values["c"] = rng.standard_normal((k, H)), np.zeros(H)
        values["W"] = 0.3 * s * rng.standard_normal((H, data.shape[1]))
    else:
        values["W"] = S[:k, None] * rows[:k] / len(data) ** 0.5
    if likelihood == "gaussian":
        return values | {"b": data.mean(axis=0), "sigma": s / 2}
    share = np.clip(data.mean(axis=0), 0.01, 0.99)
    return values | {"b": np.log(share / (1 - share))}


def linear_optimum(y: np.ndarray, num_latents: int = 2) -> dict[str, Any]:
    """Return the maximum of the likelihood of the linear Gaussian model, in closed form.

    It is that of probabilistic principal components, and the ELBO of a mean-field encoder reaches
    it: with W of orthogonal rows the coordinates of z are independent given y.

    Parameters
    ----------
    y
        Rows by columns.
    num_latents
        Number of latent variables per row.

    Returns
    -------
    dict
        ``W``, with orthogonal rows, ``b``, ``sigma`` and ``log_likelihood``.
    """
    k, (N, D) = num_latents, y.shape
    variances, directions = np.linalg.eigh(np.cov(y, rowvar=False, ddof=0))
    noise, first = variances[:-k].mean(), variances[-k:][::-1]
    W = np.sqrt(first - noise)[:, None] * directions[:, -k:].T[::-1]
    log_det = np.log(first).sum() + (D - k) * np.log(noise)
    log_likelihood = -N / 2 * (D * np.log(2 * np.pi) + log_det + D)
    return {
        "W": W,
        "b": y.mean(axis=0),
        "sigma": np.sqrt(noise),
        "log_likelihood": float(log_likelihood),
    }


def build(num_latents: int = 2, num_hidden: int = 8, likelihood: str = "bernoulli") -> vr.Model:
    """Build the model with a decoder and a likelihood.

    Parameters
    ----------
    num_latents
        Number of latent variables per row.
    num_hidden
        Number of the decoder's hidden units; 0 makes it linear.
    likelihood
        ``"bernoulli"`` or ``"gaussian"``.

    Returns
    -------
    vi_recipes.Model
        The choices stay arguments of the model, with the values given here as defaults.
    """
    if likelihood not in LIKELIHOODS:
        raise ValueError(f"likelihood={likelihood!r}: choose one of {', '.join(LIKELIHOODS)}")
    choices: dict[str, Any] = {
        "num_latents": num_latents,
        "num_hidden": num_hidden,
        "likelihood": likelihood,
    }
    hidden = {"V": ("latent", "hidden"), "c": ("hidden",)} if num_hidden else {}
    return vr.Model(
        function=partial(vae, **choices),
        name="vae",
        data=partial(data, likelihood),
        load=partial(load, likelihood=likelihood),
        simulate=partial(simulate, **choices),
        parameters=(*hidden, "W", "b", *(["sigma"] if likelihood == "gaussian" else [])),
        latents=("z",),
        dims={
            **hidden,
            "W": ("hidden" if num_hidden else "latent", "column"),
            "b": ("column",),
            "z": ("observation", "latent"),
            "y": ("observation", "column"),
        },
        coords=partial(coords, num_latents=num_latents, num_hidden=num_hidden),
        init=partial(init, **choices),
        description=f"Images of digits decoded from {num_latents} latent variables.",
        citation=(
            "Kingma and Welling (2014), Auto-encoding variational Bayes, ICLR, arXiv:1312.6114; "
            "Rezende, Mohamed and Wierstra (2014), Stochastic backpropagation and approximate "
            "inference in deep generative models, ICML, arXiv:1401.4082"
        ),
    )


def coords(y: jax.Array, num_latents: int, num_hidden: int, **_: Any) -> dict[str, list[int]]:
    """Return numbers from zero."""
    sizes = {"observation": len(y), "column": y.shape[1], "latent": num_latents}
    if num_hidden:
        sizes["hidden"] = num_hidden
    return {name: list(range(size)) for name, size in sizes.items()}


MODEL = build()
LINEAR = build(num_hidden=0, likelihood="gaussian")
