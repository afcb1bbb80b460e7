"""What blocks set and undo, interrupted at every moment of both."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest
from strikes_for_tests import is_struck
from threadpoolctl import ThreadpoolController

from vi_recipes.core import (
    CheckpointError,
    MadeOnce,
    SharedCode,
    Timing,
    held,
    on_one_core,
    one_at_a_time,
    progress_bar,
)
from vi_recipes.core.shared_code import shared_code


def strike_everywhere(
    block: Callable[[], Any],
    is_undone: Callable[[], bool],
    when: Callable[[], bool] = lambda: True,
) -> int:
    """Strike a function at all its moments, each time looking; return how many there are."""
    block()  # imports what it needs: Python's own locks of that are not looked at here
    for at in count():
        struck = is_struck(block, at, when)
        assert is_undone(), at
        if not struck:
            return at
    raise AssertionError


def test_shared_code_is_used_in_its_block_alone() -> None:
    def block() -> None:
        with SharedCode().used():
            pass

    assert strike_everywhere(block, lambda: shared_code() is None) > 5


def test_what_is_made_is_charged_to_fits_that_are_under_way() -> None:
    made = MadeOnce()

    def block() -> None:
        with made.shared(Timing()):
            made(object(), lambda: made(object(), int))  # anew in each block

    assert strike_everywhere(block, lambda: made._used is None and not made._makers) > 10
    assert len(made) > 20


def test_linear_algebra_has_its_threads_again() -> None:
    def threads() -> list[int]:
        return [one["num_threads"] for one in ThreadpoolController().info()]

    with on_one_core(3):
        pass  # which loads what it needs
    with ThreadpoolController().limit(limits=2):
        before = threads()
        with on_one_core(3):
            assert 1 in threads()
        assert threads() == before

        def block() -> None:
            nonlocal inside
            inside = False
            with on_one_core(3):
                inside = True

        inside = False
        for at in count():
            struck = is_struck(block, at, lambda: not inside)
            assert threads() == before, at
            if not struck:
                break
        assert at > 10


def test_a_bar_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    out = sys.stdout

    def block() -> None:
        nonlocal inside
        inside = False
        with progress_bar("a fit", enabled=True) as report:
            inside = True
            report(1, 2)

    def is_undone() -> bool:
        until = time.monotonic() + 10
        while set(threading.enumerate()) - before and time.monotonic() < until:
            time.sleep(1e-3)
        # one of those before may end meanwhile: another test's
        return not set(threading.enumerate()) - before and sys.stdout is out

    block()  # which imports what it needs
    inside, before = False, set(threading.enumerate())
    for at in range(0, 4_000, 37):
        is_struck(block, at)
        assert is_undone(), at


def strike_blocks(
    monkeypatch: pytest.MonkeyPatch, block: Callable[[], Any], is_undone: Callable[[], bool]
) -> int:
    """Strike a function that runs models wherever others are entered or left in it."""
    monkeypatch.setattr("vi_recipes.core.interrupts.A_WAIT", 1e-3)
    alone, heard = one_at_a_time(block), signal.getsignal(signal.SIGINT)

    def run() -> None:
        alone()
        time.sleep(1)  # the interrupt may have waited

    def in_block() -> bool:
        return sys._getframe(2).f_code.co_name in ("__enter__", "__exit__")

    def is_as_before() -> bool:
        return is_undone() and signal.getsignal(signal.SIGINT) is heard

    return strike_everywhere(run, is_as_before, in_block)


def test_jax_calculates_and_does_not_write_down(monkeypatch: pytest.MonkeyPatch) -> None:
    def block() -> None:
        jax.jit(lambda x: x + 1).lower(1.0)

    def is_undone() -> bool:
        return not isinstance(jnp.ones(()) + 1, jax.core.Tracer)

    assert strike_blocks(monkeypatch, block, is_undone) > 20


def test_no_handler_of_numpyro_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def block() -> None:
        with numpyro.handlers.substitute(data={"x": 3.0}):
            numpyro.sample("x", dist.Delta(1.0))

    def is_undone() -> bool:
        return float(numpyro.sample("x", dist.Delta(1.0))) == 1

    assert strike_blocks(monkeypatch, block, is_undone) > 2


def test_a_folder_is_let_go_of(tmp_path: Path) -> None:
    folder = tmp_path / "folder"

    def block() -> None:
        with held(folder, "sweep.json"):
            pass

    def is_undone() -> bool:
        until = time.monotonic() + 10
        while time.monotonic() < until:
            with suppress(CheckpointError), held(folder, "sweep.json"):
                break
            time.sleep(1e-3)  # it is taken and let go of at this very moment
        return not [*folder.glob(".*")] and time.monotonic() < until

    assert strike_everywhere(block, is_undone) > 50
