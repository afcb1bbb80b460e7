"""Memory that was freed."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

FREES = """
from pathlib import Path
from vi_recipes.core import give_back

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4_096

blocks = [b"x" * size for size in range(60_000, 63_000)]  # 185 MB
kept = blocks[99::100]
blocks.clear()
before = resident()
give_back()
print(before - resident(), len(kept))
"""


def said_by(code: str, **variables: str) -> list[str]:
    """Return the words of a process of its own, which allocates as a user's does."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library does it")
def test_what_was_freed_between_what_is_kept_is_given_back() -> None:
    given, kept = map(int, said_by(FREES))
    assert given > 100_000_000
    assert kept == 30


MAKES_ARRAYS = """
import resource, sys
import numpy as np
from vi_recipes.core import keep_freed

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        np.ones(125_000)  # a megabyte
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
print(first, keep_freed(), faults() and faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library does it")
@pytest.mark.parametrize(("threshold", "changed"), [("65536", True), ("65537", False)])
def test_a_worker_of_dask_keeps_what_it_frees_unless_its_user_has_said_otherwise(
    threshold: str, changed: bool
) -> None:
    before, said, after = said_by(MAKES_ARRAYS, MALLOC_TRIM_THRESHOLD_=threshold)
    assert said == str(changed)
    assert int(before) > 50 * 240  # 244 pages an array
    assert (int(after) < 50) is changed


MAKES_HOLES = """
from pathlib import Path
import numpy as np
from vi_recipes.core import hand_back_large

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4_096

np.ones(3_000_000)  # 24 MB, freed: up to that size the library keeps from now on what it has
changed = hand_back_large()
arrays, kept = [], []
for _ in range(50):
    arrays.append(np.ones(250_000))  # 2 MB
    kept.append(np.ones(12_000))
before = resident()
arrays.clear()
print(changed, before - resident())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library does it")
def test_a_host_hands_large_arrays_back_unless_its_user_has_said_otherwise() -> None:
    changed, given = said_by(MAKES_HOLES)
    assert changed == "True"
    assert int(given) > 95_000_000
    large = str(2**25)
    for variable, value in (
        ("MALLOC_MMAP_THRESHOLD_", large),
        ("GLIBC_TUNABLES", f"glibc.malloc.mmap_threshold={large}"),
    ):
        changed, given = said_by(MAKES_HOLES, **{variable: value})
        assert changed == "False"
        assert int(given) < 10_000_000
