"""What plates suggest: members that may not touch one another, and structures of a Hessian.

A suggestion is all it is: whoever uses one verifies it by derivatives of the density.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from vi_recipes.algebra import MIN_FAMILY, Families, LocalStructure
from vi_recipes.model.sites import Site


def candidates(latents: Sequence[Site], slices: Mapping[str, slice]) -> list[LocalStructure]:
    """Return the structures that the plates of the latent sites suggest, the largest first.

    A set of plates that holds a latent site makes members of every combination of their indices;
    sites in all of these plates are local to them, the others are in the border.
    """
    dim = max(place.stop for place in slices.values())
    structures = []
    # in the model's order: that of a set is another in every process, and so would be the code
    for chosen in dict.fromkeys(frozenset(n for n, _, _ in s.plates) for s in latents if s.plates):
        names = sorted(chosen)
        blocks = []
        for site in latents:
            axes = {name: axis for name, _, axis in site.plates}
            if chosen <= axes.keys():
                blocks.append(_members_first(site, slices, [axes[name] for name in names]))
        sites = tuple(s.name for s in latents if chosen <= {name for name, _, _ in s.plates})
        local = np.concatenate(blocks, axis=1)
        border = np.setdiff1d(np.arange(dim), local)
        structures.append(LocalStructure(border, local, sites, " x ".join(names)))
    return sorted(structures, key=lambda s: (-s.local.size, s.local.shape[1]))


def find_families(latents: Sequence[Site], slices: Mapping[str, slice]) -> Families | None:
    """Return the families that the plates of the latent sites suggest; ``None`` without two."""
    members: dict[frozenset[str], list[np.ndarray]] = {}
    names = []
    for site in latents:
        plates = [(name, axis) for name, size, axis in site.plates if size >= MIN_FAMILY]
        if plates:
            block = _members_first(site, slices, [axis for _, axis in sorted(plates)])
            members.setdefault(frozenset(n for n, _ in plates), []).append(block)
            names.append(site.name)
    families = [np.concatenate(blocks, axis=1) for blocks in members.values()]
    if len(families) < 2 or len({f.shape[1] for f in families}) > 1:
        return None
    local = np.concatenate(families)
    dim = max(place.stop for place in slices.values())
    border = np.setdiff1d(np.arange(dim), local)
    plate = ", ".join(" x ".join(sorted(key)) for key in members)
    structure = LocalStructure(border, local, tuple(names), plate)
    return Families(structure, tuple(len(f) for f in families))


def shared_members(
    sites: Sequence[Site], slices: Mapping[str, slice]
) -> tuple[Int[np.ndarray, "members width"], str] | None:
    """Return the coordinates of the members of the plates that all the sites share, and those.

    Where they share none, the members are those of their first axes, if the sites agree on its
    length; the plates' name is then empty. ``None`` where the sites do not agree.
    """
    shared = set.intersection(*({name for name, _, _ in site.plates} for site in sites))
    blocks = []
    for site in sites:
        axes = [axis for name, _, axis in site.plates if name in shared]
        if not shared:
            axes = [0] if site.unconstrained_shape else []
        if not axes or max(axes) >= len(site.unconstrained_shape):
            return None
        blocks.append(_members_first(site, slices, axes))
    if len({len(block) for block in blocks}) > 1:
        return None
    plates = [name for name, _, _ in sites[0].plates if name in shared]
    return np.concatenate(blocks, axis=1), " x ".join(plates)


def _members_first(
    site: Site, slices: Mapping[str, slice], axes: Sequence[int]
) -> Int[np.ndarray, "members width"]:
    """Return a latent site's coordinates, a row for every combination of indices of ``axes``."""
    place = slices[site.name]
    index = np.arange(place.start, place.stop).reshape(site.unconstrained_shape)
    front = np.moveaxis(index, axes, range(len(axes)))
    return front.reshape(int(np.prod(front.shape[: len(axes)])), -1)
