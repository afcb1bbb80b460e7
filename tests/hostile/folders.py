"""Folders that hold something else already, saved results that somebody changed, and links."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hostile.case import Case, Done, Outcome
from hostile.texts import NORMAL

MAKE = ("compare", "m.py", "--methods", "map,laplace", "--out", "report")
AGAIN = ("report", "report")
FILES = {"m.py": NORMAL}

KEYS = (
    "fits", "reference", "target_name", "notes", "interrupted", "description", "quadrature",
    "labels", "exhibits",
)  # fmt: skip
"""What a saved comparison holds; the last three may be left out."""

type Change = Callable[[Any], Any]


def _edit(change: Change) -> Callable[[Path], None]:
    def between(folder: Path) -> None:
        path = folder / "report" / "comparison.json"
        content = change(json.loads(path.read_text()))
        path.write_text(content if isinstance(content, str) else json.dumps(content))

    return between


def _without(key: str) -> Change:
    return lambda content: {k: v for k, v in content.items() if k != key}


def _with(key: str, value: Any) -> Change:
    return lambda content: {**content, key: value}


def _tampered(name: str, change: Change) -> Case:
    return Case(name, AGAIN, Outcome.REFUSED, FILES, (), None, (MAKE,), _edit(change))


def _broken(name: str, between: Callable[[Path], object], *says: str) -> Case:
    return Case(name, AGAIN, Outcome.REFUSED, FILES, says, None, (MAKE,), between)


def _names(done: Done) -> set[str]:
    return {path.stem for path in (done.folder / "report" / "fits").glob("*.nc")}


def _only_new(done: Done) -> None:
    assert _names(done) == {"em"} or _names(done) == {"map"}, f"stale fits: {_names(done)}"
    page = (done.folder / "report" / "report.html").read_text()
    assert "laplace" not in page, "the old report speaks on"


def _link_out(folder: Path) -> None:
    outside = folder / "outside.txt"
    outside.write_text("mine")
    page = folder / "report" / "report.html"
    page.unlink()
    page.symlink_to(outside)


def _not_written_through(done: Done) -> None:
    assert (done.folder / "outside.txt").read_text() == "mine", "a link was written through"


def _fit(folder: Path) -> Path:
    return folder / "report" / "fits" / "map.nc"


def _mine(done: Done) -> None:
    assert (done.folder / "report" / "notes.txt").read_text() == "mine", "a user's file is gone"
    assert _names(done) == {"map", "laplace"}


CASES = [
    # -- folders used again
    Case("a folder of other methods", ("compare", "m.py", "--methods", "map", "--out", "report"),
         Outcome.RIGHT, FILES, (), _only_new, (MAKE,)),
    Case("a folder of another model", ("compare", "n.py", "--methods", "map", "--out", "report"),
         Outcome.RIGHT, {**FILES, "n.py": NORMAL.replace('"m"', '"other"')}, (), _only_new,
         (MAKE,)),
    Case("a folder with files of one's own", MAKE, Outcome.RIGHT,
         {**FILES, "report/notes.txt": "mine"}, (),
         _mine),
    Case("the same folder twice", MAKE, Outcome.RIGHT, FILES, (), None, (MAKE,)),
    Case("a link for the report", MAKE, Outcome.RIGHT, FILES, (), _not_written_through, (MAKE,),
         _link_out),
    # -- saved results that somebody changed
    _broken("no list of what there is", lambda d: (d / "report" / "comparison.json").unlink()),
    _broken("a fit that is gone", lambda d: _fit(d).unlink(), "map"),
    _broken("a fit that is empty", lambda d: _fit(d).write_bytes(b""), "map.nc"),
    _broken("a fit of other bytes", lambda d: _fit(d).write_bytes(b"not netCDF"), "map.nc"),
    _broken("a fit cut short",
            lambda d: _fit(d).write_bytes(_fit(d).read_bytes()[:2_000]), "map.nc"),
    _tampered("no JSON", lambda _: "{"),
    _tampered("an empty list of what there is", lambda _: ""),
    _tampered("a list for an object", lambda _: []),
    _tampered("null", lambda _: "null"),
    *(_tampered(f"{key} left out", _without(key)) for key in KEYS[:6]),
    *(_tampered(f"a number for {key}", _with(key, 7)) for key in KEYS if key != "interrupted"),
    *(_tampered(f"a mapping for {key}", _with(key, {"a": 1})) for key in ("fits", "reference")),
    _tampered("a word for interrupted", _with("interrupted", "maybe")),
    _tampered("fits that are numbers", _with("fits", [1, 2])),
    _tampered("no fits", _with("fits", [])),
    _tampered("a fit elsewhere", _with("fits", ["../../map"])),
    _tampered("an absolute path for a fit", _with("fits", ["/etc/passwd"])),
    _tampered("a fit that was not saved", _with("fits", ["map", "nuts"])),
    _tampered("a fit twice", _with("fits", ["map", "map"])),
    _tampered("a reference that was not saved", _with("reference", "gone")),
    _tampered("notes that are numbers", _with("notes", [1])),
    _tampered("exhibits that are words", _with("exhibits", ["x"])),
]  # fmt: skip
