"""A figure or a table with its title and caption: what reports are made of and studies add to."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from vi_recipes.core import attempt, drop_others, within, write_whole
from vi_recipes.report.cells import Table, from_frame
from vi_recipes.report.csv import csv_text, read_text
from vi_recipes.report.latex import latex
from vi_recipes.report.style import DPI, style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


FOLDER = "exhibits"
"""Where a report's folder has the exhibits that were added to it."""


@dataclass(frozen=True)
class Image:
    """A figure that has been drawn: what is left of it in a report's folder."""

    svg: bytes


@dataclass(frozen=True, kw_only=True, eq=False)
class Exhibit:
    """A figure or a table with its name, title and caption.

    Parameters
    ----------
    name
        Of its files, without a suffix: letters, digits, ``-`` and ``_``.
    title, caption
        What it shows, and how to read it.
    content
        A Matplotlib ``Figure``, made without ``pyplot``; or a ``DataFrame``, whose columns are
        shown and whose index is not. An exhibit read from a folder has its :class:`Image` in the
        place of a ``Figure``.
    folded
        Whether a page folds it away: there is a shorter one before it.
    """

    name: str
    title: str
    caption: str
    content: Figure | Image | pd.DataFrame
    folded: bool = False

    def __post_init__(self) -> None:
        import pandas as pd
        from matplotlib.figure import Figure

        if not (isinstance(self.name, str) and re.fullmatch(r"[\w-]+", self.name)):
            raise ValueError(f"name: got {self.name!r}, expected letters, digits, '-' and '_'")
        if not isinstance(self.content, Figure | Image | pd.DataFrame):
            raise ValueError(
                f"content of exhibit '{self.name}': got {type(self.content).__name__}, "
                "expected a Matplotlib Figure or a pandas DataFrame"
            )

    @cached_property
    def table(self) -> Table | None:
        """The table as text, or ``None`` for a figure."""
        import pandas as pd

        if not isinstance(self.content, pd.DataFrame):
            return None
        return from_frame(self.content, self.title, self.caption)

    @cached_property
    def problem(self) -> str:
        """Why it cannot be shown, the error in a line; empty where it can."""
        return attempt(lambda: "" if self.table or self.svg else "it is empty", str)

    @cached_property
    def png(self) -> bytes:
        """The figure as PNG, for where SVG is not taken; reports do not need it.

        Raises
        ------
        ValueError
            For a table, and for a figure that was read from a folder: a report's page saves it.
        """
        return self._render("png", {"Software": None})

    @cached_property
    def svg(self) -> bytes:
        """The contents of the figure's SVG file, the same for the same figure."""
        return self._render("svg", {"Date": None})

    def _render(self, suffix: str, metadata: dict[str, None]) -> bytes:
        import matplotlib
        from matplotlib.figure import Figure

        if isinstance(self.content, Image):
            if suffix == "svg":
                return self.content.svg
            raise ValueError(
                f"exhibit '{self.name}': it was read from a folder, which has it as SVG; the "
                "button below it on the report's page saves it as PNG"
            )
        if not isinstance(self.content, Figure):
            raise ValueError(f"exhibit '{self.name}' is a table and has no image")
        buffer = io.BytesIO()
        salt = matplotlib.rc_context({"svg.hashsalt": self.name})
        with style(), salt, warnings.catch_warnings():
            # a sign that the font lacks is a box in PNG; of SVG the viewer has another font
            warnings.filterwarnings("ignore", "Glyph", UserWarning)
            warnings.filterwarnings("ignore", "Matplotlib currently does not support", UserWarning)
            self.content.savefig(buffer, format=suffix, dpi=DPI, metadata=metadata)
            self.content.set_layout_engine("none")  # it is laid out, which takes half the time
        return buffer.getvalue() if suffix == "png" else _compact(buffer.getvalue())


USES = re.compile(
    rb'<g( clip-path="[^"]*")?>((?:\s*<use [^>]*? style="([^"]*)"/>)'
    rb'(?:\s*<use [^>]*? style="\3"/>)*)\s*</g>'
)
"""Marks of one look."""

NO_XML = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")
"""Signs of a study's texts with which an image would be none."""


def _compact(svg: bytes) -> bytes:
    """Return an SVG image that looks the same in half the bytes.

    Places are to a hundredth of a point; numbers below 1 stay, which are scales and opacities, and
    so do those that are read, between tags. Marks of one look say so once.
    """

    def once(found: re.Match[bytes]) -> bytes:
        clip, marks, look = found.groups(b"")
        return b'<g%s style="%s">%s</g>' % (clip, look, marks.replace(b' style="%s"' % look, b""))

    svg = re.sub(rb"(>[^<]*)|(?<![\d.])([1-9]\d*\.\d\d)\d+", rb"\1\2", svg)
    svg = NO_XML.sub("\ufffd".encode(), svg)
    return re.sub(rb"\s*\n\s*", b" ", USES.sub(once, svg))


def write_exhibits(exhibits: Sequence[Exhibit], directory: Path) -> None:
    """Write figures as SVG, tables as CSV and LaTeX; without exhibits make no folder."""
    import pandas as pd

    for exhibit in exhibits:
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / exhibit.name
        if isinstance(exhibit.content, pd.DataFrame):
            assert exhibit.table is not None
            write_whole(path.with_suffix(".csv"), csv_text(exhibit.content, with_index=False))
            write_whole(path.with_suffix(".tex"), latex(exhibit.table, label=exhibit.name))
        else:
            write_whole(path.with_suffix(".svg"), exhibit.svg)


def write_figures(figures: Sequence[Exhibit], directory: Path) -> None:
    """Write figures to a folder, in the place of those that an earlier run has written there."""
    write_exhibits(figures, directory)
    kept = {Path(directory.name, f"{figure.name}.svg") for figure in figures}
    drop_others(directory.parent, {directory.name: (".svg",)}, kept)


def file_name(text: str, taken: Container[str]) -> str:
    """Return ``text`` as a name of an exhibit, with a number behind it where that is taken.

    Names that differ in upper and lower case only are the same file to some systems.

    Examples
    --------
    >>> file_name("radon (y)", ["radon-y"])
    'radon-y-2'
    """
    plain = name = re.sub(r"\W+", "-", text).strip("-").casefold()
    count = 1
    while name in taken:
        count += 1
        name = f"{plain}-{count}"
    return name


def read_exhibit(directory: Path, name: str, title: str, caption: str) -> Exhibit:
    """Read what :func:`write_exhibits` has written of one exhibit.

    Raises
    ------
    ValueError
        If its files are missing.
    """
    import pandas as pd

    path = directory / name
    content: pd.DataFrame | Image
    try:
        if path.with_suffix(".csv").exists():
            table = within(path.with_suffix(".csv"), directory.parent)
            content = pd.read_csv(table).map(read_text).rename(columns=read_text)
        else:
            content = Image(within(path.with_suffix(".svg"), directory.parent).read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"{directory}: the exhibit '{name}' cannot be read ({error})") from None
    return Exhibit(name=name, title=title, caption=caption, content=content)
