"""Shipped models and studies found by name, and a user's files executed, whatever is in them."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from vi_recipes.core.checked import unreadable
from vi_recipes.core.complaints import unknown
from vi_recipes.core.errors import told

ContentKind = Literal["models", "comparisons"]


PACKAGE = Path(__file__).resolve().parents[1]

FILES = "vi_recipes_file_"
"""How the names begin that users' files have as modules."""

_THING = {"models": "model", "comparisons": "study"}


class ContentError(ValueError):
    """A file of models or studies that raised an error when it was loaded.

    The message has the user's own line that it comes from.
    """


# -- finding ---------------------------------------------------------------------------------


def folder(kind: ContentKind | Literal["docs"]) -> Path:
    """Return the folder that holds the shipped models or comparisons, or the manual.

    In a checkout it is the checkout's own, so that an edit takes effect at once; else the copy
    inside the installed package.
    """
    checkout = PACKAGE.parent
    return checkout / kind if _is_checkout(checkout) else PACKAGE / "_content" / kind


def list_pages() -> dict[str, Path]:
    """Return the pages of the manual: name -> Markdown file, the methods' own first."""
    root = folder("docs")
    pages = [p for p in root.rglob("*.md") if p.relative_to(root).parts[0][0] != "_"]
    pages.sort(key=lambda p: (p.parent.name != "methods", p.relative_to(root).as_posix()))
    names: dict[str, Path] = {}
    for page in pages:
        beside = page.stem == "index" and page.parent != root
        name = page.parent.name if beside else page.stem
        names[f"{page.parent.name}/{name}" if name in names else name] = page
    return names


def _is_checkout(root: Path) -> bool:
    """Whether ``root`` is this project's, and not any folder the package was installed into."""
    import tomllib

    if not all((root / name).is_dir() for name in _THING):
        return False
    try:
        project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return str(project["name"]).replace("-", "_") == "vi_recipes"
    except (OSError, ValueError, KeyError, TypeError):
        return False


def find(kind: ContentKind) -> dict[str, Path]:
    """Return the shipped models or comparisons: name -> file, in alphabetical order."""
    root = folder(kind)
    if kind == "models":
        return {path.parent.name: path for path in sorted(root.glob("*/model.py"))}
    files = {path.stem: path for path in root.glob("*.py") if path.stem[0] != "_"}
    folders = {path.parent.name: path for path in root.glob("*/study.py")}
    return dict(sorted((files | folders).items()))


def list_models() -> dict[str, str]:
    """Return the shipped models: name -> one line on each. Nothing is imported."""
    return {name: _headline(path) for name, path in find("models").items()}


def list_studies() -> dict[str, str]:
    """Return the shipped studies: name -> one line on each. Nothing is imported."""
    return {name: _headline(path) for name, path in find("comparisons").items()}


def _headline(path: Path) -> str:
    """Return the first line of a file's docstring, read without running it."""
    try:
        text = ast.get_docstring(ast.parse(path.read_bytes())) or ""
    except (SyntaxError, ValueError):  # loading it will say what is wrong
        return ""
    return text.split("\n", maxsplit=1)[0]


# -- loading ---------------------------------------------------------------------------------


def load_object(reference: str) -> Any:
    """Return the object that ``file.py:NAME`` points to: a guide, an optimiser, a function."""
    path, name = split_reference(reference)
    if name is None:
        raise ValueError(f"{reference!r} names no object; write it as file.py:NAME")
    return member(import_file(path), name, str(path))


def split_reference(text: str) -> tuple[Path, str | None]:
    """Split ``file.py:NAME`` into the file and the name, which may be absent."""
    path, colon, name = text.rpartition(":")
    return (Path(path), name) if colon and path.endswith(".py") else (Path(text), None)


def load_file(kind: ContentKind, name_or_path: str | Path) -> tuple[ModuleType, str, str | None]:
    """Return the module, what to call it in messages, and the name asked for within it."""
    text = str(name_or_path)
    path, name = split_reference(text)
    if isinstance(name_or_path, Path) or path.suffix == ".py" or os.sep in text or "/" in text:
        return import_file(path), str(path), name
    shipped = find(kind)
    text, _, variant = text.partition(":")
    if text not in shipped:
        if path.is_file():
            return import_file(path), str(path), name  # says what it is not
        thing = _THING[kind]
        raise ValueError(
            f"{unknown(thing, text, shipped)}. A {thing} of your own is given by path: "
            "file.py or file.py:NAME"
        )
    return import_file(shipped[text]), str(shipped[text]), variant or None


class _FromSource(SourceFileLoader):
    """Compiles a file's source whenever it is loaded, and leaves no bytecode beside it.

    By bytecode a file that was changed within a second, to as many letters, is what it was before.
    """

    def path_stats(self, path: str | bytes) -> Mapping[str, Any]:
        """Do not say when the file was written: bytecode is then neither read nor kept."""
        raise OSError(f"{path!r} is read anew")


def import_file(path: Path, *, name: str | None = None) -> ModuleType:
    """Execute a Python file as a module of its own and return it.

    It may import the files beside it, as ``from .neighbour import name``.

    Parameters
    ----------
    path
        The file.
    name
        Of the module; by default one that follows from the path.

    Raises
    ------
    ValueError
        If there is no such file.
    ContentError
        If it raises.
    """
    if reason := unreadable(path, "").removesuffix("; expected "):
        raise ValueError(f"{path} {reason}; expected a Python file, file.py or file.py:NAME")
    path = path.resolve()
    if name is None:
        label = path.parent.name if path.stem in _THING.values() else path.stem
        digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
        name = f"{FILES}{label}_{digest}"
    beside = [str(path.parent)]
    if path.suffix != ".py":
        raise ValueError(
            f"{path}: not a Python file; its name must end in .py. Data are given beside a model "
            "or a formula, by --data"
        )
    loader = _FromSource(name, str(path))
    spec = importlib.util.spec_from_file_location(
        name, path, loader=loader, submodule_search_locations=beside
    )
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    for neighbour in [n for n in sys.modules if n.startswith(f"{name}.")]:
        del sys.modules[neighbour]  # it is executed anew with the file
    # Registered first: dataclasses and pickle look their module up there.
    sys.modules[name] = module
    try:
        with _importable(path.parent):
            loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ContentError(f"{path} raised {told(error)} when it was loaded") from error
    return module


@contextmanager
def _importable(directory: Path) -> Iterator[None]:
    """Let a file import its neighbours, as a script could, without shadowing what is installed."""
    entry = str(directory)
    sys.path.append(entry)
    try:
        yield
    finally:
        sys.path.remove(entry)


# -- choosing --------------------------------------------------------------------------------


def only[T](meant: Mapping[str, T], what: str, where: str, cure: str) -> tuple[str, T]:
    """Return the one entry of ``meant``, by name."""
    if not meant:
        raise ValueError(f"{where} holds no {what}; {cure}")
    if len(meant) > 1:
        raise ValueError(
            f"{where} holds {len(meant)} objects that could be meant: {', '.join(meant)}. "
            f"Say which one: {where}:{next(iter(meant))}"
        )
    return next(iter(meant.items()))


def member(module: ModuleType, name: str, where: str, kind: type | None = None) -> Any:
    """Return what ``module`` calls ``name``; what there is instead, of ``kind``, if nothing."""
    if not hasattr(module, name):
        names = {**instances(module, kind or ()), **public_functions(module)}
        raise ValueError(f"{where}: {unknown('name', name, names)}")
    return getattr(module, name)


def instances[T](module: ModuleType, kind: type[T] | tuple[()]) -> dict[str, T]:
    """Return the module's objects of a type by name; an object under two names counts once."""
    named = {id(v): (n, v) for n, v in reversed(vars(module).items()) if isinstance(v, kind)}
    return dict(reversed(named.values()))


def public_functions(module: ModuleType) -> dict[str, Callable[..., Any]]:
    """Return the functions that a module defines itself, by name, without private ones."""
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    }
