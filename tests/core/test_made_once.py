"""What is made once and kept."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from vi_recipes.core import MadeOnce
from vi_recipes.core.made_once import shapes_of


def test_a_thing_is_made_when_it_is_first_asked_for() -> None:
    once, made = MadeOnce(), []

    def make() -> int:
        made.append(1)
        return len(made)

    assert once.get("a") is None
    assert [once("a", make), once("a", make), once("b", make)] == [1, 1, 2]
    assert once.get("a") == 1
    assert len(once) == 2


def test_what_was_made_elsewhere_is_kept() -> None:
    once = MadeOnce()
    once.keep("a", 3)
    assert once("a", lambda: 4) == once.get("a") == 3


def test_what_fails_is_tried_again() -> None:
    once = MadeOnce()
    with pytest.raises(ZeroDivisionError):
        once("a", lambda: 1 // 0)
    assert len(once) == 0
    assert once("a", lambda: 5) == 5


def test_shapes_say_what_compiled_code_depends_on() -> None:
    a = {"x": np.zeros((2, 3)), "n": 1}
    assert shapes_of(a) == shapes_of({"x": np.ones((2, 3)), "n": 2})
    assert shapes_of(a) != shapes_of({"x": np.zeros((3, 2)), "n": 1})
    assert shapes_of(a) != shapes_of({"x": np.zeros((2, 3), int), "n": 1})
    assert shapes_of(a) != shapes_of({"y": np.zeros((2, 3)), "n": 1})
    assert shapes_of(jnp.zeros(2, "float32")) != shapes_of(jnp.zeros(2, "int32"))
