"""Exhibits of a study: how its methods compare with the reference, and their seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import pandas as pd

from vi_recipes.comparison.figures.agreement import agreement
from vi_recipes.comparison.fits import Fits
from vi_recipes.comparison.speed import apart
from vi_recipes.core import Timing
from vi_recipes.report import DASH, Exhibit, format_number, format_seconds, format_speed_up


def reference_exhibits(after: str = "") -> Callable[..., Iterator[Exhibit]]:
    """Return a study's exhibits: all means and sds against the reference, and the seconds.

    Parameters
    ----------
    after
        What figure the first follows, a sentence; none by default.
    """

    def exhibits(comparison: Fits, *_: object) -> Iterator[Exhibit]:
        yield against_reference(
            comparison,
            name="against_reference",
            title=f"Means and sds against {comparison.reference_name}",
            after=after,
        )
        yield seconds_exhibit(comparison)

    return exhibits


def against_reference(
    comparison: Fits,
    *,
    name: str,
    title: str,
    after: str = "",
    sites: Sequence[str] | None = None,
) -> Exhibit:
    """Return means and sds of every fit against those of the reference, as a figure.

    Its caption says how far every fit is off, and which have no result.

    Parameters
    ----------
    comparison
        Whose fits.
    name, title
        Of the exhibit.
    after
        What figure it follows, a sentence.
    sites
        Whose parameters; by default all.

    Raises
    ------
    ValueError
        Where no method has a result to hold against a reference.
    """
    figure = agreement(comparison, sites)
    if figure is None:
        raise ValueError("there is no result to hold against a reference")
    reading = (
        "A mark per parameter and method; smaller marks lie on larger ones. On the diagonal a "
        "method agrees with the reference; an sd below it is too small."
    )
    said = [reading, after, _distances(comparison, sites), _absences(comparison)]
    caption = " ".join(part for part in said if part)
    return Exhibit(name=name, title=title, caption=caption, content=figure)


def _distances(comparison: Fits, sites: Sequence[str] | None) -> str:
    """Return how far every fit is from the reference, in these parameters."""
    rows = comparison.accuracy(sites).drop(columns="within_error").astype(float)
    rows = rows[~rows.index.get_level_values(0).isin(comparison.constants())]
    said = []
    for name in comparison:
        if name not in rows.index.get_level_values(1):
            continue
        mine = rows.xs(name, level=1)
        off = mine["difference"].abs().dropna()
        ratios = mine["sd_ratio"].dropna()
        if off.empty:
            continue
        words = f"{name}: means at most {format_number(float(off.max()), 2)} sds off"
        words += f" ({off.idxmax()})" if len(off) > 1 else ""
        if len(ratios):
            words += f", sds {_extremes(ratios)} times the reference's"
        said.append(words)
    if not said:
        return ""
    labels = rows.index.get_level_values(0)
    named = [label for label in comparison.unsettled if label in labels]
    medians = (
        f" Of {', '.join(named)} medians and half-widths of the central 68 % are compared."
        if named
        else ""
    )
    return "; ".join(said) + "." + medians


def _extremes(ratios: pd.Series) -> str:
    """Return the smallest and the largest of ratios, each with its parameter."""
    ends = [(ratios.min(), ratios.idxmin()), (ratios.max(), ratios.idxmax())]
    texts = [format_number(float(ratio), 2) for ratio, _ in ends]
    if len(ratios) == 1:
        return texts[0]
    return " to ".join(f"{text} ({label})" for text, (_, label) in zip(texts, ends, strict=True))


def _absences(comparison: Fits) -> str:
    """Return which methods have no result, or a provisional one, and their status."""
    kinds = {
        "has no result": [n for n, f in comparison.items() if not f.has_result],
        "is provisional (†)": [
            n for n, f in comparison.items() if f.has_result and f.status.name != "OK"
        ],
    }
    said = [
        f"{name} {what}: {comparison[name].status.name.lower().replace('_', ' ')}."
        for what, names in kinds.items()
        for name in names
    ]
    return " ".join(said)


def seconds_beside(
    rows: Mapping[str, Timing],
    base: str,
    *,
    whole: Sequence[str] = (),
    failed: Sequence[str] = (),
    published: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Return seconds, compilation apart, beside those of ``base`` and those that were published.

    Each row has the seconds that it would have taken alone: code that a fit before it compiled is
    charged to it as well.

    Parameters
    ----------
    rows
        What was fitted -> its seconds.
    base
        The row that the others are compared with, by total seconds.
    whole
        Rows whose compilation is not known apart.
    failed
        Rows without a result, which are faster at nothing.
    published
        What was fitted -> seconds of elsewhere, in a column of their own and compared with none.
    """
    speed_up = f"{base} over it"
    table = []
    for name, timing in rows.items():
        total = timing.alone_seconds
        against = rows[base].alone_seconds
        compared = name != base and name not in failed and min(total, against) > 0
        row = {
            "method": f"{name} (no result)" if name in failed else name,
            "compile (s)": DASH
            if name in whole
            else format_seconds(timing.compile_seconds + timing.shared_seconds),
            "run (s)": DASH if name in whole else format_seconds(timing.run_seconds),
            "total (s)": format_seconds(total),
            speed_up: format_speed_up(against / total) if compared else DASH,
        }
        if published is not None:
            row["published (s)"] = f"{published[name]:,.0f}" if name in published else DASH
        table.append(row)
    return pd.DataFrame(table)


def seconds_exhibit(comparison: Fits) -> Exhibit:
    """Return the seconds of every fit, compilation apart, beside those of the reference."""
    base = comparison.reference_name
    if base is None:
        raise ValueError("there is no reference to compare seconds with")
    rows = {name: fit.timing for name, fit in comparison.columns.items()}
    failed = [name for name, fit in comparison.items() if not fit.has_result]
    stored = comparison.outside
    whole = [stored] if stored and not apart(comparison.columns[stored]) else []
    return Exhibit(
        name="seconds",
        title="Seconds, compilation apart",
        caption=(
            "Each method alone: what one before it compiled is charged to it too. Compiled code "
            f"is compiled once; the run is what another fit takes. Last: total seconds of {base} "
            "over the method's."
        ),
        content=seconds_beside(rows, base, whole=whole, failed=failed),
    )
