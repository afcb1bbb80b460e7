"""Seconds of several programs in turn, until a machine's noise is below their differences."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

FEWEST = 5
MOST = 24
"""Rounds of measurements, in each of which every program runs once."""

APART = 3.0
"""Standard errors of a difference from which two times are told apart."""

FINE = 0.01
"""Relative standard error from which a time is known, told from others or not."""


@dataclass(frozen=True)
class Seconds:
    """The median of repeated times.

    Parameters
    ----------
    median
        In seconds.
    error
        Its standard error, from the median distance from it, so that a few interruptions count
        little.
    """

    median: float
    error: float

    @classmethod
    def of(cls, times: list[float]) -> Seconds:
        """Return that of times; with normal noise the error is 1.25 sds over root n."""
        median = float(np.median(times))
        sd = 1.4826 * float(np.median(np.abs(np.array(times) - median)))
        return cls(median, 1.2533 * sd / np.sqrt(len(times)))

    def __mul__(self, factor: float) -> Seconds:
        return Seconds(self.median * factor, self.error * factor)

    def is_apart(self, other: Seconds) -> bool:
        """Whether two times differ by more than their noise."""
        return abs(self.median - other.median) > APART * np.hypot(self.error, other.error)


@dataclass(frozen=True)
class Clocked:
    """Times of several programs.

    Parameters
    ----------
    seconds
        Of every program.
    rounds
        How often each was measured.
    settled
        Whether noise came to be below all differences, or below :data:`FINE` of every time.
    """

    seconds: dict[str, Seconds]
    rounds: int
    settled: bool

    @property
    def noise(self) -> float:
        """The largest relative standard error."""
        return max((s.error / s.median for s in self.seconds.values()), default=0.0)

    def not_told_from(self, name: str) -> list[str]:
        """Return the programs whose times cannot be told from one's."""
        own = self.seconds[name]
        return [n for n, s in self.seconds.items() if n != name and not own.is_apart(s)]


def clocked(
    programs: Mapping[str, Callable[[], object]],
    factors: Mapping[str, float],
    clock: Callable[[], float] = time.perf_counter,
) -> Clocked:
    """Measure programs in turn until what is shown of them is above the noise.

    Parameters
    ----------
    programs
        Each is run once a round.
    factors
        By which the seconds of each are multiplied for what is shown.
    clock
        Returns seconds.
    """
    times: dict[str, list[float]] = {name: [] for name in programs}
    for done in range(1, MOST + 1):
        for name, run in programs.items():
            begin = clock()
            run()
            times[name].append((clock() - begin) * factors[name])
        found = {name: Seconds.of(t) for name, t in times.items()}
        if done >= FEWEST and _settled(found):
            return Clocked(found, done, True)
    return Clocked(found, MOST, False)


def _settled(found: dict[str, Seconds]) -> bool:
    in_order = sorted(found.values(), key=lambda s: s.median)
    apart = all(b.is_apart(a) for a, b in pairwise(in_order))
    return apart or all(s.error <= FINE * s.median for s in in_order)
