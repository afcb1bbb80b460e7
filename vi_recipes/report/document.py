"""What a report says, in order; how it looks is up to :mod:`html` and :mod:`markdown`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vi_recipes.report.cells import Badge, Table
from vi_recipes.report.exhibit import Exhibit

NUM_OPEN = 40
"""Rows of a table that Markdown shows at once; the rest are folded away."""

MAX_LONG = 500
"""Rows of a long table in Markdown; its file has them all."""


@dataclass(frozen=True)
class Entries:
    """Names with a sentence or two on each.

    Parameters
    ----------
    title
        What they say.
    entries
        Names, and what is said of each.
    badges
        Name -> how good what is said of it is.
    """

    title: str
    entries: Sequence[tuple[str, str]]
    badges: Mapping[str, Badge] = field(default_factory=dict)


@dataclass(frozen=True)
class Notes:
    """Remarks, each of which stands alone.

    Parameters
    ----------
    title
        What they are on.
    lines
        The remarks.
    """

    title: str
    lines: Sequence[str]


@dataclass(frozen=True)
class Turned:
    """A table that is read both ways: the reader chooses what its rows are.

    Parameters
    ----------
    title
        What it shows.
    tables
        The same numbers with one thing as rows, and with the other.
    rows
        What the rows of each are.
    """

    title: str
    tables: tuple[Table, Table]
    rows: tuple[str, str]


@dataclass(frozen=True)
class Long:
    """A table of many rows, folded away, to be searched and sorted.

    Parameters
    ----------
    table
        With all its rows.
    file
        Where the report's folder has it, with every digit.
    key
        One word, by which it is linked to.
    """

    table: Table
    file: str
    key: str = ""

    @property
    def title(self) -> str:
        """What it shows."""
        return self.table.title


@dataclass(frozen=True)
class Copied:
    """A text to be copied to another place.

    Parameters
    ----------
    title, note
        What it is, and how to use it.
    summary
        What it is called where it is folded away.
    copied
        The text.
    key
        One word, by which it is linked to.
    """

    title: str
    note: str
    summary: str
    copied: str
    key: str


type Block = Table | Turned | Long | Exhibit | Entries | Notes | Copied
"""What stands below a heading."""


@dataclass(frozen=True)
class Part:
    """A heading of a report with what stands below it.

    Parameters
    ----------
    key
        One word, by which the contents link to it.
    title
        The heading. A block of another title has a heading of its own below it.
    blocks
        What it shows, in order.
    linked
        Whether the contents name it.
    folder
        Where the files of its figures lie, for reports that refer to them.
    """

    key: str
    title: str
    blocks: Sequence[Block]
    linked: bool = True
    folder: str = "figures"


@dataclass(frozen=True)
class Document:
    """The contents of a report.

    Parameters
    ----------
    title, intro, description
        Headline, what the report is on, and what its author says of it.
    warnings
        What a reader must know before any number.
    parts
        Everything else, in order.
    answer
        What the whole comes to, in a line.
    lead
        What stands beside the answer, before all parts.
    """

    title: str
    intro: str
    description: str
    warnings: Sequence[str]
    parts: Sequence[Part]
    answer: str = ""
    lead: Sequence[Block] = ()


def part(
    key: str,
    *blocks: Block,
    title: str = "",
    linked: bool = True,
    folder: str = "figures",
) -> Part | None:
    """Return a part of those blocks that have something to show; ``None`` if none has.

    Without a ``title`` it has that of its first block; the rest as for :class:`Part`.
    """
    shown = [block for block in blocks if not is_empty(block)]
    return Part(key, title or shown[0].title, shown, linked, folder) if shown else None


def is_empty(block: Block) -> bool:
    """Whether there is nothing to show: a table without rows, entries or notes without any."""
    match block:
        case Table():
            return not block.rows
        case Turned():
            return not block.tables[0].rows
        case Long():
            return not block.table.rows
        case Entries():
            return not block.entries
        case Notes():
            return not block.lines
    return False
