"""The canon's table: ours are the independent values, and the page has a row for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vi_recipes.core import import_file

DOCS = Path(__file__).parents[1] / "docs"
CANON: Any = import_file(DOCS / "canon.py")


@pytest.mark.slow
@pytest.mark.parametrize("row", CANON.ITEMS, ids=lambda row: row.name)
def test_ours_is_the_independent_value(row: Any) -> None:
    assert CANON.agree(row), f"got {row.ours()}, expected {row.expected()}"


def test_the_page_has_a_row_for_each() -> None:
    page = (DOCS / "canon.md").read_text(encoding="utf-8")
    assert page.startswith(CANON.HEAD)
    names = [line.split(" | ")[0].removeprefix("| ") for line in page.splitlines()[7:]]
    assert names == [CANON.escaped(row.name) for row in CANON.ITEMS]


def test_a_row_that_is_wrong_is_found() -> None:
    row = CANON.ITEMS[0]
    wrong = CANON.Item("", "", "", lambda: (1.0, 2.0), lambda: (1.0, 2.1), 1e-3)
    assert not CANON.agree(wrong)
    assert not CANON.agree(CANON.Item("", "", "", lambda: "OK", lambda: "FAILED"))
    assert not CANON.agree(CANON.Item("", "", "", lambda: (1.0, 2.0), lambda: (1.0,), 1.0))
    assert row.tolerance > 0
