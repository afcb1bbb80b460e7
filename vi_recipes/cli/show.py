"""Tables on the terminal: in colour on one, as plain text of full width elsewhere."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from vi_recipes.core import numbered, visible

if TYPE_CHECKING:
    from vi_recipes.comparison import Comparison
    from vi_recipes.report import Block, Cell, Table

_STYLES = {
    "": "",
    "inside": "dim",
    "off": "bold red",
    "failed": "dim",
    "good": "bold green",
    "care": "yellow",
    "bad": "bold red",
    "unknown": "magenta",
    "none": "dim",
}
_PLAIN_WIDTH = 10_000


class Screen(Console):
    """A console that obeys no control characters in what is printed."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print, with control characters in plain text spelled out."""
        shown = (visible(o, lines=True) if isinstance(o, str) else o for o in objects)
        super().print(*shown, **options)

    def on_broken_pipe(self) -> None:
        """Leave a reader who has gone to whoever prints; called where the error is handled."""
        raise


def said(text: str, style: str = "") -> Text:
    """Return text for a console; control characters in it are spelled out."""
    return Text(visible(text, lines=True), style=style)


def make_console(*, stderr: bool = False) -> Console:
    """Return a console; where it is no terminal, and COLUMNS is not set, lines are not broken."""
    console = Screen(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=False)
    if not console.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
        console.width = _PLAIN_WIDTH
    return console


def show_comparison(console: Console, comparison: Comparison, *, everything: bool) -> None:
    """Print what a comparison found: the answer, then a screen of it, or everything."""
    from vi_recipes.comparison import answer, on_terminal

    console.print(said(answer(comparison), style="bold green" if _styled(console) else ""))
    if everything:
        title = f"{comparison.target_name}: {comparison.description}".rstrip(": ")
        console.print()
        console.print(said(title, style="bold" if _styled(console) else ""))
    for warning in comparison.warnings:
        console.print(said(f"warning: {warning}", style="bold yellow" if _styled(console) else ""))
    for block in on_terminal(comparison, brief=not everything):
        show_block(console, block)
    if not everything:
        console.print(
            f"\nVerdicts in full, timings, {_count(comparison.remarks)} and all else: --all"
        )


def _count(notes: Sequence[str]) -> str:
    return f"{len(notes) or 'no'} note{'s' if len(notes) != 1 else ''}"


def show_block(console: Console, block: Block) -> None:
    """Print a table, sentences on names, or remarks."""
    from vi_recipes.report import Entries, Notes, Table, Turned

    match block:
        case Table():
            show_table(console, block)
        case Turned():
            show_table(console, block.tables[-1])
        case Entries():
            console.print()
            console.print(said(block.title, style="bold" if _styled(console) else ""))
            width = max((len(name) for name, _ in block.entries), default=0)
            for name, text in block.entries:
                show_item(console, name, text, width)
        case Notes():
            console.print()
            for line in block.lines:
                console.print(said(f"Note: {line}"))


def show_item(console: Console, name: str, text: str, width: int) -> None:
    """Print a name and a sentence on it, the sentence's lines aligned.

    Beside names that would take more than half of the screen it stands below its own.
    """
    head = said(f"  {name}", style="bold" if _styled(console) else "")
    grid = RichTable.grid(padding=(0, 2))
    if 2 * (width + 4) > console.width:
        console.print(head)
        head, width = Text(""), 2
    grid.add_column(width=width + 2, no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(head, said(text))
    _print_trimmed(console, grid)


def show_table(console: Console, table: Table) -> None:
    """Print a table; one too wide for the terminal is split between methods."""
    console.print()
    console.print(said(table.title, style="bold" if _styled(console) else ""))
    pages = _pages(table, console)
    note = table.note
    if table.drops and len(pages) > 1:
        dropped = {
            table.columns[column].split("\n")[0] for page in pages[1:] for column in page[1:]
        }
        pages = pages[:1]
        note = f"{numbered(len(dropped), f'more {table.drops}')}: --all. {note}".rstrip()
    for columns in pages:
        _print_trimmed(console, _rich(console, table, columns))
    if note:
        console.print(said(note, style="dim" if _styled(console) else ""))


def _rich(console: Console, table: Table, columns: list[int]) -> RichTable:
    # Pipes are plain text that reads well, and Markdown where it is pasted.
    style = box.SIMPLE_HEAD if console.is_terminal else box.MARKDOWN
    heads = "bold" if _styled(console) else ""
    rich = RichTable(
        box=style, header_style=heads, pad_edge=True, show_edge=not console.is_terminal
    )
    for column in columns:
        rich.add_column(
            Text(_title(table, column, console)),
            justify="left" if column in table.left else "right",
            no_wrap=column not in table.left or column == 0,
            overflow="fold",
        )
    for row in table.rows:
        rich.add_row(*(_cell(console, row[column]) for column in columns))
    return rich


def _title(table: Table, column: int, console: Console) -> str:
    """Return what stands above a column: in Markdown, on one line."""
    title = table.columns[column]
    return title if console.is_terminal else title.replace("\n", " ")


def _cell(console: Console, cell: Cell) -> Text:
    return Text(cell.marked, style=_STYLES[cell.badge or cell.flag] if _styled(console) else "")


def _styled(console: Console) -> bool:
    return console.is_terminal and not console.no_color


def _pages(table: Table, console: Console) -> list[list[int]]:
    """Return the columns of each part of a table, the first column leading every part."""
    titles = [_title(table, column, console).split("\n") for column in range(len(table.columns))]
    widths = [
        3 + max([*map(len, title), *(len(row[i].marked) for row in table.rows)])
        for i, title in enumerate(titles)
    ]
    pages: list[list[int]] = [[0]]
    # the columns of one method share the first line of their headings, and stay together
    rest = range(1, len(widths))
    for _, group in groupby(rest, key=lambda i: table.columns[i].split("\n")[0]):
        together = list(group)
        used = 2 + sum(widths[i] for i in pages[-1] + together)  # 2 for the edges
        if used > console.width and len(pages[-1]) > 1:
            pages.append([0])
        pages[-1] += together
    return pages


def _print_trimmed(console: Console, renderable: RichTable) -> None:
    """Print without the blanks that pad every line to the width of the table."""
    if console.is_terminal:
        console.print(renderable)
        return
    with console.capture() as capture:
        console.print(renderable)
    for line in capture.get().strip("\n").split("\n"):
        console.print(Text(line.rstrip()))
