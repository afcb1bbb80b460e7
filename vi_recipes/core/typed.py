"""Whether fields of dataclasses, and arguments of functions, hold what their annotations say."""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, wraps
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


_CURES: dict[str, str] = {
    "Fit": "a Fit: a method makes one, as in vi_recipes.MAP().fit(target)",
    "Target": "a Target; make one with vi_recipes.Target(model, **data), the model a function, or "
    "of a data frame by vi_recipes.glmm(formula, frame)",
}
"""What our own classes are called, and how one comes by them."""

LONGEST = 80
"""Characters of a value that a complaint shows; of a longer one it says the type."""


def check_arguments[**P, T](*names: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Return a decorator: functions that raise a :class:`ValueError` for arguments of a wrong type.

    What users call stands behind it, so that what is passed in the wrong place is told by name, and
    not by what is first done with it. Checked are numbers, text, paths, lists of names, mappings,
    functions and classes of this package.

    Parameters
    ----------
    *names
        The arguments that are checked.
    """

    def checking(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)
        kinds = cache(lambda: _kinds(function, names))  # annotations may name what follows

        @wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> T:
            given = signature.bind(*args, **kwargs).arguments
            for name, annotation in kinds().items():
                if name in given and not _suits(given[name], annotation):
                    expected = _in_words_with_cure(annotation)
                    if isinstance(given[name], Mapping):  # of a comparison one of its fits is meant
                        held = [k for k, v in given[name].items() if _suits(v, annotation)]
                        expected = (
                            f"one of what it holds, such as [{held[0]!r}]" if held else expected
                        )
                    raise ValueError(f"{name}: got {_shown(given[name])}, expected {expected}")
            return function(*args, **kwargs)

        return checked

    return checking


def _kinds(function: Callable[..., Any], names: Iterable[str]) -> dict[str, Any]:
    """Return the types of arguments by name, of those that can be told here."""
    known, place = function.__annotations__, inspect.unwrap(function).__globals__
    found: dict[str, Any] = {}
    for name in names:
        try:
            only = types.SimpleNamespace(__annotations__={name: known[name]})
            found |= get_type_hints(only, place)
        except NameError:  # what only a type checker imports
            continue
    return found


def _suits(value: Any, annotation: Any) -> bool:
    """Whether a value is of a type, classes of this package included, and any list of names."""
    for member in members(annotation):
        origin, arguments = get_origin(member) or member, get_args(member)
        if origin in (tuple, list, Sequence) and arguments[:1] == (str,):
            if isinstance(value, str):
                return True
            if isinstance(value, Iterable) and not isinstance(value, bytes):
                named = list(value) if hasattr(value, "__len__") else []
                if all(isinstance(name, str) for name in named):
                    return True
        elif isinstance(member, type) and member.__module__.startswith("vi_recipes."):
            if isinstance(value, member):
                return True
        elif _fits_one(value, member):
            return True
    return False


def _in_words_with_cure(annotation: Any) -> str:
    """Return a type in words, with how one comes by it if it is one of ours."""
    only = members(annotation)
    if len(only) == 1 and (cure := _CURES.get(getattr(only[0], "__name__", ""))):
        return cure
    return in_words(annotation)


def _shown(value: Any) -> str:
    """Return a value as a complaint shows it."""
    text = repr(value)
    plain = len(text) <= LONGEST and "\n" not in text and " at 0x" not in text
    return text if plain else type(value).__name__


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
