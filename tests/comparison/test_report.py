"""The report: what its tables say, that its files are whole, and that figures draw or decline."""

from __future__ import annotations

import doctest
import itertools
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from worlds_for_tests import World, comparison

from vi_recipes.comparison import overview, tables
from vi_recipes.comparison.comparison import Comparison
from vi_recipes.comparison.figures import gallery as figures
from vi_recipes.comparison.figures.agreement import agreement
from vi_recipes.comparison.figures.forest import forest
from vi_recipes.comparison.figures.heat_maps import correlations
from vi_recipes.comparison.figures.marks import MAX_ROWS
from vi_recipes.comparison.figures.members import ALL, FEW, all_members, few_members
from vi_recipes.comparison.figures.merit import merit
from vi_recipes.comparison.figures.traces import traces
from vi_recipes.comparison.folder import write, write_all
from vi_recipes.comparison.recommend import ranked
from vi_recipes.comparison.view import MEAN_OFF, block, select
from vi_recipes.core import visible
from vi_recipes.core.status import Status
from vi_recipes.core.timing import Timing
from vi_recipes.fit.fit import Fit
from vi_recipes.model.sites import Site
from vi_recipes.posterior.draws import MomentsPosterior, PointPosterior
from vi_recipes.report import cells
from vi_recipes.report.cells import (
    DASH,
    Cell,
    Table,
    format_count,
    format_number,
    format_seconds,
    format_speed_up,
    format_value,
)
from vi_recipes.report.document import MAX_LONG, NUM_OPEN
from vi_recipes.report.exhibit import Exhibit
from vi_recipes.report.latex import latex
from vi_recipes.report.style import shorten

DRAWN = [name for name in figures.FIGURES if name != "all_members"]
"""Of ten groups, which the first figure of members has room for."""

EVERY_TABLE = (
    tables.means, tables.accuracy, tables.accuracy_summary, tables.timings, tables.diagnostics,
    tables.evidence, tables.options, tables.provenance,
)  # fmt: skip


@pytest.fixture(scope="module")
def full() -> Comparison:
    world = World()
    return comparison(
        world.degenerate(),
        world.em(),
        world.svi(),
        world.nuts(),
        notes=["em is on the constrained scale"],
        description="What to look for.",
    )


@pytest.fixture(autouse=True)
def _global_state_untouched() -> Iterator[None]:
    before = dict(mpl.rcParams)
    yield
    assert dict(mpl.rcParams) == before


# -- numbers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "mcse", "scale", "text"),
    [
        (0.68812, 0.002, math.nan, "0.688"),  # the error is in the third decimal
        (0.68812, 0.02, math.nan, "0.69"),
        (0.68812, 0.0, 0.041, "0.6881"),  # three digits of the sd
        (0.68812, 0.02, 0.041, "0.69"),  # the Monte Carlo error is the coarser
        (1234.567, 12.0, 300.0, "1235"),
        (-0.0001, 0.01, 0.1, "0.00"),
        (54.486, 0.009, 0.597, "54.486"),
        (3.14159, 0.0, math.nan, "3.142"),
        (2e-9, 0.0, 1e-10, "2.000e-09"),
        (0.0, 0.0, 1e-10, "0e+00"),
        (math.nan, 0.1, 0.1, DASH),
        (1.0, math.nan, math.nan, "1"),
    ],
)
def test_values_have_the_digits_that_mean_something(
    value: float, mcse: float, scale: float, text: str
) -> None:
    assert format_value(value, mcse, scale) == text


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (format_number, 61895.0, "61,895"),
        (format_number, 0.6824, "0.6824"),
        (format_number, -1234.5678, "-1235"),
        (format_number, 3.53e-11, "3.53e-11"),
        (format_number, -math.inf, "−∞"),
        (format_number, math.nan, DASH),
        (format_seconds, 0.0001, "<0.001"),
        (format_seconds, 0.01234, "0.012"),
        (format_seconds, 9.96, "10.0"),
        (format_seconds, 1513.2, "1,513"),
        (format_count, 0.0, DASH),
        (format_count, 20_000.0, "20,000"),
        (format_speed_up, 123.4, "123×"),
        (format_speed_up, 2.0, "2.0×"),
        (format_speed_up, 0.0345, "0.035×"),
    ],
)
def test_other_numbers(function: Any, value: float, text: str) -> None:
    assert function(value) == text


def test_examples_in_docstrings() -> None:
    assert doctest.testmod(tables).failed == 0
    assert doctest.testmod(cells).failed == 0


# -- tables ----------------------------------------------------------------------------------


def column(table: Table, title: str) -> list[Cell]:
    return [row[table.columns.index(title)] for row in table.rows]


def test_every_table_is_rectangular(full: Comparison) -> None:
    for make in EVERY_TABLE:
        table = make(full)
        assert table.rows, table.title
        assert {len(row) for row in table.rows} == {len(table.columns)}, table.title
        assert all(index < len(table.columns) for index in table.left)


def test_means_side_by_side(full: Comparison) -> None:
    table = tables.means(full)
    assert table.columns == [
        "parameter", "nuts (reference)\nmean", "nuts (reference)\nsd", "map", "em\npoint",
        "svi\nmean", "svi\nsd",
    ]  # fmt: skip
    # the population first, small sites before others
    labels = [cell.text for cell in column(table, "parameter")]
    assert labels[:4] == ["sigma", "b[x]", "b[z]", "a[g0]"]
    assert {(c.text, c.flag) for c in column(table, "map")} == {(DASH, "failed")}
    mean = full.means()["nuts"]
    for label, cell in zip(labels, column(table, "nuts (reference)\nmean"), strict=True):
        assert float(cell.text) == pytest.approx(mean[label], abs=0.006)
        assert cell.flag == ""


def test_flags_follow_the_accuracy_frame(full: Comparison) -> None:
    frame = full.accuracy().xs("svi", level="method")
    for table, mean, sd in (
        (tables.means(full), "svi\nmean", "svi\nsd"),
        (tables.accuracy(full), "svi\ndifference", "svi\nsd ratio"),
    ):
        labels = [cell.text for cell in column(table, "parameter")]
        for label, cell in zip(labels, column(table, mean), strict=True):
            row = frame.loc[label]
            off = abs(row["difference"]) > MEAN_OFF
            assert cell.flag == ("inside" if row["within_error"] else "off" if off else "")
        assert {cell.flag for cell in column(table, sd)} == {"off"}  # half the reference's
    em = column(tables.means(full), "em\npoint")
    inside = full.accuracy().xs("em", level="method")["within_error"].sum()
    assert sum(cell.flag == "inside" for cell in em) == inside > 0
    assert Cell("0.1", "off").marked == "0.1 *"
    assert Cell("0.1", "inside").marked == "0.1 ~"


def test_a_limit_is_said() -> None:
    world = World(groups=50)
    c = comparison(world.svi(), world.nuts())
    table = tables.means(c, limit=10)
    assert len(table.rows) == 10
    assert "43 more parameters not shown" in table.note
    assert len(tables.means(c, sites=["b"]).rows) == 2
    assert select(c, 4) == (["sigma", "b[x]", "b[z]", "a[g0]"], 49)
    assert block(c, 3) == ["sigma", "b"]


def test_provisional_numbers_are_marked() -> None:
    world = World()
    c = comparison(world.svi(status=Status.UNCONVERGED, message="still rising"), world.nuts())
    table = tables.means(c)
    assert "svi†\nmean" in table.columns
    assert "provisional" in table.note


def test_without_a_reference_nothing_is_flagged() -> None:
    world = World()
    c = comparison(world.svi(), world.em(), reference=None)
    assert all(cell.flag == "" for row in tables.means(c).rows for cell in row)
    assert tables.accuracy(c).rows == []
    assert tables.accuracy_summary(c).rows == []
    assert {c.text for c in column(tables.timings(c), "speed-up\nalone")} == {DASH}


def test_a_failure_has_no_speed_up(full: Comparison) -> None:
    table = tables.timings(full)
    speed = dict(
        zip([row[0].text for row in table.rows], column(table, "speed-up\nalone"), strict=True)
    )
    assert {n: c.text for n, c in speed.items()} == {
        "nuts": DASH, "map": DASH, "em": "14×", "svi": "14×",
    }  # fmt: skip


def test_evidence_says_what_it_is(full: Comparison) -> None:
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in tables.evidence(full).rows}
    assert rows == {
        "svi": ["lower bound (ELBO)", "-101.23 ± 0.05", "0.00"],
        "em": ["log-likelihood at its estimate, not log p(y)", "-98.765", DASH],
    }


def test_a_reference_from_outside_has_columns() -> None:
    world = World()
    known = world.fit("published", world.gaussian())
    c = Comparison(
        {"svi": world.svi()}, reference=known, reference_name="published", target_name="toy"
    )
    assert tables.means(c).columns[1] == "published (reference)\nmean"
    for make in EVERY_TABLE:
        make(c)
    assert agreement(c) is not None


# -- documents -------------------------------------------------------------------------------


def test_html_is_whole_and_self_contained(full: Comparison, tmp_path: Path) -> None:
    path = full.report(tmp_path / "report.html")
    text = path.read_text(encoding="utf-8")
    assert re.findall(r"""(?:src|href)="(?!data:|#)""", text) == []
    assert "default-src 'none'; img-src data:" in text  # a browser asks nobody for anything
    for said in (
        "toy",
        "What to look for.",
        "sigma runs to 3e-11",
        "Integrate the latent",
        "em is on the constrained scale",
        "f00dfeed",
        "jax 9.9",
        "lower bound (ELBO)",
        "tolerance = 0.0001",
    ):
        assert said in text
    images = re.findall(r"data:image/svg\+xml,([^\"]+)", text)
    assert len(images) == len(DRAWN)
    assert all(ElementTree.fromstring(unquote(image)).tag.endswith("svg") for image in images)
    assert list(tmp_path.iterdir()) == [path]
    assert write(full, tmp_path / "again.html").read_text(encoding="utf-8") == text


def test_warnings_stand_first(tmp_path: Path) -> None:
    world = World()
    nuts = world.nuts(status=Status.UNCONVERGED, message="R-hat up to 1.31")
    c = comparison(world.svi(), nuts, interrupted=True)
    for name in ("report.html", "report.md"):
        text = c.report(tmp_path / name).read_text(encoding="utf-8")
        assert "interrupted" in text
        assert text.index("R-hat up to 1.31") < text.index("Verdicts")


def test_html_escapes_what_comes_from_outside(tmp_path: Path) -> None:
    world = World(groups=2, labels=["<b>|x", "y_*"])
    c = comparison(world.svi(), world.nuts(), description="<script>alert(1)</script>")
    html = write(c, tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert "a[<b>" not in html
    assert r"a[\u003cb\u003e|x]" in html or "a[&lt;b&gt;|x]" in html
    markdown = write(c, tmp_path / "r.md").read_text(encoding="utf-8")
    assert r"a\[\<b>\|x\]" in markdown
    printed = latex(tables.means(c), "means")
    assert r"a[\textless{}b\textgreater{}\textbar{}x]" in printed
    # TeX prints ?` as an inverted question mark, and | as a dash in its older fonts
    greek = latex(Table("t", ["5 µg of β-blocker", "Λ"], []), "t")
    assert "5 $\\mu$g of $\\beta$-blocker & $\\Lambda$" in greek  # pdflatex has no β in text
    formula = latex(Table("`Better?` ~ (1 | g)", ["x"], []), "t")
    assert (
        r"{\textasciigrave{}Better?\textasciigrave{} \textasciitilde{} (1 \textbar{} g)" in formula
    )
    assert r"y\_*" in printed


@pytest.mark.slow
def test_long_tables_are_data_of_the_page_and_fold_in_markdown(tmp_path: Path) -> None:
    world = World(groups=MAX_LONG + 97)
    c = comparison(world.svi(), world.fit("laplace", world.gaussian()), reference="laplace")
    write_all(c, tmp_path)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"<summary>{MAX_LONG + 97} rows, to be searched" in html
    (first, *_) = re.findall(r'<script type="application/json">(.*?)</script>', html)
    labels, *columns = (one["texts"].split("\n") for one in json.loads(first)["columns"])
    assert labels == [f"a[g{k}]" for k in range(MAX_LONG + 97)]
    assert {len(column) for column in columns} == {MAX_LONG + 97}
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert f"<summary>{MAX_LONG - NUM_OPEN} more rows</summary>" in text
    assert "97 more rows are in tables/means.csv" in text
    directory = tmp_path / "tables"
    assert len(pd.read_csv(directory / "means.csv")) == MAX_LONG + 100
    # the covariance is that of the population
    assert len(pd.read_csv(directory / "covariance_svi.csv")) == 3


def test_markdown_refers_to_figures_that_are_there(full: Comparison, tmp_path: Path) -> None:
    path = full.report(tmp_path / "new" / "report.md")
    images = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", path.read_text(encoding="utf-8"))
    assert len(images) == len(DRAWN)
    for image in images:
        assert b"<svg" in (path.parent / image).read_bytes()
    lines = path.read_text(encoding="utf-8").splitlines()
    for above, below in itertools.pairwise(lines):
        if above.startswith("| ") and below.startswith("| "):  # a table keeps its columns
            assert len(re.findall(r"(?<!\\)\|", above)) == len(re.findall(r"(?<!\\)\|", below))


@pytest.mark.parametrize("name", ["report.pdf", "report"])
def test_unknown_suffix(full: Comparison, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"path: .*expected one of \.html, \.md, \.json"):
        write(full, tmp_path / name)


def test_everything_in_a_folder(full: Comparison, tmp_path: Path) -> None:
    (tmp_path / "fits").mkdir()
    (tmp_path / "fits" / "svi.nc").write_bytes(b"already there")
    assert write_all(full, tmp_path) == tmp_path
    assert (tmp_path / "fits" / "svi.nc").read_bytes() == b"already there"
    there = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    names = ["means", "accuracy", "timings", "diagnostics"]
    names += [f"{what}_{m}" for what in ("covariance", "correlation") for m in ("svi", "nuts")]
    expected = {"report.html", "report.md", "result.json", "tables/sds.csv"}
    expected |= {f"tables/{name}.{suffix}" for name in names for suffix in ("csv", "tex")}
    expected |= {f"figures/{name}.svg" for name in DRAWN}
    expected |= {f"fits/{name}.nc" for name in full}
    assert there == expected
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert list(result["methods"]) == list(full)
    for name in ("means", "sds"):
        read = pd.read_csv(tmp_path / "tables" / f"{name}.csv", index_col="parameter")
        pd.testing.assert_frame_equal(read, getattr(full, name)(), check_names=False)
    covariance = pd.read_csv(tmp_path / "tables" / "covariance_svi.csv", index_col="parameter")
    np.testing.assert_allclose(covariance, full.covariances(["sigma", "b", "a"])["svi"])
    timings = pd.read_csv(tmp_path / "tables" / "timings.csv", index_col="method")
    assert timings["gradient_evaluations"].tolist() == [1234, 1234, 1234, 50_000]


def test_latex_rows_match_their_alignment(full: Comparison) -> None:
    for make in EVERY_TABLE:
        table = make(full)
        text = latex(table, "x")
        alignment = re.search(r"\\begin\{(?:tabular|longtable)\}\{([lr]+)\}", text)
        assert alignment is not None
        rows = [line for line in text.splitlines() if line.endswith(r" \\") and "label" not in line]
        assert len(rows) >= len(table.rows) + 1
        for row in rows:
            spans = [int(n) for n in re.findall(r"\\multicolumn\{(\d+)\}", row)]
            cells = len(re.findall(r"(?<!\\)&", row)) + 1
            assert cells + sum(n - 1 for n in spans) == len(alignment.group(1))


# -- figures ---------------------------------------------------------------------------------


def test_every_figure_is_drawn(full: Comparison) -> None:
    drawings = figures.draw(full)
    assert [drawing.name for drawing in drawings] == DRAWN
    assert all(drawing.png.startswith(b"\x89PNG") for drawing in drawings)


def test_figures_decline_when_there_is_nothing_to_draw() -> None:
    world = World()
    failed = comparison(world.fit("map", None, status=Status.FAILED), reference=None)
    assert [drawing.name for drawing in figures.draw(failed)] == ["times"]
    alone = comparison(world.svi(), reference=None)
    names = [drawing.name for drawing in figures.draw(alone)]
    assert names == ["forest", "members", "correlation", "covariance", "traces", "times"]
    points = comparison(world.em(), reference=None)
    assert [drawing.name for drawing in figures.draw(points)] == [
        "forest", "members", "traces", "times",
    ]  # fmt: skip
    instant = comparison(
        world.fit("map", None, status=Status.FAILED, timing=Timing()), reference=None
    )
    assert figures.draw(instant) == []


def test_points_against_a_reference_have_no_sds_to_compare() -> None:
    world = World()
    c = comparison(world.em(), world.nuts())
    for drawing in figures.draw(c):
        assert drawing.png
    ((turned, _),) = (both.tables for both in overview.population(c))
    (point,) = (row for row in turned.rows if row[0].text == "em")
    marks = {cell.flag for cell in point[2::2]}
    assert any(cell.flag for cell in point[1::2])  # its values are judged, and the dashes are not
    assert marks == {""}


@pytest.mark.parametrize("mean", [math.nan, math.inf])
def test_figures_survive_numbers_that_cannot_be_drawn(mean: float) -> None:
    world = World()
    posterior = world.gaussian(shift=1e4, scale=1e-3)
    posterior.means["sigma"] = np.array(mean)
    posterior.sds["b"] = np.array([math.inf, math.nan])
    c = comparison(world.fit("wild", posterior), world.nuts())
    assert all(drawing.png for drawing in figures.draw(c))


def labelled(labels: list[str], mean: list[float], sd: list[float]) -> Comparison:
    """Return a comparison of one fit whose scalars have these labels, each a site of its own."""
    sites, coords = [], {}
    for k, label in enumerate(labels):
        name, _, inside = label.partition("[")
        parts = inside.removesuffix("]").split(", ") if inside else []
        dims = tuple(f"dim_{k}_{place}" for place in range(len(parts)))
        coords |= {dim: np.array([part]) for dim, part in zip(dims, parts, strict=True)}
        shape = (1,) * len(parts)
        sites.append(Site(name, "latent", shape, shape, (), dims))
    means, sds = (
        {site.name: np.full(site.shape, v) for site, v in zip(sites, values, strict=True)}
        for values in (mean, sd)
    )
    cov, order = np.diag(np.square(sd)), tuple(site.name for site in sites)
    posterior = MomentsPosterior(means, sds, cov, order)
    fit = Fit("svi", Status.OK, sites=tuple(sites), coords=coords, posterior=posterior)
    return comparison(fit, reference=None)


def test_the_terminal_shows_parameters_whose_names_are_not_to_be_shown_as_they_are() -> None:
    (table,) = overview.best_means(labelled(["p[a\u202eb]", "q"], [0.5, 0.6], [0.1, 0.1]))
    assert [row[0].text for row in table.rows] == [visible("p[a\u202eb]"), "q"]


def drawn_rows(c: Comparison) -> list[list[str]]:
    """Return the labels beside the rows of a forest plot, panel by panel."""
    figure = forest(c)
    assert figure is not None
    return [[text.get_text() for text in axes.get_yticklabels()] for axes in figure.axes]


@pytest.mark.parametrize("length", [18, 26])
def test_long_labels_of_one_site_are_drawn_apart(length: int) -> None:
    site = "coefficients_of_standardised_predictors"
    first = ("systolic blood pressure", "diastolic blood pressure", "age in years")
    pairs = itertools.product(first, ("depression score", "quality of life"))
    labels = [f"{site}[{x}, {y}]" for x, y in pairs]
    drawn = {shorten(label, length) for label in labels}
    assert len(drawn) == 6
    assert all(len(label) <= length for label in drawn)


def test_forest_gives_disparate_scales_an_axis_each() -> None:
    c = labelled(["p", "q", "r", "s"], [0.5, 0.6, 80.0, 0.55], [0.1, 0.05, 1.0, math.nan])
    assert drawn_rows(c) == [["p", "q"], ["r"], ["s"]]


def test_forest_is_of_the_population_where_there_is_one() -> None:
    world = World()
    world.mean, world.sd = np.full(13, 1.0), np.full(13, 0.1)
    rows = drawn_rows(comparison(world.fit("svi", world.gaussian()), reference=None))
    assert rows == [["sigma", "b[x]", "b[z]"]]


def test_members_are_those_that_differ_most_sorted_with_equal_limits() -> None:
    world = World(groups=40)
    world.mean = np.linspace(0.0, 4.0, 43)
    moved = world.gaussian()
    far = [3, 7, 11, 20, 38]
    moved.means["a"] = moved.means["a"].copy()
    moved.means["a"][far] += world.sd[far] * np.array([2.0, -3.0, 4.0, 5.0, -6.0])
    exact = world.fit("laplace", world.gaussian())
    c = comparison(exact, world.fit("svi", moved), world.em(), reference="laplace")
    figure = few_members(c)
    assert figure is not None
    drawer = FigureCanvasAgg(figure).get_renderer()
    words = [text for axes in figure.axes for text in axes.texts]
    assert all(text.get_window_extent(drawer).x0 >= 0 for text in words)
    (left, right) = figure.axes
    assert [axes.get_title() for axes in figure.axes] == ["svi", "em"]
    assert left.get_xlim() == right.get_xlim()
    *rows, said = (text.get_text() for text in left.texts)
    named = [int(text[3:-1]) for text in rows]
    assert len(named) == FEW
    assert set(far) <= set(named)
    assert named == sorted(named, reverse=True)
    assert said == f"{FEW} of 40 of a"
    whole = all_members(c)
    assert whole is not None
    assert len(whole.axes[0].texts) == 40
    assert all_members(comparison(World().em(), reference=None)) is None
    assert all_members(comparison(World(groups=ALL + 1).em(), reference=None)) is None


def test_points_beyond_the_members_intervals_are_seen() -> None:
    world = World(groups=40)
    world.mean = np.full(43, 1.0)
    point = world.em()
    for shift, far in ((1.0, False), (-50.0, True)):
        moved = world.fit("em", PointPosterior({k: v + shift for k, v in point.mean().items()}))
        figure = few_members(comparison(world.svi(), moved, reference=None))
        assert figure is not None
        (axes,) = (axes for axes in figure.axes if axes.get_title() == "em")
        low, high = axes.get_xlim()
        marks = [line for line in axes.lines if line.get_marker() not in ("None", "")]
        drawn = np.concatenate([np.asarray(line.get_xdata(), float) for line in marks])
        assert drawn.size == FEW
        assert np.all((drawn >= low) & (drawn <= high))
        assert any(line.get_marker() == "<" for line in marks) == far
        assert Exhibit(name="members", title="", caption="", content=figure).png


def test_merit_has_a_mark_for_each_error_that_is_known() -> None:
    world = World()
    c = comparison(world.svi(), world.em(), world.degenerate(), world.nuts())
    figure = merit(c)
    assert figure is not None
    (axes,) = figure.axes
    errors = {one.method: one.errors for one in ranked(c)}
    seconds = c.timings()["alone_seconds"]
    marks = {
        text.get_text(): text.xy for text in axes.texts if text.get_text() in ("svi", "em", "map")
    }
    assert set(marks) == {"svi", "em"}
    for name, (x, y) in marks.items():
        assert x == seconds[name]
        assert y == abs(errors[name].mean)
    assert merit(comparison(world.svi(), world.nuts())) is None


def test_many_parameters_are_left_out_and_counted() -> None:
    world = World(groups=300)
    c = comparison(world.svi(), world.nuts())
    many = [f"x{i}" for i in range(MAX_ROWS + 3)]
    figure = forest(labelled(many, [0.0] * len(many), [1.0] * len(many)))
    assert figure is not None
    assert sum(len(axes.get_yticks()) for axes in figure.axes) == MAX_ROWS
    assert figure.get_suptitle() == "3 more parameters not drawn"
    # a site too large for a joint covariance is left out of the heat map, and counted
    heat = correlations(c)
    assert heat is not None
    assert heat.get_suptitle() == "300 more parameters not drawn"


def test_traces_come_with_or_without_steps_and_errors() -> None:
    world = World()
    noise = world.rng.normal(size=(2, 150))
    c = comparison(
        world.fit("svi", world.gaussian(), trace={
            "elbo": noise[0], "elbo_se": np.abs(noise[1]), "elbo_step": np.arange(0, 1500, 10)}),
        world.fit("em", world.gaussian(), trace={"log_likelihood": np.ones((3, 5))}),
        world.fit("bad", world.gaussian(), trace={"elbo": np.full(300, np.nan)}),
        reference=None,
    )  # fmt: skip
    figure = traces(c)
    assert figure is not None
    assert [(axes.get_title(), axes.get_ylabel()) for axes in figure.axes] == [
        ("svi", "ELBO"), ("em", "log-likelihood"),
    ]  # fmt: skip
    assert Exhibit(name="traces", title="", caption="", content=figure).png


def test_agreement_axes_are_equal(full: Comparison) -> None:
    figure = agreement(full)
    assert figure is not None
    for axes in figure.axes:
        assert axes.get_xlim() == axes.get_ylim()
        assert axes.get_aspect() == 1.0


def test_labels_are_cut_where_they_stay_distinct() -> None:
    cut = {
        "mu_a": "mu_a",
        "Sigma[0, eruptions, waiting]": "Sigma[0, erupt., waiti.]",
        "a[LAC QUI PARLE COUNTY]": "a[LAC QUI PARLE COUNTY]",
        "a_very_long_name_of_a_site[12]": "a_very_long…f_a_site[12]",
    }
    figure = correlations(labelled(list(cut), [1.0] * 4, [1.0] * 4))
    assert figure is not None
    shown = {text.get_text() for text in figure.axes[0].texts} - {"svi"}
    assert shown == set(cut.values())
    assert max(map(len, shown)) <= 24
    # side by side with many others there is less room
    many = [*cut, *(f"x{i}" for i in range(12))]
    figure = correlations(labelled(many, [1.0] * 16, [1.0] * 16))
    assert figure is not None
    shown = {text.get_text() for text in figure.axes[0].texts} - {"svi"}
    assert {"mu_a", "a[LAC QUI PARLE.]", "a_very_l…_site[12]"} < shown
    assert max(map(len, shown)) <= 18


def test_reports_cost_nothing_until_they_are_written() -> None:
    code = (
        "import sys, vi_recipes, vi_recipes.report\n"
        "heavy = {'matplotlib', 'pandas', 'jinja2', 'rich', 'arviz_stats', 'xarray'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_pyplot_is_never_imported(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from worlds_for_tests import World, comparison\n"
        "world = World()\n"
        "comparison(world.svi(), world.nuts()).report(sys.argv[2])\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    here = str(Path(__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", code, here, str(tmp_path / "r.html")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"
