"""Standard output kept for the result, and pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vi_recipes.cli.output import check_json, folder_name, write_json

MODEL = """
import os, sys
import numpyro, numpyro.distributions as dist
import jax

print("loaded")
def model(y=2.0):
    print("traced")
    os.write(1, b"written\\n")
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    jax.debug.print("ran {}", a)
    numpyro.sample("y", dist.Normal(a, 1.0), obs=y)
"""


@pytest.mark.slow
def test_the_result_on_standard_output_is_json_whatever_the_model_prints(tmp_path: Path) -> None:
    (tmp_path / "noisy.py").write_text(MODEL)
    start = "from vi_recipes.cli import main; main()"
    command = [sys.executable, "-c", start, "compare", "noisy.py", "--methods", "map"]
    done = subprocess.run(
        [*command, "--no-report", "--json", "-"], cwd=tmp_path, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == "model"
    for said in ("loaded", "traced", "written", "ran"):
        assert said in done.stderr


def test_a_pipe_that_nobody_reads_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is a pipe that nobody reads"):
        check_json(tmp_path / "pipe")


def test_a_pipe_that_is_read_is_written_whole(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", list[str]()
    os.mkfifo(pipe)
    opened = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # there is a reader from the first
    check_json(pipe)
    os.set_blocking(opened, True)

    def take() -> None:
        with os.fdopen(opened) as file:
            read.append(file.read())

    reader = threading.Thread(target=take, daemon=True)
    reader.start()
    write_json("x" * 100_000, pipe)
    reader.join(10)
    assert read == ["x" * 100_000]


@pytest.mark.parametrize(
    ("wanted", "name"),
    [("radon-report", "radon-report"), ("../../x-report", "_.._x-report"), ("a/b\n", "a_b_")],
)
def test_a_model_s_name_leads_to_no_other_folder(wanted: str, name: str) -> None:
    assert folder_name(wanted) == name
