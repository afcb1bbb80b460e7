"""Seconds of several fits, and how much faster each is than the reference, whatever their order."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from vi_recipes.core import Timing
from vi_recipes.fit import OWN, Fit


def timings(fits: Mapping[str, Fit], reference: Fit | None, outside: str = "") -> pd.DataFrame:
    """Return seconds, speed-ups over the reference and evaluation counts, a row a fit.

    A reference from ``outside``, by that name, is a row where its seconds are known.

    The first method of a comparison compiles what those after it use. So the seconds that are
    compared are those of the runs, and those that each would have taken alone.
    """
    rows = {}
    base = reference.timing if reference is not None else Timing()
    base_run = base.run_seconds
    if outside and reference is not None and base.total_seconds:
        fits = {**fits, outside: reference}
        base_run = base_run if apart(reference) else np.nan
    for name, fit in fits.items():
        timing = fit.timing
        known = apart(fit) if fit.kind == OWN or name == outside else True
        total = timing.total_seconds if fit.kind != OWN or timing.total_seconds else np.nan
        ess = fit.diagnostics.get("ess_bulk_min", np.nan) if fit.has_result else np.nan
        rows[name] = {
            "status": fit.status.name,
            "compile_seconds": timing.compile_seconds if known else np.nan,
            "run_seconds": timing.run_seconds if known else np.nan,
            "total_seconds": total,
            "alone_seconds": total if fit.kind == OWN else timing.alone_seconds,
            "run_speed_up": _ratio(base_run, timing.run_seconds if known else np.nan),
            "speed_up": _ratio(base.alone_seconds, timing.alone_seconds),
            "density_evaluations": timing.density_evaluations,
            "gradient_evaluations": timing.gradient_evaluations,
            "hvp_evaluations": timing.hvp_evaluations,
            "ess_per_second": ess / timing.run_seconds if timing.run_seconds else np.nan,
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def apart(outside: Fit) -> bool:
    """Say whether a reference from outside tells compilation from the run: a method's fit does."""
    return outside.kind not in ("", OWN)


def _ratio(base: float, own: float) -> float:
    return base / own if base and own else np.nan
