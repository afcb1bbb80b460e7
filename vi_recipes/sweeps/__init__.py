"""Grids of fits, and simulation studies: bias, coverage and time by method, with their errors.

Every model is fitted by every method at every seed: to data simulated anew for each seed, from
parameters that are given or drawn from the prior, or to the same data each time.
"""

from __future__ import annotations

from vi_recipes.sweeps import page
from vi_recipes.sweeps.grid_file import Grid, read_grid
from vi_recipes.sweeps.outcome import Sweep
from vi_recipes.sweeps.sweep import sweep

__all__ = [
    "Grid",
    "Sweep",
    "page",
    "read_grid",
    "sweep",
]
