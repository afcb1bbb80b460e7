"""One fit: records, draws, ArviZ, stored, predictions, leave-one-out, reference, differences."""

from __future__ import annotations

from vi_recipes.fit.checked import EVIDENCE
from vi_recipes.fit.differences import COLUMNS, differences, moments_of
from vi_recipes.fit.fit import Fit
from vi_recipes.fit.loo import LOOError, compare_models, loo, loo_table
from vi_recipes.fit.predictions import log_likelihood, posterior_predictive
from vi_recipes.fit.records import (
    MAX_STORED_COV,
    Assessment,
    Correction,
    OtherOptimum,
    Provenance,
    provenance,
)
from vi_recipes.fit.reference import load_reference
from vi_recipes.fit.tails import (
    Quantiles,
    far_out,
    from_sorted,
    quantiles,
    say_unsettled,
    tail_shapes,
    unsettled,
)

__all__ = [
    "COLUMNS",
    "EVIDENCE",
    "MAX_STORED_COV",
    "Assessment",
    "Correction",
    "Fit",
    "LOOError",
    "OtherOptimum",
    "Provenance",
    "Quantiles",
    "compare_models",
    "differences",
    "far_out",
    "from_sorted",
    "load_reference",
    "log_likelihood",
    "loo",
    "loo_table",
    "moments_of",
    "posterior_predictive",
    "provenance",
    "quantiles",
    "say_unsettled",
    "tail_shapes",
    "unsettled",
]
