"""The manual: a page a method, every page reachable, and shown in the terminal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vi_recipes.cli.commands import app
from vi_recipes.core import list_pages
from vi_recipes.methods import METHODS

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("key", METHODS)
def test_every_method_has_a_page_of_its_own(key: str) -> None:
    page = (DOCS / "methods" / f"{key}.md").read_text(encoding="utf-8")
    assert f"`vi_recipes.{METHODS[key].__name__}`" in page
    assert f"options-{key}.md" in page
    assert list_pages()[key] == DOCS / "methods" / f"{key}.md"


def test_every_page_is_in_the_contents() -> None:
    contents = (DOCS / "index.md").read_text(encoding="utf-8").splitlines()
    pages = {p.relative_to(DOCS).with_suffix("").as_posix() for p in set(list_pages().values())}
    assert pages - set(contents) == {"index"}


def test_a_page_is_shown_as_text_without_what_builds_it() -> None:
    shown = CliRunner().invoke(app, ["docs", "meanfield"])
    assert shown.exit_code == 0
    assert "MeanField: independent factors" in shown.stdout
    assert "vr.MeanField" in shown.stdout
    for trace in ("{py:class}", "{code-cell}", "{include}", "kernelspec", "pictures"):
        assert trace not in shown.stdout


def test_a_page_that_is_not_there_has_the_nearest_named() -> None:
    shown = CliRunner().invoke(app, ["docs", "meanfeild"])
    assert shown.exit_code == 2
    assert "did you mean 'meanfield'" in shown.output


def test_where_a_page_is() -> None:
    shown = CliRunner().invoke(app, ["docs", "trust", "--where"])
    assert Path(shown.stdout.strip()) == DOCS / "trust.md"


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_of_the_front_pages_lead_somewhere(name: str) -> None:
    text = (DOCS.parent / name).read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert [link for link in links if not (DOCS.parent / link).exists()] == []
    assert name != "README.md" or len(links) > 8
