"""Frames that are printed whole, made where one is asked for: pandas takes a process 65 MB."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vi_recipes.fit.wide import WideFrame


def wide_frame(content: Any = None, **options: Any) -> WideFrame:
    """Return a frame of which each row is printed on one line.

    Parameters
    ----------
    content, **options
        What :class:`pandas.DataFrame` takes.
    """
    from vi_recipes.fit.wide import WideFrame

    return WideFrame(content, **options)
