"""What the nodes of adaptive quadrature leave of the integral, found with more of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float

from vi_recipes.algebra import Dense
from vi_recipes.latent.marginal import MAX_QUADRATURE
from vi_recipes.latent.objective import MarginalObjective
from vi_recipes.latent.other_modes import CHEAP, AtModes, other_mode

NumNodes = int | Literal["auto"]
"""Nodes a dimension, or as many as it takes."""

FIRST_NODES = 9
"""Nodes a dimension that ``"auto"`` begins with; with fewer these are the check."""

MOST_NODES = (159, 39, 15)
"""Nodes a dimension that ``"auto"`` goes up to, for one dimension, two and three."""

LIMIT = 0.1
"""Standard errors by which more nodes may move an estimate."""


@dataclass(frozen=True)
class NodeError:
    """What another number of nodes makes of a likelihood and of its maximum.

    Parameters
    ----------
    num_nodes, others
        Nodes a dimension that were used, and those of the check.
    difference
        Log-likelihood by the others, less that by those in use.
    moved
        Length of one Newton step to the others' maximum, in standard errors: the most that any
        function of the parameters moves by. NaN where no Hessian was formed.
    """

    num_nodes: int
    others: int
    difference: float
    moved: float
    hidden: str = ""
    """Another mode of a member, which nodes around the first miss, in words."""

    @property
    def small(self) -> bool:
        """Whether the nodes are enough, as far as it is known."""
        return not self.hidden and bool(np.isnan(self.moved) or self.moved <= LIMIT)

    @property
    def sentence(self) -> str:
        """What the check says."""
        by = (
            ""
            if np.isnan(self.moved)
            else f" and the estimates by {self.moved:.2g} standard errors"
        )
        missed = f"{self.hidden}, which the nodes around the first miss; " if self.hidden else ""
        return (
            f"{missed}{self.others} nodes instead of {self.num_nodes} change it by "
            f"{self.difference:+.2g}{by}"
        )

    @property
    def advice(self) -> str:
        """What to do where the nodes are not enough."""
        if self.others > self.num_nodes:
            return f"raise num_nodes to {self.others} or more, or leave it at 'auto'"
        return "use NUTS: more nodes than these are not to be had"


def first_nodes(num_nodes: NumNodes) -> int:
    """Return the nodes that a search begins with."""
    return FIRST_NODES if num_nodes == "auto" else num_nodes


def find_node_error(
    objective: MarginalObjective, theta: Float[np.ndarray, " G"], curvature: Dense | None
) -> NodeError | None:
    """Return what other nodes say at a maximum; ``None`` where there are none.

    Twice as many nodes where there are such, else half as many, whose difference is then larger
    than the error.
    """
    marginal = objective.marginal
    if marginal.rule != "quadrature" or marginal.split.width > MAX_QUADRATURE:
        return None
    nodes, most = marginal.num_nodes, MOST_NODES[marginal.split.width - 1]
    others = max(2 * nodes + 1, FIRST_NODES)
    if others > most:
        others = nodes // 2
    finer = MarginalObjective(
        replace(marginal, num_nodes=others), objective.timing, objective.modes
    )
    value, gradient = objective.value_and_grad(theta)
    other_value, other_gradient = finer.first_order(theta)
    moved = float("nan")
    if curvature is not None:
        moved = curvature.decrement(other_gradient - gradient)
    hidden = _hidden_mode(objective, theta)
    return NodeError(nodes, others, value - other_value, moved, hidden)


class _Members:
    """The members' densities given a theta."""

    def __init__(self, objective: MarginalObjective, theta: Float[np.ndarray, " G"]) -> None:
        self._objective, self._theta = objective, theta

    def sought(self, begun: Float[np.ndarray, "members d"]) -> Float[np.ndarray, "members d"]:
        """Return where a search for their modes ends that begins so."""
        seek = self._objective.marginal.seek
        return np.asarray(self._objective.call("seek", seek, self._theta, begun)[0])

    def around(self, modes: Float[np.ndarray, "members d"]) -> AtModes:
        """Return what nodes around the modes next to these come to."""
        objective = self._objective
        made = MarginalObjective(objective.marginal, objective.timing, modes)
        value = made.value_and_grad(self._theta)[0]
        moments = made.moments(self._theta)
        return AtModes(-value, made.modes, moments.mean, moments.spread)


def _hidden_mode(objective: MarginalObjective, theta: Float[np.ndarray, " G"]) -> str:
    """Say which mode of a member no nodes cover at a maximum; empty where none is found."""
    members = objective.marginal.split.num_members
    if sum(s.size for s in objective.target.observed) + members > CHEAP:
        return ""
    return other_mode(_Members(objective, theta), objective.modes)
