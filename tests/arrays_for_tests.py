"""What the tests check annotations by: those of arrays with named axes, and no others.

``pyproject.toml`` has jaxtyping put it on every function of the numerics. Types without axes are
mypy's business.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray


def check_arrays[F: Callable[..., Any]](function: F) -> F:
    """Return ``function`` with its arguments' and its result's arrays checked at every call."""
    kept = {}
    for name, hint in function.__annotations__.items():
        if isinstance(hint, str):
            try:
                hint = eval(hint, function.__globals__)
            except NameError:  # a name for type checkers alone: no array
                continue
        if has_axes(hint):
            kept[name] = hint
    function.__annotations__ = kept
    return beartype(function)


def has_axes(hint: Any) -> bool:
    """Whether a type is that of an array with named axes, or holds one."""
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(has_axes(part) for part in get_args(hint))
