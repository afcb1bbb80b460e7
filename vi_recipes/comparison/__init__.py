"""Fits side by side: frames computed once, tables, figures, page, folder, JSON, studies."""

from __future__ import annotations

from vi_recipes.comparison import verification_page
from vi_recipes.comparison.against import against_reference, reference_exhibits, seconds_beside
from vi_recipes.comparison.beside import holds_comparison, unfinished
from vi_recipes.comparison.compare import compare
from vi_recipes.comparison.comparison import Comparison
from vi_recipes.comparison.derive import derive
from vi_recipes.comparison.figures.marks import fit_styles
from vi_recipes.comparison.folder import write_all
from vi_recipes.comparison.json import dumps
from vi_recipes.comparison.page import answer
from vi_recipes.comparison.predictive import add_predictive
from vi_recipes.comparison.prior import prior_exhibits
from vi_recipes.comparison.recommend import Recommendation, Standing
from vi_recipes.comparison.request import named_methods
from vi_recipes.comparison.resume import fits_in, taken_up
from vi_recipes.comparison.sections import on_terminal
from vi_recipes.comparison.study import Study, load_study
from vi_recipes.comparison.verification import Row, failed, faults, from_lists, problems, verify
from vi_recipes.comparison.verification_page import markdown

__all__ = [
    "Comparison",
    "Recommendation",
    "Row",
    "Standing",
    "Study",
    "add_predictive",
    "against_reference",
    "answer",
    "compare",
    "derive",
    "dumps",
    "failed",
    "faults",
    "fit_styles",
    "fits_in",
    "from_lists",
    "holds_comparison",
    "load_study",
    "markdown",
    "named_methods",
    "on_terminal",
    "prior_exhibits",
    "problems",
    "reference_exhibits",
    "seconds_beside",
    "taken_up",
    "unfinished",
    "verification_page",
    "verify",
    "write_all",
]
