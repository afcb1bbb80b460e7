"""The rows that minibatches are drawn from: which plate, which arguments, and the scale of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, override

import numpy as np
from numpyro.primitives import Messenger

from vi_recipes.core import ModelError, unknown
from vi_recipes.data import ArrayBatches, Batches
from vi_recipes.model import Site, Target


@dataclass(frozen=True)
class Rows:
    """Where minibatches come from, and the plate that they are rows of.

    Parameters
    ----------
    batches
        The rows.
    plate
        Name of the plate.
    in_memory
        Whether they are the target's own rows.
    """

    batches: Batches
    plate: str
    in_memory: bool

    def local(self, target: Target) -> list[str]:
        """Return the latent sites in the plate."""
        return [site.name for site in target.latents if axis_of(site, self.plate) is not None]


def axis_of(site: Site, plate: str) -> int | None:
    """Return the axis of a site that runs over a plate, ``None`` where none does."""
    return next((axis for name, _, axis in site.plates if name == plate), None)


def find_rows(
    target: Target, batch_size: int | None, plate: str | None, batches: Batches | None
) -> Rows | None:
    """Return what minibatches of ``target`` are drawn from; ``None`` where none are asked for.

    Raises
    ------
    ValueError
        For an unknown plate, no plate that holds the likelihood, arguments whose rows cannot be
        drawn, and more rows in a batch than there are.
    """
    if batch_size is None and batches is None:
        return None
    sizes = {name: size for s in target.sites.values() for name, size, _ in s.plates}
    name = _find_plate(target, sizes, plate)
    arguments = row_arguments(target, sizes[name])
    if not arguments:
        raise ModelError(
            f"plate: '{name}' has size {sizes[name]}, but no argument of model '{target.name}' "
            "has as many rows, along its first axis, that could be drawn; pass the data of the "
            "plate as arrays whose first axis is the plate's"
        )
    if held := [a for a in arguments if a not in target.traced_arguments]:
        raise ModelError(
            f"argument(s) {', '.join(held)}: the model reads sizes off their values, so rows of "
            "them cannot be drawn; pass the sizes, such as the number of groups, as arguments of "
            "their own"
        )
    if batches is None:
        assert batch_size is not None
        if batch_size > sizes[name]:
            raise ValueError(
                f"batch_size: got {batch_size}, expected at most the {sizes[name]} rows of plate "
                f"'{name}'"
            )
        arrays = {argument: target.data[argument] for argument in arguments}
        return Rows(ArrayBatches(arrays, sizes[name], batch_size), name, in_memory=True)
    if not 1 <= batches.batch_size <= batches.num_rows:
        raise ValueError(
            f"batches: got batch_size {batches.batch_size} and num_rows {batches.num_rows}; "
            "expected at least one row in a batch, and no more than there are"
        )
    return Rows(batches, name, in_memory=False)


def row_arguments(target: Target, size: int) -> list[str]:
    """Return the arguments of the model that are arrays with ``size`` rows."""
    arrays = {name: value for name, value in target.data.items() if isinstance(value, np.ndarray)}
    return [name for name, value in arrays.items() if value.ndim and len(value) == size]


def _find_plate(target: Target, sizes: Mapping[str, int], plate: str | None) -> str:
    if target.has_factors and not target.observed:
        raise ModelError(
            f"model '{target.name}' has its likelihood in numpyro.factor terms, or in sums over "
            "discrete latent variables, whose rows cannot be told apart: give it an observed site "
            "(obs=...) in a plate; a mixture has one with dist.MixtureSameFamily"
        )
    if plate is not None and plate not in sizes:
        raise ValueError(f"plate: {unknown('plate', plate, sizes)}")
    holds = {
        name: [s.name for s in target.observed if axis_of(s, name) is not None] for name in sizes
    }
    if plate is not None:
        if not holds[plate]:
            others = [name for name, sites in holds.items() if sites]
            raise ModelError(
                f"plate: no observed site is in '{plate}', so drawing rows of it leaves the "
                f"likelihood whole; observed sites are in {', '.join(others) or 'no plate'}"
            )
        return plate
    every = [name for name, sites in holds.items() if len(sites) == len(target.observed)]
    if not every:
        raise ModelError(
            f"model '{target.name}' has no plate that holds every observed site "
            f"({', '.join(s.name for s in target.observed)}), so no rows can be drawn: put the "
            "likelihood into numpyro.plate('row', len(y))"
        )
    if len(every) > 1:
        raise ValueError(
            f"plate: the observed sites are in {', '.join(every)}; say of which one the rows are "
            f"drawn, as in plate='{every[0]}'"
        )
    return every[0]


class ScaleUp(Messenger):  # type: ignore[misc]
    """Counts the log densities in a plate several times.

    Parameters
    ----------
    plate
        Its name.
    factor
        How many times.
    """

    def __init__(self, plate: str, factor: float) -> None:
        self.plate, self.factor = plate, factor
        super().__init__()

    @override
    def process_message(self, msg: dict[str, Any]) -> None:
        """Look at one message."""
        if msg["type"] == "sample" and dim_of(msg, self.plate) is not None:
            msg["scale"] = self.factor * (1.0 if msg["scale"] is None else msg["scale"])


def dim_of(site: Mapping[str, Any], plate: str) -> int | None:
    """Return the dimension of a plate in a site's batch shape, from the right."""
    return next((f.dim for f in site["cond_indep_stack"] if f.name == plate), None)
