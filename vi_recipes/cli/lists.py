"""``vi-recipes models`` and ``vi-recipes methods``: what there is, and the options of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vi_recipes.cli.arguments import (
    DebugOption,
)

if TYPE_CHECKING:
    from rich.console import Console


MODELS_EPILOG = "\b\nExample:\n  vi-recipes models\n"

METHODS_EPILOG = """\b
Examples:
  vi-recipes methods
  vi-recipes methods nuts
"""


def models() -> None:
    """List the shipped models."""
    from vi_recipes.core import list_models

    print_list("model", list_models())


def methods(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="A method, to list its options.")
    ] = None,
    debug: DebugOption = False,
) -> None:
    """List the methods, or the options of one."""
    from vi_recipes.cli import show
    from vi_recipes.cli.options import list_options
    from vi_recipes.core import unknown
    from vi_recipes.methods import METHODS

    console = show.make_console()
    if name is None:
        print_list("method", {n: method.summary for n, method in METHODS.items()})
        return
    if name not in METHODS:
        raise ValueError(unknown("method", name, METHODS))
    console.print(
        f"{name}: {METHODS[name].summary}. Options, to set with --set {name}.OPTION=VALUE:"
    )
    options = list_options(METHODS[name])
    for option in options:
        left = f"{option.name}={option.default}"
        width = max(len(o.name) + len(o.default) + 1 for o in options)
        show.show_item(console, left, f"{option.doc} Type: {option.type}.".lstrip(), width)
    if rules := METHODS[name].rules:
        console.print("\nHow the latent variables are integrated out, the first that applies:")
        for rule, text in rules.items():
            show.show_item(console, rule, f"{text}.", max(map(len, rules)))
    for heading, choices in METHODS[name].choices.items():
        console.print(f"\n{heading}:")
        for choice, text in choices.items():
            show.show_item(console, choice, f"{text}.", max(map(len, choices)))


def print_list(what: str, entries: dict[str, str]) -> None:
    """Print names with a line on each."""
    from vi_recipes.cli.show import make_console, show_item

    console: Console = make_console()
    if not entries:
        console.print(f"no {what} found")
    for name, text in entries.items():
        show_item(console, name, text, max(map(len, entries)))
