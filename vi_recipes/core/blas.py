"""Linear algebra of small matrices on one core: handing them to several takes longer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

SMALL = 1_000
"""Rows of a matrix up to which BLAS takes one core."""


@contextmanager
def on_one_core(size: int) -> Iterator[None]:
    """Run a block whose matrices have ``size`` rows with one core for each, where they are small.

    An eigendecomposition of 90 rows takes NumPy's threads 10 to 50 times as long as it takes one
    of them, on two cores with something else to do. It holds for the whole process while the
    block runs.
    """
    if size > SMALL:
        yield
        return
    libraries = [one for one in _libraries().lib_controllers if one.user_api == "blas"]
    before = [one.num_threads for one in libraries]
    try:  # a limit of threadpoolctl's own stays for ever where an interrupt strikes as it begins
        for one in libraries:
            one.set_num_threads(1)
        yield
    finally:
        for one, number in zip(libraries, before, strict=True):
            one.set_num_threads(number)


@cache
def _libraries() -> ThreadpoolController:
    """Return the linear algebra that this process has loaded; SciPy's is another than NumPy's."""
    import scipy.linalg  # noqa: F401  so that it is loaded
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
