"""Honest time: compilation and running apart, and the evaluations that the seconds bought."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from vi_recipes.core.shared_code import shared_code


@dataclass
class Timing:
    """Seconds and evaluation counts of one fit.

    Parameters
    ----------
    compile_seconds
        Tracing and ahead-of-time compilation.
    run_seconds
        Everything else the method did, device work waited for.
    density_evaluations, gradient_evaluations, hvp_evaluations
        Log densities without a gradient, log densities with one, and Hessian-vector products; a
        dense Hessian of dimension D counts D products.
    """

    compile_seconds: float = 0.0
    run_seconds: float = 0.0
    density_evaluations: int = 0
    gradient_evaluations: int = 0
    hvp_evaluations: int = 0

    @property
    def total_seconds(self) -> float:
        """Compilation plus running."""
        return self.compile_seconds + self.run_seconds

    def to_dict(self) -> dict[str, float]:
        """Return the fields as plain numbers."""
        return asdict(self)

    def compile(self, function: Callable[..., Any], *args: Any) -> Callable[..., Any]:
        """Compile ``function`` for the shapes of ``args``, charging the time to compilation.

        Fits that share code (:mod:`vi_recipes.core.shared_code`) compile what none of them has yet.
        """
        import jax

        start = time.perf_counter()
        try:
            if (shared := shared_code()) is not None:
                return shared.compile(function, *args)
            return jax.jit(function).lower(*args).compile()
        finally:
            self.compile_seconds += time.perf_counter() - start

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """Charge the block to compilation."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.compile_seconds += time.perf_counter() - start

    @contextmanager
    def running(self) -> Iterator[None]:
        """Charge the block to running."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.run_seconds += time.perf_counter() - start

    @contextmanager
    def running_compiled(self) -> Iterator[None]:
        """Charge the block to running, less what it compiles on first use."""
        before = self.compile_seconds
        try:
            with self.running():
                yield
        finally:
            self.run_seconds -= self.compile_seconds - before
