"""Folders that a command writes: of one kind, and through no link."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Container, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, override
from weakref import finalize

from vi_recipes.core.beside import Beside
from vi_recipes.core.status import CheckpointError

if TYPE_CHECKING:
    from filelock import BaseFileLock

MARKS = {
    "comparison.json": "a comparison",
    "calibration.npz": "a calibration",
    "verification.md": "a verification",
    "sweep.json": "a sweep",
}
"""File -> what a folder that has it holds."""


def check_folder(directory: Path, mark: str, folders: Iterable[str] = ()) -> None:
    """Raise a :class:`ValueError` for a folder that holds something else, or a link in it.

    Parameters
    ----------
    directory
        Where files are to be written; it need not be there.
    mark
        The file that says what they are of, a key of :data:`MARKS`.
    folders
        Folders in it that are written to.
    """
    for name, what in MARKS.items():
        if name != mark and os.path.lexists(directory / name):
            raise ValueError(
                f"{directory}: it holds {what} ({name}); give another folder, or delete this one"
            )
    for name in folders:
        if (directory / name).is_symlink():
            raise ValueError(
                f"{directory / name} is a symbolic link, through which nothing is written; "
                "remove it, or give another folder"
            )


def drop_others(
    directory: Path, folders: Mapping[str, Collection[str]], kept: Container[Path]
) -> None:
    """Remove what an earlier run has written to folders of a folder, and folders left empty.

    Parameters
    ----------
    directory
        The whole.
    folders
        Folder -> the suffixes of what is written there; files of others are the user's own.
    kept
        What belongs there, from ``directory``.
    """
    for folder, suffixes in folders.items():
        place = directory / folder
        if not place.is_symlink():
            for path in place.glob("*"):
                if path.suffix in suffixes and path.relative_to(directory) not in kept:
                    path.unlink(missing_ok=True)
        with suppress(OSError):  # not there, or with files of the user's own
            place.rmdir()


LOCK = ".running"
"""File that a run has locked as long as it writes to its folder."""

INSTEAD = f"{LOCK}-by"
"""File that says which process has a folder of a disk that knows no locks."""

NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
"""What some disks of a network answer, in place of a lock."""


class held(AbstractContextManager[None]):  # noqa: N801  it is called as a function is
    """Have a folder to oneself for the block; ``None`` is no folder.

    The system itself lets go of it when the process ends, however that ends. On a disk without
    locks a file says who has it, which counts until that process of this machine has ended, and
    until it is deleted if it is of another. Nothing is left of it when the block ends, nor in a
    folder that holds something else.

    Parameters
    ----------
    directory, mark, folders
        As in :func:`check_folder`.

    Raises
    ------
    CheckpointError
        Where another run has it, and where it holds something else.
    """

    def __init__(
        self, directory: Path | str | None, mark: str, folders: Iterable[str] = ()
    ) -> None:
        self._directory = None if directory is None else Path(directory)
        self._mark, self._folders = mark, folders
        self._taken: SimpleQueue[BaseException | None] = SimpleQueue()
        self._end: SimpleQueue[None] = SimpleQueue()
        self._holding: Beside[None] | None = None
        finalize(self, self._end.put, None)  # an interrupt may come before all that is below

    @override
    def __enter__(self) -> None:
        try:
            if self._directory is not None:
                self._take(self._directory)
        except BaseException:  # an interrupt, too
            self._let_go()
            raise

    @override
    def __exit__(self, *_: object) -> None:
        self._let_go()

    def _take(self, directory: Path) -> None:
        try:
            check_folder(directory, self._mark, self._folders)
        except ValueError as error:
            raise CheckpointError(f"path: {error}") from None
        if not _can_be_made(directory):
            return
        from filelock import Timeout

        self._holding = Beside(partial(_hold, directory, self._taken, self._end), "lock")
        self._holding.start()
        taken = self._holding.handed(self._taken)
        if isinstance(taken, Timeout):
            raise CheckpointError(
                f"path: another run is writing to '{directory}'{_by(directory)}; wait until it "
                "has ended, or give another folder"
            ) from None
        if taken is not None and not isinstance(taken, OSError):
            raise taken  # else whoever writes next says why that cannot be done

    def _let_go(self) -> None:
        self._end.put(None)
        if self._holding is not None and self._holding.begun:
            self._holding.wait()


def _hold(
    directory: Path, taken: SimpleQueue[BaseException | None], end: SimpleQueue[None]
) -> None:
    """Take a folder's lock, and let go of it at the end.

    It is done beside: filelock has locks of its own, which an interrupt would leave taken.
    """
    try:
        if not end.empty():
            return
        lock = _locked(directory)
    except BaseException as error:
        taken.put(error)
        return
    taken.put(None)
    end.get()
    for name in (LOCK, INSTEAD):
        with suppress(OSError):  # Windows does not remove what is open: it is taken next time
            (directory / name).unlink()
    lock.release()


def _locked(directory: Path) -> BaseFileLock:
    from filelock import FileLock, SoftFileLock

    lock: BaseFileLock = FileLock(directory / LOCK, timeout=0)
    try:
        lock.acquire()
    except (OSError, NotImplementedError) as error:  # the latter by older versions of filelock
        if isinstance(error, OSError) and error.errno not in NO_LOCKS:
            raise
        lock = SoftFileLock(directory / INSTEAD, timeout=0)
        lock.acquire()
    return lock


def _by(directory: Path) -> str:
    """Return who has a folder, in words, where a file says so."""
    for name in (LOCK, INSTEAD):
        with suppress(OSError, ValueError):
            process, host, *_ = (directory / name).read_text().split()
            return f" (process {process} on {host}; if it is gone, delete {directory / name})"
    return ""


def _can_be_made(directory: Path) -> bool:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return True
