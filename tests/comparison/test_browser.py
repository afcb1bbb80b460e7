"""The page in a real browser: Chromium, driven by Playwright; skipped where there is none."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from worlds_for_tests import World, comparison

from vi_recipes.comparison.folder import write
from vi_recipes.core import Status
from vi_recipes.report import find_browser, print_page

playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

BROWSER = find_browser()
pytestmark = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on the path")

GROUPS = 10_000
WIDTHS = (390, 768, 1280, 1920)
AXE = "axe-core@4"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of five fits of ten thousand groups."""
    world = World(groups=GROUPS)
    fits = [world.em(), world.svi(), world.fit("lrvb", world.gaussian(0.05, 0.9512))]
    fits += [world.fit("laplace", world.gaussian(0.123, 1.1))]
    reason = {"message": "; ".join(["there is no mode"] * 12), "advice": "integrate it out"}
    fits += [world.fit("map", None, status=Status.DEGENERATE, **reason)]
    reference = world.fit("nested", world.gaussian())
    c = comparison(*fits, reference, reference="nested", notes=["a note"], description="Toy.")
    return write(c, tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    """Return the page, opened; what its console says against it is an error."""
    said: list[str] = []
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: said.append(request.url))
    opened.goto(report.as_uri())
    yield opened
    opened.close()
    asked = [line for line in said if not line.startswith(("data:", report.as_uri()))]
    assert asked == []


def open_members(page: Any) -> Any:
    page.locator("#members-table > summary").click()
    members = page.locator("#members-table")
    members.locator("tbody tr").first.wait_for()
    return members


def column(table: Any, place: int) -> list[float]:
    return [
        float(text) for text in table.locator(f"tbody tr td:nth-child({place})").all_inner_texts()
    ]


# -- what it does --------------------------------------------------------------------------------


def test_the_first_screen_has_the_answer_and_the_methods(page: Any, report: Path) -> None:
    assert report.stat().st_size < 5e6
    answer = page.locator("p.answer").bounding_box()
    methods = page.locator(".lead table").bounding_box()
    assert answer["y"] + answer["height"] < methods["y"]
    assert methods["y"] + methods["height"] < 900
    assert page.locator(".lead .badge.good").count() >= 1
    assert page.locator(".lead .badge.none").inner_text() == "no result"


def test_tables_are_sorted_by_their_headings(page: Any) -> None:
    button = page.locator(".lead th", has_text="seconds").get_by_role("button")
    heading = page.locator(".lead th", has_text="seconds")
    button.click()
    assert heading.get_attribute("aria-sort") == "ascending"
    upwards = column(page.locator(".lead table"), 5)
    assert upwards == sorted(upwards)
    button.focus()
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    assert column(page.locator(".lead table"), 5) == sorted(upwards, reverse=True)


def test_members_are_folded_and_then_searched_and_sorted(page: Any) -> None:
    assert page.locator("#members-table tbody tr").count() == 0
    members = open_members(page)
    assert members.locator("tbody tr").count() == 50
    assert members.get_by_role("status").inner_text() == f"rows 1 to 50 of {GROUPS}"
    members.get_by_label("Find").fill("g999")
    assert members.get_by_role("status").inner_text() == "rows 1 to 11 of 11"
    assert members.locator("tbody th").first.inner_text() == "a[g999]"
    members.get_by_label("Find").fill("nowhere")
    assert "no row" in members.get_by_role("status").inner_text()
    members.get_by_label("Find").fill("")
    members.locator("thead button", has_text="mean").first.click()
    means = column(members, 2)
    assert means == sorted(means)
    members.get_by_role("button", name="More").click()
    assert members.get_by_role("status").inner_text() == f"rows 51 to 100 of {GROUPS}"
    assert min(column(members, 2)) >= max(means)


def test_sorting_ten_thousand_rows_is_quick(page: Any) -> None:
    members = open_members(page)
    members.locator("thead button", has_text="mean").first.wait_for()
    taken = page.evaluate(
        """() => {
          const button = document.querySelector("#members-table thead tr + tr button");
          const before = performance.now();
          button.click();
          document.body.getBoundingClientRect();
          return performance.now() - before;
        }"""
    )
    assert taken < 3_000  # ten times what it is to take: no test asserts a time closely


def test_a_table_is_read_both_ways(page: Any) -> None:
    turn = page.locator(".turn")
    assert turn.locator("table:visible thead th").first.inner_text().startswith("method")
    turn.get_by_role("button", name="parameters as rows").click()
    assert turn.locator("table:visible thead th").first.inner_text().startswith("parameter")
    assert turn.locator("table:visible").count() == 1


def test_long_texts_are_a_line_until_they_are_asked_for(page: Any) -> None:
    failed = page.locator("details.said", has_text="map")
    rest = failed.locator("p")
    assert not rest.is_visible()
    failed.locator("summary").click()
    assert rest.is_visible()
    assert rest.inner_text().endswith("Integrate it out.")


def test_the_bibtex_is_copied(page: Any) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_text("BibTeX of what it cites").click()
    page.get_by_role("button", name="Copy").click()
    page.get_by_text("copied", exact=True).wait_for()
    assert "@misc{phan2019composable," in page.evaluate("navigator.clipboard.readText()")


def test_every_figure_is_an_image_and_saved_as_png(page: Any) -> None:
    images = page.locator("figure img")
    assert images.count() > 5
    assert images.evaluate_all("all => all.filter((e) => e.naturalWidth === 0).length") == 0
    with page.expect_download() as saved:
        page.get_by_role("button", name="Save as PNG: Methods side by side").click()
    assert saved.value.suggested_filename == "forest.png"
    content = Path(saved.value.path()).read_bytes()
    assert content.startswith(b"\x89PNG")
    width = images.evaluate_all("all => all.find((e) => e.alt.startsWith('Methods')).naturalWidth")
    assert int.from_bytes(content[16:20]) == 3 * width


# -- how it looks --------------------------------------------------------------------------------


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_is_never_wider_than_the_screen(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    open_members(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for badge in page.locator(".lead .badge").all():  # a verdict is read without scrolling
        box = badge.bounding_box()
        assert box["x"] + box["width"] <= width


def test_it_is_dark_where_the_reader_s_screen_is(page: Any) -> None:
    def ground() -> list[int]:
        shown = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return [int(n) for n in re.findall(r"\d+", shown)[:3]]

    assert min(ground()) == 255
    page.emulate_media(color_scheme="dark")
    assert max(ground()) < 50
    figure = page.locator("figure img").first
    assert figure.evaluate("e => getComputedStyle(e).backgroundColor") == "rgb(255, 255, 255)"


def test_numbers_are_aligned_at_the_decimal(page: Any) -> None:
    ends = page.evaluate(
        """() => [...document.querySelectorAll(".lead tbody tr")].map((row) => {
          const cell = row.cells[2];
          const at = cell.textContent.indexOf(".");
          if (at < 0) return null;
          const range = document.createRange();
          range.setStart(cell.firstChild, at);
          range.setEnd(cell.firstChild, at + 1);
          return range.getBoundingClientRect().left;
        }).filter((x) => x !== null)"""
    )
    assert len(ends) >= 3
    assert max(ends) - min(ends) < 1.0  # of a pixel


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_has_no_serious_finding(page: Any, scheme: str, tmp_path: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("there is no npm to have axe-core from")
    words = [
        "npm",
        "install",
        "--silent",
        "--no-audit",
        "--no-fund",
        "--prefix",
        str(tmp_path),
        AXE,
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    source = tmp_path / "node_modules" / "axe-core" / "axe.min.js"
    if done.returncode or not source.exists():
        pytest.skip(f"axe-core cannot be had from the registry: {done.stderr[:200]}")
    page.emulate_media(color_scheme=scheme)
    open_members(page)
    page.evaluate(source.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document)")["violations"]
    serious = [
        (one["id"], [node["html"][:120] for node in one["nodes"][:3]])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
    assert serious == []


# -- on paper ------------------------------------------------------------------------------------


def test_no_column_is_cut_on_paper(page: Any) -> None:
    open_members(page)
    page.emulate_media(media="print")
    millimetre = 96 / 25.4
    page.set_viewport_size({"width": int(184 * millimetre), "height": 1_000})
    over = page.evaluate(
        """(lying) => [...document.querySelectorAll(".scroll")].filter((box) => {
          const table = box.querySelector("table");
          const room = box.classList.contains("wide") ? lying : document.body.clientWidth;
          return table.offsetParent && table.getBoundingClientRect().width > room + 1;
        }).map((box) => box.ariaLabel)""",
        273 * millimetre,
    )
    assert over == []


def test_it_is_printed_with_every_column(report: Path, tmp_path: Path) -> None:
    made = print_page(report, tmp_path / "report.pdf")
    assert made.read_bytes().startswith(b"%PDF")
    if shutil.which("pdftotext") is None:
        pytest.skip("there is no pdftotext to read it with")
    words = ["pdftotext", "-layout", str(made), "-"]
    shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    # the long text of what is a line on the screen is there too
    for said in ("trustworthy", "seconds", "sd ratio", "Use lrvb", "Integrate it out"):
        assert said in shown
