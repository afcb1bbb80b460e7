"""What a report has, section by section: one list for the page, the terminal and the folder.

A section is an entry of :data:`SECTIONS`, which says what it shows in each of these places. The
HTML page and the Markdown take the sections in the order of the list; the terminal has a screen of
what is brief, and on request the main ones, the verdicts last, where the reader looks first; the
folder has the tables that others read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd

from vi_recipes.comparison import overview, tables
from vi_recipes.comparison.figures.gallery import MERIT, draw
from vi_recipes.comparison.fits import Fits
from vi_recipes.comparison.paper import paper
from vi_recipes.comparison.view import all_fits, block
from vi_recipes.comparison.weights import weights
from vi_recipes.core import attempt, numbered
from vi_recipes.report import (
    FOLDER,
    Block,
    Cell,
    Exhibit,
    Notes,
    Part,
    Table,
    format_number,
    is_empty,
    part,
)

MAX_TERMINAL = 40
"""Parameters shown on the terminal; reports have them all."""

MAX_BLOCK = 200
"""Scalars in a covariance that is written out."""

MAX_SQUARE = 12
"""Rows and columns of a covariance that a printed page holds."""


@dataclass(frozen=True)
class TableFile:
    """A table as files: CSV with every digit, LaTeX as formatted.

    Parameters
    ----------
    name
        Of the files, without a suffix.
    frame
        The numbers.
    table
        The same as text; ``None`` for no LaTeX.
    rows
        What a row is, which heads the column of the frame's index.
    """

    name: str
    frame: pd.DataFrame
    table: Table | None = None
    rows: str = "parameter"


def _nothing(_: Fits) -> Sequence[Block]:
    return ()


def _no_files(_: Fits) -> Sequence[TableFile]:
    return ()


@dataclass(frozen=True, kw_only=True)
class Section:
    """One section of a report, and what it shows where.

    Parameters
    ----------
    key
        One word, by which the page links to it.
    title
        Its heading on the page; empty for that of its table.
    page
        What the HTML page and the Markdown show; nothing leaves the section out.
    leads
        Whether it stands beside the answer, before the contents.
    folder
        Where the files of its figures lie.
    brief
        What the terminal shows unasked: all of it is one screen.
    terminal
        What the terminal shows where everything is asked for.
    place
        Where, among the sections of the terminal.
    files
        Its tables as files.
    """

    key: str
    title: str = ""
    page: Callable[[Fits], Sequence[Block]] = _nothing
    leads: bool = False
    folder: str = "figures"
    brief: Callable[[Fits], Sequence[Block]] = _nothing
    terminal: Callable[[Fits], Sequence[Block]] = _nothing
    place: int = 0
    files: Callable[[Fits], Sequence[TableFile]] = _no_files

    def on_page(self, comparison: Fits) -> Part | None:
        """Return the section as a part of the page; ``None`` if it has nothing to show."""
        blocks = [self._drawn(shown) for shown in self._shown(comparison, self.page)]
        return part(self.key, *blocks, title=self.title, folder=self.folder)

    def on_terminal(self, comparison: Fits, *, brief: bool) -> list[Block]:
        """Return what the terminal shows of the section, in brief or all of it."""
        shown = self._shown(comparison, self.brief if brief else self.terminal)
        return [block for block in shown if not is_empty(block)]

    def as_files(self, comparison: Fits) -> Sequence[TableFile]:
        """Return the tables as files; none, with a note, where an error ends it."""

        def without(error: str) -> Sequence[TableFile]:
            comparison.lose(f"The files of the section '{self.key}' are left out: {error}")
            return ()

        return attempt(lambda: list(self.files(comparison)), without)

    def _shown(self, comparison: Fits, what: Callable[[Fits], Sequence[Block]]) -> Sequence[Block]:
        """Return what a place shows; where an error ends it, a line that says so."""
        return attempt(lambda: list(what(comparison)), lambda error: [self._lost(error)])

    def _lost(self, error: str) -> Notes:
        name = self.title or self.key.capitalize()
        return Notes(name, [f"The section '{name}' is left out: {error}"])

    def _drawn(self, shown: Block) -> Block:
        """Return a block; where it is a figure that cannot be drawn, a line that says so."""
        if isinstance(shown, Exhibit) and shown.problem:
            return Notes(shown.title, [f"'{shown.title}' is left out: {shown.problem}"])
        return shown


def on_terminal(comparison: Fits, *, brief: bool = False) -> list[Block]:
    """Return what the terminal shows, in order: everything, or in brief what makes one screen."""
    ordered = SECTIONS if brief else sorted(SECTIONS, key=lambda section: section.place)
    return [shown for section in ordered for shown in section.on_terminal(comparison, brief=brief)]


# -- what sections show ----------------------------------------------------------------------


def _few_means(comparison: Fits) -> list[Table]:
    """Return the means for the terminal; where every method failed there are none to look at."""
    known = any(fit.has_result for fit in all_fits(comparison).values())
    return [tables.means(comparison, MAX_TERMINAL)] if known else []


def _mean_files(comparison: Fits) -> list[TableFile]:
    files = [
        TableFile("means", comparison.means(), tables.means(comparison)),
        TableFile("sds", comparison.sds()),
    ]
    if comparison.unsettled:
        files.append(TableFile("quantiles", comparison.quantiles()))
    return files


def _matrix_files(comparison: Fits) -> list[TableFile]:
    """Return the joint covariances and correlations of as many sites as fit."""
    sites = block(comparison, MAX_BLOCK)
    if not sites:
        return []
    kinds = {
        "covariance": comparison.covariances(sites),
        "correlation": comparison.correlations(sites),
    }
    return [
        TableFile(f"{what}_{name}", matrix, _square(what, name, matrix))
        for what, matrices in kinds.items()
        for name, matrix in matrices.items()
    ]


def _square(what: str, name: str, matrix: pd.DataFrame) -> Table:
    shown = matrix.iloc[:MAX_SQUARE, :MAX_SQUARE]
    labels = [str(label) for label in shown.columns]
    rows = [
        [Cell(label), *(Cell(format_number(float(x), 3)) for x in values)]
        for label, values in zip(labels, shown.to_numpy(), strict=True)
    ]
    left_out = len(matrix) - len(shown)
    note = f"{numbered(left_out, 'more parameter')} in the CSV file." if left_out else ""
    return Table(f"Posterior {what}, {name}", ["parameter", *labels], rows, note)


# -- the list --------------------------------------------------------------------------------


SECTIONS = (
    Section(
        key="methods",
        page=lambda c: [
            overview.methods(c, places=False),
            *(one for one in draw(c) if one.name == MERIT),
        ],
        leads=True,
        brief=lambda c: [overview.methods(c, places=False)],
        terminal=lambda c: [overview.methods(c)],
    ),
    Section(
        key="exhibits",
        title="What the study shows",
        page=lambda c: c.exhibits,
        folder=FOLDER,
    ),
    Section(
        key="verdicts",
        page=overview.verdicts,
        brief=overview.failures,
        terminal=overview.verdicts,
        place=7,
    ),
    Section(
        key="population",
        page=overview.population,
        brief=overview.best_means,
    ),
    Section(
        key="means",
        title="Members",
        page=overview.members,
        terminal=_few_means,
        place=1,
        files=_mean_files,
    ),
    Section(
        key="accuracy",
        title="Accuracy",
        page=lambda c: [tables.accuracy_summary(c), *overview.accuracy(c)],
        terminal=lambda c: [tables.accuracy_summary(c)],
        place=2,
        files=lambda c: [TableFile("accuracy", c.accuracy(), tables.accuracy(c))],
    ),
    Section(
        key="figures",
        title="Figures",
        page=lambda c: [d for d in draw(c) if d.name != MERIT],
    ),
    Section(
        key="timings",
        page=lambda c: [tables.timings(c)],
        terminal=lambda c: [tables.timings(c)],
        place=3,
        files=lambda c: [TableFile("timings", c.timings(), tables.timings(c), "method")],
    ),
    Section(
        key="evidence",
        page=lambda c: [tables.evidence(c)],
        terminal=lambda c: [tables.evidence(c)],
        place=6,
    ),
    Section(
        key="diagnostics",
        page=lambda c: [tables.diagnostics(c)],
        terminal=lambda c: [tables.diagnostics(c)],
        place=4,
        files=lambda c: [
            TableFile("diagnostics", c.diagnostics(), tables.diagnostics(c), "method")
        ],
    ),
    Section(
        key="weights",
        page=lambda c: [weights(c)],
        terminal=lambda c: [weights(c)],
        place=5,
    ),
    Section(key="matrices", files=_matrix_files),
    Section(
        key="record",
        title="How it was made",
        page=lambda c: [Notes("Notes", c.remarks), tables.options(c), tables.provenance(c)],
        terminal=lambda c: [Notes("Notes", c.remarks)],
        place=8,
    ),
    Section(key="paper", title="For a paper", page=paper),
)
"""Every section, in the order of the page."""
