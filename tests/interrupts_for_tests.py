"""Ctrl-C on demand."""

from __future__ import annotations


class InterruptAt:
    """A progress reporter that behaves like Ctrl-C once so much is done."""

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, done: int, total: int, text: str = "") -> None:
        if done >= self.share * total:
            raise KeyboardInterrupt
