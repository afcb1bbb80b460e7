"""Options of every method: a number without a meaning, or a criterion that anything meets."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from vi_recipes.methods import METHODS, Method

ZERO_MEANS_SOMETHING = {"num_warmup", "alpha"}
"""No warm-up; a Renyi bound that is the log evidence."""

COUNTS = {"int", "int | None"}
NUMBERS = {"float", "float | None", "float | Callable[[Any], Any] | None"}

OPTIONS = [
    (method, field.name, str(field.type))
    for method in METHODS.values()
    for field in dataclasses.fields(method)
    if str(field.type) in COUNTS | NUMBERS
]


def refused(method: type[Method], **option: Any) -> None:
    (name,) = option
    extra = {"objective": "renyi"} if name == "alpha" else {}
    with pytest.raises(ValueError, match=rf"^{name}: got .*, expected "):
        method(**option, **extra)


def test_every_kind_of_method_is_among_them() -> None:
    assert {name for _, name, _ in OPTIONS} >= {
        "tolerance", "max_steps", "num_starts", "num_samples", "step_size", "scatter", "alpha",
        "num_nodes", "num_particles", "condition_limit", "target_accept_prob", "batch_size",
    }  # fmt: skip


@pytest.mark.parametrize(("method", "name", "kind"), OPTIONS)
def test_a_number_that_means_nothing_is_refused(method: type[Method], name: str, kind: str) -> None:
    for value in (math.nan, math.inf, -math.inf, "lots"):
        refused(method, **{name: value})
    if name != "alpha":
        refused(method, **{name: -1})
    if name not in ZERO_MEANS_SOMETHING:
        refused(method, **{name: 0})
    if kind in COUNTS:
        refused(method, **{name: 10**30})
        refused(method, **{name: 10.5})


@pytest.mark.parametrize("method", [m for m, name, _ in OPTIONS if name == "tolerance"])
def test_a_tolerance_that_any_point_meets_is_refused(method: type[Method]) -> None:
    refused(method, tolerance=1e6)
    refused(method, tolerance=2.0)
