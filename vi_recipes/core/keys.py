"""Random keys and floating-point precision."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from numbers import Integral
from typing import TYPE_CHECKING, Any

from vi_recipes.core.timing import COMPILED_QUICKLY

if TYPE_CHECKING:
    import jax
    import numpy as np


SEEDS = 2**63
"""Seeds are whole numbers between minus this and this."""


def as_seed(key: Any) -> int:
    """Return an integer seed of any type as Python's.

    Raises
    ------
    ValueError
        Unless it is a whole number that fits 64 bits.
    """
    whole = isinstance(key, Integral) and not isinstance(key, bool)
    if not (whole and -SEEDS <= key < SEEDS):
        raise ValueError(f"key: got {_in_words(key)}, expected a whole number, the seed")
    return int(key)


def one_seed[T](key: T | None, seed: int | None) -> T | int | None:
    """Return what seeds a fit, which may be given by either name; ``None`` where it is by none.

    Raises
    ------
    ValueError
        For both.
    """
    if key is not None and seed is not None:
        raise ValueError(f"seed: got {seed!r} beside key={key!r}, expected one of them")
    return key if seed is None else as_seed(seed)


def seed_of(name: str, seed: int) -> int:
    """Return the seed of a fit by its name, where fits of several names have one seed."""
    return (seed + zlib.crc32(name.encode())) % 2**31


def as_key(key: jax.Array | int | None) -> jax.Array:
    """Return a JAX random key from a key, an integer seed or ``None`` (seed 0).

    Raises
    ------
    ValueError
        For anything else, and for several keys.
    """
    import jax

    check_key(key)
    return key if isinstance(key, jax.Array) else jax.random.key(as_seed(key or 0))


AT_ONCE = 8
"""Keys that the program of :func:`split_key` makes: what any method asks for."""


def split_key(key: jax.Array, number: int = 2) -> list[jax.Array]:
    """Return keys of as many streams, the same as those of :func:`jax.random.split`.

    That compiles a program for every number of keys and every precision, and others that take the
    keys apart. Here one serves all up to :data:`AT_ONCE`: a key does not depend on how many follow.
    It is not for traced keys.
    """
    import jax
    import numpy as np

    if number > AT_ONCE:
        return list(jax.random.split(key, number))
    with jax.enable_x64(False):
        return [_as_kind_of(key, data) for data in np.asarray(_several()(key))[:number]]


@cache
def _several() -> Callable[[jax.Array], jax.Array]:
    import jax

    def several(key: jax.Array) -> jax.Array:
        return jax.random.key_data(jax.random.split(key, AT_ONCE))

    return jax.jit(several, compiler_options=COMPILED_QUICKLY)


def fold_key(key: jax.Array, number: int) -> jax.Array:
    """Return the key of a stream by its number, the same as that of :func:`jax.random.fold_in`.

    That compiles a program for either precision, and one that brings the number into it. It is not
    for traced keys.
    """
    import jax
    import numpy as np

    with jax.enable_x64(False):
        return _as_kind_of(key, np.asarray(_folded()(key, np.uint32(number))))


@cache
def _folded() -> Callable[[jax.Array, Any], jax.Array]:
    import jax

    def folded(key: jax.Array, number: jax.Array) -> jax.Array:
        return jax.random.key_data(jax.random.fold_in(key, number))

    return jax.jit(folded, compiler_options=COMPILED_QUICKLY)


def _as_kind_of(key: jax.Array, data: Any) -> jax.Array:
    """Return the numbers of a key as one of the same kind as another."""
    import jax

    if not jax.numpy.issubdtype(key.dtype, jax.dtypes.prng_key):
        return jax.numpy.asarray(data)
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(key))


def check_key(key: Any) -> None:
    """Raise a :class:`ValueError` for what :func:`as_key` takes no key from; none is made."""
    import jax

    if not isinstance(key, jax.Array):
        as_seed(0 if key is None else key)
        return
    typed = jax.numpy.issubdtype(key.dtype, jax.dtypes.prng_key)
    shape = () if typed else (2,)  # keys of the older kind are two numbers
    one = key.shape == shape and (typed or key.dtype == "uint32")
    if not one:
        raise ValueError(f"key: got {_in_words(key)}, expected one JAX key or a whole number")


def _in_words(key: Any) -> str:
    if not hasattr(key, "dtype"):
        return repr(key)
    return f"an array of {key.dtype} and shape {key.shape}" if key.shape else f"a {key.dtype}"


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
