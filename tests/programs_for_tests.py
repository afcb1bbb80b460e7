"""What JAX compiles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import jax


@contextmanager
def compiled_programs() -> Iterator[list[str]]:
    """Yield a list that gets the name of each program compiled in the block."""
    names: list[str] = []

    def heard(event: str, seconds: float, **about: object) -> None:
        if event.endswith("backend_compile_duration"):
            names.append(str(about.get("fun_name")))

    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)
