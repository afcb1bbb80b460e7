"""What is known of each fit of a comparison, a row a fit: verdicts and diagnostics as frames."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from vi_recipes.core import visible
from vi_recipes.fit import Fit
from vi_recipes.report import format_number
from vi_recipes.trust import Verdict

VERDICT_COLUMNS = ["verdict", "mean_error", "mean_at", "sd_ratio", "sd_at"]


def verdict_table(verdict_of: Mapping[str, Verdict]) -> pd.DataFrame:
    """Return verdicts as a frame, a row a method.

    Parameters
    ----------
    verdict_of
        Name of a fit -> its :class:`Verdict`, which has the words too.

    Returns
    -------
    pandas.DataFrame
        ``verdict``; ``mean_error``, the worst difference of a mean in sds of what it is measured
        by, and ``mean_at``, its parameter; ``sd_ratio`` and ``sd_at``, the same of sds;
        NaN where nothing measures them.
    """
    rows = []
    for verdict in verdict_of.values():
        errors = verdict.errors
        ratio = errors.sd_ratio if errors is not None else None
        row = (
            verdict.trust.value,
            abs(errors.mean) if errors is not None else np.nan,
            errors.mean_at if errors is not None else "",
            np.nan if ratio is None else ratio,
            errors.sd_at if errors is not None else "",
        )
        rows.append(row)
    names = pd.Index(list(verdict_of), name="method")
    return pd.DataFrame(rows, index=names, columns=VERDICT_COLUMNS)


def displayed(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Return a frame of verdicts with numbers and names as a page shows them."""
    frame = verdicts.copy()
    for column in ("mean_error", "sd_ratio"):
        frame[column] = [format_number(value, 3) for value in frame[column]]
    frame = frame.map(visible).rename(columns={"mean_error": "mean error (sds)"})
    return frame.rename(columns=lambda name: str(name).replace("_", " "))


def diagnostics_table(fits: Mapping[str, Fit]) -> pd.DataFrame:
    """Return status, message, evidence and every diagnostic, a row a fit."""
    rows = {}
    for name, fit in fits.items():
        evidence = fit.log_evidence if fit.has_result else None
        rows[name] = {
            "status": fit.status.name,
            "message": fit.message,
            "advice": fit.advice,
            "log_evidence": evidence.value if evidence else np.nan,
            "log_evidence_se": evidence.se if evidence else np.nan,
            "log_likelihood": np.nan if fit.log_likelihood is None else fit.log_likelihood,
            **fit.diagnostics,
            **(fit.assessment.numbers() if fit.assessment else {}),
        }
    return pd.DataFrame.from_dict(rows, orient="index")
