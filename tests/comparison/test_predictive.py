"""The exhibits of what fits predict."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import effects_for_tests as effects
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from models_for_tests import target as listed
from typer.testing import CliRunner

import vi_recipes as vr
from vi_recipes.cli.commands import app
from vi_recipes.comparison.predictive import (
    add_predictive,
    count,
    make_bins,
    pointwise_figure,
    predictive_exhibits,
)
from vi_recipes.comparison.prior import prior_exhibits
from vi_recipes.core.progress import silent


def comparison(**more: vr.Fit) -> vr.Comparison:
    failed = replace(effects.point(), method="failed", status=vr.Status.DEGENERATE)
    fits = {"map": effects.point(), "laplace": effects.laplace(), "failed": failed, **more}
    fits["nuts"] = effects.nuts()
    return vr.Comparison(fits, reference=fits["nuts"], reference_name="nuts", target_name="effects")


# -- histograms ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "edges"),
    [
        (np.array([0, 1, 1, 0]), [-0.5, 0.5, 1.5]),
        (np.array([1.0, 0.0]), [-0.5, 0.5, 1.5]),
        (np.array([True, False]), [-0.5, 0.5, 1.5]),
        (np.array([2, 5, 6]), np.arange(1, 9) - 0.5),  # one more at either end
        (np.array([0, 4]), np.arange(0, 7) - 0.5),  # counts have no numbers below 0
        (np.array([-4, 0]), np.arange(-5, 3) - 0.5),
    ],
)
def test_whole_numbers_have_a_bin_each(values: Any, edges: Any) -> None:
    np.testing.assert_array_equal(make_bins(values), edges)


@pytest.mark.parametrize(
    "values", [effects.Y, np.arange(1_000), np.full(5, 3.2), np.zeros(3), np.full(4, 10**9)]
)
def test_bins_hold_the_data_with_room_beside_them(values: Any) -> None:
    edges = make_bins(values)
    assert 1 <= edges.size - 1 <= 60
    assert (np.diff(edges) > 0).all()
    assert np.histogram(values, edges)[0].sum() == values.size
    if np.ptp(values):
        assert edges[0] == pytest.approx(values.min() - 0.25 * np.ptp(values))


def test_counts_by_replication_and_what_lies_beyond() -> None:
    replications = np.array([[[0.5, 1.5, 9.0, 1.2], [0.1, 0.2, 0.3, -4.0]]])
    found = count(replications, np.array([0.0, 1.0, 2.0]))
    np.testing.assert_array_equal(found.counts, [[1, 2], [3, 0]])
    assert found.outside == 2 / 8


# -- exhibits --------------------------------------------------------------------------------


@pytest.mark.slow
def test_exhibits_of_a_comparison() -> None:
    made = {e.name: e for e in predictive_exhibits(comparison(), effects.target(), seed=4)}
    assert list(made) == ["predictive_check_1", "loo_1", "loo_pointwise_1"]
    check = made["predictive_check_1"].content
    assert isinstance(check, Figure)
    titles = [axes.get_title(loc="left") for axes in check.axes]
    assert titles == ["nuts", "map", "laplace"]  # the reference first, and no failures
    limits = {(axes.get_xlim(), axes.get_ylim()) for axes in check.axes}
    assert len(limits) == 1  # common axes
    seen = check.axes[0].lines[0].get_ydata()
    np.testing.assert_array_equal(seen, np.histogram(effects.Y, make_bins(effects.Y))[0])
    table = made["loo_1"].content
    assert isinstance(table, pd.DataFrame)
    assert table["method"].tolist() == ["nuts", "map", "laplace"]
    own = comparison().loo(effects.target())
    np.testing.assert_array_equal(table["elpd"], own.loc[table["method"], "elpd_loo"])
    assert "a point has no posterior" in table.set_index("method").loc["map", "why there is none"]
    assert made["loo_1"].caption.endswith("Differences are from nuts.")
    for exhibit in (made["predictive_check_1"], made["loo_pointwise_1"]):
        assert exhibit.png.startswith(b"\x89PNG")


def test_dots_are_the_pointwise_values() -> None:
    found = {
        "laplace": vr.loo(effects.laplace(), effects.target()),
        "nuts": vr.loo(effects.nuts(), effects.target()),
    }
    drawn = pointwise_figure(comparison(), found, "nuts")
    grid = np.array(drawn.axes).reshape(2, 2)

    def heights(axes: Any) -> list[float]:
        dots = np.concatenate([c.get_offsets() for c in axes.collections])
        return sorted(dots[:, 1].tolist())

    gaps = (found["laplace"].elpd_i - found["nuts"].elpd_i).to_numpy()
    assert heights(grid[0, 0]) == pytest.approx(sorted(found["laplace"].pareto_k.to_numpy()))
    assert heights(grid[0, 1]) == pytest.approx(sorted(gaps))
    high = (found["laplace"].pareto_k > found["laplace"].good_k).to_numpy()
    assert len(grid[0, 0].collections[1].get_offsets()) == high.sum()
    alone = pointwise_figure(comparison(), {"nuts": found["nuts"]}, "nuts")
    assert len(alone.axes) == 1


def test_a_model_without_observations_has_reasons() -> None:
    this = listed("improper_factor")
    fits = {"laplace": vr.Laplace().fit(this)}
    (exhibit,) = predictive_exhibits(vr.Comparison(fits), this)
    assert exhibit.name == "loo_1"
    assert isinstance(exhibit.content, pd.DataFrame)
    assert "no pointwise likelihood" in exhibit.content.loc[0, "why there is none"]


def test_what_cannot_be_replicated_is_said() -> None:
    parameters = {"parameters": {"mu": {"mean": 1.0, "sd": 0.5}}}
    outside = vr.load_reference(parameters, effects.target())
    this = vr.Comparison(
        {"map": effects.point()}, reference=outside, reference_name="outside", target_name="effects"
    )
    check, table = predictive_exhibits(this, effects.target())
    assert "outside is not shown: only moments are known here" in check.caption
    assert table.name == "loo_1"


def test_an_interrupt_leaves_the_fits() -> None:
    def interrupted(done: int, total: int, text: str = "") -> None:
        raise KeyboardInterrupt

    this = comparison()
    add_predictive(this, effects.target(), 0, lambda _: nullcontext(interrupted))
    assert this.interrupted
    assert this.exhibits == []
    add_predictive(this, effects.target(), 0, lambda _: nullcontext(silent))
    assert len(this.exhibits) == 3


# -- the command line ------------------------------------------------------------------------

COIN = """
import numpyro, numpyro.distributions as dist

def coin(y):
    p = numpyro.sample("p", dist.Beta(2, 2))
    with numpyro.plate("toss", len(y)):
        numpyro.sample("y", dist.Bernoulli(p), obs=y)
"""


@pytest.mark.slow
def test_the_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("coin.py").write_text(COIN)
    Path("tosses.json").write_text(json.dumps({"y": [1, 0, 1, 1, 0, 1]}))
    words = ["compare", "coin.py", "--data", "tosses.json", "--methods", "laplace"]
    found = CliRunner().invoke(app, [*words, "--predictive", "--out", "out"])
    assert found.exit_code == 0, found.output
    report = Path("out/report.html").read_text()
    assert "Replications of y beside the data" in report
    assert "Leave-one-out cross-validation" in report
    assert Path("out/exhibits/loo_1.csv").exists()
    again = vr.Comparison.load("out")
    assert [e.name for e in again.exhibits] == ["predictive_check_1", "loo_1", "loo_pointwise_1"]
    refused = CliRunner().invoke(app, [*words, "--predictive", "--no-report"])
    assert refused.exit_code == 2
    assert "--predictive and --no-report: expected at most one" in refused.output


# -- before the data ---------------------------------------------------------------------------


def test_the_prior_is_drawn_beside_the_data() -> None:
    figure, table = prior_exhibits(effects.target(), seed=1)
    assert isinstance(figure.content, Figure)
    frame = table.content
    assert isinstance(frame, pd.DataFrame)
    rows = frame.set_index("statistic")
    drawn = np.reshape(vr.prior_predictive(effects.target(), num_draws=400, key=1)["y"], (400, -1))
    for name, values in (("mean", drawn.mean(axis=1)), ("largest", drawn.max(axis=1))):
        own = getattr(effects.Y, {"mean": "mean", "largest": "max"}[name])()
        assert float(rows.loc[name, "data"]) == pytest.approx(own, rel=1e-3)
        ends = [float(rows.loc[name, f"prior, {p} %"]) for p in (5, 50, 95)]
        np.testing.assert_allclose(ends, np.quantile(values, [0.05, 0.5, 0.95]), rtol=2e-3)
        assert rows.loc[name, "below the data's"] == f"{(values < own).mean():.0%}"
    assert "share of zeros" not in rows.index


def test_a_report_has_the_prior_when_it_is_asked_for(tmp_path: Path) -> None:
    data = tmp_path / "d.csv"
    frame = pd.DataFrame({"n": [0, 2, 1, 4, 0, 3], "x": [0.1, 0.5, -0.3, 1.2, -1.0, 0.7]})
    frame.to_csv(data, index=False)
    asked = [
        "compare", "--formula", "n ~ x", "--family", "poisson", "--data", str(data),
        "--methods", "map", "--prior-predictive", "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "n by the prior, beside the data" in page
    assert "share of zeros" in page
    result = CliRunner().invoke(app, [*asked, "--prior", "flat"])
    assert result.exit_code == 2
    assert "has an improper prior, which nothing can be drawn from" in result.output
