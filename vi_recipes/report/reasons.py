"""Reasons told many times over, with other numbers in them each time."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping

from vi_recipes.report.cells import short

NUMBER = r"-?\d[\d.,]*(e[-+]?\d+)?"

MAX_REASON = 300
"""Characters of a reason."""


def alike[K: Hashable](told: Mapping[K, str]) -> list[tuple[list[K], str]]:
    """Return reasons that differ in their numbers only as one, the most frequent first.

    Parameters
    ----------
    told
        What a reason is of -> the reason.

    Returns
    -------
    list
        What each is of, and the first of them, cut to a length to read; "for instance: " is before
        it where they differ.
    """
    groups: dict[str, list[K]] = {}
    for of, reason in told.items():
        groups.setdefault(re.sub(NUMBER, "#", reason), []).append(of)
    found = []
    for several in sorted(groups.values(), key=len, reverse=True):
        example = "for instance: " if len({told[of] for of in several}) > 1 else ""
        found.append((several, example + short(told[several[0]], MAX_REASON)))
    return found
