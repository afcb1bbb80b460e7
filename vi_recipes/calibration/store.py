"""Simulations in one file that grows, whole at any moment, and that a later run goes on from."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten

import numpy as np

from vi_recipes.calibration.ranks import Outcome
from vi_recipes.core import CheckpointError

FILE = "calibration.npz"
FORMAT = 1
SECONDS = 5.0
"""Between two writings."""

WIDTH = 200
"""Characters of a description that a message shows."""


class Store:
    """Outcomes by the number of their simulation, kept in a folder.

    Parameters
    ----------
    path
        The folder, made if need be; ``None`` keeps them in memory only.
    identity
        What they are of, in words: name -> value.

    Raises
    ------
    CheckpointError
        For a file that cannot be read or written, and for one of something else, which names the
        difference.
    """

    def __init__(self, path: str | Path | None, identity: Mapping[str, str]) -> None:
        self.outcomes: dict[int, Outcome] = {}
        """What is there already, and what was added."""
        self._identity = dict(identity)
        self._path = None if path is None else Path(path) / FILE
        self._written = time.monotonic()
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"path: '{path}' is no folder that can be written to ({error}); give another"
            ) from None
        if self._path.exists():
            self._read(self._path)

    def add(self, number: int, outcome: Outcome) -> None:
        """Keep one outcome; it is on disk within seconds."""
        self.outcomes[number] = outcome
        self.save()

    def save(self, *, now: bool = False) -> None:
        """Write the file, unless that was done a moment ago; ``now`` writes in any case."""
        if self._path is None or not self.outcomes:
            return
        if not now and time.monotonic() - self._written < SECONDS:
            return
        ranked = {k: o.ranks for k, o in sorted(self.outcomes.items()) if o.ranks is not None}
        told = {
            str(k): [o.reason, o.seconds, o.compile_seconds, None if np.isnan(o.ess) else o.ess]
            for k, o in sorted(self.outcomes.items())
        }
        header = {"format": FORMAT, "identity": self._identity, "outcomes": told}
        beside = self._path.with_name(f".{FILE}.{os.getpid()}")
        try:
            with beside.open("wb") as file:
                np.savez(
                    file,
                    allow_pickle=False,
                    header=np.array(json.dumps(header)),
                    numbers=np.array(list(ranked), int),
                    ranks=np.array(list(ranked.values()), int),
                )
            beside.replace(self._path)
        except OSError as error:
            raise CheckpointError(
                f"path: '{self._path}' cannot be written ({error}); make room, or give another"
            ) from None
        finally:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
        self._written = time.monotonic()

    def _read(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as archive:
                header = json.loads(str(archive["header"]))
                ranks = dict(zip(archive["numbers"].tolist(), archive["ranks"], strict=True))
            if header["format"] != FORMAT:
                raise ValueError(f"format {header['format']}, expected {FORMAT}")
            found = {
                int(k): Outcome(ranks.get(int(k)), reason, own, part, np.nan if e is None else e)
                for k, (reason, own, part, e) in header["outcomes"].items()
            }
            theirs = dict(header["identity"])
        except Exception as error:  # a damaged archive raises whatever it likes
            raise CheckpointError(
                f"path: '{path}' is no file of simulations that can be read "
                f"({type(error).__name__}: {error}); delete it, or give another folder"
            ) from None
        for name, mine in self._identity.items():
            if theirs.get(name) != mine:
                raise CheckpointError(
                    f"path: '{path}' has simulations of something else: its {name} is "
                    f"{shorten(str(theirs.get(name)), WIDTH)}, and here it is "
                    f"{shorten(mine, WIDTH)}. To begin anew, delete the file or give another "
                    "folder; to go on, calibrate what the file is of"
                )
        self.outcomes = found
