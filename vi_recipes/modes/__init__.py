"""Joint mode and curvature: objective, search, judge, and the Gaussian there."""

from __future__ import annotations

from vi_recipes.modes.edges import NoMode
from vi_recipes.modes.gaussian import gaussian_at
from vi_recipes.modes.judge import Solver
from vi_recipes.modes.objective import MAX_BORDER, JointObjective
from vi_recipes.modes.search import check_search, find_mode

__all__ = [
    "MAX_BORDER",
    "JointObjective",
    "NoMode",
    "Solver",
    "check_search",
    "find_mode",
    "gaussian_at",
]
