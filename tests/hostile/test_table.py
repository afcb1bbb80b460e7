"""The documentation counts the cases that there are."""

from __future__ import annotations

from hostile.kinds import KINDS
from hostile.table import PAGE, with_outcomes


def test_the_page_counts_the_cases_there_are():
    page = PAGE.read_text()
    assert with_outcomes(page) == page, "run python tests/hostile/table.py"


def test_no_two_cases_of_a_kind_have_one_name():
    for kind, cases in KINDS.items():
        names = [case.name for case in cases]
        assert len(set(names)) == len(names), kind
