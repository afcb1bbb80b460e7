"""Random keys, and precision for the length of a block."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from programs_for_tests import compiled_programs

from vi_recipes.core import as_key, as_seed, fold_key, precision, split_key


def test_keys() -> None:
    assert (jax.random.key_data(as_key(None)) == jax.random.key_data(jax.random.key(0))).all()
    assert (jax.random.key_data(as_key(np.int64(7))) == jax.random.key_data(as_key(7))).all()


@pytest.mark.parametrize("key", [1.5, True, "a", [1, 2], 2**70, np.array([1, 2], np.uint32)])
def test_what_is_no_key(key: object) -> None:
    for take in (as_key, as_seed):
        with pytest.raises(ValueError, match=r"key: got .*, expected .*a whole number"):
            take(key)  # type: ignore[arg-type]


def test_several_keys_are_none() -> None:
    with pytest.raises(ValueError, match="expected one JAX key"):
        as_key(jax.random.split(jax.random.key(0), 3))
    with pytest.raises(ValueError, match=r"key: got .*, expected a whole number"):
        as_seed(jax.random.key(0))
    assert as_seed(np.int32(3)) == 3


def test_precision() -> None:
    with pytest.raises(ValueError, match="dtype: got 'half'"), precision("half"):
        pass


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("old", [False, True], ids=["key", "two numbers"])
def test_keys_split_are_those_of_jax(x64: bool, old: bool) -> None:
    key = jax.random.PRNGKey(7) if old else jax.random.key(7)
    with jax.enable_x64(x64):
        for number in (1, 2, 4, 8, 9):
            expected = jax.random.split(key, number)
            found = split_key(key, number)
            assert len(found) == number
            for one, theirs in zip(found, expected, strict=True):
                assert one.dtype == theirs.dtype
                assert jax.random.bits(one) == jax.random.bits(theirs)


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("old", [False, True], ids=["key", "two numbers"])
def test_numbered_streams_are_those_of_jax(x64: bool, old: bool) -> None:
    key = jax.random.PRNGKey(7) if old else jax.random.key(7)
    with jax.enable_x64(x64):
        for number in (0, 1, 20, 2**32 - 1):
            found, theirs = fold_key(key, number), jax.random.fold_in(key, np.uint32(number))
            assert found.dtype == theirs.dtype
            assert jax.random.bits(found) == jax.random.bits(theirs)


def test_keys_are_split_and_folded_by_one_program_each() -> None:
    keys = [jax.random.key(number) for number in range(8)]
    split_key(keys[0])
    fold_key(keys[0], 1)
    with compiled_programs() as compiled:
        for number in (2, 3, 5, 7):
            for x64 in (False, True):
                with jax.enable_x64(x64):
                    split_key(keys[number], number)
                    fold_key(keys[number], number)
    assert not compiled
