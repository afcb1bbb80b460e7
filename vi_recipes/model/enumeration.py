"""Discrete latent variables, summed out of a model by NumPyro's enumeration."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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


LogJointFunction = Callable[[Mapping[str, Any], Mapping[str, Any]], Any]
"""``(values of the continuous sites, data) -> log joint density``, discrete sites summed out."""


def marginalise(
    function: Callable[..., Any], hidden: Collection[str], log_joint: LogJointFunction
) -> Callable[..., Any]:
    """Return a NumPyro model with the same continuous sites and the discrete ones summed out.

    The continuous sites keep their distributions, for their supports and for starting points, but
    lose their log densities: the whole log joint, with the discrete sites summed out, is one
    factor.

    Parameters
    ----------
    function
        A NumPyro model.
    hidden
        Names of the discrete latent sites and of the observed ones, factors among them.
    log_joint
        The density.
    """

    @wraps(function)
    def marginal(**data: Any) -> None:
        key = numpyro.prng_key()  # so that starting points follow the caller's seed
        drawn = handlers.seed(function, jax.random.key(0) if key is None else key)
        visible = handlers.block(drawn, hide=list(hidden))
        trace = handlers.trace(_Silent(visible)).get_trace(**data)
        values = {
            name: site["value"]
            for name, site in trace.items()
            if site["type"] == "sample" and not site["is_observed"]
        }
        with handlers.block():
            value = log_joint(values, data)
        numpyro.factor(LOG_JOINT, or_infinite(value))

    return marginal


class NumPyroSum:
    """NumPyro's own enumeration of a model's discrete latent variables, by funsor.

    Parameters
    ----------
    function
        A NumPyro model.
    discrete
        Name of each discrete latent site -> name of its distribution.
    plate_depth
        How many dimensions the plates take; enumeration uses those to their left.

    Raises
    ------
    ModelError
        If funsor is not installed.
    """

    def __init__(
        self, function: Callable[..., Any], discrete: Mapping[str, str], plate_depth: int
    ) -> None:
        try:
            from numpyro.contrib import funsor
        except ImportError:
            listed = ", ".join(f"'{name}' ({kind})" for name, kind in discrete.items())
            raise ModelError(
                f"discrete latent site {listed}: summing it out needs the package funsor. Install "
                "'vi_recipes[enumerate]', or sum it out in the model, for instance with "
                "dist.MixtureSameFamily"
            ) from None
        give_log_of_zero_a_slope()
        self._funsor, self._depth = funsor, plate_depth
        safe = with_finite_logs(function)
        self._function = funsor.config_enumerate(handlers.seed(safe, jax.random.key(0)))

    def log_joint(self, values: Mapping[str, Any], data: Mapping[str, Any]) -> Any:
        """Return the log joint density with the discrete sites summed out; pure."""
        enumerated = self._funsor.enum(self._function, -self._depth - 1)
        return self._funsor.log_density(enumerated, (), dict(data), dict(values))[0]

    def at_states(
        self,
        values: Mapping[str, Any],
        states: Mapping[str, Any],
        data: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Return what the enumerated trace has for the sites at states of the discrete ones; pure.

        Parameters
        ----------
        values
            Of the continuous latent sites.
        states
            Number of the state of every element of the discrete sites, by name.
        data
            The model's arguments.

        Raises
        ------
        ValueError
            For a site that reads states from outside their plate.
        """
        enumerated = self._funsor.enum(self._function, -self._depth - 1)
        model = handlers.substitute(enumerated, data=dict(values))
        with self._funsor.plate_to_enum_plate():
            trace = self._funsor.trace(model).get_trace(**data)
        plates = {
            name: {f.name for f in site["cond_indep_stack"]}
            for name, site in trace.items()
            if site["type"] == "sample"
        }
        values_at = {}
        for name, inside in plates.items():
            site = trace[name]
            table = jnp.asarray(site["fn"].log_prob(site["value"]))
            if site["scale"] is not None:
                table = site["scale"] * table
            places: list[Any] = []
            for dim in range(-table.ndim, 0):
                variable = site["infer"]["dim_to_name"].get(dim)
                if variable in states:
                    if not plates[variable] <= inside:
                        raise ValueError(f"'{name}' reads '{variable}' from outside its plate")
                    places.append(states[variable])
                else:  # a plate, or nothing
                    back = (1,) * (-dim - 1)
                    places.append(np.arange(table.shape[dim]).reshape(-1, *back))
            values_at[name] = table[tuple(places)] if places else table
        return values_at
