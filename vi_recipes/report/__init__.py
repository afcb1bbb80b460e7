"""Reports of a comparison: HTML, Markdown, JSON, and the tables and figures as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vi_recipes.comparison.fits import Comparison
    from vi_recipes.report.exhibit import Exhibit

SUFFIXES = (".html", ".md", ".json")
"""Formats that :func:`write` knows."""


def write(comparison: Comparison, path: str | Path) -> Path:
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
    from vi_recipes.report import html, markdown
    from vi_recipes.report.document import compose
    from vi_recipes.report.exhibit import FOLDER, write_exhibits

    document = compose(comparison, draw(comparison))
    if suffix == ".html":
        text = html.render(document)
    else:
        _write_figures(document.drawings, path.parent / "figures", svg=False)
        write_exhibits(comparison.exhibits, path.parent / FOLDER)
        text = markdown.render(document)
    path.write_text(text, encoding="utf-8")
    return path


def write_all(comparison: Comparison, directory: str | Path) -> Path:
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
    from vi_recipes.comparison.tables import all_fits
    from vi_recipes.report import html, markdown
    from vi_recipes.report.document import compose
    from vi_recipes.report.exhibit import FOLDER, write_exhibits
    from vi_recipes.report.latex import write_tables

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


def _write_json(comparison: Comparison, path: Path) -> None:
    from vi_recipes.comparison.json import dumps

    path.write_text(dumps(comparison), encoding="utf-8")


def _write_figures(drawings: Sequence[Exhibit], directory: Path, *, svg: bool) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for drawing in drawings:
        (directory / f"{drawing.name}.png").write_bytes(drawing.png)
        if svg:
            (directory / f"{drawing.name}.svg").write_bytes(drawing.svg)
