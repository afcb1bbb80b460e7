"""Tables that people publish: tidy, and with methods as columns."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import arviz as az
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from models_for_tests import target as listed

import vi_recipes as vr
from vi_recipes.comparison import tables, validated
from vi_recipes.core import Timing
from vi_recipes.fit import loo_table
from vi_recipes.report import published

PYMC = Path(__file__).parents[1] / "fit" / "own_draws" / "pymc.nc"


@cache
def comparison() -> tuple[vr.Target, vr.Comparison]:
    this = vr.Target(vr.load_model("eight_schools"))
    own = vr.from_arviz(PYMC, this)
    point = {"mu": 4.0, "tau": 3.0, **{f"theta[{k}]": 5.0 for k in range(8)}}
    answers = {label: {"mean": value} for label, value in point.items()}
    given = vr.load_reference({"method": "point_1", "parameters": answers}, this)
    return this, vr.Comparison({"pymc": own, "point_1": given}, target_name="eight")


def test_tidy_has_a_row_a_method_and_scalar() -> None:
    _, c = comparison()
    table = c.tidy(members=True)
    names = "method term group level estimate std_error conf_low conf_high mcse interval"
    assert list(table.columns) == names.split()
    assert len(table) == 20
    row = table[(table["method"] == "pymc") & (table["level"] == "C")].iloc[0]
    assert (row["term"], row["group"]) == ("theta", "school")
    draws = c["pymc"]["theta"][:, 2]
    assert row["estimate"] == pytest.approx(draws.mean())
    assert row["std_error"] == pytest.approx(draws.std(ddof=1))
    assert row["conf_low"] == pytest.approx(np.quantile(draws, 0.055))
    assert row["conf_high"] == pytest.approx(np.quantile(draws, 0.945))
    assert row["mcse"] == pytest.approx(c["pymc"].mcse()["theta"][2])
    assert table.loc[table["method"] == "point_1", "std_error"].isna().all()
    assert set(table.loc[table["method"] == "point_1", "interval"]) == {""}
    assert row["interval"] == "89 % equal-tailed"
    wider = c.tidy(["theta"], conf_level=0.95)
    assert wider["conf_low"][2] == pytest.approx(np.quantile(draws, 0.025))
    assert wider["interval"][2] == "95 % equal-tailed"
    with az.rc_context({"stats.ci_kind": "hdi", "stats.ci_prob": 0.945}):
        assert c.tidy()["interval"][0] == "94.5 % highest-density"
        assert {"hdi94.5_lb", "hdi94.5_ub"} <= set(c["pymc"].summary().columns)
    assert "..." not in repr(table)  # no column of a terminal's width is left out
    assert max(map(len, repr(table).splitlines())) > 80
    for level in (0.0, 1.0, 95, "wide"):
        with pytest.raises(ValueError, match=r"conf_level: got .*, expected a number between"):
            c.tidy(conf_level=level)
    assert list(c.tidy(["tau"])["term"]) == ["tau", "tau"]


def test_methods_are_columns_over_a_foot() -> None:
    this, c = comparison()
    frame = c.table(["mu", "tau"], target=this).frame
    heading = "mean (sd) [89 % equal-tailed interval]"
    assert list(frame.columns) == [heading, "pymc", "point_1"]
    draws = c["pymc"]["tau"]
    assert list(frame["pymc"][3:6]) == [
        f"{draws.mean():.2f}",
        f"({draws.std(ddof=1):.2f})",
        f"[{np.quantile(draws, 0.055):.2f}, {np.quantile(draws, 0.945):.2f}]",
    ]
    assert list(frame["point_1"][3:6]) == ["3", "", ""]
    foot = frame.iloc[6:].set_index(heading)
    assert foot.loc["Observations", "pymc"] == "8"
    assert foot.loc["Groups: school", "pymc"] == "8"
    loo = c.loo(this).loc["pymc"]
    assert foot.loc["elpd (loo)", "pymc"] == f"{loo['elpd_loo']:.1f} ({loo['se']:.1f})"
    assert foot.loc["Verdict", "pymc"] == c.verdict_of["pymc"].trust.value
    assert "Observations" not in list(c.table(["mu"]).frame[heading])
    other = c.table(["mu"], conf_level=0.5)
    low, high = np.quantile(c["pymc"]["mu"], [0.25, 0.75])
    assert other.body[2][1] == f"[{low:.2f}, {high:.2f}]"
    assert other.columns[0] == "mean (sd) [50 % equal-tailed interval]"
    assert "50 % equal-tailed" in other.title


def test_cross_validation_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    this, c = comparison()
    c = c.drop("point_1")
    made = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        made.append(kwargs["num_draws"])
        return loo_table(*args, **kwargs)

    monkeypatch.setattr(validated, "loo_table", counted)
    first = c.table(["mu"], target=this)
    again = vr.Target(this.model)
    assert c.table(["mu", "tau"], target=again).body[0] == first.body[0]
    edited = c.loo(again)  # a copy: what follows does not change
    edited["elpd_loo"] = 0.0
    assert c.table(["mu"], target=this).csv() == first.csv()
    assert made == [None]
    c.loo(this, num_draws=100)
    assert made == [None, 100]
    other = vr.Target(this.model, y=np.arange(8.0), sigma=np.ones(8))
    with pytest.raises(ValueError, match="fitted to other data"):
        c.table(["mu"], target=other)
    with pytest.raises(ValueError, match="fitted to other data"):
        c.loo(other)


def test_a_dash_has_its_reason() -> None:
    this, c = comparison()
    alone = {label: {"mean": 4.0, "sd": 2.0} for label in this.labels()}
    moments = vr.load_reference({"method": "moments", "parameters": alone}, this)
    c = vr.Comparison({"pymc": c["pymc"], "moments": moments}, target_name="eight")
    draws = c["pymc"]["mu"]
    limit = float(np.quantile(draws, 0.25))
    wider = vr.derive(c, root=lambda mu: jnp.sqrt(mu - limit), double=lambda mu: 2 * mu)
    table = wider.table(["mu", "root", "double"])
    assert ["root", "–", "–"] in [list(row) for row in table.body]
    share = (draws < limit).mean()
    assert f"–: root is no finite number at {share:.1%} of draws; " in table.note
    assert "nothing is known of double by moments" in table.note
    assert "–:" not in c.table(["mu", "tau"]).note
    failed = replace(moments, method="failed", status=vr.Status.FAILED, posterior=None)
    without = vr.Comparison({"pymc": c["pymc"], "failed": failed}, target_name="eight")
    said = "Without a result: failed (it ended by an error)."
    assert said in without.table(["mu"]).note


def test_seconds_are_those_that_a_method_takes_alone() -> None:
    """As in the report, whatever a method before it has compiled."""
    target = listed("linear_regression")
    fit = vr.Laplace().fit(target)
    timing = Timing(compile_seconds=2.0, run_seconds=3.0, shared_seconds=12.0)
    own = vr.from_draws({"beta": fit["beta"][None]}, target)
    table = vr.Comparison({"laplace": replace(fit, timing=timing), "own": own}).table()
    assert ["Seconds", "17.0", "–"] in table.foot


def test_it_is_written_as_papers_are(tmp_path: Path) -> None:
    _, c = comparison()
    table = c.table(["mu", "tau"])
    latex = table.latex()
    assert "\\toprule" in latex
    assert latex.count("\\midrule") == 2
    assert "point\\_1" in latex
    assert "| mu | " in table.markdown()
    assert table.save(tmp_path / "t.md").read_text() == table.markdown()
    html = table.save(tmp_path / "t.html").read_text()
    assert "89 % equal-tailed intervals" in html
    assert "background-color: inherit" in html  # of a notebook, be it dark
    assert "#FFFFFF" not in html.upper()
    import docx
    import openpyxl

    book = openpyxl.load_workbook(table.save(tmp_path / "t.xlsx"))
    cells = [[cell or "" for cell in row] for row in book.active.values]
    assert cells[1][1:] == ["pymc", "point_1"]
    assert cells[2] == list(table.body[0])
    assert cells[1][0] == table.columns[0]
    assert book.active.column_dimensions["B"].width > max(len(row[1]) for row in table.body)
    assert book.active["B3"].alignment.horizontal == "right"
    assert {cell.data_type for row in book.active for cell in row if cell.value is None} == {"n"}
    written = docx.Document(str(table.save(tmp_path / "t.docx"))).tables[0]
    assert [cell.text for cell in written.rows[1].cells] == list(table.body[0])
    assert len(written.rows) == 1 + len(table.body) + len(table.foot)
    with pytest.raises(ValueError, match=r"whose suffix '\.odt' is not a table's"):
        table.save(tmp_path / "t.odt")


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(published, "import_module", absent)
    with pytest.raises(ValueError, match=r"xlsx needs the package openpyxl: .*vi_recipes\[tables"):
        comparison()[1].table(["mu"]).save(tmp_path / "t.xlsx")
    shown = comparison()[1].table(["mu"])
    assert shown._repr_html_() is None
    assert repr(shown) == shown.markdown()


def test_formulas_stay_text(tmp_path: Path) -> None:
    import openpyxl

    table = published.PublishedTable("=1+1", ["", "=A1"], [["=cmd()", "-1"]])
    book = openpyxl.load_workbook(table.save(tmp_path / "t.xlsx"))
    assert {cell.data_type for row in book.active for cell in row if cell.value} == {"s"}
    assert "'=cmd()" in table.csv()
    risky = ["-1+cmd", "-3.5 (1.2)+A1", "+2 ± x"]
    numbers = ["-3465.8 (38.0)", "-3.2 ± 0.1", "-0.5"]
    rows = [["a", value] for value in (*risky, *numbers)]
    lines = published.PublishedTable("t", ["", "b"], rows).csv().splitlines()[1:]
    assert lines == [*(f"a,'{value}" for value in risky), *(f"a,{value}" for value in numbers)]


def test_rows_of_a_csv_have_names_and_numbers_that_a_spreadsheet_does_not_turn(tmp_path) -> None:
    """What stands in parentheses alone is read as negative there."""
    _, c = comparison()
    table = c.table(["mu", "tau"])
    made = pd.read_csv(table.save(tmp_path / "t.csv"), index_col=0)
    assert made.index.name == table.columns[0]
    assert list(made.index[:4]) == ["mu", "mu: sd", "mu: interval", "tau"]
    assert float(made.loc["mu: sd", "pymc"]) > 0
    assert made.loc["mu: interval", "pymc"] == table.body[2][1]
    assert made.index.is_unique


@pytest.mark.slow
def test_log_evidence_under_flat_priors_is_said_to_compare_methods_alone() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"y": rng.normal(size=20), "x": rng.normal(size=20)})
    said = "defined up to a constant alone"
    # a description that mentions flat priors says nothing of those that a model has
    cases = (("flat", "", 1), ({"beta": "flat"}, "", 1), (None, "without flat priors", 0))
    for priors, description, times in cases:
        target = vr.Target(vr.glmm("y ~ x", frame, priors=priors))
        c = vr.compare(target, {"laplace": vr.Laplace()}, description=description)
        assert str(c.table(target=target)).count(said) == times
        assert str(c.table()).count(said) == times
        assert tables.evidence(c).note.count(said) == times
