"""What users call says which argument is of a wrong type, before anything is done with it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import vi_recipes as vr
from vi_recipes.core import as_names, check_arguments

UNUSED_AT_ONCE = {"use_cache", "join_hosts", "random_start", "normal_encoder", "point_mass"}
"""What is for a whole process, or uses what it is given later."""

FUNCTIONS = sorted(
    name for name in set(vr.__all__) - UNUSED_AT_ONCE if inspect.isfunction(getattr(vr, name))
)
OF_OURS = [
    *((kind, name) for kind in (vr.Fit, vr.Comparison) for name in ("save", "load")),
    *((vr.Fit, name) for name in ("draws", "summary", "to_arviz", "renamed", "flat", "cov")),
    *((vr.Comparison, name) for name in ("add", "drop", "with_reference", "report", "loo")),
]


class Anything:
    """Nothing that any function takes."""


@pytest.fixture(scope="module")
def given() -> dict[type, Any]:
    """Return a fit, and a comparison that holds it."""
    target = vr.Target(vr.load_model("bivariate_normal"))
    fit = vr.Laplace().fit(target)
    return {vr.Fit: fit, vr.Comparison: vr.Comparison({"laplace": fit})}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_public_function_names_an_argument_that_is_none(name: str) -> None:
    function: Callable[..., Any] = getattr(vr, name)
    known = inspect.signature(function).parameters
    needed = [p for p in known.values() if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    args = [Anything() for p in needed if p.kind is not p.KEYWORD_ONLY]
    keywords = {p.name: Anything() for p in needed if p.kind is p.KEYWORD_ONLY}
    with pytest.raises(ValueError, match=r"^[a-z_]+: ") as caught:
        function(*args, **keywords)
    said = str(caught.value)
    assert said.partition(":")[0] in {*known, "derive"}
    assert "\n" not in said


@pytest.mark.parametrize(("kind", "name"), OF_OURS)
def test_so_does_a_method_of_what_is_returned(
    kind: type, name: str, given: Mapping[type, Any]
) -> None:
    function = getattr(given[kind], name)
    first = next(iter(inspect.signature(function).parameters))
    with pytest.raises(ValueError, match=rf"^{first}: got .*Anything"):
        function(Anything())


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"fit": "laplace"}, r"fit: got 'laplace', expected a Fit: a method makes one"),
        ({"names": 3}, r"names: got 3, expected a list of names or None"),
        ({"names": ["a", 3]}, r"names: got \['a', 3\], expected a list of names or None"),
        ({"number": 1.5}, r"number: got 1.5, expected an integer"),
        ({"number": True}, r"number: got True, expected an integer"),
        ({"path": pd.DataFrame({"a": range(9)})}, r"path: got DataFrame, expected text or a path"),
        ({"table": [1]}, r"table: got \[1\], expected a mapping"),
        ({"make": 3}, r"make: got 3, expected a function or None"),
    ],
)
def test_what_is_told_of_an_argument(wrong: Mapping[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=f"^{match}"):
        checked(**{"fit": some_fit(), **wrong})


@pytest.mark.parametrize(
    "right",
    [
        {"names": "a"},
        {"names": ("a", "b")},
        {"names": np.array(["a", "b"])},
        {"names": pd.Index(["a"])},
        {"names": {"a": 1}.keys()},
        {"number": np.int64(3)},
        {"path": "a"},
        {"path": Path("a")},
        {"table": {"a": 1.0}},
        {"make": print},
        {"unchecked": 3},
    ],
)
def test_what_does_as_an_argument_is_passed_on(right: Mapping[str, Any]) -> None:
    assert checked(some_fit(), **right) == right


def some_fit() -> vr.Fit:
    return vr.Fit(method="m", status=vr.Status.FAILED)


@check_arguments("fit", "names", "number", "path", "table", "make")
def checked(
    fit: vr.Fit,
    names: Sequence[str] | None = None,
    number: int = 1,
    path: str | Path = "",
    table: Mapping[str, float] | None = None,
    make: Callable[[], None] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Return what is not as it is by default."""
    given = {"names": names, "number": number, "path": path, "table": table, "make": make} | more
    plain = {"names": None, "number": 1, "path": "", "table": None, "make": None}
    return {k: v for k, v in given.items() if k not in plain or v is not plain[k]}


@pytest.mark.parametrize("names", [3, None, [3], [["a"]], b"a"])
def test_names_that_are_none(names: Any) -> None:
    with pytest.raises(ValueError, match=r"^sites: got .*, expected a name, or a list of names"):
        as_names("sites", names)


def test_shapes_of_flat_vectors_are_told() -> None:
    target = vr.Target(vr.load_model("bivariate_normal"))
    for function in (target.log_density, target.log_densities, target.scores, target.constrain):
        for z in (np.zeros(3), np.zeros((2, 1)), "z", None):
            with pytest.raises(ValueError, match=r"^z: got "):
                function(z)
    with pytest.raises(ValueError, match=r"^sites: got 'nothing', expected some of"):
        target.labels(["nothing"])
    with pytest.raises(ValueError, match=r"^values: got int, expected site -> value"):
        target.unconstrain(3)  # type: ignore[arg-type]
