"""One host's part of the rows of Parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vi_recipes.core import Hosts
from vi_recipes.data.batch_files import Columns, FileBatches, batches_from_parquet


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
        As for :func:`batches_from_parquet`; for fewer rows than hosts.
    """
    files = batches_from_parquet(paths, columns, batch_size=1)
    assert isinstance(files, FileBatches)
    hosts = hosts or Hosts(0, 1)
    if files.num_rows < hosts.count:
        raise ValueError(
            f"paths: the files have {files.num_rows} rows for {hosts.count} hosts; use fewer hosts"
        )
    ends = [k * files.num_rows // hosts.count for k in (hosts.index, hosts.index + 1)]
    rows = files.rows(*ends)
    import pyarrow as pa

    pa.default_memory_pool().release_unused()  # which it would keep for the next file
    return rows
