"""Errors as sentences: what went wrong, where in the user's own code, and what is lost by it."""

from __future__ import annotations

import os
import sysconfig
import traceback
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from vi_recipes.core.status import ModelError

PACKAGE = Path(__file__).resolve().parents[1]

MAX_LENGTH = 300
"""Characters of an error's own message that a sentence takes."""


MAX_SOURCE = 80
"""Characters of the user's line that a sentence takes."""


def warn(sentence: str) -> None:
    """Warn a user, at the line of theirs that called us, however deep in here it is said."""
    warnings.warn(sentence, skip_file_prefixes=(f"{PACKAGE}{os.sep}",))


def told(error: BaseException) -> str:
    """Return an error in a line: its kind, what it says, and the user's line that it comes from.

    Examples
    --------
    >>> told(KeyError("income"))
    "KeyError: 'income'"
    """
    lines = [line.strip() for line in str(error).split("\n") if line.strip()]
    says = lines[0] if lines else ""
    says = says if len(says) <= MAX_LENGTH else f"{says[: MAX_LENGTH - 1].rstrip()}…"
    match error:
        case SystemExit():
            says = f"it called sys.exit({says})"
        case MemoryError():
            says = says or "the memory is used up"
    text = f"{type(error).__name__}: {says}" if says else type(error).__name__
    # a syntax error says itself where it is
    place = "" if isinstance(error, SyntaxError) else place_of(error)
    return f"{text} ({place})" if place else text


def place_of(error: BaseException) -> str:
    """Return where the user's own code was when it raised: ``model.py, line 7: x = y["z"]``.

    Empty where none of the user's code was running.
    """
    frames = [f for f in traceback.extract_tb(error.__traceback__) if is_own(f.filename, f.name)]
    if not frames:
        return ""
    name = frames[-1].filename
    if not name.startswith("<"):
        path, here = Path(name), Path.cwd()
        name = str(path.relative_to(here)) if path.is_relative_to(here) else name
    source = (frames[-1].line or "").strip()
    shown = source if len(source) <= MAX_SOURCE else f"{source[: MAX_SOURCE - 1].rstrip()}…"
    return f"{name}, line {frames[-1].lineno}{f': {shown}' if shown else ''}"


def is_own(filename: str, function: str = "") -> bool:
    """Whether a file is the user's own: of no library, nor of this package, shipped models aside.

    Parameters
    ----------
    filename
        As a traceback has it.
    function
        The function within it: what dataclasses generate is in a file of no name.
    """
    if filename.startswith("<frozen") or (filename == "<string>" and function.startswith("__")):
        return False
    if filename.startswith(str(PACKAGE / "_content") + os.sep):
        return True
    return not filename.startswith(_libraries()) and not {
        "site-packages",
        "dist-packages",
    } & set(Path(filename).parts)


@cache
def _libraries() -> tuple[str, ...]:
    keys = ("stdlib", "purelib", "platlib", "scripts")
    folders = [Path(sysconfig.get_path(key)) for key in keys]
    return tuple(str(folder.resolve()) + os.sep for folder in (*folders, PACKAGE))


def attempt[T](make: Callable[[], T], lost: Callable[[str], T]) -> T:
    """Return what ``make`` makes; where it raises, what stands in its place.

    What one part of a result raises must not take the other parts along.

    Parameters
    ----------
    make
        Makes the part.
    lost
        Given the error in a line, returns what stands in.
    """
    try:
        return make()
    except (Exception, SystemExit) as error:
        return lost(told(error))


def called[T](what: str, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call a function that a model brings along.

    Raises
    ------
    ModelError
        In place of whatever it raises, with ``what`` it is and the user's line.
    """
    try:
        return function(*args, **kwargs)
    except ModelError:
        raise
    except (Exception, SystemExit) as error:
        raise ModelError(f"{what} raised {told(error)}") from error
