"""Memory that was freed."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from vi_recipes.core import give_back


def resident() -> int:
    """Return the bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4_096


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only the GNU C library does it")
def test_what_was_freed_between_what_is_kept_is_given_back() -> None:
    blocks = [b"x" * size for size in range(60_000, 63_000)]  # 185 MB
    kept = blocks[99::100]
    blocks.clear()
    before = resident()
    give_back()
    assert before - resident() > 100_000_000
    assert len(kept) == 30
