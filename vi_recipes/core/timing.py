"""Honest time: compilation and running apart, and the evaluations that the seconds bought."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from vi_recipes.core.memory import give_back
from vi_recipes.core.programs import work_of
from vi_recipes.core.shared_code import shared_code

COMPILED_QUICKLY: dict[str, bool | int | str] = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}
"""XLA's options for code that runs so little that it is compiled longer than it runs.

It compiles in about half the time, and runs half as fast or worse.
"""

CALLS_OF_A_SEARCH = 50
"""About how often a search for an optimum calls what it compiles."""

LONG = 0.5
"""Seconds of compilation after which what the compiler has freed is handed back."""

MUCH_WORK = 1_000_000
"""Numbers read over all calls from which optimised code earns its compilation back."""

MUCH_TO_COMPUTE = 2_000_000_000
"""Numbers computed over a search's calls from which it does, whatever it reads."""


def compiler_options(calls: int | None, args: Any) -> dict[str, bool | int | str] | None:
    """Return XLA's options for code that reads ``args`` in about so many calls.

    ``None``, which is XLA's own choice, for much work, and for ``calls=None``: code that loops.
    """
    import jax

    if calls is None:
        return None
    numbers = sum(jax.typeof(leaf).size for leaf in jax.tree.leaves(args))
    return COMPILED_QUICKLY if calls * numbers < MUCH_WORK else None


@dataclass
class Timing:
    """Seconds and evaluation counts of one fit.

    Parameters
    ----------
    compile_seconds
        Tracing and ahead-of-time compilation.
    run_seconds
        Everything else the method did, device work waited for; of linear response also what mean
        field took to find an optimum that it left.
    density_evaluations, gradient_evaluations, hvp_evaluations
        Log densities without a gradient, log densities with one, and Hessian-vector products; a
        dense Hessian of dimension D counts D products.
    shared_seconds
        What earlier fits of the same target spent on code that this one used too.
    """

    compile_seconds: float = 0.0
    run_seconds: float = 0.0
    density_evaluations: int = 0
    gradient_evaluations: int = 0
    hvp_evaluations: int = 0
    shared_seconds: float = 0.0

    @property
    def total_seconds(self) -> float:
        """Compilation plus running."""
        return self.compile_seconds + self.run_seconds

    @property
    def alone_seconds(self) -> float:
        """The total, had no fit gone before."""
        return self.total_seconds + self.shared_seconds

    def to_dict(self) -> dict[str, float]:
        """Return the fields as plain numbers."""
        return asdict(self)

    def compile(
        self, function: Callable[..., Any], *args: Any, calls: int | None = None
    ) -> Callable[..., Any]:
        """Compile ``function`` for the shapes of ``args``, charging the time to compilation.

        Fits that share code (:mod:`vi_recipes.core.shared_code`) compile what none of them has yet.

        Parameters
        ----------
        function, *args
            The code, and arrays or trees of them.
        calls
            About how often it will be called; ``None`` for code that loops within a call. What
            will do little work is compiled without optimisation.
        """
        import jax

        start = time.perf_counter()
        try:

            def options(program: Any) -> dict[str, bool | int | str] | None:
                chosen = compiler_options(calls, args)
                if calls is None or chosen is None:
                    return chosen
                # what takes one direction after the other has those in its work already
                work = work_of(program) * min(calls, CALLS_OF_A_SEARCH)
                return chosen if work < MUCH_TO_COMPUTE else compiler_options(None, args)

            if (shared := shared_code()) is not None:
                return shared.compile(function, *args, options=options)
            traced = jax.jit(function).trace(*args)
            chosen = options(traced.jaxpr.jaxpr)
            return traced.lower().compile(compiler_options=chosen)
        finally:
            if time.perf_counter() - start > LONG:
                give_back()
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
