"""How far a fit holds: assess, correct, evidence, bridge, quadrature, verdict, sensitivity."""

from __future__ import annotations

from vi_recipes.trust.assess import assess, num_block_draws
from vi_recipes.trust.bridge import bridge
from vi_recipes.trust.evidence import evidence_table
from vi_recipes.trust.measured import (
    GOOD_MEAN,
    GOOD_SD,
    POOR_MEAN,
    POOR_SD,
    Errors,
    Trust,
    Verdict,
)
from vi_recipes.trust.moved import LowerBounds, lower_bounds, quick_chains
from vi_recipes.trust.overlooked import Overlooked, elsewhere, overlooked
from vi_recipes.trust.quadrature import quadrature
from vi_recipes.trust.sensitivity import case_sensitivity, data_sensitivity
from vi_recipes.trust.verdict import audit, judge, unfit, verdict

__all__ = [
    "GOOD_MEAN",
    "GOOD_SD",
    "POOR_MEAN",
    "POOR_SD",
    "Errors",
    "LowerBounds",
    "Overlooked",
    "Trust",
    "Verdict",
    "assess",
    "audit",
    "bridge",
    "case_sensitivity",
    "data_sensitivity",
    "elsewhere",
    "evidence_table",
    "judge",
    "lower_bounds",
    "num_block_draws",
    "overlooked",
    "quadrature",
    "quick_chains",
    "unfit",
    "verdict",
]
