"""Parts of a guide written by hand: points, random starts, and a network that encodes rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def random_start(shape: tuple[int, ...], sd: Any = 1.0) -> Callable[[jax.Array], jax.Array]:
    """Return the start of a ``numpyro.param``: normals of mean 0, drawn when it is first needed.

    Parameters
    ----------
    shape
        Of the parameter.
    sd
        Their standard deviation.
    """
    return lambda key: sd * jax.random.normal(key, shape)


def point_mass(name: str, start: Any, **options: Any) -> None:
    """Put all mass of a site at a parameter, in a guide.

    Parameters
    ----------
    name
        The site; the parameter is called ``{name}_point``.
    start
        Where the parameter starts: a value, or :func:`random_start`.
    **options
        Of ``numpyro.param``, such as ``constraint``.
    """
    value = numpyro.param(f"{name}_point", start, **options)
    numpyro.sample(name, dist.Delta(value, event_dim=jnp.ndim(value)))


def normal_encoder(name: str, inputs: Any, size: int, num_hidden: int = 32) -> Any:
    """Return normals of independent coordinates whose means and sds a network makes of rows.

    :class:`Amortised` makes the whole guide of a model's sites; this is a part for a guide that is
    written by hand, such as one with a layer of latent variables encoded from another.

    Parameters
    ----------
    name
        What its parameters are called: ``{name}_hidden``, ``{name}_loc``, ``{name}_log_sd`` and
        their offsets.
    inputs
        Rows by columns, best of mean 0 and sd 1.
    size
        Coordinates per row.
    num_hidden
        Hidden units, with tanh; 0 makes the means linear and the sds the same for all rows.

    Returns
    -------
    numpyro.distributions.Distribution
        One vector of ``size`` coordinates per row. The means start at random, the sds at 1.
    """
    width = inputs.shape[1]
    if num_hidden:
        weights = numpyro.param(f"{name}_hidden", random_start((width, num_hidden), width**-0.5))
        offset = numpyro.param(f"{name}_hidden_offset", jnp.zeros(num_hidden))
        inputs = jnp.tanh(offset + inputs @ weights)
        width = num_hidden
    to_loc = numpyro.param(f"{name}_loc", random_start((width, size), width**-0.5))
    loc = numpyro.param(f"{name}_loc_offset", jnp.zeros(size)) + inputs @ to_loc
    log_sd = numpyro.param(f"{name}_log_sd_offset", jnp.zeros(size))
    if num_hidden:
        log_sd = log_sd + inputs @ numpyro.param(f"{name}_log_sd", jnp.zeros((width, size)))
    return dist.Normal(loc, jnp.broadcast_to(jnp.exp(log_sd), loc.shape)).to_event(1)
