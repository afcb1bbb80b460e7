"""One host's part of the rows of Parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np

from vi_recipes.core import Hosts, ModelError, agree, check_arguments, unknown
from vi_recipes.data.batch_files import ColumnNames, FileBatches, batches_from_parquet


@check_arguments("paths", "columns")
def read_part(
    paths: str | Path | Sequence[str | Path],
    columns: ColumnNames | None = None,
    *,
    hosts: Hosts | None = None,
    whole: str | None = None,
) -> dict[str, np.ndarray]:
    """Read this host's part of the rows of Parquet files, as arguments of a model.

    The rows of all files, in order of the files' names, are cut into as many consecutive parts as
    there are hosts, which differ by one row at most, or by one group's rows. Row groups without
    rows of the part are not read, so that many small ones cost less than one large one.

    Parameters
    ----------
    paths, columns
        As for :func:`batches_from_parquet`: a folder and, of each argument, the column or columns.
    hosts
        What :func:`join_hosts` returned. ``None`` reads all rows.
    whole
        Argument that holds the number of each row's group, by which the files are sorted. No
        group's rows are then read by two hosts, and :func:`shard` leaves every host the members
        that it has rows of.

    Returns
    -------
    dict
        Argument -> array with an entry a row.

    Raises
    ------
    ValueError
        As for :func:`batches_from_parquet`; for fewer rows than hosts, and for hosts whose files
        are not the same: with other rows, of other names or in another order. With ``whole`` also
        for files that are not sorted by it, and fewer groups than hosts.
    """
    hosts = hosts or Hosts(0, 1)
    files: FileBatches | ValueError
    try:
        made = batches_from_parquet(paths, columns, batch_size=1)
        assert isinstance(made, FileBatches)
        files = made
        if whole is not None and not isinstance(files.columns.get(whole), str):
            known = [name for name, of in files.columns.items() if isinstance(of, str)]
            files = ModelError(f"whole: {unknown('argument', whole, known)}")
    except ValueError as error:  # the others are waiting to be told
        files = error
    if hosts.count > 1:
        _agree(files)
    if isinstance(files, ValueError):
        raise files
    if files.num_rows < hosts.count:
        raise ValueError(
            f"paths: the files have {files.num_rows} rows for {hosts.count} hosts; use fewer hosts"
        )
    ends = [k * files.num_rows // hosts.count for k in range(hosts.count + 1)]
    if whole is not None:
        ends = _between_groups(files, whole, ends)
    rows = files.rows(*ends[hosts.index : hosts.index + 2])
    import pyarrow as pa

    pa.default_memory_pool().release_unused()  # which it would keep for the next file
    return rows


def _between_groups(files: FileBatches, whole: str, ends: Sequence[int]) -> list[int]:
    """Return where to cut the rows between groups, each time at the nearest place before."""
    column = str(files.columns[whole])
    only = replace(files, columns={whole: column}, types={column: files.types[column]})
    first, last, before, cuts = 0, None, 0, {0: 0}
    for piece in files.pieces:
        groups = only.rows(first, first + piece.rows)[whole]
        changes = np.flatnonzero(np.diff(groups)) + 1
        if last is not None and groups[0] != last:
            changes = np.concatenate([[0], changes])
        if (np.diff(groups) < 0).any() or (last is not None and groups[0] < last):
            raise ModelError(
                f"{piece.path}: it is not sorted by '{whole}', so that a group's rows are apart; "
                "sort the rows of all files by it"
            )
        places = np.concatenate([[before], first + changes])
        for end in ends:
            if first <= end < first + piece.rows:
                cuts[end] = int(places[np.searchsorted(places, end, side="right") - 1])
        before, last, first = int(places[-1]), groups[-1], first + piece.rows
    made = [*(cuts[end] for end in ends[:-1]), ends[-1]]
    if any(low >= high for low, high in pairwise(made)):
        raise ModelError(
            f"paths: the rows have too few groups, or too large ones, to be cut between them for "
            f"{len(ends) - 1} hosts; use fewer hosts"
        )
    return made


def _agree(files: FileBatches | ValueError) -> None:
    """Raise on every host what is wrong where one has other files, or none that can be read."""
    content = "none that can be read"
    if isinstance(files, FileBatches):
        content = repr([(piece.path.name, piece.first, piece.rows) for piece in files.pieces])
    try:
        agree("the files that rows are read from; give every host the same ones", content)
    except ModelError:
        if isinstance(files, ValueError):
            raise files from None
        raise
