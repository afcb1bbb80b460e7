"""Random keys, and precision for the length of a block."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from vi_recipes.core import as_key, as_seed, precision


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
