"""Fits over seeds: one frame, and summaries of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from vi_recipes.cells import Place, most_at_once
from vi_recipes.core import Status
from vi_recipes.sweeps.cell import CellResult, SweepCell
from vi_recipes.sweeps.measures import COLUMNS, measures

if TYPE_CHECKING:
    import pandas as pd

BY = ["model", "data", "method"]


@dataclass(frozen=True, repr=False)
class Swept:
    """Fits of models by methods over seeds.

    Parameters
    ----------
    results
        Cell -> what its fit came to.
    level
        Of the central intervals.
    truth
        What data were simulated from: ``"prior"``, values by site, or ``None`` for no simulation.
    num_cells
        How many fits were asked for.
    interrupted
        Whether the run was stopped before all were done.
    """

    results: Mapping[SweepCell, CellResult]
    level: float
    truth: Any
    num_cells: int
    interrupted: bool = False

    @property
    def simulated(self) -> bool:
        """Whether every seed has data of its own, simulated from a truth that is known."""
        return self.truth is not None

    @property
    def frame(self) -> pd.DataFrame:
        """One row a scalar of every fit; of a fit without a result one row, without a parameter.

        Columns ``model``, ``data``, ``method``, ``seed``, ``parameter``, ``mean``, ``sd``, ``low``
        and ``high`` (ends of the central interval), ``known`` (the truth, or the reference's mean),
        ``error`` (mean less known), ``error_in_sds`` (of the reference), ``seconds``,
        ``compile_seconds``, ``status``, ``trust``, ``verdict``, ``message``, ``host``, ``process``.
        """
        return self._frame.copy()

    @cached_property
    def _frame(self) -> pd.DataFrame:
        import pandas as pd

        rows = []
        for cell, found in self.results.items():
            about = cell._asdict()
            end = {
                "seconds": found.seconds,
                "compile_seconds": found.compile_seconds,
                "status": found.status,
                "trust": found.trust,
                "verdict": found.verdict,
                "message": found.message,
                "host": found.host,
                "process": found.process,
            }
            scalars = [found.labels, found.mean, found.sd, found.low, found.high, found.known]
            none = float("nan")
            each = zip(*scalars, found.known_sd, strict=True) if found.labels else [
                ("", none, none, none, none, none, none)
            ]  # fmt: skip
            for label, mean, sd, low, high, known, known_sd in each:
                rows.append(
                    {
                        **about,
                        "parameter": label,
                        "mean": mean,
                        "sd": sd,
                        "low": low,
                        "high": high,
                        "known": known,
                        "error": mean - known,
                        "error_in_sds": (mean - known) / known_sd if known_sd > 0 else none,
                        **end,
                    }
                )
        return pd.DataFrame(rows)

    def performance(self) -> pd.DataFrame:
        """Return bias, sds, root mean square error and coverage over seeds, with their errors.

        One row a scalar of every model, data and method: the columns of
        :func:`~vi_recipes.sweeps.measures.measures`, and ``failed``, fits without a result, which
        are in none of the others.
        """
        return self._performance.copy()

    @cached_property
    def _performance(self) -> pd.DataFrame:
        import pandas as pd

        frame, rows = self._frame, []
        if frame.empty:
            return pd.DataFrame(columns=[*BY, "parameter", "failed", *COLUMNS])
        for names, part in frame.groupby(BY, sort=False):
            failed = int((part["parameter"] == "").sum())
            for label, scalar in part[part["parameter"] != ""].groupby("parameter", sort=False):
                values = {
                    name: scalar[name].to_numpy(float)
                    for name in ("mean", "sd", "low", "high", "known")
                }
                found = measures(**values, simulated=self.simulated)
                about = dict(zip(BY, names, strict=True))
                rows.append({**about, "parameter": label, "failed": failed, **found})
        return pd.DataFrame(rows, columns=[*BY, "parameter", "failed", *COLUMNS])

    def times(self) -> pd.DataFrame:
        """Return seconds over fits with a result, a row a model, data and method.

        ``fits`` and ``failed`` count them; ``seconds`` is the mean without compilation, with
        ``seconds_mcse``; ``median`` and ``largest`` of the same; ``compile_seconds`` the mean.
        Fits of equal shapes in one process share what was compiled, so most compile little.
        """
        import pandas as pd

        rows = []
        groups: dict[tuple[str, str, str], list[CellResult]] = {}
        for cell, found in self.results.items():
            groups.setdefault((cell.model, cell.data, cell.method), []).append(found)
        for names, several in groups.items():
            done = [one for one in several if one.labels]
            run = np.array([one.seconds - one.compile_seconds for one in done])
            rows.append(
                {
                    **dict(zip(BY, names, strict=True)),
                    "fits": len(done),
                    "failed": len(several) - len(done),
                    "seconds": float(run.mean()) if done else np.nan,
                    "seconds_mcse": float(run.std(ddof=1) / len(run) ** 0.5)
                    if len(run) > 1
                    else np.nan,
                    "median": float(np.median(run)) if done else np.nan,
                    "largest": float(run.max()) if done else np.nan,
                    "compile_seconds": float(np.mean([one.compile_seconds for one in done]))
                    if done
                    else np.nan,
                }
            )
        return pd.DataFrame(rows)

    @cached_property
    def failures(self) -> dict[SweepCell, str]:
        """Fits without a result, and why."""
        return {
            cell: f"{Status[found.status].value}: {found.message}"
            for cell, found in self.results.items()
            if not found.labels
        }

    @property
    def places(self) -> dict[str, int]:
        """Machine -> how many processes of it fitted something."""
        seen: dict[str, set[int]] = {}
        for found in self.results.values():
            if found.host:
                seen.setdefault(found.host, set()).add(found.process)
        return {host: len(processes) for host, processes in seen.items()}

    @property
    def at_once(self) -> dict[str, int]:
        """Machine -> how many fits ran there at once, at most, by its clock."""
        return most_at_once(
            Place(one.host, one.process, one.began, one.ended) for one in self.results.values()
        )

    def __repr__(self) -> str:
        cells = f"{len(self.results)} of {self.num_cells} fits"
        failed = f", {len(self.failures)} without a result" if self.failures else ""
        return f"{type(self).__name__}({cells}{failed})"
