"""The optimum that a fit by mean field leaves for linear response, which corrects it there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import numpy as np

from vi_recipes.core import Timing
from vi_recipes.elbo import Optimum
from vi_recipes.model import Target

_LEFT = "optimum left by mean field"


@dataclass(frozen=True)
class LeftOptimum:
    """An optimum, how it was asked for, and what it took.

    Parameters
    ----------
    options
        Of the method that found it.
    key
        The numbers of the fit's key.
    optimum
        The optimum.
    timing
        Of the whole fit.
    run_seconds
        Of the optimum alone.
    """

    options: Mapping[str, object]
    key: bytes
    optimum: Optimum
    timing: Timing
    run_seconds: float


def leave(
    target: Target,
    options: Mapping[str, object],
    key: jax.Array,
    optimum: Optimum,
    timing: Timing,
) -> None:
    """Let the next fit of the same target by the same options and key have an optimum."""
    if optimum.hessian is not None and optimum.kl.families is None:  # the fit is judged by it too
        optimum.kl.full_hessian(optimum.eta.ravel(), optimum.hessian)
    left = LeftOptimum(options, _numbers(key), optimum, timing, timing.run_seconds)
    target.compiled_once.keep(_LEFT, left)


def take(
    target: Target, options: Mapping[str, object], key: jax.Array, timing: Timing
) -> Optimum | None:
    """Return the optimum that was left, once, if it is what these would find.

    A fit is charged as if it had found it: with its seconds of running, its evaluations, and the
    code that it needed.
    """
    left: LeftOptimum | None = target.compiled_once.get(_LEFT)
    target.compiled_once.keep(_LEFT, None)
    if left is None or (left.options, left.key) != (options, _numbers(key)):
        return None
    timing.run_seconds += left.run_seconds
    timing.shared_seconds += left.timing.compile_seconds + left.timing.shared_seconds
    timing.density_evaluations += left.timing.density_evaluations
    timing.gradient_evaluations += left.timing.gradient_evaluations
    timing.hvp_evaluations += left.timing.hvp_evaluations
    found = left.optimum
    found.kl = found.kl.as_found(*found.found_with)
    found.kl.timing = timing
    return found


def _numbers(key: jax.Array) -> bytes:
    return np.asarray(jax.random.key_data(key)).tobytes()
