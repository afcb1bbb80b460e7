"""Arrays where JAX takes them as they are, so that data lie in memory once."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

ALIGNMENT = 64
"""Bytes that divide the address of an array which JAX does not copy onto a processor."""

LARGE = 2**20
"""Bytes of an array from which on a copy is worth avoiding."""


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    """Return an array whose values are not set, at an address that JAX takes."""
    size = math.prod(shape) * dtype.itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    first = -memory.ctypes.data % ALIGNMENT
    return memory[first : first + size].view(dtype).reshape(shape)


def aligned(array: np.ndarray) -> np.ndarray:
    """Return a large array at an address that JAX takes: itself, or else a copy.

    Once whoever made the array drops it, a copy here is the only one there is. Left where it is,
    there would be two for as long as it is fitted to.
    """
    there = array.flags.c_contiguous and array.ctypes.data % ALIGNMENT == 0
    if there or array.nbytes < LARGE:
        return array
    copy = empty(array.shape, array.dtype)
    copy[...] = array
    return copy
