"""Memory that was freed, handed back to the system."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable
from functools import cache

BY_DASK = ("MALLOC_TRIM_THRESHOLD_", "65536")
"""What Dask has in the environment of the workers that it begins, and what it sets that to."""

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Numbers of two settings of the GNU C library: from ``malloc.h``."""

MAPPED = 32 * 2**20
"""Bytes up to which that library comes to keep what is freed, if nobody tells it otherwise."""


@cache
def keep_freed() -> bool:
    """Have a worker of Dask's keep what it frees for what it needs next, up to 64 MiB.

    Dask has its workers hand everything back at once, so that the memory they show is that of
    results. An array of a megabyte then costs 256 page faults each time one is made, and cells that
    make many take a quarter more of the processor. This is as in any other process; a threshold
    that the user has set stays.

    Returns
    -------
    bool
        Whether anything was changed. The setting is the process's, for good.
    """
    name, value = BY_DASK
    mallopt = _of_library("mallopt")
    if os.environ.get(name) != value or mallopt is None:
        return False
    return bool(mallopt(MMAP_THRESHOLD, MAPPED) and mallopt(TRIM_THRESHOLD, 2 * MAPPED))


OWN_MAPPED = 2**20
"""Bytes from which an array of a host is a piece of memory of its own."""

OF_USER = ("MALLOC_MMAP_THRESHOLD_", "glibc.malloc.mmap_threshold")
"""What a user sets it by: a variable, and a word of ``GLIBC_TUNABLES``."""


@cache
def hand_back_large() -> bool:
    """Have every array from a megabyte on handed back to the system as soon as it is freed.

    That library otherwise comes to keep what is freed, up to 32 MB a piece, between what is still
    used: hundreds of MB of a fit of a million rows, more or fewer from run to run. The system then
    fills pages with zeros each time an array is made: a fifth more processor seconds.

    Returns
    -------
    bool
        Whether anything was changed: what the user has set stays. The setting is the process's,
        for good.
    """
    variable, word = OF_USER
    set_already = variable in os.environ or word in os.environ.get("GLIBC_TUNABLES", "")
    mallopt = _of_library("mallopt")
    if set_already or mallopt is None:
        return False
    return bool(mallopt(MMAP_THRESHOLD, OWN_MAPPED) and mallopt(TRIM_THRESHOLD, OWN_MAPPED))


COLLECT_AFTER = (20_000, 50, 20)
"""Objects, collections of the young and of the middle ones after which garbage is looked for."""


@cache
def collect_rarely() -> None:
    """Have Python look for garbage less often in this process, for good: in one of ours.

    What is imported, traced and compiled is millions of objects that stay. By Python's own
    thresholds the looking takes a twentieth of a command and a tenth of many small fits, by these a
    thirtieth at most.
    """
    gc.set_threshold(*COLLECT_AFTER)


def give_back() -> None:
    """Hand memory that was freed back to the system, where the C library takes that request.

    What a compiler has freed lies between what it keeps, and stays with the process otherwise:
    large arrays then come on top of it. It takes some milliseconds.
    """
    if (trim := _of_library("malloc_trim")) is not None:
        trim(0)


@cache
def _of_library(name: str) -> Callable[..., int] | None:
    """Return a function of the GNU C library; ``None`` under another one."""
    try:
        found: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
    return found
