"""What ends a command: its exit codes, and errors as sentences."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from vi_recipes.cli import interrupts
from vi_recipes.core import told

BAD_INPUT = 2
ALL_FAILED = 1

_OF_TYPER: tuple[type[BaseException], ...] = (
    typer.Exit,
    typer.Abort,
    *(kind for kind in typer.BadParameter.__mro__ if kind not in Exception.__mro__),
)
"""What typer ends a command with by itself: exits and bad usage."""


class CommandGroup(TyperGroup):
    """Commands whose errors are sentences, not tracebacks."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; turn errors and interrupts into exit codes."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            tell(interrupts.said(*map(str, interrupt.args)))
            raise typer.Exit(interrupts.exit_code()) from None
        except _OF_TYPER as error:
            said = str(getattr(error, "message", ""))
            if said.startswith("Got unexpected extra argument"):
                # a shell puts all the files of a pattern there
                error.message = f"{said}; a pattern of files stands in quotes: 'fit-*.csv'"  # type: ignore[attr-defined]
            raise
        except (Exception, SystemExit) as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # whoever read has gone
            if ctx.meta.get("debug"):
                traceback.print_exc()
            elif isinstance(error, OSError) and (error.errno, error.filename) == (
                errno.ENOSPC,
                None,
            ):
                tell("error: no room is left where standard output goes")
            elif is_ours(error):
                tell(f"error: {error}")
            else:
                tell(f"error: {told(error)}; unexpected: --debug shows where it comes from")
            raise typer.Exit(BAD_INPUT) from None


def is_ours(error: BaseException) -> bool:
    """Whether the error was raised on purpose: by this package, or by a model's own code."""
    if not isinstance(error, ValueError | OSError):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    package = str(Path(__file__).resolve().parent.parent)
    return bool(frames) and (
        frames[-1].filename.startswith(package) or Path(frames[-1].filename).name == "model.py"
    )


def tell(text: str) -> None:
    """Say something on standard error; control characters in it are spelled out."""
    from vi_recipes.core import visible

    typer.echo(visible(text, lines=True), err=True)


def keep_code(no_cache: bool) -> None:
    """Keep compiled code for the next command, unless told not to."""
    from vi_recipes.core import use_cache

    if not no_cache:
        use_cache(tell=tell)


def tell_warning(message: Warning | str, *_: object, **__: object) -> None:
    """Say a warning in a line, without the code that gave it."""
    tell(f"warning: {message}")


def open_closed_streams() -> None:
    """Put the null device in the place of standard streams that are closed (``2>&-``).

    A file that is opened later would have their number, and what a library prints would go into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it takes the lowest number that is free
        if getattr(sys, name) is None:
            mode = "r" if number == 0 else "w"
            stream = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, stream)


@contextmanager
def printing(kept: str = "") -> Iterator[None]:
    """Print in the block; where the screen takes no more, say so and what is kept elsewhere.

    Raises
    ------
    ValueError
        Where standard output cannot be written, such as one that goes to a full disk. A reader who
        has gone (``| head``) is no error of ours.
    """
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        # what is left in the buffer would be complained of again when the program ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if error.errno == errno.EPIPE:
            raise
        raise ValueError(
            f"standard output cannot be written ({error.strerror or error}){kept}"
        ) from None
