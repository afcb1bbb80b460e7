"""What is known at rows of theta, and where the search for the members' modes begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from jaxtyping import Float

from vi_recipes.algebra import Factor


class SearchStart(NamedTuple):
    """Where the search for the members' modes begins: a point of theta and the tangent there."""

    theta: Float[Any, " G"]
    modes: Float[Any, "members d"]
    slopes: Float[Any, "members d G"]
    """Of the modes, in theta."""
    reference: Float[Any, " scalars"]
    """What reported scalars are counted from, lest digits are lost."""


class Conditional(NamedTuple):
    """Members given each of some rows of theta, on the unconstrained scale."""

    gradient: Float[Any, "rows G"]
    """Of log p(y, theta); zeros where it was not asked for."""
    modes: Float[Any, "rows members d"]
    axes: Float[Any, "rows members d d"] | Factor
    """W with W W' the inverse of the precision at the mode: z = mode + W x; of one wide member the
    factor of its precision, and nothing of a field."""
    moments: Float[Any, "rows members powers"]
    """Of x, for the powers of :func:`~vi_recipes.methods.nested.nodes.powers`; zeros where members
    are normal: x is then standard normal. Of one wide member that is not, some draws less the
    mode."""


class ThetaRows(NamedTuple):
    """log p(y, theta) at rows of theta, and moments given theta."""

    log_p: Float[Any, " rows"]
    """Minus infinity where no mode of a member was found."""
    mean: Float[Any, "rows scalars"]
    """Of every reported scalar, constrained scale, less the reference."""
    variance: Float[Any, "rows scalars"]
    smooth: Float[Any, " rows"]
    """log p(y, theta) without noise: by Laplace's approximation where members have weighed points,
    else the same."""


class Doubt(NamedTuple):
    """Why a result is not all that it should be."""

    said: str
    advice: str = ""
    """The first that there is stands."""
    told: bool = False
    """Whether the errors of means and sds tell of it; others may be off by more than they say."""


class Noise(NamedTuple):
    """What weighed points leave open, and what they add to Laplace's approximation."""

    sd: float
    """Nats, at a point of theta."""
    shift: float
    """Nats by which Laplace's approximation is too low."""
    tilt: float
    """Nats: how unlike the shift is over theta, its own noise taken off."""


@dataclass(frozen=True)
class InnerError:
    """What other nodes change of log p(y, theta) at some of its points.

    Parameters
    ----------
    num_nodes, others
        Nodes a dimension in use, and those of the check.
    mean, sd
        Of the change over the points, in nats. The mean shifts log p(y) alone; the sd tilts theta.
        Both are over points at which the others found log p(y, theta), infinite where there are
        none.
    lost, looked
        Points at which they did not find it, of so many.
    moved
        Posterior sds by which they change a mean of what is reported, at most, given theta, or
        relative to its sd an sd.
    """

    num_nodes: int
    others: int
    mean: float
    sd: float
    lost: int
    looked: int
    moved: float = 0.0

    @classmethod
    def of(cls, num_nodes: int, others: int, change: Float[np.ndarray, " points"]) -> Self:
        """Return what a change at some points says, not finite where none was found."""
        found = change[np.isfinite(change)]
        lost = change.size - found.size
        if not found.size:
            return cls(num_nodes, others, np.inf, np.inf, lost, change.size)
        mean, sd = float(found.mean()), float(found.std())
        return cls(num_nodes, others, mean, sd, lost, change.size)

    def harm(self, dim: int) -> float:
        """Return what of it counts: its sd over theta, or all of it where that has no dimension."""
        return self.sd if dim else abs(self.mean)

    def __str__(self) -> str:
        return (
            f"{self.others} nodes instead of {self.num_nodes} tell of errors of log p(y, theta) by "
            f"{self.sd:.2g} nats"
        )

    @property
    def what_is_lost(self) -> str:
        """Say at how many points there is nothing to compare with."""
        return (
            f"with {self.others} nodes instead of {self.num_nodes} log p(y, theta) was not found "
            f"at {self.lost} of {self.looked} points of the parameters: its error is not known"
        )
