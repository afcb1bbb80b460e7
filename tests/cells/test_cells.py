"""Cells in this process, sent as they are to others; then in real engines, with killed workers."""

from __future__ import annotations

import errno
import functools
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from executors_for_tests import Here, cell_of
from strikes_for_tests import is_struck

import vi_recipes as vr
from vi_recipes.calibration.job import Ranking
from vi_recipes.calibration.ranks import choose
from vi_recipes.calibration.simulate import PriorPredictive
from vi_recipes.cells import (
    NotSentError,
    Place,
    cluster,
    engine,
    most_at_once,
    pack,
    run_cells,
    sending,
    worker,
)
from vi_recipes.cells.sending import unpack
from vi_recipes.core import CheckpointError, ModelError, Progress, held, import_file, silent


def normal(y: jax.Array) -> None:
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


MODEL = vr.Model(
    function=normal,
    name="normal",
    data=lambda: {"y": np.arange(3.0)},
    coords=lambda y: {"row": np.arange(len(y))},
)


@dataclass(frozen=True)
class Squares:
    """Squares numbers; on the way it does what the test wants of a number."""

    folder: str
    deadly: tuple[int, ...] = ()
    deaths: int = 1
    seconds: float = 0.0

    label = "squares"
    shares_code = True

    def __call__(self, cell: int, progress: Progress = silent) -> float:
        # every attempt is a file, so that who ran what can be counted from outside
        name = f"{cell}-{os.getpid()}-{time.monotonic_ns()}"
        (Path(self.folder) / name).write_text("", encoding="utf-8")
        time.sleep(self.seconds)
        tries = len(list(Path(self.folder).glob(f"{cell}-*")))
        if cell in self.deadly and tries <= self.deaths:
            os.kill(os.getpid(), signal.SIGKILL)
        if cell < 0:
            raise ModelError(f"{cell} is below 0")
        return float(jnp.asarray(cell) ** 2 + 1e-12)  # lost in single precision

    def lost(self, cell: int, why: str) -> float:
        return float("nan")


@dataclass(frozen=True)
class Threads:
    """Counts the threads that XLA computes with."""

    label = "threads"
    shares_code = True

    def __call__(self, cell: int, progress: Progress = silent) -> float:
        jnp.ones(3).sum().block_until_ready()
        names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
        return float(names.count("tf_XLAEigen"))

    def lost(self, cell: int, why: str) -> float:
        return float("nan")


@dataclass(frozen=True)
class Garbage:
    """Returns the number of objects after which garbage is looked for."""

    label = "garbage"
    shares_code = True

    def __call__(self, cell: int, progress: Progress = silent) -> float:
        return float(gc.get_threshold()[0])

    def lost(self, cell: int, why: str) -> float:
        return float("nan")


def attempts(folder: Path) -> dict[int, int]:
    """Return how often each cell was begun."""
    cells = [int(path.name.rpartition("-")[0].rpartition("-")[0]) for path in folder.iterdir()]
    return {cell: cells.count(cell) for cell in cells}


class Kept(dict[int, float]):
    """What was kept, and how often."""

    def __init__(self) -> None:
        self.order: list[int] = []
        self.places: list[Place] = []

    def keep(self, cell: int, result: float, place: Place) -> None:
        self[cell] = result
        self.order.append(cell)
        self.places.append(place)


SQUARES = {cell: cell**2 + 1e-12 for cell in range(6)}


# -- sent and done in one process ------------------------------------------------------------------


def test_a_sent_job_ranks_as_the_job_itself_does() -> None:
    predictive = PriorPredictive(vr.Target(MODEL))
    job = Ranking(predictive, vr.Laplace(), choose(predictive, None), 19, jax.random.key(3))
    there = unpack(pack(job).content)
    # the model is that of the module: what it cannot send, a lambda, is there again
    assert there.predictive.target.complete_model.coords is MODEL.coords
    np.testing.assert_array_equal(there(2).ranks, job(2).ranks)


def test_cells_give_the_same_numbers_however_they_run(tmp_path: Path) -> None:
    given = {"num_simulations": 4, "num_draws": 19, "key": 3}
    here = vr.calibrate(MODEL, vr.Laplace(), **given)
    executor = Here()
    part = vr.calibrate(
        MODEL, vr.Laplace(), path=tmp_path, executor=executor, **{**given, "num_simulations": 2}
    )
    np.testing.assert_array_equal(part.ranks, here.ranks[:2])
    whole = vr.calibrate(MODEL, vr.Laplace(), path=tmp_path, executor=executor, **given)
    np.testing.assert_array_equal(whole.ranks, here.ranks)
    assert executor.cells == [0, 1, 2, 3]  # none of the first two again


def test_a_users_file_is_sent_with_what_it_imports_from_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "beside.py").write_text("from beside_too import SCALE\n", encoding="utf-8")
    (tmp_path / "beside_too.py").write_text("SCALE = 3.0\n", encoding="utf-8")
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpyro, numpyro.distributions as dist\n"
        "from .beside import SCALE\n"
        "def mine(y):\n"
        "    mu = numpyro.sample('mu', dist.Normal(0.0, SCALE))\n"
        "    numpyro.sample('y', dist.Normal(mu, 1.0), obs=y)\n",
        encoding="utf-8",
    )
    target = vr.Target(vr.load_model(file), y=1.0)
    packed = pack(target)
    known = target.log_density(np.array([0.7]))
    # on a machine that has none of the files, nor has loaded them
    for name in [n for n in sys.modules if "mine" in n or n.startswith("beside")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sending, "_loaded", {})
    for path in tmp_path.glob("*.py"):
        path.unlink()
    assert unpack(packed.content).log_density(np.array([0.7])) == known


def test_a_file_that_was_changed_is_loaded_anew_where_it_was_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "_loaded", {})
    file, found = tmp_path / "changing.py", []
    for value in (1, 2):
        file.write_text(f"def value():\n    return {value}\n", encoding="utf-8")
        module = import_file(file)
        packed = pack(module.value)
        del sys.modules[module.__name__]  # the worker's own is what unpacking leaves
        found.append(unpack(packed.content)())
    assert found == [1, 2]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_minibatches_of_files_are_sent_by_path(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame, folder = pd.DataFrame({"y": np.arange(6.0)}), tmp_path / "rows"
    folder.mkdir()
    write = {"csv": lambda path: frame.to_csv(path, index=False), "parquet": frame.to_parquet}
    write[kind](folder / f"0.{kind}")
    monkeypatch.chdir(tmp_path)
    make = vr.batches_from_csv if kind == "csv" else vr.batches_from_parquet
    packed = pack(vr.SVI(batches=make("rows", batch_size=2)))
    monkeypatch.chdir(tmp_path.parent)  # as workers may have begun there
    rows = unpack(packed.content).batches
    np.testing.assert_array_equal(rows.head(6)["y"], frame["y"])


def test_what_has_no_name_is_not_sent() -> None:
    def local(y: float) -> None:
        numpyro.sample("y", dist.Normal(numpyro.sample("mu", dist.Normal()), 1.0), obs=y)

    for thing in (vr.Target(local, y=1.0), lambda: None):
        with pytest.raises(NotSentError, match="define it at the top of a file"):
            pack(thing)
    with Path(__file__).open() as file, pytest.raises(NotSentError, match="TextIOWrapper"):
        pack(file)


def twice(function: Any) -> Any:
    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        numpyro.sample("other", dist.Normal(0.0, 1.0))
        return function(*args, **kwargs)

    return wrapped


with_other = twice(normal)  # which calls itself 'normal', and is another model


def test_a_function_is_not_taken_for_the_one_whose_name_it_has_from_a_decorator() -> None:
    there = unpack(pack(vr.Target(with_other, y=np.arange(3.0))).content)
    assert [site.name for site in there.latents] == ["other", "mu"]
    for made in (
        vr.Target(twice(normal), y=np.arange(3.0)),
        # nor a model for the one in the file that it is made of
        vr.Target(replace(MODEL, function=twice(normal), coords={})),
    ):
        with pytest.raises(NotSentError, match="'normal' is not what its file has by that name"):
            pack(made)


def test_what_two_loadings_made_of_one_file_is_sent_as_one(tmp_path: Path) -> None:
    file = tmp_path / "loaded.py"
    file.write_text(
        "import numpyro, numpyro.distributions as dist\n"
        "def by(scale):\n"
        "    def put(function):\n"
        "        def wrapped(y):\n"
        "            function(y, scale)\n"
        "        wrapped.__qualname__ = function.__qualname__\n"
        "        return wrapped\n"
        "    return put\n"
        "@by(2.0)\n"
        "def loaded(y, scale):\n"
        "    mu = numpyro.sample('mu', dist.Normal(0.0, scale))\n"
        "    numpyro.sample('y', dist.Normal(mu, 1.0), obs=y)\n",
        encoding="utf-8",
    )
    module = import_file(file)
    first = vr.Target(module.loaded, y=1.0)
    import_file(file)
    there = unpack(pack(first).content)
    assert there.log_density(np.array([0.7])) == first.log_density(np.array([0.7]))
    file.write_text(file.read_text().replace("2.0", "3.0"), encoding="utf-8")
    import_file(file)
    with pytest.raises(NotSentError, match="or the file was changed since"):
        pack(first)


def test_what_a_notebook_defines_is_to_be_put_into_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__file__", None, raising=False)
    monkeypatch.setattr(normal, "__module__", "__main__")
    with pytest.raises(NotSentError, match=r"has no file; put the model .* into one"):
        pack(vr.Target(normal, y=np.arange(3.0)))


def test_other_versions_are_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = pack(Squares(str(tmp_path)))
    other = replace(packed, versions={**packed.versions, "jax": "0.1"})
    reply = worker.do(other, 1)
    assert reply.versions is not None
    assert reply.versions["jax"] == jax.__version__
    assert not attempts(tmp_path)
    monkeypatch.setattr("vi_recipes.cells.run.pack", lambda _: other)
    with pytest.raises(ValueError, match=rf"have jax {jax.__version__} \(here 0.1\), and numbers"):
        run_cells(Squares(str(tmp_path)), [1], Kept().keep, Here())


def test_an_error_of_a_model_is_its_own_sentence(tmp_path: Path) -> None:
    for executor in (None, Here()):
        with pytest.raises(ModelError, match=r"^-1 is below 0$"):
            run_cells(Squares(str(tmp_path)), [-1], Kept().keep, executor)


def test_precision_is_double_where_cells_run(tmp_path: Path) -> None:
    kept = Kept()
    with jax.enable_x64(False):
        run_cells(Squares(str(tmp_path)), range(6), kept.keep, Here())
    assert kept == SQUARES


def test_an_interrupt_keeps_what_is_done_and_cancels_the_rest(tmp_path: Path) -> None:
    class Interrupted(Here):
        def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
            future = super().submit(*args, **kwargs) if len(self.cells) < 2 else Future()
            if future not in futures:
                futures.append(future)
            if len(futures) == 4:
                raise KeyboardInterrupt
            return future

    futures: list[Future[Any]] = []
    kept = Kept()
    with pytest.raises(KeyboardInterrupt):
        run_cells(Squares(str(tmp_path)), range(6), kept.keep, Interrupted())
    assert kept == {0: SQUARES[0], 1: SQUARES[1]}
    assert futures[2].cancelled()


def test_an_interrupt_leaves_no_lock_taken_wherever_it_strikes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread of the executor, as Dask's loop, would wait for it and never end."""
    packed = pack(Squares(str(tmp_path)))
    monkeypatch.setattr("vi_recipes.cells.run.pack", lambda _: packed)
    monkeypatch.setattr("vi_recipes.cells.run.PAUSE", 1e-3)

    class Never(Here):
        def submit(self, *_: Any, **__: Any) -> Future[Any]:
            futures.append(Future())
            return futures[-1]

    def run() -> None:
        futures.clear()
        run_cells(Squares(str(tmp_path)), range(4), Kept().keep, Never())

    futures: list[Future[Any]] = []
    for at in range(100):
        assert is_struck(run, at, lambda: futures)
        other = threading.Thread(target=lambda: [f.cancel() for f in futures], daemon=True)
        other.start()
        other.join(5)
        assert not other.is_alive()


def test_no_room_for_a_thread_is_raised_and_not_waited_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("vi_recipes.core.beside._thread.start_new_thread", full)
    with pytest.raises(RuntimeError, match="new thread"):
        run_cells(Squares(str(tmp_path)), range(2), Kept().keep, Here())


def test_cells_that_an_executor_cancels_are_not_taken_for_failed(tmp_path: Path) -> None:
    class Cancels(Here):
        def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
            cell = cell_of(*args[1:], **kwargs)
            if cell == 1:
                self.cells.append(cell)
                future: Future[Any] = Future()
                future.cancel()
                future.set_running_or_notify_cancel()
                return future
            return super().submit(*args, **kwargs)

    kept, executor = Kept(), Cancels()
    with pytest.raises(ValueError, match=r"cancels what it is given \(3 times\); what is done"):
        run_cells(Squares(str(tmp_path)), range(3), kept.keep, executor)
    assert kept == {0: SQUARES[0], 2: SQUARES[2]}
    assert executor.cells.count(1) == 3


def test_a_disk_that_is_full_leaves_no_cells_running(tmp_path: Path) -> None:
    class Holds(Here):
        def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
            held.append(super().submit(*args, **kwargs) if len(held) < 2 else Future())
            return held[-1]

    def full(*_: Any) -> None:
        while len(held) < 6:
            time.sleep(0.01)
        raise CheckpointError("no space left")

    held: list[Future[Any]] = []
    with pytest.raises(CheckpointError, match="no space left"):
        run_cells(Squares(str(tmp_path)), range(6), full, Holds())
    assert [future.cancelled() for future in held] == [False] * 2 + [True] * 4


def test_what_was_on_its_way_is_not_waited_for_where_nothing_is_taken_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Dask's executor does when its client has closed."""
    monkeypatch.setattr("vi_recipes.cells.run.SILENCE", 0.1)

    class Gone(Here):
        def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
            self.cells.append(args)
            if len(self.cells) > 2:
                raise RuntimeError("closed")
            return Future()

    with pytest.raises(ValueError, match="it has lost its scheduler; what is done is kept"):
        run_cells(Squares(str(tmp_path)), range(2), Kept().keep, Gone())


def test_a_folder_has_one_run_at_a_time_and_a_crash_frees_it(tmp_path: Path) -> None:
    mark = "calibration.npz"
    holds = "import sys, time; from vi_recipes.core import held\n"
    holds += f"with held({str(tmp_path)!r}, {mark!r}):\n"
    holds += "    print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", holds], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with (
            pytest.raises(CheckpointError, match="another run is writing to"),
            held(tmp_path, mark),
        ):
            pass
        other.kill()
    with held(tmp_path, mark), held(None, mark):
        pass
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(CheckpointError, match="it holds a sweep"), held(tmp_path, mark):
        pass


def test_a_folder_has_one_run_at_a_time_on_a_disk_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As folders of a network are whose server has no lock daemon."""
    fcntl = pytest.importorskip("fcntl")

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    mark, place = "calibration.npz", tmp_path / ".running-by"

    def refused() -> str:
        with pytest.raises(CheckpointError) as caught, held(tmp_path, mark):
            pass
        return str(caught.value)

    with held(tmp_path, mark):
        by = f"(process {os.getpid()} on {socket.gethostname()}; if it is gone, delete {place})"
        assert f"another run is writing to '{tmp_path}' {by}; wait" in refused()
    assert not list(tmp_path.iterdir())
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    place.write_text(f"{gone.pid}\nsome.other.host\n")  # whether that runs, nobody here knows
    assert f"(process {gone.pid} on some.other.host; if it is gone, delete {place})" in refused()
    place.write_text(f"{gone.pid}\n{socket.gethostname()}\n")
    with held(tmp_path, mark):
        pass


@pytest.mark.parametrize("executor", [0, -1, True, "dask"])
def test_what_is_no_executor_is_refused(executor: Any) -> None:
    with (
        pytest.raises(ValueError, match=r"executor: got .*, expected a concurrent"),
        engine(executor),
    ):
        pass


def test_more_processes_than_the_memory_has_room_for_are_refused() -> None:
    if not hasattr(os, "sysconf"):
        pytest.skip("this system does not say how much memory it has")
    with pytest.raises(ValueError, match=r"got 99999 processes, .* this machine has \d+ GB; exp"):
        run_cells(Squares(""), range(2), Kept().keep, 99_999)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_a_pool_of_forks_is_refused_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        ProcessPoolExecutor(2, get_context("fork")) as pool,
        pytest.raises(ValueError, match=r"are forks of one that has JAX loaded.*'spawn'"),
    ):
        run_cells(Squares(str(tmp_path)), range(3), Kept().keep, pool)
    # nor is one of a library that hides how its processes begin
    monkeypatch.setattr(worker, "LOADED_BY", os.getpid() + 1)
    with pytest.raises(ValueError, match="are forks of one that has JAX loaded"):
        run_cells(Squares(str(tmp_path)), range(3), Kept().keep, Here())
    assert not attempts(tmp_path)


def test_a_scheduler_that_is_not_there_is_told_of() -> None:
    pytest.importorskip("distributed")
    with (
        pytest.raises(
            ValueError, match=r"scheduler: no scheduler of Dask's answers at 'nonsense://x'"
        ),
        cluster("nonsense://x"),
    ):
        pass


# -- real engines ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_process_costs_the_cell_that_it_was_at(tmp_path: Path) -> None:
    kept = Kept()
    run_cells(Squares(str(tmp_path), deadly=(2,), deaths=2), range(6), kept.keep, 2)
    assert kept == SQUARES
    assert attempts(tmp_path) == {**dict.fromkeys(range(6), 1), 2: 3}
    assert sorted(kept.order) == list(range(6))
    assert len({place.process for place in kept.places}) > 1


@pytest.mark.slow
def test_exclusive_cells_run_one_at_a_time_in_one_process(tmp_path: Path) -> None:
    job = Squares(str(tmp_path), seconds=0.5)
    alone = Kept()
    run_cells(job, range(3), alone.keep, 2, exclusive=True)
    assert len({place.process for place in alone.places}) == 1
    assert set(most_at_once(alone.places).values()) == {1}
    assert all(place.ended - place.began > 0.45 for place in alone.places)
    with ProcessPoolExecutor(2, get_context("spawn")) as executor:
        run_cells(job, range(3), Kept().keep, executor)  # both have begun
        beside, alone = Kept(), Kept()
        run_cells(job, range(4), beside.keep, executor)
        assert set(most_at_once(beside.places).values()) == {2}
        run_cells(job, range(4), alone.keep, executor, exclusive=True)
        assert set(most_at_once(alone.places).values()) == {1}


@pytest.mark.slow
def test_a_cell_that_kills_every_process_is_a_row_that_says_so(tmp_path: Path) -> None:
    kept = Kept()
    run_cells(Squares(str(tmp_path), deadly=(1,), deaths=9), range(3), kept.keep, 1)
    assert np.isnan(kept.pop(1))
    assert kept == {0: SQUARES[0], 2: SQUARES[2]}
    assert attempts(tmp_path) == {0: 1, 1: 3, 2: 1}


@pytest.mark.slow
def test_a_process_that_is_killed_as_it_begins_is_no_try_of_a_cell(tmp_path: Path) -> None:
    def kill_the_first() -> int:
        while not (begun := active_children()):
            time.sleep(0.02)
        os.kill(begun[0].pid or 0, signal.SIGKILL)
        return len(begun)

    kept, job = Kept(), Squares(str(tmp_path), deadly=(1,), deaths=2)
    with ThreadPoolExecutor(1) as beside:
        killed = beside.submit(kill_the_first)
        run_cells(job, range(1, 3), kept.keep, 1)
    assert killed.result() == 1
    assert kept == {1: SQUARES[1], 2: SQUARES[2]}  # the other two deaths are what a cell may cost
    assert attempts(tmp_path) == {1: 3, 2: 1}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["standard", "loky"])
def test_executors_of_others(kind: str, tmp_path: Path) -> None:
    kept = Kept()
    if kind == "standard":
        with ProcessPoolExecutor(2, get_context("spawn")) as executor:
            run_cells(Squares(str(tmp_path)), range(6), kept.keep, executor)
            garbage = Kept()
            run_cells(Garbage(), range(2), garbage.keep, executor)
            assert min(garbage.values()) > 10_000  # what jobs are made of is millions that stay
            if Path("/proc/self/task").is_dir():
                threads = Kept()
                run_cells(Threads(), range(2), threads.keep, executor)
                assert set(threads.values()) == {1.0}
            # a broken pool is no reason to lose what it did
            with pytest.raises(ValueError, match=r"it has broken down .* another run goes on"):
                run_cells(Squares(str(tmp_path), (7,), 9), [7], kept.keep, executor)
    else:
        loky = pytest.importorskip("loky")
        executor = loky.get_reusable_executor(2)
        run_cells(Squares(str(tmp_path)), range(6), kept.keep, executor)
        executor.shutdown()
    assert kept == SQUARES


@pytest.mark.slow
def test_dask_with_a_worker_killed_and_another_added(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with distributed.LocalCluster(**options) as local:
        with cluster(local.scheduler_address) as executor:
            kept = Kept()
            job = Squares(str(tmp_path), deadly=(2,), seconds=0.2)
            run_cells(job, range(12), kept.keep, executor)
            local.scale(3)
            run_cells(Squares(str(tmp_path)), range(12, 18), kept.keep, executor)
        assert kept == {cell: cell**2 + 1e-12 for cell in range(18)}
        tried = attempts(tmp_path)
        assert tried.pop(2) == 2
        assert set(tried.values()) == {1}
        assert local.status.name == "running"  # a cluster of others is left as it is


@dataclass(frozen=True)
class Sampled:
    """A cell that says how many samples Dask's profiler has of its worker by its end."""

    label = "being sampled"
    shares_code = False

    def __call__(self, cell: int, progress: Progress = silent) -> int:
        """Wait, and count."""
        from distributed import get_worker

        worker = get_worker()
        time.sleep(0.3)  # 30 samples
        seen = [prof["count"] for _, prof in worker.profile_history]
        return sum(seen) + int(worker.profile_recent["count"])

    def lost(self, cell: int, why: str) -> int:
        return -1


@pytest.mark.slow
def test_dask_takes_no_samples_of_cells_and_goes_on_with_those_of_others() -> None:
    """It keeps each of them, which are deep while JAX traces: a megabyte a cell."""
    distributed = pytest.importorskip("distributed")
    kept: dict[int, int] = {}
    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": ":0"}

    def keep(cell: int, seen: int, place: Place) -> None:
        kept[cell] = seen

    with (
        distributed.LocalCluster(processes=False, **options) as local,
        cluster(local.scheduler_address) as executor,
    ):
        run_cells(Sampled(), range(5), keep, executor)
        others = executor.submit(Sampled(), 0).result()
    # one may be taken as the first begins
    assert max(kept.values()) <= 5
    assert others > kept[4] + 5
