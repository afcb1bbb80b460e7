"""How much a program computes, read off before it is compiled."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any


def work_of(program: Any) -> int:
    """Return about how many numbers a program computes in one call.

    Every operation counts with the numbers that it returns, those of a scan as often as it steps;
    of a loop whose steps are not known, one is counted.

    Parameters
    ----------
    program
        A ``jax.extend.core.Jaxpr``.
    """
    total = 0
    for eqn in program.eqns:
        parts = list(_parts(eqn.params))
        if parts:
            total += int(eqn.params.get("length") or 1) * sum(map(work_of, parts))
        else:
            total += sum(math.prod(getattr(var.aval, "shape", ())) for var in eqn.outvars)
    return total


def _parts(params: dict[str, Any]) -> Iterator[Any]:
    """Return the programs that an operation runs."""
    for value in params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            program = getattr(part, "jaxpr", part)
            if hasattr(program, "eqns"):
                yield program
