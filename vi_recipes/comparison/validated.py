"""Leave-one-out cross-validation of a comparison's fits, made once and kept with it."""

from __future__ import annotations

import pandas as pd

from vi_recipes.comparison.fits import Fits
from vi_recipes.fit import check_same, loo_table
from vi_recipes.model import Target


def cross_validated(
    comparison: Fits,
    target: Target,
    *,
    observed: str | None = None,
    num_draws: int | None = None,
    correct: bool = True,
) -> pd.DataFrame:
    """Return a row a fit (see :meth:`Comparison.loo`)."""
    for fit in comparison.columns.values():
        check_same(fit, target)
    base = comparison.reference_name
    options = (observed, num_draws, correct)
    # a target made anew of the same model is the same: the fits have its name and its data
    key = ("loo", target.model.function, target.fingerprint, *options)

    def make() -> pd.DataFrame:
        table, _ = loo_table(
            comparison.columns,
            target,
            base=base,
            observed=observed,
            num_draws=num_draws,
            correct=correct,
        )
        return table

    return comparison.once(key, make).copy()
