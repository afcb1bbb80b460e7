"""Threads, and interrupts at every moment of what waits for them."""

from __future__ import annotations

import threading
import time
from itertools import count
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest
from strikes_for_tests import is_struck

from vi_recipes.core import Beside, held
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


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for the thread that starts one, and for no other."""

    def full(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", full)


@pytest.mark.usefixtures("no_room")
def test_where_there_is_no_room_for_a_thread_that_is_said() -> None:
    one = Beside(lambda: 3, "none")
    one.start()
    with pytest.raises(RuntimeError, match="can't start"):
        one.result()
    assert not one.begun


@pytest.mark.usefixtures("no_room")
def test_where_there_is_no_room_for_a_thread_a_folder_is_not_waited_for(tmp_path: Path) -> None:
    taken = held(tmp_path, "sweep.json")
    with pytest.raises(RuntimeError, match="can't start"):
        taken.__enter__()
    assert not [*tmp_path.iterdir()]


@pytest.mark.usefixtures("no_room")
def test_where_there_is_no_room_for_a_thread_minibatches_are_not_waited_for() -> None:
    stacks = Prefetch(ArrayBatches({"x": np.arange(4)}, 4, 2), 2, 0)
    with pytest.raises(RuntimeError, match="can't start"):
        next(stacks)
    stacks.close()


def test_what_a_thread_hands_out_is_had_until_it_ends() -> None:
    queue: SimpleQueue[int] = SimpleQueue()
    one, broken = Beside(lambda: queue.put(3), "three"), Beside(lambda: 1 // 0, "broken")
    for each in (one, broken):
        each.start()
    one.wait()
    assert one.handed(queue) == 3
    with pytest.raises(EOFError, match="'three' has ended"):
        one.handed(queue)
    with pytest.raises(ZeroDivisionError):
        broken.handed(queue)


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
