"""One fit: records, draws, ArviZ, stored, predictions, leave-one-out, reference, differences."""

from __future__ import annotations

from vi_recipes.fit.chains import complain, healthy, heavy_tails, measure
from vi_recipes.fit.checked import EVIDENCE
from vi_recipes.fit.counted import LOOError
from vi_recipes.fit.derived import derived
from vi_recipes.fit.differences import COLUMNS, differences, moments_of
from vi_recipes.fit.draws import check_same, fit_draws
from vi_recipes.fit.fit import Fit
from vi_recipes.fit.frames import wide_frame
from vi_recipes.fit.intervals import IntervalSetting, interval_setting, intervals
from vi_recipes.fit.loo import compare_models, loo, loo_table
from vi_recipes.fit.own_draws import OWN, from_arviz, from_draws
from vi_recipes.fit.population import population
from vi_recipes.fit.predictions import log_likelihood, posterior_predictive, prior_predictive
from vi_recipes.fit.records import (
    MAX_STORED_COV,
    Assessment,
    Correction,
    OtherOptimum,
    Provenance,
    provenance,
)
from vi_recipes.fit.reference import load_reference
from vi_recipes.fit.sources import FILES_OF_DRAWS
from vi_recipes.fit.tails import (
    Quantiles,
    doubted,
    from_sorted,
    none_settled,
    quantiles,
    say_unsettled,
    tail_shapes,
    unsettled,
    weighed_far_out,
)

__all__ = [
    "COLUMNS",
    "EVIDENCE",
    "FILES_OF_DRAWS",
    "MAX_STORED_COV",
    "OWN",
    "Assessment",
    "Correction",
    "Fit",
    "IntervalSetting",
    "LOOError",
    "OtherOptimum",
    "Provenance",
    "Quantiles",
    "check_same",
    "compare_models",
    "complain",
    "derived",
    "differences",
    "doubted",
    "fit_draws",
    "from_arviz",
    "from_draws",
    "from_sorted",
    "healthy",
    "heavy_tails",
    "interval_setting",
    "intervals",
    "load_reference",
    "log_likelihood",
    "loo",
    "loo_table",
    "measure",
    "moments_of",
    "none_settled",
    "population",
    "posterior_predictive",
    "prior_predictive",
    "provenance",
    "quantiles",
    "say_unsettled",
    "tail_shapes",
    "unsettled",
    "weighed_far_out",
    "wide_frame",
]
