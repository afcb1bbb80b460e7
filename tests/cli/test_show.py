"""What a comparison is on a terminal: the answer, and one screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner
from worlds_for_tests import World, comparison

from vi_recipes.cli import show
from vi_recipes.cli.commands import app
from vi_recipes.comparison.comparison import Comparison
from vi_recipes.core.status import Status
from vi_recipes.report import find_browser

SCREEN = 40
"""Lines of a screen at most."""


@pytest.fixture(scope="module")
def compared() -> Comparison:
    """Return nine methods on ten groups, two of them without a result."""
    world = World()
    fits = [world.degenerate(), world.em(), world.svi(), world.nuts()]
    for k in range(4):
        fits.append(world.fit(f"method_{k}", world.gaussian(shift=0.1 * k, scale=1 - 0.2 * k)))
    failed = world.fit("svgd", None, status=Status.FAILED, message="; ".join(["it broke"] * 60))
    return comparison(*fits, failed, notes=["a note"])


def shown(c: Comparison, width: int = 80, *, everything: bool = False, **options: Any) -> str:
    options = {"force_terminal": True, "color_system": None, **options}
    console = show.Screen(width=width, highlight=False, markup=False, emoji=False, **options)
    with console.capture() as capture:
        show.show_comparison(console, c, everything=everything)
    return capture.get()


def test_it_is_one_screen_and_begins_with_the_answer(compared: Comparison) -> None:
    text = shown(compared)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) + 1 <= SCREEN  # and the line that says where the report lies
    assert " ".join(text.split()).startswith(str(compared.recommend()))
    for name in compared:
        assert f" {name} " in text
    assert "+ trustworthy" in text
    assert "x not to be trusted" in text
    assert "- no result" in text
    assert "10 more parameters in the report" in text
    assert "1 note and all else: --all" in text


def test_all_is_everything(compared: Comparison) -> None:
    text = shown(compared, everything=True)
    for title in ("Means and standard deviations", "Timings", "Diagnostics", "Verdicts"):
        assert title in text
    assert "a note" in text
    assert " ".join(text.split()).count("it broke") == 60


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("width", [40, 60, 80, 250])
def test_it_is_as_wide_as_the_terminal(compared: Comparison, width: int, terminal: bool) -> None:
    text = shown(compared, width, force_terminal=terminal)
    assert max(map(len, text.splitlines())) <= width
    for name in compared:
        assert f" {name} " in text
    rows = [line.strip("| ").split()[0] for line in text.splitlines() if line.strip("| ")]
    whole = {"method", *compared}
    cut = [row for row in rows if row not in whole and any(n.startswith(row) for n in whole)]
    assert cut == []  # where there is no room for a name
    dropped = "more methods: --all" in text
    assert dropped == (width < 250)


def test_one_method_that_is_left_out_is_put_as_one(compared: Comparison) -> None:
    c = comparison(compared["nuts"], compared["svi"])
    assert "1 more method: --all" in shown(c, 40, force_terminal=False)


def test_columns_and_no_color_are_obeyed(
    compared: Comparison, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    assert show.make_console().width == 60
    monkeypatch.delenv("COLUMNS")
    assert show.make_console().width > 1_000
    coloured = shown(compared, color_system="standard")
    assert "\x1b[" in coloured
    assert "x not to be trusted" in coloured  # no colour alone
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in shown(compared, color_system="standard")


# -- paper -------------------------------------------------------------------------------------


def test_without_a_browser_a_pdf_is_refused_before_anything_is_done(
    compared: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared.save(tmp_path)
    (tmp_path / "report.html").unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    done = CliRunner().invoke(app, ["report", str(tmp_path), "--pdf"])
    assert done.exit_code == 2
    assert "--pdf: no browser was found (Chromium, Chrome or Edge); install one" in done.stderr
    assert not (tmp_path / "report.html").exists()


@pytest.mark.slow
@pytest.mark.skipif(find_browser() is None, reason="there is no browser on the path")
def test_the_report_is_printed_where_it_is_asked_for(compared: Comparison, tmp_path: Path) -> None:
    compared.save(tmp_path)
    done = CliRunner().invoke(app, ["report", str(tmp_path), "--pdf"])
    assert done.exit_code == 0, done.output
    assert f"Report: {tmp_path / 'report.html'}, {tmp_path / 'report.pdf'}" in done.output
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
