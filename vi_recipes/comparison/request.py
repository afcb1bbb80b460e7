"""What a comparison is asked for, checked before the first method is fitted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jax

from vi_recipes.core import ModelError, ProgressFactory, called, in_notebook, progress_bar
from vi_recipes.fit import Fit, check_same
from vi_recipes.methods import Method, default_methods, make_method, parse_methods
from vi_recipes.model import Target

NO_SPREAD = (
    "is a point, and differences are measured in the sds of the reference: give a fit that has "
    "sds, such as NUTS's, or leave the reference out"
)


Methods = str | Method | Fit | Sequence[Method | Fit] | Mapping[str, Method | Fit]
"""What may say which methods are to be fitted, and which fits taken as they are."""


def named_methods(methods: Methods | None, target: Target) -> dict[str, Method | Fit]:
    """Return methods and fits by name, by default those that apply to the target.

    Raises
    ------
    ValueError
        For what is neither, names that are none, two of one name, and fits of another target.
    """
    if methods is None:
        return dict(default_methods(target))
    if isinstance(methods, str):
        made = {n: make_method(m, target) for n, m in parse_methods(methods).items()}
        return dict(made)
    if isinstance(methods, Method | Fit):
        methods = [methods]
    if isinstance(methods, bytes) or not isinstance(methods, Iterable):
        raise ValueError(
            f"methods: got {methods!r}, expected names such as 'map,nuts', a list of methods such "
            "as [vi_recipes.MAP()], or a mapping name -> method"
        )
    pairs = (
        list(methods.items())
        if isinstance(methods, Mapping)
        else [(_own_name(method), method) for method in methods]
    )
    if not pairs:
        raise ValueError("methods: none given; name at least one, such as vi_recipes.MAP()")
    for name, method in pairs:
        if not isinstance(method, Method | Fit):
            raise ValueError(
                f"methods: got {method!r}, expected a method such as vi_recipes.NUTS()"
            )
        named = isinstance(name, str) and name
        if not named or not all(c.isalnum() or c in "-_." for c in name):
            raise ValueError(f"methods: the name {name!r} must be letters, digits, '-', '_', '.'")
    names = [name for name, _ in pairs]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        raise ValueError(
            f"methods: more than one is named {', '.join(twice)}; give a mapping name -> method"
        )
    for _, fit in pairs:
        if isinstance(fit, Fit):
            check_same(fit, target)
    return dict(pairs)


def _own_name(method: object) -> str:
    if isinstance(method, Fit):
        return method.method
    return method.name if isinstance(method, Method) else ""


def check_options(name: str, method: Method, target: Target) -> None:
    """Raise a :class:`ValueError`, before anything is fitted, for options that do not go here."""
    try:
        method.check(target)
    except ValueError as error:
        raise ValueError(f"method '{name}': {error}") from error


def check_start(target: Target, key: int) -> None:
    """Raise a :class:`ValueError` for a target without a finite density, once for all methods."""
    try:
        called(f"model '{target.name}'", target.start, jax.random.key(key))
    except ModelError as error:
        cause = error.__cause__
        if isinstance(cause, KeyError) and cause.args[0] in target.sites:
            raise ModelError(
                f"model '{target.name}' has a site '{cause.args[0]}' at one call and not at the "
                "next: give every site the same name at every call"
            ) from cause
        raise


def check_checkpoints(methods: Mapping[str, Method]) -> None:
    """Raise a :class:`ValueError` where two methods would write one file."""
    owner: dict[Path, str] = {}
    for name, method in methods.items():
        path = getattr(method, "checkpoint", None)
        if path is None:
            continue
        first = owner.setdefault(Path(path).resolve(), name)
        if first != name:
            raise ValueError(
                f"checkpoint: got '{path}' for {first} and for {name}, expected a file for each"
            )


def chosen_progress(progress: ProgressFactory | bool | None) -> ProgressFactory | None:
    """Return what makes reporters of progress, ``None`` for none: a bar in notebooks by default."""
    if progress is None or isinstance(progress, bool):
        return progress_bar if progress or (progress is None and in_notebook()) else None
    if not callable(progress):
        raise ValueError(
            f"progress: got {progress!r}, expected what makes a reporter from a title, such as "
            "vi_recipes.core.progress_bar, True, False or None"
        )
    return progress


def checked_reference(
    reference: str | Fit | None, named: Mapping[str, Method | Fit], target: Target
) -> str | Fit | None:
    """Return the reference under a name of its own, or say why it cannot be one."""
    if isinstance(reference, str) and reference not in named:
        raise ValueError(
            f"reference: got '{reference}', expected one of the methods: {', '.join(named)}"
        )
    if isinstance(reference, str) and named[reference].is_point:
        raise ValueError(f"reference: '{reference}' {NO_SPREAD}")
    if reference is None or isinstance(reference, str):
        return reference
    if not isinstance(reference, Fit):
        raise ValueError(
            f"reference: got {type(reference).__name__}, expected the name of a method, a Fit, or "
            "None; vi_recipes.load_reference makes a Fit of answers from a file"
        )
    if not reference.has_result:
        raise ValueError(f"reference: the fit has no numbers: {reference.explanation}")
    theirs, ours = ([(s.name, s.shape) for s in q] for q in (reference.sites, target.quantities))
    if theirs != ours:
        raise ValueError(
            f"reference: it is of a model with the sites {theirs}, expected {ours}; "
            "give a fit of this target"
        )
    if reference.is_point:
        raise ValueError(f"reference: '{reference.method}' {NO_SPREAD}")
    taken = reference.method in named
    return reference.renamed(f"{reference.method}_reference") if taken else reference
