"""A folder of compiled code, from which the next process of the same code reads it.

It is JAX's own persistent compilation cache, in a folder for this processor and these versions,
bounded in size. What is traced is traced again: only XLA's seconds are saved.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import stat
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from vi_recipes.core.errors import warn
from vi_recipes.core.versions import version_of

VARIABLE = "VI_RECIPES_CACHE"
"""Environment variable: the folder, or ``off``."""

OFF = ("off", "0", "no", "false")

MAX_BYTES = 500_000_000
"""From which the code that was longest unused is deleted."""

LEAST_ROOM = 100_000_000
"""Bytes that are left on the disk, below which no code is written."""

LEAST_SECONDS = 0.02
"""What compiles more quickly is not worth a file."""

_OF_JAX = r"Error (reading|writing) persistent compilation cache entry"


def use_cache(
    folder: Path | str | None = None, *, tell: Callable[[str], None] = warn
) -> Path | None:
    """Keep compiled code for later processes, and use what earlier ones kept.

    It is for the whole process and is never called on import. Numbers are the same to rounding:
    code that is read back may round the last digit otherwise. Whoever can write to the folder can
    have this process run their code: it has to belong to you alone.

    Parameters
    ----------
    folder
        Where; by default what the environment variable ``VI_RECIPES_CACHE`` says, else the user's
        cache folder. A folder for this processor and these versions is made in it.
    tell
        Told, once, why there is no cache, or why one cannot be read or written.

    Returns
    -------
    Path or None
        Where the code is kept; ``None`` where it is not: ``VI_RECIPES_CACHE=off``, or a folder that
        cannot be made, is full, or is not yours alone.
    """
    import jax
    from jax.experimental.compilation_cache.compilation_cache import reset_cache

    given = os.environ.get(VARIABLE, "")
    if folder is None and given.lower() in OFF:
        return None
    if folder is None and (theirs := jax.config.jax_compilation_cache_dir):
        return Path(theirs)  # JAX's own variable is set
    try:
        place = _place(folder or given)
    except OSError as error:
        where = error.filename or folder or given
        tell(f"compiled code is not kept: {where}: {error.strerror or error}")
        return None
    _say_once(tell, place)
    _reads.listen()
    settings = {
        "jax_compilation_cache_dir": str(place),
        "jax_compilation_cache_max_size": MAX_BYTES,
        "jax_persistent_cache_min_compile_time_secs": LEAST_SECONDS,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    for name, value in settings.items():
        jax.config.update(name, value)  # type: ignore[no-untyped-call]
    reset_cache()  # for a process that has compiled something already
    return place


def programs_read() -> int:
    """Return how many programs this process has read from :func:`use_cache`'s folder."""
    return _reads.number


def _place(folder: Path | str) -> Path:
    """Return the folder for this machine, made and tried; raise :class:`OSError` if it will not do.

    Code for another processor may use instructions that this one has not.
    """
    import platformdirs

    root = Path(folder).expanduser() if folder else platformdirs.user_cache_path("vi_recipes")
    versions = "-".join(f"{name}{version_of(name)}" for name in ("jax", "jaxlib"))
    place = root / f"{versions}-{_processor()}"
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = place.stat()
    alone = not stat.S_IMODE(held.st_mode) & (stat.S_IWGRP | stat.S_IWOTH)
    if hasattr(os, "getuid") and not (alone and held.st_uid == os.getuid()):
        raise PermissionError(13, "others can write to it, and so have code run here", str(place))
    with tempfile.TemporaryFile(dir=place):
        pass
    if shutil.disk_usage(place).free < LEAST_ROOM:
        raise OSError(28, "its disk is nearly full", str(place))
    return place


def _processor() -> str:
    """Return a mark of the processor and what it can do."""
    known = [platform.machine(), platform.processor(), os.environ.get("XLA_FLAGS", "")]
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
        known += sorted({x for x in lines if x.startswith(("flags", "Features", "model name"))})
    return hashlib.sha256("\n".join(known).encode()).hexdigest()[:12]


def _say_once(tell: Callable[[str], None], place: Path) -> None:
    """Have one sentence said of what JAX warns of program by program.

    What cannot be read is deleted with the rest of the folder, so that the next process has code
    that can.
    """
    before, said = warnings.showwarning, False

    def show(message: Warning | str, *args: Any, **kwargs: Any) -> None:
        nonlocal said
        if not re.match(_OF_JAX, str(message)):
            before(message, *args, **kwargs)
        elif not said:
            said = True
            why = str(message).partition("': ")[2]
            if str(message).startswith("Error reading"):
                _empty(place)
            tell(f"compiled code in {place} cannot be used, and is compiled anew ({why})")

    warnings.filterwarnings("always", message=_OF_JAX)
    warnings.showwarning = show


def _empty(place: Path) -> None:
    """Delete what is kept: a process that was killed as it wrote leaves a file that JAX keeps."""
    for path in place.glob("*-cache"):
        with suppress(OSError):
            path.unlink()


class _Reads:
    """Counts what JAX reads from the folder."""

    def __init__(self) -> None:
        self.number = 0
        self.listens = False

    def listen(self) -> None:
        import jax

        if not self.listens:
            jax.monitoring.register_event_listener(self._count)
            self.listens = True

    def _count(self, event: str, **_: Any) -> None:
        self.number += event == "/jax/compilation_cache/cache_hits"


_reads = _Reads()
