"""What all simulations of a calibration share, sent to wherever they run."""

from __future__ import annotations

from dataclasses import dataclass

import jax

from vi_recipes.calibration.ranks import Outcome, Quantities, simulate_and_rank
from vi_recipes.calibration.simulate import PriorPredictive
from vi_recipes.core import Progress, silent
from vi_recipes.methods import Method


@dataclass(frozen=True)
class Ranking:
    """What every simulation takes.

    Parameters
    ----------
    predictive
        Draws parameters and data.
    method, quantities, num_draws, seed
        As in :func:`~vi_recipes.calibration.ranks.simulate_and_rank`; each simulation's key follows
        from the seed and its number.
    """

    predictive: PriorPredictive
    method: Method
    quantities: Quantities
    num_draws: int
    seed: jax.Array

    shares_code = True

    @property
    def label(self) -> str:
        """The model and the method by name."""
        return f"model '{self.predictive.target.name}' with method '{self.method.name}'"

    def __call__(self, number: int, progress: Progress = silent) -> Outcome:
        """Do one simulation."""
        return simulate_and_rank(
            self.predictive,
            self.method,
            self.quantities,
            self.num_draws,
            jax.random.fold_in(self.seed, number),
            progress,
        )

    def lost(self, number: int, why: str) -> Outcome:
        """Return a simulation without ranks."""
        return Outcome(None, why)
