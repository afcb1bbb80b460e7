"""``vi-recipes docs``: a page of the manual in the terminal, or where it is."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from vi_recipes.cli.arguments import DebugOption

EPILOG = """\b
Examples:
  vi-recipes docs
  vi-recipes docs meanfield
  vi-recipes docs trust --where
"""


def command(
    name: Annotated[
        str, typer.Argument(metavar="PAGE", help="A method, or a page of the manual.")
    ] = "index",
    where: Annotated[
        bool, typer.Option("--where", help="Print the page's file, and not the page.")
    ] = False,
    debug: DebugOption = False,
) -> None:
    """Show a page of the manual: of a method, an idea, or how verdicts are reached."""
    from rich.markdown import Markdown

    from vi_recipes.cli.show import make_console
    from vi_recipes.core import list_pages, unknown

    pages = list_pages()
    if name not in pages:
        raise ValueError(unknown("page", name, pages))
    console = make_console()
    if where:
        console.print(str(pages[name]), soft_wrap=True, markup=False, highlight=False)
        return
    text = plain(pages[name].read_text(encoding="utf-8"))
    if name == "index":
        text += f"\nPages: {', '.join(pages)}.\n"
    console.print(Markdown(text, hyperlinks=False), width=min(console.width, 100))


def plain(page: str) -> str:
    """Return a page without what only the building of the manual needs."""
    page = re.sub(r"\A---\n.*?\n---\n", "", page, flags=re.DOTALL)
    page = re.sub(r"```\{include\} \S*options-(\w+)\.md\n```", r"`vi-recipes methods \1`", page)
    page = re.sub(r"```\{(?!code-cell)[^`]*```\n?", "", page)
    page = re.sub(r"```\{code-cell\} \w+\n:tags:[^`]*```\n?", "", page)  # pictures
    page = re.sub(r"```\{code-cell\} \w+\n", "```python\n", page)
    return re.sub(r"\{py:\w+\}`vi_recipes\.(\w+)`", r"`vr.\1`", page)
