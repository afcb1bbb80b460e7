"""A calibration with its report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vi_recipes.calibration.page import write
from vi_recipes.calibration.ranked import Ranked


@dataclass(frozen=True, repr=False)
class Calibration(Ranked):
    """The ranks of true parameters among a method's draws, over data simulated from the model.

    Made by :func:`~vi_recipes.calibrate`. ``verdict`` says in words what the ranks show,
    ``calibrated`` whether all is well, ``table()`` has a row a quantity, ``warnings`` is what to
    know first; ``report(path)`` writes all of it, with figures.

    Parameters
    ----------
    model, method
        Their names.
    config
        The method's options.
    num_simulations, num_draws
        Simulations asked for, and draws among which the truth was ranked.
    labels
        The scalars, and the joint log likelihood.
    outcomes
        Number of a simulation -> what it came to.
    notes
        On what was simulated and what has no ranks.
    provenance
        Seed, versions, device, dtype, fingerprint of the covariates.
    interrupted
        Whether simulations are missing because the run was stopped.
    """

    def report(self, path: str | Path) -> Path:
        """Write a report to a folder: HTML, Markdown, JSON, the table and the figures; return it.

        Parameters
        ----------
        path
            Made if need be; files of the same names are replaced.
        """
        return write(self, Path(path))
