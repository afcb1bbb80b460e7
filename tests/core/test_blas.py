"""Small matrices are worked on by one core, and all are as they were afterwards."""

from __future__ import annotations

import numpy as np
import scipy.linalg
from threadpoolctl import ThreadpoolController, threadpool_limits

from vi_recipes.core import on_one_core


def threads() -> set[int]:
    found = ThreadpoolController().select(user_api="blas")
    return {library.num_threads for library in found.lib_controllers}


def test_small_matrices_are_worked_on_by_one_core() -> None:
    assert np.isfinite(scipy.linalg.eigvalsh(np.eye(2))).all()  # SciPy's library is loaded
    with threadpool_limits(2, user_api="blas"):
        with on_one_core(90):
            assert threads() == {1}
            with on_one_core(5_000):  # a fit within another leaves it be
                assert threads() == {1}
        assert threads() == {2}
        with on_one_core(5_000):
            assert threads() == {2}
