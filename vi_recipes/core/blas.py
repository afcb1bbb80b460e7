"""Linear algebra of small matrices on one core: handing them to several takes longer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
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
    with _libraries().limit(limits=1, user_api="blas") if size <= SMALL else nullcontext():
        yield


@cache
def _libraries() -> ThreadpoolController:
    """Return the linear algebra that this process has loaded; SciPy's is another than NumPy's."""
    import scipy.linalg  # noqa: F401  so that it is loaded
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
