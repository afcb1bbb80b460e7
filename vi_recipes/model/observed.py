"""Observed values whose law has a support that depends on latent variables."""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.primitives import Messenger


def with_observed_arrays(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the model whose observed values are JAX arrays where latent variables bound them.

    NumPyro holds a number or a NumPy array against its support by NumPy, which takes no bound that
    is traced, such as that of ``Uniform(0, theta)``.
    """
    return function if isinstance(function, _Observing) else _Observing(function)


class _Observing:
    """The function in :class:`_ObservedArrays`; it can be sent to another process if that can."""

    def __init__(self, function: Callable[..., Any]) -> None:
        update_wrapper(self, function)
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with _ObservedArrays():
            return self._function(*args, **kwargs)


class _ObservedArrays(Messenger):  # type: ignore[misc]
    def process_message(self, message: dict[str, Any]) -> None:
        if message["type"] != "sample" or not message["is_observed"]:
            return
        if not isinstance(message["value"], bool | int | float | np.generic | np.ndarray):
            return
        bounds = jax.tree.leaves(message["fn"].support)
        if any(isinstance(bound, jax.core.Tracer) for bound in bounds):
            message["value"] = jnp.asarray(message["value"])
