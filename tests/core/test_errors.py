"""Errors as sentences, and parts that may be lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vi_recipes.core import ModelError, attempt, called, told


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KeyError("income"), "KeyError: 'income'"),
        (ValueError("one\ntwo"), "ValueError: one"),
        (Exception(), "Exception"),
        (MemoryError(), "MemoryError: the memory is used up"),
        (SystemExit(3), "SystemExit: it called sys.exit(3)"),
        (ValueError("x" * 1000), "ValueError: " + "x" * 299 + "…"),
    ],
)
def test_an_error_in_a_line(error: BaseException, expected: str) -> None:
    assert told(error) == expected
    line = told(raised(error))
    assert line.startswith(f"{expected} (")
    assert "test_errors.py, line" in line


def test_the_line_is_the_users_and_not_a_librarys() -> None:
    import json

    with pytest.raises(ValueError, match="Expecting value") as caught:
        json.loads("nothing")
    assert told(caught.value).endswith('json.loads("nothing"))')


def test_libraries_alone_have_no_line(tmp_path: Path) -> None:
    code = (
        "from vi_recipes.core import told\n"
        "import concurrent.futures as c\n"
        "print(told(c.ThreadPoolExecutor(1).submit(int, 'x').exception()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "ValueError: invalid literal for int() with base 10: 'x'"


def test_a_part_that_is_lost() -> None:
    assert attempt(lambda: 3, len) == 3
    assert attempt(lambda: int("x"), lambda error: error.partition(":")[0]) == "ValueError"
    assert attempt(lambda: sys.exit(1), lambda _: "lost") == "lost"
    with pytest.raises(KeyboardInterrupt):
        attempt(lambda: (_ for _ in ()).throw(KeyboardInterrupt), len)


def test_what_a_model_brings_along_raises_model_errors() -> None:
    with pytest.raises(ModelError, match="its data raised ValueError: invalid literal"):
        called("its data", int, "x")
    error = ModelError("as it is")
    with pytest.raises(ModelError, match=r"^as it is$"):
        called("its data", lambda: (_ for _ in ()).throw(error))
