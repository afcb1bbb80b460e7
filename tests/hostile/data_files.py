"""Data files: shifted, broken, empty, of another kind, or merely odd."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import xarray as xr

from hostile.case import Case, Done, Outcome, fits, near
from hostile.texts import LINE, LINE_CSV, LINE_DATA, A, B, X, Y

type Content = str | bytes | Callable[[Path], object]


def _fitted_as_it_stands(done: Done) -> None:
    near(done.mean("map", "a"), A, 1e-4)
    near(done.mean("map", "b"), B, 1e-4)


def _refused(name: str, file: str, content: Content, *says: str) -> Case:
    command = ("compare", "line.py", "--data", file, "--methods", "map", "--no-report")
    return Case(name, command, Outcome.REFUSED, {"line.py": LINE, file: content}, says)


def _right(name: str, file: str, content: Content, *says: str) -> Case:
    files = {"line.py": LINE, file: content}
    command = fits("line.py", data=file)
    return Case(name, command, Outcome.RIGHT, files, says, _fitted_as_it_stands)


def _rows(*rows: str, header: str = "x,y") -> str:
    return "\n".join([header, *rows]) + "\n"


def _parquet(frame: pd.DataFrame) -> Callable[[Path], object]:
    return lambda path: frame.to_parquet(path)


def _netcdf(data: xr.Dataset) -> Callable[[Path], object]:
    return lambda path: data.to_netcdf(path, engine="h5netcdf")


GOOD_ROWS = LINE_CSV.splitlines()[1:]
ZIPPED = gzip.compress(LINE_CSV.encode())
FRAME = pd.DataFrame({"x": X, "y": Y})

CASES = [
    _refused("a comma at the end of every row", "d.csv", _rows("1,10,", "2,20,"), "row", "3", "2"),
    _refused("one row with a field more", "d.csv", _rows("1,10", "2,20,5", "3,30"), "row", "3"),
    _refused("a decimal comma that makes a field", "d.csv", _rows("1,5,10", "2,5,20"), "row"),
    _refused("a header one field short, as write.table's", "d.csv", _rows("a,1,10", "b,2,20")),
    _refused("one row with a field less", "d.csv", _rows("1,10", "2", "3,30"), "y"),
    _refused("an empty file", "d.csv", "", "d.csv"),
    _refused("nothing but white space", "d.csv", "  \n \n", "d.csv"),
    _refused("a header without rows", "d.csv", "x,y\n", "d.csv"),
    _refused("two columns of one name", "d.csv", _rows("1,2,3", header="x,y,x"), "x"),
    _refused("words among the numbers", "d.csv", _rows("1,10", "two,20"), "x"),
    _refused("an empty cell", "d.csv", _rows("1,10", ",20"), "x"),
    _refused("NA for a number", "d.csv", _rows("1,10", "NA,20"), "x"),
    _refused("an infinite cell", "d.csv", _rows("1,10", "inf,20"), "x"),
    _refused("a number too large for a double", "d.csv", _rows("1e400,10", "2,20"), "x"),
    _refused("semicolons for commas", "d.csv", _rows("1;10", "2;20", header="x;y"), "x"),
    _refused("tabs for commas", "d.csv", _rows("1\t10", "2\t20", header="x\ty"), "x"),
    _refused("UTF-16", "d.csv", LINE_CSV.encode("utf-16"), "d.csv"),
    _refused("bytes that are no text", "d.csv", b"x,y\n\xff\xfe,1\n", "d.csv"),
    _refused("thousands with commas", "d.csv", _rows('"1,000",10', '"2,000",20'), "x"),
    _refused("decimal commas in quotes", "d.csv", _rows('"0,5",10', '"1,5",20'), "x"),
    _refused("a column that the model lacks", "d.csv", _rows("1", "2", header="x"), "y"),
    _refused("capital letters", "d.csv", _rows("1,2", header="X,Y"), "x"),
    _refused("spaces in the header", "d.csv", _rows("1,2", header="x , y"), "x"),
    _refused("dates for numbers", "d.csv", _rows("2020-01-01,1", "2020-01-02,2"), "x"),
    _refused("gzip cut short", "d.csv.gz", ZIPPED[:-12], "d.csv.gz"),
    _refused("gzip with a wrong byte", "d.csv.gz", ZIPPED[:20] + b"!!" + ZIPPED[22:], "d.csv.gz"),
    _refused("a name that says gzip", "d.csv.gz", LINE_CSV, "d.csv.gz"),
    _refused("a kind of file that is unknown", "d.docx", b"PK\x03\x04", ".docx"),
    _refused("Parquet that is none", "d.parquet", b"PAR1 or not", "d.parquet"),
    _refused("an empty Parquet file", "d.parquet", b"", "d.parquet"),
    _refused("netCDF that is none", "d.nc", b"CDF or not", "d.nc"),
    _refused("a folder for a file", "d.csv", Path.mkdir, "d.csv"),
    _refused("JSON that stops", "d.json", LINE_DATA[:-3], "d.json"),
    _refused("a comma too many in JSON", "d.json", '{"x": [1, 2,], "y": [1, 2]}', "d.json"),
    _refused("no JSON at all", "d.json", "x = 1", "d.json"),
    _refused("an empty JSON file", "d.json", "", "d.json"),
    _refused("a list for an object", "d.json", "[1, 2]", "d.json"),
    _refused("a number for an object", "d.json", "3", "d.json"),
    _refused("a key twice", "d.json", '{"x": [1], "y": [1], "x": [2]}', "x"),
    _refused("arrays of unequal lengths", "d.json", '{"x": [1, 2, 3], "y": [1, 2]}', "x"),
    _refused("rows of unequal lengths", "d.json", '{"x": [[1, 2], [3]], "y": [1, 2]}', "x"),
    _refused("null for a number", "d.json", '{"x": [1, null], "y": [1, 2]}', "x"),
    _refused("a word for an array", "d.json", '{"x": "many", "y": [1, 2]}', "x"),
    _refused("a mapping for an array", "d.json", '{"x": {"0": 1}, "y": [1]}', "x"),
    _refused("NaN in JSON", "d.json", '{"x": [NaN, 1], "y": [1, 2]}', "x"),
    _refused("infinity in JSON", "d.json", '{"x": [1, -Infinity], "y": [1, 2]}', "x"),
    _refused("1e400 in JSON", "d.json", '{"x": [1e400, 1], "y": [1, 2]}', "x"),
    _refused("an integer of 400 digits", "d.json", json.dumps({"x": [10**400, 1], "y": [1, 2]})),
    _refused("brackets 100,000 deep", "d.json", "[" * 100_000, "d.json"),
    _refused("an argument unknown to the model", "d.json", '{"x": [1], "y": [1], "z": 1}', "z"),
    _refused("an argument that is missing", "d.json", '{"x": [1, 2]}', "y"),
    _refused("arrays without elements", "d.json", '{"x": [], "y": []}'),
    _refused("words within an array", "d.json", '{"x": [1, "b"], "y": [1, 2]}', "x"),
    _refused("text in Parquet", "d.parquet", _parquet(pd.DataFrame({"x": ["a"], "y": [1]})), "x"),
    _refused("a column too few in Parquet", "d.parquet", _parquet(FRAME[["x"]]), "y"),
    _refused("a variable too few in netCDF", "d.nc", _netcdf(xr.Dataset({"x": ("i", X)})), "y"),
    Case(
        "data that are not there",
        ("compare", "line.py", "--data", "none.csv"),
        Outcome.REFUSED,
        {"line.py": LINE},
        ("none.csv",),
    ),
    Case(
        "no data, and none of the model's own",
        ("compare", "line.py"),
        Outcome.REFUSED,
        {"line.py": LINE},
        ("no data of its own", "x, y"),
    ),
    _right("a byte-order mark", "d.csv", b"\xef\xbb\xbf" + LINE_CSV.encode()),
    _right("lines that end in CR LF", "d.csv", LINE_CSV.replace("\n", "\r\n").encode()),
    _right("numbers in quotes", "d.csv",
           _rows(*(f'"{x}","{y}"' for x, y in zip(X, Y, strict=True)))),
    _right("columns that the model does not take", "d.csv",
           _rows(*(f"{r},7,z" for r in GOOD_ROWS), header="x,y,w,name"), "left out: w, name"),
    _right("a column of row numbers, as write.csv's", "d.csv",
           _rows(*(f'"{i}",{r}' for i, r in enumerate(GOOD_ROWS)), header='"",x,y')),
    _right("columns in another order", "d.csv",
           _rows(*(f"{y},{x}" for x, y in zip(X, Y, strict=True)), header="y,x")),
    _right("an empty line at the end", "d.csv", LINE_CSV + "\n"),
    _right("capital letters in the suffix", "D.CSV", LINE_CSV),
    _right("gzip", "d.csv.gz", ZIPPED),
    _right("a byte-order mark in JSON", "d.json", b"\xef\xbb\xbf" + LINE_DATA.encode()),
    _right("Parquet", "d.parquet", _parquet(FRAME)),
    _right("netCDF", "d.nc", _netcdf(xr.Dataset({"x": ("i", X), "y": ("i", Y)}))),
    _right("a name with spaces and accents", "mes données 1.csv", LINE_CSV),
]  # fmt: skip
