"""Whether single precision can hold a model's data and what they say of its sites."""

from __future__ import annotations

from typing import Any

import numpy as np

from vi_recipes.model import Target

SHARE = 0.1
"""Of the standard error of a mean: what neighbouring numbers of single precision may differ by."""

LARGEST = 1e18
"""What can be squared in single precision; its inverse is the smallest spread that can be."""


def why_not_single(target: Target) -> str | None:
    """Return why a target is not to be fitted in single precision; ``None`` if it may be.

    Numbers of some 7 digits cannot tell 100000000 from 100000001: what is left of such data is
    noise, and a method has no way of seeing it.
    """
    cure = "use dtype='float64', or take off their mean and divide by their sd"
    for name, value in target.data.items():
        array = np.asarray(value) if isinstance(value, np.ndarray) else None
        if array is None or array.dtype.kind not in "fiu" or not array.size:
            continue
        largest = float(np.abs(array.astype(float)).max())
        spread = float(array.std(dtype=float))
        if largest > LARGEST or (array.dtype.kind in "iu" and largest > np.iinfo(np.int32).max):
            return (
                f"argument '{name}' has numbers of {largest:.3g}, which single precision cannot "
                f"compute with: {cure}"
            )
        if spread > 0 and _apart(largest) > SHARE * spread / np.sqrt(array.size):
            return (
                f"argument '{name}' has numbers of {largest:.9g} that differ by {spread:.3g}, and "
                f"single precision knows such numbers to {_apart(largest):.2g} only: {cure}"
            )
        if 0 < spread < 1 / LARGEST:
            return (
                f"argument '{name}' has numbers that differ by {spread:.3g}, whose squares single "
                f"precision cannot hold: {cure}"
            )
    start, units = target.anywhere(), target.units
    for site in target.latents:
        place = target.slices[site.name]
        if (_apart(start[place]) > SHARE * units[place]).any():
            worst = float(np.abs(start[place]).max())
            return (
                f"site '{site.name}' has values near {worst:.9g}, and single precision knows such "
                f"numbers to {_apart(worst):.2g} only: use dtype='float64', or let the site be a "
                "difference from there"
            )
    return None


def _apart(size: Any) -> Any:
    """Return by how much numbers of single precision differ there."""
    return np.spacing(np.abs(np.asarray(size)).astype(np.float32)).astype(float)
