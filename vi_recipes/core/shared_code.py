"""Compiled code that several fits share: what is compiled once for one serves all the others.

A fit makes the functions that it compiles anew, so JAX, which knows code by the function, compiles
for every fit. Over hundreds of fits of one model to data of one shape that is most of the time.
Here code is known by what it says: a function is traced, the arrays that it closes over become
arguments, and code that was compiled for the same text is used again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

type Options = dict[str, bool | int | str] | None


class SharedCode:
    """Executables by the text of their code."""

    def __init__(self) -> None:
        self._executables: dict[Hashable, Callable[..., Any]] = {}

    def __len__(self) -> int:
        return len(self._executables)

    @contextmanager
    def used(self) -> Iterator[None]:
        """Have what this thread compiles in the block come from here."""
        before = _IN_USE.get()
        try:  # from here on, so that an interrupt finds it set and undone, or neither
            _IN_USE.set(self)
            yield
        finally:
            _IN_USE.set(before)

    def compile(
        self, function: Callable[..., Any], *args: Any, options: Callable[[Any], Options]
    ) -> Callable[..., Any]:
        """Return ``function`` compiled for the shapes of ``args``, from what there is if possible.

        Parameters
        ----------
        function
            Traced here, always: what it returns may depend on what it closes over.
        *args
            Arrays, and trees of them.
        options
            The program, a ``jax.extend.core.Jaxpr`` -> XLA's options for it.
        """
        import jax
        from jax.extend.core import jaxpr_as_fun

        traced, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        out = jax.tree.structure(shapes)
        constants, leaves = tuple(traced.consts), jax.tree.leaves(args)

        def code(constants: Any, leaves: Any) -> Any:
            return jaxpr_as_fun(type(traced)(traced.jaxpr, constants))(*leaves)

        lowered = jax.jit(code).lower(constants, leaves)
        # the text holds every constant that is left, in full; the trees say what goes where
        key = lowered.as_text(), jax.tree.structure((constants, leaves))
        if key not in self._executables:
            self._executables[key] = lowered.compile(compiler_options=options(traced.jaxpr))
        executable = self._executables[key]

        def run(*args: Any) -> Any:
            return jax.tree.unflatten(out, executable(constants, jax.tree.leaves(args)))

        return run


_IN_USE: ContextVar[SharedCode | None] = ContextVar("shared_code", default=None)


def shared_code() -> SharedCode | None:
    """Return what the code that this thread compiles comes from, if that is shared."""
    return _IN_USE.get()
