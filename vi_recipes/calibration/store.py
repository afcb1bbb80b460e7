"""Simulations in one file that grows, whole at any moment, and that a later run goes on from."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vi_recipes.calibration.ranks import Outcome
from vi_recipes.core import CheckpointError, KeptFile, KeptWords

FILE = "calibration.npz"
FOLDERS = ("tables", "figures")
"""What its report is written to."""

SECONDS = 5.0
"""Between two writings."""

WORDS = KeptWords(
    argument="path",
    damaged="is no file of simulations that can be read",
    other="has simulations of something else",
    elsewhere="another folder",
    going_on="calibrate what the file is of",
)


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
        self._file: KeptFile | None = None
        self._written = time.monotonic()
        if path is None:
            return
        self._file = KeptFile(Path(path) / FILE, dict(identity), WORDS)
        try:
            self._file.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"path: '{path}' is no folder that can be written to ({error}); give another"
            ) from None
        if self._file.path.exists():
            self.outcomes = _read(self._file)

    def add(self, number: int, outcome: Outcome) -> None:
        """Keep one outcome; it is on disk within seconds."""
        self.outcomes[number] = outcome
        self.save()

    def save(self, *, now: bool = False) -> None:
        """Write the file, unless that was done a moment ago; ``now`` writes in any case."""
        if self._file is None or not self.outcomes:
            return
        if not now and time.monotonic() - self._written < SECONDS:
            return
        ranked = {k: o.ranks for k, o in sorted(self.outcomes.items()) if o.ranks is not None}
        told = {
            str(k): [o.reason, o.seconds, o.compile_seconds, None if np.isnan(o.ess) else o.ess]
            for k, o in sorted(self.outcomes.items())
        }
        arrays = {
            "numbers": np.array(list(ranked), int),
            "ranks": np.array(list(ranked.values()), int),
        }
        self._file.write_arrays({"outcomes": told}, arrays)
        self._written = time.monotonic()


def _read(file: KeptFile) -> dict[int, Outcome]:
    header, arrays = file.read_arrays()
    with file.reading():
        ranks = dict(zip(arrays["numbers"].tolist(), arrays["ranks"], strict=True))
        return {
            int(number): Outcome(
                ranks.get(int(number)),
                reason,
                seconds,
                compile_seconds,
                np.nan if ess is None else ess,
            )
            for number, (reason, seconds, compile_seconds, ess) in header["outcomes"].items()
        }
