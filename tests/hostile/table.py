"""The table of outcomes in ``docs/reliability.md``: ``python tests/hostile/table.py`` writes it."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reliability.md"
START, END = "<!-- outcomes -->\n", "<!-- end of outcomes -->"


def outcomes() -> str:
    """Return the table in Markdown: cases by kind and by the outcome that is promised."""
    from hostile.case import Outcome
    from hostile.kinds import KINDS

    header = ["kind", *(outcome.value for outcome in Outcome), "all"]
    rows = []
    for kind, cases in KINDS.items():
        count = Counter(case.outcome for case in cases)
        rows.append([kind, *(count[outcome] for outcome in Outcome), len(cases)])
    rows.append(["all", *(sum(int(row[k]) for row in rows) for k in range(1, len(header)))])
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def with_outcomes(page: str) -> str:
    """Return the page with the table as it is now."""
    before, rest = page.split(START)
    return before + START + outcomes() + END + rest.split(END)[1]


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))
    PAGE.write_text(with_outcomes(PAGE.read_text()))
