"""Seconds of several fits, and how much faster each is than the reference, whatever their order."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from vi_recipes.core import Timing
from vi_recipes.fit import Fit


def timings(fits: Mapping[str, Fit], reference: Fit | None) -> pd.DataFrame:
    """Return seconds, speed-ups over the reference and evaluation counts, a row a fit.

    The first method of a comparison compiles what those after it use. So the seconds that are
    compared are those of the runs, and those that each would have taken alone.
    """
    rows = {}
    for name, fit in fits.items():
        timing = fit.timing
        ess = fit.diagnostics.get("ess_bulk_min", np.nan) if fit.has_result else np.nan
        base = reference.timing if reference is not None else Timing()
        rows[name] = {
            "status": fit.status.name,
            "compile_seconds": timing.compile_seconds,
            "run_seconds": timing.run_seconds,
            "total_seconds": timing.total_seconds,
            "alone_seconds": timing.alone_seconds,
            "run_speed_up": _ratio(base.run_seconds, timing.run_seconds),
            "speed_up": _ratio(base.alone_seconds, timing.alone_seconds),
            "density_evaluations": timing.density_evaluations,
            "gradient_evaluations": timing.gradient_evaluations,
            "hvp_evaluations": timing.hvp_evaluations,
            "ess_per_second": ess / timing.run_seconds if timing.run_seconds else np.nan,
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def _ratio(base: float, own: float) -> float:
    return base / own if base and own else np.nan
