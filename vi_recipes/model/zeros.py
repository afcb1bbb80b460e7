"""States of probability zero: absorbing ones, moves that are never made."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import wraps
from typing import Any, override

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from numpyro.primitives import Messenger

IMPOSSIBLE = -1e30
"""What stands for the logarithm of zero: sums over infinite ones alone have no slope."""


def with_finite_logs(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the model with :data:`IMPOSSIBLE` for the logarithms of its categories' zeros.

    A sum over paths of states that are all impossible then has a slope, which is zero: from an
    absorbing state there are such paths to every other one.
    """

    @wraps(function)
    def safe(*args: Any, **kwargs: Any) -> Any:
        with _FiniteLogs():
            return function(*args, **kwargs)

    return safe


def give_log_of_zero_a_slope() -> None:
    """Have funsor's logarithm, in which paths are summed, the slope 0 at 0, where it is infinite.

    Two states that no path connects, or whose paths underflow, then add nothing to a gradient. Its
    values are the same.
    """
    from funsor import ops

    @ops.log.register((jax.Array, jax.core.Tracer))  # type: ignore[untyped-decorator]
    def log(x: jax.Array) -> jax.Array:
        some = x > 0
        return jnp.where(
            some, jnp.log(jnp.where(some, x, 1.0)), jnp.where(x < 0, jnp.nan, -jnp.inf)
        )


def floored(log_density: jax.Array) -> jax.Array:
    """Return log densities with :data:`IMPOSSIBLE`, which has slope 0, for what is lower; pure."""
    return jnp.where(log_density < IMPOSSIBLE, IMPOSSIBLE, log_density)


def or_infinite(log_density: jax.Array) -> jax.Array:
    """Return a log density that is minus infinity where it is that of the impossible; pure."""
    return jnp.where(log_density < IMPOSSIBLE / 2, -jnp.inf, log_density)


class _FiniteLogs(Messenger):  # type: ignore[misc]
    """Give categorical sites finite logarithms, within loops too."""

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample":
            msg["fn"] = _finite(msg["fn"])
        elif msg["type"] == "control_flow":  # NumPyro hides what is inside from what is around
            msg["args"] = tuple(with_finite_logs(a) if callable(a) else a for a in msg["args"])


class _Probabilities(dist.CategoricalProbs):  # type: ignore[misc]
    """Categories by their probabilities, zeros among them."""

    @property
    @override
    def logits(self) -> jax.Array:
        some = self.probs > 0
        return jnp.where(some, jnp.log(jnp.where(some, self.probs, 1.0)), IMPOSSIBLE)


def _finite(fn: Any) -> Any:
    """Return a distribution whose categories have finite logarithms; any other as it is."""
    kind = type(fn)
    if kind is dist.CategoricalProbs:
        return _Probabilities(fn.probs)
    if kind is dist.CategoricalLogits:
        return dist.CategoricalLogits(floored(fn.logits))
    if kind in _AROUND_ANOTHER:
        inner = _finite(fn.base_dist)
        if inner is not fn.base_dist:
            fn = copy(fn)
            fn.base_dist = inner
    return fn


_AROUND_ANOTHER = (dist.ExpandedDistribution, dist.Independent, dist.MaskedDistribution)
