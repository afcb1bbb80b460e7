"""Frames that are printed whole: every row on one line, however wide."""

from __future__ import annotations

from typing import override

import pandas as pd


class WideFrame(pd.DataFrame):
    """A frame of which each row is printed on one line, and what is chosen of it so too."""

    @property
    def _constructor(self) -> type[WideFrame]:
        return WideFrame

    @override
    def __repr__(self) -> str:
        with pd.option_context("display.expand_frame_repr", False, "display.max_columns", None):
            return super().__repr__()
