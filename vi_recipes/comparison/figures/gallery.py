"""A comparison as figures. Each function returns a Matplotlib ``Figure``, or ``None`` for none.

Figures are made without ``pyplot``, so a caller's open figures and style are left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from matplotlib.figure import Figure

from vi_recipes.comparison.figures.agreement import agreement
from vi_recipes.comparison.figures.forest import (
    forest,
)
from vi_recipes.comparison.figures.heat_maps import (
    correlations,
    covariances,
)
from vi_recipes.comparison.figures.members import ALL, FEW, all_members, few_members
from vi_recipes.comparison.figures.merit import LEAST, merit
from vi_recipes.comparison.figures.scatter import accuracy
from vi_recipes.comparison.figures.times import times
from vi_recipes.comparison.figures.traces import (
    traces,
)
from vi_recipes.comparison.fits import Fits
from vi_recipes.comparison.view import MEAN_OFF, SD_OFF
from vi_recipes.core import attempt
from vi_recipes.report import Exhibit
from vi_recipes.trust import GOOD_MEAN, POOR_MEAN


def draw(comparison: Fits) -> list[Exhibit]:
    """Return every figure there is something to draw for, in the order of the report.

    They are drawn once, and so are the images made of them.
    """
    return list(comparison.once("figures", lambda: _draw(comparison)))


def _draw(comparison: Fits) -> list[Exhibit]:
    drawn = []
    for name, (function, title, caption) in FIGURES.items():

        def without(error: str, title: str = title) -> None:
            comparison.lose(f"The figure '{title}' is left out: {error}")

        figure = attempt(partial(function, comparison), without)
        if figure is not None:
            folded = name in FOLDED
            exhibit = Exhibit(
                name=name, title=title, caption=caption, content=figure, folded=folded
            )
            if exhibit.problem:
                without(exhibit.problem)
            else:
                drawn.append(exhibit)
    return drawn


MERIT = "merit"
"""The figure that stands beside the answer."""

FOLDED = ("all_members", "covariance")
"""Figures that a page folds away, each after a shorter one or one that says as much."""

FIGURES: dict[str, tuple[Callable[[Fits], Figure | None], str, str]] = {
    MERIT: (
        merit,
        "Error against seconds",
        (
            f"The worst error of a mean, in sds, against the seconds that a method takes alone; "
            f"both on log scales. Means less than {GOOD_MEAN} sds off are right, those more than "
            f"{POOR_MEAN} off wrong. Errors below {LEAST} are drawn there; methods whose errors "
            "nothing measures are not drawn."
        ),
    ),
    "forest": (
        forest,
        "Methods side by side",
        (
            "Mean ± 2 sd by parameter; a point estimate has no bar. Parameters whose intervals "
            "would vanish on a shared axis have one of their own. Constants are left out."
        ),
    ),
    "members": (
        few_members,
        "Members",
        (
            f"Of each site of members the {FEW} on which means differ most, in sds, a panel a "
            "method; sorted by the reference's mean, or the median of the methods', and with the "
            "same limits in all panels. Mean ± 2 sd; behind, in grey, the reference's. A point "
            "estimate has no bar; a triangle at an edge points to one that lies beyond."
        ),
    ),
    "all_members": (
        all_members,
        "All members",
        f"The same of all members, of sites with at most {ALL}.",
    ),
    "agreement": (
        agreement,
        "Against the reference",
        (
            "Means against the reference's means, and sds against the reference's sds, a mark per "
            "parameter and method; smaller marks lie on larger ones. On the diagonal they are "
            "equal; below it on the right, the method understates uncertainty. A line leads from a "
            "name to the marks of its parameter. After figures 13 and 14 of Giordano, Broderick "
            "and Jordan (2018), JMLR 19(51)."
        ),
    ),
    "accuracy": (
        accuracy,
        "Accuracy by method",
        (
            f"A mark per parameter. Grey: means within {MEAN_OFF} reference sds, and sds within a "
            f"factor {SD_OFF}."
        ),
    ),
    "correlation": (
        correlations,
        "Correlations",
        "Posterior correlations on one colour scale.",
    ),
    "covariance": (
        covariances,
        "Covariances",
        "Posterior covariances on one colour scale.",
    ),
    "traces": (
        traces,
        "Traces",
        (
            "What each method followed as it went, a line per start. Bands are ± 2 Monte Carlo "
            "standard errors, thick lines medians of neighbours. Noisy traces span the later part "
            "of the run and say where they start; the others end once they stop moving."
        ),
    ),
    "times": (
        times,
        "Time",
        "Compile and run seconds on a log scale; the black mark and the number are their total.",
    ),
}
"""Name -> function, title and caption, in the order of the report."""
