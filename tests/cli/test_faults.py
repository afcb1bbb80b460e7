"""What is wrong with a model, its data or the places written to is one sentence."""

import errno
import gzip
import json
import os
import subprocess
import sysconfig
from pathlib import Path

import pytest
from typer.testing import CliRunner

import vi_recipes as vr
from vi_recipes.cli.commands import app
from vi_recipes.core import kept_file

PROGRAM = Path(sysconfig.get_path("scripts")) / "vi-recipes"

HEAD = """import sys
import jax.numpy as jnp, numpy as np, numpyro, numpyro.distributions as dist
import vi_recipes as vr
"""
BODY = """def m(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    {}
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)
"""
ROWS = """def m(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)
"""
VECTOR = """def m(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0).expand([2]))
    numpyro.sample("y", dist.Normal(mu.sum(), 1.0), obs=y)
"""


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("y.json").write_text('{"y": [1.0, 2.0]}')


def run(*words):
    return CliRunner().invoke(app, list(words), prog_name="vi-recipes")


def refuse(*words):
    """Run what must be refused, and return the one sentence that says so."""
    result = run(*words)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def compare(source, data="y.json"):
    Path("m.py").write_text(HEAD + source)
    data_words = ("--data", data) if data else ()
    return refuse("compare", "m.py", *data_words, "--methods", "map", "--no-report")


# -- models ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("mu = mu if mu > 0 else -mu", "asks 'if', 'while', 'and' or 'or' of a value"),
        ("mu = np.exp(mu)", "hands a value to NumPy"),
        ("k = int(mu)", "makes a Python number"),
        ("{}['income']", "raised KeyError: 'income'"),
        ("mu.no_such_thing()", "raised AttributeError"),
        ("sys.exit(3)", "raised SystemExit: it called sys.exit(3)"),
        ("(lambda f: f(f))(lambda f: f(f))", "raised RecursionError"),
        ("raise MemoryError", "raised MemoryError: the memory is used up"),
        ("raise MemoryError('no room for an array of shape (9,)')", "raised MemoryError: no room"),
        ("raise Exception", "raised Exception"),
        ("numpyro.sample('s', dist.Normal(0.0, -1.0))", "invalid scale parameter"),
        ("numpyro.sample('s', 3.0)", "raised TypeError"),
        ("numpyro.sample('mu', dist.Normal(0.0, 1.0))", "`mu` duplicated"),
    ],
)
def test_a_line_of_a_model_that_fails_is_named(line, expected):
    message = compare(BODY.format(line))
    assert expected in message
    assert "m.py, line 6" in message
    assert "lengths" not in message


def test_shapes_are_told_where_they_may_be_the_reason():
    message = compare(BODY.format("mu = mu + y + jnp.ones(3)"))
    assert "m.py, line 6: mu = mu + y + jnp.ones(3)" in message
    assert "The shapes of the data are y [2]: check that the lengths agree" in message


def test_a_model_that_has_other_sites_at_every_call():
    source = """import itertools
count = itertools.count()
def m(y):
    mu = numpyro.sample(f"mu{next(count)}", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)
"""
    assert "at one call and not at the next" in compare(source)


@pytest.mark.parametrize(
    ("fields", "expected", "data"),
    [
        ("data=lambda: {}['q']", "data function of model 'm' raised KeyError: 'q'", None),
        ("data=lambda: [1]", "data function of model 'm' returned list, expected a mapping", None),
        ("data=lambda: sys.exit(2)", "raised SystemExit: it called sys.exit(2)", None),
        ("init=lambda key, y: {}['q']", "init of model 'm' raised KeyError: 'q'", "y.json"),
        ("init=lambda key, y: {'nu': 1.0}", "init of model 'm': unknown site 'nu'", "y.json"),
        ("init=lambda key, y: [1.0]", "init of model 'm' returned list", "y.json"),
        ("init=lambda key, y: {'mu': ['a', 'b']}", "could not convert string", "y.json"),
        ("init=lambda key, y: {'mu': [np.nan, 0.0]}", "got NaN or infinity", "y.json"),
        ("init=lambda: {}", "init of model 'm' raised TypeError", "y.json"),
        ("coords=lambda y: {}['q']", "coords of model 'm' raised KeyError: 'q'", "y.json"),
        ("coords=[1]", "coords: got [1], expected a function or a mapping", "y.json"),
        ("coords=lambda y: 3", "coords of model 'm': got int, expected a mapping", "y.json"),
        ("coords={'mu_dim_0': ['a']}", "has 1 labels, but site 'mu' has size 2", "y.json"),
        ("options={'map': {'nosuch': 1}}", "unknown option of map 'nosuch'", "y.json"),
        ("options={'map': {'max_steps': 'many'}}", "max_steps: got 'many', expected", "y.json"),
        ("options=3", "options: got 3, expected a mapping", "y.json"),
        ("dims={'mu': 3}", "dims: got {'mu': 3}, expected a mapping", "y.json"),
        ("latents='mu'", "latents: got 'mu', expected a list of names", "y.json"),
        ("latents=('nu',)", "latents of model 'm': unknown site 'nu'", "y.json"),
        (
            "exchangeable=(vr.Exchangeable(sites={'nu': 0}),)",
            "exchangeable of model 'm': unknown site 'nu'",
            "y.json",
        ),
        (
            "exchangeable=(vr.Exchangeable(sites={'mu': 3}),)",
            "got axis 3 for site 'mu', which has the shape (2,)",
            "y.json",
        ),
        ("em=3", "EMSteps: got 3, expected EMSteps or None", "y.json"),
    ],
)
def test_what_a_model_brings_along_is_checked(fields, expected, data):
    message = compare(f"{VECTOR}\nMODEL = vr.Model(function=m, name='m', {fields})\n", data)
    assert expected in message


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def m(y:\n", "SyntaxError"),
        ("def m(y):\n\tx = 1\n        z = 2\n", "TabError"),
        ("import no_such_package\n", "No module named 'no_such_package' (m.py, line 4: import"),
        ("x = 3\n", "holds no vi_recipes.Model or public function"),
        ("sys.exit(1)\n", "raised SystemExit: it called sys.exit(1) (m.py, line 4"),
        ("def f():\n    f()\nf()\n", "raised RecursionError"),
        ("MODEL = vr.Model(function=3, name='m')\n", "function: got 3, expected a function"),
        ("MODEL = vr.Model(function=print)\n", "argument: 'name' (m.py, line 4: MODEL ="),
        ("MODEL = vr.Model(function=print, name=' ')\n", "name: got ' ', expected a short name"),
    ],
)
def test_a_file_that_holds_no_model(source, expected):
    assert expected in compare(source)


# -- data ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"y": [1.0, 1e400]}', "'y' has 1 NaN or infinite value(s) out of 2 (the first at"),
        ('{"y": 1e400}', "infinite"),
        ('{"y": [1.0, NaN]}', "'y' has 1 NaN"),
        (f'{{"y": [1.0, 1{"0" * 400}]}}', "where numbers are expected"),
        (f'{{"y": 1{"0" * 400}}}', "'y' is too large"),
        ('{"y": ["a", "b"]}', "e.g. 'a', where numbers are expected"),
        ('{"y": "abc"}', "raised"),
        ('{"y": [1.0, null]}', "where numbers are expected"),
        ('{"y": [[1.0], [1.0, 2.0]]}', "not a rectangular array"),
        ('{"y": []}', "is empty"),
        ("[1, 2]", "holds a JSON array; expected an object"),
        ('{"y": [1.0,', "not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_data_that_are_none(text, expected):
    Path("bad.json").write_text(text)
    assert expected in compare(BODY.format("pass"), "bad.json")


def test_damaged_archives_of_data():
    whole = gzip.compress(b"y\n" + os.urandom(2000).hex("\n").encode())
    for name, content in {
        "cut": whole[: len(whole) // 2],
        "changed": whole[:30] + b"xxxxxxxxxx" + whole[40:],
        "none": b"hello",
    }.items():
        Path(f"{name}.csv.gz").write_bytes(content)
        message = compare(BODY.format("pass"), f"{name}.csv.gz")
        assert f"{name}.csv.gz: " in message


def test_a_list_is_no_reference():
    Path("list.json").write_text("[1]")
    Path("m.py").write_text(HEAD + BODY.format("pass"))
    words = ("compare", "m.py", "--data", "y.json", "--methods", "map", "--reference", "list.json")
    assert "reference list.json: got a JSON list, expected an object" in refuse(*words)


# -- before the first fit --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ('meanfield.factors={"nu": "normal"}', "method 'meanfield': "),
        ('meanfield.expectations={"nu": "draws"}', "unknown site 'nu'"),
        ("nuts.noncentered=nu", "method 'nuts': noncentered: got 'nu'"),
        ("svi.batch_size=7", "method 'svi': batch_size: got 7, expected at most the 2 rows"),
        ("svi.checkpoint=no/such/folder/x", "method 'svi': checkpoint: got 'no/such/folder/x'"),
        ("svi.checkpoint=y.json", "method 'svi': checkpoint: 'y.json' is no checkpoint of SVI"),
        ('svi.guide={"nu": "normal"}', "method 'svi': guide: "),
    ],
)
def test_options_that_do_not_go_with_the_model_are_told_before_the_first_fit(
    setting, expected, monkeypatch
):
    monkeypatch.setattr(vr.MAP, "fit", lambda *_, **__: pytest.fail("fitted"))
    Path("m.py").write_text(HEAD + ROWS)
    label = setting.partition(".")[0]
    words = ("--data", "y.json", "--methods", f"map,{label}", "--set", setting, "--no-report")
    assert expected in refuse("compare", "m.py", *words)


# -- places ----------------------------------------------------------------------------------------

GRID = 'models = ["m.py"]\nmethods = ["laplace"]\nseeds = 2\ntruth = "prior"\n'
GO_ON = {
    "calibrate": ("m.py", "--data", "y.json", "--method", "laplace", "--simulations", "2"),
    "sweep": ("grid.toml",),
    "verify": ("--models", "bivariate_normal", "--methods", "laplace"),
}
"""Commands that go on from what their folder has, and words for few fits."""


@pytest.fixture
def few():
    Path("m.py").write_text(
        HEAD + ROWS + "MODEL = vr.Model(function=m, name='m', data=lambda: {'y': [1.0, 2.0]})\n"
    )
    Path("grid.toml").write_text(GRID)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("command", GO_ON)
def test_a_file_is_no_folder_for_a_report(command):
    Path("out").write_text("mine")
    said = refuse(command, *GO_ON[command], "--out", "out")
    assert said == "error: --out: cannot write to folder out (File exists); choose another"
    assert Path("out").read_text() == "mine"


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("command", GO_ON)
def test_a_report_that_finds_no_room_costs_nothing_else(command, monkeypatch):
    whole = kept_file.write_whole

    def full(path, *words, **settings):
        if Path(path).name in ("report.md", "verification.md"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return whole(path, *words, **settings)

    with monkeypatch.context() as patch:
        for module in ("core", "calibration.page", "sweeps.page"):
            patch.setattr(f"vi_recipes.{module}.write_whole", full)
        result = run(command, *GO_ON[command], "--out", "out")
    assert result.exit_code == 2, result.output
    said = "error: the report cannot be written (out: No space left on device); make room there"
    assert result.stderr.startswith(said)
    assert result.stderr.count("\n") == 1
    assert "laplace" in result.stdout  # what was found is on the screen
    assert "Report:" not in result.stdout
    again = run(command, *GO_ON[command], "--out", "out")
    assert again.exit_code == 0, again.output
    assert "Report: out/" in again.stdout


COMPARE = f"{PROGRAM} compare m.py --data y.json --methods map,laplace --out out"


def shell(command):
    Path("m.py").write_text(HEAD + BODY.format("pass"))
    # files that may not grow would be halves in the cache of compiled code that all tests share
    environment = {name: v for name, v in os.environ.items() if not name.startswith("JAX_")}
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, env=environment
    )


def is_whole(folder):
    names = {path.name for path in Path(folder).rglob("*")}
    assert {"report.html", "report.md", "result.json", "comparison.json", "map.nc"} <= names
    assert not [name for name in names if name.startswith(".")]
    return json.loads(Path(folder, "result.json").read_text())["methods"].keys() == {
        "map",
        "laplace",
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("streams", "code", "said"),
    [
        ("| head -1", 0, ""),
        ("| true", 0, ""),
        (
            "> /dev/full",
            2,
            "error: standard output cannot be written (No space left on device); "
            "Report: out/report.html",
        ),
        ("2>&-", 0, ""),
        (">&-", 0, ""),
        ("<&- >&- 2>&-", 0, ""),
        ("--json /dev/full", 2, "error: --json: cannot write /dev/full (No space left on device)"),
    ],
)
def test_streams_that_take_nothing_leave_the_report(streams, code, said):
    done = shell(f"{COMPARE} {streams}")
    assert done.returncode == code
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == bool(said)
    assert is_whole("out")


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [1, 64, 300])
def test_files_that_may_not_grow_leave_no_half(blocks):
    done = shell(f"ulimit -f {blocks}; {COMPARE}")
    assert done.returncode == 2
    assert "cannot write" in done.stderr.splitlines()[-1]
    assert "File too large" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert "| mu" in done.stdout  # what was found is on the screen
    assert not list(Path("out").rglob(".*"))
