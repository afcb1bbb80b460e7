"""Compiled code that is kept for the next process, and folders where it cannot be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import jax, sys
from vi_recipes.core import programs_read, use_cache
told = []
place = use_cache({folder!r}, tell=told.append)
print(place)
for k in range(3):
    jax.jit(lambda x: (x @ x).sum() * k)(jax.numpy.ones((40, 40)))
print(programs_read())
print(told)
"""


def run(folder: str | None, **variables: str) -> list[str]:
    """Return what a fresh process prints: where code is kept, programs read, what was told."""
    ours = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    every = "from vi_recipes.core import code_cache; code_cache.LEAST_SECONDS = 0.0\n"
    done = subprocess.run(
        [sys.executable, "-c", every + CODE.format(folder=folder)],
        env=ours | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Error" not in done.stderr
    return done.stdout.splitlines()


def entries(place: str) -> list[Path]:
    return [p for p in Path(place).iterdir() if p.name.endswith("-cache")]


def test_the_next_process_reads_what_this_one_compiled(tmp_path: Path) -> None:
    place, read, told = run(str(tmp_path))
    assert Path(place).parent == tmp_path
    assert Path(place).stat().st_mode & 0o077 == 0
    assert (read, told) == ("0", "[]")
    assert len(entries(place)) >= 3
    again = run(None, VI_RECIPES_CACHE=str(tmp_path))
    assert again[0] == place
    assert int(again[1]) >= 3

    # damaged by something else: compiled anew, which is said once
    for path in entries(place):
        path.write_bytes(b"nothing of the kind")
    place, read, told = run(str(tmp_path))
    assert read == "0"
    assert told.count("cannot be used, and is compiled anew") == 1
    # and kept anew: the next process reads it, and is told nothing
    place, read, told = run(str(tmp_path))
    assert int(read) >= 3
    assert told == "[]"


COMMAND = """
import sys
from vi_recipes.core import code_cache
code_cache.LEAST_SECONDS = 0.0
# as many programs as of thousands of steps and draws
few = ["nuts.num_warmup=50", "nuts.num_samples=50", "nuts.max_tree_depth=4", "svi.num_steps=200"]
sys.argv = ["vi-recipes", "compare", "seeds", "--no-report"]
sys.argv += [word for setting in few for word in ("--set", setting)]
from vi_recipes.cli import main
main()
"""


@pytest.mark.slow
def test_the_second_time_a_command_compiles_nothing(tmp_path: Path) -> None:
    """By all methods that apply, in processes with another order of the names in a set."""
    found = []
    ours = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    for seed in ("1", "2"):
        subprocess.run(
            [sys.executable, "-c", COMMAND],
            env=ours | {"VI_RECIPES_CACHE": str(tmp_path), "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        )
        [place] = tmp_path.iterdir()
        found.append({path.name for path in entries(str(place))})
    assert len(found[0]) > 50
    assert found[1] == found[0]


@pytest.mark.parametrize("word", ["off", "0", "OFF"])
def test_it_is_off_where_the_variable_says_so(word: str) -> None:
    assert run(None, VI_RECIPES_CACHE=word) == ["None", "0", "[]"]


def test_folders_that_will_not_do(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    place, read, told = run(str(file))
    assert (place, read) == ("None", "0")
    assert told.count("compiled code is not kept") == 1
    assert "Not a directory" in told

    place = run(str(tmp_path))[0]
    Path(place).chmod(0o777)
    place, _, told = run(str(tmp_path))
    assert place == "None"
    assert "others can write to it" in told


def test_a_disk_that_is_nearly_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from collections import namedtuple

    import jax

    from vi_recipes.core import code_cache

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(code_cache.shutil, "disk_usage", lambda _: usage(1, 1, 0))
    before, told = jax.config.jax_compilation_cache_dir, []
    assert code_cache.use_cache(tmp_path, tell=told.append) is None
    assert jax.config.jax_compilation_cache_dir == before
    assert len(told) == 1
    assert "nearly full" in told[0]
