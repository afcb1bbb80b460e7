"""The members of a plate divided over hosts, each member with all its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from vi_recipes.algebra import LocalStructure
from vi_recipes.core import arrays_by_hosts, sum_over_hosts
from vi_recipes.model.plates import candidates
from vi_recipes.model.sites import Sites
from vi_recipes.model.start import DensityWithStart


@dataclass(frozen=True)
class Division[T: DensityWithStart]:
    """Which members of a plate this host has, and its own part of a target.

    A flat vector of the part has the coordinates that every host has alike, and those of this
    host's members.

    Parameters
    ----------
    whole
        The target with the members of all hosts.
    local
        The same model of this host's members and rows alone.
    plate
        Whose members they are.
    codes
        The members of every host, numbered as in ``whole``.
    index
        Number of this host.
    size
        Numbers in the data of all hosts and in the whole flat vector, as :attr:`Target.size`.
    """

    whole: T
    local: T
    plate: str
    codes: Sequence[Int[np.ndarray, " _"]]
    index: int
    size: int

    @property
    def shared(self) -> tuple[str, ...]:
        """Latent sites that have no members, so that every host has all of them."""
        pairs = zip(self.whole.latents, self.local.latents, strict=True)
        return tuple(w.name for w, o in pairs if w.shape == o.shape)

    @property
    def border(self) -> Int[np.ndarray, " border"]:
        """Where the coordinates of :attr:`shared` are in a flat vector of the part."""
        places = [self.local.slices[name] for name in self.shared]
        return np.concatenate([np.arange(p.start, p.stop) for p in places] or [np.zeros(0, int)])

    def structure(self, target: T) -> LocalStructure:
        """Return the structure of a Hessian, of ``whole`` or ``local``, by these members."""
        known = candidates(target.latents, target.slices)
        return next(structure for structure in known if structure.plate == self.plate)

    # -- what hosts tell one another: each calls these at the same time ---------------------------

    def add(self, numbers: np.ndarray) -> np.ndarray:
        """Return the sum over hosts of an array of the same shape on each."""
        return sum_over_hosts(numbers)

    def any(self, flag: bool) -> bool:
        """Return whether something holds on any host."""
        return bool(self.add(np.array([float(flag)]))[0])

    def members(self, own: np.ndarray) -> np.ndarray:
        """Return an array with an entry a member along its first axis, of all from one's own."""
        parts = arrays_by_hosts(own)
        made = np.empty((sum(map(len, parts)), *own.shape[1:]), own.dtype)
        for codes, part in zip(self.codes, parts, strict=True):
            made[codes] = part
        return made

    def site(self, own: np.ndarray, shape: tuple[int, ...], its: tuple[int, ...]) -> np.ndarray:
        """Return a site's values, of shape ``shape``, from this host's, whose shape is ``its``.

        Further axes may come after those of the site.
        """
        axis = axis_of_members(shape, its)
        if axis is None:
            return own
        return np.moveaxis(self.members(np.moveaxis(own, axis, 0)), 0, axis)

    def gathered(self, own: np.ndarray) -> np.ndarray:
        """Return a flat vector, or a matrix with a row a coordinate, of all members."""
        made = np.empty((self.whole.dim, *own.shape[1:]), own.dtype)
        for whole, local in zip(self.whole.latents, self.local.latents, strict=True):
            shapes = whole.unconstrained_shape, local.unconstrained_shape
            values = own[self.local.slices[local.name]].reshape((*shapes[1], *own.shape[1:]))
            made[self.whole.slices[whole.name]] = self.site(values, *shapes).reshape(
                -1, *own.shape[1:]
            )
        return made

    def sites(self, own: Sites) -> Sites:
        """Return the values of all quantities from those that they have for one host's members."""
        pairs = zip(self.whole.quantities, self.local.quantities, strict=True)
        return {w.name: self.site(own[w.name], w.shape, o.shape) for w, o in pairs}

    # -- and what each does by itself --------------------------------------------------------------

    def own(self, z: Float[np.ndarray, " dim"]) -> Float[np.ndarray, " own"]:
        """Return this host's part of a flat vector of all members."""
        parts = []
        for whole, local in zip(self.whole.latents, self.local.latents, strict=True):
            shape = whole.unconstrained_shape
            values = z[self.whole.slices[whole.name]].reshape(shape)
            axis = axis_of_members(shape, local.unconstrained_shape)
            parts.append(
                values if axis is None else np.take(values, self.codes[self.index], axis=axis)
            )
        return np.concatenate([part.ravel() for part in parts])


def axis_of_members(whole: tuple[int, ...], own: tuple[int, ...]) -> int | None:
    """Return the axis along which a site has members: that in which two shapes differ."""
    differ = [k for k, (n, m) in enumerate(zip(whole, own, strict=True)) if n != m]
    return differ[0] if differ else None
