"""``vi-recipes new``: a commented model or study to begin with."""

from __future__ import annotations

import keyword
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from vi_recipes.cli.arguments import DebugOption

EPILOG = """\b
Examples:
  vi-recipes new model my_model
  vi-recipes new study my_study
"""


class StartKind(StrEnum):
    """What there is a start of."""

    MODEL = "model"
    STUDY = "study"


def command(
    kind: Annotated[StartKind, typer.Argument(metavar="KIND", help="model or study.")],
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Its name; the file is NAME.py, in this folder."),
    ],
    debug: DebugOption = False,
) -> None:
    """Write a model or a study with comments, which runs as it is, to begin with."""
    from vi_recipes.core import write_whole

    if not name.isidentifier() or keyword.iskeyword(name) or not name.isascii():
        raise ValueError(
            f"NAME: got {name!r}; expected a name as Python has them: letters, digits and _, "
            "such as my_model"
        )
    path = Path(f"{name}.py")
    if path.exists():
        raise ValueError(f"{path} is there already; choose another name, or move it away")
    start = files("vi_recipes.cli").joinpath("starts", f"{kind.value}.txt").read_text("utf-8")
    try:
        write_whole(path, start.replace("NAME", name))
    except OSError as error:
        raise ValueError(f"cannot write {path} ({error.strerror or error})") from None
    does = "compare" if kind is StartKind.MODEL else "run"
    typer.echo(f"{path} is there: edit it, and run  vi-recipes {does} {path}")
