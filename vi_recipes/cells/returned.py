"""Fits on their way back from where they were made: whole, on the target that is here.

What a fit knows of its posterior are numbers, and the target that these are of. The numbers come
back; the target stays, since the one that the fit was sent as is here. What was compiled stays too:
objectives, by which sensitivities are found, and whatever is made once and again.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import fields, is_dataclass
from typing import Any, cast, override

import jax
import numpy as np

from vi_recipes.cells.sending import NotSentError
from vi_recipes.core import told
from vi_recipes.elbo import KL
from vi_recipes.fit import MAX_STORED_COV, Fit
from vi_recipes.model import Target

MOMENTS = ("mean", "sd", "mcse_mean", "mcse_sd")


def fold(fit: Fit, target: Target) -> bytes:
    """Return a fit of ``target`` as bytes, with its moments, so that these are computed once.

    Raises
    ------
    NotSentError
        For a fit that holds what is no number.
    """
    known: dict[str, Any] = {}
    if fit.has_result:
        known = {what: getattr(fit.known_posterior(), what)() for what in MOMENTS}
        if sum(site.size for site in fit.sites) <= MAX_STORED_COV:
            known["cov"] = fit.cov().to_numpy()
    stream = io.BytesIO()
    try:
        _Pickler(stream, target).dump((fit, known))
    except NotSentError:
        raise
    except Exception as error:  # what cannot be pickled raises whatever it likes
        raise NotSentError(told(error)) from None
    return stream.getvalue()


def unfold(content: bytes, target: Target) -> Fit:
    """Return the fit that :func:`fold` made bytes of, as a fit of ``target``."""
    fit, known = _Unpickler(io.BytesIO(content), target).load()
    for what, value in known.items():
        fit.once(what, lambda value=value: value)
    return cast("Fit", fit)


class _Pickler(pickle.Pickler):
    """Writes records field by field, without what they have found out since."""

    def __init__(self, stream: io.BytesIO, target: Target) -> None:
        super().__init__(stream, pickle.HIGHEST_PROTOCOL)
        self._target = target

    @override
    def persistent_id(self, thing: Any) -> str | None:
        return "target" if thing is self._target else None

    def reducer_override(self, thing: Any) -> Any:
        if isinstance(thing, Target):
            raise NotSentError("it is of a target that was made on the way")
        if isinstance(thing, KL):
            return _nothing, ()
        if _is_record(thing):
            known = {f.name: getattr(thing, f.name) for f in fields(thing) if f.init}
            return _made, (type(thing), known)
        if isinstance(thing, jax.Array):
            return _array, (np.asarray(thing),)
        return NotImplemented


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, target: Target) -> None:
        super().__init__(stream)
        self._target = target

    @override
    def persistent_load(self, pid: str) -> Target:
        return self._target


def _is_record(thing: Any) -> bool:
    """Whether it is an object of a frozen dataclass of ours: a fit, a posterior, or part of one."""
    kind = type(thing)
    ours = kind.__module__.startswith(f"{__name__.partition('.')[0]}.")
    return ours and is_dataclass(kind) and kind.__dataclass_params__.frozen  # type: ignore[attr-defined]


def _made(kind: type[Any], known: dict[str, Any]) -> Any:
    return kind(**known)


def _array(values: np.ndarray) -> jax.Array:
    with jax.enable_x64(True):
        return jax.numpy.asarray(values)


def _nothing() -> None:
    return None
