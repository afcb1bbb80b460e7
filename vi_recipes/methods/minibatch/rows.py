"""The rows that minibatches are drawn from: which plate, and which arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vi_recipes.core import ModelError, unknown
from vi_recipes.data import ArrayBatches, Batches, MemberBatches
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

    @property
    def members(self) -> MemberBatches | None:
        """The minibatches, where they have all rows of some members of a plate of latent sites."""
        return self.batches if isinstance(self.batches, MemberBatches) else None

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
    if isinstance(batches, MemberBatches) or _is_of_members(target, sizes, plate):
        return _find_members(target, sizes, batch_size, plate, batches)
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


def _is_of_members(target: Target, sizes: Mapping[str, int], plate: str | None) -> bool:
    """Whether a plate has latent sites and no observed ones: the groups of the rows."""
    if plate is None or plate not in sizes:
        return False
    return any(axis_of(site, plate) is not None for site in target.latents) and not any(
        axis_of(site, plate) is not None for site in target.observed
    )


def _find_members(
    target: Target,
    sizes: Mapping[str, int],
    batch_size: int | None,
    plate: str | None,
    batches: Batches | None,
) -> Rows:
    """Return the minibatches of whole members of a plate of latent sites.

    Raises
    ------
    ValueError
        Where the plate, or the argument that tells the members of rows, is not to be found.
    """
    groups = [name for name in sizes if _is_of_members(target, sizes, name)]
    if plate is None and len(groups) != 1:
        raise ValueError(
            f"plate: {', '.join(groups) or 'no plate'} holds latent and no observed sites; say "
            "whose members the rows belong to, as in plate='group'"
        )
    name = plate or groups[0]
    if name not in groups:
        raise ValueError(f"plate: {unknown('plate of latent and no observed sites', name, groups)}")
    if batches is not None:
        if not isinstance(batches, MemberBatches):
            raise ValueError(
                f"plate: no observed site is in '{name}', whose members need all their rows in a "
                f"minibatch; give batches_from_parquet(..., whole=...) the argument that numbers "
                "the members"
            )
        found, in_memory = batches, False
    else:
        assert batch_size is not None
        found, in_memory = _members_in_memory(target, name, sizes, batch_size), True
    if not 1 <= found.batch_size <= sizes[name]:
        raise ValueError(
            f"batch_size: got {found.batch_size}, expected 1 to the {sizes[name]} members of "
            f"plate '{name}'"
        )
    found.cover(sizes[name])
    return Rows(found, name, in_memory)


def _members_in_memory(
    target: Target, plate: str, sizes: Mapping[str, int], batch_size: int
) -> MemberBatches:
    rows = {size for site in target.observed for _, size, _ in site.plates}
    arrays = {n: v for n, v in target.data.items() if isinstance(v, np.ndarray) and v.ndim}
    if len(rows) != 1 or rows == {sizes[plate]}:
        raise ModelError(
            f"plate: the observed sites of model '{target.name}' are in rows of "
            f"{', '.join(map(str, sorted(rows))) or 'no plate'}; minibatches of the "
            f"{sizes[plate]} members of '{plate}' need one plate of rows, of another size"
        )
    (num_rows,) = rows
    of_rows = {name: array for name, array in arrays.items() if len(array) == num_rows}
    codes = [
        name
        for name, array in of_rows.items()
        if array.ndim == 1 and array.dtype.kind in "iu" and array.size
        and array.min() == 0 and array.max() == sizes[plate] - 1
    ]  # fmt: skip
    codes = [plate] if plate in codes else codes
    if len(codes) != 1:
        raise ModelError(
            f"plate: {', '.join(codes) or 'no argument'} of model '{target.name}' numbers the "
            f"{sizes[plate]} members of '{plate}' for its rows, expected one argument: whole "
            f"numbers from 0 to {sizes[plate] - 1}, called '{plate}' where there are several"
        )
    if held := [name for name in of_rows if name not in target.traced_arguments]:
        raise ModelError(
            f"argument(s) {', '.join(held)}: the model reads sizes off their values, so rows of "
            "them cannot be drawn; pass the sizes, such as the number of groups, as arguments of "
            "their own"
        )
    return MemberBatches(ArrayBatches(of_rows, num_rows, num_rows), codes[0], batch_size)


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
