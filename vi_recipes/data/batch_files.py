"""Minibatches from Parquet and CSV files that need not fit in memory."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vi_recipes.core import ModelError, check_arguments, unknown
from vi_recipes.data.members import MemberBatches
from vi_recipes.data.memory import empty
from vi_recipes.data.read import check_file, check_width

BLOCK_ROWS = 500_000
"""Rows that are shuffled together, and so in memory together, where nothing is said."""

CSV_PIECE = 2**22
"""Bytes of a CSV file that are read at once."""

ColumnNames = Mapping[str, str | Sequence[str]]
"""Argument of the model -> the column that it is, or the columns that make its matrix."""


class Piece(NamedTuple):
    """Consecutive rows of a file.

    Parameters
    ----------
    path
        The file.
    first, rows
        Number of its first row, from 0, and how many there are.
    place
        Where it is: number of a row group, or offset and size in bytes.
    """

    path: Path
    first: int
    rows: int
    place: Any


Reader = Callable[[Piece, list[str]], dict[str, np.ndarray]]
"""From a piece and the names of columns to the columns; a missing number may be NaN."""


@dataclass(frozen=True)
class FileBatches:
    """Minibatches of the rows of files; :func:`batches_from_parquet` makes them.

    An epoch takes the pieces of all files in random order, puts some together until they have
    ``block_rows`` rows, and shuffles those. So every row comes once an epoch, rows of a piece come
    near each other, and order within files does not matter as long as blocks hold many pieces.

    Parameters
    ----------
    pieces
        What the files are made of.
    columns
        Argument of the model -> column or columns.
    types
        Column -> its type, from the first file.
    batch_size, block_rows
        Rows of a minibatch, and of a block.
    read
        Reads a piece.
    """

    pieces: tuple[Piece, ...]
    columns: ColumnNames
    types: Mapping[str, np.dtype[Any]]
    batch_size: int
    block_rows: int
    read: Reader

    @property
    def num_rows(self) -> int:
        """Number of all rows."""
        return sum(piece.rows for piece in self.pieces)

    def head(self, num_rows: int | None = None) -> dict[str, np.ndarray]:
        """Return the first rows: what to make a target with.

        Parameters
        ----------
        num_rows
            How many; ``None`` takes ``batch_size``, and two at least, for a plate to be one.
        """
        size = min(num_rows or max(self.batch_size, 2), self.num_rows)
        taken, parts = 0, []
        for piece in self.pieces:
            if taken >= size:
                break
            parts.append(self._read(piece))
            taken += piece.rows
        return {name: array[:size] for name, array in _join(parts).items()}

    def rows(self, first: int, end: int) -> dict[str, np.ndarray]:
        """Return the rows from the number ``first`` to before ``end``; reads their pieces only.

        There is memory for them and one piece more, never for them twice.
        """
        whole: dict[str, np.ndarray] = {}
        start = done = 0
        for piece in self.pieces:
            low, high = max(first - start, 0), min(end - start, piece.rows)
            start += piece.rows
            if low >= high:
                continue
            for name, array in self._read(piece).items():
                if name not in whole:
                    whole[name] = empty((end - first, *array.shape[1:]), array.dtype)
                whole[name][done : done + high - low] = array[low:high]
            done += high - low
        return whole

    def blocks(self, rng: np.random.Generator) -> Iterator[dict[str, np.ndarray]]:
        """Yield every row once, in blocks made of pieces in random order."""
        parts: list[dict[str, np.ndarray]] = []
        held = 0
        for k in rng.permutation(len(self.pieces)):
            parts.append(self._read(self.pieces[k]))
            held += self.pieces[k].rows
            if held >= self.block_rows:
                yield _join(parts)
                parts, held = [], 0
        if parts:
            yield _join(parts)

    def _read(self, piece: Piece) -> dict[str, np.ndarray]:
        values = self.read(piece, list(self.types))
        columns = {n: _as_type(values[n], t, n, piece) for n, t in self.types.items()}
        return {
            argument: columns[names]
            if isinstance(names, str)
            else np.stack([columns[name] for name in names], axis=1)
            for argument, names in self.columns.items()
        }


def _join(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _as_type(values: np.ndarray, dtype: np.dtype[Any], name: str, piece: Piece) -> np.ndarray:
    """Return a column as the type that it has in the first file, if that is what it holds."""
    if len(values) != piece.rows:
        raise ModelError(
            f"{piece.path}: rows {piece.first} to {piece.first + piece.rows - 1} read as "
            f"{len(values)} rows: the file has changed, or has line breaks within quotes"
        )
    if values.dtype.kind in "biuf":
        bad = ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)
        what = "is missing, or not finite; drop or impute such rows"
        if not bad.any() and dtype.kind in "biu" and values.dtype.kind == "f":
            bad = values != np.round(values)
            what = f"is no integer, as the column's first values are ({dtype})"
    else:
        bad = np.array([not _is_number(value) for value in values])
        bad = bad if bad.any() else np.ones(len(values), bool)
        what = "is text, where numbers are expected"
    if bad.any():
        k = int(np.flatnonzero(bad)[0])
        raise ModelError(
            f"{piece.path}, row {piece.first + k} (the first is 0), column '{name}': {values[k]} "
            f"{what}"
        )
    return values.astype(dtype, copy=False)


def _is_number(value: Any) -> bool:
    try:
        return bool(np.isfinite(float(value)))
    except (TypeError, ValueError):
        return False


# -- the two kinds of files ---------------------------------------------------------------------


@check_arguments("paths", "columns", "batch_size", "block_rows", "whole")
def batches_from_parquet(
    paths: str | Path | Sequence[str | Path],
    columns: ColumnNames | None = None,
    *,
    batch_size: int,
    block_rows: int = BLOCK_ROWS,
    whole: str | None = None,
) -> FileBatches | MemberBatches:
    """Return minibatches of Parquet files, for ``SVI(batches=...)``.

    Parameters
    ----------
    paths
        A file, a folder, whose ``.parquet`` files are taken, or several files. They are read row
        group by row group: groups of at most ``block_rows`` rows shuffle well.
    columns
        Argument of the model -> the column that it is, or a list of the columns that make its
        matrix; ``None`` takes every column for an argument.
    batch_size
        Rows of a minibatch.
    block_rows
        Rows that are in memory together, and shuffled; row groups of all files are put together
        in random order until they have as many.
    whole
        Argument that holds the number of each row's group, from 0. A minibatch then has
        ``batch_size`` groups with all their rows, those of a group being in one row group of a
        file; their effects are then variables of the minibatch, which
        ``guide={"u": "optimal_normal"}`` solves for.

    Raises
    ------
    ValueError
        For files that are missing, empty or unreadable, columns that are missing, not numbers, or
        of another type in another file; and, while a model is fitted, for missing values, with
        file and row.

    Examples
    --------
    A model of 6 million rows in 500,000 groups, in files sorted by group, of which the target holds
    some rows. A minibatch has 1,000 groups::

        rows = vr.batches_from_parquet("clicks", {"y": "y", "X": ["x1", "x2"], "group": "group"},
                                       batch_size=1_000, whole="group")
        target = vr.Target(vr.load_model("criteo"), **rows.head(), num_groups=500_000)
        fit = vr.SVI(guide={"u": "optimal_normal"}, batches=rows, dtype="float32").fit(target)
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ValueError(
            "reading Parquet needs pyarrow; install it with python -m pip install pyarrow, or "
            "write CSV files and use batches_from_csv"
        ) from None

    pieces = []
    schemas: dict[Path, dict[str, np.dtype[Any]]] = {}
    for path in _files(paths, ".parquet"):
        try:
            file = pq.ParquetFile(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{path}: not a readable Parquet file ({error})") from None
        schemas[path] = {field.name: _type_of(field.type) for field in file.schema_arrow}
        sizes = [file.metadata.row_group(k).num_rows for k in range(file.num_row_groups)]
        for k, (first, rows) in enumerate(zip(np.cumsum([0, *sizes]), sizes, strict=False)):
            pieces.append(Piece(path, int(first), rows, k))
    return _make(pieces, schemas, columns, batch_size, block_rows, _read_parquet, whole)


def _type_of(kind: Any) -> np.dtype[Any]:
    """Return the type of an array of a column of Arrow's; objects for what has none, as names."""
    try:
        return np.dtype(kind.to_pandas_dtype())
    except NotImplementedError:
        return np.dtype(object)


def _read_parquet(piece: Piece, names: list[str]) -> dict[str, np.ndarray]:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(piece.path).read_row_group(piece.place, columns=names)
    return {name: _numbers(table[name]) for name in names}


def _numbers(column: Any) -> np.ndarray:
    """Return a column of Arrow's as an array.

    Arrow's own way imports pandas, 40 MB of every host; plain numbers are there already.
    """
    plain = _type_of(column.type).kind in "iuf"
    if plain and column.num_chunks and not column.null_count:
        return np.concatenate([np.from_dlpack(chunk) for chunk in column.chunks])
    values: np.ndarray = column.to_numpy()
    return values


@check_arguments("paths", "columns", "batch_size", "block_rows", "whole")
def batches_from_csv(
    paths: str | Path | Sequence[str | Path],
    columns: ColumnNames | None = None,
    *,
    batch_size: int,
    block_rows: int = BLOCK_ROWS,
    whole: str | None = None,
) -> FileBatches | MemberBatches:
    """Return minibatches of CSV files with headers, for ``SVI(batches=...)``.

    The files are read through once to find where their lines are, and then in pieces of 4 MB, in
    random order. Parquet is several times quicker.

    Parameters
    ----------
    paths, columns, batch_size, block_rows, whole
        As for :func:`batches_from_parquet`; a folder has ``.csv`` files. A column is of integers if
        its first piece is.

    Raises
    ------
    ValueError
        As for :func:`batches_from_parquet`.
    """
    import pandas as pd

    headers: dict[Path, list[str]] = {}
    read = partial(_read_csv, headers)
    pieces: list[Piece] = []
    schemas: dict[Path, dict[str, np.dtype[Any]]] = {}
    for path in _files(paths, ".csv"):
        check_width(path)
        with path.open("rb") as file:
            headers[path] = pd.read_csv(BytesIO(file.readline())).columns.astype(str).tolist()
            of_file = list(_find_lines(path, file))
        pieces += of_file
        # all files are read as the first one is
        if of_file and not schemas:
            first = read(of_file[0], headers[path])
            schemas[path] = {name: values.dtype for name, values in first.items()}
        elif of_file:
            known = next(iter(schemas.values()))
            schemas[path] = {n: known.get(n, np.dtype(float)) for n in headers[path]}
    return _make(pieces, schemas, columns, batch_size, block_rows, read, whole)


def _read_csv(
    headers: Mapping[Path, list[str]], piece: Piece, names: list[str]
) -> dict[str, np.ndarray]:
    """Return columns of a piece; ``headers`` has those of every file."""
    import pandas as pd

    offset, size = piece.place
    with piece.path.open("rb") as file:
        file.seek(offset)
        text = file.read(size)
    # all columns are read, so that rows longer than the header are found; of a piece's first row
    # pandas would drop what is too much
    first = next(csv.reader([text.split(b"\n", 1)[0].decode(errors="replace")]), [])
    if len(first) > len(headers[piece.path]):
        raise ModelError(
            f"{piece.path}, row {piece.first + 1}: it has {len(first)} fields and the header "
            f"{len(headers[piece.path])}"
        )
    try:
        frame = pd.read_csv(
            BytesIO(text),
            header=None,
            names=headers[piece.path],
            skip_blank_lines=False,
            index_col=False,
            low_memory=False,
        )
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{piece.path}, rows from {piece.first}: not a well-formed CSV ({error})"
        ) from None
    return {name: frame[name].to_numpy() for name in names}


def _find_lines(path: Path, file: Any) -> Iterator[Piece]:
    """Yield the pieces of a CSV file, whole lines each, from after its header."""
    first = 0
    while True:
        offset = file.tell()
        text = file.read(CSV_PIECE) + file.readline()
        if not text:
            return
        rows = text.count(b"\n") + (not text.endswith(b"\n"))
        yield Piece(path, first, rows, (offset, len(text)))
        first += rows


def _files(paths: str | Path | Sequence[str | Path], suffix: str) -> list[Path]:
    """Return the files that are meant, a folder's in order of their names."""
    listed = [paths] if isinstance(paths, str | Path) else list(paths)
    files: list[Path] = []
    for path in map(Path, listed):
        if path.is_dir():
            inside = sorted(path.glob(f"*{suffix}"))
            if not inside:
                raise ValueError(f"paths: folder {path} has no {suffix} file")
            files += inside
            continue
        if path.suffix.lower() != suffix and (path.suffix or path.exists()):
            raise ValueError(f"paths: {path} is no {suffix} file; decompress or convert it")
        files.append(check_file(path))
    if not files:
        raise ValueError(f"paths: got no file, expected one {suffix} file or more")
    return [file.absolute() for file in files]  # workers may have begun in another folder


def _make(
    pieces: Sequence[Piece],
    schemas: Mapping[Path, Mapping[str, np.dtype[Any]]],
    columns: ColumnNames | None,
    batch_size: int,
    block_rows: int,
    read: Reader,
    whole: str | None,
) -> FileBatches | MemberBatches:
    """Check what was found in the files against what was asked for."""
    pieces = [piece for piece in pieces if piece.rows]
    total = sum(piece.rows for piece in pieces)
    if not total:
        raise ValueError("paths: the files have no rows; expected data")
    if not 1 <= batch_size <= total:
        raise ValueError(
            f"batch_size: got {batch_size}, expected 1 to the {total} rows of the files"
        )
    if block_rows < batch_size:
        raise ValueError(
            f"block_rows: got {block_rows}, expected at least batch_size, {batch_size}"
        )
    first, known = next(iter(schemas.items()))
    chosen = {name: name for name in known} if columns is None else dict(columns)
    if not chosen:
        raise ValueError("columns: got none, expected the model's arguments and their columns")
    names = [
        name for entry in chosen.values() for name in ([entry] if isinstance(entry, str) else entry)
    ]
    for path, types in schemas.items():
        for name in names:
            if name not in types:
                raise ValueError(f"columns: {unknown('column', name, types)} ({path})")
            if types[name] != known[name]:
                raise ValueError(
                    f"column '{name}' is {known[name]} in {first} and {types[name]} in {path}; "
                    "write all files with one type"
                )
    if text := [name for name in names if known[name].kind not in "biuf"]:
        raise ValueError(
            f"column(s) {', '.join(text)} of {first} hold no numbers ({known[text[0]]}); convert "
            "them, groups to codes from 0, or leave them out by columns="
        )
    types = {name: known[name] for name in dict.fromkeys(names)}
    files = FileBatches(tuple(pieces), chosen, types, batch_size, block_rows, read)
    if whole is None:
        return files
    if whole not in chosen:
        raise ValueError(f"whole: {unknown('argument', whole, chosen)}")
    return MemberBatches(files, whole, batch_size)
