"""Verdicts beside the truth on every model with reference answers, written to the docs.

    python benchmarks/verification.py [FOLDER] [--only radon,seeds] [--out FOLDER]

The same as ``vi-recipes verify``, with three more problems whose data and answers do not ship, and
need FOLDER in the form that ``accuracy.py`` describes. What is found is kept in ``--out``, model by
model, and not computed again while it is there. ``docs/verification.md`` has all of it.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import common
import guides

from vi_recipes.comparison import markdown, problems, verify
from vi_recipes.core import progress_bar

ABOUT = """    vi-recipes verify                              # models whose answers ship
    python benchmarks/verification.py FOLDER       # and those whose answers do not

make this page, every fit with its default settings and seed 0. No verdict has seen the answers, nor
NUTS: where nested quadrature applies and stands by its own errors, a fit is judged by that, else by
its own evidence, as nested quadrature and samplers are themselves. `trust.md` has the thresholds,
when they were fixed, and what the evidence can and cannot see. Seconds are those of 2 cores with
nothing else running, on a machine whose speed changes by the hour: orders of size."""

DOCS = common.ROOT / "docs" / "verification.md"


def main() -> None:
    """Run what is not there yet and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, help="answers and data that do not ship")
    parser.add_argument("--only", help="models; by default all")
    parser.add_argument("--out", type=Path, default=Path("verification"), help="%(default)s")
    options = parser.parse_args()
    chosen = problems(options.folder)
    if options.folder is not None:
        chosen |= {name: partial(guides.problem, name, options.folder) for name in guides.PLAIN}
    names = common.chosen(parser, options.only or ",".join(chosen), chosen)
    rows = verify({name: chosen[name] for name in names}, path=options.out, progress=progress_bar)
    page = markdown(rows, ABOUT)
    if options.only:
        print(page)
    else:
        DOCS.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
