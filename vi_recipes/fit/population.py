"""Which sites are the population's, and which hold one scalar a member: the one place that says."""

from __future__ import annotations

from collections.abc import Sequence

from vi_recipes.model import Site

FEW = 8
"""Scalars of a derived site that is the population's though nothing says what its axes are."""


def population(sites: Sequence[Site]) -> list[str]:
    """Return the parameters of the population among sites, in their order; all where none is.

    A site in a plate has a value a member, however few they are, and so has a derived site with a
    plate's name among its dimensions; but a plate of a mixture's components has no members. All
    other latent sites are the population's, however long they are. So is a derived one of eight
    scalars at most, or with the dimensions of a latent one that is: what is derived along rows, and
    matrices, are not parameters.

    Parameters
    ----------
    sites
        All that a fit has: a derived one is known by those that it is derived from.
    """
    plates = {n for site in sites for n, _, _ in site.plates if n not in site.components}
    single = [s for s in sites if plates.isdisjoint({*s.dims, *(n for n, _, _ in s.plates)})]
    alike = {s.dims for s in single if s.kind == "latent"}
    chosen = [s.name for s in single if s.kind == "latent" or s.size <= FEW or s.dims in alike]
    return chosen or [s.name for s in sites]
