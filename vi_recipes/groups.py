"""Arrays by name as groups of a tree, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import xarray as xr


def write_group(tree: xr.DataTree, group: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Add arrays to a tree, each with dimensions of its own; nothing where there are none."""
    import xarray as xr

    if arrays:
        data = {
            n: (tuple(f"{n}_{i or 'index'}" for i in range(np.ndim(v))), v)
            for n, v in arrays.items()
        }
        tree[group] = xr.DataTree(xr.Dataset(data))


def read_group(tree: xr.DataTree, group: str) -> dict[str, np.ndarray]:
    """Return the arrays of a group by name; none where the tree has no such group."""
    if group not in tree.children:
        return {}
    return {str(n): np.asarray(v) for n, v in tree[group].to_dataset().data_vars.items()}
