"""The report as one self-contained HTML page."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import groupby
from typing import TYPE_CHECKING
from urllib.parse import quote

from vi_recipes.core import visible
from vi_recipes.report.aligned import Aligned, aligned
from vi_recipes.report.cells import MARKS, Badge, Cell, Table, short
from vi_recipes.report.document import Document, Turned
from vi_recipes.report.exhibit import Exhibit

if TYPE_CHECKING:
    from jinja2 import Template

PLAIN = " !'()*,-./:;=?@_~$+[]{}|^"
"""What stands as it is in the address of an image, within double quotes; ``&`` is HTML's."""

PER_LETTER, PER_COLUMN = 1.2, 2.6
"""Millimetres on paper of a letter in a table, and of a column beside its letters."""

UPRIGHT, LYING = 182.0, 270.0
"""Millimetres across a page that stands and one that lies."""

LETTERS: dict[str, str] = {"": ".", "inside": "~", "off": "*", "failed": "x"}
"""Flag -> its letter in the data of a long table."""


def html_page(document: Document) -> str:
    """Return the page; its figures are inline SVG images and it needs nothing else."""
    script = _file("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return _template().render(document=document, digest=f"sha256-{digest}")


def _image(drawing: Exhibit) -> str:
    svg = drawing.svg.decode("utf-8")
    # attributes between single quotes, which are shorter in an address; what is said keeps its own
    said = re.sub(r">[^<]*", lambda found: found.group().replace('"', "&quot;"), svg)
    plain = said[said.find("<svg") :].replace("'", "&apos;").replace('"', "'")
    return "data:image/svg+xml," + quote(plain, safe=PLAIN)


# -- tables ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Head:
    """A cell of a table's head.

    Parameters
    ----------
    title
        What it says.
    span, rows
        Columns and rows that it stands over.
    column
        The column that it heads alone; ``None`` for one over several.
    classes
        How it is shown.
    """

    title: str
    span: int = 1
    rows: int = 1
    column: int | None = None
    classes: str = ""


def heads(table: Table) -> list[list[Head]]:
    """Return the rows of a table's head: columns whose first line is the same share it."""
    places = range(len(table.columns))
    groups = [
        list(group)
        for _, group in groupby(places, key=lambda k: table.columns[k].split("\n")[0] or str(k))
    ]
    shared = any(len(group) > 1 for group in groups)
    upper: list[Head] = []
    lower: list[Head] = []
    for group in groups:
        if len(group) > 1:
            above = table.columns[group[0]].split("\n")[0]
            upper.append(Head(above, span=len(group), classes="group"))
            lower += [
                Head(_below(table.columns[k]), column=k, classes=_side(table, k)) for k in group
            ]
        else:
            (k,) = group
            rows = 2 if shared else 1
            upper.append(Head(table.columns[k], rows=rows, column=k, classes=_side(table, k)))
    return [upper, lower] if shared else [upper]


def _below(title: str) -> str:
    return title.partition("\n")[2] or title


def _side(table: Table, column: int) -> str:
    return "left" if column in table.left else ""


def _cells(table: Table) -> list[list[tuple[Cell, Aligned, str]]]:
    """Return the rows of a table, each cell with its text aligned and its classes."""
    columns = []
    for k in range(len(table.columns)):
        cells = [row[k] for row in table.rows]
        words = k in table.left
        shown = (
            [Aligned(cell.text, "", "", "") for cell in cells]
            if words or table.mixed
            else aligned([cell.text for cell in cells])
        )
        columns.append(
            [
                (
                    cell,
                    one,
                    " ".join(c for c in ("left" if words else "", cell.flag, one.classes) if c),
                )
                for cell, one in zip(cells, shown, strict=True)
            ]
        )
    return [list(row) for row in zip(*columns, strict=True)]


def _data(table: Table) -> str:
    """Return the cells of a long table as JSON that is no HTML, a column in one text."""
    columns = [
        {
            "texts": "\n".join(row[k].text for row in table.rows),
            "flags": "".join(LETTERS[row[k].flag] for row in table.rows),
            "left": k in table.left,
        }
        for k in range(len(table.columns))
    ]
    text = json.dumps({"columns": columns}, ensure_ascii=False, separators=(",", ":"))
    return re.sub(r"[<>&]", lambda found: f"\\u{ord(found.group()):04x}", text)


def _room(table: Table) -> str:
    """Return classes of a table that needs a page on its side, and small letters besides."""
    width = 0.0
    for k, title in enumerate(table.columns):
        longest = max(map(len, title.split("\n")))
        longest = max([longest, *(len(row[k].text) for row in table.rows)])
        width += PER_LETTER * longest + PER_COLUMN
    if table.wraps or width <= UPRIGHT:
        return ""
    return " wide" if width <= LYING else " wide dense"


def _narrow(block: Turned) -> int:
    """Return which of the two is for paper: that with the fewer columns."""
    return int(len(block.tables[1].columns) < len(block.tables[0].columns))


def _rank(badge: Badge) -> int:
    return list(MARKS).index(badge)


def _shown(value: object) -> object:
    return visible(value, lines=True) if type(value) is str else value  # no text with tags


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined  # only those who write a page wait for it
    from markupsafe import Markup

    environment = Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=_shown,
    )
    environment.globals.update(
        image=lambda drawing: Markup(_image(drawing)),
        data=lambda table: Markup(_data(table)),
        css=Markup(_file("page.css")),
        js=Markup(_file("page.js")),
        heads=heads,
        cells=_cells,
        narrow=_narrow,
        rank=_rank,
        room=_room,
        short=short,
    )
    return environment.from_string(_file("template.html.jinja"))


def _file(name: str) -> str:
    return files("vi_recipes.report").joinpath(name).read_text("utf-8")
