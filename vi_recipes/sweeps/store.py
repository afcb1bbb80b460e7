"""Cells in a folder, a file each, whole or not there, that a later run goes on from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vi_recipes.core import CheckpointError, KeptFile, KeptWords
from vi_recipes.sweeps.cell import CellResult, SweepCell

FILE = "sweep.json"
CELLS = "cells"
FOLDERS = (CELLS, "tables", "figures")
FORMAT = 1

WORDS = KeptWords(
    argument="path",
    damaged="is no file of a sweep that can be read",
    other="is of another sweep",
    elsewhere="another folder",
    going_on="sweep over what the file is of",
)


class Store:
    """Results by cell, kept in a folder.

    Parameters
    ----------
    path
        The folder, made if need be; ``None`` keeps them in memory only.
    shared
        What is the same for all cells: name -> what JSON can hold.
    parts
        Models with their data, and methods on them: name -> words. A folder may have more, and be
        given more; what it has of the same name must be the same.

    Raises
    ------
    CheckpointError
        For a folder of another sweep, which names the difference, and one that cannot be written.
    """

    def __init__(
        self, path: Path | None, shared: Mapping[str, Any], parts: Mapping[str, str]
    ) -> None:
        self.results: dict[SweepCell, CellResult] = {}
        self._folder: Path | None = None
        if path is None:
            return
        self._folder = path / CELLS
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(
                f"path: '{path}' is no folder that can be written to ({error}); give another"
            ) from None
        header = KeptFile(path / FILE, {"format": FORMAT, **shared}, WORDS)
        known: dict[str, str] = {}
        if header.path.exists():
            with header.reading():
                content = json.loads(header.regular.read_text(encoding="utf-8"))
                known = dict(content["parts"])
            header.check(content)
            for name in parts:
                if name in known and known[name] != parts[name]:
                    raise header.refusal(name, known[name], parts[name])
        content = {"format": FORMAT, **shared, "parts": {**known, **parts}}
        header.write(json.dumps(content, indent=1) + "\n")

    def read(self, cell: SweepCell) -> bool:
        """Take a cell from the folder; return whether it is there."""
        file = self._file(cell)
        if file is None or not file.path.exists():
            return False
        with file.reading():
            content = json.loads(file.regular.read_text(encoding="utf-8"))
            result = CellResult.from_json(content["result"])
        file.check(content)
        self.results[cell] = result
        return True

    def add(self, cell: SweepCell, result: CellResult) -> None:
        """Keep a cell."""
        self.results[cell] = result
        file = self._file(cell)
        if file is not None:
            content = {**file.identity, "result": result.to_json()}
            file.write(json.dumps(content, allow_nan=False) + "\n")

    def _file(self, cell: SweepCell) -> KeptFile | None:
        if self._folder is None:
            return None
        name = hashlib.sha256(json.dumps(list(cell)).encode()).hexdigest()[:20]
        return KeptFile(self._folder / f"{name}.json", {"cell": list(cell)}, WORDS)
