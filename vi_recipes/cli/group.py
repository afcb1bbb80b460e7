"""What ends a command: its exit codes, and errors as sentences."""

from __future__ import annotations

import _thread
import errno
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

BAD_INPUT = 2
ALL_FAILED = 1
INTERRUPTED = 130


class Group(TyperGroup):
    """Commands whose errors are sentences, not tracebacks."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; turn errors and interrupts into exit codes."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            tell("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except (ValueError, OSError) as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise
            if ctx.meta.get("debug"):
                traceback.print_exc()
            else:
                tell(f"error: {error}")
                if not is_ours(error):
                    tell("(unexpected: --debug shows where it comes from)")
            raise typer.Exit(BAD_INPUT) from None


def is_ours(error: BaseException) -> bool:
    """Whether the error was raised on purpose: by this package, or by a model's own code."""
    frames = traceback.extract_tb(error.__traceback__)
    package = str(Path(__file__).resolve().parent.parent)
    return bool(frames) and (
        frames[-1].filename.startswith(package) or Path(frames[-1].filename).name == "model.py"
    )


def tell(text: str) -> None:
    """Say something on standard error; control characters in it are spelled out."""
    from vi_recipes.core import visible

    typer.echo(visible(text, lines=True), err=True)


def keep_interrupts(unraisable: Any) -> None:
    """Send Ctrl-C again where it fell on a garbage collection, which swallows exceptions."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        threading.Timer(0.05, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(unraisable)
