"""What is made once and kept: compiled code above all, by a key that says what it is."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, override


class MadeOnce:
    """Things by key, each made when it is first asked for.

    A target holds one: code that a method compiled for it, and what was found out about it, serve
    every later fit of the same target.
    """

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}

    def __call__[T](self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what ``key`` stands for; ``make`` makes it the first time.

        What ``make`` raises is not kept: the next call tries again.
        """
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made

    def get(self, key: Hashable) -> Any:
        """Return what ``key`` stands for, or ``None`` where it was not made yet."""
        return self._made.get(key)

    def keep(self, key: Hashable, made: Any) -> None:
        """Let ``key`` stand for what was made elsewhere, from now on."""
        self._made[key] = made

    def __len__(self) -> int:
        return len(self._made)


def shapes_of(*args: Any) -> Hashable:
    """Return the shapes, types and structure of arguments: what compiled code depends on."""
    import jax

    leaves, structure = jax.tree.flatten(args)
    return structure, tuple((jax.typeof(leaf).shape, jax.typeof(leaf).dtype) for leaf in leaves)


@dataclass(frozen=True, eq=False)
class ByIdentity:
    """An object as part of a key: equal to itself alone, and kept alive by the key.

    Functions, guides and optimisers that a user gives have no other mark.
    """

    thing: Any

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByIdentity) and self.thing is other.thing

    @override
    def __hash__(self) -> int:
        return id(self.thing)
