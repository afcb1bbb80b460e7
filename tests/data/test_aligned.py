"""Where data lie: once, at addresses that JAX takes."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
import pytest
from jax.sharding import Mesh

import vi_recipes as vr
from vi_recipes.data import aligned, empty
from vi_recipes.data.memory import ALIGNMENT, LARGE

ROWS = 200_000


def normal(y: jax.Array, x: jax.Array) -> None:
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    with numpyro.plate("row", len(y)):
        numpyro.sample("y", dist.Normal(x @ np.ones(3) * slope, 1.0), obs=y)


def off_by(shift: int, values: np.ndarray) -> np.ndarray:
    """Return a copy of an array at an address that JAX does or does not take."""
    memory = empty((values.nbytes + shift,), np.dtype(np.uint8))
    moved = memory[shift:].view(values.dtype).reshape(values.shape)
    moved[...] = values
    return moved


@pytest.mark.parametrize("shift", [0, 16])
def test_large_data_lie_in_memory_once(shift: int) -> None:
    rng = np.random.default_rng(1)
    y, x = off_by(shift, rng.standard_normal(ROWS)), rng.standard_normal((3, ROWS)).T
    target = vr.Target(normal, y=y, x=x)  # x by columns, as pandas has it
    divided = vr.shard(target, Mesh(np.array(jax.devices()[:1]), ("rows",)))
    assert divided.undivided is not None
    for this in (target, divided, divided.undivided):
        with jax.enable_x64(True):
            arrays = this.arrays()
        for name, array in zip(target.traced_arguments, arrays, strict=True):
            assert array.unsafe_buffer_pointer() == target.data[name].ctypes.data
            assert array.unsafe_buffer_pointer() == this.data[name].ctypes.data
            np.testing.assert_array_equal(array, {"y": y, "x": x}[name])
    assert np.shares_memory(target.data["y"], y) == (shift == 0)
    other = target.with_data(y=2 * y)
    with jax.enable_x64(True):
        place = other.traced_arguments.index("y")
        assert other.arrays()[place].unsafe_buffer_pointer() == other.data["y"].ctypes.data


def test_small_arrays_stay_where_they_are() -> None:
    small = off_by(16, np.arange(5.0))
    assert aligned(small) is small
    large = off_by(16, np.arange(LARGE // 8 + 0.0))
    assert aligned(large).ctypes.data % ALIGNMENT == 0
    np.testing.assert_array_equal(aligned(large), large)


def test_a_part_is_read_to_where_jax_takes_it(tmp_path: Path) -> None:
    frame = pd.DataFrame(np.random.default_rng(2).standard_normal((1_000, 3)), columns=list("yab"))
    frame.to_parquet(tmp_path / "rows.parquet", row_group_size=300)
    rows = vr.read_part(tmp_path, {"y": "y", "x": ["a", "b"]}, hosts=vr.Hosts(1, 2))
    assert all(array.ctypes.data % ALIGNMENT == 0 for array in rows.values())
    np.testing.assert_array_equal(rows["y"], frame["y"][500:])
    np.testing.assert_array_equal(rows["x"], frame[["a", "b"]][500:])
