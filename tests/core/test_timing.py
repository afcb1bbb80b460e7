"""Seconds of compiling and of running, apart."""

from __future__ import annotations

import numpy as np
import pytest

from vi_recipes.core import Timing


def test_timing_charges_each_second_once() -> None:
    timing = Timing()
    with timing.running_compiled():
        timing.compile_seconds += 0.25  # as Timing.compile would, inside a running block
    assert timing.compile_seconds == 0.25
    assert timing.run_seconds == pytest.approx(-0.25, abs=0.05)  # the block took no time itself
    doubled = timing.compile(lambda x: 2 * x, np.float32(1.0))
    assert doubled(np.float32(3.0)) == 6
    assert timing.compile_seconds > 0.25
    assert timing.total_seconds == timing.compile_seconds + timing.run_seconds
