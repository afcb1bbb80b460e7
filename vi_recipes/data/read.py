"""Data from a file, as the keyword arguments of a model function."""

from __future__ import annotations

import csv
import gzip
import inspect
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vi_recipes.core import NO_FILE, check_arguments, unreadable

if TYPE_CHECKING:
    import pandas as pd

JSON = (".json",)
CSV = (".csv", ".csv.gz")
PARQUET = (".parquet",)
NETCDF = (".nc", ".netcdf")


@check_arguments("path")
def read_data(
    path: str | Path,
    *,
    needs: Sequence[str] = (),
    model: str = "",
    called: str = "column(s)",
    row_names: bool = False,
) -> dict[str, Any]:
    """Read a file whose keys, columns or variables are a model's keyword arguments.

    Parameters
    ----------
    path
        By its suffix: a JSON object (arrays as nested lists, scalars as they are), a CSV with a
        header (``.csv``, ``.csv.gz``), Parquet (``.parquet``), or netCDF (``.nc``,
        ``.netcdf``). Columns are arrays of rank 1; netCDF variables have any rank.
    needs
        Keys, columns or variables that must be there.
    model
        Name of the model that needs them, as errors say it.
    called
        What errors call them, such as ``"key(s)"``.
    row_names
        Whether the rows of a CSV begin with a name that its header leaves out, as R's
        ``write.table`` writes them; the names are dropped. Otherwise a row with more fields than
        the header is refused.

    Returns
    -------
    dict
        Argument name -> value. Values are checked where they meet the model.

    Raises
    ------
    ValueError
        For a file that is missing, a directory, empty, unreadable, of an unknown kind, without what
        it needs, with rows that are longer than the header, or with a key given twice.
    """
    path = check_file(path)
    if row_names and not path.name.lower().endswith(CSV):
        raise ValueError(f"row_names: got True for {path}, expected a CSV; leave it out")
    reader = reader_of(path, _READERS)
    with reading(path):
        content = _columns(_csv_frame(path, row_names=True)) if row_names else reader(path)
    _check_needs(path, list(content), needs, model, called)
    return content


def reader_of[T](
    path: Path, readers: Mapping[tuple[str, ...], Callable[[Path], T]], others: str = ""
) -> Callable[[Path], T]:
    """Return what reads a file of this suffix.

    Raises
    ------
    ValueError
        For a suffix that none reads: all that there are and ``others`` are in it.
    """
    for suffixes, reader in readers.items():
        if path.name.lower().endswith(suffixes):
            return reader
    known = ", ".join(suffix for suffixes in readers for suffix in suffixes)
    raise ValueError(
        f"{path}: unknown kind of file '{path.suffix}'; expected one of {known}{others}"
    )


@check_arguments("path")
def read_columns(
    path: str | Path, needs: Sequence[str], *, model: str, rest: bool = False, whole: bool = False
) -> pd.DataFrame:
    """Read the columns of a CSV that a model needs, of any kind: numbers, labels, names.

    Parameters
    ----------
    path
        The file, with a header.
    needs
        Columns that must be there.
    model
        Name of the model, as errors say it.
    rest
        Whether to return the file's other columns too.
    whole
        Whether to refuse missing values in what is returned.

    Returns
    -------
    pandas.DataFrame
        The columns, in the order of ``needs``; with ``rest`` in the order of the file.

    Raises
    ------
    ValueError
        For a file that cannot be read, columns that are not there or, where they are to be whole,
        missing values.
    """
    path = check_file(path)
    with reading(path):
        frame = _csv_frame(path)
    _check_needs(path, frame.columns, needs, model, "column(s)")
    frame = frame if rest else frame[list(needs)]
    if whole:
        _check_whole(path, frame)
    return frame


@check_arguments("path")
def read_numeric(
    path: str | Path,
    use: str,
    *,
    needs: Sequence[str] = (),
    fewest: int = 1,
    varying: bool = False,
) -> pd.DataFrame:
    """Read the numeric columns of a CSV, without missing values.

    Parameters
    ----------
    path
        The file, with a header.
    use
        What the model takes the columns for, as errors say it: ``"each is a variable"``.
    needs
        Numeric columns that must be there.
    fewest
        How many numeric columns there must be.
    varying
        Whether every column must hold more than one value.

    Returns
    -------
    pandas.DataFrame
        The columns as floating-point numbers; others are left out.

    Raises
    ------
    ValueError
        For a file that cannot be read, numeric columns that are not there, missing values or,
        where they are to vary, columns that do not.
    """
    path = check_file(path)
    with reading(path):
        frame = _csv_frame(path)
    numeric = frame.select_dtypes("number").astype(float)
    has = f"(it has {', '.join(map(str, frame.columns))})"
    if lacking := [name for name in needs if name not in numeric]:
        raise ValueError(f"{path} lacks a numeric column {', '.join(lacking)} {has}: {use}")
    if numeric.shape[1] < fewest:
        raise ValueError(
            f"{path} has {numeric.shape[1]} numeric column(s) {has}, expected {fewest} or more: "
            f"{use}"
        )
    _check_whole(path, numeric)
    constant = [str(name) for name in numeric if numeric[name].nunique() < 2]
    if varying and constant:
        raise ValueError(f"{path}: column(s) {', '.join(constant)} hold one value only; drop them")
    return numeric


def _check_needs(
    path: Path, has: Iterable[Any], needs: Sequence[str], model: str, called: str
) -> None:
    has = [str(name) for name in has]
    if missing := [name for name in needs if name not in has]:
        raise ValueError(
            f"{path} lacks {called} {', '.join(missing)}; the {f'{model} ' if model else ''}model "
            f"needs {', '.join(needs)}, and the file has {', '.join(has)}"
        )


def _check_whole(path: Path, frame: pd.DataFrame) -> None:
    if frame.isna().any(axis=None):
        holes = frame.isna().sum()
        raise ValueError(
            f"{path} has missing values in column(s) {', '.join(holes.index[holes > 0])}; drop "
            "those rows or fill them in"
        )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say which file it is that cannot be read."""
    try:
        yield
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (EOFError, zlib.error) as error:
        raise ValueError(f"{path}: a damaged gzip file ({error}); write it again") from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: not text in UTF-8 (byte {error.start}); save it as UTF-8"
        ) from None


def check_file(path: str | Path) -> Path:
    """Return ``path`` if it is a readable file with something in it.

    Raises
    ------
    ValueError
        If it is not.
    """
    path = Path(path)
    if reason := unreadable(path, "a data file"):
        cure = "; check the name of the data file" if reason == NO_FILE else ""
        raise ValueError(f"{path} {reason}{cure}")
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise ValueError(f"{path} is empty; expected data")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from None
    return path


def has_loose_columns(path: str | Path) -> bool:
    """Whether a file's kind commonly carries more columns or variables than a model needs."""
    return not str(path).lower().endswith(JSON)


def keep_arguments(
    function: Callable[..., Any], data: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Split ``data`` into what ``function`` takes and the names of the rest.

    Examples
    --------
    >>> keep_arguments(lambda y: None, {"y": [1.0], "id": [7]})
    ({'y': [1.0]}, ['id'])
    """
    parameters = inspect.signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return dict(data), []
    kept = {name: value for name, value in data.items() if name in parameters}
    return kept, [name for name in data if name not in kept]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_unique)
    except _TwiceError as error:
        raise ValueError(f"{path}: the key '{error}' is given twice; leave one of them") from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}, line {error.lineno}, column {error.colno}: not valid JSON ({error.msg})"
        ) from None
    except RecursionError:
        raise ValueError(f"{path}: JSON nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a JSON {_json_kind(content)}; expected an object whose keys are the "
            'model\'s arguments, such as {"y": [1.5, 2.0]}'
        )
    return content


class _TwiceError(Exception):
    """A key that an object has twice."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the pairs of a JSON object, of which the last would win silently where keys repeat."""
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(name for name in names if names.count(name) > 1))
    return content


def _json_kind(content: Any) -> str:
    kinds = {list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return kinds.get(type(content), "null")


def _read_csv(path: Path) -> dict[str, Any]:
    return _columns(_csv_frame(path))


def _csv_frame(path: Path, *, row_names: bool = False) -> pd.DataFrame:
    import pandas as pd

    check_width(path, row_names=row_names)
    try:
        frame = pd.read_csv(path, encoding="utf-8-sig", index_col=0 if row_names else None)
        return with_rows(path, frame.reset_index(drop=True))
    except pd.errors.EmptyDataError:
        raise ValueError(f"{path} is empty; expected a header and rows") from None
    except pd.errors.ParserError as error:
        _complain_of_width(path, row_names)
        raise ValueError(f"{path}: not a well-formed CSV ({error})") from None


@contextmanager
def _csv_rows(path: Path, separator: str = ",") -> Iterator[Iterator[list[str]]]:
    """Open a CSV as rows of fields, empty ones left out; the first is the header."""
    opener = gzip.open if path.name.lower().endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
        yield (row for row in csv.reader(file, delimiter=separator) if row)


def separator_of(path: Path) -> str:
    """Return what separates the fields of a CSV: a semicolon where its header has no comma."""
    with _csv_rows(path) as rows:
        header = next(rows, [])
    return ";" if len(header) == 1 and ";" in header[0] else ","


def _complain_of_width(path: Path, row_names: bool) -> None:
    """Raise a :class:`ValueError` that names the first row of a CSV that is too long."""
    try:
        with _csv_rows(path) as rows:
            expected = len(next(rows)) + row_names
            for number, row in enumerate(rows, start=1):
                if len(row) > expected:
                    raise ValueError(
                        f"{path}, row {number}: it has {len(row)} fields, expected {expected}. "
                        "Take out what is too many, such as a comma within a number or a text "
                        "without quotes"
                    )
    except csv.Error:
        return


def check_width(path: Path, *, row_names: bool = False, separator: str = ",") -> None:
    """Raise a :class:`ValueError` for a CSV whose first row has more fields than its header.

    pandas would make names of the first column and move all others, silently. Of later rows that
    are longer than the first it complains itself. Of two columns of one name it renames one, which
    is refused too.
    """
    with _csv_rows(path, separator) as rows:
        try:
            header, first = islice(rows, 2)
        except (ValueError, csv.Error):  # no two rows, or none that can be told apart
            return
    if twice := [name for name, number in Counter(header).items() if name and number > 1]:
        raise ValueError(f"{path}: two columns are named {twice[0]}; rename or remove one")
    more = len(first) - len(header)
    if row_names and more != 1:
        raise ValueError(
            f"{path}, row 1: it has {len(first)} fields and the header {len(header)}; with "
            "row_names=True every row has one more, its name. Leave row_names out"
        )
    if more > 0 and not row_names:
        raise ValueError(
            f"{path}, row 1: it has {len(first)} fields and the header {len(header)}, so that "
            "columns would shift. Take out what is too many, such as a separator at the end of "
            "every row, or name it in the header; read_data(row_names=True) reads rows that begin "
            "with their name"
        )


def _read_parquet(path: Path) -> dict[str, Any]:
    import pandas as pd

    try:
        frame = with_rows(path, pd.read_parquet(path))
    except ImportError:
        raise ValueError(
            f"{path}: reading Parquet needs pyarrow; install it with "
            "python -m pip install pyarrow, or convert the file to CSV"
        ) from None
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not a readable Parquet file ({error})") from None
    return _columns(frame)


def with_rows(path: Path, frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame if it has rows."""
    if frame.empty:
        raise ValueError(f"{path} has {len(frame.columns)} column(s) and no rows; expected data")
    return frame


def _columns(frame: pd.DataFrame) -> dict[str, Any]:
    return {str(name): frame[name].to_numpy() for name in frame.columns}


def _read_netcdf(path: Path) -> dict[str, Any]:
    import xarray as xr

    try:
        dataset = xr.load_dataset(path, engine="h5netcdf", decode_times=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: not a readable netCDF-4 file ({error})") from None
    if not dataset.variables:
        raise ValueError(f"{path} holds no variables; expected the model's arguments")
    # A length or a number of groups comes as a variable of rank 0.
    return {
        str(name): variable.values.item() if variable.ndim == 0 else variable.values
        for name, variable in dataset.variables.items()
    }


_READERS: dict[tuple[str, ...], Callable[[Path], dict[str, Any]]] = {
    JSON: _read_json,
    CSV: _read_csv,
    PARQUET: _read_parquet,
    NETCDF: _read_netcdf,
}
