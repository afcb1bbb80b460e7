"""Random keys and floating-point precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jax
    import numpy as np


def as_key(key: jax.Array | int | None) -> jax.Array:
    """Return a JAX random key from a key, an integer seed or ``None`` (seed 0)."""
    import jax
    import numpy as np

    if key is None or isinstance(key, int | np.integer):
        return jax.random.key(0 if key is None else int(key))
    return key


def generator(key: jax.Array | int | None) -> np.random.Generator:
    """Return NumPy's generator of what ``key`` seeds.

    What is drawn outside compiled code comes from it: JAX compiles a program for every shape.
    """
    import jax
    import numpy as np

    return np.random.default_rng(np.asarray(jax.random.key_data(as_key(key))))


@contextmanager
def precision(dtype: str) -> Iterator[None]:
    """Run a block in ``"float32"`` or ``"float64"``, leaving the caller's setting as it was."""
    if dtype not in ("float32", "float64"):
        raise ValueError(f"dtype: got {dtype!r}, expected 'float32' or 'float64'")
    import jax

    with jax.enable_x64(dtype == "float64"):
        yield
