"""An executor that sends everything, and runs it in this process."""

from __future__ import annotations

import io
import pickle
from concurrent.futures import Executor, Future
from typing import Any, override


class _Reader(pickle.Unpickler):
    """Reads which cell is asked for, and does not do it."""

    @override
    def find_class(self, module: str, name: str, /) -> Any:
        return (lambda _, cell: cell) if name == "do" else super().find_class(module, name)


def cell_of(order: bytes, buffers: Any) -> Any:
    """Return the cell of an order that was submitted."""
    return _Reader(io.BytesIO(order), buffers=buffers).load()


class Here(Executor):
    """Runs what it is given in this process, sent and sent back as if it were another."""

    def __init__(self) -> None:
        self.cells: list[Any] = []

    @override
    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        function, args, kwargs = pickle.loads(pickle.dumps((function, args, kwargs)))
        self.cells.append(cell_of(*args, **kwargs))
        future: Future[Any] = Future()
        try:
            future.set_result(pickle.loads(pickle.dumps(function(*args, **kwargs))))
        except BaseException as error:
            future.set_exception(error)
        return future
