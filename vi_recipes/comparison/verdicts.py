"""The verdicts of a comparison, by method: a mapping that prints as a table."""

from __future__ import annotations

from typing import override

import numpy as np
import pandas as pd

from vi_recipes.core import visible
from vi_recipes.report import format_number
from vi_recipes.trust import Verdict


class Verdicts(dict[str, Verdict]):
    """Name of a fit -> its :class:`Verdict`; printed, and in a notebook, a table."""

    def to_frame(self) -> pd.DataFrame:
        """Return the verdicts as a frame, a row a method.

        Returns
        -------
        pandas.DataFrame
            ``verdict``; ``mean_error``, the worst difference of a mean in sds of what it is
            measured by, and ``mean_error_at``, its parameter; ``sd_ratio`` and ``sd_ratio_at``, the
            same of sds; NaN where nothing measures them; and ``text``, the verdict in words.
        """
        rows = {}
        for name, verdict in self.items():
            errors = verdict.errors
            ratio = errors.sd_ratio if errors is not None else None
            rows[name] = {
                "verdict": verdict.trust.value,
                "mean_error": abs(errors.mean) if errors is not None else np.nan,
                "mean_error_at": errors.mean_at if errors is not None else "",
                "sd_ratio": np.nan if ratio is None else ratio,
                "sd_ratio_at": errors.sd_at if errors is not None else "",
                "text": verdict.text,
            }
        frame = pd.DataFrame.from_dict(rows, orient="index")
        return frame.rename_axis("method")

    def _shown(self) -> pd.DataFrame:
        frame = self.to_frame()
        for column in ("mean_error", "sd_ratio"):
            frame[column] = [format_number(value, 3) for value in frame[column]]
        frame = frame.map(visible).drop(columns="text")
        frame = frame.rename(columns={"mean_error": "mean error (sds)"})
        return frame.rename(columns=lambda name: str(name).replace("_", " "))

    @override
    def __repr__(self) -> str:
        return str(self._shown().to_string()) if self else "no verdicts"

    def _repr_html_(self) -> str:
        return str(self._shown().to_html())
