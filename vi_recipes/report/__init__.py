"""A rendering kit: cells and tables, document, HTML, Markdown, LaTeX, strict JSON, style."""

from __future__ import annotations

from vi_recipes.report.cells import (
    DASH,
    Badge,
    Cell,
    Flag,
    Table,
    format_count,
    format_number,
    format_seconds,
    format_speed_up,
    format_value,
    listed,
    sentences,
    short,
)
from vi_recipes.report.csv import csv_text
from vi_recipes.report.document import (
    Block,
    Copied,
    Document,
    Entries,
    Long,
    Notes,
    Part,
    Turned,
    is_empty,
    part,
)
from vi_recipes.report.exhibit import (
    FOLDER,
    Exhibit,
    file_name,
    read_exhibit,
    write_exhibits,
    write_figures,
)
from vi_recipes.report.html import html_page
from vi_recipes.report.latex import latex
from vi_recipes.report.markdown import as_markdown, markdown_page
from vi_recipes.report.paper import find_browser, print_page
from vi_recipes.report.published import PublishedTable
from vi_recipes.report.reasons import alike
from vi_recipes.report.strict_json import strict
from vi_recipes.report.style import (
    COLOURS,
    GREY,
    MARKERS,
    drawn,
    plain_log_ticks,
    shorten,
    style,
    text_width,
)

__all__ = [
    "COLOURS",
    "DASH",
    "FOLDER",
    "GREY",
    "MARKERS",
    "Badge",
    "Block",
    "Cell",
    "Copied",
    "Document",
    "Entries",
    "Exhibit",
    "Flag",
    "Long",
    "Notes",
    "Part",
    "PublishedTable",
    "Table",
    "Turned",
    "alike",
    "as_markdown",
    "csv_text",
    "drawn",
    "file_name",
    "find_browser",
    "format_count",
    "format_number",
    "format_seconds",
    "format_speed_up",
    "format_value",
    "html_page",
    "is_empty",
    "latex",
    "listed",
    "markdown_page",
    "part",
    "plain_log_ticks",
    "print_page",
    "read_exhibit",
    "sentences",
    "short",
    "shorten",
    "strict",
    "style",
    "text_width",
    "write_exhibits",
    "write_figures",
]
