"""A sweep written down: ``grid.toml``, whose keys are the arguments of :func:`vi_recipes.sweep`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vi_recipes.core import unknown, unreadable

KEYS = ("models", "methods", "seeds", "data", "truth", "level", "assessed", "exclusive")


@dataclass(frozen=True)
class Grid:
    """What a file asks for.

    Parameters
    ----------
    models, methods
        Names or files of models, and names of methods; ``None`` for those that apply.
    arguments
        The other arguments of :func:`vi_recipes.sweep`.
    """

    models: list[str]
    methods: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


def read_grid(path: Path) -> Grid:
    """Read a grid from a TOML file; files that it names are beside it.

    Raises
    ------
    ValueError
        For what cannot be read, and for keys and values that mean nothing, which it names.
    """
    if reason := unreadable(path):
        raise ValueError(f"{path} {reason}")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: it is no TOML ({error})") from None
    for key in content:
        if key not in KEYS:
            raise ValueError(f"{path}: {unknown('key', key, KEYS)}")
    models = _texts(content, "models", path)
    if not models:
        what = "got none" if "models" in content else "it is missing"
        raise ValueError(f'{path}: models: {what}, expected such as models = ["eight_schools"]')
    methods = _texts(content, "methods", path)
    if "methods" in content and not methods:
        raise ValueError(
            f'{path}: methods: got none, expected such as methods = ["map"]; leave it out for '
            "those that apply"
        )
    rest = {k: v for k, v in content.items() if k not in ("models", "methods")}
    for key, kind, words in (
        ("seeds", int | list, "a number of seeds or a list of them"),
        ("level", float, "a number between 0 and 1, such as 0.9"),
        ("truth", str | dict, '"prior", or a table site = value'),
        ("data", str | dict, "a file, or a table name = file"),
        ("assessed", bool, "true or false"),
        ("exclusive", bool, "true or false"),
    ):
        if key in rest and not isinstance(rest[key], kind):
            raise ValueError(f"{path}: {key}: got {rest[key]!r}, expected {words}")
    if "data" in rest:
        given = rest["data"]
        named = given if isinstance(given, dict) else {Path(given).stem: given}
        for name, file in named.items():
            if not (isinstance(file, str) and file.strip()):
                raise ValueError(f"{path}: data: got {file!r} for '{name}', expected a file")
        rest["data"] = {name: _beside(path, file) for name, file in named.items()}
    models = [str(_beside(path, one)) if _is_file(one) else one for one in models]
    return Grid(models, ",".join(methods) if methods else None, rest)


def _texts(content: Mapping[str, Any], key: str, path: Path) -> list[str]:
    given = content.get(key, [])
    several = [given] if isinstance(given, str) else given
    if not isinstance(several, list) or not all(isinstance(one, str) for one in several):
        raise ValueError(f"{path}: {key}: got {given!r}, expected a list of names")
    return list(several)


def _is_file(model: str) -> bool:
    return ".py" in model


def _beside(path: Path, file: str) -> Path:
    return path.resolve().parent / file
