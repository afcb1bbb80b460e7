"""A comparison's folder: fits, header, tables, figures and reports as files.

Every fit is written once, as it was fitted, when it is done. What is found out later, such as the
order of exchangeable components, is in the header, which is small and replaced as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vi_recipes.comparison.figures.gallery import draw
from vi_recipes.comparison.fits import Fits
from vi_recipes.comparison.json import dumps
from vi_recipes.comparison.kept import KeptFit, stamp_of
from vi_recipes.comparison.labels import Relabelling
from vi_recipes.comparison.page import compose
from vi_recipes.comparison.sections import SECTIONS
from vi_recipes.core import write_whole
from vi_recipes.fit import Fit
from vi_recipes.report import (
    FOLDER,
    Exhibit,
    csv_text,
    html_page,
    latex,
    markdown_page,
    write_exhibits,
)

SUFFIXES = (".html", ".md", ".json")
"""Formats that :func:`write` knows."""

HEADER = "comparison.json"
"""What binds the fits of a folder together."""


# -- reports ---------------------------------------------------------------------------------


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
        text = dumps(comparison)
    elif suffix == ".html":
        text = html_page(compose(comparison))
    else:
        _write_figures(draw(comparison), path.parent / "figures", svg=False)
        write_exhibits(comparison.exhibits, path.parent / FOLDER)
        text = markdown_page(compose(comparison))
    write_whole(path, text)
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
    directory = Path(directory)
    for name, fit in comparison.columns.items():
        if not fit_path(directory, name).exists():
            save_fit(fit, directory, name)
    write_whole(directory / "result.json", dumps(comparison))
    write_tables(comparison, directory / "tables")
    _write_figures(draw(comparison), directory / "figures", svg=True)
    write_exhibits(comparison.exhibits, directory / FOLDER)
    document = compose(comparison)
    write_whole(directory / "report.md", markdown_page(document))
    write_whole(directory / "report.html", html_page(document))
    return directory


def write_tables(comparison: Fits, directory: Path) -> None:
    """Write the tables of every section of ``comparison`` to ``directory``, as CSV and LaTeX."""
    directory.mkdir(parents=True, exist_ok=True)
    for file in (file for section in SECTIONS for file in section.files(comparison)):
        index = None if file.frame.index.nlevels > 1 else file.rows
        write_whole(directory / f"{file.name}.csv", csv_text(file.frame, index=index))
        if file.table is not None:
            text = latex(file.table, label=file.name)
            write_whole(directory / f"{file.name}.tex", text)


def _write_figures(drawings: Sequence[Exhibit], directory: Path, *, svg: bool) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for drawing in drawings:
        write_whole(directory / f"{drawing.name}.png", drawing.png)
        if svg:
            write_whole(directory / f"{drawing.name}.svg", drawing.svg)


# -- fits ------------------------------------------------------------------------------------


def fit_path(directory: Path, name: str) -> Path:
    """Return the place of a fit in a comparison's folder."""
    return directory / "fits" / f"{name}.nc"


def save_fit(fit: Fit, directory: Path, name: str) -> KeptFit:
    """Write ``fit`` to its place in a comparison's folder."""
    path = fit_path(directory, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    fit.save(path)
    return KeptFit(fit, path, stamp_of(path))


def load_fit(directory: Path, name: str, labels: Relabelling | None = None) -> KeptFit:
    """Read a fit from its place in a comparison's folder, its components in the order compared."""
    path = fit_path(directory, name)
    stamp = stamp_of(path)
    fit = Fit.load(path)
    return KeptFit(fit if labels is None else labels.apply(fit), path, stamp, labels)


def save_fits(comparison: Fits, directory: Path) -> None:
    """Write the fits and the reference that the folder lacks, and what binds them together."""
    missing = {
        name: fit
        for name, fit in comparison.columns.items()
        if name not in comparison.kept
        or not comparison.kept[name].holds(fit, fit_path(directory, name))
    }
    if missing:
        drop_header(directory)
    for name, fit in missing.items():
        comparison.kept[name] = save_fit(fit, directory, name)
    write_header(comparison, directory)


def save_exhibits(comparison: Fits, directory: Path) -> None:
    """Write the exhibits to their place in a comparison's folder, so that it can be loaded."""
    write_exhibits(comparison.exhibits, directory / FOLDER)
    write_header(comparison, directory)


# -- header ----------------------------------------------------------------------------------


def drop_header(directory: Path) -> None:
    """Remove the header before a fit is replaced: what it says is of the fits that were there."""
    (directory / HEADER).unlink(missing_ok=True)


def write_header(comparison: Fits, directory: Path) -> None:
    """Write what binds the fits of a folder together, whole or not at all."""
    labels = {
        name: kept.labels.to_json()
        for name, kept in comparison.kept.items()
        if kept.labels is not None and kept.path == fit_path(directory, name)
    }
    header = {
        "fits": list(comparison.fits),
        "reference": comparison.reference_name,
        "target_name": comparison.target_name,
        "notes": comparison.notes,
        "interrupted": comparison.interrupted,
        "description": comparison.description,
        "quadrature": comparison.quadrature and comparison.quadrature.to_dict(),
        "labels": labels,
        "exhibits": [
            {"name": e.name, "title": e.title, "caption": e.caption} for e in comparison.exhibits
        ],
    }
    write_whole(directory / HEADER, json.dumps(header, indent=2) + "\n")


def read_header(directory: Path) -> dict[str, Any]:
    """Return what :func:`write_header` has written.

    Raises
    ------
    ValueError
        If there is none.
    """
    try:
        header = json.loads((directory / HEADER).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{directory}: no saved comparison here ({error}); "
            "make one with 'vi-recipes compare MODEL --out DIR'"
        ) from None
    return dict(header)
