"""Whether what was read from a file is what was written there, before anything is made of it."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vi_recipes.core.text import visible

Check = Callable[[Any], bool]
"""Whether a value, as JSON gives it, is of a kind."""


def is_text(value: Any) -> bool:
    """Whether it is text."""
    return isinstance(value, str)


def is_flag(value: Any) -> bool:
    """Whether it is true or false."""
    return isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a number; NaN and infinity are."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: Any) -> bool:
    """Whether it is a whole number, not below 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_list(of: Check) -> Check:
    """Return the kind of lists whose entries are all of a kind."""
    return lambda value: isinstance(value, list) and all(map(of, value))


def is_table(of: Check) -> Check:
    """Return the kind of mappings from text to what is of a kind."""
    return lambda value: isinstance(value, Mapping) and all(map(of, value.values()))


def is_record(kinds: Mapping[str, Check]) -> Check:
    """Return the kind of mappings that have these fields, and no other."""
    return lambda value: (
        isinstance(value, Mapping)
        and (
            value.keys() == kinds.keys() and all(kind(value[name]) for name, kind in kinds.items())
        )
    )


def is_one_of(*kinds: Check) -> Check:
    """Return the kind of what is of one of several."""
    return lambda value: any(kind(value) for kind in kinds)


def is_nothing(value: Any) -> bool:
    """Whether it is null."""
    return value is None


def check_content(
    content: Any, kinds: Mapping[str, Check], *, optional: Mapping[str, Check]
) -> None:
    """Raise a :class:`ValueError` that names the first field that is missing or of no such kind.

    Fields that no one asks for are let alone.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"it holds a {type(content).__name__}, expected an object")
    for name, kind in kinds.items():
        if name not in content:
            raise ValueError(f"it has no '{name}'")
        if not kind(content[name]):
            raise ValueError(f"'{name}' is {visible(repr(content[name]))[:80]}")
    for name, kind in optional.items():
        if name in content and not kind(content[name]):
            raise ValueError(f"'{name}' is {visible(repr(content[name]))[:80]}")


# -- files -----------------------------------------------------------------------------------


NO_FILE = "does not exist"
"""What :func:`unreadable` says of a path where nothing is."""


def unreadable(path: Path, expected: str = "a file") -> str:
    """Return what keeps a path from being a file that can be read, as a sentence; or nothing.

    Pipes and devices are no files: one that nobody writes to would be waited for forever.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return NO_FILE if isinstance(error, FileNotFoundError) else str(error.strerror)
    if stat.S_ISDIR(mode):
        return f"is a directory; expected {expected}"
    if not stat.S_ISREG(mode):
        return f"is a pipe or a device; expected {expected}"
    return ""


def inside(path: Path, directory: Path) -> Path:
    """Return ``path`` if what is there, if anything, is inside of ``directory``.

    Raises
    ------
    ValueError
        If a link leads elsewhere.
    """
    if not path.resolve().is_relative_to(directory.resolve()):
        raise ValueError(f"{path} is a link to outside of {directory}, which is not followed")
    return path


def within(path: Path, directory: Path) -> Path:
    """Return ``path`` if it is a file inside of ``directory``, links followed.

    Raises
    ------
    ValueError
        If it is elsewhere, or no file.
    """
    inside(path, directory)
    if reason := unreadable(path):
        raise ValueError(f"{path} {reason}")
    return path
