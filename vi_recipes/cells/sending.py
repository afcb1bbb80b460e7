"""A job as bytes: models, methods and functions by name, with the source of the user's own files.

What is compiled, open, or has no name where another process could find it, is not sent.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import io
import pickle
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import jax
import numpy as np

from vi_recipes.cells.packed import Packed, known_versions, this_process
from vi_recipes.core import FILES, import_file, is_own, told
from vi_recipes.model import Model, Target

MAIN = "__main__"

OURS = f"{__name__.partition('.')[0]}."
"""How the names of this package's modules begin."""


class NotSentError(ValueError):
    """Something that cannot be sent to another process."""


@dataclass(frozen=True)
class SourceFile:
    """A file of the user's own with those beside it that it imports.

    Parameters
    ----------
    path
        Where it is on the machine that sends it.
    files
        Name -> text, the file itself first.
    """

    path: str
    files: Mapping[str, str]

    @cached_property
    def mark(self) -> str:
        """What tells one from another: it changes with any of its texts."""
        return hashlib.sha256(repr(sorted(self.files.items())).encode()).hexdigest()

    @classmethod
    def of(cls, path: Path) -> SourceFile:
        """Read a file, and the neighbours that it imports, and theirs."""
        path = path.resolve()
        files: dict[str, str] = {}
        waiting = [path.name]
        while waiting:
            name = waiting.pop()
            if name in files:
                continue
            files[name] = (path.parent / name).read_text(encoding="utf-8")
            beside = (f"{module}.py" for module in _imported(files[name]))
            waiting += [n for n in beside if (path.parent / n).is_file()]
        return cls(str(path), files)


def _imported(text: str) -> Iterator[str]:
    """Yield names of modules that a file may import from beside it."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)


# -- packing ---------------------------------------------------------------------------------------


def pack(job: Any) -> Packed:
    """Return a job as what can be sent to any process.

    Targets go as model and data; models as the name that their file has for them, else field by
    field, without what only makes data.

    Raises
    ------
    NotSentError
        For what has no name that another process could find: functions within functions, lambdas,
        what a notebook or a prompt defines; and for what cannot be written down at all.
    """
    stream = io.BytesIO()
    pickler = _Pickler(stream)
    try:
        pickler.dump(job)
    except NotSentError:
        raise
    except Exception as error:  # what cannot be pickled raises whatever it likes
        raise NotSentError(told(error)) from None
    content = pickle.dumps((pickler.sources, stream.getvalue()))
    mark = hashlib.sha256(content).hexdigest()
    return Packed(content, mark, known_versions(), this_process())


def can_be_sent(part: Any) -> bool:
    """Whether :func:`pack` takes what a job is to be made of."""
    try:
        pack(part)
    except NotSentError:
        return False
    return True


class _Pickler(pickle.Pickler):
    """Writes by reference what has a name, and notes the sources of the names' files."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)
        self.sources: dict[str, SourceFile] = {}

    def reducer_override(self, thing: Any) -> Any:
        if isinstance(thing, Target):
            return _target, (thing.complete_model, thing.data)
        if isinstance(thing, Model):
            if (named := _named(thing)) is not None:
                return self._refer(*named)
            known = {f.name: getattr(thing, f.name) for f in fields(thing)}
            # where its data come from is no matter any more
            return _model, (known | {"data": None, "load": None, "simulate": None},)
        if isinstance(thing, jax.Array):
            if jax.numpy.issubdtype(thing.dtype, jax.dtypes.prng_key):
                return jax.random.wrap_key_data, (np.asarray(jax.random.key_data(thing)),)
            return jax.numpy.asarray, (np.asarray(thing),)
        if isinstance(thing, FunctionType | type):
            return self._by_name(thing)
        return NotImplemented

    def _by_name(self, thing: Any) -> Any:
        module, name = thing.__module__, thing.__qualname__
        if "<locals>" in name or "<lambda>" in name:
            raise NotSentError(
                f"'{name}' has no name that another process could find; define it at the top of a "
                "file"
            )
        if not self._source(module):
            return NotImplemented
        own = sys.modules[module]
        try:
            alike = _alike(thing, attrgetter(name)(own))
        except AttributeError:
            alike = False
        if not alike:  # a decorator gives a function the name of the one that it is made of
            others = [other for other, value in vars(own).items() if value is thing]
            if not others:
                raise NotSentError(
                    f"'{name}' is not what its file has by that name: a decorator was put around "
                    "it elsewhere, or the file was changed since; give it a name of its own at the "
                    "top of a file, and load that again"
                )
            name = others[0]
        return self._refer(module, name)

    def _refer(self, module: str, name: str) -> Any:
        self._source(module)
        return _find, (_name_there(module), name)

    def _source(self, module: str) -> bool:
        """Note the source of a module of the user's own; return whether it is one."""
        if module.startswith(FILES):
            module = module.partition(".")[0]  # a neighbour goes with the file beside it
        name = _name_there(module)
        if name in self.sources:
            return True
        loaded = sys.modules.get(module)
        file = getattr(loaded, "__file__", None)
        if file is None:
            if module == MAIN:
                raise NotSentError(
                    "what a notebook or a prompt defines has no file; put the model and what it "
                    "needs into one (%%writefile my_model.py, in a notebook) and load it with "
                    "vi_recipes.load_model('my_model.py')"
                )
            return False
        if "." in module or not is_own(file) or not Path(file).is_file():
            return False  # it is imported by its name
        self.sources[name] = SourceFile.of(Path(file))
        return True


def _name_there(module: str) -> str:
    """Return a module's name where the job is made: a script is no main program there."""
    return f"{FILES}main" if module == MAIN else module


def _named(model: Model) -> tuple[str, str] | None:
    """Return the module and the name by which a model is found there, if it has one."""
    function = _bare(model.function)
    at_home = sys.modules.get(getattr(function, "__module__", ""))
    files = [m for name, m in list(sys.modules.items()) if name.startswith(FILES)]
    for module in [at_home, *files]:
        for name, other in vars(module).items() if module is not None else ():
            if isinstance(other, Model) and _same(model, other):
                assert isinstance(module, ModuleType)
                return module.__name__, name
    return None


def _same(model: Model, other: Model) -> bool:
    """Whether a target's model is another one, but for what a target puts around its function."""
    if _bare(model.function) is not _bare(other.function):
        return False
    names = [f.name for f in fields(model) if f.name != "function"]
    return all(getattr(model, name) is getattr(other, name) for name in names)


def _bare(function: Any) -> Any:
    """Return a function without what this package has put around it."""
    while type(function).__module__.startswith(OURS) and hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


def _alike(one: Any, other: Any) -> bool:
    """Whether two are one, or what two loadings of a file have made of the same lines."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, FunctionType):
        held = [[cell.cell_contents for cell in f.__closure__ or ()] for f in (one, other)]
        within = zip(*held, strict=False)
        return one.__code__ == other.__code__ and all(_alike(*pair) for pair in within)
    try:
        return isinstance(one, type) or bool(one == other)
    except Exception:  # arrays, and what compares itself as it likes
        return False


# -- unpacking -------------------------------------------------------------------------------------

_loaded: dict[str, str] = {}
"""Module -> mark of the source that it was made from here."""

_folders: list[tempfile.TemporaryDirectory[str]] = []
"""Where sources lie that were sent; they go with the process."""


def unpack(content: bytes) -> Any:
    """Return the job that was packed; the user's files are executed first.

    Raises
    ------
    ValueError
        For a file that raises here, and for a package that is not installed here.
    """
    sources, packed = pickle.loads(content)
    for name, source in sources.items():
        _load(name, source)
    try:
        return pickle.loads(packed)
    except ImportError as error:
        raise ValueError(
            f"the job needs what cannot be imported where it was sent ({error}); install it there"
        ) from None


def _load(name: str, source: SourceFile) -> None:
    """Have a module that was made from ``source`` under its name."""
    if _loaded.get(name) == source.mark:
        return
    path = Path(source.path)
    there = _is_as_sent(path, source)
    if name in sys.modules and name not in _loaded and there:
        return  # this process is the one that sent it, or has imported it by itself
    if not there:
        made = tempfile.TemporaryDirectory(prefix="vi_recipes_")
        _folders.append(made)
        folder = Path(made.name) / path.parent.name
        folder.mkdir()
        for file, text in source.files.items():
            (folder / file).write_text(text, encoding="utf-8")
        path = folder / path.name
    import_file(path, name=name)
    _loaded[name] = source.mark


def _is_as_sent(path: Path, source: SourceFile) -> bool:
    try:
        return path.is_file() and SourceFile.of(path).mark == source.mark
    except (OSError, ValueError, SyntaxError):
        return False


def _find(module: str, name: str) -> Any:
    return attrgetter(name)(importlib.import_module(module))


def _target(model: Model, data: Mapping[str, Any]) -> Target:
    return Target(model, **data)


def _model(known: Mapping[str, Any]) -> Model:
    return Model(**known)
