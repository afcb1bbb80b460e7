"""Plates that may hold local structure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vi_recipes.algebra import MIN_FAMILY, Families, LocalStructure
from vi_recipes.model.sites import Site


def candidates(latents: Sequence[Site], slices: dict[str, slice]) -> list[LocalStructure]:
    """Return the structures that the plates of the latent sites suggest, the largest first.

    A set of plates that holds a latent site makes members of every combination of their indices;
    sites in all of these plates are local to them, the others are in the border.
    """
    index = {
        s.name: np.arange(slices[s.name].start, slices[s.name].stop).reshape(s.unconstrained_shape)
        for s in latents
    }
    dim = max(place.stop for place in slices.values())
    found = []
    for chosen in {frozenset(name for name, _, _ in s.plates) for s in latents} - {frozenset()}:
        names = sorted(chosen)
        blocks = []
        for site in latents:
            axes = {name: axis for name, _, axis in site.plates}
            if chosen <= axes.keys():
                front = np.moveaxis(index[site.name], [axes[n] for n in names], range(len(names)))
                members = int(np.prod(front.shape[: len(names)]))
                blocks.append(front.reshape(members, -1))
        sites = tuple(s.name for s in latents if chosen <= {name for name, _, _ in s.plates})
        local = np.concatenate(blocks, axis=1)
        border = np.setdiff1d(np.arange(dim), local)
        found.append(LocalStructure(border, local, sites, " x ".join(names)))
    return sorted(found, key=lambda s: (-s.local.size, s.local.shape[1]))


def find_families(latents: Sequence[Site], slices: dict[str, slice]) -> Families | None:
    """Return the families that the plates of the latent sites suggest; ``None`` without two."""
    members: dict[frozenset[str], list[np.ndarray]] = {}
    names = []
    for site in latents:
        place = slices[site.name]
        index = np.arange(place.start, place.stop).reshape(site.unconstrained_shape)
        plates = [(name, axis) for name, size, axis in site.plates if size >= MIN_FAMILY]
        if plates:
            axes = [axis for _, axis in sorted(plates)]
            front = np.moveaxis(index, axes, range(len(axes)))
            count = int(np.prod(front.shape[: len(axes)]))
            members.setdefault(frozenset(n for n, _ in plates), []).append(front.reshape(count, -1))
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
