"""The report as Markdown, its figures in files beside it."""

from __future__ import annotations

from collections.abc import Sequence

from vi_recipes.report.cells import Cell, Table
from vi_recipes.report.document import NUM_OPEN, Document
from vi_recipes.report.exhibit import FOLDER, Exhibit


def render(document: Document) -> str:
    """Return the text; figures are taken to be in ``figures``, a study's own in ``exhibits``."""
    parts = [f"# {document.title}", document.intro]
    if document.description:
        parts.append(document.description)
    if document.warnings:
        lines = ["**Read this first**", *document.warnings]
        parts.append(
            "\n>\n".join(f"> {_escape(line)}" if i else f"> {line}" for i, line in enumerate(lines))
        )
    if document.exhibits:
        parts.append("## What the study shows")
    for exhibit in document.exhibits:
        if exhibit.table is not None:
            parts += [f"### {exhibit.title}", as_markdown(exhibit.table)]
        else:
            parts += _picture(exhibit, FOLDER)
    parts += [f"## {document.verdicts.title}", as_markdown(document.verdicts)]
    for table in document.results:
        parts += [f"## {table.title}", as_markdown(table)]
    if document.drawings:
        parts.append("## Figures")
    for drawing in document.drawings:
        parts += _picture(drawing, "figures")
    if document.evidence.rows:
        parts += [f"## {document.evidence.title}", as_markdown(document.evidence)]
    parts.append("## How it was made")
    for table in document.record:
        parts += [f"### {table.title}", as_markdown(table)]
    if document.notes:
        parts += ["### Notes", "\n".join(f"- {_escape(note)}" for note in document.notes)]
    return "\n\n".join(parts) + "\n"


def _picture(drawing: Exhibit, folder: str) -> list[str]:
    image = f"![{drawing.title}]({folder}/{drawing.name}.png)"
    return [f"### {drawing.title}", image, drawing.caption]


def as_markdown(table: Table, *, fold: bool = True) -> str:
    """Return a table, its note before it; ``fold`` hides the rows of a long one."""
    parts = [_escape(table.note)] if table.note else []
    if not fold:
        return "\n\n".join([*parts, _rows(table, table.rows)])
    parts.append(_rows(table, table.rows[:NUM_OPEN]))
    if len(table.rows) > NUM_OPEN:
        more = len(table.rows) - NUM_OPEN
        parts += [
            f"<details><summary>{more} more rows</summary>",
            _rows(table, table.rows[NUM_OPEN:]),
            "</details>",
        ]
    return "\n\n".join(parts)


def _rows(table: Table, rows: Sequence[Sequence[Cell]]) -> str:
    head = [column.replace("\n", " ") for column in table.columns]
    rule = [":--" if i in table.left else "--:" for i in range(len(head))]
    lines = [[_escape(text) for text in head], rule]
    lines += [[_escape(cell.marked) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escape(text: str) -> str:
    """Return ``text`` with the characters that Markdown would take for its own escaped."""
    for character in "\\|*_<`~[]":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())
