"""What a reader sees first: the methods in order of merit, and the parameters that are few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vi_recipes.comparison import tables
from vi_recipes.comparison.fits import Fits
from vi_recipes.comparison.notes import NoteKind, of_kind
from vi_recipes.comparison.recommend import ranked
from vi_recipes.comparison.view import (
    MEAN_OFF,
    SD_OFF,
    all_fits,
    heading,
    population_sites,
    sizes,
)
from vi_recipes.core import numbered
from vi_recipes.report import (
    DASH,
    Badge,
    Cell,
    Entries,
    Long,
    Table,
    Turned,
    format_number,
    format_seconds,
    sentences,
    short,
)
from vi_recipes.trust import Errors, Trust

BADGES: dict[Trust, Badge] = {
    Trust.TRUSTWORTHY: "good",
    Trust.CARE: "care",
    Trust.UNTRUSTED: "bad",
    Trust.UNKNOWN: "unknown",
    Trust.NO_RESULT: "none",
}
"""How each verdict is marked."""

MAX_PARAMETERS = 12
"""Parameters of the population that a terminal shows."""


def methods(comparison: Fits, *, places: bool = True) -> Table:
    """Return a row a method, the one to use first: verdict, what it gets wrong, seconds.

    Parameters
    ----------
    comparison
        Whose methods.
    places
        Whether it says at which parameters the errors are.
    """
    reference = comparison.reference_name
    rows = [
        [
            Cell(one.method),
            Cell(one.trust.value, badge=BADGES[one.trust]),
            *_errors(one.errors, places, is_reference=one.method == reference),
            Cell(format_seconds(one.seconds)),
        ]
        for one in ranked(comparison)
    ]
    columns = (
        ["method", "verdict", "worst mean\nerror, sds", "at", "worst\nsd ratio", "at", "seconds"]
        if places
        else ["method", "verdict", "worst mean\nerror, sds", "worst\nsd ratio", "seconds"]
    )
    left = (0, 1, 3, 5) if places else (0, 1)
    together = of_kind(comparison.notes, NoteKind.SIDE_BY_SIDE)
    shared = ["Seconds: some methods ran side by side"] if together else []
    return Table("Methods", columns, rows, sentences(*_units(comparison), *shared), left)


def _errors(errors: Errors | None, places: bool, *, is_reference: bool) -> list[Cell]:
    """Return what a method gets wrong, and where, as cells."""
    if errors is None:
        # what the others are measured by has no error by it
        blank = Cell("reference" if is_reference else DASH)
        return [blank, Cell(""), Cell(DASH), Cell("")] if places else [blank, Cell(DASH)]
    inside = errors.within_error
    mean = Cell(
        format_number(abs(errors.mean), 2),
        "inside" if inside else "off" if abs(errors.mean) > MEAN_OFF else "",
    )
    ratio = Cell(DASH)
    if errors.sd_ratio is not None:
        beyond = not 1 / SD_OFF <= errors.sd_ratio <= SD_OFF
        text = format_number(errors.sd_ratio, 2 if errors.sd_ratio < 1 else 3)
        ratio = Cell(text, "inside" if inside else "off" if beyond else "")
    if not places:
        return [mean, ratio]
    return [mean, Cell(errors.mean_at), ratio, Cell(errors.sd_at)]


def _units(comparison: Fits) -> Sequence[str]:
    """Return what the errors are measured in, and what their marks mean."""
    known = [one.errors for one in ranked(comparison) if one.errors is not None]
    if not known:
        return ("Nothing here measures what the methods get wrong",)
    yardsticks = {errors.yardstick for errors in known}
    said = " or ".join(sorted(yardsticks))
    named = comparison.reference_name
    what = f"the {said}"
    if yardsticks == {"reference"} and named not in (None, "reference"):
        what = f"the reference, {named}"
    return (
        f"Differences from {what}, in its sds, and ratios of sds",
        f"~: within Monte Carlo error. *: beyond {MEAN_OFF} sds, or a factor {SD_OFF}",
    )


def population(comparison: Fits) -> list[Turned]:
    """Return means and sds of the population's parameters, with methods as rows or as columns.

    There is nothing where every site is longer than there is room for.
    """
    whole = tables.means(comparison)
    down = replace(whole, rows=whole.rows[: _number(comparison, population_sites(comparison))])
    return [Turned("Population parameters", (_turned(down), down), ("methods", "parameters"))]


def members(comparison: Fits) -> list[Long]:
    """Return means and sds of members, a row each."""
    whole = tables.means(comparison)  # the population comes first
    rows = whole.rows[_number(comparison, population_sites(comparison)) :]
    table = replace(whole, title="Members: means and sds", rows=rows)
    return [Long(table, "tables/means.csv", "members-table")]


def accuracy(comparison: Fits) -> list[Long]:
    """Return every method's distance from the reference, a row a parameter."""
    return [Long(tables.accuracy(comparison), "tables/accuracy.csv", "accuracy-table")]


def verdicts(comparison: Fits) -> list[Entries]:
    """Return the verdicts as sentences, the method to use first; a reference from outside last."""
    said = [(one.method, str(one.verdict)) for one in ranked(comparison)]
    said += [
        (name, fit.explanation)
        for name, fit in comparison.columns.items()
        if name not in comparison.fits
    ]
    badges = {one.method: BADGES[one.trust] for one in ranked(comparison)}
    return [Entries("Verdicts", said, badges)]


def _number(comparison: Fits, sites: Sequence[str]) -> int:
    """Return how many scalars sites have."""
    return sum(sizes(comparison)[name] for name in sites)


def best_means(comparison: Fits) -> list[Table]:
    """Return the same with parameters as rows, methods in order of merit, for a terminal."""
    few = population_sites(comparison)
    names = [one.method for one in ranked(comparison) if comparison[one.method].has_result]
    outside = [name for name in comparison.columns if name not in comparison.fits]
    names = [*outside, *names]
    table = tables.means(comparison, sites=few or None)  # that of all is made once
    rows = table.rows[:MAX_PARAMETERS]
    if not rows or not names:
        return []
    of = {name: _columns(table, comparison, name) for name in names}
    places = [0, *(place for name in names for place in of[name])]
    more = sum(sizes(comparison).values()) - len(rows)
    return [
        Table(
            "Population parameters" if few else "Parameters",
            [table.columns[place].replace(" (reference)", "") for place in places],
            [[row[place] for place in places] for row in rows],
            sentences(f"{numbered(more, 'more parameter')} in the report" if more else ""),
            drops="method",
        )
    ]


def failures(comparison: Fits) -> list[Entries]:
    """Return the methods without a result, in a line each."""
    said = [
        (name, short(fit.explanation))
        for name, fit in all_fits(comparison).items()
        if not fit.has_result
    ]
    return [Entries("Without a result", said)]


def _columns(table: Table, comparison: Fits, name: str) -> list[int]:
    """Return the places of a method's columns in a table of means."""
    title = heading(name, comparison)
    heads = {title, f"{title} (reference)"}
    return [k for k, head in enumerate(table.columns) if k and head.split("\n")[0] in heads]


def _turned(table: Table) -> Table:
    """Return a table of means with methods as rows, a mean and an sd of each parameter."""
    groups: dict[str, list[int]] = {}
    for place, title in enumerate(table.columns[1:], start=1):
        groups.setdefault(title.split("\n")[0], []).append(place)
    columns = ["method"]
    for row in table.rows:
        columns += [f"{row[0].text}\nmean", f"{row[0].text}\nsd"]
    rows = []
    for name, places in groups.items():
        cells = [Cell(name)]
        for row in table.rows:
            one = row[places[0]]
            # a point has no sd, and nothing is to be said of it
            none = Cell(DASH, one.flag if one.flag == "failed" else "")
            cells += [one, row[places[1]] if len(places) > 1 else none]
        rows.append(cells)
    return Table(table.title, columns, rows, table.note)
