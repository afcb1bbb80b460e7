"""What tells a method from another one in a later process, with the objects among its options."""

from __future__ import annotations

import uuid
from operator import attrgetter
from typing import Any

from vi_recipes.cells.sending import NotSentError, pack
from vi_recipes.methods import Method

_PROCESS = uuid.uuid4().hex[:8]

_seen: list[Any] = []
"""Objects that have no name that another process could find; kept, so that no other is taken for
one of them."""


def in_full(method: Method) -> str:
    """Return a method in words, with the mark of the objects among its options."""
    if not (mark := mark_of_objects(method)):
        return method.in_words()
    return f"{method.in_words()}, its {', '.join(method.objects)} marked {mark}"


def mark_of_objects(method: Method) -> str:
    """Return what tells the objects among a method's options from others; empty without any.

    A guide or an optimiser says no more of itself than a name that others have too. What can be
    sent to another process is marked by that, the source of a user's file included; what cannot, as
    an optimiser of Optax's, is the same in this process alone.
    """
    if not (names := method.objects):
        return ""
    try:
        return pack(method).mark[:16]
    except NotSentError:
        parts = [_number(attrgetter(name)(method)) for name in names]
        return f"{_PROCESS} {' '.join(map(str, parts))}"


def _number(thing: Any) -> int:
    """Return the place of an object among those that were seen here."""
    for place, other in enumerate(_seen):
        if other is thing:
            return place
    _seen.append(thing)
    return len(_seen) - 1
