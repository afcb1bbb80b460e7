"""Reports of a comparison: HTML, Markdown, JSON, and the tables and figures as files."""

from __future__ import annotations

from vi_recipes.report.cells import (
    DASH,
    Cell,
    Flag,
    Table,
    format_count,
    format_number,
    format_seconds,
    format_speed_up,
    format_value,
    sentences,
)
from vi_recipes.report.document import Document
from vi_recipes.report.exhibit import FOLDER, Exhibit, read_exhibit, write_exhibits
from vi_recipes.report.latex import latex
from vi_recipes.report.markdown import as_markdown
from vi_recipes.report.strict_json import strict
from vi_recipes.report.style import COLOURS, GREY, MARKERS, plain_log_ticks, style

__all__ = [
    "COLOURS",
    "DASH",
    "FOLDER",
    "GREY",
    "MARKERS",
    "Cell",
    "Document",
    "Exhibit",
    "Flag",
    "Table",
    "as_markdown",
    "format_count",
    "format_number",
    "format_seconds",
    "format_speed_up",
    "format_value",
    "latex",
    "plain_log_ticks",
    "read_exhibit",
    "sentences",
    "strict",
    "style",
    "write_exhibits",
]
