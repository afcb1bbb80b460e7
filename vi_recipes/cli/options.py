"""From the words typed at the command line to methods and arguments, typed and checked."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Any,
    get_type_hints,
)

from vi_recipes.cli.values import (
    describe,
    has_text,
    parse_value,
)
from vi_recipes.core import unknown

if TYPE_CHECKING:
    from vi_recipes.methods import Method
    from vi_recipes.model import Model, Target


Settings = dict[str, dict[str, str]]
"""From ``--set``: the method's name in the comparison, or ``model`` -> option -> text."""


MODEL = "model"

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
    from vi_recipes.methods import parse_methods

    entries = parse_methods(text, "--methods")
    if MODEL in entries:
        raise ValueError(
            f"--methods: '{MODEL}' cannot name a method: --set {MODEL}.name=value is the model's"
        )
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
        values[name] = parse_value(text, hint if has_text(hint) else Any, f"{MODEL}.{name}")
    return values


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
    from vi_recipes.methods import Method

    docs = _parameter_docs(inspect.getdoc(method) or "")
    hints = option_types(method)
    default = method()
    made = []
    for name, hint in hints.items():
        value, doc = getattr(default, name), docs.get(name, "")
        if isinstance(value, Method):
            first = next(iter(option_types(type(value))))
            doc += (
                f" Its options are set as this method's own, as in {method.key}.{first}=...; "
                f"'vi-recipes methods {value.key}' lists them."
            )
        made.append(Option(name, describe(hint), _text(value), doc))
    return made


def _text(value: Any) -> str:
    from vi_recipes.methods import Method

    if isinstance(value, Method):
        return value.key
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
        text = re.sub(r":\w+:`~[\w.]*?(\w+)`", r"\1", " ".join(body.split()))
        text = re.sub(r"``|:\w+:`(?=[^`]*`)|`", "", text)
        docs.update({name.strip(): text for name in head.split(" : ")[0].split(",") if text})
    return docs
