"""Models and studies: found by name among the shipped ones, or loaded from a user's file."""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib.util
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from vi_recipes.model.model import Model

if TYPE_CHECKING:
    from vi_recipes.comparison.study import Study

Kind = Literal["models", "comparisons"]

PACKAGE = Path(__file__).resolve().parents[1]
_THING = {"models": "model", "comparisons": "study"}


class ContentError(ValueError):
    """A file of models or studies that raised an error when it was loaded.

    The message ends with the file's own traceback, shortened to the user's lines.
    """


# -- finding ---------------------------------------------------------------------------------


def folder(kind: Kind) -> Path:
    """Return the folder that holds the shipped models or comparisons.

    In a checkout it is the checkout's own, so that an edit takes effect at once; else the copy
    inside the installed package.
    """
    checkout = PACKAGE.parent
    return checkout / kind if _is_checkout(checkout) else PACKAGE / "_content" / kind


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


def find(kind: Kind) -> dict[str, Path]:
    """Return the shipped models or comparisons: name -> file, in alphabetical order."""
    root = folder(kind)
    if kind == "models":
        return {path.parent.name: path for path in sorted(root.glob("*/model.py"))}
    return {path.stem: path for path in sorted(root.glob("*.py")) if path.stem[0] != "_"}


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


def load_model(name_or_path: str | Path) -> Model:
    """Return a shipped model by name, or the model in a file of yours.

    Parameters
    ----------
    name_or_path
        A name among :func:`list_models`, with ``:NAME`` for another model of the same file, as in
        ``gmm:LABELS``; ``file.py`` or ``file.py:NAME``. A file holds a :class:`Model` or a bare
        NumPyro function; without ``NAME``, ``MODEL`` is preferred, else the file must hold one
        ``Model`` only, or one public function only.

    Raises
    ------
    ValueError
        For an unknown name (with the closest ones), a missing file, a file that raises (with its
        own traceback), and a file in which there is no telling which object is meant.
    """
    module, where, name = _load("models", name_or_path)
    if name is not None:
        return _as_model(name, _member(module, name, where), where)
    if hasattr(module, "MODEL"):
        return _as_model("MODEL", module.MODEL, where)
    found = _instances(module, Model) or _public_functions(module)
    cure = "define one, such as MODEL = vi_recipes.Model(function=..., name=...)"
    return _as_model(*_only(found, "vi_recipes.Model or public function", where, cure), where)


def load_study(name_or_path: str | Path) -> Study:
    """Return a shipped study by name, or the study in a file of yours.

    Parameters
    ----------
    name_or_path
        A name among :func:`list_studies`, ``file.py`` or ``file.py:NAME``; without ``NAME``,
        ``STUDY`` is preferred, else the file must hold one :class:`Study` only.

    Raises
    ------
    ValueError
        As :func:`load_model` does.
    """
    from vi_recipes.comparison.study import Study

    module, where, name = _load("comparisons", name_or_path)
    if name is None and not hasattr(module, "STUDY"):
        found = _instances(module, Study)
        return _only(found, "vi_recipes.Study", where, "define STUDY = vi_recipes.Study(...)")[1]
    name = name or "STUDY"
    study = _member(module, name, where)
    if not isinstance(study, Study):
        raise ValueError(
            f"'{name}' in {where} is a {type(study).__name__}, expected a vi_recipes.Study"
        )
    return study


def load_object(reference: str) -> Any:
    """Return the object that ``file.py:NAME`` points to: a guide, an optimiser, a function."""
    path, name = split_reference(reference)
    if name is None:
        raise ValueError(f"{reference!r} names no object; write it as file.py:NAME")
    return _member(import_file(path), name, str(path))


def split_reference(text: str) -> tuple[Path, str | None]:
    """Split ``file.py:NAME`` into the file and the name, which may be absent."""
    path, colon, name = text.rpartition(":")
    return (Path(path), name) if colon and path.endswith(".py") else (Path(text), None)


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """Return the message for a name that does not exist: the closest one, and all there are.

    Examples
    --------
    >>> unknown("model", "raddon", ["gmm", "radon"])
    "unknown model 'raddon'; did you mean 'radon'? Known: gmm, radon"
    """
    names = list(known)
    folded = {n.casefold(): n for n in names}
    close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    hint = f"did you mean '{folded[close[0]]}'? " if close else ""
    return f"unknown {what} '{name}'; {hint}Known: {', '.join(names) or 'none'}"


def _load(kind: Kind, name_or_path: str | Path) -> tuple[ModuleType, str, str | None]:
    """Return the module, what to call it in messages, and the name asked for within it."""
    text = str(name_or_path)
    path, name = split_reference(text)
    if isinstance(name_or_path, Path) or path.suffix == ".py" or os.sep in text or "/" in text:
        return import_file(path), str(path), name
    shipped = find(kind)
    text, _, variant = text.partition(":")
    if text not in shipped:
        thing = _THING[kind]
        raise ValueError(
            f"{unknown(thing, text, shipped)}. A {thing} of your own is given by path: "
            "file.py or file.py:NAME"
        )
    return import_file(shipped[text]), str(shipped[text]), variant or None


def import_file(path: Path) -> ModuleType:
    """Execute a Python file as a module of its own and return it.

    Raises
    ------
    ValueError
        If there is no such file.
    ContentError
        If it raises.
    """
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "does not exist"
        raise ValueError(f"{path} {what}; expected a Python file, file.py or file.py:NAME")
    path = path.resolve()
    label = path.parent.name if path.stem == "model" else path.stem
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    name = f"vi_recipes_file_{label}_{digest}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path}: not a Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    # Registered first: dataclasses and pickle look their module up there.
    sys.modules[name] = module
    try:
        with _importable(path.parent):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ContentError(
            f"{path} raised {type(error).__name__} when it was loaded:\n{_own_lines(error, path)}"
        ) from error
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


def _own_lines(error: BaseException, path: Path) -> str:
    """Return the traceback of ``error`` from the user's file on, without library frames."""
    folders = [Path(sysconfig.get_path(key)) for key in ("stdlib", "purelib", "platlib")]
    libraries = tuple(str(folder.resolve()) + os.sep for folder in (*folders, PACKAGE))
    report = traceback.TracebackException.from_exception(error)
    report.stack = traceback.StackSummary.from_list(
        frame
        for frame in report.stack
        if frame.filename == str(path) or not frame.filename.startswith((*libraries, "<frozen"))
    )
    return "".join(report.format(chain=False)).rstrip()


# -- choosing --------------------------------------------------------------------------------


def _only[T](found: Mapping[str, T], what: str, where: str, cure: str) -> tuple[str, T]:
    """Return the one entry of ``found``, by name."""
    if not found:
        raise ValueError(f"{where} holds no {what}; {cure}")
    if len(found) > 1:
        raise ValueError(
            f"{where} holds {len(found)} objects that could be meant: {', '.join(found)}. "
            f"Say which one: {where}:{next(iter(found))}"
        )
    return next(iter(found.items()))


def _as_model(name: str, value: Any, where: str) -> Model:
    if isinstance(value, Model):
        return value
    if callable(value) and not isinstance(value, type):
        return Model(function=value, name=name)
    raise ValueError(
        f"'{name}' in {where} is a {type(value).__name__}, expected a vi_recipes.Model or a "
        "NumPyro model function"
    )


def _member(module: ModuleType, name: str, where: str) -> Any:
    if not hasattr(module, name):
        names = {**_instances(module, Model), **_public_functions(module)}
        raise ValueError(f"{where}: {unknown('name', name, names)}")
    return getattr(module, name)


def _instances[T](module: ModuleType, kind: type[T]) -> dict[str, T]:
    """Return the module's objects of a type by name; an object under two names counts once."""
    named = {id(v): (n, v) for n, v in reversed(vars(module).items()) if isinstance(v, kind)}
    return dict(reversed(named.values()))


def _public_functions(module: ModuleType) -> dict[str, Callable[..., Any]]:
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    }
