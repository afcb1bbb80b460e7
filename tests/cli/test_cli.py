import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import jsonschema
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from rich.console import Console
from typer.testing import CliRunner

import vi_recipes as vr
from vi_recipes.cli import options, show
from vi_recipes.cli.commands import app
from vi_recipes.cli.values import parse_value
from vi_recipes.comparison.json import schema
from vi_recipes.methods import METHODS
from vi_recipes.report.cells import Cell, Table

PROGRAM = Path(sysconfig.get_path("scripts")) / "vi-recipes"

MODEL = """
import jax
import numpyro, numpyro.distributions as dist

def line(x, y, scale: float = 1.0):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    b = numpyro.sample("b", dist.Normal(0.0, scale))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(a + b * x, 1.0), obs=y)
"""
FUNNEL = """
import numpyro, numpyro.distributions as dist

def funnel(y):
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("unit", len(y)):
        theta = numpyro.sample("theta", dist.Normal(0.0, tau))
        numpyro.sample("y", dist.Normal(theta, 10.0), obs=y)
"""
DATA = {"x": [0.0, 1.0, 2.0, 3.0], "y": [0.1, 0.9, 2.2, 2.9]}
FAST_NUTS = (
    "--set",
    "nuts.num_warmup=200",
    "--set",
    "nuts.num_samples=200",
    "--set",
    "nuts.num_chains=2",
)


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("line.py").write_text(MODEL)
    Path("line.json").write_text(json.dumps(DATA))


def run(*words):
    """Run the command line in this process."""
    return CliRunner().invoke(app, list(words), prog_name="vi-recipes")


def program(*words, **options):
    """Run the command line as a user does."""
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "FORCE_COLOR")}
    return subprocess.run(
        [PROGRAM, *words], capture_output=True, text=True, check=False, env=environment, **options
    )


def refuse(*words, code=2):
    """Run what must be refused, and return what it says."""
    result = run(*words)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.stderr
    return result.stderr


# -- the main job ------------------------------------------------------------------------------


@pytest.mark.slow
def test_compare_prints_writes_and_rebuilds():
    done = program(
        "compare",
        "line.py",
        "--data",
        "line.json",
        "--methods",
        "map,laplace,nuts",
        *FAST_NUTS,
        "--seed",
        "3",
        "--json",
        "result.json",
    )
    assert done.returncode == 0, done.stderr
    folder = Path("line-report")
    for title in ("Methods", "Population parameters"):
        assert title in done.stdout
    for word in ("map", "laplace", "nuts", "line-report/report.html"):
        assert word in done.stdout
    assert "\x1b" not in done.stdout
    assert not any(character in done.stdout for character in "│┃━─…")
    assert not any(line.endswith(" ") for line in done.stdout.split("\n"))

    result = json.loads(Path("result.json").read_text())
    jsonschema.validate(result, schema(), cls=jsonschema.Draft202012Validator)
    assert json.loads((folder / "result.json").read_text()) == result
    assert result["seed"] == 3
    assert result["reference"] == "nuts"
    assert result["methods"]["nuts"]["options"]["num_samples"] == 200
    assert (folder / "report.md").exists()
    assert list((folder / "tables").glob("*.csv"))
    assert list((folder / "tables").glob("*.tex"))
    tree = xr.load_datatree(folder / "fits" / "nuts.nc", engine="h5netcdf")
    assert tree["posterior"]["a"].shape == (2, 200)

    (folder / "report.html").unlink()
    (folder / "result.json").unlink()
    again = run("report", str(folder), "--all")
    assert again.exit_code == 0, again.output
    assert all(title in again.output for title in ("Timings", "Diagnostics", "Verdicts"))
    assert (folder / "report.html").exists()
    rebuilt = json.loads((folder / "result.json").read_text())
    assert rebuilt["methods"]["nuts"]["mean"] == result["methods"]["nuts"]["mean"]
    assert rebuilt["methods"]["nuts"]["timing"] == result["methods"]["nuts"]["timing"]


def test_svi_explains_its_guides():
    shown = run("methods", "svi").output
    for heading, choices in vr.SVI.choices.items():
        assert f"\n{heading}:\n" in shown
        assert all(f"\n  {name} " in shown for name in choices)


@pytest.mark.slow
def test_json_on_standard_output_is_alone_there():
    result = run(
        "compare",
        "line.py",
        "--data",
        "line.json",
        "--methods",
        "first=laplace,map",
        "--no-report",
        "--json",
        "-",
    )
    assert result.exit_code == 0, result.output
    assert list(json.loads(result.stdout)["methods"]) == ["first", "map"]
    assert "Population parameters" in result.stderr
    assert not Path("line-report").exists()


@pytest.mark.slow
def test_fit_uses_one_method_and_the_same_options():
    result = run(
        "fit",
        "line.py:line",
        "--method",
        "laplace",
        "--data",
        "line.json",
        "--set",
        "model.scale=2",
        "--set",
        "laplace.tolerance=1e-3",
        "--json",
        "r.json",
    )
    assert result.exit_code == 0, result.output
    method = json.loads(Path("r.json").read_text())["methods"]["laplace"]
    assert method["options"]["tolerance"] == 1e-3
    assert Path("line-laplace-report/report.html").exists()
    # conjugate: the posterior precision of (a, b) is X'X + diag(1, 1 / scale^2)
    x = np.asarray(DATA["x"])
    X = np.stack([np.ones(4), x], axis=1)
    cov = np.linalg.inv(X.T @ X + np.diag([1.0, 0.25]))
    np.testing.assert_allclose(method["cov"], cov, rtol=1e-6)
    np.testing.assert_allclose(method["mean"], cov @ X.T @ DATA["y"], rtol=1e-6)


@pytest.mark.slow
def test_shipped_model_with_its_own_data_and_an_outside_reference():
    answers = {"source": "by hand", "parameters": {"mu": {"mean": 4.4, "sd": 3.3}}}
    Path("answers.json").write_text(json.dumps(answers))
    result = run(
        "compare",
        "eight_schools",
        "--methods",
        "svi",
        "--set",
        "svi.num_steps=500",
        "--reference",
        "answers.json",
        "--no-report",
        "--json",
        "r.json",
    )
    assert result.exit_code == 0, result.output
    content = json.loads(Path("r.json").read_text())
    assert content["reference"] == "reference"
    assert content["methods"]["svi"]["labels"][-1] == "theta[H]"


@pytest.mark.parametrize("suffix", ["csv", "parquet", "nc"])
def test_every_kind_of_file_gives_the_same_answer(suffix):
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    frame = pd.DataFrame({**DATA, "id": [7, 8, 9, 10]})
    path = f"line.{suffix}"
    if suffix == "csv":
        frame.to_csv(path, index=False)
    elif suffix == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_xarray().to_netcdf(path, engine="h5netcdf")
    result = run(
        "fit", "line.py", "--method", "map", "--no-report", "--data", path, "--json", "r.json"
    )
    assert result.exit_code == 0, result.output
    assert "left out: " in result.stderr
    assert "id" in result.stderr
    expected = run(
        "fit",
        "line.py",
        "--method",
        "map",
        "--no-report",
        "--data",
        "line.json",
        "--json",
        "e.json",
    )
    assert expected.exit_code == 0
    mean = [json.loads(Path(p).read_text())["methods"]["map"]["mean"] for p in ("r.json", "e.json")]
    assert mean[0] == mean[1]


def test_exit_code_1_when_every_method_failed():
    Path("funnel.py").write_text(FUNNEL)
    Path("d.json").write_text('{"y": [28, 8, -3]}')
    result = run("compare", "funnel.py", "--data", "d.json", "--methods", "map", "--json", "r.json")
    assert result.exit_code == 1
    assert "no method gave a result" in result.stderr
    assert "tau" in result.stdout
    assert Path("funnel-report/report.html").exists()
    assert json.loads(Path("r.json").read_text())["methods"]["map"]["status"] == "degenerate"


@pytest.mark.slow
def test_run_a_study():
    Path("duel.py").write_text(
        "import vi_recipes as vr\n"
        "STUDY = vr.Study(name='duel', model='line.py', data={'x': [0.0, 1.0], 'y': [0.0, 1.1]},\n"
        "                 methods={'map': vr.MAP(), 'laplace': vr.Laplace()}, seed=5)\n"
    )
    result = run("run", "duel.py", "--json", "r.json")
    assert result.exit_code == 0, result.output
    assert Path("duel-report/report.html").exists()
    assert json.loads(Path("r.json").read_text())["seed"] == 5
    assert run("run", "duel.py", "--seed", "6", "--no-report", "--json", "r.json").exit_code == 0
    assert json.loads(Path("r.json").read_text())["seed"] == 6


@contextmanager
def terminal():
    """Give a process a terminal to write to; yield its end, and what has been written so far."""
    ours, theirs = os.openpty()
    written = bytearray()

    def read():
        with suppress(OSError):  # nobody has the other end any more
            while part := os.read(ours, 4096):
                written.extend(part)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield theirs, written
    finally:
        os.close(theirs)
        reader.join(timeout=60)
        os.close(ours)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "interrupted by SIGTERM")],
)
def test_what_asks_for_an_end_has_what_is_done_kept_and_reported(asked, code, word):
    words = [
        "compare",
        "line.py",
        "--data",
        "line.json",
        "--methods",
        "map,nuts,laplace",
        "--out",
        "out",
        "--set",
        "nuts.num_samples=2000000",
    ]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    with terminal() as (end, written):
        process = subprocess.Popen(
            [PROGRAM, *words], stdout=subprocess.PIPE, stderr=end, text=True, env=environment
        )
        try:
            deadline = time.monotonic() + 120
            # it is NUTS that counts iterations: it runs, and what was before it is kept
            while not re.search(rb"nuts[^\r\n]*iterations", bytes(written)):
                assert process.poll() is None, written
                assert time.monotonic() < deadline, written
                time.sleep(0.1)
            assert Path("out/fits/map.nc").exists()
            process.send_signal(asked)
            stdout, _ = process.communicate(timeout=120)
        finally:
            process.kill()
    stderr = written.decode()
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
    assert "Population parameters" in stdout
    assert Path("out/report.html").exists()
    result = json.loads(Path("out/result.json").read_text())
    assert result["interrupted"]
    assert result["methods"]["map"]["status"] == "ok"
    assert result["methods"]["nuts"]["status"] == "interrupted"
    assert list(result["methods"]) == ["map", "nuts"]
    left = "Not begun when the run was interrupted: laplace."
    assert f"{word}; what was done is above. {left}" in stderr
    assert left in result["notes"]
    assert f"only what was done by then is here. {left}" in Path("out/report.html").read_text()
    # what is there can be reported on again, and that is no interruption
    assert run("report", "out").exit_code == 0


# -- help and lists ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command", ["", "compare", "fit", "run", "models", "methods", "report", "new"]
)
def test_help_has_examples(command):
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    assert "Example" in result.stdout
    assert f"  vi-recipes {command}".rstrip() in result.stdout


def test_light_commands_do_not_import_jax():
    code = (
        "import sys, atexit\n"
        "atexit.register(lambda: print('jax' in sys.modules))\n"
        "from vi_recipes.cli import main\n"
        "main()\n"
    )
    for words, expected in (
        (["--version"], "vi-recipes "),
        (["--help"], "compare"),
        (["models"], "radon"),
        (["run"], "gmm"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
        )
        assert expected in done.stdout
        assert done.stdout.rstrip().endswith("False"), words


def told_by(code: str) -> list[str]:
    """Return the words that a process of its own prints, whose code runs ``--version``."""
    command = [sys.executable, "-c", code, "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_commands_look_for_garbage_less_often():
    code = (
        "import atexit, gc\n"
        "before = gc.get_threshold()\n"
        "atexit.register(lambda: print(*(a >= b for a, b in zip(gc.get_threshold(), before)),"
        " gc.get_threshold() != before))\n"
        "from vi_recipes.cli import main\n"
        "main()\n"
    )
    assert told_by(code)[-4:] == ["True"] * 4


def test_commands_end_without_looking_for_garbage():
    code = (
        "import atexit, gc\n"
        "class Tells:\n"
        "    def __del__(self):\n"
        "        print('collected')\n"
        "circle = Tells()\n"
        "circle.itself = circle\n"
        "def leave():\n"
        "    global circle\n"
        "    del circle\n"
        "    print('frozen', gc.get_freeze_count() > 0)\n"
        "atexit.register(leave)\n"
        "from vi_recipes.cli import main\n"
        "main()\n"
    )
    assert told_by(code)[-2:] == ["frozen", "True"]  # and the circle was not looked for


@pytest.mark.parametrize("width", [40, 80, 120])
def test_methods_lists_every_option_with_its_documentation(width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    result = run("methods")
    assert result.exit_code == 0
    for name, method in METHODS.items():
        assert name in result.stdout
        listed = run("methods", name)
        assert listed.exit_code == 0, listed.output
        assert all(len(line) <= width for line in listed.stdout.splitlines())
        words = "".join(listed.stdout.split())
        for option in options.list_options(method):
            assert option.doc, f"{name}.{option.name} is not documented"
            assert "~" not in option.doc, f"{name}.{option.name}: markup is left"
            shown = f"{option.name}={option.default}{option.doc}Type:{option.type}."
            assert "".join(shown.split()) in words, f"{name}.{option.name}"
    assert "did you mean 'nuts'" in refuse("methods", "nutz")


def test_the_options_of_a_base_are_said_to_be_a_correction_s_own():
    assert "base=meanfield" in run("methods", "lrvb").stdout
    assert "lrvb.factors=..." in run("methods", "lrvb").stdout


# -- bad input ---------------------------------------------------------------------------------


def compare_data(data, *words):
    Path("bad.json").write_text(data if isinstance(data, str) else json.dumps(data))
    return refuse("compare", "line.py", "--data", "bad.json", *words)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({**DATA, "y": [0.1, float("nan"), 1.0, 2.0]}, "'y' has 1 NaN or infinite value(s)"),
        ({**DATA, "y": [0.1, float("inf"), 1.0, 2.0]}, "infinite"),
        ({**DATA, "y": [0.1, None, 1.0, 2.0]}, "'y' has dtype object, e.g. None"),
        ({**DATA, "y": [1.0, 2.0]}, "y [2]"),
        ({**DATA, "y": [[1.0, 2.0], [3.0]]}, "'y' is not a rectangular array"),
        ({**DATA, "x": [[1.0, 2.0, 3.0]]}, "shape"),
        ({"y": DATA["y"]}, "missing argument(s) x"),
        ({**DATA, "z": [1.0]}, "unknown argument(s) z"),
        ({**DATA, "y": []}, "'y' is empty"),
        ("", "is empty"),
        ("[1, 2]", "expected an object"),
        ("{", "not valid JSON"),
    ],
)
def test_bad_data(data, expected):
    message = compare_data(data)
    assert message.startswith("error: ")
    assert expected in message
    assert "unexpected" not in message
    assert not Path("line-report").exists()


def test_missing_data_and_files():
    assert "has no data of its own; give it x, y with --data" in refuse("compare", "line.py")
    assert "does not exist" in refuse("compare", "line.py", "--data", "none.csv")
    assert "is a directory" in refuse("compare", "line.py", "--data", ".")
    assert "unknown kind of file" in refuse("compare", "line.py", "--data", "line.py")
    assert "missing argument(s)" in refuse("compare", "radon", "--data", "line.json")


def test_text_where_numbers_belong():
    Path("bad.csv").write_text("x,y,who\n0,1,ann\n1,high,bob\n")
    message = refuse("compare", "line.py", "--data", "bad.csv")
    assert "'y' has dtype" in message
    assert "where numbers are expected" in message


def test_a_csv_that_lacks_a_column_lists_what_it_has():
    Path("bad.csv").write_text("X,y\n0,1\n")
    message = refuse("compare", "line.py", "--data", "bad.csv")
    assert "missing argument(s) x" in message
    assert "unknown argument(s) X" in message


def test_the_models_own_reader_fails_with_a_sentence():
    Path("bad.csv").write_text("county,floor\n1,0\n")
    assert "lacks column(s) log_radon" in refuse("compare", "radon", "--data", "bad.csv")
    Path("own.py").write_text(
        MODEL + "\nimport vi_recipes as vr\nMODEL = vr.Model(\n"
        "    function=line, name='own', load=lambda path: {}['y'])\n"
    )
    assert "bad.csv: 'y' (KeyError)" in refuse("compare", "own.py", "--data", "bad.csv")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["compare", "raddon"], "unknown model 'raddon'; did you mean 'radon'"),
        (["compare", "none.py"], "none.py does not exist"),
        (["compare", "line.py:lime"], "unknown name 'lime'; did you mean 'line'"),
        (["run", "raddon"], "unknown study 'raddon'; did you mean 'radon'"),
        (["compare", "radon", "--methods", "map,nutz"], "unknown method 'nutz'; did you mean"),
        (["compare", "radon", "--methods", ","], "expected one or more of map"),
        (["compare", "radon", "--methods", "map,map"], "'map' is listed twice"),
        (["compare", "radon", "--methods", "a/b=map"], "cannot name a method"),
        (["compare", "radon", "--methods", "model=map"], "cannot name a method"),
        (
            ["compare", "radon", "--methods", "map", "--reference", "nuts"],
            "--reference: unknown method 'nuts'; Known: map",
        ),
        (["fit", "radon", "--method", "map,nuts"], "expected one"),
        (["compare", "radon", "--methods", "map", "--set", "map"], "expected name.option=value"),
        (
            ["compare", "radon", "--methods", "map", "--set", "nut.num_samples=1"],
            "unknown method 'nut'",
        ),
        (
            ["compare", "radon", "--methods", "map", "--set", "map.solvr=newton"],
            "unknown option of map: 'solvr'; did you mean 'solver'",
        ),
        (
            ["compare", "radon", "--methods", "map", "--set", "map.solver=newtn"],
            "did you mean 'newton'",
        ),
        (
            ["compare", "radon", "--methods", "map", "--set", "map.max_steps=1.5"],
            "map.max_steps: got '1.5', expected integer",
        ),
        (
            ["compare", "radon", "--methods", "map", "--set", "map.max_steps=-1"],
            "method 'map': max_steps: got -1, expected a positive integer",
        ),
        (
            ["compare", "radon", "--methods", "svi", "--set", "svi.guide=norml"],
            "did you mean 'normal'",
        ),
        (
            ["compare", "radon", "--methods", "map", "--set", "model.num_countys=3"],
            "did you mean 'num_counties'",
        ),
        (
            ["compare", "radon", "--methods", "map", "--set", "model.num_counties=many"],
            "model.num_counties: got 'many', expected integer",
        ),
        (["compare", "radon", "--out", "x", "--no-report"], "at most one"),
        (["report", "none"], "none does not exist"),
        (["report", "."], "no saved comparison"),
        (["compare", "radon", "--seed", "-1"], "--seed"),
        (["compare"], "MODEL"),
        (["compare", "radon", "--formula", "y ~ x"], "expected a model or a formula"),
        (["compare", "--family", "beta"], "got --family alone"),
        (["compare", "--formula", "y ~ x"], "--formula needs --data"),
        (["compare", "--formula", "y ~ x +", "--data", "line.csv"], "\n  y ~ x +\n         ^"),
        (["compare", "--formula", "y ~ z", "--data", "line.csv"], "unknown column 'z'"),
        (
            ["compare", "--formula", "y ~ x", "--data", "line.csv", "--prior", "beta"],
            "--prior: got 'beta', expected SITE=LAW",
        ),
        (
            ["compare", "--formula", "y ~ x", "--data", "line.csv", "--set", "model.x=1"],
            "expected a MODEL",
        ),
        (["compare", "radon", "--metods", "map"], "--methods"),
        (["compere", "radon"], "compare"),
    ],
)
def test_bad_usage(words, expected):
    pd.DataFrame(DATA).to_csv("line.csv", index=False)
    assert expected in refuse(*words)


CONTRADICTIONS = [
    *(
        (command, *words)
        for command in (
            "compare radon",
            "run radon",
            "calibrate radon --method map",
            "sweep grid.toml",
            "verify",
        )
        for words in (
            ("--workers 2", "--scheduler tcp://127.0.0.1:1"),
            ("--out x", "--no-report"),
        )
    ),
    *(
        (command, "--pdf", "--no-report")
        for command in ("compare radon", "run radon", "fit radon --method map")
    ),
    ("fit radon --method map", "--out x", "--no-report"),
    *(
        ("compare radon", option, "--no-report")
        for option in ("--predictive", "--prior-predictive", "--resume")
    ),
]


@pytest.mark.parametrize(("command", "one", "other"), CONTRADICTIONS)
def test_options_that_contradict_one_another_are_refused_before_anything_else(command, one, other):
    """Neither a note nor a folder, and no file is read for it: the grid is not there."""
    there = set(Path().iterdir())
    said = run(*command.split(), *one.split(), *other.split())
    assert said.exit_code == 2
    first, second = one.split()[0], other.split()[0]
    assert said.stderr == f"error: {first} and {second}: expected at most one of them\n"
    assert said.stdout == ""
    assert set(Path().iterdir()) == there


def test_a_note_comes_after_what_may_be_refused():
    """That methods are fitted one at a time is of no use to who has misspelt the model."""
    for words in (["compare", "radn"], ["run", "radn"], ["compare", "radon", "--methods", "mp"]):
        assert "note:" not in refuse(*words, "--workers", "2")
    assert "--rename: it needs --add or --reference" in refuse(
        "compare", "radon", "--rename", "a=b"
    )


def test_a_model_by_formula():
    frame = pd.DataFrame(DATA | {"y": [0.1, 0.9, 2.2, None]})
    frame.to_csv("line.tsv", sep="\t", index=False)
    priors = ("--prior", "beta=Normal(0, 2)", "--prior", "sigma=1")
    words = ("--formula", "y ~ 0 + x", "--data", "line.tsv", "--missing", "drop", *priors)
    result = run("fit", *words, "--method", "map", "--no-report", "--json", "fit.json")
    assert result.exit_code == 0, result.output
    assert "note: 1 of 4 rows left out for missing values (y 1)" in result.stderr
    found = json.loads(Path("fit.json").read_text())["methods"]["map"]
    # the ridge estimate x'y / (x'x + 1/4)
    assert found["mean"] == pytest.approx([(0.9 + 2 * 2.2) / (5.0 + 0.25)], rel=1e-6)


def test_model_file_that_raises_shows_its_own_lines():
    Path("broken.py").write_text("def half():\n    return 1 / 0\n\nhalf()\n")
    done = program("compare", "broken.py")
    assert done.returncode == 2
    assert (
        "broken.py raised ZeroDivisionError: division by zero (broken.py, line 2: " in done.stderr
    )
    assert "return 1 / 0) when it was loaded" in done.stderr
    assert "vi_recipes/" not in done.stderr
    assert done.stdout == ""


def test_model_without_a_latent_site():
    Path("none.py").write_text(
        "import numpyro, numpyro.distributions as dist\n"
        "def none(y):\n    numpyro.sample('y', dist.Normal(0, 1), obs=y)\n"
    )
    Path("y.json").write_text('{"y": 1.0}')
    assert "has no latent site" in refuse("compare", "none.py", "--data", "y.json")


@pytest.mark.filterwarnings("ignore:Out-of-support values")
def test_density_not_finite_at_the_start_names_the_site():
    Path("rate.py").write_text(
        "import numpyro, numpyro.distributions as dist\n"
        "def rate(y):\n"
        "    a = numpyro.sample('a', dist.Gamma(2.0, 2.0))\n"
        "    numpyro.sample('wait', dist.Exponential(a), obs=y)\n"
    )
    Path("y.json").write_text('{"y": -1.0}')
    message = refuse("compare", "rate.py", "--data", "y.json", "--methods", "map")
    assert "'wait'" in message
    assert not Path("rate-report").exists()


def test_places_that_cannot_be_written_are_found_before_fitting(monkeypatch):
    monkeypatch.setattr(vr.MAP, "fit", lambda *a, **k: pytest.fail("fitted"))
    words = ("compare", "line.py", "--data", "line.json", "--methods", "map")
    assert "cannot write to folder line.json" in refuse(*words, "--out", "line.json")
    assert "cannot write to folder" in refuse(*words, "--out", "line.json/report")
    assert "is a directory" in refuse(*words, "--json", ".")
    assert "cannot write to" in refuse(*words, "--json", "no/such/folder/r.json")


def test_debug_shows_the_traceback():
    result = run("compare", "line.py", "--debug")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr


# -- tables on a terminal ----------------------------------------------------------------------


@pytest.mark.parametrize("width", [30, 60, 200])
def test_a_wide_table_is_split_between_methods_and_never_cut(width):
    names = ["map", "laplace", "svi", "nuts"]
    columns = ["parameter", *(f"{n}\n{what}" for n in names for what in ("mean", "sd"))]
    rows = [[Cell(f"theta[{i}]"), *(Cell(f"{i}.{k:03}") for k in range(8))] for i in range(3)]
    console = Console(width=width, force_terminal=True, color_system=None, markup=False)
    with console.capture() as capture:
        show.show_table(console, Table("Means", columns, rows))
    text = capture.get()
    assert max(map(len, text.split("\n"))) <= width
    for row in rows:
        for cell in row:
            assert cell.text in text
    assert text.count("theta[0]") == {30: 4, 60: 2, 200: 1}[width]


# -- values of --set ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "annotation", "expected"),
    [
        ("3", int, 3),
        ("1e4", int, 10_000),
        ("1e-3", float, 1e-3),
        ("3", float | None, 3.0),
        ("none", float | None, None),
        ("none", str, "none"),
        ("yes", bool, True),
        ("False", bool, False),
        ("normal", Any, "normal"),
        ("[1, 2]", Any, [1, 2]),
        ("full", Literal["full", "tied"], "full"),
        ("2", Literal["auto"] | int, 2),
        ("auto", Literal["auto"] | int, "auto"),
        ("[32, 32]", tuple[int, ...], (32, 32)),
        ("32,32", tuple[int, ...], (32, 32)),
        ("theta", tuple[str, ...], ("theta",)),
        ("theta, a", list[str], ["theta", "a"]),
        ('{"a": 1}', Mapping[str, float], {"a": 1.0}),
        ('[["a", 0.5]]', tuple[tuple[str, float], ...], (("a", 0.5),)),
    ],
)
def test_values_are_read_by_their_types(text, annotation, expected):
    value = parse_value(text, annotation, "m.option")
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("text", "annotation", "expected"),
    [
        ("1.5", int, "expected integer"),
        ("inf", int, "expected integer"),
        ("many", float | None, "expected number or none"),
        ("maybe", bool, "expected true or false"),
        ("[1.5]", tuple[int, ...], "expected list of integer"),
        ("[1", list[int], "expected list of integer"),
        ('{"a": "b"}', dict[str, float], "expected JSON object"),
        ("adam", CliRunner | None, r"expected file\.py:NAME or none"),
        ("ful", Literal["full", "tied"], "did you mean 'full'"),
    ],
)
def test_values_of_another_type_are_refused(text, annotation, expected):
    with pytest.raises(ValueError, match=expected) as error:
        parse_value(text, annotation, "m.option")
    assert "m.option" in str(error.value)


def test_objects_come_from_a_file():
    Path("guides.py").write_text("def guide(*args):\n    return 1\n")
    assert parse_value("guides.py:guide", Any, "svi.guide")() == 1
    with pytest.raises(ValueError, match="did you mean 'guide'"):
        parse_value("guides.py:gide", Any, "svi.guide")
    with pytest.raises(ValueError, match="expected"):
        parse_value("guides.py:guide", int | CliRunner, "svi.optimizer")


def test_every_option_of_every_method_can_be_set():
    for name, method in METHODS.items():
        default = method()
        texts = {
            option.name: option.default
            for option in options.list_options(method)
            if not callable(getattr(default, option.name)) and option.name != "base"
        }
        assert options.set_options(default, name, texts) == default


@pytest.mark.slow
def test_what_was_compiled_before_is_said_and_read(tmp_path):
    """In processes of their own, which have no other cache."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    variables["VI_RECIPES_CACHE"] = str(tmp_path / "cache")
    words = [
        "compare",
        "line.py",
        "--data",
        "line.json",
        "--methods",
        "map",
        "--no-report",
        "--all",
    ]
    command = [sys.executable, "-c", "from vi_recipes.cli import main; main()", *words]

    def said(*more):
        done = subprocess.run(
            [*command, *more], env=variables, capture_output=True, text=True, check=True
        )
        return "read from the cache of compiled code" in done.stdout

    assert not said("--no-cache")
    assert not (tmp_path / "cache").exists()
    said()
    assert said()
    assert not said("--no-cache")
