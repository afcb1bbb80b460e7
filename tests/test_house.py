"""The house: rooms with charters, files of a size to read, a picture that is that of the code."""

from __future__ import annotations

import ast
import statistics
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest
from conftest import LONGEST

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "vi_recipes"
ROOMS = (
    "algebra", "calibration", "cells", "cli", "comparison", "core", "data", "elbo", "fit",
    "formula", "importance", "latent", "methods", "model", "modes", "posterior", "report", "sweeps",
    "trust",
)  # fmt: skip


def test_the_rooms_are_those_of_the_map() -> None:
    found = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
    assert found == sorted(ROOMS)
    listed = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert all(f"| `{room}/` |" in listed for room in ROOMS)
    flat = [path.name for path in PACKAGE.glob("*.py")]
    assert flat == ["__init__.py"]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_opens_with_its_charter(room: str) -> None:
    text = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_bytes()))
    assert text
    assert text.split("\n")[0].endswith(".")


def test_files_are_of_a_size_to_read() -> None:
    lines = {path: len(path.read_bytes().splitlines()) for path in PACKAGE.rglob("*.py")}
    assert max(lines.values()) <= 450, max(lines, key=lambda path: lines[path])
    assert statistics.median(lines.values()) < 170


def test_the_picture_of_the_rooms_is_that_of_the_code() -> None:
    pytest.importorskip("grimp")
    done = subprocess.run(
        [sys.executable, "docs/rooms.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_file_imports_itself_by_way_of_others() -> None:
    """Not by way of its own room's ``__init__`` either, which the contracts do not see."""
    graph = pytest.importorskip("grimp").build_graph("vi_recipes", cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    TopologicalSorter(imports).prepare()  # raises, and names the circle


def test_a_room_is_used_through_what_its_init_exports() -> None:
    graph = pytest.importorskip("grimp").build_graph("vi_recipes", cache_dir=None)
    past = []
    for module in graph.modules - {"vi_recipes"}:
        for other in graph.find_modules_directly_imported_by(module):
            _, room, *inner = other.split(".")
            if room == module.split(".")[1] or not inner:
                continue
            if ".".join(inner) not in import_module(f"vi_recipes.{room}").__all__:
                past.append(f"{module} imports {other}")
    assert past == []


def test_a_test_folder_for_each_room() -> None:
    """A room whose files are tested through those above it has none."""
    through_others = {"modes"}
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir()}
    assert set(ROOMS) - through_others <= folders


def test_test_files_have_names_of_their_own() -> None:
    """Pytest knows a file outside packages by its name alone, and collects one of two."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert [name for name in names if names.count(name) > 1] == []


def test_the_longest_test_files_are_there() -> None:
    assert len(set(LONGEST)) == len(LONGEST)
    assert all((ROOT / "tests" / name).is_file() for name in LONGEST)
