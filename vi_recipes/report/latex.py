"""The tables as files: CSV with every digit, LaTeX as formatted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vi_recipes.comparison import tables
from vi_recipes.comparison.tables import Cell, Table, format_number

if TYPE_CHECKING:
    import pandas as pd

    from vi_recipes.comparison.fits import Comparison

MAX_BLOCK = 200
"""Scalars in a covariance that is written out."""

MAX_SQUARE = 12
"""Rows and columns of a covariance that a printed page holds."""

MAX_PAGE = 45
"""Rows of a table that fit on a page; longer ones break across pages."""


def write_tables(comparison: Comparison, directory: Path) -> None:
    """Write every table of ``comparison`` to ``directory``, as CSV and LaTeX."""
    directory.mkdir(parents=True, exist_ok=True)
    frames = {
        "means": comparison.means(),
        "sds": comparison.sds(),
        "accuracy": comparison.accuracy(),
        "timings": comparison.timings(),
        "diagnostics": comparison.diagnostics(),
    }
    printed = {
        "means": tables.means(comparison),
        "accuracy": tables.accuracy(comparison),
        "timings": tables.timings(comparison),
        "diagnostics": tables.diagnostics(comparison),
    }
    if sites := tables.block(comparison, MAX_BLOCK):
        covariances = comparison.covariances(sites)
        correlations = comparison.correlations(sites)
        for what, matrices in (("covariance", covariances), ("correlation", correlations)):
            for name, matrix in matrices.items():
                frames[f"{what}_{name}"] = matrix
                printed[f"{what}_{name}"] = _square(what, name, matrix)
    for name, frame in frames.items():
        index = (
            None
            if frame.index.nlevels > 1
            else "method"
            if name in ("timings", "diagnostics")
            else "parameter"
        )
        frame.to_csv(directory / f"{name}.csv", index_label=index)
    for name, table in printed.items():
        (directory / f"{name}.tex").write_text(latex(table, label=name), encoding="utf-8")


def latex(table: Table, label: str) -> str:
    """Return ``table`` in LaTeX: ``booktabs`` rules, and ``longtable`` when it is long."""
    packages = ["booktabs"]
    alignment = "".join("l" if i in table.left else "r" for i in range(len(table.columns)))
    head = [_row(line) for line in _heading(table.columns)]
    rows = [_row([_cell(cell) for cell in row]) for row in table.rows]
    caption = [f"\\caption{{{_escape(_caption(table))}}}", f"\\label{{tab:{label}}}"]
    if len(rows) <= MAX_PAGE:
        lines = [
            "\\begin{table}",
            "\\centering",
            *caption,
            f"\\begin{{tabular}}{{{alignment}}}",
            "\\toprule",
            *head,
            "\\midrule",
            *rows,
            "\\bottomrule",
            "\\end{tabular}",
            "\\end{table}",
        ]
    else:
        packages.append("longtable")
        lines = [
            f"\\begin{{longtable}}{{{alignment}}}",
            *caption[:1],
            caption[1] + " \\\\",
            "\\toprule",
            *head,
            "\\midrule",
            "\\endhead",
            *rows,
            "\\bottomrule",
            "\\end{longtable}",
        ]
    needs = ", ".join(f"\\usepackage{{{package}}}" for package in packages)
    return "\n".join([f"% needs {needs}", *lines]) + "\n"


def _heading(columns: Sequence[str]) -> list[list[str]]:
    """Split headings over two lines, a method's name above the quantities."""
    split = [[*map(_escape, column.split("\n")), ""][:2] for column in columns]
    if not any(below for _, below in split):
        return [[above for above, _ in split]]
    upper: list[str] = []
    k = 0
    while k < len(split):
        above = split[k][0]
        span = 1
        while k + span < len(split) and split[k + span][0] == above:
            span += 1
        upper.append(f"\\multicolumn{{{span}}}{{c}}{{{above}}}" if span > 1 else above)
        k += span
    return [upper, [below for _, below in split]]


def _cell(cell: Cell) -> str:
    text = _escape(cell.text)
    return {"off": f"\\textbf{{{text}}}", "inside": f"\\textit{{{text}}}"}.get(cell.flag, text)


def _caption(table: Table) -> str:
    # colours are the screen's; the printed page has italics and bold
    note = table.note.replace("Marked ~ or grey", "Italic").replace("Marked * or red", "Bold")
    return f"{table.title}. {note}".strip()


def _row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "†": r"\dag{}",
    "∞": r"$\infty$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def _escape(text: str) -> str:
    escaped = "".join(_SPECIAL.get(character, character) for character in text)
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", escaped)  # a minus sign, not a hyphen


def _square(what: str, name: str, matrix: pd.DataFrame) -> Table:
    shown = matrix.iloc[:MAX_SQUARE, :MAX_SQUARE]
    labels = [str(label) for label in shown.columns]
    rows = [
        [Cell(label), *(Cell(format_number(float(x), 3)) for x in values)]
        for label, values in zip(labels, shown.to_numpy(), strict=True)
    ]
    left_out = len(matrix) - len(shown)
    note = f"{left_out} more parameter(s) in the CSV file." if left_out else ""
    return Table(f"Posterior {what}, {name}", ["parameter", *labels], rows, note)
