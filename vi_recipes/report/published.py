"""A table for a paper, in the formats that papers are written in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vi_recipes.core import write_whole
from vi_recipes.report.cells import Cell, Table
from vi_recipes.report.csv import csv_text
from vi_recipes.report.latex import latex
from vi_recipes.report.markdown import as_markdown

if TYPE_CHECKING:
    import pandas as pd

LINE = 15
"""Height of a line of a sheet, in points."""

EXTRA = "python -m pip install 'vi_recipes[tables]'"
"""What installs what writes HTML, xlsx and docx."""


@dataclass(frozen=True, repr=False)
class PublishedTable:
    """A table with methods as columns, and a foot, to be put into a paper.

    Parameters
    ----------
    title, note
        What it shows, and how to read it.
    columns
        Headings.
    body, foot
        Rows of text, as long as ``columns``. Rows without a name of their own are of the one above:
        sds in parentheses, intervals in brackets.
    """

    title: str
    columns: Sequence[str]
    body: Sequence[Sequence[str]]
    foot: Sequence[Sequence[str]] = field(default=())
    note: str = ""

    @property
    def frame(self) -> pd.DataFrame:
        """The rows as a frame of text, the foot last."""
        import pandas as pd

        return pd.DataFrame([*self.body, *self.foot], columns=list(self.columns))

    def _table(self) -> Table:
        rows = [[Cell(text) for text in row] for row in (*self.body, *self.foot)]
        return Table(self.title, list(self.columns), rows, self.note)

    def markdown(self) -> str:
        """Return it in Markdown."""
        return as_markdown(self._table(), fold=False)

    def latex(self, label: str = "methods") -> str:
        """Return it in LaTeX with the rules of ``booktabs``."""
        lines = latex(self._table(), label).splitlines()
        if self.foot:
            lines.insert(lines.index("\\bottomrule") - len(self.foot), "\\midrule")
        return "\n".join(lines) + "\n"

    def csv(self) -> str:
        """Return it as CSV, as printed; :meth:`Comparison.tidy` has every digit.

        Each row has a name of its own, and sds stand without parentheses: spreadsheets take those
        for a minus.
        """
        import pandas as pd

        rows, name = [], ""
        for row in self.body:
            if row[0]:
                name = row[0]
                rows.append(list(row))
            elif any(cell.startswith("(") for cell in row):
                rows.append([f"{name}: sd", *(cell.strip("()") for cell in row[1:])])
            else:
                rows.append([f"{name}: interval", *row[1:]])
        return csv_text(
            pd.DataFrame([*rows, *self.foot], columns=list(self.columns)), with_index=False
        )

    def html(self) -> str:
        """Return it as a fragment of HTML by great_tables.

        Raises
        ------
        ValueError
            Where that is not installed.
        """
        tables = _needed("great_tables", "HTML")
        made = tables.GT(self.frame, auto_align=False).tab_header(title=self.title)
        made = made.cols_align("left", self.columns[0]).cols_align("right", list(self.columns[1:]))
        # its own white would stay white in a dark notebook
        plain = {"table_body_hlines_style": "none", "data_row_padding": "2px"}
        made = made.tab_options(table_background_color="inherit", **plain)
        if self.foot:
            first, last = len(self.body), len(self.body) + len(self.foot)
            line = tables.style.borders(sides="top", weight="2px", color="#666666")
            made = made.tab_style(line, tables.loc.body(rows=[first]))
            small = tables.style.text(size="smaller")
            made = made.tab_style(small, tables.loc.body(rows=list(range(first, last))))
        if self.note:
            made = made.tab_source_note(self.note)
        return str(made.as_raw_html())

    def save(self, path: str | Path) -> Path:
        """Write it in the format that the suffix names; return the path.

        Parameters
        ----------
        path
            ``.html``, ``.md``, ``.tex``, ``.csv``, ``.xlsx`` or ``.docx``.

        Raises
        ------
        ValueError
            For another suffix, or where what writes the format is not installed.
        """
        path = Path(path)
        texts = {".html": self.html, ".md": self.markdown, ".tex": self.latex, ".csv": self.csv}
        files = {".xlsx": self._xlsx, ".docx": self._docx}
        suffix = path.suffix.lower()
        if suffix in texts:
            made = texts[suffix]()
            path.parent.mkdir(parents=True, exist_ok=True)
            return write_whole(path, made)
        if suffix not in files:
            raise ValueError(
                f"path: got '{path}', whose suffix '{path.suffix}' is not a table's; expected one "
                f"of {', '.join([*texts, *files])}"
            )
        write = files[suffix]()
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_whole(path, write)

    def _xlsx(self) -> Callable[[Path], object]:
        book = _needed("openpyxl", "xlsx").Workbook()
        sheet = book.active
        sheet.append([self.title])
        for row in (self.columns, *self.body, *self.foot, [self.note]):
            sheet.append(list(row))
        styles = import_module("openpyxl.styles")
        for cells in sheet.iter_rows():
            for cell in cells:
                if not cell.value:
                    cell.value = None  # text of no length would cut off what stands before it
                    continue
                cell.data_type = "s"  # text, and no formula
                if cell.column > 1:
                    cell.alignment = styles.Alignment(horizontal="right")
        for cell in (*sheet[1], *sheet[2]):
            cell.font = styles.Font(bold=True)
        rows = [self.columns, *self.body, *self.foot]
        for k, letter in enumerate(cell.column_letter for cell in sheet[2]):
            sheet.column_dimensions[letter].width = max(len(row[k]) for row in rows) + 4
        if self.note:
            across = sum(column.width for column in sheet.column_dimensions.values())
            sheet.merge_cells(
                start_row=sheet.max_row,
                end_row=sheet.max_row,
                start_column=1,
                end_column=len(rows[0]),
            )
            note = sheet.cell(sheet.max_row, 1)
            note.alignment = styles.Alignment(wrap_text=True, vertical="top")
            sheet.row_dimensions[note.row].height = LINE * (len(self.note) // across + 2)
        return lambda beside: book.save(beside)

    def _docx(self) -> Callable[[Path], object]:
        document = _needed("docx", "docx").Document()
        document.add_paragraph(self.title, style="Caption")
        rows = [self.columns, *self.body, *self.foot]
        table = document.add_table(rows=len(rows), cols=len(self.columns))
        table.style = "Light List"
        right = import_module("docx.enum.text").WD_ALIGN_PARAGRAPH.RIGHT
        for cells, row in zip(table.rows, rows, strict=True):
            for k, text in enumerate(row):
                cells.cells[k].text = text
                if k:
                    cells.cells[k].paragraphs[0].alignment = right
        document.add_paragraph(self.note)
        return lambda beside: document.save(str(beside))

    def __str__(self) -> str:
        return self.markdown()

    def __repr__(self) -> str:
        return self.markdown()  # what a terminal shows, and a notebook without great_tables

    def _repr_html_(self) -> str | None:
        try:
            return self.html()
        except ValueError:
            return None


def _needed(module: str, what: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise ValueError(f"{what} needs the package {module}: {EXTRA}") from None
