"""Capture and recapture: a Cormack-Jolly-Seber model, lives summed out, survival varies by year."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

import vi_recipes as vr

KEYS = ("y", "x")


class CormackJollySeber(dist.Distribution):
    """Captures of an animal after its first, whether it lived when unseen being summed out.

    Parameters
    ----------
    logits
        Logit of the probability to survive from each occasion to the next: T - 1 of them.
    p
        Probability to capture an animal that is alive.
    first
        Occasion of the first capture of each animal, from zero; the distribution is conditional on
        it.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {
        "logits": constraints.real_vector,
        "p": constraints.unit_interval,
        "first": constraints.nonnegative_integer,
    }
    support = constraints.independent(constraints.boolean, 1)
    pytree_data_fields = ("logits", "p", "first")

    def __init__(
        self,
        logits: jax.Array,
        p: jax.Array,
        first: jax.Array,
        *,
        validate_args: bool | None = None,
    ) -> None:
        self.logits, self.p, self.first = logits, p, first
        super().__init__(
            batch_shape=jnp.shape(first),
            event_shape=(jnp.shape(logits)[0] + 1,),
            validate_args=validate_args,
        )

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Return the log probability of the captures, animals by occasions.

        It is minus infinity where the first capture is not at ``first``.
        """
        seen = value > 0
        lead = (1,) * (seen.ndim - 1)
        occasion = jnp.arange(self.event_shape[0]).reshape(*lead, -1)
        logits = self.logits.reshape(*lead, -1)
        first = self.first[..., None]
        last = jnp.max(jnp.where(seen, occasion, -1), axis=-1, keepdims=True)
        capture = jnp.where(seen, jnp.log(self.p), jnp.log1p(-self.p))
        known = jax.nn.log_sigmoid(logits) + capture[..., 1:]
        alive = (occasion[..., 1:] > first) & (occasion[..., 1:] <= last)
        log_prob = jnp.where(alive, known, 0.0).sum(-1)
        log_prob = log_prob + self.log_chi[jnp.maximum(last[..., 0], 0)]
        at_first = jnp.min(jnp.where(seen, occasion, self.event_shape[0]), axis=-1) == self.first
        return jnp.where(at_first, log_prob, -jnp.inf)

    @property
    def log_chi(self) -> jax.Array:
        """Log probability not to be seen after each occasion, given alive then: T of them."""

        def back(later: jax.Array, logit: jax.Array) -> tuple[jax.Array, jax.Array]:
            unseen = jax.nn.log_sigmoid(logit) + jnp.log1p(-self.p) + later
            here = jnp.logaddexp(jax.nn.log_sigmoid(-logit), unseen)
            return here, here

        end = jnp.zeros_like(self.logits[0] + self.p)
        _, before = jax.lax.scan(back, end, self.logits, reverse=True)
        return jnp.append(before, end)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draw captures: an animal lives on by chance, and is seen by chance while it lives."""
        key_life, key_capture = jax.random.split(key)
        shape = self.shape(sample_shape)
        occasion = jnp.arange(self.event_shape[0])
        first = self.first[..., None]
        later = (*shape[:-1], shape[-1] - 1)
        survives = jax.random.bernoulli(key_life, jax.nn.sigmoid(self.logits), later)
        survives = survives | (occasion[1:] <= first)
        alive = jnp.concatenate([jnp.ones((*shape[:-1], 1), int), jnp.cumprod(survives, -1)], -1)
        captured = jax.random.bernoulli(key_capture, self.p, shape) & (occasion > first)
        return jnp.where(occasion == first, 1, captured * alive)


def ecology_cjs(y: jax.Array, x: jax.Array) -> None:
    """Capture marked animals over the years, given a covariate of the years.

    Parameters
    ----------
    y
        1 where an animal was captured, else 0: animals by T occasions. Every animal was captured
        at least once.
    x
        Covariate of survival from each occasion to the next, T - 1 of them.
    """
    if y.shape[1] != len(x) + 1:
        raise ValueError(
            f"y has {y.shape[1]} occasions and x {len(x)} values; x should have one less, a value "
            "for the time from each occasion to the next"
        )
    mean_phi = numpyro.sample("mean_phi", dist.Uniform(0.0, 1.0))
    mean_p = numpyro.sample("mean_p", dist.Uniform(0.0, 1.0))
    beta = numpyro.sample("beta", dist.Normal(0.0, 100.0))
    sigma = numpyro.sample("sigma", dist.Uniform(0.0, 10.0))
    with numpyro.plate("interval", len(x)):
        epsilon = numpyro.sample("epsilon", dist.Normal(0.0, sigma))
        logits = jnp.log(mean_phi) - jnp.log1p(-mean_phi) + beta * x + epsilon
        numpyro.deterministic("phi", jax.nn.sigmoid(logits))
    with numpyro.plate("animal", len(y)):
        first = jnp.argmax(y > 0, axis=1)
        numpyro.sample("y", CormackJollySeber(logits, mean_p, first), obs=y)


def simulate(
    seed: int = 0,
    num_occasions: int = 20,
    num_marked: int = 15,
    mean_phi: float = 0.65,
    mean_p: float = 0.4,
    beta: float = -0.3,
    sigma: float = 0.4,
) -> dict[str, Any]:
    """Draw animals, as many newly marked at every occasion but the last.

    Parameters
    ----------
    seed
        Seed of NumPy's generator.
    num_occasions
        Number of occasions.
    num_marked
        Number of animals marked at each.
    mean_phi, beta, sigma
        Survival where covariate and random effect are 0, coefficient, and sd of the random effect,
        on the scale of logits.
    mean_p
        Probability of recapture.

    Returns
    -------
    dict
        Arguments of :func:`ecology_cjs`.
    """
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(num_occasions - 1)
    epsilon = sigma * rng.standard_normal(num_occasions - 1)
    phi = 1.0 / (1.0 + np.exp(-(np.log(mean_phi / (1.0 - mean_phi)) + beta * x + epsilon)))
    first = np.repeat(np.arange(num_occasions - 1), num_marked)[:, None]
    occasion = np.arange(num_occasions)
    survives = rng.random((len(first), num_occasions - 1)) < phi
    alive = np.ones((len(first), num_occasions), bool)
    alive[:, 1:] = np.logical_and.accumulate(survives | (occasion[1:] <= first), axis=1)
    captured = rng.random(alive.shape) < mean_p
    y = (occasion == first) | ((occasion > first) & alive & captured)
    return {"y": y.astype(np.int32), "x": x}


def load(path: Path | str) -> dict[str, Any]:
    """Read JSON with keys y (a row of 0 and 1 per animal) and x.

    Parameters
    ----------
    path
        The file. Rows of ``y`` have one element more than ``x``; animals never captured are not
        among them.

    Returns
    -------
    dict
        Arguments of :func:`ecology_cjs`.
    """
    raw = vr.read_data(path, needs=KEYS, model="ecology_cjs", called="key(s)")
    try:
        y, x = np.asarray(raw["y"], float), np.asarray(raw["x"], float)
    except (TypeError, ValueError):
        raise ValueError(
            f"{path}: y and x should hold numbers, and the rows of y as many each"
        ) from None
    if y.ndim != 2 or not np.isin(y, (0, 1)).all():
        raise ValueError(f"{path}: y should hold rows of 0 and 1, one per animal, of equal length")
    never = np.flatnonzero(y.sum(1) == 0)
    if len(never):
        raise ValueError(
            f"{path}: y has {len(never)} row(s) without a capture, the first is row "
            f"{never[0] + 1}; the model is of animals once captured, so drop them"
        )
    return {"y": y.astype(np.int32), "x": x}


def init(key: jax.Array, x: jax.Array, **_: Any) -> dict[str, Any]:
    """Start where half of the animals survive.

    With beta drawn from its wide prior all would, or none, and optimisers stay there.
    """
    return {
        "mean_phi": jnp.array(0.5),
        "mean_p": jnp.array(0.5),
        "beta": jnp.array(0.0),
        "sigma": jnp.array(1.0),
        "epsilon": jnp.zeros(len(x)),
    }


MODEL = vr.Model(
    function=ecology_cjs,
    name="ecology_cjs",
    data=simulate,
    load=load,
    simulate=simulate,
    parameters=("mean_phi", "mean_p", "beta", "sigma"),
    latents=("epsilon",),
    options={"nuts": {"noncentered": ("epsilon",)}},
    dims={"epsilon": ("interval",), "phi": ("interval",), "y": ("animal", "occasion")},
    coords=lambda x, **_: {"interval": list(range(1, len(x) + 1))},
    init=init,
    description="Cormack-Jolly-Seber model of recaptures with random effects of years, simulated.",
    citation=(
        "Kery and Schaub (2011), Bayesian Population Analysis using WinBUGS, chapter 7, "
        "ISBN 978-0-12-387020-9; priors as in Giordano, Broderick and Jordan (2018), "
        "JMLR 19(51), section 5.2"
    ),
)
