"""Guides of blocks of sites: a family for each, of which some may depend on others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, override

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from numpyro import handlers
from numpyro.distributions.transforms import biject_to
from numpyro.infer import autoguide, init_to_value

from vi_recipes.core import unknown
from vi_recipes.elbo import SUPPORTS, check_support
from vi_recipes.methods.guides.amortised import Amortised
from vi_recipes.methods.guides.conditional import AutoConditionalNormal
from vi_recipes.methods.guides.families import BLOCK_FAMILIES, family_of
from vi_recipes.methods.guides.family import Parent
from vi_recipes.methods.guides.optimal import AutoOptimalNormal
from vi_recipes.methods.guides.sites import guided_function
from vi_recipes.model import Site, Target

FamilyBySite = Mapping[str, str | Amortised]
"""Pattern of sites -> family of a block."""


type SiteBlock = tuple[str | Amortised, list[str]]
"""A family, and the sites that it is for."""


def encoded_sites(guide: FamilyBySite, target: Target) -> list[str]:
    """Return the sites of a target that have an encoder."""
    blocks = split_sites(guide, target)
    return [name for family, names in blocks if family_of(family).encodes for name in names]


def optimal_sites(guide: FamilyBySite, target: Target) -> list[str]:
    """Return the sites of a target whose law is its optimum given the others."""
    blocks = split_sites(guide, target)
    return [name for family, names in blocks if family_of(family).averages for name in names]


def check_families(guide: FamilyBySite) -> None:
    """Raise a :class:`ValueError` unless ``guide`` maps patterns of sites to known families."""
    if not guide:
        raise ValueError(
            "guide: got an empty mapping, expected pairs of a site pattern and a family, such as "
            '{"beta": "multivariate_normal"}'
        )
    for pattern, family in guide.items():
        if not isinstance(family, Amortised) and family not in BLOCK_FAMILIES:
            wrong = unknown("family", str(family), BLOCK_FAMILIES)
            raise ValueError(f"guide: {wrong} (for '{pattern}')")


def split_sites(guide: FamilyBySite, target: Target) -> list[SiteBlock]:
    """Return the blocks of a target: family, and the sites that it is for.

    Every pattern makes a block, and the sites that no pattern matches make one of normals.

    Raises
    ------
    ValueError
        For a pattern that matches no latent site, a site that two patterns match, a family that
        does not match the support of a site, and conditional normals without a plate or without
        anything to depend on.
    """
    by_name = {site.name: site for site in target.latents}
    owner: dict[str, str] = {}
    blocks: list[SiteBlock] = []
    for pattern, family in guide.items():
        names = [name for name in by_name if fnmatchcase(name, pattern)]
        if not names:
            wrong = unknown("site or pattern", pattern, by_name)
            raise ValueError(f"guide: {wrong}")
        for name in names:
            if name in owner:
                raise ValueError(
                    f"guide: site '{name}' is matched by both '{owner[name]}' and '{pattern}'; "
                    "every site has one family, so narrow one of the two"
                )
            owner[name] = pattern
            if isinstance(family, str) and family in SUPPORTS:
                check_support(by_name[name], family, "guide")
        blocks.append((family, names))
    if rest := [name for name in by_name if name not in owner]:
        blocks.append(("normal", rest))
    for family, names in blocks:
        if family_of(family).conditional:
            _check_conditional(str(family), names, blocks, by_name)
        if family_of(family).averages:
            _check_optimal(str(family), names, blocks, by_name)
    return blocks


def _check_conditional(
    conditional: str, names: list[str], blocks: list[SiteBlock], by_name: Mapping[str, Site]
) -> None:
    """Raise a :class:`ValueError` unless the sites are local and depend on something."""
    plates = {name: {plate for plate, _, _ in site.plates} for name, site in by_name.items()}
    if alone := [name for name in names if not plates[name]]:
        raise ValueError(
            f"guide: '{conditional}' is for the members of a plate, and site '{alone[0]}' is in "
            "none; use 'normal' or 'multivariate_normal'"
        )
    local = set().union(*(plates[name] for name in names))
    if not any(
        family_of(family).parents and any(not local & plates[name] for name in others)
        for family, others in blocks
    ):
        normals = [name for name, family in BLOCK_FAMILIES.items() if family.parents]
        raise ValueError(
            f"guide: '{conditional}' for {', '.join(names)} has nothing to depend on: no site "
            f"outside plate {', '.join(sorted(local))} is in a block of {' or '.join(normals)}; "
            "use 'normal', or give a global site one of these"
        )


def _check_optimal(
    optimal: str, names: list[str], blocks: list[SiteBlock], by_name: Mapping[str, Site]
) -> None:
    """Raise a :class:`ValueError` unless the sites are local, and the others normal or points."""
    if alone := [name for name in names if not by_name[name].plates]:
        raise ValueError(
            f"guide: '{optimal}' is for the members of a plate, and site '{alone[0]}' is in none; "
            "use 'normal' or 'multivariate_normal'"
        )
    if sum(family_of(family).averages for family, _ in blocks) > 1:
        raise ValueError(
            f"guide: '{optimal}' has two patterns, and one block of it depends on all others; "
            "give one pattern, or 'conditional_normal' to the other"
        )
    for family, others in blocks:
        kind = family_of(family)
        if others != names and not (kind.parents or kind.point):
            fine = [n for n, f in BLOCK_FAMILIES.items() if f.parents or f.point]
            raise ValueError(
                f"guide: '{optimal}' for {', '.join(names)} depends on {', '.join(others)}, which "
                f"cannot be '{family}' then: use {' or '.join(fine)}"
            )


def make_blocks(
    guide: FamilyBySite, target: Target, values: Mapping[str, Any], whole: Target | None = None
) -> autoguide.AutoGuideList:
    """Return NumPyro's guide of the blocks of ``guide``.

    Parameters
    ----------
    guide
        Site pattern -> family.
    target
        What it is for.
    values
        Where it is centred at first, constrained.
    whole
        With all the rows, where ``target`` has those of a minibatch.
    """
    model, init = guided_function(target), init_to_value(values=dict(values))
    parts = AutoStructured(model, init_loc_fn=init)
    for k, (family, names) in enumerate(split_sites(guide, target)):
        # Outside the block the sites stand at the start: an improper prior has no draws.
        fixed = {name: value for name, value in values.items() if name not in names}
        rest = handlers.substitute(model, data=fixed)
        shown = handlers.block(rest, hide_fn=lambda site, names=names: _hidden(site, names))
        options = {"prefix": f"auto_{k}", "init_loc_fn": init}
        if family_of(family).encodes:
            encoder = family if isinstance(family, Amortised) else Amortised()
            parts.append(encoder.make(shown, whole or target, names, **options))
        elif family_of(family).averages:
            parts.append(AutoOptimalNormal(shown, model, **options))
        else:
            parts.append(family_of(family).make(shown, **options))
    return parts


def _hidden(site: Mapping[str, Any], names: list[str]) -> bool:
    """Whether a block of ``names`` does not see a message: it needs its sites and the plates."""
    return site["type"] not in ("plate", "control_flow") and site.get("name") not in names


# -- the list ----------------------------------------------------------------------------------


class AutoStructured(autoguide.AutoGuideList):  # type: ignore[misc]
    """NumPyro's list of blocks, of which some may depend on others.

    Blocks of :class:`AutoConditionalNormal` depend on the sites of blocks of normals, joint or
    independent, that share no plate with them, and one of :class:`AutoOptimalNormal` on all others.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.conditional: list[AutoConditionalNormal] = []
        self.optimal: list[AutoOptimalNormal] = []
        super().__init__(*args, **kwargs)

    @override
    def append(self, part: autoguide.AutoGuide) -> None:
        """Add a block."""
        if isinstance(part, AutoConditionalNormal):
            self.conditional.append(part)
        elif isinstance(part, AutoOptimalNormal):
            self.optimal.append(part)
        else:
            super().append(part)

    def __iter__(self) -> Iterator[autoguide.AutoGuide]:
        yield from self._guides
        yield from self.conditional
        yield from self.optimal

    def __len__(self) -> int:
        return len(self._guides) + len(self.conditional) + len(self.optimal)

    def __call__(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Draw all blocks, those that depend on others after these."""
        with handlers.trace() as trace:
            drawn: dict[str, Any] = super().__call__(*args, **kwargs)
        for part in self.conditional:
            if part.prototype_trace is None:
                part._setup_prototype(*args, **kwargs)
            eps = [_standardise(parent, trace) for parent in self.parents(part)]
            drawn.update(part(jnp.concatenate(eps), *args, **kwargs))
        for last in self.optimal:
            drawn.update(last(drawn, *args, **kwargs))
        return drawn

    def parents(self, part: AutoConditionalNormal | AutoOptimalNormal) -> list[Parent]:
        """Return what a block depends on, in the order of its slopes."""
        local = set().union(*(_plates(part, name) for name in part._init_locs))
        parents: list[Parent] = []
        for block in self._guides:
            if depend_on := family_of(block).parents:
                apart = [name for name in block._init_locs if not local & _plates(block, name)]
                parents += depend_on(block, apart)
        return parents


def _plates(block: autoguide.AutoGuide, name: str) -> set[str]:
    return {frame.name for frame in block.prototype_trace[name]["cond_indep_stack"]}


def _standardise(parent: Parent, trace: Mapping[str, Any]) -> jax.Array:
    """Return the coordinates of a parent that has been drawn as standard normals."""
    block, name = parent
    if not name:
        loc, root = (trace[f"{block.prefix}_{what}"]["value"] for what in ("loc", "scale_tril"))
        away = trace[f"_{block.prefix}_latent"]["value"] - loc
        return solve_triangular(root, away, lower=True)
    key = f"{name}_{block.prefix}"
    loc, scale = (trace[f"{key}_{what}"]["value"] for what in ("loc", "scale"))
    to_support = biject_to(block.prototype_trace[name]["fn"].support)
    return jnp.ravel((to_support.inv(trace[name]["value"]) - loc) / scale)
