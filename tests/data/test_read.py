import gzip
import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from vi_recipes.data.arguments import bind
from vi_recipes.data.read import keep_arguments, read_columns, read_data, read_numeric


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_json_keeps_scalars_and_nests_arrays(write):
    data = {"y": [1.5, 2.0], "X": [[1, 2], [3, 4]], "num_groups": 3, "kind": "full", "a": None}
    assert read_data(write("d.json", json.dumps(data))) == data
    assert read_data(str(write("bom.json", b"\xef\xbb\xbf{}"))) == {}


def test_csv_columns_are_vectors(write):
    data = read_data(write("d.csv", "y,group,who\n1.5,0,ann\n2.5,1,bob\n"))
    np.testing.assert_array_equal(data["y"], [1.5, 2.5])
    assert data["group"].dtype.kind == "i"
    with pytest.raises(ValueError, match=r"'who' has dtype .*'ann', where numbers are expected"):
        bind(lambda y, group, who: None, data)


def test_a_missing_cell_is_named(write):
    data = read_data(write("d.csv", "y,x\n1.5,0\n,1\n"))
    with pytest.raises(ValueError, match=r"'y' has 1 NaN .* index 1"):
        bind(lambda y, x: None, data)


def test_compressed_csv(tmp_path):
    path = tmp_path / "d.csv.gz"
    pd.DataFrame({"y": [1.0, 2.0]}).to_csv(path, index=False)
    np.testing.assert_array_equal(read_data(path)["y"], [1.0, 2.0])


def test_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    path = tmp_path / "d.parquet"
    pd.DataFrame({"y": [1.0, 2.0], "g": [0, 1]}).to_parquet(path)
    data = read_data(path)
    np.testing.assert_array_equal(data["y"], [1.0, 2.0])
    assert data["g"].dtype.kind == "i"


def test_parquet_without_pyarrow_says_what_to_install(write, monkeypatch):
    def refuse(path):
        raise ImportError("no engine")

    monkeypatch.setattr(pd, "read_parquet", refuse)
    with pytest.raises(ValueError, match=r"needs pyarrow.*pip install pyarrow"):
        read_data(write("d.parquet", "x"))


def test_netcdf_of_any_rank(tmp_path):
    path = tmp_path / "d.nc"
    cube = np.arange(24.0).reshape(2, 3, 4)
    dataset = xr.Dataset({"X": (("a", "b", "c"), cube), "num_groups": ((), 7)})
    dataset.to_netcdf(path, engine="h5netcdf")
    data = read_data(path)
    np.testing.assert_array_equal(data["X"], cube)
    assert data["num_groups"] == 7
    assert isinstance(data["num_groups"], int)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("d.json", "", "is empty"),
        ("d.csv", "", "is empty"),
        ("d.csv", "\n\n", "is empty"),
        ("d.csv", "y,x\n", r"2 column\(s\) and no rows"),
        ("d.csv", 'a,b\n1,"2\n', "not a well-formed CSV"),
        ("d.csv", b"y\n\xff\xfe\n", "not text in UTF-8"),
        ("d.json", b'{"y": "\xff"}', "not text in UTF-8"),
        ("d.json", '{"y": [1,\n 2', "line 2, column 3: not valid JSON"),
        ("d.json", "[1, 2]", "holds a JSON array; expected an object"),
        ("d.json", "3.5", "holds a JSON number"),
        ("d.json", "null", "holds a JSON null"),
        ("d.json", "[" * 100_000, "nested too deeply"),
        ("d.parquet", "y\n1\n", "not a readable Parquet file"),
        ("d.nc", "y\n1\n", "not a readable netCDF-4 file"),
        ("d.xlsx", "x", r"unknown kind of file '\.xlsx'; expected one of \.json, \.csv"),
        ("data", "x", "unknown kind of file ''"),
    ],
)
def test_bad_files(write, name, content, expected):
    with pytest.raises(ValueError, match=expected) as error:
        read_data(write(name, content))
    assert name in str(error.value)


def test_paths_that_are_no_file(tmp_path):
    with pytest.raises(ValueError, match="is a directory"):
        read_data(tmp_path)
    with pytest.raises(ValueError, match="does not exist"):
        read_data(tmp_path / "d.csv")


def test_a_file_that_may_not_be_read(write, monkeypatch):
    path = write("d.csv", "y\n1\n")

    def refuse(self, *args, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)
    with pytest.raises(ValueError, match=r"d\.csv: cannot be read \(Permission denied\)"):
        read_data(path)


def test_keep_arguments():
    data = {"y": 1, "id": 2}
    assert keep_arguments(lambda y, *, x=0: None, data) == ({"y": 1}, ["id"])
    assert keep_arguments(lambda **data: None, data) == (data, [])


def test_numeric_columns(write):
    frame = read_numeric(write("d.csv", "who,y,x\nann,1,0.5\nbob,2,0.5\n"), "each is a variable")
    assert list(frame) == ["y", "x"]
    np.testing.assert_array_equal(frame.to_numpy(), [[1.0, 0.5], [2.0, 0.5]])


@pytest.mark.parametrize(
    ("content", "wanted", "expected"),
    [
        ("", {}, "is empty"),
        ("y,x\n", {}, "no rows"),
        (b"y\n\xff\xfe\n", {}, "not text in UTF-8"),
        ("y,who\n1,ann\n", {"fewest": 2}, r"1 numeric column.* expected 2 or more: each is one"),
        ("x,who\n1,ann\n", {"needs": ("y", "x")}, r"lacks a numeric column y \(it has x, who\)"),
        ("y,x\n1,2\n,3\n", {}, r"missing values in column\(s\) y; drop those rows"),
        ("y,x\n1,2\n1,3\n", {"varying": True}, r"column\(s\) y hold one value only"),
    ],
)
def test_bad_numeric_columns(write, content, wanted, expected):
    with pytest.raises(ValueError, match=expected):
        read_numeric(write("d.csv", content), "each is one", **wanted)


# -- columns of any kind ---------------------------------------------------------------------------


def test_columns_of_a_model(write):
    path = write("d.csv", "x,who,y\n0.5,ann,1\n,bob,2\n")
    frame = read_columns(path, ["y", "who"], model="toy")
    assert list(frame) == ["y", "who"]
    assert frame["who"].tolist() == ["ann", "bob"]
    assert list(read_columns(path, ["y"], model="toy", rest=True)) == ["x", "who", "y"]
    assert len(read_columns(path, ["y"], model="toy", whole=True)) == 2  # nothing missing in y


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        ("", {}, "is empty"),
        ("y,who\n", {}, "no rows"),
        (b"y\n\xff\xfe\n", {}, "not text in UTF-8"),
        ("x,z\n1,2\n", {}, r"lacks column\(s\) y, who; the toy model needs y, who, and the file "
         "has x, z$"),
        ("y,who\n1,ann\n2,\n", {"whole": True}, r"missing values in column\(s\) who; drop those"),
        ("y,who,x\n1,a,\n", {"whole": True, "rest": True}, r"missing values in column\(s\) x"),
    ],
)  # fmt: skip
def test_bad_columns(write, content, options, expected):
    with pytest.raises(ValueError, match=expected):
        read_columns(write("d.csv", content), ["y", "who"], model="toy", **options)


def test_keys_that_a_model_needs(write):
    path = write("d.json", '{"y": [1.0], "n": 2}')
    assert read_data(path, needs=["y"], model="toy") == {"y": [1.0], "n": 2}
    lacks = r"lacks key\(s\) x; the toy model needs y, x, and the file has y, n$"
    with pytest.raises(ValueError, match=lacks):
        read_data(path, needs=["y", "x"], model="toy", called="key(s)")


# -- what would shift or be dropped silently ------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("y,x\n10,1,\n20,2,\n30,3,\n", 3),  # a comma at the end of every row
        ("y,x\n10,1,7\n20,2\n30,3\n", 3),  # the first row only
        ("y\n1,10\n2,20\n", 2),
        ("y,x\na,b,10,1\nc,d,20,2\n", 4),  # two more
        ("y,x\n\n10,1,\n20,2,\n", 3),
    ],
)
def test_rows_longer_than_the_header_are_refused(write, text, fields):
    path = write("d.csv", text)
    header = text.split("\n")[0].count(",") + 1
    expected = rf"row 1: it has {fields} fields and the header {header}, so that columns would"
    for read in (
        read_data,
        lambda path: read_numeric(path, "each is a variable"),
        lambda path: read_columns(path, ["y"], model="any"),
    ):
        with pytest.raises(ValueError, match=expected):
            read(path)


def test_a_later_row_longer_than_the_header_is_refused(write):
    with pytest.raises(ValueError, match="row 2: it has 3 fields, expected 2"):
        read_data(write("d.csv", "y,x\n10,1\n20,2,3\n"))


def test_names_of_rows_are_read_when_asked_for(write):
    data = read_data(write("d.csv", '"y","x"\n"1",10,1\n"2",20,2\n'), row_names=True)
    assert {name: list(values) for name, values in data.items()} == {"y": [10, 20], "x": [1, 2]}
    with pytest.raises(ValueError, match="2 fields and the header 2; with row_names=True"):
        read_data(write("e.csv", "y,x\n10,1\n"), row_names=True)
    with pytest.raises(ValueError, match=r"row_names: got True for .*expected a CSV"):
        read_data(write("d.json", '{"y": [1]}'), row_names=True)


@pytest.mark.parametrize("text", ['{"y": [1], "y": [2]}', '{"a": {"b": 1, "c": 2, "b": 3}}'])
def test_a_key_given_twice_is_refused(write, text):
    twice = "y" if "y" in text else "b"
    with pytest.raises(ValueError, match=f"the key '{twice}' is given twice"):
        read_data(write("d.json", text))


def test_a_gzip_file_that_is_cut_off_is_said_to_be(write):
    whole = gzip.compress(b"y,x\n" + b"10,1\n" * 1_000)
    with pytest.raises(ValueError, match="a damaged gzip file"):
        read_data(write("d.csv.gz", whole[: len(whole) // 2]))
