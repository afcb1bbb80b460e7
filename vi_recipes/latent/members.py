"""Which sites are latent variables, and which member every element of a density belongs to.

It is found out, not declared: for continuous z in :mod:`vi_recipes.latent.continuous`, for discrete
z in :mod:`vi_recipes.latent.states`.
"""

from __future__ import annotations

from collections.abc import Sequence

from vi_recipes.core import MethodFailure, Status
from vi_recipes.latent.continuous import hierarchical, split_by_names, split_by_plates
from vi_recipes.latent.split import Split, without_latents
from vi_recipes.latent.states import as_chains, as_members, states_of
from vi_recipes.model import Target


def split_target(target: Target, latent: Sequence[str] | str | None = None) -> Split:
    """Take a target apart into parameters and latent variables.

    Parameters
    ----------
    target
        The model conditioned on data.
    latent
        Sites that are latent variables. By default those the model declares, else its discrete
        sites, else the sites in plates whose members do not touch one another given the rest. A
        model without any has parameters only.

    Raises
    ------
    ValueError
        For the name of a site that the model does not have or that is not latent.
    MethodFailure
        ``NOT_APPLICABLE`` where members are coupled, with the sites that couple them.
    """
    names = _names(target, latent)

    def find() -> Split | MethodFailure:
        try:
            return _find(target, names)
        except MethodFailure as failure:
            return failure  # kept as well: it took as long to find out

    known = target.compiled_once(("split", names), find)
    if isinstance(known, MethodFailure):
        raise MethodFailure(known.status, known.message, known.advice)
    return known


def _names(target: Target, latent: Sequence[str] | str | None) -> tuple[str, ...] | None:
    """Return the latent sites that are asked for or declared, checked."""
    asked = latent is not None
    declared = target.model.latents or None
    names = declared if latent is None else (latent,) if isinstance(latent, str) else tuple(latent)
    discrete = tuple(s.name for s in target.sites.values() if s.kind == "discrete")
    if names is None:
        return discrete or None
    possible = [s.name for s in target.sites.values() if s.kind in ("latent", "discrete")]
    if missing := [n for n in names if n not in possible]:
        where = "latent" if asked else f"latents of model '{target.name}'"
        raise ValueError(
            f"{where}: got {', '.join(map(repr, missing))}, expected among the model's latent "
            f"sites: {', '.join(possible)}"
        )
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"latent: got {list(names)}, expected different names among the model's latent sites: "
            f"{', '.join(possible)}; leave it out for those that the model has by itself"
        )
    # discrete sites are always integrated out: they cannot be parameters that move
    return (*names, *(n for n in discrete if n not in names))


def local_sites(target: Target, latent: Sequence[str] | str | None = None) -> tuple[str, ...]:
    """Return the continuous sites that are latent variables, be their members coupled or not.

    Those that are asked for or declared, else those in plates whose density depends on other sites.

    Raises
    ------
    ValueError
        As :func:`split_target`.
    """
    continuous = {s.name: s for s in target.latents}
    names = _names(target, latent)
    if names is not None and (latent is not None or target.model.latents):
        return tuple(n for n in names if n in continuous)
    dependent = hierarchical(target, [n for n, s in continuous.items() if s.plates])
    return tuple(n for n in continuous if n in dependent)


def _find(target: Target, names: tuple[str, ...] | None) -> Split:
    latents = {s.name: s for s in target.latents}
    bare = without_latents(target)
    if names is None:
        return split_by_plates(bare)
    discrete = [n for n in names if n not in latents]
    if not discrete:
        return split_by_names(bare, names)
    if len(discrete) < len(names):
        raise MethodFailure(
            Status.NOT_APPLICABLE,
            f"latent {', '.join(discrete)} is discrete and "
            f"{', '.join(n for n in names if n in latents)} continuous: no E-step sums over "
            "the one and integrates over the other",
            "leave the continuous ones among the parameters (latent=...), or use NUTS",
        )
    states = states_of(bare, names)
    return (target.has_scan and as_chains(states)) or as_members(states)
