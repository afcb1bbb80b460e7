"""What was found out of fits once all were done: it is in a comparison's header, not in theirs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from vi_recipes.methods import ThetaWeights
from vi_recipes.trust import LowerBounds, Overlooked


@dataclass(frozen=True)
class Found:
    """What was found out of some fits of a comparison, each by its name.

    Parameters
    ----------
    overlooked
        What the fit has found of the posterior where the reference has no draws.
    lower_bounds
        How far it is off at least, by short chains; of fits that nothing else judges.
    theta_weights
        What its draws of the parameters weigh with all members integrated out, where nested
        quadrature gives that density.
    """

    overlooked: Mapping[str, Overlooked] = field(default_factory=dict)
    lower_bounds: Mapping[str, LowerBounds] = field(default_factory=dict)
    theta_weights: Mapping[str, ThetaWeights] = field(default_factory=dict)

    def to_dict(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return it as tables by name."""
        return {
            "overlooked": {name: asdict(one) for name, one in self.overlooked.items()},
            "lower_bounds": {name: asdict(one) for name, one in self.lower_bounds.items()},
            "theta_weights": {name: asdict(one) for name, one in self.theta_weights.items()},
        }

    def among(self, names: Collection[str], *, same_reference: bool) -> Found:
        """Return what was found out of fits of these names, and of the reference if it is that."""
        return Found(
            {n: o for n, o in self.overlooked.items() if n in names and same_reference},
            {n: o for n, o in self.lower_bounds.items() if n in names},
            {n: o for n, o in self.theta_weights.items() if n in names},
        )

    @classmethod
    def from_dict(cls, header: Mapping[str, Any]) -> Found:
        """Return what :meth:`to_dict` has written into a header, which may lack parts of it."""
        return cls(
            {n: Overlooked(**one) for n, one in header.get("overlooked", {}).items()},
            {n: LowerBounds(**one) for n, one in header.get("lower_bounds", {}).items()},
            {n: ThetaWeights(**one) for n, one in header.get("theta_weights", {}).items()},
        )
