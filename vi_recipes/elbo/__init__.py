"""The deterministic ELBO: factors, plan, looks, inspect, expectation, KL, curvature, minimise."""

from __future__ import annotations

from vi_recipes.elbo.curvature import CurvedKL
from vi_recipes.elbo.factors import (
    BETA,
    GAMMA,
    POINT,
    SUPPORTS,
    FactorFamily,
    Factors,
    check_support,
    make_factors,
)
from vi_recipes.elbo.in_parts import KLInParts, NotInParts
from vi_recipes.elbo.inspect import points_added
from vi_recipes.elbo.kl import KL
from vi_recipes.elbo.minimise import MAX_NODES, Limits, Optimum, find_optimum, search

__all__ = [
    "BETA",
    "GAMMA",
    "KL",
    "MAX_NODES",
    "POINT",
    "SUPPORTS",
    "CurvedKL",
    "FactorFamily",
    "Factors",
    "KLInParts",
    "Limits",
    "NotInParts",
    "Optimum",
    "check_support",
    "find_optimum",
    "make_factors",
    "points_added",
    "search",
]
