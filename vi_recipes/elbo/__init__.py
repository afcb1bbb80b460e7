"""The deterministic ELBO: factors, plan, inspect, expectation, KL, curvature, minimise."""

from __future__ import annotations

from vi_recipes.elbo.factors import (
    BETA,
    GAMMA,
    POINT,
    SUPPORTS,
    Factors,
    Family,
    check_support,
    make_factors,
)
from vi_recipes.elbo.kl import KL
from vi_recipes.elbo.minimise import DRAW_ERROR, MAX_NODES, NODE_ERROR, Optimum

__all__ = [
    "BETA",
    "DRAW_ERROR",
    "GAMMA",
    "KL",
    "MAX_NODES",
    "NODE_ERROR",
    "POINT",
    "SUPPORTS",
    "Factors",
    "Family",
    "Optimum",
    "check_support",
    "make_factors",
]
