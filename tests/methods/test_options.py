"""Options of another type are refused by every method, in a sentence that names them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import vi_recipes as vr
from vi_recipes.core import members
from vi_recipes.core.typed import _annotations
from vi_recipes.methods import METHODS


class Thing:
    """What no option takes."""


OPTIONS = [(key, f.name) for key, method in METHODS.items() for f in dataclasses.fields(method)]


@pytest.mark.parametrize(("key", "option"), OPTIONS)
def test_a_thing_is_no_option(key: str, option: str) -> None:
    with pytest.raises(ValueError, match=rf"^{option}: got .*Thing.*expected "):
        METHODS[key](**{option: Thing()})


NUMBERS = [
    (key, option)
    for key, option in OPTIONS
    if set(members(_annotations(METHODS[key])[option])) & {int, float}
]


@pytest.mark.parametrize(("key", "option"), NUMBERS)
@pytest.mark.parametrize("value", ["lots", True, [3]])
def test_words_are_no_numbers(key: str, option: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{option}: got .*expected "):
        METHODS[key](**{option: value})


def test_numbers_of_numpy_are_numbers() -> None:
    method = vr.NUTS(num_samples=np.int64(100), target_accept_prob=np.float64(0.9))
    assert method.options()["num_samples"] == 100
    with pytest.raises(ValueError, match=r"num_samples: got 100\.0, expected an integer"):
        vr.NUTS(num_samples=100.0)  # type: ignore[arg-type]


def test_lists_do_for_tuples() -> None:
    assert vr.NUTS(noncentered=["u"]).noncentered == ["u"]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="noncentered: got 'u', expected a list of names"):
        vr.NUTS(noncentered="u")  # type: ignore[arg-type]
