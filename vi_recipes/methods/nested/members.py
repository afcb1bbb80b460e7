"""Which latent variables are integrated out member by member, and with how many nodes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import jax

from vi_recipes.core import MethodFailure, Progress, Status, Timing
from vi_recipes.importance import around, scrambled_sobol
from vi_recipes.latent import (
    Marginal,
    NumNodes,
    fields,
    hierarchical,
    marginal_of,
    may_have_kinks,
    starting_point,
    without_latents,
)
from vi_recipes.methods.nested.density import ThetaDensity
from vi_recipes.methods.nested.integrate import HEAVIEST, checked
from vi_recipes.methods.nested.mode import ThetaMode, find_theta_mode
from vi_recipes.methods.nested.nodes import MOST_NODES, member_nodes, next_nodes
from vi_recipes.methods.nested.records import ThetaRows
from vi_recipes.methods.nested.several_modes import hidden_modes
from vi_recipes.methods.nested.wide_density import as_noisy, density_of, is_weighed
from vi_recipes.model import Target

INNER = 0.02
"""Nats: sd over theta of what more nodes change, up to which the members' integrals are right."""

NUM_LOOKED = 3
"""Points of the posterior of theta at which it is looked whether members are still normal."""

NEAR = 8.0
"""Nats below the highest point within which nodes are compared before the first round."""


def members_of(
    target: Target,
    latent: tuple[str, ...] | None,
    num_nodes: NumNodes,
    timing: Timing,
    *,
    or_none: bool = False,
    weighed: bool = False,
    most: int | None = None,
) -> Marginal:
    """Return the members and how they are integrated over.

    Parameters
    ----------
    target, latent, num_nodes, timing
        As for :func:`vi_recipes.latent.marginal_of`.
    or_none
        Whether all coordinates are theta's where there are no members to integrate out, or only
        by weighed points.
    weighed
        Whether a single member that is not normal may be integrated out by weighed points.
    most
        Parameters that may be left where the members are vectors in no plate; ``None`` for any
        number.

    Raises
    ------
    MethodFailure
        ``NOT_APPLICABLE``, saying why.
    """
    if target.exchangeable:
        names = ", ".join(n for group in target.exchangeable for n in group.sites)
        raise refusal(
            f"components of {names} are exchangeable: points around one labelling miss the "
            "others; order them in the model"
        )
    try:
        marginal = marginal_of(target, latent, "auto", num_nodes, True, timing, wide=True)
    except MethodFailure:
        if not or_none:
            raise
        marginal = Marginal(without_latents(target), "none", with_prior=True)
    if latent is None and not or_none and not marginal.split.num_members:
        whole = fields(target)
        left = target.dim - sum(target.sites[n].size for n in whole)
        if whole and (most is None or left <= most):
            marginal = marginal_of(target, whole, "auto", num_nodes, True, timing, wide=True)
    if latent is None and weighed and not or_none:
        marginal = _with_coefficients(marginal, num_nodes, timing)
    split = marginal.split
    if is_weighed(marginal) and or_none:
        return Marginal(without_latents(target), "none", with_prior=True)
    if is_weighed(marginal) and not weighed:
        raise refusal(
            f"{', '.join(split.latents)} is one member of {split.width} scalars that is not normal "
            "given the parameters: NestedQuadrature integrates it out, with noise"
        )
    check_weighed(marginal, num_nodes, "weighed points")
    if marginal.rule == "quadrature" and num_nodes != "auto":
        most = MOST_NODES[min(split.width, len(MOST_NODES)) - 1]
        if num_nodes > most:
            of = f"{split.width} coordinates" if split.width > 1 else "one coordinate"
            raise refusal(
                f"members of {of} have at most {most} nodes a coordinate, not {num_nodes}"
            )
    if split.weights is not None:
        names = ", ".join(marginal.split.latents)
        raise refusal(f"rows of {names} are weighted (handlers.scale, masks)")
    return marginal


def check_weighed(marginal: Marginal, num_nodes: NumNodes, by: str) -> None:
    """Refuse a number of nodes for a member that has none, and is integrated out by something else.

    Raises
    ------
    MethodFailure
        ``NOT_APPLICABLE``.
    """
    split = marginal.split
    if is_weighed(marginal) and num_nodes not in ("auto", 1):
        raise refusal(
            f"{', '.join(split.latents)} is one member of {split.width} scalars, integrated out by "
            f"{by}: num_nodes can be 'auto' or 1, and is {num_nodes}"
        )


def coupled_members(
    target: Target, num_nodes: NumNodes, timing: Timing, most: int | None = None
) -> Marginal:
    """Return coupled variables as members, for where they have a funnel as part of theta.

    The joint density of effects and their scale has no maximum where all are zero; that of the
    scale alone may have one. Variables under a law of others count, however few, in no plate too.

    Parameters
    ----------
    target, num_nodes, timing, most
        As for :func:`members_of`.

    Raises
    ------
    MethodFailure
        ``NOT_APPLICABLE`` where there are none, or they cannot be integrated out.
    """
    free = [s.name for s in target.latents if not target.edged[target.slices[s.name]].any()]
    under = hierarchical(target, free)
    for names in None, tuple(n for n in free if n in under) or None:
        with suppress(MethodFailure):
            found = members_of(target, names, num_nodes, timing, weighed=True, most=most)
            if found.split.num_members:
                return found
    raise refusal("there are no coupled latent variables that can be integrated out")


def _with_coefficients(marginal: Marginal, num_nodes: NumNodes, timing: Timing) -> Marginal:
    """Return a wide member with the parameters that may be anything as part of it, if it may be.

    Coefficients of covariates and means are normal given all else, or near it, as the effects are;
    fewer parameters are left then, and a point of those is dear.
    """
    split, target = marginal.split, marginal.split.target
    if not is_weighed(marginal):
        return marginal
    free = [n for n in split.parameters if not target.edged[target.slices[n]].any()]
    if not free or len(free) == len(split.parameters):
        return marginal
    names = tuple(s.name for s in target.latents if s.name in (*free, *split.latents))
    try:
        wider = marginal_of(target, names, "auto", num_nodes, True, timing, wide=True)
    except MethodFailure:
        return marginal
    return wider if wider.rule == marginal.rule and wider.split.num_members == 1 else marginal


def placed(
    choose: Callable[[], Marginal], timing: Timing, key: jax.Array, progress: Progress
) -> tuple[ThetaDensity, ThetaMode | None]:
    """Return the density of theta and its mode, ``None`` where there is no theta.

    Members that count as normal near the start and are not at the mode are chosen anew.

    Raises
    ------
    MethodFailure
        As :func:`members_of` and :func:`vi_recipes.methods.nested.mode.find_theta_mode`.
    """
    while True:  # once more at most: it is remembered what was seen
        marginal = choose()
        density = density_of(marginal, timing, starting_point(marginal.split.target, key, 0))
        mode, failure = None, None
        try:
            mode = find_theta_mode(density, progress) if density.dim else None
        except MethodFailure as found:
            failure = found
        theta = density.place.theta if mode is None else mode.theta
        if density.misjudges(theta[None]):
            continue
        if failure is not None:
            raise failure
        return density, mode


def choose_nodes(density: ThetaDensity, mode: ThetaMode, seed: int) -> None:
    """Take more nodes where a few points around the mode show that they are needed."""
    proposal = around(mode.theta, mode.cov, density.bounded)
    rows = proposal.points(scrambled_sobol(density.dim, HEAVIEST, [seed]))
    if wide := as_noisy(density):
        wide.quiet_at(rows[: wide.num_looked])
        return
    while others := nodes_to_check(density):
        swept = density.sweep(rows)
        near = swept.log_p > swept.log_p.max() - NEAR
        here = ThetaRows(*(v[near] for v in swept))
        change = checked(density, rows[near], here, others).log_p - here.log_p
        if others < density.nodes.num_nodes or not change.std() > INNER:
            break
        density.nodes = member_nodes(others, density.split.width)
    while hidden_modes(density, mode.theta[None]):
        others = next_nodes(density.nodes.num_nodes, density.split.width)
        if others < density.nodes.num_nodes:
            return
        density.nodes = member_nodes(others, density.split.width)


def nodes_to_check(density: ThetaDensity) -> int | None:
    """Return the nodes a dimension that check those in use; ``None`` where there is no error."""
    if not density.has_members or density.is_normal or as_noisy(density):
        return None
    num_nodes = density.nodes.num_nodes
    others = next_nodes(num_nodes, density.split.width)
    if others < num_nodes and may_have_kinks(density.split):
        return 2 * num_nodes // 3  # a few less change next to nothing of what falls as 1 / nodes
    return others


def refusal(message: str) -> MethodFailure:
    """Return the failure of a method that does not apply."""
    return MethodFailure(Status.NOT_APPLICABLE, message)


def coupled(names: str, failure: MethodFailure) -> MethodFailure:
    """Return why neither members nor all of some sites at once are integrated out."""
    said = f"no site has members that are independent given the rest: {names} has coupled ones"
    return MethodFailure(failure.status, f"{said}, and {failure.message}", failure.advice)
