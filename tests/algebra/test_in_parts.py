"""A block-arrow matrix in parts, by threads that have members each, against the whole one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, local
from typing import Any

import numpy as np
import pytest

from vi_recipes.algebra import BlockArrow, BlockArrowInParts, LocalStructure, trust_region_newton

MEMBERS = (3, 4, 1)
"""Of each of three processes."""

BORDER, WIDTH = 3, 2


class Threads:
    """Threads that add up what each gives."""

    def __init__(self, count: int) -> None:
        self._barrier, self._given = Barrier(count, timeout=60), [np.zeros(0)] * count
        self._own = local()

    def run(self, number: int, work: Callable[[int, Threads], Any]) -> Any:
        """Do this thread's part of some work."""
        self._own.index = number
        return work(number, self)

    @property
    def index(self) -> int:
        return int(self._own.index)

    def add(self, numbers: np.ndarray) -> np.ndarray:
        self._given[self.index] = np.array(numbers)
        self._barrier.wait()
        total = np.asarray(sum(self._given))
        self._barrier.wait()
        return total


def structure(members: int) -> LocalStructure:
    """Return that of a vector whose border lies between the members."""
    dim = BORDER + members * WIDTH
    border = np.arange(2, 2 + BORDER)
    return LocalStructure(border, np.setdiff1d(np.arange(dim), border).reshape(-1, WIDTH))


class Matrix:
    """A random matrix, whole and in parts, with a vector."""

    def __init__(self, seed: int, shift: float) -> None:
        rng = np.random.default_rng(seed)
        total = sum(MEMBERS)
        blocks = rng.standard_normal((total, WIDTH, WIDTH))
        blocks = blocks @ np.swapaxes(blocks, 1, 2) + shift * np.eye(WIDTH)
        corners = rng.standard_normal((len(MEMBERS), BORDER, BORDER))
        corners = corners + np.swapaxes(corners, 1, 2) + 4 * shift * np.eye(BORDER)
        edge = 0.3 * rng.standard_normal((BORDER, total, WIDTH))
        form = structure(total)
        metric = np.exp(rng.standard_normal(form.dim))
        self.whole = BlockArrow(form, corners.sum(axis=0), edge, blocks, metric)
        self.vector = rng.standard_normal(form.dim)
        ends = np.cumsum([0, *MEMBERS])
        self.own, self.parts = [], []
        for k, corner in enumerate(corners):
            here = slice(ends[k], ends[k + 1])
            its = structure(MEMBERS[k])
            own = np.empty(its.dim, int)
            own[its.border], own[its.local] = form.border, form.local[here]
            self.own.append(own)
            self.parts.append(BlockArrow(its, corner, edge[:, here], blocks[here], metric[own]))

    def in_threads(self, work: Callable[[BlockArrowInParts, np.ndarray], Any]) -> list[Any]:
        """Return what ``work`` finds of each part and its part of the vector."""

        def part(number: int, threads: Threads) -> Any:
            matrix = BlockArrowInParts(self.parts[number], threads)
            return work(matrix, self.vector[self.own[number]])

        threads = Threads(len(MEMBERS))
        with ThreadPoolExecutor(len(MEMBERS)) as pool:
            return list(pool.map(lambda k: threads.run(k, part), range(len(MEMBERS))))


@pytest.mark.parametrize("shift", [2.0, -1.0])
def test_parts_do_what_the_whole_does(shift: float) -> None:
    matrix = Matrix(3, shift)
    whole, vector = matrix.whole, matrix.vector
    numbers = matrix.in_threads(
        lambda m, v: (m.positive, m.norm(v), m.inner(v, v), m.num_negative(), m.decrement(v))
    )
    expected = [whole.positive, whole.norm(vector), vector @ vector, whole.num_negative()]
    expected.append(whole.decrement(vector))
    assert whole.positive == (shift > 0)
    for found in numbers:
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    for radius in (0.05, 1e3) if shift > 0 else (0.05, 2.0):
        steps = matrix.in_threads(lambda m, v, r=radius: (m.dot(v), m.step(v, r), m.noise()))
        product, step = whole.dot(vector), whole.step(vector, radius)
        for own, (its_product, its_step, _) in zip(matrix.own, steps, strict=True):
            np.testing.assert_allclose(its_product, product[own], rtol=1e-10, atol=1e-12)
            np.testing.assert_allclose(its_step, step[own], rtol=1e-10, atol=1e-12)
        border = [noise[structure(n).border] for n, (*_, noise) in zip(MEMBERS, steps, strict=True)]
        np.testing.assert_array_equal(border, [border[0]] * len(MEMBERS))
    if shift > 0:
        pairs = matrix.in_threads(lambda m, v: (m.solve(v), m.variances()))
        for own, (solved, variances) in zip(matrix.own, pairs, strict=True):
            np.testing.assert_allclose(solved, whole.solve(vector)[own], rtol=1e-10)
            np.testing.assert_allclose(variances, whole.variances()[own], rtol=1e-10)


def test_a_search_in_parts_takes_the_whole_one_s_steps() -> None:
    """A quartic bowl on top of an indefinite matrix, from near its saddle."""
    matrix = Matrix(5, -0.5)
    start = 0.1 * matrix.vector

    def search(form: BlockArrow, start: np.ndarray) -> tuple[list[np.ndarray], str]:
        path = []

        def value_and_grad(z: np.ndarray) -> tuple[float, np.ndarray]:
            product = form.dot(z)
            value = form.inner(z, product) / 2 + form.inner(z**2, z**2) / 4
            return value, product + z**3

        def curvature(z: np.ndarray) -> BlockArrow:
            border, local = form.split(3 * z**2)
            share = 1 / len(MEMBERS) if isinstance(form, BlockArrowInParts) else 1.0
            own = BlockArrow(
                form.structure,
                form.corner + share * np.diag(border),
                form.edge,
                form.blocks + local[:, :, None] * np.eye(WIDTH),
                form.metric,
            )
            if isinstance(form, BlockArrowInParts):
                return BlockArrowInParts(own, form._processes)
            return own

        def callback(z: np.ndarray) -> bool:
            path.append(z)
            return False

        _, why, _ = trust_region_newton(
            value_and_grad, curvature, start, max_steps=60, tolerance=1e-10, callback=callback
        )
        return path, why

    path, why = search(matrix.whole, start)
    assert why == "converged"
    assert len(path) > 4
    for own, (its_path, its_why) in zip(
        matrix.own, matrix.in_threads(lambda m, v: search(m, 0.1 * v)), strict=True
    ):
        assert its_why == why
        for here, there in zip(its_path, path, strict=True):
            np.testing.assert_allclose(here, there[own], rtol=1e-6, atol=1e-8)
