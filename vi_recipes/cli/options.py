"""From the words typed at the command line to methods and arguments, typed and checked."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    TypeAliasType,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from vi_recipes.model.load import load_object, unknown

if TYPE_CHECKING:
    from vi_recipes.methods.base import Method
    from vi_recipes.model.model import Model
    from vi_recipes.model.target import Target

Settings = dict[str, dict[str, str]]
"""From ``--set``: the method's name in the comparison, or ``model`` -> option -> text."""

MODEL = "model"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_FILE_REFERENCE = re.compile(r".+\.py:\w+")
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


# -- --set and --methods ---------------------------------------------------------------------


def parse_settings(pairs: Sequence[str]) -> Settings:
    """Return ``name.option=value`` settings, the last of each option."""
    settings: Settings = {}
    for pair in pairs:
        left, equals, value = pair.partition("=")
        # a label may hold dots, an option cannot
        name, dot, option = left.strip().rpartition(".")
        if not (equals and dot and name and option):
            raise ValueError(
                f"--set: got {pair!r}, expected name.option=value, such as "
                "nuts.num_samples=2000 or model.num_components=3"
            )
        settings.setdefault(name, {})[option] = value
    return settings


def parse_methods(text: str) -> dict[str, str]:
    """Return the methods asked for: name in the comparison -> name of the method."""
    from vi_recipes.methods import METHODS

    entries: dict[str, str] = {}
    for entry in text.split(","):
        if not entry.strip():
            continue
        label, _, method = (part.strip() for part in entry.rpartition("="))
        label = label or method
        if method not in METHODS:
            raise ValueError(f"--methods: {unknown('method', method, METHODS)}")
        if not _NAME.fullmatch(label) or label == MODEL:
            raise ValueError(
                f"--methods: {label!r} cannot name a method; use letters, digits, '_', '-' and "
                f"'.', and not '{MODEL}'"
            )
        if label in entries:
            raise ValueError(
                f"--methods: '{label}' is listed twice; give the second a name of its own, as in "
                f"{label},other={method}"
            )
        entries[label] = method
    if not entries:
        raise ValueError(f"--methods: got {text!r}, expected one or more of {', '.join(METHODS)}")
    return entries


def build_methods(
    entries: Mapping[str, str] | None, settings: Settings, target: Target
) -> dict[str, Method]:
    """Return the methods by name, with their options set.

    Parameters
    ----------
    entries
        From :func:`parse_methods`; ``None`` for every method that applies to ``target``.
    settings
        From :func:`parse_settings`.
    target
        What they are for.
    """
    from vi_recipes.methods import default_methods, make_method

    if entries is None:
        methods = default_methods(target)
    else:
        methods = {label: make_method(name, target) for label, name in entries.items()}
    for label, texts in settings.items():
        if label == MODEL:
            continue
        if label not in methods:
            raise ValueError(f"--set: {unknown('method', label, [*methods, MODEL])}")
        methods[label] = set_options(methods[label], label, texts)
    return methods


def set_options(method: Method, label: str, texts: Mapping[str, str]) -> Method:
    """Return ``method`` with options read from text by their types.

    A method that corrects another (``base``) takes the other's options as its own.
    """
    hints = option_types(type(method))
    values: dict[str, Any] = {}
    base = getattr(method, "base", None)
    if base is not None:
        theirs = option_types(type(base))
        handed = {o: t for o, t in texts.items() if o in theirs and o not in hints}
        values["base"] = set_options(base, label, handed)
        texts = {o: t for o, t in texts.items() if o not in handed}
        hints = hints if not texts else {**hints, **theirs}
    for option, text in texts.items():
        if option not in hints:
            raise ValueError(f"--set: {unknown(f'option of {label}:', option, hints)}")
        values[option] = parse_value(text, hints[option], f"{label}.{option}")
    try:
        return dataclasses.replace(method, **values)
    except ValueError as error:
        raise ValueError(f"--set: method '{label}': {error}") from None


def option_types(method: type[Method]) -> dict[str, Any]:
    """Return the options of a method: name -> type."""
    hints = get_type_hints(method)
    return {field.name: hints[field.name] for field in dataclasses.fields(method) if field.init}


def model_arguments(model: Model, texts: Mapping[str, str]) -> dict[str, Any]:
    """Return keyword arguments of the model function, read from text by their annotations."""
    parameters = inspect.signature(model.function).parameters
    try:
        hints = get_type_hints(model.function)
    except Exception:  # annotations may name what only a type checker imports
        hints = {}
    values = {}
    for name, text in texts.items():
        if name not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            raise ValueError(f"--set: {unknown('argument of the model:', name, parameters)}")
        hint = hints.get(name, Any)
        # an array type has no text form of its own: arrays are JSON lists
        values[name] = parse_value(text, hint if _has_text(hint) else Any, f"{MODEL}.{name}")
    return values


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
    for member in sorted(_members(annotation), key=_rank):
        try:
            return _read(text.strip(), member)
        except _MismatchError:
            continue
    words = [str(w) for m in _members(annotation) if get_origin(m) is Literal for w in get_args(m)]
    if words and all(get_origin(m) is Literal for m in _members(annotation)):
        raise ValueError(f"--set: {unknown(f'value of {what}:', text, words)}")
    raise ValueError(f"--set: {what}: got {text!r}, expected {describe(annotation)}")


def describe(annotation: Any) -> str:
    """Return a type in words that say what to type."""
    words: list[str] = []
    for member in _members(annotation):
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


def _members(annotation: Any) -> list[Any]:
    """Return the members of a union, aliases resolved; the type itself if it is none."""
    if isinstance(annotation, TypeAliasType):
        return _members(annotation.__value__)
    origin = get_origin(annotation)
    if isinstance(origin, TypeAliasType):
        return _members(origin.__value__)
    if origin is Annotated:
        return _members(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [m for argument in get_args(annotation) for m in _members(argument)]
    return [annotation]


def _rank(member: Any) -> int:
    """Return when to try a type: the pickiest first, text last."""
    if get_origin(member) is Literal:
        return 1
    order = {types.NoneType: 0, bool: 2, int: 3, float: 4, Any: 7, str: 8}
    return 5 if _is_container(member) else order.get(member, 6)


def _is_container(member: Any) -> bool:
    return (get_origin(member) or member) in _LISTS + _MAPPINGS


def _has_text(annotation: Any) -> bool:
    return all(
        m in _PLAIN or m is Any or get_origin(m) is Literal or _is_container(m)
        for m in _members(annotation)
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
    for member in _members(annotation):
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


# -- what the options are --------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a method, for the table of ``vi-recipes methods NAME``."""

    name: str
    type: str
    default: str
    doc: str


def list_options(method: type[Method]) -> list[Option]:
    """Return the options of a method with their types, defaults and documentation."""
    docs = _parameter_docs(inspect.getdoc(method) or "")
    hints = option_types(method)
    default = method()
    return [
        Option(name, describe(hint), _text(getattr(default, name)), docs.get(name, ""))
        for name, hint in hints.items()
    ]


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list | dict):
        return json.dumps(value, default=str)
    return str(getattr(value, "__name__", value))


def _parameter_docs(doc: str) -> dict[str, str]:
    """Return the Parameters section of a NumPy docstring: name -> text."""
    match = re.search(
        r"^Parameters\n-+\n(.*?)(?=^\S[^\n]*\n-{3,}$|\Z)", doc, re.DOTALL | re.MULTILINE
    )
    docs: dict[str, str] = {}
    if not match:
        return docs
    for entry in re.split(r"^(?=\S)", match[1], flags=re.MULTILINE):
        head, _, body = entry.partition("\n")
        text = re.sub(r"``|:\w+:`(?=[^`]*`)|`", "", " ".join(body.split()))
        docs.update({name.strip(): text for name in head.split(" : ")[0].split(",") if text})
    return docs
