"""Data for a model: validated, split into what JAX traces and what fixes shapes, fingerprinted."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

from vi_recipes.core import reads_as_number


def bind(function: Callable[..., Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """Check ``data`` against the arguments of ``function`` and normalise its arrays.

    Parameters
    ----------
    function
        A NumPyro model whose keyword arguments are the data.
    data
        Argument name -> value: arrays, lists, pandas objects, scalars, or trees of them.

    Returns
    -------
    dict
        Arrays as NumPy arrays; Python scalars, strings and ``None`` as they were; integers given
        as arrays without dimensions as Python integers.

    Raises
    ------
    ValueError
        For a missing or unknown argument, non-numeric arrays, NaN or infinity; each names the
        argument and the cure.
    """
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
    positional_only = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY]
    if positional_only:
        raise ValueError(
            f"model argument(s) {', '.join(positional_only)} are positional-only; "
            "data are passed by name, so remove the '/' from the model's signature"
        )
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    known = [p.name for p in named]
    missing = [p.name for p in named if p.default is p.empty and p.name not in data]
    extra = [name for name in data if name not in known] if not open_ended else []
    if missing or extra:
        parts = []
        if missing:
            parts.append(f"missing argument(s) {', '.join(missing)}")
        if extra:
            parts.append(f"unknown argument(s) {', '.join(extra)}")
        raise ValueError(
            f"data do not match the model: {'; '.join(parts)}. "
            f"The model takes ({', '.join(known)}); the data have ({', '.join(data)})"
        )
    return {name: normalise(name, value) for name, value in data.items()}


def normalise(name: str, value: Any) -> Any:
    """Return ``value`` with its arrays as finite numeric NumPy arrays (see :func:`bind`)."""
    if isinstance(value, Mapping):
        return {key: normalise(f"{name}[{key!r}]", item) for key, item in value.items()}
    if isinstance(value, bool | int | str) or value is None:
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError(
                f"data argument '{name}' is too large: an integer of {value.bit_length()} bits, "
                "where 64 are the most; rescale it"
            )
        return value
    if isinstance(value, float | np.generic):
        value = value.item() if isinstance(value, np.generic) else value
        _check_finite(name, np.asarray(value))
        return value
    if isinstance(value, tuple) and all(isinstance(item, int) for item in value):
        return value  # a shape: static
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(
            f"data argument '{name}' is not a rectangular array ({error}); "
            "give every row the same length"
        ) from None
    if array.dtype.kind not in "biuf":
        values = array.ravel().tolist()
        sample = next((repr(v) for v in values if not reads_as_number(v)), repr(values[0]))
        raise ValueError(
            f"data argument '{name}' has dtype {array.dtype}, e.g. {sample}, where numbers are "
            "expected; convert text to numbers (category codes, for instance) or drop the column"
        )
    if array.size == 0:
        raise ValueError(f"data argument '{name}' is empty (shape {array.shape}); give it data")
    if isinstance(value, np.ma.MaskedArray):  # what the mask hides would be data again
        _refuse_missing(name, np.ma.getmaskarray(value), "masked value(s)")
    _check_finite(name, array)
    # a floating-point number given as an array stays one: it can be differentiated in
    return array.item() if array.ndim == 0 and array.dtype.kind != "f" else array


def _check_finite(name: str, array: np.ndarray) -> None:
    if array.dtype.kind != "f":
        return
    bad = ~np.isfinite(array)
    if bad.any():
        first = array[tuple(np.argwhere(bad)[0])]
        what = "NaN" if np.isnan(first) else "infinite"
        _refuse_missing(name, bad, "NaN or infinite value(s)", f": {what}")


def _refuse_missing(
    name: str, missing: Bool[np.ndarray, "*shape"], what: str, first: str = ""
) -> None:
    """Raise for values that are no numbers, with where the first is and what it is."""
    if not missing.any():
        return
    where = tuple(int(i) for i in np.argwhere(missing)[0])
    at = f" (the first at index {where if len(where) > 1 else where[0]})" if where else ""
    raise ValueError(
        f"data argument '{name}' has {int(missing.sum())} {what} out of {missing.size}{at}{first}; "
        "drop or impute them, or model the missingness with a mask"
    )


def fingerprint(data: Mapping[str, Any]) -> str:
    """Return a short SHA-256 digest of names, shapes, types and values."""
    digest = hashlib.sha256()

    def add(name: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key in sorted(value):
                add(f"{name}.{key}", value[key])
        elif isinstance(value, np.ndarray):
            digest.update(f"{name}:{value.dtype.str}:{value.shape}".encode())
            digest.update(np.ascontiguousarray(value))
        else:
            digest.update(f"{name}={value!r}".encode())

    add("", dict(data))
    return digest.hexdigest()[:16]
