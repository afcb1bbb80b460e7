"""A calibration as a report: the tables, and the folder that holds them with the figures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from vi_recipes.calibration.ranked import Ranked
from vi_recipes.calibration.store import FILE, FOLDERS
from vi_recipes.core import check_folder, write_whole
from vi_recipes.report import (
    DASH,
    Cell,
    Document,
    Notes,
    Table,
    alike,
    csv_text,
    format_number,
    format_seconds,
    part,
)

MAX_REASONS = 20
"""Reasons listed, the most frequent first."""


def write(calibration: Ranked, directory: Path) -> Path:
    """Write ``report.html``, ``report.md``, ``result.json``, ``tables`` and ``figures``."""
    from vi_recipes.calibration.figures import draw
    from vi_recipes.report import html_page, latex, markdown_page, write_figures

    check_folder(directory, FILE, FOLDERS)
    (directory / "tables").mkdir(parents=True, exist_ok=True)
    drawings = draw(calibration)
    write_figures(drawings, directory / "figures")
    rows = csv_text(calibration.table(), with_index=False)
    write_whole(directory / "tables" / "quantities.csv", rows)
    text = latex(quantities(calibration), label="quantities")
    write_whole(directory / "tables" / "quantities.tex", text)
    write_whole(directory / "result.json", dumps(calibration))
    done, failed = len(calibration.outcomes), len(calibration.failures)
    found_out = tables(calibration)[1:]
    parts = [
        part("verdict", verdict(calibration), linked=False),
        *(part(f"table-{k}", table) for k, table in enumerate(found_out, start=1)),
        part("figures", *drawings, title="Figures"),
        part(
            "record",
            options(calibration),
            provenance(calibration),
            Notes("Notes", calibration.notes),
            title="How it was made",
        ),
    ]
    document = Document(
        title=f"{calibration.model}: calibration of {calibration.method}",
        intro=(
            f"Parameters were drawn from the prior of {calibration.model} and data from the model, "
            f"{done} times; {calibration.method} was fitted to each data set, and every true value "
            f"ranked among {calibration.num_draws} draws of the fit. Where the draws are those of "
            "the posterior, all ranks are equally likely."
            + (f" {failed} fits have no result." if failed else "")
        ),
        description="",
        warnings=list(calibration.warnings),
        parts=[one for one in parts if one is not None],
    )
    write_whole(directory / "report.md", markdown_page(document))
    write_whole(directory / "report.html", html_page(document))
    return directory


def dumps(calibration: Ranked) -> str:
    """Return :meth:`Ranked.to_json` as a line of strict JSON."""
    return json.dumps(calibration.to_json(), allow_nan=False, ensure_ascii=False) + "\n"


def tables(calibration: Ranked) -> list[Table]:
    """Return the tables, the verdict first; those on failures may have no rows."""
    return [
        verdict(calibration),
        quantities(calibration),
        *reasons(calibration),
        times(calibration),
    ]


def verdict(calibration: Ranked) -> Table:
    """Return the verdict."""
    rows = [[Cell(calibration.method), Cell(calibration.verdict)]]
    return Table("Verdict", ["method", "verdict"], rows, left=(0, 1), wraps=True)


def quantities(calibration: Ranked) -> Table:
    """Return a row a quantity."""
    rows = [
        [
            Cell(j.label),
            Cell(j.verdict, "off" if j.outside else ""),
            Cell(_p(j.p_value)),
            Cell(_p(j.holm)),
            Cell(f"{j.shift:+.1f}"),
            Cell(f"{j.spread:+.1f}"),
            Cell(_p(j.symmetry)),
        ]
        for j in calibration.judgements
    ]
    columns = ["quantity", "verdict", "p", "p (Holm)", "shift z", "spread z", "symmetry p"]
    note = (
        "p: of the ECDF's largest excursion; below 0.05 it leaves its simultaneous 95 % band, and "
        "the verdict says how. p (Holm): the same, accounting for the number of quantities. "
        "Shift z: mean rank, positive where the draws lie below the truth. Spread z: positive "
        "where the truth is in the draws' tails too often. Symmetry p: small where the mean is "
        "biased, whatever the spread. Marked * or red: outside the band."
    )
    return Table("Quantities", columns, rows, note, left=(0, 1))


def reasons(calibration: Ranked) -> list[Table]:
    """Return why fits have no result, and what others say against themselves."""
    return [
        _count(title, told, note)
        for title, told, note in (
            (
                "Fits without a result",
                calibration.failures,
                "They have no ranks, so the verdict is on the other data sets.",
            ),
            (
                "Doubts of fits about themselves",
                calibration.doubts,
                "Their ranks count: whether such fits are right is what the ranks show.",
            ),
        )
    ]


def times(calibration: Ranked) -> Table:
    """Return the seconds of the fits."""
    seconds = np.array([o.seconds for o in calibration.outcomes.values()])
    compiling = np.array([o.compile_seconds for o in calibration.outcomes.values()])
    if not seconds.size:
        return Table("Timings", [], [])
    rows = [
        [
            Cell(name),
            Cell(format_seconds(float(values.sum()))),
            Cell(format_seconds(float(np.median(values)))),
            Cell(format_seconds(float(values.max()))),
        ]
        for name, values in (("fits", seconds), ("of which compilation", compiling))
    ]
    note = "Seconds of wall time of the fits, those of several workers added up."
    return Table("Timings", ["part", "all", "median", "largest"], rows, note)


def options(calibration: Ranked) -> Table:
    """Return the method's options."""
    rows = [[Cell(name), Cell(str(value))] for name, value in sorted(calibration.config.items())]
    return Table(
        f"Options of {calibration.method}", ["option", "value"], rows, left=(0, 1), wraps=True
    )


def provenance(calibration: Ranked) -> Table:
    """Return seed, fingerprint of the data given, device, precision and versions."""
    record = calibration.provenance
    values = {
        "seed": DASH if record.seed is None else str(record.seed),
        "data fingerprint": record.data_fingerprint,
        "device": record.device,
        "precision": record.dtype,
        "versions": ", ".join(f"{k} {v}" for k, v in record.versions.items()),
    }
    rows = [[Cell(name), Cell(value or DASH)] for name, value in values.items()]
    return Table("Provenance", ["what", "value"], rows, left=(0, 1), wraps=True)


def _count(title: str, told: dict[int, str], note: str) -> Table:
    rows = []
    for which, reason in alike(told)[:MAX_REASONS]:
        listed = ", ".join(map(str, which[:5])) + (", ..." if len(which) > 5 else "")
        rows.append([Cell(str(len(which))), Cell(listed), Cell(reason)])
    return Table(title, ["fits", "simulations", "reason"], rows, note, left=(1, 2))


def _p(value: float) -> str:
    """Return a p-value, to two digits where it is not tiny."""
    if math.isnan(value):
        return DASH
    return "<0.0001" if value < 1e-4 else format_number(value, 2)
