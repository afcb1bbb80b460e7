"""What a traced program does, read off before it is compiled."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jax.extend.core import Jaxpr


def programs_in(params: dict[str, Any]) -> Iterator[Jaxpr]:
    """Yield the programs that an operation with these parameters runs."""
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            program: Any = getattr(part, "jaxpr", part)
            if hasattr(program, "eqns"):
                yield program


def operations(program: Jaxpr) -> Iterator[str]:
    """Yield the names of a program's operations, those of the programs that it runs among them."""
    for eqn in program.eqns:
        yield eqn.primitive.name
        for part in programs_in(eqn.params):
            yield from operations(part)


def constants_in(program: Any) -> Iterator[Any]:
    """Yield the arrays that a closed program holds, and those of programs within it."""
    yield from program.consts
    waiting = [program.jaxpr]
    while waiting:
        for eqn in waiting.pop().eqns:
            for value in eqn.params.values():
                for part in value if isinstance(value, tuple | list) else (value,):
                    if hasattr(part, "consts"):
                        yield from constants_in(part)
                    elif hasattr(part, "eqns"):
                        waiting.append(part)


def work_of(program: Jaxpr) -> int:
    """Return about how many numbers a program computes in one call.

    Every operation counts with the numbers that it returns, those of a scan as often as it steps;
    of a loop whose steps are not known, one is counted.
    """
    total = 0
    for eqn in program.eqns:
        parts = list(programs_in(eqn.params))
        if parts:
            total += int(eqn.params.get("length") or 1) * sum(map(work_of, parts))
        else:
            total += sum(math.prod(getattr(var.aval, "shape", ())) for var in eqn.outvars)
    return total
