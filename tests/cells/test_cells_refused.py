"""What goes wrong with workers, seen with real ones: nobody there, other versions, Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import vi_recipes as vr
from vi_recipes.cells import Place, cluster, engines, packed, run_cells
from vi_recipes.core import Progress, silent

pytestmark = pytest.mark.slow

NORMAL = """
import numpy as np, numpyro, numpyro.distributions as dist, vi_recipes as vr

def normal(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

MODEL = vr.Model(function=normal, name="normal", data=lambda: {"y": np.arange(3.0)})
"""

OF_A_USER = """
vr.calibrate(MODEL, vr.Laplace(), num_simulations=2, num_draws=9, executor=1)
"""


@dataclass(frozen=True)
class Waits:
    """Cell 0 is done at once; others wait until they are told to stop, and say so."""

    label = "waiting"
    shares_code = False

    def __call__(self, cell: int, progress: Progress = silent) -> str:
        end = time.monotonic() + 60 * bool(cell)
        try:
            while time.monotonic() < end:
                progress(0, 1)
                time.sleep(0.05)
        except KeyboardInterrupt:
            return "stopped on the way"
        return "done"

    def lost(self, cell: int, why: str) -> str:
        return why


@pytest.fixture(scope="module")
def local() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed")
    options = {"threads_per_worker": 1, "dashboard_address": ":0"}
    with distributed.LocalCluster(n_workers=0, **options) as made:
        yield made


def run(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    options = {"capture_output": True, "text": True, "timeout": 120, "check": False, **options}
    return subprocess.run([sys.executable, *command], **options)


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a scheduler be given up after two seconds, not ten."""
    assert engines.SECONDS == 10
    monkeypatch.setattr(engines, "SECONDS", 2)


def told_in_time(address: str, message: str) -> None:
    """It takes no longer than the scheduler has, beside what it takes to ask."""
    began = time.monotonic()
    with pytest.raises(ValueError, match=message), cluster(address):
        pass
    assert 1.9 < time.monotonic() - began < 22  # Dask's own is 30


@pytest.mark.usefixtures("soon")
def test_a_scheduler_that_does_not_answer_is_named() -> None:
    pytest.importorskip("distributed")
    address = "tcp://127.0.0.1:1"
    message = rf"no scheduler of Dask's answers at '{address}' within 2 s; give .* 'dask sched"
    told_in_time(address, message)


@pytest.mark.usefixtures("soon")
def test_what_answers_in_a_schedulers_place_is_not_waited_for() -> None:
    """A client of Dask's is silent for ever where a web server is."""
    pytest.importorskip("distributed")
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"tcp://127.0.0.1:{server.server_port}"
        try:
            began = time.monotonic()
            with pytest.raises(ValueError, match=f"no scheduler of Dask's answers at '{address}'"):
                cluster(address).__enter__()
            assert time.monotonic() - began < 22
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.usefixtures("soon")
def test_a_scheduler_without_workers_is_named(local: Any) -> None:
    address = local.scheduler_address
    told_in_time(address, rf"{address} has no worker within 2 s; start one with 'dask worker")


def test_a_scheduler_that_dies_costs_what_was_on_its_way(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    (tmp_path / "mine.py").write_text(NORMAL)
    grid = 'models = ["mine.py"]\nmethods = ["map"]\nseeds = 4000\n'
    (tmp_path / "grid.toml").write_text(grid)
    cells = tmp_path / "kept" / "cells"
    begun: list[subprocess.Popen[str]] = []

    def begin(*command: str, stderr: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        options: dict[str, Any] = {"stderr": stderr, "text": True, "cwd": tmp_path}
        begun.append(subprocess.Popen([sys.executable, *command], **options))
        return begun[-1]

    try:
        known = tmp_path / "scheduler.json"
        where = ("--scheduler-file", str(known))
        dask = ("-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0")
        scheduler = begin(*dask, "--dashboard-address", ":0", *where)
        begin("-m", "distributed.cli.dask_worker", *where, "--nthreads", "1", "--no-nanny")
        deadline = time.monotonic() + 120
        while not known.exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        address = json.loads(known.read_text())["address"]
        run_main = "from vi_recipes.cli import main; main()"
        sweep = ("sweep", "grid.toml", "--out", "kept", "--scheduler", address)
        process = begin("-c", run_main, *sweep, stderr=subprocess.PIPE)
        while not (cells.is_dir() and len(list(cells.iterdir())) > 3):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        scheduler.kill()
        _, err = process.communicate(timeout=60)
    finally:
        for one in begun:
            one.kill()
            one.wait()
    assert process.returncode != 0
    assert "what is done is kept where a folder was given, and another run goes on" in err
    assert "Traceback" not in err
    done = len(list(cells.iterdir()))
    mine, kept = tmp_path / "mine.py", tmp_path / "kept"
    found = vr.sweep(mine, "map", seeds=4000, path=kept, progress=Stopping)
    assert len(found.results) == done + 1
    assert {result.status for result in found.results.values()} == {"OK"}  # none taken for lost


def test_a_workers_address_is_told_from_a_schedulers(local: Any) -> None:
    local.scale(1)
    local.wait_for_workers(1)
    (worker,) = local.scheduler.workers
    with pytest.raises(ValueError, match=r"answers at .* \(it is a worker\); give the"):
        cluster(worker).__enter__()


WITHOUT = """
import sys

class Without:
    def find_spec(self, name, path=None, target=None):
        if name == "vi_recipes":
            raise ModuleNotFoundError("No module named 'vi_recipes'")

sys.meta_path.insert(0, Without())
"""


def test_a_worker_without_this_package_is_told_of(tmp_path: Path) -> None:
    """What such a worker of Dask's cannot receive, its client awaits for ever."""
    distributed = pytest.importorskip("distributed")
    (tmp_path / "sitecustomize.py").write_text(WITHOUT)
    options = {"n_workers": 0, "dashboard_address": ":0"}
    with distributed.LocalCluster(**options) as empty:
        address = empty.scheduler_address
        dask = ("-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny")
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        with subprocess.Popen(
            [sys.executable, *dask],
            env={**os.environ, "PYTHONPATH": path},
            stderr=subprocess.DEVNULL,
        ) as worker:
            try:
                with distributed.Client(address, set_as_default=False) as client:
                    client.wait_for_workers(1, timeout=60)
                    with pytest.raises(
                        ValueError, match=r"'vi_recipes'\); install vi_recipes there"
                    ):
                        run_cells(Waits(), [0], lambda *_: None, client.get_executor())
            finally:
                worker.kill()


def age(package: str) -> None:
    """Have this process take a package for an old one."""
    known = packed.version_of
    packed.version_of = lambda name: "0.0.1" if name == package else known(name)  # type: ignore[attr-defined]


def test_workers_of_other_versions_are_refused_by_name(local: Any) -> None:
    local.scale(1)
    local.wait_for_workers(1)
    with cluster(local.scheduler_address) as executor:
        for package in ("jax", "numpyro", "vi_recipes"):
            executor._client.run(age, package)  # type: ignore[attr-defined]
            with pytest.raises(ValueError, match=rf"workers on .* {package} 0\.0\.1 \(here"):
                run_cells(Waits(), [0], lambda *_: None, executor)
    local.scale(0)


def test_a_script_calls_below_its_main_block(tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    script.write_text(NORMAL + "\nif __name__ == '__main__':\n    " + OF_A_USER.strip())
    done = run(str(script))
    assert done.returncode == 0, done.stderr
    script.write_text(NORMAL + OF_A_USER)
    done = run(str(script))
    assert done.returncode == 1
    assert "A script must call this below `if __name__ == '__main__':`" in done.stderr


def test_what_has_no_file_is_to_be_put_into_one(tmp_path: Path) -> None:
    done = run("-c", NORMAL + OF_A_USER, cwd=tmp_path)
    assert done.returncode == 1
    assert "has no file; put the model and what it needs into one" in done.stderr


def test_an_interrupt_waits_for_what_cells_under_way_have() -> None:
    kept: dict[int, str] = {}

    def keep(cell: int, result: str, place: Place) -> None:
        first = not kept
        kept[cell] = result
        if first:
            time.sleep(1.0)  # the next has begun
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_cells(Waits(), range(6), keep, 2)
    assert kept[0] == "done"
    assert set(list(kept.values())[1:]) == {"stopped on the way"}
    assert len(kept) < 6  # and what had not begun was cancelled


def test_an_interrupt_ends_no_worker_of_others(local: Any, tmp_path: Path) -> None:
    local.scale(1)
    local.wait_for_workers(1)
    deadline = time.monotonic() + 30
    while not (before := {worker.pid for worker in local.workers.values()}):
        assert time.monotonic() < deadline  # the scheduler knows it before the cluster does
        time.sleep(0.05)
    (tmp_path / "mine.py").write_text(NORMAL)
    sweep = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "import vi_recipes as vr\n"
        "from vi_recipes.cells import cluster\n"
        f"with cluster({local.scheduler_address!r}) as executor:\n"
        "    vr.sweep('mine.py', 'map', seeds=4000, path='kept', executor=executor)\n"
        "print('came to its end')\n"
    )
    cells = tmp_path / "kept" / "cells"
    with subprocess.Popen(
        [sys.executable, "-c", sweep], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 90
        while not (cells.is_dir() and len(list(cells.iterdir())) > 3):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=30)
    assert "came to its end" in out
    done = len(list(cells.iterdir()))
    assert 3 < done < 4000
    assert {worker.pid for worker in local.workers.values()} == before
    # and another run takes up all of them, without workers
    found = vr.sweep(
        tmp_path / "mine.py", "map", seeds=4000, path=tmp_path / "kept", progress=Stopping
    )
    assert len(found.results) == done + 1


class Stopping:
    """Progress of a run that is interrupted as soon as it has done one thing more."""

    def __init__(self, title: str) -> None: ...

    def __enter__(self) -> Progress:
        def report(done: int, total: int, text: str = "") -> None:
            raise KeyboardInterrupt

        return report

    def __exit__(self, *_: object) -> None: ...


def running() -> dict[int, int]:
    """Return every process of this machine that has not ended, and the one that began it."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if state not in "ZX":
                found[int(stat.parent.name)] = int(parent)
    return found


def begun_by(process: int) -> set[int]:
    return {one for one, parent in running().items() if parent == process}


MANY = """
if __name__ == "__main__":
    vr.sweep(MODEL, "map", seeds=4000, path=sys.argv[1], executor=2)
"""


@pytest.fixture
def many(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A sweep by two processes into the folder ``kept``, which is under way as it is given."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("this system does not list its processes")
    (tmp_path / "mine.py").write_text("import sys\n" + NORMAL + MANY)
    with subprocess.Popen(
        [sys.executable, "mine.py", "kept"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def until(what: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGKILL])
def test_processes_end_with_the_one_that_began_them(
    by: signal.Signals, many: subprocess.Popen[str], tmp_path: Path
) -> None:
    cells = tmp_path / "kept" / "cells"
    until(lambda: cells.is_dir() and len(list(cells.iterdir())) > 3)
    begun = begun_by(many.pid)
    assert len(begun) >= 2
    many.send_signal(by)
    many.wait(timeout=30)
    until(lambda: not begun & running().keys(), 20)


def test_processes_that_are_still_beginning_take_no_notice_of_an_interrupt(
    many: subprocess.Popen[str],
) -> None:
    until(lambda: len(begun_by(many.pid)) >= 2)
    os.killpg(many.pid, signal.SIGINT)  # as a terminal does
    _, err = many.communicate(timeout=60)
    assert many.returncode == 0, err  # what was done is returned
    assert "Traceback" not in err


def test_no_trace_of_dasks_is_shown(local: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A scheduler that is gone is met by several of its modules, one now and another then."""
    local.scale(1)
    with cluster(local.scheduler_address):
        for module in ("batched", "client", "comm.tcp", "core"):
            logging.getLogger(f"distributed.{module}").error("lost")
    assert "lost" not in caplog.messages
    logging.getLogger("distributed.batched").error("lost")  # as loud as before
    assert "lost" in caplog.messages
