"""Models: by name among the shipped ones, or from a user's file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vi_recipes.core import check_arguments, instances, load_file, member, only, public_functions
from vi_recipes.model.model import Model


@check_arguments("name_or_path")
def load_model(name_or_path: str | Path) -> Model:
    """Return a shipped model by name, or the model in a file of yours.

    Parameters
    ----------
    name_or_path
        A name among :func:`~vi_recipes.core.list_models`, with ``:NAME`` for another model of
        the same file, as in ``gmm:LABELS``; ``file.py`` or ``file.py:NAME``. A file holds a
        :class:`Model` or a bare NumPyro function; without ``NAME``, ``MODEL`` is preferred, else
        the file must hold one ``Model`` only, or one public function only.

    Raises
    ------
    ValueError
        For an unknown name (with the closest ones), a missing file, a file that raises (with its
        own traceback), and a file in which there is no telling which object is meant.
    """
    module, where, name = load_file("models", name_or_path)
    if name is not None:
        return _as_model(name, member(module, name, where, Model), where)
    if hasattr(module, "MODEL"):
        return _as_model("MODEL", module.MODEL, where)
    found = instances(module, Model) or public_functions(module)
    cure = "define one, such as MODEL = vi_recipes.Model(function=..., name=...)"
    return _as_model(*only(found, "vi_recipes.Model or public function", where, cure), where)


def _as_model(name: str, value: Any, where: str) -> Model:
    if isinstance(value, Model):
        return value
    if callable(value) and not isinstance(value, type):
        return Model(function=value, name=name)
    raise ValueError(
        f"'{name}' in {where} is a {type(value).__name__}, expected a vi_recipes.Model or a "
        "NumPyro model function"
    )
