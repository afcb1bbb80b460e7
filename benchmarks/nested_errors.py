"""Errors that nested quadrature tells beside those that it makes, on densities of the tests.

    python benchmarks/nested_errors.py [--keys 16]

Prints the table of ``docs/nested.md``. Moments are those of a lattice, of a formula or of a sum
over one coordinate: ``tests/densities_for_tests.py``. Two minutes of one processor; nothing of it
depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import sys

import common
import numpy as np

sys.path.insert(0, str(common.ROOT / "tests"))

from densities_for_tests import (
    CHEAP,
    DEAR,
    HEAVY,
    POSTERIORS,
    integrated,
    is_ok,
    off_and_told,
)

OFF = 0.03
"""Posterior sds beyond which a figure counts as off."""


def row(label: str, names: list[str], work: int, keys: int) -> str:
    """Return a row of the table."""
    ok, points, offs, ratios = 0, [], [], []
    for name in names:
        for key in range(keys):
            found = integrated(name, work, 1_000_003 * key + 1)
            off, told = off_and_told(name, found)
            ok += is_ok(found)
            points.append(len(found.theta))
            offs.append(np.abs(off))
            ratios.append(np.abs(off) / told)
    off, ratio = np.concatenate(offs), np.concatenate(ratios)
    cells = (
        label,
        f"{ok} of {len(points)}",
        f"{(off > OFF).sum()} of {off.size:,}",
        *(f"{(ratio > times).mean():.1%}".replace("%", " %") for times in (2, 3)),
        f"{off.max():.3f}",
        f"{np.mean(points):,.0f}",
    )
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--keys", type=int, default=16)
    keys = parser.parse_args().keys
    heavy = list(HEAVY)
    print(
        "| | fits that are OK | figures off | above twice the told | above thrice | largest, sds "
        "| points of theta, mean |\n| :-- | --: | --: | --: | --: | --: | --: |"
    )
    for label, names, work in (
        ("skewed or bent", list(POSTERIORS), CHEAP),
        ("the same, polynomials tried", list(POSTERIORS), DEAR),
        ("heavy-tailed, first eight", heavy[:8], CHEAP),
        ("heavy-tailed, eight others", heavy[8:], CHEAP),
    ):
        print(row(label, names, work, keys), flush=True)


if __name__ == "__main__":
    main()
