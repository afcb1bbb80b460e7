"""Options of a model by formula, and of draws made elsewhere, as they are typed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from vi_recipes.cli.commands import app

FRAME = pd.DataFrame(
    {
        "x": [0.5, 1.0, -1.0, 2.0, 0.3],
        "y": [0.4, 1.3, -0.7, 2.2, 0.1],
        "often": [1, 3, 2, 0, 1],
        "base": [0.2, 0.0, -0.1, 0.4, 0.3],
        "n": [2, 3, 1, 4, 2],
    }
)
X, Y, W, BASE = (FRAME[name].to_numpy() for name in ("x", "y", "often", "base"))
KNOWN = ("--prior", "sigma=1", "--prior", "beta=Normal(0, 2)")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    FRAME.to_csv("d.csv", index=False)
    return tmp_path


def found(*words: str) -> tuple[dict[str, Any], str]:
    """Run a command; return what it says of the methods, and all that it prints."""
    done = CliRunner().invoke(app, [*words, "--data", "d.csv", "--json", "r.json"])
    assert done.exit_code == 0, done.output
    return json.loads(Path("r.json").read_text())["methods"], done.output + done.stderr


def test_weights_and_offsets_of_rows() -> None:
    words = ("fit", "--formula", "y ~ 0 + x", *KNOWN, "--method", "map", "--no-report")
    given, _ = found(*words, "--weights", "often", "--offset", "base")
    expected = (W * X * (Y - BASE)).sum() / ((W * X**2).sum() + 0.25)
    assert given["map"]["mean"] == pytest.approx([expected], rel=1e-6)


@pytest.mark.parametrize(("link", "expected"), [("log", np.log(2.4)), ("identity", 2.4)])
def test_links(link: str, expected: float) -> None:
    words = ("fit", "--formula", "n ~ 1", "--family", "poisson", "--prior", "flat")
    given, _ = found(*words, "--link", link, "--method", "map", "--no-report")
    assert given["map"]["mean"] == pytest.approx([expected], rel=1e-5)


def own_draws(path: str) -> tuple[float, float]:
    """Write exact draws of the slope, as brms writes them; return its mean and sd."""
    variance = 1 / (X @ X + 0.25)
    mean, sd = variance * X @ Y, variance**0.5
    drawn = np.random.default_rng(0).normal(mean, sd, (4, 500))
    columns = {"b_slope": drawn.ravel(), "lp__": 0.0, ".chain": np.repeat([1, 2, 3, 4], 500)}
    pd.DataFrame(columns).to_csv(path)
    return mean, sd


def test_draws_made_elsewhere_are_a_row_and_the_reference() -> None:
    mean, sd = own_draws("own.csv")
    words = ("compare", "--formula", "y ~ 0 + x", *KNOWN, "--methods", "laplace", "--no-report")
    rename = ("--rename", "b_slope=beta[x]")
    given, _ = found(*words, "--add", "own=own.csv", *rename)
    assert list(given) == ["laplace", "own"]
    for one in given.values():
        assert one["mean"] == pytest.approx([mean], abs=5 * sd / 2000**0.5)
        assert one["sd"] == pytest.approx([sd], rel=0.1)
    given, said = found(*words, "--reference", "own.csv", *rename)
    assert "trustworthy by the reference" in said
    done = CliRunner().invoke(app, [*words, "--data", "d.csv", "--reference", "own.csv"])
    assert done.exit_code == 2
    assert "--rename 'their name=beta[x]'" in done.stderr
    done = CliRunner().invoke(app, [*words, "--data", "d.csv", "--add", "own.csv"])
    assert "--add: got 'own.csv', expected NAME=FILE" in done.stderr
    done = CliRunner().invoke(app, [*words, "--reference", *(f"own-{k}.csv" for k in range(4))])
    assert "a pattern of files stands in quotes: 'fit-*.csv'" in done.stderr


def test_an_earlier_comparison_is_taken_up() -> None:
    words = ("compare", "--formula", "y ~ 0 + x", *KNOWN, "--out", "kept", "--all")
    found(*words, "--methods", "map")
    given, said = found(*words, "--methods", "laplace", "--resume")
    assert list(given) == ["map", "laplace"]
    assert "Taken up from the earlier comparison, with the seconds of that time: map." in said
    assert "go when this one is done" not in said
    given, said = found(*words, "--methods", "map")
    assert list(given) == ["map"]
    assert "kept has an earlier comparison, whose fits by laplace go when this one is done" in said
    shutil.rmtree("kept")
    _, said = found(*words, "--methods", "map", "--resume")
    assert "Nothing is taken up: kept holds no earlier comparison." in said
