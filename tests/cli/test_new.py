"""What ``vi-recipes new`` writes runs as it is, and overwrites nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vi_recipes.cli.commands import app


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(words), prog_name="vi-recipes")
    assert done.exit_code == code, done.output
    return done.output


@pytest.mark.slow
def test_a_new_model_is_compared() -> None:
    assert "run  vi-recipes compare wells.py" in run("new", "model", "wells")
    words = ("--methods", "map,lrvb", "--no-report", "--json", "r.json")
    run("compare", "wells.py", *words)
    methods = json.loads(Path("r.json").read_text())["methods"]
    assert methods["lrvb"]["status"] == "ok"
    assert "a[5]" in methods["lrvb"]["parameters"]
    slope = methods["lrvb"]["mean"][methods["lrvb"]["parameters"].index("beta")]
    assert abs(slope - 0.8) < 0.3  # the data are made with 0.8


@pytest.mark.slow
def test_a_new_study_is_run() -> None:
    run("new", "study", "schools")
    run("run", "schools.py", "--out", "out")
    exhibits = {path.name for path in Path("out/exhibits").iterdir()}
    assert exhibits == {"tau.svg", "mu.csv", "mu.tex"}
    assert "is left out" not in Path("out/report.md").read_text()


def test_nothing_is_overwritten_and_names_are_checked() -> None:
    Path("wells.py").write_text("mine")
    assert "is there already" in run("new", "model", "wells", code=2)
    assert Path("wells.py").read_text() == "mine"
    for name in ("two words", "../up", "class", "größe", "1st"):
        assert "expected a name as Python has them" in run("new", "model", name, code=2)
    assert list(Path().iterdir()) == [Path("wells.py")]
