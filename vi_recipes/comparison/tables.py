"""A comparison as tables of formatted text: one source for HTML, Markdown and the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vi_recipes.comparison.fits import Fits
from vi_recipes.comparison.notes import NoteKind, of_kind
from vi_recipes.comparison.view import (
    NO_JUDGEMENT,
    all_fits,
    flags_note,
    heading,
    judgements,
    numbers,
    reference_first,
    select,
)
from vi_recipes.core import Status, numbered
from vi_recipes.fit import Fit, say_unsettled
from vi_recipes.report import (
    DASH,
    Cell,
    Table,
    format_count,
    format_number,
    format_seconds,
    format_speed_up,
    format_value,
    sentences,
)

CONSTANT = "constant"
"""Shown for the spread of what varies by rounding alone."""


# -- tables ----------------------------------------------------------------------------------


def means(comparison: Fits, limit: int | None = None, sites: Sequence[str] | None = None) -> Table:
    """Return means and sds of every method side by side, a row per parameter.

    That of all parameters is made once.

    Parameters
    ----------
    comparison
        What to show.
    limit
        Rows at most; ``None`` for all. The note says how many are left out.
    sites
        Only these sites.
    """
    if limit is None and sites is None:
        return comparison.once("table of means", lambda: _means(comparison, limit, sites))
    return _means(comparison, limit, sites)


def _means(comparison: Fits, limit: int | None, sites: Sequence[str] | None) -> Table:
    labels, left_out = select(comparison, limit, sites)
    constants = set(comparison.constants())
    mean, spread = numbers(comparison, Fits.means), numbers(comparison, Fits.sds)
    mean_error, spread_error = numbers(comparison, Fits.mcses), numbers(comparison, Fits.mcses_sd)
    accuracy = judgements(comparison)
    fits = all_fits(comparison)
    points = {name for name, fit in fits.items() if fit.is_point}
    instead = _quantiles(comparison)
    reference = comparison.reference_name
    columns = ["parameter"]
    for name, fit in fits.items():
        title = heading(name, comparison)
        if name == reference:
            title += " (reference)"
        if not fit.has_result:
            columns.append(title)
        elif name in points:
            columns.append(f"{title}\npoint")
        else:
            columns += [f"{title}\nmean", f"{title}\nsd"]

    rows = []
    for label in labels:
        row = [Cell(label)]
        reference_sd = spread[reference][label] if reference is not None else math.nan
        for name, fit in fits.items():
            if not fit.has_result:
                row.append(Cell(DASH, "failed"))
                continue
            if (label, name) in instead:
                row += _by_quantiles(*instead[label, name], is_point=name in points)
                continue
            own = spread[name][label]
            # a method sure of itself does not earn its mean more digits than the reference's has
            scale = max((sd for sd in (own, reference_sd) if sd > 0), default=math.nan)
            scale = math.nan if label in constants else scale
            judged = accuracy.get((label, name))
            text = format_value(mean[name][label], mean_error[name][label], scale)
            row.append(Cell(text, judged.mean_flag if judged else ""))
            if name not in points:
                text = format_value(own, spread_error[name][label], own)
                text = CONSTANT if label in constants else text
                row.append(Cell(text, judged.sd_flag if judged else ""))
        rows.append(row)

    return Table(
        "Means and standard deviations",
        columns,
        rows,
        sentences(_no_moments(comparison), _reading(comparison), _left_out(left_out)),
    )


def _quantiles(comparison: Fits) -> dict[tuple[str, str], tuple[float, float, float]]:
    """Return (parameter, fit) -> 5 %, 50 % and 95 %, of scalars without a mean or sd."""
    rows = comparison.quantiles().drop(columns="khat")
    return {
        (str(label), str(name)): (float(low), float(middle), float(high))
        for (label, name), (low, middle, high) in zip(rows.index, rows.to_numpy(), strict=True)
    }


def _by_quantiles(low: float, middle: float, high: float, *, is_point: bool) -> list[Cell]:
    """Return the cells of a scalar without a mean or sd."""
    if is_point:
        return [Cell(format_number(middle))]
    if math.isnan(middle):
        return [Cell(DASH), Cell(DASH)]
    ends = f"{format_number(low, 3)} to {format_number(high, 3)}"
    return [Cell(f"{format_number(middle, 3)} (median)"), Cell(ends)]


def _no_moments(comparison: Fits) -> str:
    """Return which scalars have no mean or sd, and what stands in the place of them."""
    said = say_unsettled(comparison.unsettled, "the draws do")
    return f"{said}: median, and 5 % to 95 %, of every fit stand there instead" if said else ""


def accuracy(comparison: Fits) -> Table:
    """Return every method's distance from the reference, a row per parameter; it is made once.

    Differences of means are in reference sds; sds are ratios; each stands beside its Monte Carlo
    standard error. There are no rows without a reference.
    """
    return comparison.once("table of accuracy", lambda: _accuracy(comparison))


def _accuracy(comparison: Fits) -> Table:
    judged = judgements(comparison)
    names = [n for n in all_fits(comparison) if any(n == key[1] for key in judged)]
    constants = set(comparison.constants())
    labels, _ = select(comparison)
    points = {n for n in names if all_fits(comparison)[n].is_point}
    columns = ["parameter"]
    for name in names:
        title = heading(name, comparison)
        columns.append(f"{title}\ndifference")
        if name not in points:
            columns.append(f"{title}\nsd ratio")
    rows = []
    for label in labels if names else []:
        row = [Cell(label)]
        for name in names:
            one = judged.get((label, name), NO_JUDGEMENT)
            if label in constants:
                row += [Cell(CONSTANT)] * (1 if name in points else 2)
                continue
            row.append(Cell(_plus_minus(one.difference, one.difference_mcse), one.mean_flag))
            if name not in points:
                row.append(Cell(_plus_minus(one.sd_ratio, one.sd_ratio_mcse), one.sd_flag))
        rows.append(row)
    reference = comparison.reference_name
    named = [label for label in comparison.unsettled if label in labels]
    more = f" and {len(named) - 3} more" if len(named) > 3 else ""
    medians = (
        f". Of {', '.join(named[:3])}{more}, which have no mean or sd, or none that is known, "
        "medians and half-widths of the central 68 % are compared"
        if named
        else ""
    )
    note = (
        f"Difference: method mean minus {reference} mean, in {reference} sds. Sd ratio: method sd "
        f"over {reference} sd. After ± stands the Monte Carlo standard error" + medians
        if names
        else "No reference to compare with: there is no method to compare, or no reference"
    )
    return Table(
        "Accuracy against the reference",
        columns,
        rows,
        sentences(note, flags_note(comparison) if names else ""),
    )


def accuracy_summary(comparison: Fits) -> Table:
    """Return one row per method: its worst and typical distance from the reference."""
    judged = judgements(comparison)
    rows = []
    for name in all_fits(comparison):
        mine = {label: j for (label, n), j in judged.items() if n == name}
        differences = np.array([j.difference for j in mine.values()])
        ratios = np.array([j.sd_ratio for j in mine.values()])
        known = np.isfinite(differences)
        if not known.any():
            continue
        worst = max(
            (label for label in mine if math.isfinite(mine[label].difference)),
            key=lambda label: abs(mine[label].difference),
        )
        inside = np.array([j.within_error for j in mine.values()])
        ratio = [Cell(DASH)] * 3
        if np.isfinite(ratios).any():
            finite = ratios[np.isfinite(ratios)]
            ratio = [
                Cell(format_number(float(x), 3))
                for x in (np.min(finite), np.median(finite), np.max(finite))
            ]
        rows.append(
            [
                Cell(heading(name, comparison)),
                Cell(f"{int(inside.sum())} of {int(known.sum())}"),
                Cell(_signed(float(np.sqrt(np.mean(differences[known] ** 2))))),
                Cell(_signed(mine[worst].difference), mine[worst].mean_flag),
                Cell(worst),
                *ratio,
            ]
        )
    columns = [
        "method",
        "means inside\nMonte Carlo error",
        "rms\ndifference",
        "worst\ndifference",
        "worst\nparameter",
        "sd ratio\nsmallest",
        "sd ratio\nmedian",
        "sd ratio\nlargest",
    ]
    note = f"Differences are in {comparison.reference_name} sds" if rows else ""
    return Table("Accuracy, method by method", columns, rows, sentences(note), left=(0, 4))


def timings(comparison: Fits) -> Table:
    """Return seconds, speed-up and evaluation counts, a row per method."""
    seconds = numbers(comparison, Fits.timings)
    formats = {
        "compile_seconds": ("compile\n(s)", format_seconds),
        "run_seconds": ("run\n(s)", format_seconds),
        "total_seconds": ("total\n(s)", format_seconds),
        "alone_seconds": ("alone\n(s)", format_seconds),
        "run_speed_up": ("speed-up\nrun", format_speed_up),
        "speed_up": ("speed-up\nalone", format_speed_up),
        "density_evaluations": ("density\nevaluations", format_count),
        "gradient_evaluations": ("gradient\nevaluations", format_count),
        "hvp_evaluations": ("Hessian-vector\nproducts", format_count),
        "ess_per_second": ("effective samples\nper second", format_number),
    }
    rows = []
    fits = all_fits(comparison)
    for name in reference_first(seconds["run_seconds"], comparison):
        # the reference's own is 1, and a method without a result is fast at nothing
        no_speed_up = name == comparison.reference_name or not fits[name].has_result
        cells = [
            Cell(DASH if "speed_up" in column and no_speed_up else show(seconds[column][name]))
            for column, (_, show) in formats.items()
        ]
        rows.append([Cell(name), _status(comparison, name), *cells])
    columns = ["method", "status", *(title for title, _ in formats.values())]
    note = (
        "Compile and run are measured apart; run waits for the device. What an earlier method of "
        "the same model has compiled is not compiled again: alone is the total with the seconds "
        "that this has saved"
    )
    if comparison.reference_name in seconds["run_seconds"]:
        note += (
            f". Speed-up: run seconds, and seconds alone, of {comparison.reference_name} over the "
            "method's"
        )
        if comparison.outside:
            note += f". {comparison.outside} was stored: its seconds may be of another machine"
    for told in of_kind(comparison.notes, NoteKind.BY_WORKERS, NoteKind.SIDE_BY_SIDE):
        note += f". {told.rstrip('.')}"
    return Table("Timings", columns, rows, sentences(note), left=(0, 1))


def diagnostics(comparison: Fits) -> Table:
    """Return the convergence measures, a column per method and a row per measure."""
    # what the weights say has a table of its own
    weighed = {k for fit in comparison.fits.values() for k in _numbers(fit)}
    measures = {
        name: values
        for name, values in numbers(comparison, Fits.diagnostics).items()
        if name not in weighed
    }
    words = ("status", "message", "advice", "log_evidence", "log_evidence_se", "log_likelihood")
    names = reference_first(comparison.fits, comparison)
    rows = [[Cell("status"), *(_status(comparison, name) for name in names)]]
    for measure, by_name in measures.items():
        values = [by_name[name] for name in names]
        if measure not in words and not all(map(math.isnan, values)):
            rows.append([Cell(measure), *(Cell(format_number(v)) for v in values)])
    note = "A dash: the method has no such measure"
    return Table("Diagnostics", ["measure", *names], rows, sentences(note), mixed=True)


def _numbers(fit: Fit) -> dict[str, float]:
    return fit.assessment.numbers() if fit.assessment is not None else {}


def evidence(comparison: Fits) -> Table:
    """Return bounds on log p(y) and estimates of it, and log-likelihoods, with what each is."""
    rows = []
    fits = all_fits(comparison)
    for row in comparison.evidence().to_dict("records"):
        value, gap = DASH, DASH
        if math.isfinite(row["value"]):
            value = _with_error(row["value"], row["se"])
            gap = DASH if math.isnan(row["gap"]) else _with_error(row["gap"], row["gap_se"])
        # quadrature is of the model and no fit
        method = heading(row["method"], comparison) if row["method"] in fits else row["method"]
        rows.append([Cell(method), Cell(row["kind"]), Cell(value), Cell(gap)])
    for name, fit in fits.items():
        if fit.has_result and fit.log_likelihood is not None:
            text = format_value(fit.log_likelihood, 0.0, 0.1)
            kind = "log-likelihood at its estimate, not log p(y)"
            rows.append([Cell(heading(name, comparison)), Cell(kind), Cell(text), Cell(DASH)])
    note = (
        "log p(y) in nats. A bound, an estimate and an approximation are not the same quantity. "
        "The last column is the difference from the best: the estimate of least error, else the "
        "highest bound"
    )
    columns = ["method", "what it is", "log evidence", "less the best"]
    flat = of_kind(comparison.notes, NoteKind.FLAT_PRIORS)
    return Table("Log evidence", columns, rows, " ".join([sentences(note), *flat]), left=(0, 1))


def _with_error(value: float, error: float) -> str:
    text = format_value(value, error, 1.0)
    return f"{text} ± {format_number(error, 1)}" if error > 0 else text


def options(comparison: Fits) -> Table:
    """Return every method's options."""
    rows = [
        [Cell(name), Cell(", ".join(f"{k} = {_option(v)}" for k, v in fit.config.items()) or DASH)]
        for name, fit in all_fits(comparison).items()
    ]
    return Table("Options", ["method", "options"], rows, left=(0, 1), wraps=True)


def provenance(comparison: Fits) -> Table:
    """Return seed, data fingerprint, device, precision and versions, of fits that share them."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for name, fit in all_fits(comparison).items():
        record = fit.provenance
        versions = ", ".join(f"{k} {v}" for k, v in record.versions.items())
        seed = "" if record.seed is None else str(record.seed)
        found = (seed, record.data_fingerprint, record.device, record.dtype, versions)
        rows.setdefault(found, []).append(name)
    columns = ["methods", "seed", "data fingerprint", "device", "precision", "versions"]
    cells = [
        [Cell(", ".join(names)), *(Cell(text or DASH) for text in found)]
        for found, names in rows.items()
    ]
    return Table("Provenance", columns, cells, left=(0, 2, 3, 4, 5), wraps=True)


def _status(comparison: Fits, name: str) -> Cell:
    fit = all_fits(comparison)[name]
    text = fit.status.name.lower().replace("_", " ")
    return Cell(text, "" if fit.has_result else "failed")


def _plus_minus(value: float, error: float) -> str:
    if math.isnan(value):
        return DASH
    text = format_value(value, error, 1.0)
    return f"{text} ± {format_number(error, 1)}" if error > 0 else text


def _signed(value: float) -> str:
    return format_value(value, 0.0, 1.0)


def _option(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {_option(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_option, value)) + "]"
    if isinstance(value, float):
        return f"{value:g}"
    return "default" if value is None else str(value)


def _reading(comparison: Fits) -> str:
    fits = all_fits(comparison)
    parts = []
    if comparison.measures and len(fits) > 1:
        parts.append(flags_note(comparison))
    if any(not fit.has_result for fit in fits.values()):
        parts.append(f"{DASH}: the method has no result")
    if any(fit.has_result and fit.status is not Status.OK for fit in fits.values()):
        parts.append("†: stopped before it converged; provisional")
    return ". ".join(parts)


def _left_out(count: int) -> str:
    return f"{numbered(count, 'more parameter')} not shown" if count else ""
