"""Every hostile case ends as it is promised."""

from __future__ import annotations

import pytest

from hostile.case import play
from hostile.kinds import KINDS


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [pytest.param(c, id=f"{kind}: {c.name}") for kind, cases in KINDS.items() for c in cases],
)
def test_ends_as_promised(case, tmp_path):
    play(case, tmp_path)
