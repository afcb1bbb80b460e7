"""Standard output that is kept for the machine-readable result, and pipes that are written to."""

from __future__ import annotations

import errno
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

import typer

_kept: list[TextIO] = []
"""The standard output that nothing but the result is written to, while it is kept."""

_open_pipes: dict[Path, int] = {}


def keep_stdout(ctx: typer.Context, value: Path | None) -> Path | None:
    """Keep standard output for the result, where that is asked for with ``--json -``.

    From here on whatever else is printed, by the model too, goes to standard error.
    """
    if str(value) == "-" and not ctx.resilient_parsing and not _kept:
        original = sys.stdout
        stream, restore = _apart(original)
        _kept.append(stream)
        sys.stdout = sys.stderr

        @ctx.call_on_close
        def _() -> None:
            with suppress(OSError, ValueError):
                sys.stdout.flush()
            sys.stdout = original
            _kept.clear()
            restore()

    return value


def _apart(original: TextIO) -> tuple[TextIO, Any]:
    """Return a stream to where ``original`` leads, what libraries print there going elsewhere."""
    try:
        descriptor, errors = original.fileno(), sys.stderr.fileno()
        original.flush()
        kept = os.dup(descriptor)
    except (OSError, ValueError):  # in memory, or closed
        return original, lambda: None
    stream = os.fdopen(kept, "w", encoding=original.encoding, errors="replace", newline="")
    os.dup2(errors, descriptor)

    def restore() -> None:
        with suppress(OSError, ValueError):
            stream.flush()
        os.dup2(kept, descriptor)

    return stream, restore


def result_stream() -> TextIO:
    """Return the stream that the result is written to."""
    return _kept[0] if _kept else sys.stdout


def check_pipe(path: Path) -> None:
    """Open a pipe to write to; raise a :class:`ValueError` where nobody reads it.

    It stays open until it is written: who reads would take its closing for the end.
    """
    try:
        if not stat.S_ISFIFO(os.stat(path).st_mode):
            return
        _open_pipes[path] = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise ValueError(
                f"--json: {path} is a pipe that nobody reads; start its reader first, or give a "
                "file"
            ) from None


def write_pipe(text: str, path: Path) -> bool:
    """Write to a pipe that :func:`check_pipe` has opened; return whether there is one."""
    descriptor = _open_pipes.pop(path, None)
    if descriptor is None:
        return False
    os.set_blocking(descriptor, True)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return True
