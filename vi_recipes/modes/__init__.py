"""Joint mode and curvature: objective, search, judge, and the Gaussian there."""

from __future__ import annotations

from vi_recipes.modes.gaussian import expand
from vi_recipes.modes.judge import NoMode, Solver
from vi_recipes.modes.objective import MAX_BORDER, Objective
from vi_recipes.modes.search import check_search, find_mode

__all__ = [
    "MAX_BORDER",
    "NoMode",
    "Objective",
    "Solver",
    "check_search",
    "expand",
    "find_mode",
]
