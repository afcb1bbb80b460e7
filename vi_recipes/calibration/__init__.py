"""Simulation-based calibration: whether the truth is anywhere in the posterior equally often.

Parameters are drawn from the prior and data from the model; the method is fitted to the data, and
the parameters are ranked among its draws. Averaged over the prior predictive distribution the ranks
are uniform where the draws are those of the posterior, and not where they are too narrow, too wide
or shifted.
"""

from __future__ import annotations

from vi_recipes.calibration import page
from vi_recipes.calibration.calibrate import calibrate
from vi_recipes.calibration.calibration import Calibration
from vi_recipes.calibration.page import dumps
from vi_recipes.calibration.simulate import PriorPredictive

__all__ = [
    "Calibration",
    "PriorPredictive",
    "calibrate",
    "dumps",
    "page",
]
