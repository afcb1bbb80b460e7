"""A search from several starting points."""

from __future__ import annotations

from collections.abc import Callable

from vi_recipes.core.status import MethodFailure, ModelError

SEVERAL = 5
"""Starts where several optima are likely, or where they cost next to nothing."""


def from_starts[T](count: int, search: Callable[[int], T]) -> list[T]:
    """Return what ``search`` finds from each start that leads anywhere.

    Parameters
    ----------
    count
        How many starts there are.
    search
        Searches from the start of this number; the first is the model's own.

    Raises
    ------
    MethodFailure
        The first that was raised, where no start leads anywhere.
    ModelError
        Of the first start. Of others it says that the density is finite at none of the points
        tried, and they are left out.
    """
    found: list[T] = []
    failure: MethodFailure | None = None
    for number in range(count):
        try:
            found.append(search(number))
        except MethodFailure as error:
            failure = failure or error
        except ModelError:
            if not number:
                raise
    if not found:
        assert failure is not None
        raise failure
    return found
