"""A model function with its data, traced arrays apart."""

from __future__ import annotations

import inspect
from typing import Any

from vi_recipes.model.model import Model

Arrays = tuple[Any, ...]


def _with_defaults(model: Model, data: dict[str, Any]) -> dict[str, Any]:
    if model.data is None:
        return data
    known = inspect.signature(model.function).parameters
    required = [n for n, p in known.items() if p.default is p.empty]
    if data and all(name in data for name in required):
        return data
    return {**model.data(), **data}
