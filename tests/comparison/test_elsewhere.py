"""Comparisons whose methods others fit: sent and brought back here, then in real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import BrokenExecutor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, override

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from executors_for_tests import Here, cell_of
from interrupts_for_tests import InterruptAt
from typer.testing import CliRunner

import vi_recipes as vr
from vi_recipes.cells import Place, most_at_once, unfold
from vi_recipes.cells.processes import LostError
from vi_recipes.cli.commands import app
from vi_recipes.cli.output import output_folder
from vi_recipes.comparison import overview, tables
from vi_recipes.comparison.elsewhere import CompareArguments
from vi_recipes.comparison.notes import Note, NoteKind, of_kind
from vi_recipes.core import CheckpointError, Progress, Timing, held
from vi_recipes.methods.base import Method, Result
from vi_recipes.model import Target
from vi_recipes.posterior import PointPosterior, ResponsePosterior

ROWS = 4


def normal(y: jax.Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(mu, sigma), obs=y)


MODEL = vr.Model(function=normal, name="normal", data=lambda: {"y": np.arange(float(ROWS))})
METHODS = {
    "lrvb": vr.LinearResponse(),
    "nested": vr.NestedQuadrature(tolerance=0.05),
}


@dataclass(frozen=True, kw_only=True)
class Deadly(Method):
    """Kills the process that it runs in."""

    key = "deadly"
    summary = "none"

    @override
    def _fit(self, target: Target, key: jax.Array, timing: Timing, progress: Progress) -> Result:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


@dataclass(frozen=True, kw_only=True)
class Patient(Method):
    """Gives what it has when it is interrupted."""

    key = "patient"
    summary = "none"

    @override
    def _fit(self, target: Target, key: jax.Array, timing: Timing, progress: Progress) -> Result:
        try:
            progress(1, 1)
        except KeyboardInterrupt:
            point = {"mu": np.asarray(1.0), "sigma": np.asarray(2.0)}
            return Result(PointPosterior(point), vr.Status.INTERRUPTED, "half of it")
        raise AssertionError


class Backwards(Here):
    """Gives what was asked for first last."""

    def __init__(self) -> None:
        super().__init__()
        self._given: list[tuple[Future[Any], Any, Any]] = []

    @override
    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._given.append((future, args, kwargs))
        if len(self._given) == len(METHODS):
            for late, theirs, named in reversed(self._given):
                late.set_result(super().submit(function, *theirs, **named).result())
        return future


@pytest.fixture(scope="module")
def here() -> vr.Comparison:
    return vr.compare(MODEL, METHODS)


# -- sent and done in one process ------------------------------------------------------------------


def check_equal(there: vr.Comparison, here: vr.Comparison) -> None:
    assert list(there) == list(here)
    for frame in ("means", "sds", "mcses", "accuracy", "diagnostics"):
        pd.testing.assert_frame_equal(getattr(there, frame)(), getattr(here, frame)())
    assert there.verdict_of == here.verdict_of
    assert there.found.theta_weights == here.found.theta_weights
    assert [fit.provenance for fit in there.values()] == [f.provenance for f in here.values()]
    for name, fit in there.items():
        if fit.has_result:
            np.testing.assert_array_equal(fit.cov(), here[name].cov())
        assert type(fit.posterior) is type(here[name].posterior)


def test_a_comparison_is_the_same_whoever_fits(here: vr.Comparison, tmp_path: Path) -> None:
    executor = Backwards()
    there = vr.compare(MODEL, METHODS, path=tmp_path, executor=executor, exclusive=False)
    assert executor.cells == list(METHODS)[::-1]
    check_equal(there, here)
    assert here.found.theta_weights  # by the law of a nested fit, which its numbers alone lack
    # what was not computed where it was fitted is computed from the law here
    for c in (there, here):
        assert isinstance(c["lrvb"].posterior, ResponsePosterior)
    of = {"cv": lambda mu, sigma: sigma / mu}
    pd.testing.assert_frame_equal(vr.derive(there, **of).means(), vr.derive(here, **of).means())
    loaded = vr.Comparison.load(tmp_path)
    pd.testing.assert_frame_equal(loaded.means(), here.means())
    executor = Here()
    again = vr.compare(MODEL, METHODS, path=tmp_path, executor=executor)
    assert not executor.cells
    pd.testing.assert_frame_equal(again.means(), here.means())
    (told,) = of_kind(again.notes, NoteKind.BY_WORKERS)
    assert told in there.notes  # the seconds are still those


def test_what_was_compiled_stays_where_it_was() -> None:
    c = vr.compare(MODEL, "lrvb", executor=Here(), assessed=False)
    with pytest.raises(ValueError, match=r"or that a worker made, has its numbers only"):
        vr.data_sensitivity(c["lrvb"], "y")


def test_seconds_say_who_else_was_on_the_machine() -> None:
    places = [Place("a", 1, 0.0, 2.0), Place("a", 2, 1.0, 3.0), Place("a", 1, 2.0, 4.0)]
    places += [Place("b", 9, 0.0, 1.0), Place("b", 9, 1.0, 2.0), Place("", 0), Place("c", 1)]
    assert most_at_once(places) == {"a": 2, "b": 1}
    c = vr.compare(MODEL, "map", executor=Here(), assessed=False)
    (told,) = of_kind(c.notes, NoteKind.BY_WORKERS)
    assert told.startswith("Fitted by workers: map on ")
    assert "one at a time" in told
    assert not of_kind(c.notes, NoteKind.SIDE_BY_SIDE)
    shared = Note(told.replace("one at a time", "up to 2 at once"), NoteKind.SIDE_BY_SIDE)
    aside = vr.Comparison(c.fits, target_name="normal", notes=[shared])
    assert "side by side" in overview.methods(aside).note
    assert "up to 2 at once" in tables.timings(aside).note
    assert "side by side" not in overview.methods(c).note


def test_a_method_that_cannot_be_sent_is_named_before_any_is_fitted() -> None:
    def guide(y: jax.Array) -> None:
        numpyro.sample("mu", dist.Normal(0.0, 1.0))
        numpyro.sample("sigma", dist.HalfNormal(1.0))

    executor = Here()
    named = {"map": vr.MAP(), "mine": vr.SVI(guide=guide)}
    with pytest.raises(ValueError, match=r"^executor: method 'mine' cannot be sent .*<locals>"):
        vr.compare(MODEL, named, executor=executor)
    assert not executor.cells


def test_an_error_is_a_row_and_the_others_stand() -> None:
    c = vr.compare(MODEL, [vr.MAP(), vr.CAVI(), Deadly()], executor=Dying(), assessed=False)
    assert [fit.status.name for fit in c.values()] == ["OK", "NOT_APPLICABLE", "FAILED"]
    assert "the process that was at it died, 3 times" in c["deadly"].message
    assert c["deadly"].provenance.seed == 0


class Dying(Here):
    """Whose processes die of one method."""

    @override
    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        if cell_of(*args, **kwargs) == "deadly":
            future: Future[Any] = Future()
            future.set_exception(LostError())
            return future
        return super().submit(function, *args, **kwargs)


class Breaking(Here):
    """Breaks down, or is interrupted, after one method."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    @override
    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self.cells:
            raise self.error
        return super().submit(function, *args, **kwargs)


def test_what_is_done_is_kept_where_an_executor_breaks_down(tmp_path: Path) -> None:
    vr.compare(MODEL, "cavi", path=tmp_path)  # what is there already has to make room
    given: dict[str, Any] = {"methods": "map,laplace", "path": tmp_path, "assessed": False}
    with pytest.raises(ValueError, match=r"it takes no more .* another run goes on from there"):
        vr.compare(MODEL, executor=Breaking(BrokenExecutor("broken")), resume=False, **given)
    assert list(vr.Comparison.load(tmp_path)) == ["map"]
    executor = Here()
    whole = vr.compare(MODEL, executor=executor, **given)
    assert executor.cells == ["laplace"]
    assert list(whole) == ["map", "laplace"]


def test_an_interrupt_keeps_the_methods_that_are_done(tmp_path: Path) -> None:
    c = vr.compare(
        MODEL, "map,laplace", path=tmp_path, executor=Breaking(KeyboardInterrupt()), assessed=False
    )
    assert c.interrupted
    assert "Not begun, or not done, when the run was interrupted: laplace." in c.remarks
    assert list(vr.Comparison.load(tmp_path)) == ["map"]


def test_an_interrupt_before_the_first_fit_is_no_comparison(tmp_path: Path) -> None:
    """It took the place of the one that was there, and could not be taken up."""

    class Stopped(Here):
        @override
        def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            raise KeyboardInterrupt

    given: dict[str, Any] = {"methods": "map", "path": tmp_path, "assessed": False}
    with pytest.raises(KeyboardInterrupt):
        vr.compare(MODEL, executor=Stopped(), **given)
    assert not list(tmp_path.iterdir())
    vr.compare(MODEL, "cavi", path=tmp_path, assessed=False)
    with pytest.raises(KeyboardInterrupt):
        vr.compare(MODEL, executor=Stopped(), resume=False, **given)
    assert list(vr.Comparison.load(tmp_path)) == ["cavi"]
    assert list(vr.compare(MODEL, executor=Stopped(), **given)) == ["cavi"]  # taken up
    assert list(vr.compare(MODEL, **given)) == ["cavi", "map"]


def test_an_interrupted_fit_comes_back_with_what_it_has() -> None:
    target = vr.Target(MODEL)
    made = CompareArguments(target, {"mine": Patient()}, 0, assessed=True)("mine", InterruptAt(0.5))
    assert made.interrupted
    fit = unfold(made.content, target)
    assert fit.status is vr.Status.INTERRUPTED
    assert fit.mean() == {"mu": 1.0, "sigma": 2.0}


def test_a_folder_has_one_comparison_at_a_time(tmp_path: Path) -> None:
    with held(tmp_path, "comparison.json"):
        with pytest.raises(CheckpointError, match="another run is writing to"):
            vr.compare(MODEL, "map", path=tmp_path, assessed=False)
        assert [path.name for path in tmp_path.iterdir()] == [".running"]
    vr.compare(MODEL, "map", path=tmp_path, assessed=False)
    assert not (tmp_path / ".running").exists()


def test_a_folder_made_for_nothing_goes_again(tmp_path: Path) -> None:
    made = tmp_path / "made"
    with pytest.raises(BrokenExecutor), output_folder(made), held(made, "comparison.json"):
        raise BrokenExecutor
    assert not made.exists()


def test_side_by_side_needs_workers() -> None:
    for command in (["compare", "radon"], ["run", "radon"]):
        done = CliRunner().invoke(app, [*command, "--side-by-side"], prog_name="vi-recipes")
        assert done.exit_code == 2
        assert "--side-by-side: it needs --workers, from 2, or --scheduler" in done.stderr


# -- real engines ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_processes_side_by_side_give_the_numbers_of_one() -> None:
    model = vr.load_model("eight_schools")
    methods = "map,meanfield,lrvb,marginal_mle,nested"
    here = vr.compare(model, methods)
    there = vr.compare(model, methods, executor=2, exclusive=False)
    check_equal(there, here)
    (told,) = [note for note in there.notes if note.startswith("Fitted by workers")]
    assert "up to 2 at once" in told


@pytest.mark.slow
def test_a_method_that_kills_its_process_costs_itself() -> None:
    c = vr.compare(MODEL, [Deadly(), vr.MAP()], executor=1, assessed=False)
    assert [fit.status.name for fit in c.values()] == ["FAILED", "OK"]
    assert "the process that was at it died, 3 times" in c["deadly"].message


@pytest.mark.slow
def test_the_command_line_has_workers(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import numpyro, numpyro.distributions as dist\n\n"
        "def mine(y):\n"
        "    mu = numpyro.sample('mu', dist.Normal(0.0, 2.0))\n"
        "    with numpyro.plate('row', len(y)):\n"
        "        numpyro.sample('y', dist.Normal(mu, 1.5), obs=y)\n"
    )
    (tmp_path / "y.json").write_text('{"y": [1.0, 2.0, 0.5, 1.0]}')
    program = "from vi_recipes.cli import main; main()"
    command = [sys.executable, "-c", program, "compare", "mine.py", "--data", "y.json"]
    command += ["--methods", "map,laplace", "--workers", "2", "--all"]
    for more, said, told in (
        ([], "one at a time", "fitted one at a time, by one process"),
        (["--side-by-side"], "Fitted by workers", ""),
    ):
        done = subprocess.run(
            [*command, *more], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True
        )
        assert said in " ".join(done.stdout.split())
        assert told in " ".join(done.stderr.split())
