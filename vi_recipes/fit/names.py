"""Names that ArviZ trees and netCDF files can hold, for sites and dimensions of any name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RESERVED = ("chain", "draw", "sample")
"""Dimensions that ArviZ takes for its own."""

MAX_LENGTH = 100

NAMES = "vi_recipes_names"
"""Attribute of a group: its names -> the true ones, in JSON, where they are not the same."""


def safe_names(names: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Return name -> a name like it that files can hold, no two the same and none ``taken``.

    Slashes, which part groups, and what cannot be printed become underscores.
    """
    names = list(dict.fromkeys(names))
    used = {*taken, *(name for name in names if _holds(name))}
    safe = {}
    for name in names:
        if _holds(name) and name not in taken:
            safe[name] = name
            continue
        base = "".join(c if c.isprintable() and c != "/" else "_" for c in name).strip(" .")
        base = base.removeprefix("_nc4_")[:MAX_LENGTH].rstrip() or "_"
        candidates = (base if k == 1 else f"{base}_{k}" for k in range(1, len(used) + 2))
        safe[name] = next(c for c in candidates if c not in used)
        used.add(safe[name])
    return safe


def _holds(name: str) -> bool:
    return (
        name.isprintable()
        and "/" not in name
        and name == name.strip(" .")
        and 0 < len(name) <= MAX_LENGTH
        and not name.startswith("_nc4_")
    )


@dataclass(frozen=True)
class TreeLayout:
    """How variables are laid out in a tree.

    Parameters
    ----------
    variables
        Name of a variable -> the name it has in the tree.
    dims
        Name of a variable -> the dimensions it has there.
    coords
        Those dimensions -> their labels, where there are some.
    """

    variables: Mapping[str, str]
    dims: Mapping[str, tuple[str, ...]]
    coords: Mapping[str, np.ndarray]

    def rename[T](self, values: Mapping[str, T]) -> dict[str, T]:
        """Return values by the names that their variables have in the tree."""
        return {self.variables[name]: value for name, value in values.items()}

    def attributes(self, names: Iterable[str]) -> dict[str, str]:
        """Return the attributes of a group with these variables: the true names, where needed."""
        other = {self.variables[n]: n for n in names if self.variables[n] != n}
        return {NAMES: json.dumps(other)} if other else {}


def lay_out(
    dims: Mapping[str, Sequence[str]],
    shapes: Mapping[str, tuple[int, ...]],
    coords: Mapping[str, np.ndarray] | None = None,
) -> TreeLayout:
    """Return names for variables, and for their dimensions, that a tree can hold.

    A dimension has a name of its own, other than any variable's, chain and draw, and no variable
    has it twice.

    Parameters
    ----------
    dims, shapes
        Name of a variable -> the names and sizes of its dimensions.
    coords
        Name of a dimension -> its labels.
    """
    variables = safe_names(dims, RESERVED)
    taken = {*RESERVED, *variables.values()}
    laid: dict[tuple[str, int, int], str] = {}  # name, size, how many times before in a variable
    result = {}
    for variable, own in dims.items():
        chosen: list[str] = []
        for k, (dim, size) in enumerate(zip(own, shapes[variable], strict=True)):
            key = dim, size, own[:k].count(dim)
            if key not in laid:
                wanted = f"{dim}_dim" if dim in taken else dim
                (laid[key],) = safe_names([wanted], {*taken, *laid.values()}).values()
            chosen.append(laid[key])
        result[variable] = tuple(chosen)
    labels = {
        name: coords[dim]
        for (dim, size, _), name in laid.items()
        if coords is not None and dim in coords and len(coords[dim]) == size
    }
    return TreeLayout(variables, result, labels)


def true_names(attributes: Mapping[Any, Any]) -> dict[str, str]:
    """Return what :meth:`TreeLayout.attributes` says: name in the tree -> true name."""
    return dict(json.loads(str(attributes.get(NAMES, "{}"))))
