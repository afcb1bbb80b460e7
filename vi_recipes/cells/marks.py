"""What tells a method from another one in a later process, with the objects among its options."""

from __future__ import annotations

import uuid
from typing import Any

from vi_recipes.cells.sending import NotSentError, pack
from vi_recipes.methods import Method

_PROCESS = uuid.uuid4().hex[:8]

_seen: list[Any] = []
"""Objects that have no name that another process could find; kept, so that no other is taken for
one of them."""


def in_full(method: Method) -> str:
    """Return a method in words, with a mark of what its options have of objects.

    A guide or an optimiser says no more of itself than a name that others have too. What can be
    sent to another process is marked by that, the source of a user's file included; what cannot, as
    an optimiser of Optax's, is the same in this process alone.
    """
    names = method.objects
    if not names:
        return method.in_words()
    try:
        mark = pack(method).mark[:16]
    except NotSentError:
        parts = [_number(getattr(_owner(method, name), name.rpartition(".")[2])) for name in names]
        mark = f"{_PROCESS} {' '.join(map(str, parts))}"
    return f"{method.in_words()}, its {', '.join(names)} marked {mark}"


def _owner(method: Method, name: str) -> Any:
    """Return what has an option, of which a method that it corrects may be in front."""
    owner: Any = method
    for part in name.split(".")[:-1]:
        owner = getattr(owner, part)
    return owner


def _number(thing: Any) -> int:
    """Return the place of an object among those that were seen here."""
    for place, other in enumerate(_seen):
        if other is thing:
            return place
    _seen.append(thing)
    return len(_seen) - 1
