"""What all figures share, those of studies too: colours, marks, and the look of axes.

Figures are made without ``pyplot``, so a caller's open figures and style are left alone::

    with style():
        figure = Figure(figsize=(7.6, 4), layout="constrained")
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from cycler import cycler

from vi_recipes.core import visible

if TYPE_CHECKING:
    from matplotlib.axis import Axis


DPI = 150


COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7A5C00", "#882255")
"""Okabe and Ito's colours and two darker ones, told apart by the colour-blind; black is the
reference's."""


MARKERS = ("s", "^", "D", "v", "P", "X", "*", "h")


GREY = "#666666"


STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana"],
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.prop_cycle": cycler(color=COLOURS),
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
    "text.usetex": False,
}


def drawn(text: str) -> str:
    r"""Return text of any kind as Matplotlib shows it: what it takes for mathematics is marked.

    Examples
    --------
    >>> drawn("a$_{b")
    'a\\$_{b'
    """
    return visible(text).replace("$", r"\$")


LEAST_OF_SITE = 6
"""Letters that a site's name keeps where its coordinates need the room to be told apart."""


def shorten(label: str, length: int) -> str:
    """Return a label of at most ``length`` to draw, its coordinates cut before its site's name.

    Where coordinates of a few letters leave no room for the name, it gives way to them.
    """
    return drawn(_cut(visible(label), length))


def _cut(label: str, length: int) -> str:
    if len(label) <= length:
        return label
    site, bracket, inside = label.partition("[")
    parts = inside.removesuffix("]").split(", ") if bracket else []
    for least in (len(site), min(LEAST_OF_SITE, len(site))):
        for width in range(max(map(len, parts), default=0), 2, -1):
            cut = (p if len(p) <= width else p[: width - 1].rstrip() + "." for p in parts)
            places = f"[{', '.join(cut)}]"
            if length - len(places) >= least:
                return _without_middle(site, length - len(places)) + places
    return _without_middle(label, length)


def _without_middle(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    return f"{text[: (length - 1) // 2]}…{text[-(length // 2) :]}"  # an index is at the end


def text_width(texts: Iterable[str], size: float) -> float:
    """Return the inches that the widest of some texts takes, in letters of ``size`` points."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    font, paths = FontProperties(family=STYLE["font.sans-serif"][0], size=size), TextToPath()
    plain = (text.replace(r"\$", "$") for text in texts)
    widths = (paths.get_text_width_height_descent(text, font, False)[0] for text in plain)
    return float(max(widths, default=0.0)) / 72


@contextmanager
def style() -> Iterator[None]:
    """Draw and save figures in the report's style, whatever the caller's own is."""
    import matplotlib  # only those who draw wait for it

    with matplotlib.rc_context(STYLE):
        yield


def plain_log_ticks(axis: Axis, low: float, high: float) -> None:
    """Label a log axis with plain numbers, as many as fit."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    powers = 10.0 ** np.arange(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in (
        (1, 1.1, 1.2, 1.3, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9),
        (1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8),
        (1, 1.5, 2, 3, 5, 7),
        (1, 2, 5),
        (1, 3),
        (1,),
    ):
        ticks = np.outer(powers, steps).ravel()
        ticks = ticks[(ticks >= low) & (ticks <= high)]
        if ticks.size <= 7:
            break
    thinned = ticks[:: max(math.ceil(ticks.size / 9), 1)]
    axis.set_major_locator(FixedLocator([float(tick) for tick in thinned]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axis.set_minor_locator(NullLocator())
