"""Formulas: a model from a data frame, and predictions at new data."""

from __future__ import annotations

from vi_recipes.formula.effects import comparisons, slopes
from vi_recipes.formula.families import FAMILIES, Family
from vi_recipes.formula.glmm import GLMM, glmm
from vi_recipes.formula.predict import Prediction, predict

__all__ = ["FAMILIES", "GLMM", "Family", "Prediction", "comparisons", "glmm", "predict", "slopes"]
