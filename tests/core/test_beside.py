"""Threads, and interrupts at every moment of what waits for them."""

from __future__ import annotations

import threading
import time
from itertools import count

import numpy as np
import pytest
from strikes_for_tests import is_struck

from vi_recipes.core import Beside
from vi_recipes.data import ArrayBatches, Prefetch


def ended(*threads: str) -> bool:
    """Whether threads of these names are over within some seconds."""
    until = time.monotonic() + 10
    while any(t.name in threads for t in threading.enumerate()):
        if time.monotonic() > until:
            return False
        time.sleep(1e-3)
    return True


def test_what_a_thread_returns_or_raises_is_passed_on() -> None:
    three, broken = Beside(lambda: 3, "three"), Beside(lambda: 1 // 0, "broken")
    for one in (three, broken):
        one.start()
    assert three.result() == 3
    with pytest.raises(ZeroDivisionError):
        broken.result()
    assert three.begun
    assert three.over
    assert broken.over
    three.wait()  # once more, which is nothing


def test_where_there_is_no_room_for_a_thread_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", full)
        one = Beside(lambda: 3, "none")
        one.start()
        with pytest.raises(RuntimeError, match="can't start"):
            one.result()
    assert not one.begun


def test_an_interrupt_finds_a_thread_whole() -> None:
    made: list[Beside[int]] = []

    def run() -> None:
        made.append(Beside(lambda: 3, "whole"))
        made[-1].start()
        assert made[-1].result() == 3

    for at in count():
        if not is_struck(run, at):
            break
        assert ended("whole")
        if made and made[-1].begun:
            assert made[-1].result() == 3
    assert at > 10


def test_an_interrupt_leaves_no_thread_that_reads_ahead() -> None:
    made: list[Prefetch] = []
    batches = ArrayBatches({"x": np.arange(4)}, 4, 2)

    def run() -> None:
        made.append(Prefetch(batches, 2, 0))
        for _ in range(2):
            next(made[0])
        made[0].close()

    for at in count():
        struck = is_struck(run, at)
        while made:
            made.pop().close()
        assert ended("batches")
        if not struck:
            break
    assert at > 20
