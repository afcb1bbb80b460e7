"""``vi-recipes verify``: what fits say of themselves beside reference answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vi_recipes.cli import show
from vi_recipes.cli.options import parse_methods
from vi_recipes.content import unknown
from vi_recipes.progress import progress_bar
from vi_recipes.report import verification as page
from vi_recipes.verification import Row, failed, faults, problems, verify


def run(
    models: str | None,
    methods: str | None,
    references: Path | None,
    seed: int,
    out: Path | None,
) -> int:
    """Verify, print the tables and write them; return the exit code."""
    known = problems(references)
    names = [n.strip() for n in models.split(",")] if models else list(known)
    for name in names:
        if name not in known:
            raise ValueError(f"--models: {unknown('model with reference answers', name, known)}")
    entries = parse_methods(methods) if methods is not None else None
    console = show.make_console()

    def tell(name: str, rows: Sequence[Row]) -> None:
        show.show_table(console, page.table(rows, name))

    rows = verify(
        {name: known[name] for name in names},
        methods=entries,
        seed=seed,
        path=out,
        progress=progress_bar,
        done=tell,
    )
    show.show_table(console, page.confusion_table(rows))
    for row in faults(rows):
        console.print(f"contradicted: {row.method} on {row.model}: {row.verdict}")
    if out is not None:
        (out / "verification.md").write_text(page.markdown(rows), encoding="utf-8")
        console.print(f"\nReport: {out / 'verification.md'}")
    return 1 if faults(rows) or any(map(failed, rows)) else 0
