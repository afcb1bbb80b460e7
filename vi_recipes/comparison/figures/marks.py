"""Colours, markers and notes that the figures share."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vi_recipes.comparison.fits import Fits
from vi_recipes.comparison.view import all_fits
from vi_recipes.core import numbered
from vi_recipes.fit import Fit
from vi_recipes.report import COLOURS, GREY, MARKERS


def fit_styles(comparison: Fits) -> dict[str, tuple[str, str]]:
    """Return every fit's colour and marker, the same in all figures; the reference is black."""
    fits = all_fits(comparison)
    # fits without a result are seldom drawn, so the others have the first and clearest colours
    names = sorted(
        (n for n in fits if n != comparison.reference_name),
        key=lambda name: not fits[name].has_result,
    )
    styles = {
        name: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(names)
    }
    if comparison.reference_name is not None:
        styles[comparison.reference_name] = ("black", "o")
    return styles


def handle(name: str, fit_style: tuple[str, str], *, line: bool = True) -> Line2D:
    """Return a fit's entry in a legend."""
    colour, marker = fit_style
    return Line2D(
        [],
        [],
        color=colour,
        marker=marker,
        ms=5,
        lw=1.3 if line else 0,
        mfc=colour if line else "none",
        label=name,
    )


MAX_ROWS = 30
"""Parameters in a forest plot."""


MANY = 300
"""Marks beyond which they are drawn small."""


FAR_OUT = 3.0
"""Widths of what the others span, beyond which a point would squeeze them: it goes to the edge."""


# -- parts -----------------------------------------------------------------------------------


def with_result(comparison: Fits) -> dict[str, Fit]:
    """Return the fits that have numbers to draw, the reference first."""
    return {name: fit for name, fit in all_fits(comparison).items() if fit.has_result}


def finite(frame: pd.DataFrame) -> pd.DataFrame:
    """Return ``frame`` as floats with infinities as NaN, which is what can be drawn."""
    numbers = frame.astype(float)
    return numbers.where(np.isfinite(numbers))


def say_left_out(figure: Figure, count: int) -> None:
    """Write above a figure how many parameters it lacks, if any."""
    if count:
        said = f"{numbered(count, 'more parameter')} not drawn"
        top = 1 - 0.05 / figure.get_figheight()
        figure.suptitle(said, fontsize=8.5, color=GREY, y=top)
