"""What a fit would have taken alone does not depend on what went before."""

from __future__ import annotations

import time

import pytest

from vi_recipes.core import MadeOnce, Timing

TICK = 0.05


def slow(made: MadeOnce, *parts: str) -> str:
    for part in parts:
        made(part, lambda: slow(made))
    time.sleep(TICK)
    return "made"


def fit(made: MadeOnce, *keys: tuple[str, ...]) -> Timing:
    timing = Timing()
    with made.shared(timing), timing.running():
        for key, *parts in keys:
            made(key, lambda parts=parts: slow(made, *parts))
    return timing


def test_each_is_charged_with_what_another_has_made_once() -> None:
    made = MadeOnce()
    first = fit(made, ("whole", "part"))
    assert first.shared_seconds == 0
    again = fit(made, ("whole", "part"), ("part",), ("whole", "part"))
    assert again.shared_seconds == pytest.approx(first.total_seconds, rel=0.3)
    part = fit(made, ("part",))
    assert part.shared_seconds == pytest.approx(TICK, rel=0.5)


def test_what_no_fit_has_made_is_charged_to_none() -> None:
    made = MadeOnce()
    made("whole", lambda: slow(made))
    assert fit(made, ("whole",)).shared_seconds == 0
