"""The tables as files: CSV with every digit, LaTeX as formatted."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from vi_recipes.report.cells import Cell, Table

MAX_PAGE = 45
"""Rows of a table that fit on a page; longer ones break across pages."""


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


_GREEK = {
    letter: unicodedata.name(letter).split()[-1].replace("LAMDA", "LAMBDA")
    for letter in "αβγδζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΥΦΨΩ"
}
"""Letters that pdflatex has in formulas alone. Those that look as Latin ones are not among them."""

_SPECIAL = {
    **{
        letter: f"$\\{name.lower() if letter.islower() else name.title()}$"
        for letter, name in _GREEK.items()
    },
    "ε": r"$\varepsilon$",
    "µ": r"$\mu$",
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
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",  # ?` would be an inverted question mark
    "×": r"$\times$",
    "†": r"\dag{}",
    "∞": r"$\infty$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


def _escape(text: str) -> str:
    escaped = "".join(_SPECIAL.get(character, character) for character in text)
    return re.sub(r"(?<![\w-])-(?=\d)", "$-$", escaped)  # a minus sign, not a hyphen
