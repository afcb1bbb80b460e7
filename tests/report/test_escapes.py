"""Text from outside is shown as it is, and is no command to whatever shows it."""

from __future__ import annotations

import csv
import io
import re
from html import unescape
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from markdown_it import MarkdownIt
from matplotlib.cbook import is_math_text
from matplotlib.figure import Figure

from vi_recipes.core import visible
from vi_recipes.report import (
    Cell,
    Document,
    Exhibit,
    Notes,
    Part,
    Table,
    csv_text,
    html_page,
    markdown_page,
    read_exhibit,
    shorten,
    style,
    write_exhibits,
)

HOSTILE = [
    "# heading",
    "- item",
    "+ item",
    "1. item",
    "12) item",
    "---",
    "===",
    "> quoted",
    "[link](javascript:alert)",
    "![image](x.png)",
    "<script>alert(1)</script>",
    "<https://example.org>",
    "&lt;b&gt; and &#91;",
    "*bold* _it_ `code` ~~gone~~",
    "a | b",
    "back\\slash",
    "[ref]: javascript:x",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_shows_text_as_it_is(text: str) -> None:
    exhibit = Exhibit(name="e", title=text, caption=text, content=Figure(figsize=(1, 1)))
    table = Table(text, ["name"], [[Cell(text)]], text)
    parts = [Part("p", text, [exhibit, table, Notes(text, [text])])]
    page = markdown_page(Document(text, text, text, [text], parts))
    tokens = MarkdownIt("commonmark").enable("table").enable("strikethrough").parse(page)
    inline = [child for t in tokens if t.type == "inline" for child in t.children or ()]
    kinds = {child.type for child in inline}
    allowed = {"text", "image", "strong_open", "strong_close", "softbreak", "text_special"}
    assert kinds <= allowed, kinds - allowed
    assert {t.type for t in tokens if t.type.startswith(("html", "hr", "code", "ordered"))} == set()
    assert sum(t.type == "heading_open" for t in tokens) == 2  # of the page and its part
    html = MarkdownIt("commonmark").enable("table").render(page)
    assert unescape(html).count(text) >= 7
    assert '<img src="figures/e.svg"' in html


@pytest.mark.parametrize(
    "text", [*HOSTILE, "a \"b\" 'c' & d", "µ 名", "100 %", "#1", "1.0025 > 12345.678"]
)
def test_a_figure_says_what_it_was_given(text: str) -> None:
    figure = Figure(figsize=(2, 2))
    figure.text(0.1, 0.5, text, parse_math=False)
    figure.text(0.1, 0.8, "\x1bend\x00")  # no character of XML
    exhibit = Exhibit(name="e", title="t", caption="c", content=figure)
    page = html_page(Document("t", "i", "", [], [Part("p", "p", [exhibit])]))
    (source,) = re.findall(r'<img src="data:image/svg\+xml,([^"]*)"', page)
    for image in (exhibit.svg.decode(), unquote(unescape(source))):
        found = ElementTree.fromstring(image).iter("{http://www.w3.org/2000/svg}text")
        assert [one.text for one in found] == [text, "\ufffdend\ufffd"]


@pytest.mark.parametrize("text", ["\x1b[2J", "\x07", "\x9b31m", "a\u202eb", "\x00", "\u2028"])
def test_control_characters_are_spelled_out(text: str) -> None:
    table = Table("t", [f"{text}\nmean"], [[Cell(text)]])
    page = Document(text, text, text, [text], [Part("p", text, [table, Notes("n", [text])])])
    for written in (visible(text), markdown_page(page), html_page(page)):
        assert not set(text) & set(written) - set("a[2Jb31m")


@pytest.mark.parametrize("text", ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1"])
def test_csv_cells_are_no_formulas(text: str) -> None:
    index = pd.MultiIndex.from_tuples([(text, "m"), ("a", text)], names=["parameter", "method"])
    frame = pd.DataFrame({text: [-0.5, 1.0], "said": [text, "fine"]}, index=index)
    rows = list(csv.reader(io.StringIO(csv_text(frame))))
    words = [cell for row in rows for cell in row if cell not in ("-0.5", "1.0")]
    assert not [cell for cell in words if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert rows[1][2] == "-0.5"  # numbers stay numbers


def test_an_exhibit_s_text_is_the_same_when_read_back(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {"=name": ["=1+1", "'quoted", "-0.5", "plain"], "x": [-1.0, 2.0, 3.0, 4.0]}
    )
    write_exhibits([Exhibit(name="e", title="t", caption="c", content=frame)], tmp_path)
    content = read_exhibit(tmp_path, "e", "t", "c").content
    assert isinstance(content, pd.DataFrame)
    assert content["=name"].tolist() == frame["=name"].tolist()
    np.testing.assert_array_equal(content["x"], frame["x"])


@pytest.mark.parametrize("label", ["$x^{$", r"\$", "$", "a\nb\x1b", r"\frac$\frac$", "名"])
def test_names_are_no_mathematics_in_figures(label: str) -> None:
    with style():
        figure = Figure(figsize=(2, 2))
        text = figure.text(0.1, 0.5, shorten(label, 30))
    assert Exhibit(name="e", title="t", caption="c", content=figure).png
    assert not is_math_text(text.get_text())
    assert text.get_text().replace(r"\$", "$") == visible(label)
