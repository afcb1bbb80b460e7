"""Which coordinate of the flat vector each scalar depends on."""

from __future__ import annotations

import numpy as np


def one_coordinate(slopes: list[np.ndarray], random: np.ndarray, size: int) -> np.ndarray | None:
    """Return the one coordinate of a site that each element depends on; ``None`` if several.

    Parameters
    ----------
    slopes
        At each of some points, the elements' slopes along ones, along the coordinates' index (from
        one) and along a random direction; each shape (3, *elements).
    random
        That direction, shape (size,).
    size
        Number of coordinates.
    """
    index = np.zeros(slopes[0].shape[1:], int)
    known = np.zeros(index.shape, bool)
    for by_one, by_index, by_random in slopes:
        scale = np.abs(by_one)
        with np.errstate(divide="ignore", invalid="ignore"):
            guess = np.where(scale > 0, by_index / by_one, 1.0)
        guess = np.clip(np.nan_to_num(np.round(guess), nan=1.0), 1, size).astype(int) - 1
        limit = 1e-7 * max(float(scale.max()), 1e-300)
        if (np.abs(by_index - (guess + 1) * by_one) > limit * size).any():
            return None
        if (np.abs(by_random - random[guess] * by_one) > limit).any():
            return None
        if (known & (scale > 0) & (guess != index)).any():
            return None
        index = np.where(scale > 0, guess, index)
        known |= scale > 0
    return index
