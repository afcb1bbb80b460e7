"""Data are checked before anything is traced, and every complaint names the argument."""

from __future__ import annotations

import numpy as np
import pytest

from vi_recipes.data.arguments import bind, fingerprint


def model(X, y, scale=1.0):
    """Stand for a NumPyro model; only its signature matters."""


def test_arrays_scalars_and_defaults() -> None:
    data = bind(model, {"X": [[1, 2], [3, 4]], "y": (0.5, 1.5)})
    assert data["X"].shape == (2, 2)
    assert isinstance(data["y"], np.ndarray)
    assert bind(model, {"X": 3, "y": np.float64(2.0), "scale": np.array(4)}) == {
        "X": 3,
        "y": 2.0,
        "scale": 4,
    }


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"y": [1]}, "missing argument.*X"),
        ({"X": [1], "y": [1], "z": [1]}, "unknown argument.*z"),
        ({"X": [1], "y": [1.0, float("nan")]}, "'y'.*index 1.*NaN"),
        ({"X": [[1.0, 2.0], [float("inf"), 3.0]], "y": [1]}, r"'X'.*\(1, 0\).*infinite"),
        ({"X": [1], "y": float("nan")}, "'y'"),
        ({"X": [1], "y": ["3", "abc"]}, "'y'.*'abc'"),
        ({"X": [[1, 2], [3]], "y": [1]}, "'X'.*rectangular"),
        ({"X": [], "y": [1]}, "'X' is empty"),
        ({"X": {"a": [np.nan]}, "y": [1]}, r"X\['a'\]"),
    ],
)
def test_bad_data_name_the_argument(data: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        bind(model, data)


def test_positional_only_arguments_are_refused() -> None:
    def odd(y, /):
        """Take y by position only."""

    with pytest.raises(ValueError, match="positional-only"):
        bind(odd, {"y": [1]})


def test_fingerprint_sees_names_values_and_types() -> None:
    base = {"y": np.array([1.0, 2.0]), "k": 3}
    assert fingerprint(base) == fingerprint({"k": 3, "y": np.array([1.0, 2.0])})
    others = [
        {"y": np.array([1.0, 2.5]), "k": 3},
        {"y": np.array([1, 2]), "k": 3},
        {"y": np.array([[1.0, 2.0]]), "k": 3},
        {"y": np.array([1.0, 2.0]), "k": 4},
        {"x": np.array([1.0, 2.0]), "k": 3},
    ]
    assert len({fingerprint(base), *map(fingerprint, others)}) == 6
