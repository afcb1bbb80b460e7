"""Discrete latent variables, summed out of a model by NumPyro's enumeration."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import wraps
from typing import Any

import jax
import numpyro
from numpyro import handlers
from numpyro.primitives import Messenger

from vi_recipes.core import ModelError
from vi_recipes.model.zeros import give_log_of_zero_a_slope, or_infinite, with_finite_logs

LOG_JOINT = "_log_joint"


class _Silent(Messenger):  # type: ignore[misc]
    """Take the log density from latent sites; whatever is added about them elsewhere stays."""

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and not msg["is_observed"]:
            msg["fn"] = msg["fn"].mask(False)


def marginalise(
    function: Callable[..., Any],
    discrete: Mapping[str, str],
    observed: Collection[str],
    plate_depth: int,
) -> Callable[..., Any]:
    """Return a NumPyro model with the same continuous sites and the discrete ones summed out.

    The continuous sites keep their distributions, for their supports and for starting points, but
    lose their log densities: the whole log joint, with the discrete sites enumerated, is one
    factor.

    Parameters
    ----------
    function
        A NumPyro model.
    discrete
        Name of each discrete latent site -> name of its distribution.
    observed
        Names of the observed sites, factors among them.
    plate_depth
        How many dimensions the plates take; enumeration uses those to their left.

    Raises
    ------
    ModelError
        If funsor, on which NumPyro's enumeration is built, is not installed.
    """
    try:
        from numpyro.contrib.funsor import config_enumerate, enum, log_density
    except ImportError:
        listed = ", ".join(f"'{name}' ({kind})" for name, kind in discrete.items())
        raise ModelError(
            f"discrete latent site {listed}: summing it out needs the package funsor. Install "
            "'vi_recipes[enumerate]', or sum it out in the model, for instance with "
            "dist.MixtureSameFamily"
        ) from None

    give_log_of_zero_a_slope()
    safe = with_finite_logs(function)

    @wraps(function)
    def marginal(**data: Any) -> None:
        key = numpyro.prng_key()  # so that starting points follow the caller's seed
        key = jax.random.key(0) if key is None else key
        enumerated = enum(config_enumerate(handlers.seed(safe, key)), -plate_depth - 1)
        drawn = handlers.seed(function, key)
        visible = handlers.block(drawn, hide=[*discrete, *observed])
        trace = handlers.trace(_Silent(visible)).get_trace(**data)
        values = {
            name: site["value"]
            for name, site in trace.items()
            if site["type"] == "sample" and not site["is_observed"]
        }
        with handlers.block():
            log_joint, _ = log_density(enumerated, (), data, values)
        numpyro.factor(LOG_JOINT, or_infinite(log_joint))

    return marginal
