"""A sweep as a report: the tables, and the folder that holds them with the figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vi_recipes.core import check_folder, numbered, write_whole
from vi_recipes.report import (
    DASH,
    Cell,
    Document,
    Flag,
    Notes,
    Table,
    alike,
    csv_text,
    format_number,
    format_seconds,
    format_value,
    html_page,
    markdown_page,
    part,
    write_figures,
)
from vi_recipes.sweeps.figures import draw
from vi_recipes.sweeps.store import FILE, FOLDERS
from vi_recipes.sweeps.swept import Swept

if TYPE_CHECKING:
    import pandas as pd

ROUNDING = 1e-9
"""Relative to a figure: a Monte Carlo error that is none."""

MOST = 20
"""Reasons that are listed."""


def write(sweep: Swept, directory: Path) -> Path:
    """Write ``report.html``, ``report.md``, ``tables`` and ``figures``; return the folder."""
    check_folder(directory, FILE, FOLDERS)
    (directory / "tables").mkdir(parents=True, exist_ok=True)
    figures = draw(sweep)
    write_figures(figures, directory / "figures")
    for name, frame in (
        ("fits", sweep.frame),
        ("performance", sweep.performance()),
        ("times", sweep.times()),
    ):
        write_whole(directory / "tables" / f"{name}.csv", csv_text(frame, with_index=False))
    shown = tables(sweep)
    parts = [
        *(part(f"table-{k}", table) for k, table in enumerate(shown, start=1)),
        part("figures", *figures, title="Figures"),
        part("notes", Notes("Notes", notes(sweep)), title="How it was made"),
    ]
    document = Document(
        title="Sweep",
        intro=_intro(sweep),
        description="",
        warnings=warnings(sweep),
        parts=[one for one in parts if one is not None],
    )
    write_whole(directory / "report.md", markdown_page(document))
    write_whole(directory / "report.html", html_page(document))
    return directory


def _intro(sweep: Swept) -> str:
    seeds = len({cell.seed for cell in sweep.results})
    methods = len({cell.method for cell in sweep.results})
    models = len({(cell.model, cell.data) for cell in sweep.results})
    begin = (
        f"{numbered(len(sweep.results), 'fit')}: {numbered(models, 'set')} of data with a model, "
        f"{numbered(methods, 'method')}, {numbered(seeds, 'seed')}."
    )
    if sweep.truth is None:
        return f"{begin} All seeds of a model are fitted to the same data."
    drawn = "drawn from the prior" if sweep.truth == "prior" else "given"
    return (
        f"{begin} Every seed has data of its own, simulated from parameters that were {drawn}; an "
        "error is a fit's mean less the parameter."
    )


def warnings(sweep: Swept) -> list[str]:
    """Return what to know before any number."""
    found = []
    if len(sweep.results) < sweep.num_cells:
        found.append(
            f"{len(sweep.results)} of {sweep.num_cells} fits were done when the run was stopped; "
            "another with the same folder goes on from there."
        )
    if sweep.failures:
        found.append(
            f"Without a result, and in no summary: {numbered(len(sweep.failures), 'fit')}. Where "
            "those are of hard data, the summaries flatter the method."
        )
    return found


def notes(sweep: Swept) -> list[str]:
    """Return how the seconds came about."""
    listed = ", ".join(f"{number} on {host}" for host, number in sweep.places.items())
    beside = [f"{number} on {host}" for host, number in sweep.at_once.items() if number > 1]
    shared = (
        f"Up to {' and '.join(beside)} ran at once, so seconds are those of a machine that is "
        "shared; with exclusive, one fit runs at a time."
        if beside
        else "No two fits ran at once on a machine."
    )
    return [
        f"Processes that fitted: {listed or 'none'}. {shared}",
        "Fits of equal shapes in one process share compiled code; seconds are without compiling.",
        "What a fit says of itself is by its own evidence, without the truth or the others.",
    ]


def tables(sweep: Swept) -> list[Table]:
    """Return the tables: what fits say of themselves, performance, seconds, failures."""
    return [verdicts(sweep), *_performance(sweep), times(sweep), failures(sweep)]


def verdicts(sweep: Swept) -> Table:
    """Return how often each verdict was given, a row a method."""
    said = list(dict.fromkeys(r.trust for r in sweep.results.values() if r.labels))
    counts: dict[tuple[str, str, str], list[str]] = {}
    for cell, found in sweep.results.items():
        counts.setdefault(cell[:3], []).append(found.trust if found.labels else "")
    rows = [
        [
            *map(Cell, names),
            *(Cell(str(trusts.count(s))) for s in said),
            Cell(str(trusts.count(""))),
        ]
        for names, trusts in counts.items()
    ]
    columns = ["model", "data", "method", *said, "no result"]
    note = "Fits by what they say of themselves."
    return Table("Verdicts", columns, rows, note, left=(0, 1, 2))


def _performance(sweep: Swept) -> list[Table]:
    frame = sweep.performance()
    made_tables = []
    for (model, data), several in frame[frame["bias"].notna()].groupby(
        ["model", "data"], sort=False
    ):
        rows = [
            [
                Cell(row["parameter"]),
                Cell(row["method"]),
                Cell(str(int(row["n"]))),
                Cell(
                    _with_error(row["bias"], row["bias_mcse"]), _flag(row["bias"], row["bias_mcse"])
                ),
                Cell(_with_error(row["error_sd"], row["error_sd_mcse"])),
                Cell(_with_error(row["model_sd"], row["model_sd_mcse"])),
                Cell(_with_error(row["rmse"], row["rmse_mcse"])),
                Cell(_with_error(row["coverage"], row["coverage_mcse"])),
            ]
            for row in _records(_by_parameter(several))
        ]
        what = "the truth" if sweep.simulated else "the reference's mean"
        note = (
            f"± is the Monte Carlo standard error. Bias: mean of a fit's mean less {what}; "
            "marked * or red where it is beyond twice its error. Sd of errors: over seeds. Sd of "
            "fits: root of their mean variance. RMSE: root mean square error. Coverage: of "
            f"{100 * sweep.level:g} % central intervals."
        )
        if not sweep.simulated:
            note += " All fits are to the same data, so there is no coverage."
        columns = [
            "parameter", "method", "fits", "bias", "sd of errors", "sd of fits", "RMSE", "coverage",
        ]  # fmt: skip
        title = f"{model} ({data}): performance over seeds"
        made_tables.append(Table(title, columns, rows, note, left=(0, 1)))
    return made_tables


def times(sweep: Swept) -> Table:
    """Return seconds by method."""
    rows = [
        [
            *map(Cell, (row["model"], row["data"], row["method"])),
            Cell(str(row["fits"])),
            Cell(_with_error(row["seconds"], row["seconds_mcse"])),
            Cell(format_seconds(row["median"])),
            Cell(format_seconds(row["largest"])),
            Cell(format_seconds(row["compile_seconds"])),
        ]
        for row in _records(sweep.times())
    ]
    columns = ["model", "data", "method", "fits", "mean", "median", "largest", "compiling, mean"]
    note = "Seconds a fit of those with a result, without compilation; ± is the error of the mean."
    return Table("Seconds", columns, rows, note, left=(0, 1, 2))


def failures(sweep: Swept) -> Table:
    """Return why fits have no result, those alike in a row."""
    groups: dict[tuple[str, str, str], dict[int, str]] = {}
    for cell, why in sweep.failures.items():
        groups.setdefault((cell.model, cell.data, cell.method), {})[cell.seed] = why
    rows = []
    for names, told in groups.items():
        for seeds, reason in alike(told):
            listed = ", ".join(map(str, seeds[:5])) + (", ..." if len(seeds) > 5 else "")
            rows.append([*map(Cell, names), Cell(str(len(seeds))), Cell(listed), Cell(reason)])
    columns = ["model", "data", "method", "fits", "seeds", "reason"]
    note = "They are in no summary."
    return Table("Fits without a result", columns, rows[:MOST], note, (0, 1, 2, 4, 5), wraps=True)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _by_parameter(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with those of a parameter together, parameters in the model's order."""
    order = {name: k for k, name in enumerate(dict.fromkeys(frame["parameter"]))}
    return frame.sort_values("parameter", key=lambda names: names.map(order), kind="stable")


def _with_error(value: float, error: float) -> str:
    if np.isnan(value):
        return DASH
    if np.isnan(error):
        return format_number(value, 3)
    if error <= ROUNDING * abs(value):  # the same for all data
        return f"{format_number(value, 3)} ± 0"
    return f"{format_value(value, error / 10)} ± {format_number(error, 2)}"


def _flag(value: float, error: float) -> Flag:
    return "off" if abs(value) > 2 * error else ""
