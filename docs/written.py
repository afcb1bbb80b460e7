"""What the manual says that follows from the code: options, commands, names and studies."""

from __future__ import annotations

import html
import re
from pathlib import Path

import gallery
import typer.main
from click import Context

import vi_recipes as vr
from vi_recipes.cli.commands import app
from vi_recipes.cli.options import list_options
from vi_recipes.core import list_studies
from vi_recipes.methods import METHODS, Method
from vi_recipes.report.markdown import as_markdown, escape

CHANGED = " The study has been changed since then."


def write(folder: Path) -> None:
    """Write the parts that pages include, and leave those alone that have not changed."""
    pages = {f"options-{key}.md": options(METHODS[key]) for key in METHODS}
    pages |= {"methods.md": methods(), "commands.md": commands(), "names.md": names()}
    pages["studies.md"] = studies()
    folder.mkdir(exist_ok=True)
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def options(method: type[Method]) -> str:
    """Return a method's options, their defaults and what else it has to choose from."""
    rows = [
        (f"`{option.name}`", f"`{option.default}`", f"{option.doc} *{option.type}.*")
        for option in list_options(method)
    ]
    parts = [table(("option", "default", "what"), rows)]
    if method.rules:
        parts.append("How the latent variables are integrated out, the first that applies:")
        parts.append(table(("rule", "when"), [(f"`{r}`", t) for r, t in method.rules.items()]))
    for heading, choices in method.choices.items():
        parts.append(f"{heading}:")
        parts.append(table(("name", "what"), [(f"`{c}`", t) for c, t in choices.items()]))
    return "\n\n".join(parts) + "\n"


def methods() -> str:
    """Return the table of methods, in the order in which they run."""
    rows = [
        (f"[`{key}`]({key}.md)", method.summary, "yes" if method.by_default else "if named")
        for key, method in METHODS.items()
    ]
    return table(("method", "what", "by default"), rows) + "\n"


def commands() -> str:
    """Return the help of every command, as the terminal shows it at 100 columns."""
    group = typer.main.get_command(app)
    context = Context(group, info_name="vi-recipes", terminal_width=100, max_content_width=100)
    parts = []
    for name in group.list_commands(context):  # type: ignore[attr-defined]
        command = group.get_command(context, name)  # type: ignore[attr-defined]
        inner = Context(
            command, parent=context, info_name=name, terminal_width=100, max_content_width=100
        )
        parts.append(f"## {name}\n\n```text\n{command.get_help(inner).strip()}\n```")
    return "\n\n".join(parts) + "\n"


def names() -> str:
    """Return the public names, by the room that they live in."""
    homes: dict[str, list[str]] = {}
    for name in vr.__all__:
        homes.setdefault(".".join(getattr(vr, name).__module__.split(".")[:2]), []).append(name)
    parts = []
    for home, found in sorted(homes.items()):
        parts.append(f"## {home}\n")
        for name in sorted(found, key=str.lower):
            kind = "autoclass" if isinstance(getattr(vr, name), type) else "autofunction"
            members = "\n:members:\n:show-inheritance:" if kind == "autoclass" else ""
            parts.append(f"```{{eval-rst}}\n.. {kind}:: vi_recipes.{name}{indent(members)}\n```\n")
    return "\n".join(parts)


def studies() -> str:
    """Return every study's text, the command that runs it, and what a run of it came to."""
    parts = []
    for name in list_studies():
        study = vr.load_study(name)
        parts += [
            f"## {name}",
            html.escape(study.description.strip(), quote=False),
            f"```sh\nvi-recipes run {name}\n```",
            *a_run(name),
        ]
    return "\n\n".join(parts) + "\n"


def a_run(name: str) -> list[str]:
    """Return what is kept of a study's run: its seconds and origin, its figures and tables."""
    kept = gallery.record(name)
    if kept is None:
        return [f"No run of it is kept: `python docs/gallery.py {name}` makes one."]
    changed = "" if kept["source"] == gallery.source(name) else CHANGED
    cores = f"{kept['cores']} core{'s' if kept['cores'] > 1 else ''}"
    busy = ", with other work beside it" if kept["seconds"] > kept["cpu_seconds"] else ""
    said = (
        f"`{kept['command']}` took {kept['cpu_seconds']:.0f} seconds of CPU, in "
        f"{kept['seconds']:.0f} seconds on {cores}{busy}; vi_recipes {kept['version']}, commit "
        f"{kept['commit']}.{changed} What follows is as that run wrote it; "
        f"`python docs/gallery.py {name}` makes it again."
    )
    parts = [said, f"**{escape(kept['answer'])}**"]
    for one in gallery.exhibits(name):
        parts.append(f"### {escape(one.title)}")
        if one.table is None:
            parts += [f"![{escape(one.title)}](studies/{name}/{one.name}.svg)", escape(one.caption)]
        else:
            parts.append(as_markdown(one.table))
    return parts


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(map(cell, line)) + " |" for line in lines)


def cell(text: str) -> str:
    """Return text that stays within its cell."""
    return re.sub(r"\s+", " ", re.sub(r"(?<!\\)\|", r"\\|", text)).strip()


def indent(text: str) -> str:
    """Return option lines of a directive, each indented below it."""
    return text.replace("\n", "\n   ")
