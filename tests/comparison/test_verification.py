"""Verdicts beside the truth: what counts as which, what is kept, and the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from executors_for_tests import Here
from typer.testing import CliRunner

import vi_recipes as vr
from vi_recipes.cli.commands import app
from vi_recipes.comparison.verification import (
    Row,
    confusion,
    faults,
    from_lists,
    methods_for,
    problems,
    verify,
)
from vi_recipes.comparison.verification_page import markdown

ROW = Row(
    model="m", dim=3, method="a", status="OK", trust="trustworthy", verdict="Fine.",
    mean_error=0.12, mean_worst="x", mean_excess=0.08, sd_low=0.95, sd_low_worst="x", sd_high=1.02,
    sd_high_worst="y", sd_excess=1.04, seconds=1.0, assess_seconds=0.2,
)  # fmt: skip


def test_truths() -> None:
    assert ROW.truth == "right"
    assert replace(ROW, mean_excess=0.2).truth == "between"
    assert replace(ROW, sd_excess=1.2).truth == "between"
    assert replace(ROW, mean_excess=0.51).truth == "wrong"
    assert replace(ROW, sd_excess=2.1).truth == "wrong"
    point = replace(ROW, sd_low=float("nan"), sd_high=float("nan"), sd_excess=float("nan"))
    assert point.truth == "between"
    assert replace(ROW, mean_error=float("nan")).truth == "none"


def test_confusion_and_faults() -> None:
    wrong = replace(ROW, mean_excess=0.9)
    lucky = replace(ROW, trust="not to be trusted")
    rows = [
        ROW,
        wrong,
        lucky,
        replace(lucky, status="UNCONVERGED"),
        replace(wrong, sd_low=float("nan")),
    ]
    table = confusion(rows)
    assert table.loc["right", "trustworthy"] == 1
    assert table.loc["wrong", "trustworthy"] == 1
    assert table.loc["right", "not to be trusted"] == 2
    assert table.to_numpy().sum() == 4
    assert faults(rows) == [wrong, lucky, rows[-1]]
    page = markdown(rows)
    assert "Contradicted: a on m" in page
    assert page.count("**m, a**: Fine.") == len(rows)


def test_answers_given_as_lists() -> None:
    raw = {"source": "s", "parameters": ["b[1,2]", "tau"], "mean": [1, 2], "sd": [0.5, 1.0]}
    found = from_lists({**raw, "mcse_mean": [0.1, 0.2]})["parameters"]
    assert found == {
        "b[0, 1]": {"mean": 1, "sd": 0.5, "mcse": 0.1},
        "tau": {"mean": 2, "sd": 1.0, "mcse": 0.2},
    }
    found = from_lists({**raw, "is_ess": 100.0}, label=str)["parameters"]
    assert found["b[1,2]"]["mcse"] == pytest.approx(0.05)


@pytest.mark.slow
def test_verifying_keeps_what_is_done(tmp_path: Path) -> None:
    chosen = {"bivariate_normal": problems()["bivariate_normal"]}
    methods = {"laplace": "laplace", "meanfield": "meanfield"}
    told: list[str] = []
    rows = verify(chosen, methods=methods, path=tmp_path, done=lambda name, _: told.append(name))
    assert told == ["bivariate_normal"]
    laplace, meanfield = rows
    # the target is a normal with correlation 0.8, of which Laplace is exact, and mean field's sds
    # are sqrt(1 - 0.64) of the truth
    assert (laplace.truth, laplace.trust) == ("right", "trustworthy")
    assert meanfield.sd_low == pytest.approx(0.6, abs=1e-3)
    assert (meanfield.truth, meanfield.trust) == ("between", "usable with care")
    assert faults(rows) == []
    # not run again: what is on disk is what comes back
    file = tmp_path / "bivariate_normal.json"
    kept = json.loads(file.read_text(encoding="utf-8"))
    kept["rows"][0]["verdict"] = "from the disk"
    file.write_text(json.dumps(kept), encoding="utf-8")
    assert verify(chosen, methods=methods, path=tmp_path)[0].verdict == "from the disk"
    complaint = r"another verification: its methods is .*meanfield.* and here it is .*other folder"
    with pytest.raises(ValueError, match=complaint):
        verify(chosen, methods={"laplace": "laplace"}, path=tmp_path)
    file.write_text("{}", encoding="utf-8")
    with pytest.raises(ValueError, match="not the rows of a verification"):
        verify(chosen, methods=methods, path=tmp_path)


def test_a_second_guide_is_added_unless_it_is_the_default() -> None:
    target = vr.Target(vr.load_model("bayesian_neural_network"))
    assert [name for name in methods_for(target) if "svi" in name] == ["svi"]
    target = vr.Target(vr.load_model("eight_schools"))
    found = methods_for(target)
    assert list(found)[-2:] == ["svi_multivariate_normal", "nuts"]


def test_the_command(tmp_path: Path) -> None:
    runner = CliRunner()
    options = ["verify", "--models", "bivariate_normal", "--methods", "laplace"]
    result = runner.invoke(app, [*options, "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "Verdicts and the truth" in result.output
    page = (tmp_path / "out" / "verification.md").read_text(encoding="utf-8")
    assert "| bivariate\\_normal (2) | laplace | OK |" in page
    for wrong, words in (
        (["verify", "--models", "bivariate"], "did you mean 'bivariate_normal'"),
        (["verify", "--models", ""], "--models: unknown model with reference answers ''"),
        (["verify", "--methods", "laplce"], "did you mean 'laplace'"),
        (["verify", "--references", str(tmp_path / "none")], "is not a folder"),
    ):
        result = runner.invoke(app, wrong)
        assert result.exit_code == 2
        assert words in result.output


@pytest.mark.slow
def test_nested_quadrature_tells_what_a_fit_cannot_say_of_itself() -> None:
    chosen = {"eight_schools": problems()["eight_schools"]}
    rows = {r.method: r for r in verify(chosen, methods={"lrvb": "lrvb", "nested": "nested"})}
    alone = {r.method: r for r in verify(chosen, methods={"lrvb": "lrvb"})}
    assert alone["lrvb"].trust == vr.Trust.UNKNOWN.value
    assert rows["lrvb"].trust == vr.Trust.UNTRUSTED.value
    assert rows["lrvb"].truth == "wrong"
    assert "known to" in rows["lrvb"].verdict
    assert (rows["nested"].trust, rows["nested"].truth) == (vr.Trust.TRUSTWORTHY.value, "right")


def test_rows_are_the_same_wherever_models_are_fitted(tmp_path: Path) -> None:
    chosen = {name: problems()[name] for name in ("eight_schools",)}
    executor = Here()
    here = verify(chosen, methods={"mf": "meanfield"})
    told: list[str] = []
    there = verify(
        chosen,
        methods={"mf": "meanfield"},
        path=tmp_path,
        executor=executor,
        done=lambda name, rows: told.append(name),
    )
    timeless = {"seconds": 0.0, "assess_seconds": 0.0}
    assert [replace(row, **timeless) for row in there] == [replace(row, **timeless) for row in here]
    assert told == ["eight_schools"]
    again = verify(chosen, methods={"mf": "meanfield"}, path=tmp_path, executor=executor)
    assert again == there
    assert executor.cells == ["eight_schools"]
    with pytest.raises(ValueError, match=r"the verification cannot be sent .* top of a file"):
        verify({"mine": lambda: chosen["eight_schools"]()}, executor=executor)
