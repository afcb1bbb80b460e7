"""A comparison's folder: fits, header, tables, figures and reports as files.

Every fit is written once, as it was fitted, when it is done. What is found out later, such as the
order of exchangeable components, is in the header, which is small and replaced as a whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

from vi_recipes.comparison.beside import (
    FOLDERS,
    HEADER,
    drop_stale,
    place_for,
    put_in_place,
)
from vi_recipes.comparison.checked import MAX_NAME, check_header, check_labels, is_fit_name
from vi_recipes.comparison.figures.gallery import draw
from vi_recipes.comparison.fits import Fits
from vi_recipes.comparison.json import dumps
from vi_recipes.comparison.kept import KeptFit, stamp_of
from vi_recipes.comparison.labels import Relabelling
from vi_recipes.comparison.notes import notes_to_json
from vi_recipes.comparison.page import compose
from vi_recipes.comparison.sections import SECTIONS
from vi_recipes.core import check_folder, give_back, inside, told, within, write_whole
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

MAX_NAMED = 3
"""Files that a complaint about a full disk names."""


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
        with Writing(comparison, path.parent) as writing:
            _write_figures(draw(comparison), path.parent / "figures", writing)
            _write_exhibits(comparison, path.parent, writing)
        text = markdown_page(compose(comparison))
    write_whole(path, text)
    return path


def write_all(comparison: Fits, directory: str | Path) -> Path:
    """Write everything to a folder; return it.

    ``report.html``, ``report.md``, ``result.json``, ``tables/*.csv`` and ``*.tex``,
    ``figures/*.svg``, all three for the ``exhibits`` of a study, and ``fits/<name>.nc`` for the
    fits not there yet.

    Parameters
    ----------
    comparison
        What to report on.
    directory
        Made if need be; files of the same names are replaced, and tables, figures and exhibits
        that are not this comparison's removed.
    """
    directory = Path(directory)
    check_folder(directory, HEADER, FOLDERS)
    with Writing(comparison, directory) as write:
        for name, fit in comparison.columns.items():
            if not fit_path(directory, name).exists():
                write(f"the fit '{name}'", partial(save_fit, fit, directory, name))
        _write_reports(comparison, directory, write)
        fits = {fit_path(directory, name) for name in comparison.columns}
        kept = {path.relative_to(directory) for path in write.written | fits}
        write("what is there", partial(drop_stale, directory, kept))
    return directory


def _write_reports(comparison: Fits, directory: Path, write: Writing) -> None:
    """Write all but the fits; the pages last, which say what could not be made."""
    _write_tables(comparison, directory / "tables", write)
    _write_figures(draw(comparison), directory / "figures", write)
    _write_exhibits(comparison, directory, write)
    _write_text(directory / "result.json", lambda: dumps(comparison), write)
    _write_text(directory / "report.md", lambda: markdown_page(compose(comparison)), write)
    _write_text(directory / "report.html", lambda: html_page(compose(comparison)), write)


def _write_tables(comparison: Fits, directory: Path, write: Writing) -> None:
    """Write the tables of every section to ``directory``, as CSV and LaTeX."""
    for file in (file for section in SECTIONS for file in section.as_files(comparison)):
        index = None if file.frame.index.nlevels > 1 else file.rows
        to_csv = partial(csv_text, file.frame, index=index)
        _write_text(directory / f"{file.name}.csv", to_csv, write)
        if file.table is not None:
            to_latex = partial(latex, file.table, label=file.name)
            _write_text(directory / f"{file.name}.tex", to_latex, write)


def _write_figures(drawings: Sequence[Exhibit], directory: Path, write: Writing) -> None:
    for drawing in drawings:
        _write_text(directory / f"{drawing.name}.svg", partial(getattr, drawing, "svg"), write)


def _write_exhibits(comparison: Fits, directory: Path, write: Writing) -> None:
    for exhibit in comparison.exhibits:
        if exhibit.problem:
            comparison.lose(f"The exhibit '{exhibit.title}' is left out: {exhibit.problem}")
        else:
            path = directory / FOLDER / exhibit.name
            write.written |= {path.with_suffix(s) for s in FOLDERS[FOLDER]}
            write(
                f"the exhibit '{exhibit.name}'",
                partial(write_exhibits, [exhibit], directory / FOLDER),
            )


def _write_text(path: Path, make: Callable[[], str | bytes], write: Writing) -> None:
    """Make the content of a file and write it, with its folder."""

    def whole() -> None:
        content = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)

    write(path.name, whole)
    write.written.add(path)


class Writing:
    """Writes the files of a folder one by one, whatever becomes of the others.

    What cannot be made is a note of the comparison. What the disk refuses is told at the end, once
    everything has been tried.

    Parameters
    ----------
    comparison
        What is written.
    directory
        Where to.
    """

    def __init__(self, comparison: Fits, directory: Path) -> None:
        self._comparison, self._directory = comparison, directory
        self._refused: dict[str, OSError] = {}
        self.written: set[Path] = set()
        """Files that belong here."""

    def __call__(self, name: str, write: Callable[[], object]) -> None:
        """Have one file written."""
        try:
            write()
        except OSError as error:
            self._refused[name] = error
        except (Exception, SystemExit) as error:
            self._comparison.lose(f"{name} is not in the folder: {told(error)}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Raise an :class:`OSError` if the disk has refused anything."""
        if not self._refused:
            return
        error = next(iter(self._refused.values()))
        names = ", ".join(list(self._refused)[:MAX_NAMED])
        more = len(self._refused) - MAX_NAMED
        raise OSError(
            f"{self._directory}: cannot write {names}{f' and {more} more' if more > 0 else ''} "
            f"({error.strerror or error}); make room there, or choose another folder"
        )


# -- fits ------------------------------------------------------------------------------------


def fit_path(directory: Path, name: str) -> Path:
    """Return the place of a fit in a comparison's folder.

    Raises
    ------
    ValueError
        For a name that is none of a fit.
    """
    if not is_fit_name(name):
        raise ValueError(
            f"fit: its name {name!r} must be at most {MAX_NAME} letters, digits, '-', '_', '.'"
        )
    return directory / "fits" / f"{name}.nc"


def save_fit(fit: Fit, directory: Path, name: str) -> KeptFit:
    """Write ``fit`` to its place in a comparison's folder."""
    path = fit_path(directory, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    fit.save(path)
    give_back()  # the draws that were made for it, and for its assessment
    return KeptFit(fit, path, stamp_of(path))


def load_fit(directory: Path, name: str, labels: Relabelling | None = None) -> KeptFit:
    """Read a fit from its place in a comparison's folder, its components in the order compared."""
    path = inside(fit_path(directory, name), directory)
    stamp = stamp_of(path)
    fit = Fit.load(path)
    if labels is not None:
        check_labels(labels.to_json(), fit)
    return KeptFit(fit if labels is None else labels.apply(fit), path, stamp, labels)


def save_all(comparison: Fits, directory: Path) -> None:
    """Write everything: beside what the folder holds, if that is another comparison."""
    check_folder(directory, HEADER, FOLDERS)
    place = place_for(directory) if _missing(comparison, directory) else directory
    try:
        try:
            save_fits(comparison, place)
        finally:  # the reports do not need them
            write_all(comparison, place)
    finally:
        if place != directory:
            put_in_place(place, directory)
            for name, kept in comparison.kept.items():
                if kept.path == fit_path(place, name):
                    comparison.kept[name] = replace(kept, path=fit_path(directory, name))


def _missing(comparison: Fits, directory: Path) -> dict[str, Fit]:
    """Return the fits that do not lie in a folder yet."""
    return {
        name: fit
        for name, fit in comparison.columns.items()
        if name not in comparison.kept
        or not comparison.kept[name].holds(fit, fit_path(directory, name))
    }


def save_fits(comparison: Fits, directory: Path) -> None:
    """Write the fits and the reference that the folder lacks, and what binds them together."""
    missing = _missing(comparison, directory)
    with Writing(comparison, directory) as write:
        for name, fit in missing.items():

            def save(name: str = name, fit: Fit = fit) -> None:
                comparison.kept[name] = save_fit(fit, directory, name)

            write(f"the fit '{name}'", save)
        write(HEADER, partial(write_header, comparison, directory))


def save_exhibits(comparison: Fits, directory: Path) -> None:
    """Write the exhibits to their place in a comparison's folder, so that it can be loaded."""
    with Writing(comparison, directory) as write:
        _write_exhibits(comparison, directory, write)
        write(HEADER, partial(write_header, comparison, directory))


# -- header ----------------------------------------------------------------------------------


def write_header(comparison: Fits, directory: Path) -> None:
    """Write what binds the fits of a folder together, whole or not at all."""
    here = {n: k for n, k in comparison.kept.items() if k.path == fit_path(directory, n)}
    labels = {n: kept.labels.to_json() for n, kept in here.items() if kept.labels is not None}
    reference = comparison.reference_name
    header = {
        "fits": [name for name in comparison.fits if name in here],
        "reference": reference if reference in here else None,
        "target_name": comparison.target_name,
        "model_mark": comparison.model_mark,
        "notes": notes_to_json(comparison.notes),
        "interrupted": comparison.interrupted,
        "left": comparison.left.to_dict(),
        "description": comparison.description,
        "rows_left_out": comparison.rows_left_out,
        "quadrature": comparison.quadrature and comparison.quadrature.to_dict(),
        **comparison.found.to_dict(),
        "labels": labels,
        "exhibits": [
            {"name": e.name, "title": e.title, "caption": e.caption}
            for e in comparison.exhibits
            if not e.problem
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
        header = json.loads(within(directory / HEADER, directory).read_text(encoding="utf-8"))
        check_header(header)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{directory}: no saved comparison here ({error}); "
            "make one with 'vi-recipes compare MODEL --out DIR'"
        ) from None
    return dict(header)
