"""Files that are kept: whole at any moment, and read only for what they belong to."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from vi_recipes.core.checked import unreadable
from vi_recipes.core.status import CheckpointError

if TYPE_CHECKING:
    import numpy as np

WIDTH = 200
"""Characters of a description that a message shows."""


def write_whole(
    path: str | Path, content: str | bytes | Callable[[Path], object], *, size: int = 0
) -> Path:
    """Write a file in place of an old one, whole or not at all; return its path.

    It is written beside its place, under a name with this process's number, and then put there. So
    an interrupt, an error, a full disk or a killed process leaves the old file, and whoever reads
    at the same time has the old or the new one and no half.

    Parameters
    ----------
    path
        Of the file, in a folder that exists.
    content
        Text, which is written in UTF-8, or bytes; or what writes a file to the path it is given.
    size
        Bytes that it may take: where there is no room for them, nothing is begun. Some libraries,
        HDF5 among them, crash on a disk that fills up under them.

    Raises
    ------
    OSError
        Where it cannot be written, and whatever ``content`` raises; what was written is removed.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.unlink(missing_ok=True)
        # made here and now: what another process put there, such as a link, is not written through
        made = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        try:
            if size and hasattr(os, "posix_fallocate"):  # not everywhere
                os.posix_fallocate(made, 0, size)
                os.ftruncate(made, 0)
        finally:
            os.close(made)
        if callable(content):
            content(beside)
            if not beside.stat().st_size:
                raise FileNotFoundError(f"{path}: nothing was written")
        else:
            beside.write_bytes(
                # half of a pair of surrogates, in a name, has no UTF-8
                content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
            )
        with beside.open("rb+") as file:  # some disks say only now that they are full
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)  # a full disk's has none
        raise
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
    return path


@dataclass(frozen=True)
class KeptWords:
    """How complaints speak of a kept file.

    Parameters
    ----------
    argument
        What its path was given as, such as ``"checkpoint"``.
    damaged
        What a file is that cannot be read: ``"is no checkpoint of SVI that can be read"``.
    other
        What one is of something else: ``"is of another fit"``.
    elsewhere
        What to give in place of its path: ``"another path"``.
    going_on
        How to go on with what it is of: ``"fit with what the file is of"``.
    """

    argument: str
    damaged: str
    other: str
    elsewhere: str
    going_on: str


@dataclass(frozen=True)
class KeptFile:
    """A file that one run writes, again and again, and a later run goes on from.

    It says what it belongs to, so that no run goes on from what another one did.

    Parameters
    ----------
    path
        Of the file.
    identity
        What its content is of: name -> what JSON can hold. Reading compares them one by one.
    words
        How complaints speak of it.
    format
        Number of the form of its arrays and header.
    """

    path: Path
    identity: Mapping[str, Any]
    words: KeptWords
    format: int = 1

    # -- writing -------------------------------------------------------------------------------

    def write(self, content: str | bytes | Callable[[Path], object]) -> None:
        """Write the file (see :func:`write_whole`).

        Raises
        ------
        CheckpointError
            Where it cannot be written.
        """
        try:
            write_whole(self.path, content)
        except OSError as error:
            raise CheckpointError(
                f"{self.words.argument}: '{self.path}' cannot be written ({error}); make room, or "
                f"give {self.words.elsewhere}"
            ) from None

    def write_arrays(self, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Write arrays by name, with the identity and a header that JSON can hold.

        Reading them runs no code.
        """
        import numpy as np

        known = {"format": self.format, "identity": dict(self.identity), **header}

        def archive(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, allow_pickle=False, header=np.array(json.dumps(known)), **arrays)

        self.write(archive)

    # -- reading -------------------------------------------------------------------------------

    def read_arrays(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the header and the arrays of a file that :meth:`write_arrays` wrote.

        Raises
        ------
        CheckpointError
            For a file that cannot be read, and for one of something else.
        """
        import numpy as np

        with self.reading(), np.load(self.regular, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
            header: dict[str, Any] = json.loads(str(arrays.pop("header")))
            if header["format"] != self.format:
                raise ValueError(f"format {header['format']}, expected {self.format}")
            theirs = dict(header["identity"])
        self.check(theirs)
        return header, arrays

    @property
    def regular(self) -> Path:
        """The path, of a file and no pipe; raises a :class:`ValueError` for what is none."""
        if reason := unreadable(self.path):
            raise ValueError(reason)
        return self.path

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Take whatever the block raises as a sign that the file is damaged, and say so."""
        try:
            yield
        except CheckpointError:
            raise
        except Exception as error:  # a damaged archive raises whatever it likes
            raise CheckpointError(
                f"{self.words.argument}: '{self.path}' {self.words.damaged} "
                f"({type(error).__name__}: {error}); delete it, or give {self.words.elsewhere}"
            ) from None

    def check(self, theirs: Mapping[str, Any]) -> None:
        """Raise a :class:`CheckpointError` unless the file's identity is what it should be."""
        for name, mine in self.identity.items():
            if theirs.get(name) != mine:
                raise self.refusal(name, str(theirs.get(name)), str(mine))

    def refusal(self, name: str, theirs: str, mine: str) -> CheckpointError:
        """Return the complaint about a file of something else, which says where they differ."""
        return CheckpointError(
            f"{self.words.argument}: '{self.path}' {self.words.other}: its {name} is "
            f"{shorten(theirs, WIDTH)}, and here it is {shorten(mine, WIDTH)}. To begin anew, "
            f"delete the file or give {self.words.elsewhere}; to go on, {self.words.going_on}"
        )
