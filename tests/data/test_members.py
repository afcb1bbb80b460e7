"""Minibatches of whole members: every member with its own rows once an epoch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import vi_recipes as vr
from vi_recipes.data import MEMBERS, WEIGHTS, ArrayBatches, MemberBatches, draw

GROUP = np.random.default_rng(0).choice([0, 1, 2, 4, 5, 6, 7, 8], 40)


def batches(size: int) -> MemberBatches:
    arrays = {"row": np.arange(40), "group": GROUP, "X": np.arange(80.0).reshape(40, 2)}
    made = MemberBatches(ArrayBatches(arrays, 40, 40), "group", size)
    made.cover(10)  # 3 and 9 have no rows
    return made


@pytest.mark.parametrize("size", [1, 4, 10])
def test_members_come_with_their_rows(size: int) -> None:
    drawn, made = draw(batches(size), np.random.default_rng(1)), batches(size)
    rows: Counter[int] = Counter()
    members: Counter[int] = Counter()
    for _ in range(20 // size):  # two epochs
        batch = next(drawn)
        real = batch[WEIGHTS] > 0
        assert len(real) == made.num_padded
        own = batch[MEMBERS][batch["group"][real]]
        np.testing.assert_array_equal(GROUP[batch["row"][real]], own)
        np.testing.assert_array_equal(batch["X"][real, 0], 2 * batch["row"][real])
        rows.update(batch["row"][real].tolist())
        members.update(batch[MEMBERS].tolist())
    assert set(rows) == set(range(40))
    assert set(members) == set(range(10))
    assert set(rows.values()) == set(members.values()) == {2}


def test_a_member_in_two_blocks_is_refused(tmp_path: Path) -> None:
    for part, group in enumerate([[0, 0, 1], [1, 2, 2]]):
        pd.DataFrame({"g": group, "y": 1.0}).to_parquet(tmp_path / f"{part}.parquet", index=False)
    found = vr.batches_from_parquet(tmp_path, batch_size=2, block_rows=2, whole="g")
    drawn = draw(found, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"rows of member 1 of 'g' are in several.*sort the files"):
        [next(drawn) for _ in range(3)]


@pytest.mark.parametrize(
    ("columns", "whole", "match"),
    [
        ({"g": [0, 1]}, "h", "whole: unknown argument 'h'"),
        ({"g": [0.5, 1.0]}, "g", "argument 'g': got float64 of shape"),
        ({"g": [-1, 1]}, "g", "from -1 on, expected the number of each row's member"),
    ],
)
def test_what_numbers_no_members(tmp_path: Path, columns: Any, whole: str, match: str) -> None:
    pd.DataFrame(columns).to_parquet(tmp_path / "a.parquet", index=False)
    with pytest.raises(ValueError, match=match):
        vr.batches_from_parquet(tmp_path, batch_size=2, whole=whole).cover(2)  # type: ignore[union-attr]


def test_members_beyond_the_plate_are_refused() -> None:
    with pytest.raises(ValueError, match="a row is of member 8, and the plate has 5"):
        batches(2).cover(5)
