"""Election 1988: logistic regression of votes with a varying intercept per state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist

import vi_recipes as vr

KEYS = ("y", "black", "female", "state")
NUM_STATES = 51
"""Fifty states and the District of Columbia."""

EMPTY = (1, 11)
"""Alaska and Hawaii, from zero: nobody was asked there."""


def election88(
    y: jax.Array,
    black: jax.Array,
    female: jax.Array,
    state: jax.Array,
    num_states: int,
) -> None:
    """Vote of a respondent, given race, sex and state.

    Parameters
    ----------
    y
        1 for Bush, 0 for Dukakis, one per respondent.
    black, female
        1 if the respondent is, else 0.
    state
        State of each respondent, 0 to ``num_states - 1``.
    num_states
        Number of states; one without a respondent keeps its prior.
    """
    mu_a = numpyro.sample("mu_a", dist.Normal(0.0, 1.0))
    b = numpyro.sample("b", dist.Normal(0.0, 100.0).expand([2]).to_event(1))
    sigma_a = numpyro.sample("sigma_a", dist.Uniform(0.0, 100.0))
    with numpyro.plate("state", num_states):
        a = numpyro.sample("a", dist.Normal(mu_a, sigma_a))
    with numpyro.plate("respondent", len(y)):
        logits = b[0] * black + b[1] * female + a[state]
        numpyro.sample("y", dist.Bernoulli(logits=logits), obs=y)


def simulate(
    seed: int = 0,
    num_rows: int = 11_566,
    num_states: int = NUM_STATES,
    b: tuple[float, float] = (-1.8, -0.1),
    mu_a: float = 0.45,
    sigma_a: float = 0.4,
) -> dict[str, Any]:
    """Draw a poll of the real one's size and design.

    Parameters
    ----------
    seed
        Seed of NumPy's generator.
    num_rows
        Number of respondents.
    num_states
        Number of states. They are of very different sizes, and with 12 states or more the second
        and the twelfth have no respondent.
    b
        Coefficients of black and female.
    mu_a, sigma_a
        Mean and sd of the intercepts of the states.

    Returns
    -------
    dict
        Arguments of :func:`election88`.
    """
    rng = np.random.default_rng(seed)
    size = np.exp(1.1 * rng.standard_normal(num_states))
    if num_states > max(EMPTY):
        size[list(EMPTY)] = 0.0
    share = rng.beta(0.5, 6.0, size=num_states)  # of black respondents, a different one per state
    a = mu_a + sigma_a * rng.standard_normal(num_states)
    state = rng.choice(num_states, size=num_rows, p=size / size.sum())
    black = rng.random(num_rows) < share[state]
    female = rng.random(num_rows) < 0.57
    logits = b[0] * black + b[1] * female + a[state]
    return {
        "y": (rng.logistic(size=num_rows) < logits).astype(np.int32),
        "black": black.astype(float),
        "female": female.astype(float),
        "state": state.astype(np.int32),
        "num_states": num_states,
    }


def load(path: Path | str) -> dict[str, Any]:
    """Read JSON with keys y, black, female, state and n_state, or a CSV with such columns.

    Parameters
    ----------
    path
        The file, one element or row per respondent. States are numbered from one to ``n_state``,
        which may be left out and is then the largest number there is.

    Returns
    -------
    dict
        Arguments of :func:`election88`.
    """
    raw = vr.read_data(path, needs=KEYS, model="election88")
    columns = {}
    for name in KEYS:
        try:
            columns[name] = np.asarray(raw[name], float)
        except (TypeError, ValueError):
            raise ValueError(f"{path}: {name} should hold numbers") from None
        if name != "state" and not np.isin(columns[name], (0, 1)).all():
            raise ValueError(f"{path}: {name} should be 0 or 1 throughout")
    state = columns["state"]
    num_states = int(np.max(raw.get("n_state", np.nan_to_num(state).max())))
    if not np.isin(state, np.arange(1, num_states + 1)).all():
        raise ValueError(
            f"{path}: state should be a whole number from 1 to {num_states} throughout, the number "
            "of states (n_state, or the largest where the file does not say)"
        )
    return {
        "y": columns["y"].astype(np.int32),
        "black": columns["black"],
        "female": columns["female"],
        "state": state.astype(np.int32) - 1,
        "num_states": num_states,
    }


MODEL = vr.Model(
    function=election88,
    name="election88",
    data=simulate,
    load=load,
    simulate=simulate,
    parameters=("mu_a", "b", "sigma_a"),
    latents=("a",),
    dims={"a": ("state",), "b": ("covariate",)},
    coords=lambda num_states, **_: {
        "state": list(range(1, num_states + 1)),
        "covariate": ["black", "female"],
    },
    description="Logistic regression of votes in 1988 with an intercept per state, simulated.",
    citation=(
        "Gelman and Hill (2007), Data Analysis Using Regression and Multilevel/Hierarchical "
        "Models, chapter 14, doi:10.1017/CBO9780511790942; priors as in Giordano, Broderick and "
        "Jordan (2018), JMLR 19(51), section 5.2"
    ),
)
