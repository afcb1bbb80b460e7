"""Sweeps over a model whose posterior is known, and their summaries against other calculations."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pandas as pd
import pytest
from executors_for_tests import Here
from scipy import stats
from typer.testing import CliRunner

import vi_recipes as vr
from vi_recipes.cli.commands import app
from vi_recipes.core import CheckpointError, ModelError, Progress
from vi_recipes.sweeps import Sweep, page, read_grid
from vi_recipes.sweeps.measures import coverage_interval, measures
from vi_recipes.sweeps.page import write as write_report
from vi_recipes.sweeps.swept import Swept

ROWS, SD, NOISE = 4, 2.0, 1.5
TRUTH = 3.0


def normal(y: jax.Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, SD))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(mu, NOISE), obs=y)


MODEL = vr.Model(function=normal, name="normal", data=lambda: {"y": np.arange(float(ROWS))})
SHRINK = (ROWS / NOISE**2) / (ROWS / NOISE**2 + 1 / SD**2)
POSTERIOR_SD = (ROWS / NOISE**2 + 1 / SD**2) ** -0.5
SEEDS = 16
GIVEN: dict[str, Any] = {"truth": {"mu": TRUTH}, "seeds": SEEDS, "assessed": False}


@pytest.fixture(scope="module")
def study() -> Sweep:
    return vr.sweep(MODEL, "laplace,map", **GIVEN)


# -- what a simulation study finds -----------------------------------------------------------------


def test_errors_and_coverage_are_those_of_the_exact_posterior(study: Sweep) -> None:
    # mean = SHRINK * average of the data, whose sd is NOISE / sqrt(ROWS) around the truth
    bias, spread = (SHRINK - 1) * TRUTH, SHRINK * NOISE / ROWS**0.5
    half = stats.norm.ppf(0.95) * POSTERIOR_SD
    covered = np.diff(stats.norm.cdf([-half, half], bias, spread))[0]
    found = study.performance().set_index("method").loc["laplace"]
    assert found["n"] == SEEDS
    assert abs(found["bias"] - bias) < 4 * spread / SEEDS**0.5
    assert found["bias_mcse"] == pytest.approx(spread / SEEDS**0.5, rel=0.6)
    assert found["model_sd"] == pytest.approx(POSTERIOR_SD, rel=1e-6)
    assert abs(found["coverage"] - covered) < 4 * (covered * (1 - covered) / SEEDS) ** 0.5
    frame = study.frame
    assert (frame["known"] == TRUTH).all()
    np.testing.assert_allclose(frame["error"], frame["mean"] - TRUTH)


def test_every_method_has_the_same_data_and_a_point_has_no_coverage(study: Sweep) -> None:
    means = study.frame.pivot_table(index="seed", columns="method", values="mean")
    np.testing.assert_allclose(means["map"], means["laplace"], atol=1e-6)
    assert means["map"].nunique() == SEEDS
    point = study.performance().set_index("method").loc["map"]
    assert np.isnan(point[["model_sd", "sd_ratio", "coverage"]].astype(float)).all()
    assert point["bias"] == pytest.approx(means["map"].mean() - TRUTH)


def test_truths_from_the_prior_are_drawn_anew_for_every_seed() -> None:
    found = vr.sweep(MODEL, "laplace", truth="prior", seeds=SEEDS, assessed=False)
    truths = found.frame["known"]
    assert stats.kstest(truths, stats.norm(0, SD).cdf).pvalue > 1e-3
    # over the prior, errors have the posterior's sd
    row = found.performance().iloc[0]
    assert abs(row["sd_ratio"] - 1) < 4 * row["sd_ratio_mcse"]
    assert row["error_sd"] == pytest.approx(POSTERIOR_SD, rel=4 / (2 * (SEEDS - 1)) ** 0.5)


@pytest.mark.slow
def test_without_a_truth_fits_are_those_of_a_comparison_beside_the_reference() -> None:
    found = vr.sweep("eight_schools", "meanfield", seeds=[5], assessed=False)
    fit = vr.compare(vr.Target(vr.load_model("eight_schools")), "meanfield", key=5, assessed=False)[
        "meanfield"
    ]
    frame = found.frame.set_index("parameter")
    np.testing.assert_array_equal(frame["mean"], fit.flat(fit.mean()))
    answers = Path(vr.__file__).parents[1] / "models" / "eight_schools" / "reference.json"
    known = json.loads(answers.read_text())["parameters"]
    label = fit.labels()[0]
    first = known[fit.labels(coords=False)[0]]
    assert frame.loc[label, "error"] == pytest.approx(frame.loc[label, "mean"] - first["mean"])
    assert frame.loc[label, "error_in_sds"] == pytest.approx(
        frame.loc[label, "error"] / first["sd"]
    )
    assert found.performance()["coverage"].isna().all()  # one data set says nothing of it


def test_measures_have_the_errors_that_jackknives_find() -> None:
    rng = np.random.default_rng(8)
    n = 400
    known = rng.normal(size=n)
    mean, sd = known + rng.normal(0.3, 1.2, n), rng.uniform(0.7, 1.5, n)
    columns = [mean, sd, mean - 1.6 * sd, mean + 1.6 * sd, known]
    found = measures(*columns, simulated=True)
    error = mean - known
    assert found["bias"] == pytest.approx(error.mean())
    assert found["error_sd"] == pytest.approx(np.std(error, ddof=1))
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean(error**2)))
    assert found["coverage"] == pytest.approx(np.mean(np.abs(error) < 1.6 * sd))
    less = pd.DataFrame(
        [measures(*(np.delete(c, k) for c in columns), simulated=True) for k in range(n)]
    )
    jackknife = np.sqrt((n - 1) * less.var(ddof=0))
    for name in ("bias", "error_sd", "rmse", "model_sd", "sd_ratio", "coverage"):
        # normal theory is within its own error of the jackknife's
        assert found[f"{name}_mcse"] == pytest.approx(jackknife[name], rel=0.12), name


def test_a_coverage_of_one_is_not_known_exactly() -> None:
    ones = np.ones(20)
    found = measures(0 * ones, ones, -ones, ones, 0 * ones + 0.1, simulated=True)
    assert found["coverage"] == 1
    assert found["coverage_mcse"] == pytest.approx((21 / 22 * 1 / 22 / 20) ** 0.5)
    low, high = coverage_interval(1.0, 20)
    assert (low, high) == (pytest.approx(0.025 ** (1 / 20)), 1.0)


# -- wherever cells run ----------------------------------------------------------------------------


@pytest.mark.slow
def test_cells_are_kept_and_a_run_goes_on_with_another_engine(study: Sweep, tmp_path: Path) -> None:
    @contextmanager
    def stopping(title: str) -> Iterator[Progress]:
        def report(done: int, total: int, text: str = "") -> None:
            if done == 5:
                raise KeyboardInterrupt

        yield report

    part = vr.sweep(MODEL, "laplace,map", path=tmp_path, progress=stopping, **GIVEN)
    assert part.interrupted
    assert len(part.results) == 5
    executor = Here()
    whole = vr.sweep(MODEL, "laplace,map", path=tmp_path, executor=executor, **GIVEN)
    assert len(executor.cells) == 2 * SEEDS - 5
    same = ["model", "method", "seed", "parameter", "mean", "sd", "low", "high", "verdict"]
    pd.testing.assert_frame_equal(whole.frame[same], study.frame[same])
    again = vr.sweep(MODEL, "laplace,map", path=tmp_path, executor=executor, **GIVEN)
    assert len(executor.cells) == 2 * SEEDS - 5
    pd.testing.assert_frame_equal(again.frame, whole.frame)  # seconds too: nothing was fitted
    for other, message in (
        ({"truth": {"mu": 1.0}}, "another sweep: its truth is"),
        ({"level": 0.5}, "another sweep: its level is"),
    ):
        with pytest.raises(CheckpointError, match=message):
            vr.sweep(MODEL, "laplace,map", path=tmp_path, **{**GIVEN, **other})
    with pytest.raises(CheckpointError, match=r"another sweep: its method 'map' on 'normal'"):
        vr.sweep(MODEL, {"map": vr.Laplace()}, path=tmp_path, **GIVEN)
    longer = vr.Target(MODEL, y=np.arange(9.0))
    with pytest.raises(CheckpointError, match=r"another sweep: its model 'normal' \(own\) is"):
        vr.sweep(longer, "map", path=tmp_path, **GIVEN)


def test_a_folder_of_a_model_or_an_optimiser_that_was_changed_is_refused(tmp_path: Path) -> None:
    def sweep(sd: float, folder: str, **methods: vr.Method) -> Sweep:
        def normal(y: Any) -> None:
            mu = numpyro.sample("mu", dist.Normal(0.0, sd))
            numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

        model = vr.Model(function=normal, name="normal", data=lambda: {"y": np.arange(3.0)})
        return vr.sweep(model, methods, seeds=1, path=tmp_path / folder, assessed=False)

    first = sweep(10.0, "model", map=vr.MAP())
    pd.testing.assert_frame_equal(sweep(10.0, "model", map=vr.MAP()).frame, first.frame)
    with pytest.raises(CheckpointError, match=r"another sweep: its model 'normal' \(own\) is"):
        sweep(0.1, "model", map=vr.MAP())
    svi = vr.SVI(optimizer=optax.adam(0.1), num_steps=50)
    first = sweep(1.0, "optimiser", svi=svi)
    pd.testing.assert_frame_equal(sweep(1.0, "optimiser", svi=svi).frame, first.frame)
    with pytest.raises(CheckpointError, match=r"another sweep: its method 'svi' on 'normal'"):
        sweep(1.0, "optimiser", svi=vr.SVI(optimizer=optax.adam(1e-5), num_steps=50))


def test_data_by_path_are_read_where_cells_run(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text('{"y": [1.0, 2.0]}')
    executor = Here()
    given: dict[str, Any] = {"seeds": 1, "data": file, "executor": executor}
    assert vr.sweep(MODEL, "map", **given).frame["data"].tolist() == ["mine"]

    class Moved(Here):
        def submit(self, *args: Any, **kwargs: Any) -> Any:
            file.unlink()
            return super().submit(*args, **kwargs)

    file.write_text('{"y": [1.0, 2.5]}')
    with pytest.raises(ValueError, match="there is no such file where this cell runs"):
        vr.sweep(MODEL, "map", **{**given, "executor": Moved()})


def test_workers_that_began_elsewhere_find_data_by_a_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Elsewhere(Here):
        def submit(self, *args: Any, **kwargs: Any) -> Any:
            with contextlib.chdir(tmp_path.parent):
                return super().submit(*args, **kwargs)

    (tmp_path / "mine.json").write_text('{"y": [1.0, 2.0]}')
    monkeypatch.chdir(tmp_path)
    found = vr.sweep(MODEL, "map", seeds=1, data="mine.json", executor=Elsewhere())
    assert found.frame["status"].tolist() == ["OK"]


def test_a_sweep_says_how_many_fits_shared_a_machine(study: Sweep) -> None:
    assert set(study.at_once.values()) == {1}
    assert "No two fits ran at once on a machine." in page.notes(study)[0]
    overlapping = {
        cell: replace(found, host="a", process=k % 3, began=k, ended=k + 2.5)
        for k, (cell, found) in enumerate(study.results.items())
    }
    shared = replace(study, results=overlapping)
    assert shared.at_once == {"a": 3}
    assert "3 on a. Up to 3 on a ran at once, so seconds are those of a" in page.notes(shared)[0]


def test_an_error_of_one_fit_is_a_row_that_says_so() -> None:
    found = vr.sweep(MODEL, {"map": vr.MAP(), "cavi": vr.CAVI()}, truth="prior", seeds=2)
    assert [cell.method for cell in found.failures] == ["cavi", "cavi"]
    assert all("does not apply" in why for why in found.failures.values())
    assert found.performance()["method"].tolist() == ["map"]
    assert found.times().set_index("method")["failed"].to_dict() == {"map": 0, "cavi": 2}


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        (MODEL, {"truth": {"nu": 1.0}}, "truth: unknown latent site 'nu'"),
        (MODEL, {"truth": {"mu": [1.0, 2.0]}}, "truth: got .* for 'mu', expected finite numbers"),
        (MODEL, {"truth": "posterior"}, "truth: got 'posterior', expected 'prior'"),
        (MODEL, {"seeds": 0}, "seeds: got 0"),
        (MODEL, {"seeds": [1, 1]}, "seeds: got"),
        (MODEL, {"level": 1.0}, "level: got 1.0"),
        ([], {}, "models: got none"),
        ([MODEL, MODEL], {}, "models: two are named 'normal'"),
        ([3], {}, "models: got 3, expected names"),
        (MODEL, {"data": [1.0, 2.0]}, "data: got list, expected a mapping"),
        (MODEL, {"seeds": np.int64(0)}, "seeds: got"),
        (MODEL, {"data": {}}, "data: got none, expected at least one set"),
        (MODEL, {"data": "gone.json"}, "data: gone.json cannot be read"),
    ],
)
def test_bad_input(models: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        vr.sweep(models, "map", **options)


def test_a_truth_outside_the_support_is_refused() -> None:
    with pytest.raises(ModelError, match=r"'tau', where its prior .* has no density"):
        vr.sweep("eight_schools", "map", truth={"tau": -1.0})


# -- the command -----------------------------------------------------------------------------------


def test_the_command_line_and_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        "import numpyro, numpyro.distributions as dist\n\n"
        "def mine(y):\n"
        "    mu = numpyro.sample('mu', dist.Normal(0.0, 2.0))\n"
        "    with numpyro.plate('row', len(y)):\n"
        "        numpyro.sample('y', dist.Normal(mu, 1.5), obs=y)\n"
    )
    Path("y.json").write_text('{"y": [1.0, 2.0, 0.5, 1.0]}')
    Path("grid.toml").write_text(
        'models = ["mine.py"]\nmethods = ["laplace", "map"]\nseeds = 4\n'
        'data = "y.json"\n[truth]\nmu = 3.0\n'
    )
    done = CliRunner().invoke(app, ["sweep", "grid.toml"], prog_name="vi-recipes")
    assert done.exit_code == 0, done.output
    for words in (
        "mine (y): performance over seeds",
        "| mu        | laplace |",
        "Report: grid-sweep",
    ):
        assert words in done.stdout
    folder = Path("grid-sweep")
    files = {str(p.relative_to(folder)) for p in folder.rglob("*.*") if "cells" not in p.parts}
    assert {"report.html", "report.md", "figures/performance-mine-y.svg", "figures/seconds.svg"} < (
        files
    )
    (folder / "report.md").unlink()
    (folder / "report.md").mkdir()
    lost = CliRunner().invoke(app, ["sweep", "grid.toml"], prog_name="vi-recipes")
    assert lost.exit_code == 2
    assert "mine (y): performance over seeds" in lost.stdout
    assert "the report cannot be written (grid-sweep/report.md: Is a directory)" in lost.stderr
    assert "Report: grid-sweep" not in lost.stdout
    fits = pd.read_csv(folder / "tables" / "fits.csv")
    assert len(fits) == 8
    found = pd.read_csv(folder / "tables" / "performance.csv").set_index("method")
    assert found.loc["laplace", "bias"] == pytest.approx(
        fits.loc[fits["method"] == "laplace", "error"].mean()
    )


def test_every_data_set_has_a_figure_of_its_own_and_no_other_is_left(
    study: Sweep, tmp_path: Path
) -> None:
    names = ("y.2", "y 2", "Y-2")
    results = {
        cell._replace(data=data): found for data in names for cell, found in study.results.items()
    }
    (tmp_path / "figures").mkdir()
    for name in ("performance-of-another.svg", "my-own.png"):
        (tmp_path / "figures" / name).write_text("")
    swept = Swept(results, study.level, study.truth, len(results))
    write_report(swept, tmp_path)
    drawn = {f"performance-normal-y-2{end}.svg" for end in ("", "-2", "-3")} | {"seconds.svg"}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {*drawn, "my-own.png"}
    text = (tmp_path / "report.md").read_text()
    assert all(text.count(f"(figures/{name})") == 1 for name in drawn)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models = 3", "models: got 3, expected a list of names"),
        ('methods = ["map"]', "models: it is missing, expected such as"),
        ("models = []", "models: got none, expected such as"),
        ('models = ["radon"]\nmethods = []', "methods: got none, expected such as"),
        ('models = ["radon"]\n[data]\na = 1', "data: got 1 for 'a', expected a file"),
        ('models = ["radon"]\ndata = ""', "data: got '' for '', expected a file"),
        ('models = ["radon"]\nsead = 3', "unknown key 'sead'"),
        ('models = ["radon"]\nseeds = "many"', "seeds: got 'many', expected a number of seeds"),
        ("models = [", "it is no TOML"),
    ],
)
def test_a_grid_that_means_nothing_is_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "grid.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_grid(tmp_path / "grid.toml")
