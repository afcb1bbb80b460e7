"""Kept files are whole whatever happens, and read only for what they belong to."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vi_recipes.core import CheckpointError, KeptFile, KeptWords, write_whole

WORDS = KeptWords(
    argument="path",
    damaged="is no recipe that can be read",
    other="is of another dish",
    elsewhere="another path",
    going_on="cook what the file is of",
)


def kept(path: Path, **identity: Any) -> KeptFile:
    return KeptFile(path / "dish.npz", {"dish": "soup", "guests": 4, **identity}, WORDS)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


# -- whole or not at all ---------------------------------------------------------------------------


def test_text_bytes_and_writers(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert write_whole(str(path), "naïve\n") == path
    assert path.read_bytes() == "naïve\n".encode()
    write_whole(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    write_whole(path, lambda beside: beside.write_text("by hand"))
    assert path.read_text() == "by hand"
    assert names(tmp_path) == ["file"]


def test_a_full_disk_is_told_of_with_the_file(tmp_path: Path) -> None:
    """The system's own error of a write names none, and standard output may be full too."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    try:
        for content in ("x" * 5_000, lambda beside: beside.write_text("x" * 5_000)):
            with pytest.raises(OSError, match=r"File too large: '.*file'") as caught:
                write_whole(tmp_path / "file", content)
            assert caught.value.filename == str(tmp_path / "file")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), OSError("no space left on device"), ValueError("a bug")],
    ids=repr,
)
def test_a_write_that_fails_leaves_the_old_file_and_no_part(
    error: BaseException, tmp_path: Path
) -> None:
    path = write_whole(tmp_path / "file", "old")

    def half(beside: Path) -> None:
        assert path.read_text() == "old"
        beside.write_text("ne")
        raise error

    with pytest.raises(type(error)) as caught:
        write_whole(path, half)
    assert caught.value is error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_a_killed_process_leaves_the_old_file_and_the_next_one_writes(tmp_path: Path) -> None:
    path = write_whole(tmp_path / "file", "old")
    code = """
        import os, sys
        from vi_recipes.core import write_whole

        def half(beside):
            beside.write_text("ne")
            os.abort()

        write_whole(sys.argv[1], half)
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(path)]
    assert subprocess.run(command, check=False, capture_output=True).returncode != 0
    assert path.read_text() == "old"
    write_whole(path, "new")
    assert path.read_text() == "new"


def test_a_writer_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "file", lambda beside: None)
    assert names(tmp_path) == []


# -- of what it belongs to -------------------------------------------------------------------------


def test_arrays_and_a_header_come_back(tmp_path: Path) -> None:
    file = kept(tmp_path, tools=["pot", "spoon"], oven=None)
    file.write_arrays({"notes": {"salt": 1.5}}, {"a": np.arange(3), "b/c": np.eye(2)})
    header, arrays = file.read_arrays()
    assert header["notes"] == {"salt": 1.5}
    assert header["identity"] == dict(file.identity)
    assert set(arrays) == {"a", "b/c"}
    np.testing.assert_array_equal(arrays["b/c"], np.eye(2))
    assert names(tmp_path) == ["dish.npz"]


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({"dish": "bread"}, "its dish is soup, and here it is bread"),
        ({"guests": 5}, "its guests is 4, and here it is 5"),
        ({"oven": 200}, "its oven is None, and here it is 200"),
        ({"dish": "x " * 500}, r"its dish is soup, and here it is (x ){90,}\[\.\.\.\]"),
    ],
)
def test_a_file_of_something_else_is_refused_with_the_difference(
    other: dict[str, Any], difference: str, tmp_path: Path
) -> None:
    kept(tmp_path).write_arrays({}, {})
    before = (tmp_path / "dish.npz").read_bytes()
    expected = (
        rf"path: '.*dish.npz' is of another dish: {difference}\. To begin anew, delete the file or "
        "give another path; to go on, cook what the file is of"
    )
    with pytest.raises(CheckpointError, match=expected):
        kept(tmp_path, **other).read_arrays()
    assert (tmp_path / "dish.npz").read_bytes() == before


def test_damaged_files_and_other_formats_are_named(tmp_path: Path) -> None:
    file = kept(tmp_path)
    for content in (b"nonsense", b"PK no archive", b""):
        file.path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"is no recipe that can be read \(.*delete it"):
            file.read_arrays()
    np.savez(file.path, a=np.zeros(2))
    with pytest.raises(CheckpointError, match=r"can be read \(KeyError: 'header'\)"):
        file.read_arrays()
    KeptFile(file.path, file.identity, WORDS, format=2).write_arrays({}, {})
    with pytest.raises(CheckpointError, match="format 2, expected 1"):
        file.read_arrays()
    with pytest.raises(CheckpointError, match="ZeroDivisionError"), file.reading():
        print(1 / 0)


def test_a_full_disk_leaves_the_old_file_and_says_what_to_do(tmp_path: Path) -> None:
    file = kept(tmp_path)
    file.write_arrays({"round": 1}, {})

    def full(beside: Path) -> None:
        beside.write_bytes(b"half of it")
        raise OSError("no space left on device")

    complaint = r"cannot be written \(no space left on device\); make room, or give another path"
    with pytest.raises(CheckpointError, match=complaint):
        file.write(full)
    assert file.read_arrays()[0]["round"] == 1
    assert names(tmp_path) == ["dish.npz"]
