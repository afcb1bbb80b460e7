"""One host's part of the rows of Parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vi_recipes.core import Hosts, ModelError, agree, check_arguments
from vi_recipes.data.batch_files import Columns, FileBatches, batches_from_parquet


@check_arguments("paths", "columns")
def read_part(
    paths: str | Path | Sequence[str | Path],
    columns: Columns | None = None,
    *,
    hosts: Hosts | None = None,
) -> dict[str, np.ndarray]:
    """Read this host's part of the rows of Parquet files, as arguments of a model.

    The rows of all files, in order of the files' names, are cut into as many consecutive parts as
    there are hosts, which differ by one row at most. Row groups without rows of the part are not
    read, so that many small ones cost less than one large one.

    Parameters
    ----------
    paths, columns
        As for :func:`batches_from_parquet`: a folder and, of each argument, the column or columns.
    hosts
        What :func:`join_hosts` returned. ``None`` reads all rows.

    Returns
    -------
    dict
        Argument -> array with an entry a row.

    Raises
    ------
    ValueError
        As for :func:`batches_from_parquet`; for fewer rows than hosts, and for hosts whose files
        are not the same: with other rows, of other names or in another order.
    """
    hosts = hosts or Hosts(0, 1)
    files: FileBatches | ValueError
    try:
        made = batches_from_parquet(paths, columns, batch_size=1)
        assert isinstance(made, FileBatches)
        files = made
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
    ends = [k * files.num_rows // hosts.count for k in (hosts.index, hosts.index + 1)]
    rows = files.rows(*ends)
    import pyarrow as pa

    pa.default_memory_pool().release_unused()  # which it would keep for the next file
    return rows


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
