"""The report as Markdown, its figures in files beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import quote

from vi_recipes.core import visible
from vi_recipes.report.cells import Cell, Table
from vi_recipes.report.document import (
    MAX_LONG,
    NUM_OPEN,
    Block,
    Copied,
    Document,
    Entries,
    Long,
    Notes,
    Turned,
)
from vi_recipes.report.exhibit import Exhibit


def markdown_page(document: Document) -> str:
    """Return the text; figures are taken to be in the folders that the parts name."""
    parts = [f"# {escape(document.title)}"]
    if document.answer:
        parts.append(f"**{escape(document.answer)}**")
    parts.append(_paragraph(document.intro))
    if document.description:
        parts.append(_paragraph(document.description))
    if document.warnings:
        lines = ["**Read this first**", *document.warnings]
        parts.append(
            "\n>\n".join(
                f"> {_paragraph(line)}" if i else f"> {line}" for i, line in enumerate(lines)
            )
        )
    for block in document.lead:
        parts += [f"## {escape(block.title)}", *_block(block, "figures")]
    for part in document.parts:
        parts.append(f"## {escape(part.title)}")
        for block in part.blocks:
            if block.title != part.title:
                parts.append(f"### {escape(block.title)}")
            parts += _block(block, part.folder)
    return "\n\n".join(parts) + "\n"


def _block(block: Block, folder: str) -> list[str]:
    match block:
        case Table():
            return [as_markdown(block)]
        case Turned():
            return [as_markdown(block.tables[0])]
        case Long():
            left_out = max(len(block.table.rows) - MAX_LONG, 0)
            more = f"{left_out} more rows are in {block.file}. " if left_out else ""
            table = replace(block.table, rows=block.table.rows[:MAX_LONG])
            return [as_markdown(replace(table, note=f"{more}{table.note}".strip()))]
        case Copied():
            # indented by four, it is shown as it is
            text = visible(block.copied, lines=True)
            return [_paragraph(block.note), "\n".join(f"    {line}" for line in text.splitlines())]
        case Exhibit(table=Table() as table):
            return [as_markdown(table)]
        case Exhibit():
            image = f"![{escape(block.title)}]({quote(f'{folder}/{block.name}.svg')})"
            return [image, _paragraph(block.caption)]
        case Entries():
            lines = [f"**{escape(name)}**: {escape(text)}" for name, text in block.entries]
        case Notes():
            lines = [_paragraph(line) for line in block.lines]
    return ["\n".join(f"- {line}" for line in lines)]


def as_markdown(table: Table, *, fold: bool = True) -> str:
    """Return a table, its note before it; ``fold`` hides the rows of a long one."""
    parts = [_paragraph(table.note)] if table.note else []
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
    lines = [[escape(text) for text in head], rule]
    lines += [[escape(cell.marked) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _paragraph(text: str) -> str:
    """Return ``text`` as a paragraph, and no heading, list or rule, whatever it begins with."""
    return re.sub(r"^(?:(?=[#+=>-])|\d+(?=[.)]))", r"\g<0>\\", escape(text))


def escape(text: str) -> str:
    """Return ``text`` with the characters that Markdown would take for its own escaped."""
    text = " ".join(visible(text, lines=True).split())
    return re.sub(r"[\\|*_<`~\[\]&$]", r"\\\g<0>", text)
