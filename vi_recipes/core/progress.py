"""Progress on standard error, off when that is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from typing import Protocol

from vi_recipes.core.beside import Beside
from vi_recipes.core.text import visible


class Progress(Protocol):
    """What a method tells about how far it has got."""

    def __call__(self, done: int, total: int, text: str = "") -> None:
        """Report ``done`` steps out of ``total``."""


def silent(done: int, total: int, text: str = "") -> None:
    """Report nothing."""


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def in_notebook() -> bool:
    """Whether this runs in a notebook that can show a bar."""
    if "ipykernel" not in sys.modules or find_spec("ipywidgets") is None:
        return False
    from rich.console import Console

    return Console().is_jupyter


@contextmanager
def progress_bar(title: str, *, enabled: bool | None = None) -> Iterator[Progress]:
    """Yield a :class:`Progress` that draws a bar on standard error.

    Parameters
    ----------
    title
        What is being done.
    enabled
        ``None`` draws only when standard error is a terminal, or in a notebook.
    """
    notebook = in_notebook()
    if not (_is_terminal() or notebook if enabled is None else enabled):
        yield silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[text]}", markup=False),
    )
    bar = Bar(*columns, console=Console(stderr=not notebook), transient=True)
    task = bar.add_task(visible(title), total=None, text="")

    def report(done: int, total: int, text: str = "") -> None:
        bar.update(task, completed=done, total=total, text=visible(text))

    # beside, because an interrupt in the midst would leave its thread, which draws on
    beginning, ending = Beside(bar.start, "bar"), Beside(bar.stop, "bar")
    try:
        beginning.start()
        beginning.result()
        yield report
    finally:
        if beginning.begun:
            beginning.wait()
        ending.start()
        ending.wait()


ProgressFactory = Callable[[str], AbstractContextManager[Progress]]
