"""What a function does further out, where it is not defined everywhere."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from vi_recipes.algebra import moves_to_edges


def within(
    value: Callable[[np.ndarray], float], wall: float, beyond: float = np.nan
) -> Callable[[np.ndarray], float]:
    """Return a function that is not known beyond the wall."""
    return lambda z: value(z) if z[0] <= wall else beyond


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (lambda z: np.exp(-z[0]), 1),  # falls, by less and less
        (lambda z: 0.01 * z[0], 0),  # rises
        (lambda z: 1e-3 * (z[0] - 8) ** 2, 0),  # was lower on the way
    ],
)
def test_an_edge_that_nothing_is_defined_beyond_is_told_by_the_way_there(
    value: Callable[[np.ndarray], float], found: int
) -> None:
    z = np.array([10.0])
    moves = moves_to_edges(within(value, 10.0), z, np.zeros(1), [0])
    outward = [move for move in moves if move.sign > 0]
    assert len(outward) == found
    assert all((move.gain, move.value) == (0.0, value(z)) for move in outward)
    # infinitely bad is known
    walled = moves_to_edges(within(value, 10.0, np.inf), z, np.zeros(1), [0])
    assert not [move for move in walled if move.sign > 0]
