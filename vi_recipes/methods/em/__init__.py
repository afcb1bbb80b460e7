"""Expectation-maximisation: a route for models with their own steps, a route for all others."""

from __future__ import annotations

from vi_recipes.methods.em.em import EM

__all__ = ["EM"]
