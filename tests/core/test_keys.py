"""Random keys, and precision for the length of a block."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from vi_recipes.core import as_key, precision


def test_keys() -> None:
    assert (jax.random.key_data(as_key(None)) == jax.random.key_data(jax.random.key(0))).all()
    assert (jax.random.key_data(as_key(np.int64(7))) == jax.random.key_data(as_key(7))).all()


def test_precision() -> None:
    with pytest.raises(ValueError, match="dtype: got 'half'"), precision("half"):
        pass
