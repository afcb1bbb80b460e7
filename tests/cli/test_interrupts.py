"""Ctrl-C and what else asks a command to end, from its first moment to its last."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import vi_recipes as vr
from vi_recipes.cli import interrupts
from vi_recipes.cli.commands import app
from vi_recipes.core import Status

MODEL = """
import numpyro, numpyro.distributions as dist
def model(y=2.0):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(a, 1.0), obs=y)
"""


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m.py").write_text(MODEL)


AS_IN_A_TERMINAL = """
import signal
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
"""
"""What runs these tests may ignore some, as nohup does, and programs that it begins with it."""


def program(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program with no cache of compiled code; its words are those of a command."""
    code = AS_IN_A_TERMINAL + code
    return subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )


AT_IMPORT = """
import os, signal, sys
class Finder:
    def find_spec(self, name, *_):
        if name == {name!r}:
            os.kill(os.getpid(), signal.{asked})
sys.meta_path.insert(0, Finder())
from vi_recipes.cli import main
main()
"""


@pytest.mark.parametrize("name", ["vi_recipes.cli.commands", "typer", "numpyro"])
@pytest.mark.parametrize(
    ("asked", "code", "word"),
    [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "interrupted by SIGTERM")],
)
def test_imports_end_with_a_word(name: str, asked: str, code: int, word: str) -> None:
    words = ("compare", "m.py", "--methods", "map", "--no-cache")
    done = program(AT_IMPORT.format(name=name, asked=asked), *words)
    assert (done.returncode, done.stdout, done.stderr) == (code, "", f"{word}\n")
    assert not Path("model-report").exists()


TWICE = """
import os, signal, sys
from vi_recipes.cli import interrupts
interrupts.hear()
try:
    os.kill(os.getpid(), signal.{first})
    print("missed")
except KeyboardInterrupt:
    os.kill(os.getpid(), signal.SIGTERM)  # as timeout does
    print("kept")
sys.exit(interrupts.exit_code())
"""


@pytest.mark.parametrize(("first", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_what_is_asked_twice_at_once_is_one_wish(first: str, code: int) -> None:
    done = program(TWICE.format(first=first))
    assert (done.returncode, done.stdout, done.stderr) == (code, "kept\n", "")


IGNORED = """
import os, signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from vi_recipes.cli import interrupts
interrupts.hear()
os.kill(os.getpid(), signal.SIGHUP)
interrupts.end_at_once()
os.kill(os.getpid(), signal.SIGHUP)
print("goes on")
os.kill(os.getpid(), signal.SIGINT)
print("goes on")
"""


def test_what_was_ignored_stays_so_and_nothing_is_said_at_the_end() -> None:
    done = program(IGNORED)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
    assert "goes on\n".startswith(done.stdout)  # what was printed last is in a buffer


@pytest.mark.slow
def test_an_interrupt_that_falls_on_a_garbage_collection_is_not_lost() -> None:
    interrupts._send_again(SimpleNamespace(exc_type=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        nap(100)


def nap(times: int) -> None:
    """Sleep a while and again: an interrupt that is sent again ends no sleep, and comes after."""
    for _ in range(times):
        time.sleep(0.1)


def stop(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


COMPARE = ("compare", "m.py", "--methods", "map,laplace", "--out", "out")


def test_a_report_that_is_cut_off_is_written_from_the_fits_that_are_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(vr.Comparison, "save", stop)
        done = CliRunner().invoke(app, list(COMPARE))
    assert done.exit_code == 130
    said = "interrupted; out has the fits, and 'vi-recipes report out' writes the report\n"
    assert done.stderr == said
    assert not Path("out/report.html").exists()
    assert CliRunner().invoke(app, ["report", "out"]).exit_code == 0
    assert Path("out/report.html").exists()


def test_nothing_done_is_reported_where_nothing_was_there_and_leaves_what_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none(*_: object, **__: object) -> None:
        raise vr.MethodFailure(Status.SINGULAR, "no mode", "")

    with monkeypatch.context() as patch:
        patch.setattr(vr.MAP, "_fit", none)
        patch.setattr(vr.Laplace, "_fit", stop)
        first = CliRunner().invoke(app, list(COMPARE))
        assert first.exit_code == 130
        assert "Report: out/report.html" in first.stdout
        assert "no mode" in Path("out/report.md").read_text()
    assert CliRunner().invoke(app, list(COMPARE)).exit_code == 0
    whole = Path("out/result.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(vr.MAP, "_fit", stop)
        again = CliRunner().invoke(app, list(COMPARE))
    assert again.exit_code == 130
    assert "out is as it was: nothing was done that could take its place" in again.stdout
    assert Path("out/result.json").read_bytes() == whole


def test_an_import_is_whole_before_an_interrupt_is_raised(tmp_path: Path) -> None:
    """Half a module would be left, and Python's lock of imports, for which other threads wait."""
    (tmp_path / "begun.py").write_text(
        "import signal, time\nsignal.raise_signal(signal.SIGINT)\ntime.sleep(0.01)\nwhole = True\n"
    )
    program = (
        "import sys, time\nfrom vi_recipes.cli import interrupts\ninterrupts.hear()\n"
        "try:\n    import begun\n    time.sleep(90)\n"
        "except KeyboardInterrupt:\n    print(sys.modules['begun'].whole)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "True\n", done.stderr
