"""A comparison's folder: fits, header, tables, figures and reports as files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vi_recipes.comparison import tables
from vi_recipes.comparison.fits import Fits
from vi_recipes.comparison.view import block
from vi_recipes.core import write_whole
from vi_recipes.fit import Fit
from vi_recipes.report import FOLDER, Cell, Exhibit, Table, format_number, latex, write_exhibits

if TYPE_CHECKING:
    import pandas as pd


MAX_BLOCK = 200
"""Scalars in a covariance that is written out."""


MAX_SQUARE = 12
"""Rows and columns of a covariance that a printed page holds."""


def write_tables(comparison: Fits, directory: Path) -> None:
    """Write every table of ``comparison`` to ``directory``, as CSV and LaTeX."""
    directory.mkdir(parents=True, exist_ok=True)
    frames = {
        "means": comparison.means(),
        "sds": comparison.sds(),
        "accuracy": comparison.accuracy(),
        "timings": comparison.timings(),
        "diagnostics": comparison.diagnostics(),
    }
    printed = {
        "means": tables.means(comparison),
        "accuracy": tables.accuracy(comparison),
        "timings": tables.timings(comparison),
        "diagnostics": tables.diagnostics(comparison),
    }
    if sites := block(comparison, MAX_BLOCK):
        covariances = comparison.covariances(sites)
        correlations = comparison.correlations(sites)
        for what, matrices in (("covariance", covariances), ("correlation", correlations)):
            for name, matrix in matrices.items():
                frames[f"{what}_{name}"] = matrix
                printed[f"{what}_{name}"] = _square(what, name, matrix)
    for name, frame in frames.items():
        index = (
            None
            if frame.index.nlevels > 1
            else "method"
            if name in ("timings", "diagnostics")
            else "parameter"
        )
        frame.to_csv(directory / f"{name}.csv", index_label=index)
    for name, table in printed.items():
        (directory / f"{name}.tex").write_text(latex(table, label=name), encoding="utf-8")


def _square(what: str, name: str, matrix: pd.DataFrame) -> Table:
    shown = matrix.iloc[:MAX_SQUARE, :MAX_SQUARE]
    labels = [str(label) for label in shown.columns]
    rows = [
        [Cell(label), *(Cell(format_number(float(x), 3)) for x in values)]
        for label, values in zip(labels, shown.to_numpy(), strict=True)
    ]
    left_out = len(matrix) - len(shown)
    note = f"{left_out} more parameter(s) in the CSV file." if left_out else ""
    return Table(f"Posterior {what}, {name}", ["parameter", *labels], rows, note)


SUFFIXES = (".html", ".md", ".json")
"""Formats that :func:`write` knows."""


def write(comparison: Fits, path: str | Path) -> Path:
    """Write a report in the format that the suffix of ``path`` names; return its path.

    Parameters
    ----------
    comparison
        What to report on.
    path
        ``.html`` is one self-contained page; ``.md`` puts its figures in a folder ``figures``
        beside it, and those of its study in ``exhibits``; ``.json`` is the machine-readable result.

    Raises
    ------
    ValueError
        For another suffix.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(
            f"path: got '{path}', whose suffix '{path.suffix}' is not a report's; "
            f"expected one of {', '.join(SUFFIXES)}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    if suffix == ".json":
        _write_json(comparison, path)
        return path
    from vi_recipes.comparison.figures.gallery import draw
    from vi_recipes.comparison.page import compose
    from vi_recipes.report import FOLDER, html, markdown, write_exhibits

    document = compose(comparison, draw(comparison))
    if suffix == ".html":
        text = html.render(document)
    else:
        _write_figures(document.drawings, path.parent / "figures", svg=False)
        write_exhibits(comparison.exhibits, path.parent / FOLDER)
        text = markdown.render(document)
    path.write_text(text, encoding="utf-8")
    return path


def write_all(comparison: Fits, directory: str | Path) -> Path:
    """Write everything to a folder; return it.

    ``report.html``, ``report.md``, ``result.json``, ``tables/*.csv`` and ``*.tex``,
    ``figures/*.png`` and ``*.svg``, all four for the ``exhibits`` of a study, and
    ``fits/<name>.nc`` for the fits not there yet.

    Parameters
    ----------
    comparison
        What to report on.
    directory
        Made if need be; files of the same names are replaced.
    """
    from vi_recipes.comparison.figures.gallery import draw
    from vi_recipes.comparison.folder import write_tables
    from vi_recipes.comparison.page import compose
    from vi_recipes.comparison.view import all_fits
    from vi_recipes.report import FOLDER, html, markdown, write_exhibits

    directory = Path(directory)
    fits = directory / "fits"
    fits.mkdir(parents=True, exist_ok=True)
    for name, fit in all_fits(comparison).items():
        if not (fits / f"{name}.nc").exists():
            fit.save(fits / f"{name}.nc")
    _write_json(comparison, directory / "result.json")
    write_tables(comparison, directory / "tables")
    drawings = draw(comparison)
    _write_figures(drawings, directory / "figures", svg=True)
    write_exhibits(comparison.exhibits, directory / FOLDER)
    document = compose(comparison, drawings)
    (directory / "report.md").write_text(markdown.render(document), encoding="utf-8")
    (directory / "report.html").write_text(html.render(document), encoding="utf-8")
    return directory


def _write_json(comparison: Fits, path: Path) -> None:
    from vi_recipes.comparison.json import dumps

    path.write_text(dumps(comparison), encoding="utf-8")


def _write_figures(drawings: Sequence[Exhibit], directory: Path, *, svg: bool) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for drawing in drawings:
        (directory / f"{drawing.name}.png").write_bytes(drawing.png)
        if svg:
            (directory / f"{drawing.name}.svg").write_bytes(drawing.svg)


HEADER = "comparison.json"


def save_fit(fit: Fit, directory: Path) -> Path:
    """Write ``fit`` to its place in a comparison's folder."""
    path = _fit_path(directory, fit.method)
    path.parent.mkdir(parents=True, exist_ok=True)
    return fit.save(path)


def save_exhibits(comparison: Fits, directory: Path) -> None:
    """Write the exhibits to their place in a comparison's folder, so that it can be loaded."""
    write_exhibits(comparison.exhibits, directory / FOLDER)
    _write_header(comparison, directory)


def _save_fits(comparison: Fits, directory: Path) -> None:
    """Write every fit, the reference and what binds them together."""
    for fit in comparison.columns.values():
        save_fit(fit, directory)
    _write_header(comparison, directory)


def _write_header(comparison: Fits, directory: Path) -> None:
    header = {
        "fits": list(comparison.fits),
        "reference": comparison.reference_name,
        "target_name": comparison.target_name,
        "notes": comparison.notes,
        "interrupted": comparison.interrupted,
        "description": comparison.description,
        "quadrature": comparison.quadrature and comparison.quadrature.to_dict(),
        "exhibits": [
            {"name": e.name, "title": e.title, "caption": e.caption} for e in comparison.exhibits
        ],
    }
    write_whole(directory / HEADER, json.dumps(header, indent=2) + "\n")


def _fit_path(directory: Path, name: str) -> Path:
    return directory / "fits" / f"{name}.nc"
