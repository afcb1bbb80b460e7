"""What an interrupted comparison was to fit, and has no fit of."""

from __future__ import annotations

from collections.abc import Iterable

from vi_recipes.comparison.fits import Fits

LEAD = "Not begun"
"""How the sentence begins that names them."""


def say_left(names: Iterable[str], *, sure: bool) -> list[str]:
    """Return a sentence on methods without a fit; none where there are no such methods.

    Parameters
    ----------
    names
        Theirs.
    sure
        Whether none of them was begun: of what workers were given, and of a process that was
        killed, nobody can tell.
    """
    listed = ", ".join(names)
    what = LEAD if sure else f"{LEAD}, or not done,"
    return [f"{what} when the run was interrupted: {listed}."] if listed else []


def told_left(comparison: Fits) -> list[str]:
    """Return what a comparison's notes say of methods that it has no fit of."""
    return [note for note in comparison.notes if note.startswith(LEAD)]
