"""One draw of a guide with its log densities, as the estimates of every objective begin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from numpyro import handlers
from numpyro.infer.util import log_density

Params = dict[str, jax.Array]


class Particle(NamedTuple):
    """A draw of the guide.

    Parameters
    ----------
    log_p, log_q
        Log densities of the model and of the guide at the draw.
    drawn, met
        The traces of the guide and of the model.
    """

    log_p: jax.Array
    log_q: jax.Array
    drawn: Any
    met: Any


def particle_of(
    keys: jax.Array,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    given: tuple[tuple[Any, ...], dict[str, Any]],
    of_guide: Params,
    of_model: Params,
) -> Particle:
    """Draw from the guide and evaluate both log densities; pure.

    Parameters
    ----------
    keys
        Of the model and of the guide, in this order.
    given
        What both are called with.
    of_guide, of_model
        Parameters of each; those of the guide may hold draws fixed.
    """
    model_key, guide_key = keys
    log_q, drawn = log_density(handlers.seed(guide, guide_key), *given, of_guide)
    replayed = handlers.replay(handlers.seed(model, model_key), drawn)
    log_p, met = log_density(replayed, *given, of_model)
    return Particle(log_p, log_q, drawn, met)
