"""Whether the fields of a dataclass hold what their annotations say."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Literal,
    TypeAliasType,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

_WORDS: dict[Any, str] = {
    int: "an integer",
    float: "a number",
    bool: "True or False",
    str: "text",
    Path: "a path",
    types.NoneType: "None",
}


def check_fields(thing: Any) -> None:
    """Raise a :class:`ValueError` for a field of a dataclass that is not of its type.

    Numbers, text, lists, mappings and functions are checked. Other classes, such as optimisers,
    are left to whoever takes them: what does as one of them does.

    Parameters
    ----------
    thing
        An instance of a dataclass.
    """
    for name, annotation in _annotations(type(thing)).items():
        value = getattr(thing, name)
        if not _fits(value, annotation):
            raise ValueError(f"{name}: got {value!r}, expected {in_words(annotation)}")


def _annotations(kind: Any) -> dict[str, Any]:
    try:
        hints = get_type_hints(kind)
    except Exception:  # annotations may name what only a type checker imports
        return {}
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}


def members(annotation: Any) -> list[Any]:
    """Return the members of a union, aliases resolved; the type itself if it is none."""
    if isinstance(annotation, TypeAliasType):
        return members(annotation.__value__)
    origin = get_origin(annotation)
    if isinstance(origin, TypeAliasType):
        return members(origin.__value__)
    if origin is Annotated:
        return members(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [m for argument in get_args(annotation) for m in members(argument)]
    return [annotation]


def in_words(annotation: Any) -> str:
    """Return a type in the words of a complaint.

    Examples
    --------
    >>> in_words(tuple[int, ...] | None)
    'a list of integers or None'
    """
    words = []
    for member in members(annotation):
        origin = get_origin(member) or member
        if origin is Literal:
            words += [repr(word) for word in get_args(member)]
        elif member in _WORDS:
            words.append(_WORDS[member])
        elif origin in (tuple, list, Sequence):
            inner = in_words(get_args(member)[0]) if get_args(member) else "values"
            plural = {"an integer": "integers", "a number": "numbers", "text": "names"}
            words.append(f"a list of {plural.get(inner, inner)}")
        elif origin in (dict, Mapping):
            words.append("a mapping")
        elif origin is Callable:
            words.append("a function")
        else:
            words.append(getattr(member, "__name__", str(member)))
    words = list(dict.fromkeys(words))
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _fits(value: Any, annotation: Any) -> bool:
    return any(_fits_one(value, member) for member in members(annotation))


def _fits_one(value: Any, member: Any) -> bool:
    origin, arguments = get_origin(member) or member, get_args(member)
    if origin is Literal:
        # which words there are is told by whoever knows the closest one
        return isinstance(value, str) or (isinstance(value, int | None) and value in arguments)
    if member is bool:
        return isinstance(value, bool)
    if member in (int, float):
        kind = Integral if member is int else Real
        return isinstance(value, kind) and not isinstance(value, bool)
    if member in _WORDS:
        return isinstance(value, member)
    if origin in (tuple, list, Sequence):
        if isinstance(value, str | bytes) or not isinstance(value, Sequence):
            return False
        inner = arguments[0] if arguments else Any
        fixed = origin is tuple and arguments and arguments[-1] is not Ellipsis
        if fixed:
            return len(value) == len(arguments) and all(map(_fits, value, arguments))
        return all(_fits(item, inner) for item in value)
    if origin in (dict, Mapping):
        inner = arguments[1] if arguments else Any
        return isinstance(value, Mapping) and all(_fits(item, inner) for item in value.values())
    if origin is Callable:
        return callable(value)
    return True
