"""Draws made elsewhere that a command names: rows of a comparison, or its reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vi_recipes.core import unknown

if TYPE_CHECKING:
    from vi_recipes.fit import Fit
    from vi_recipes.methods import Method
    from vi_recipes.model import Target


def added_fits(
    pairs: Sequence[str], rename: Sequence[str], target: Target, taken: Mapping[str, Method]
) -> dict[str, Fit]:
    """Return the fits of ``--add NAME=FILE``, by name."""
    from vi_recipes.fit import from_arviz

    names = _names(rename)
    fits: dict[str, Fit] = {}
    for pair in pairs:
        name, equals, path = (part.strip() for part in pair.partition("="))
        if not (equals and name and path):
            raise ValueError(f"--add: got {pair!r}, expected NAME=FILE, such as stan=fit.nc")
        if name in taken or name in fits:
            raise ValueError(f"--add: '{name}' is there already; give it another name")
        try:
            fits[name] = from_arviz(path, target, names=names, method=name)
        except ValueError as error:
            raise ValueError(f"--add: {error}") from None
    return fits


def given_reference(
    reference: str | None,
    rename: Sequence[str],
    target: Target,
    named: Mapping[str, Method | Fit],
    earlier: Path | None,
) -> str | Fit | None:
    """Return the reference of ``--reference``: a name, or a fit from a file.

    The folder of an earlier comparison that is taken up has names too.
    """
    from vi_recipes.comparison import fits_in
    from vi_recipes.fit import FILES_OF_DRAWS, from_arviz, load_reference

    known = [*named, *(fits_in(earlier) if earlier is not None else [])]
    if reference is None or reference in known:
        return reference
    if reference.lower().endswith(".json"):
        return load_reference(reference, target)
    if reference.lower().endswith(FILES_OF_DRAWS):
        try:
            return from_arviz(reference, target, names=_names(rename))
        except ValueError as error:
            raise ValueError(f"--reference: {error}") from None
    raise ValueError(f"--reference: {unknown('method', reference, known)}")


def _names(rename: Sequence[str]) -> dict[str, str]:
    """Return THEIRS=OURS as a mapping."""
    names = {}
    for pair in rename:
        theirs, equals, ours = (part.strip() for part in pair.rpartition("="))
        if not (equals and theirs and ours):
            raise ValueError(f"--rename: got {pair!r}, expected THEIRS=OURS, such as b_x='beta[0]'")
        names[theirs] = ours
    return names
