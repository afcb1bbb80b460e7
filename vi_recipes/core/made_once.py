"""What is made once and kept: compiled code above all, by a key that says what it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, override

from vi_recipes.core.timing import Timing


@dataclass
class _Cost:
    """Seconds that it took to make something, without its parts; and the keys of those."""

    seconds: float = 0.0
    parts: list[Hashable] = field(default_factory=list)


class MadeOnce:
    """Things by key, each made when it is first asked for.

    A target holds one: code that a method compiled for it, and what was found out about it, serve
    every later fit of the same target.
    """

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}
        self._costs: dict[Hashable, _Cost] = {}
        self._makers: list[_Cost] = []
        self._used: set[Hashable] | None = None

    def __call__[T](self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what ``key`` stands for; ``make`` makes it the first time.

        What ``make`` raises is not kept: the next call tries again.
        """
        if self._makers:
            self._makers[-1].parts.append(key)
        if key in self._made:
            if self._used is not None:
                self._used.add(key)
        elif self._used is None:  # no fit is under way, so it is part of none
            self._made[key] = make()
        else:
            self._made[key] = self._measured(key, make)
        made: T = self._made[key]
        return made

    def _measured[T](self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what ``make`` makes, its seconds without those of its parts noted."""
        cost, start, depth = _Cost(), time.perf_counter(), len(self._makers)
        try:
            self._makers.append(cost)
            made = make()
        finally:
            del self._makers[depth:]  # an interrupt may have left more
            spent = time.perf_counter() - start
            if self._makers:
                self._makers[-1].seconds -= spent
        cost.seconds += spent
        self._costs[key] = cost
        return made

    @contextmanager
    def shared(self, timing: Timing) -> Iterator[None]:
        """Charge a fit, the block, with what it uses that earlier fits have made."""
        before, known, used = self._used, set(self._costs), set[Hashable]()
        try:
            self._used = used
            yield
        finally:
            self._used = before
            waiting, seen = list(used), set[Hashable]()
            while waiting:
                key = waiting.pop()
                if key in known and key not in seen:
                    seen.add(key)
                    waiting += self._costs[key].parts
            timing.shared_seconds += sum(max(self._costs[key].seconds, 0.0) for key in seen)

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

    def of(leaf: Any) -> Hashable:
        known = leaf if isinstance(leaf, jax.Array) else jax.typeof(leaf)  # the latter takes longer
        return known.shape, known.dtype

    leaves, structure = jax.tree.flatten(args)
    return structure, tuple(map(of, leaves))


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
