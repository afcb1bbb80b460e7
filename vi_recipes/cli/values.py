"""How values of options are read."""

from __future__ import annotations

import json
import re
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import (
    Any,
    Literal,
    get_args,
    get_origin,
)

from vi_recipes.core import load_object, members, unknown

_FILE_REFERENCE = re.compile(r".+\.py:\w+")

_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


# -- values ----------------------------------------------------------------------------------


_PLAIN: dict[Any, list[str]] = {
    int: ["integer"],
    float: ["number"],
    str: ["text"],
    Path: ["path"],
    bool: ["true", "false"],
    types.NoneType: ["none"],
}

_LISTS: tuple[Any, ...] = (tuple, list, Sequence)

_MAPPINGS: tuple[Any, ...] = (dict, Mapping)


class _MismatchError(Exception):
    """The text is not of the type."""


def parse_value(text: str, annotation: Any, what: str) -> Any:
    """Return ``text`` as a value of type ``annotation``.

    Numbers, words and ``none`` are read as they stand; lists as JSON or ``a,b``, mappings as JSON;
    objects that only Python can make, such as a guide, from ``file.py:NAME``.

    Raises
    ------
    ValueError
        Naming ``what``, what was got and what was expected.

    Examples
    --------
    >>> parse_value("[3, 4]", tuple[int, ...] | None, "x")
    (3, 4)
    """
    for member in sorted(members(annotation), key=_rank):
        try:
            return _read(text.strip(), member)
        except _MismatchError:
            continue
    words = [str(w) for m in members(annotation) if get_origin(m) is Literal for w in get_args(m)]
    if words and all(get_origin(m) is Literal for m in members(annotation)):
        raise ValueError(f"--set: {unknown(f'value of {what}:', text, words)}")
    raise ValueError(f"--set: {what}: got {text!r}, expected {describe(annotation)}")


def describe(annotation: Any) -> str:
    """Return a type in words that say what to type."""
    words: list[str] = []
    for member in members(annotation):
        origin, arguments = get_origin(member) or member, get_args(member)
        if origin is Literal:
            words += map(str, arguments)
        elif origin is Any:
            words += ["text", "number", "file.py:NAME"]
        elif member in _PLAIN:
            words += _PLAIN[member]
        elif origin in _LISTS:
            words.append(f"list of {describe(arguments[0]) if arguments else 'values'}")
        elif origin in _MAPPINGS:
            words.append("JSON object")
        else:
            words.append("file.py:NAME")
    words = list(dict.fromkeys(words))
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _rank(member: Any) -> int:
    """Return when to try a type: the pickiest first, text last."""
    if get_origin(member) is Literal:
        return 1
    order = {types.NoneType: 0, bool: 2, int: 3, float: 4, Any: 7, str: 8}
    return 5 if _is_container(member) else order.get(member, 6)


def _is_container(member: Any) -> bool:
    return (get_origin(member) or member) in _LISTS + _MAPPINGS


def has_text(annotation: Any) -> bool:
    """Whether values of a type can be typed as text, all of its members."""
    return all(
        m in _PLAIN or m is Any or get_origin(m) is Literal or _is_container(m)
        for m in members(annotation)
    )


def _read(text: str, member: Any) -> Any:
    """Return ``text`` as one type that is not a union, or raise :class:`_MismatchError`."""
    if get_origin(member) is Literal:
        for word in get_args(member):
            if text == str(word):
                return word
        raise _MismatchError
    if member is types.NoneType:
        return _choose(text.lower() in ("none", "null"), None)
    if member is bool:
        return _choose(text.lower() in _TRUE + _FALSE, text.lower() in _TRUE)
    if member in (int, float):
        return _number(text, member)
    if member in (str, Path):
        return member(text)
    if _is_container(member):
        try:
            return _conform(json.loads(text), member)
        except ValueError:
            return _conform(_split(text, member), member)
    if _FILE_REFERENCE.fullmatch(text):
        value = load_object(text)
        is_class = member is not Any and isinstance(member, type)
        return _choose(not is_class or isinstance(value, member), value)
    if member is Any:
        try:
            return json.loads(text)
        except ValueError:
            return text
    raise _MismatchError


def _split(text: str, member: Any) -> list[Any]:
    """Return a list typed without JSON's brackets and quotes: ``a,b``."""
    if (get_origin(member) or member) not in _LISTS or text.startswith(("[", "{")):
        raise _MismatchError
    values = []
    for part in text.split(","):
        try:
            values.append(json.loads(part))
        except ValueError:
            values.append(part.strip())
    return values


def _choose[T](matches: bool, value: T) -> T:
    if not matches:
        raise _MismatchError
    return value


def _number(text: str, kind: Callable[[Any], Any]) -> Any:
    try:
        value = float(text)
        if kind is float:
            return value
        return int(text) if not value.is_integer() or "e" not in text.lower() else int(value)
    except (ValueError, OverflowError):
        raise _MismatchError from None


def _conform(value: Any, annotation: Any) -> Any:
    """Return a decoded JSON value as a value of ``annotation``."""
    for member in members(annotation):
        try:
            return _conform_one(value, member)
        except _MismatchError:
            continue
    raise _MismatchError


def _conform_one(value: Any, member: Any) -> Any:
    origin, arguments = get_origin(member) or member, get_args(member)
    if origin is Literal:
        return _choose(value in arguments, value)
    if member is Any or (member is types.NoneType and value is None):
        return value
    if member is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if member in (int, str, bool):
        return _choose(type(value) is member, value)
    if origin in _MAPPINGS and isinstance(value, dict):
        of = arguments[1] if arguments else Any
        return {key: _conform(item, of) for key, item in value.items()}
    if origin in (list, Sequence) and isinstance(value, list):
        return [_conform(item, arguments[0] if arguments else Any) for item in value]
    if origin is tuple and isinstance(value, list):
        if not arguments or arguments[-1] is Ellipsis:
            return tuple(_conform(item, arguments[0] if arguments else Any) for item in value)
        _choose(len(arguments) == len(value), None)
        return tuple(_conform(v, of) for v, of in zip(value, arguments, strict=True))
    raise _MismatchError
