"""A comparison as tables of formatted text: one source for HTML, Markdown and the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vi_recipes.core.status import Status
from vi_recipes.fit.fit import Fit

if TYPE_CHECKING:
    import pandas as pd

    from vi_recipes.comparison.fits import Comparison

Flag = Literal["", "inside", "off", "failed"]

DASH = "–"
"""Shown where there is no number."""

MEAN_OFF = 0.5
"""A mean this many reference sds from the reference's is flagged."""

SD_OFF = 1.25
"""An sd that differs from the reference's by more than this factor, up or down, is flagged."""

NUM_SIGNIFICANT = 3
"""Digits of a posterior sd worth reading; its mean is shown to the same decimal place."""


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Parameters
    ----------
    text
        What it says, formatted.
    flag
        ``"inside"`` for a difference inside Monte Carlo error, ``"off"`` for one that matters,
        ``"failed"`` where a method has no number to show.
    """

    text: str
    flag: Flag = ""

    @property
    def marked(self) -> str:
        """The text with its flag as a mark, for output without colour."""
        return self.text + {"off": " *", "inside": " ~"}.get(self.flag, "")


@dataclass(frozen=True)
class Table:
    """A table ready to print.

    Parameters
    ----------
    title
        What it shows.
    columns
        Headings; a line break separates a method's name from the quantity.
    rows
        One list of cells per row, as long as ``columns``.
    note
        How to read it; may be empty.
    left
        Indices of the columns that hold words, to be aligned left.
    """

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    note: str = ""
    left: tuple[int, ...] = (0,)


# -- numbers ---------------------------------------------------------------------------------


def format_number(value: float, digits: int = 4) -> str:
    """Return ``value`` to ``digits`` significant digits; integers in full, NaN as a dash.

    Examples
    --------
    >>> format_number(0.00123456), format_number(61895.0), format_number(2.5e-9)
    ('0.001235', '61,895', '2.50e-09')
    """
    if math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if float(value).is_integer() and abs(value) < 1e9:
        return f"{int(value):,}" if abs(value) >= 10_000 else str(int(value))
    size = abs(value)
    if not 1e-4 <= size < 1e9:
        return f"{value:.{min(digits, 3) - 1}e}"
    decimals = max(digits - 1 - _magnitude(size), 0)
    return f"{value:,.{decimals}f}" if size >= 10_000 else f"{value:.{decimals}f}"


def format_value(value: float, mcse: float = 0.0, scale: float = math.nan) -> str:
    """Return ``value`` to the digits that mean something.

    Parameters
    ----------
    value
        A mean or an sd.
    mcse
        Its Monte Carlo standard error; the last digit shown is the first one it touches.
    scale
        The posterior sd, which ends the digits worth reading: its third significant one.

    Examples
    --------
    >>> format_value(0.68812, mcse=0.002), format_value(0.68812, scale=0.041)
    ('0.688', '0.6881')
    """
    if not math.isfinite(value):
        return format_number(value)
    limits = []
    if mcse > 0 and math.isfinite(mcse):
        limits.append(-_magnitude(mcse))
    if scale > 0 and math.isfinite(scale):
        limits.append(NUM_SIGNIFICANT - 1 - _magnitude(scale))
    if not limits:
        return format_number(value)
    decimals = min(limits)
    if decimals > 6 or abs(value) >= 1e9:
        digits = max(decimals + _magnitude(abs(value)), 0) if value else 0
        return f"{value:.{min(digits, 6)}e}"
    text = f"{value:.{max(decimals, 0)}f}"
    return text.removeprefix("-") if not float(text) else text  # no "-0.00"


def format_seconds(seconds: float) -> str:
    """Return seconds, to three decimals at most and fewer as they grow."""
    if math.isnan(seconds):
        return DASH
    if seconds < 0.0005:
        return "0" if seconds == 0 else "<0.001"
    if seconds >= 100:
        return f"{seconds:,.0f}"
    return f"{seconds:.{min(max(1 - _magnitude(seconds), 1), 3)}f}"


def format_count(count: float) -> str:
    """Return a count with thousands separated, 0 and NaN as a dash."""
    return DASH if math.isnan(count) or count == 0 else f"{int(count):,}"


def format_speed_up(ratio: float) -> str:
    """Return a speed-up as a multiple of the reference's speed."""
    if math.isnan(ratio):
        return DASH
    return f"{ratio:,.0f}×" if ratio >= 10 else f"{ratio:.1f}×" if ratio >= 1 else f"{ratio:.2g}×"


def _magnitude(value: float) -> int:
    """Return the power of ten of the leading digit of a positive number."""
    return math.floor(math.log10(value)) if value > 0 else 0


# -- which fits, which parameters ----------------------------------------------------------------


def all_fits(comparison: Comparison) -> dict[str, Fit]:
    """Return every fit by name, the reference first."""
    fits = comparison.columns
    return {name: fits[name] for name in _reference_first(fits, comparison)}


def heading(name: str, comparison: Comparison) -> str:
    """Return a method's name, marked where its numbers are provisional."""
    fit = all_fits(comparison)[name]
    return f"{name}†" if fit.has_result and fit.status is not Status.OK else name


def order(comparison: Comparison, sites: Sequence[str] | None = None) -> list[str]:
    """Return the sites with the small ones, which are the global parameters, first."""
    fits = all_fits(comparison).values()
    shown = next((fit.sites for fit in fits if fit.sites), ())
    named = [s for s in shown if sites is None or s.name in sites]
    return [site.name for site in sorted(named, key=lambda site: site.size)]


def select(
    comparison: Comparison, limit: int | None = None, sites: Sequence[str] | None = None
) -> tuple[list[str], int]:
    """Return the labels of the parameters to show, and how many are left out.

    Small sites come first, in the model's order among equals; then as much of the rest as fits.
    Every table and every figure shows the parameters that this function picks.

    Parameters
    ----------
    comparison
        Whose parameters.
    limit
        How many at most; ``None`` for all.
    sites
        Only these.
    """
    names = order(comparison, sites)
    fit = next((f for f in all_fits(comparison).values() if f.sites), None)
    labels = fit.labels(names) if fit is not None and names else []
    shown = labels if limit is None else labels[:limit]
    return shown, len(labels) - len(shown)


def block(comparison: Comparison, limit: int) -> list[str]:
    """Return the sites, small ones first, whose joint covariance has at most ``limit`` rows."""
    fit = next((f for f in all_fits(comparison).values() if f.sites), None)
    sizes = {site.name: site.size for site in fit.sites} if fit is not None else {}
    chosen: list[str] = []
    total = 0
    for name in order(comparison):
        total += sizes[name]
        if total > limit:
            break
        chosen.append(name)
    return chosen


# -- tables ----------------------------------------------------------------------------------


def means(
    comparison: Comparison, limit: int | None = None, sites: Sequence[str] | None = None
) -> Table:
    """Return means and sds of every method side by side, a row per parameter.

    Parameters
    ----------
    comparison
        What to show.
    limit
        Rows at most; ``None`` for all. The note says how many are left out.
    sites
        Only these sites.
    """
    labels, left_out = select(comparison, limit, sites)
    mean, spread = _columns(comparison.means()), _columns(comparison.sds())
    mean_error, spread_error = _columns(comparison.mcses()), _columns(comparison.mcses_sd())
    accuracy = _accuracy_by_label(comparison)
    fits = all_fits(comparison)
    points = {name for name, fit in fits.items() if fit.is_point}
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
            own = spread[name][label]
            # a method sure of itself does not earn its mean more digits than the reference's has
            scale = max((sd for sd in (own, reference_sd) if sd > 0), default=math.nan)
            judged = accuracy.get((label, name))
            text = format_value(mean[name][label], mean_error[name][label], scale)
            row.append(Cell(text, judged.mean_flag if judged else ""))
            if name not in points:
                text = format_value(own, spread_error[name][label], own)
                row.append(Cell(text, judged.sd_flag if judged else ""))
        rows.append(row)

    return Table(
        "Means and standard deviations",
        columns,
        rows,
        _sentences(_reading(comparison), _left_out(left_out)),
    )


def accuracy(
    comparison: Comparison, limit: int | None = None, sites: Sequence[str] | None = None
) -> Table:
    """Return every method's distance from the reference, a row per parameter.

    Differences of means are in reference sds; sds are ratios; each stands beside its Monte Carlo
    standard error. There are no rows without a reference.
    """
    judged = _accuracy_by_label(comparison)
    names = [n for n in all_fits(comparison) if any(n == key[1] for key in judged)]
    labels, left_out = select(comparison, limit, sites)
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
            one = judged.get((label, name), _NO_JUDGEMENT)
            row.append(Cell(_plus_minus(one.difference, one.difference_mcse), one.mean_flag))
            if name not in points:
                row.append(Cell(_plus_minus(one.sd_ratio, one.sd_ratio_mcse), one.sd_flag))
        rows.append(row)
    reference = comparison.reference_name
    note = (
        f"Difference: method mean minus {reference} mean, in {reference} sds. Sd ratio: method sd "
        f"over {reference} sd. After ± stands the Monte Carlo standard error"
        if names
        else "No reference to compare with: there is no method to compare, or no reference"
    )
    return Table(
        "Accuracy against the reference",
        columns,
        rows,
        _sentences(note, _flags() if names else "", _left_out(left_out)),
    )


def accuracy_summary(comparison: Comparison) -> Table:
    """Return one row per method: its worst and typical distance from the reference."""
    judged = _accuracy_by_label(comparison)
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
    return Table("Accuracy, method by method", columns, rows, _sentences(note), left=(0, 4))


def timings(comparison: Comparison) -> Table:
    """Return seconds, speed-up and evaluation counts, a row per method."""
    seconds = _columns(comparison.timings())
    formats = {
        "compile_seconds": ("compile\n(s)", format_seconds),
        "run_seconds": ("run\n(s)", format_seconds),
        "total_seconds": ("total\n(s)", format_seconds),
        "speed_up": ("speed-up", format_speed_up),
        "density_evaluations": ("density\nevaluations", format_count),
        "gradient_evaluations": ("gradient\nevaluations", format_count),
        "hvp_evaluations": ("Hessian-vector\nproducts", format_count),
        "ess_per_second": ("effective samples\nper second", format_number),
    }
    rows = []
    for name in _reference_first(comparison.fits, comparison):
        # the reference's own is 1, and a method without a result is fast at nothing
        no_speed_up = name == comparison.reference_name or not comparison[name].has_result
        cells = [
            Cell(DASH if column == "speed_up" and no_speed_up else show(seconds[column][name]))
            for column, (_, show) in formats.items()
        ]
        rows.append([Cell(name), _status(comparison, name), *cells])
    columns = ["method", "status", *(title for title, _ in formats.values())]
    note = (
        "Compile and run are measured apart (what an earlier method of the same model has compiled "
        "is not compiled again); run waits for the device"
    )
    if comparison.reference_name is not None:
        note += f". Speed-up: total seconds of {comparison.reference_name} over the method's"
    return Table("Timings", columns, rows, _sentences(note), left=(0, 1))


def diagnostics(comparison: Comparison) -> Table:
    """Return the convergence measures, a column per method and a row per measure."""
    # what the weights say has a table of its own
    weighed = {k for fit in comparison.fits.values() for k in _numbers(fit)}
    measures = {
        name: values
        for name, values in _columns(comparison.diagnostics()).items()
        if name not in weighed
    }
    words = ("status", "message", "advice", "log_evidence", "log_evidence_se", "log_likelihood")
    names = _reference_first(comparison.fits, comparison)
    rows = [[Cell("status"), *(_status(comparison, name) for name in names)]]
    for measure, by_name in measures.items():
        values = [by_name[name] for name in names]
        if measure not in words and not all(map(math.isnan, values)):
            rows.append([Cell(measure), *(Cell(format_number(v)) for v in values)])
    note = "A dash: the method has no such measure"
    return Table("Diagnostics", ["measure", *names], rows, _sentences(note))


def _numbers(fit: Fit) -> dict[str, float]:
    return fit.assessment.numbers() if fit.assessment is not None else {}


def verdicts(comparison: Comparison) -> Table:
    """Return the verdict on every method in plain words."""
    rows = [
        [Cell(name), _status(comparison, name), Cell(str(found))]
        for name, found in comparison.verdicts().items()
    ]
    return Table("Verdicts", ["method", "status", "verdict"], rows, left=(0, 1, 2))


def evidence(comparison: Comparison) -> Table:
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
    return Table("Log evidence", columns, rows, _sentences(note), left=(0, 1))


def _with_error(value: float, error: float) -> str:
    text = format_value(value, error, 1.0)
    return f"{text} ± {format_number(error, 1)}" if error > 0 else text


def options(comparison: Comparison) -> Table:
    """Return every method's options."""
    rows = [
        [Cell(name), Cell(", ".join(f"{k} = {_option(v)}" for k, v in fit.config.items()) or DASH)]
        for name, fit in all_fits(comparison).items()
    ]
    return Table("Options", ["method", "options"], rows, left=(0, 1))


def provenance(comparison: Comparison) -> Table:
    """Return seed, data fingerprint, device, precision and versions of every fit."""
    rows = []
    for name, fit in all_fits(comparison).items():
        record = fit.provenance
        versions = ", ".join(f"{k} {v}" for k, v in record.versions.items())
        seed = DASH if record.seed is None else str(record.seed)
        rows.append(
            [
                Cell(name),
                *(
                    Cell(text or DASH)
                    for text in (
                        seed,
                        record.data_fingerprint,
                        record.device,
                        record.dtype,
                        versions,
                    )
                ),
            ]
        )
    columns = ["method", "seed", "data fingerprint", "device", "precision", "versions"]
    return Table("Provenance", columns, rows, left=(0, 2, 3, 4, 5))


def from_frame(frame: pd.DataFrame, title: str, note: str) -> Table:
    """Return the columns of any frame; numbers are rounded, columns of words aligned left."""
    import pandas as pd

    words = {name for name in frame if not pd.api.types.is_any_real_numeric_dtype(frame[name])}
    rows = [
        [
            Cell(str(value) if name in words else format_number(float(value)))
            for name, value in zip(frame.columns, values, strict=True)
        ]
        for values in frame.itertuples(index=False, name=None)
    ]
    left = tuple(i for i, name in enumerate(frame.columns) if name in words)
    return Table(title, [str(name) for name in frame.columns], rows, note, left)


# -- parts -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Judgement:
    within_error: bool
    difference: float
    difference_mcse: float
    sd_ratio: float
    sd_ratio_mcse: float

    @property
    def mean_flag(self) -> Flag:
        if self.within_error:
            return "inside"
        return "off" if abs(self.difference) > MEAN_OFF else ""

    @property
    def sd_flag(self) -> Flag:
        if not self.sd_ratio > 0:
            return "off" if self.sd_ratio == 0 else ""
        if abs(self.sd_ratio - 1) <= 2 * self.sd_ratio_mcse:
            return "inside"
        return "off" if max(self.sd_ratio, 1 / self.sd_ratio) > SD_OFF else ""


_NO_JUDGEMENT = _Judgement(False, math.nan, math.nan, math.nan, math.nan)


def _accuracy_by_label(comparison: Comparison) -> dict[tuple[str, str], _Judgement]:
    if comparison.reference is None:
        return {}
    frame = comparison.accuracy()
    fields = ("difference", "difference_mcse", "sd_ratio", "sd_ratio_mcse")
    numbers = frame[list(fields)].to_numpy(float).tolist()
    within = frame["within_error"].to_numpy(bool).tolist()
    return {
        (str(label), str(name)): _Judgement(within_error, *values)
        for (label, name), within_error, values in zip(frame.index, within, numbers, strict=True)
        if name != comparison.reference_name
    }


def _columns(frame: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return column -> row -> number; what is no number is NaN."""
    import pandas as pd

    rows = [str(label) for label in frame.index]
    numbers = frame.apply(pd.to_numeric, errors="coerce")
    return {
        str(name): dict(zip(rows, map(float, column), strict=True))
        for name, column in numbers.items()
    }


def _reference_first(names: Iterable[Any], comparison: Comparison) -> list[str]:
    listed = [str(name) for name in names]
    return sorted(listed, key=lambda name: name != comparison.reference_name)


def _status(comparison: Comparison, name: str) -> Cell:
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


def _flags() -> str:
    return (
        "Marked ~ or grey: inside Monte Carlo error, |difference| at most 2 standard errors. "
        f"Marked * or red: a mean more than {MEAN_OFF} reference sds off, or an sd off by more "
        f"than a factor {SD_OFF}"
    )


def _reading(comparison: Comparison) -> str:
    fits = all_fits(comparison)
    parts = []
    if comparison.reference is not None and len(fits) > 1:
        parts.append(_flags())
    if any(not fit.has_result for fit in fits.values()):
        parts.append(f"{DASH}: the method has no result")
    if any(fit.has_result and fit.status is not Status.OK for fit in fits.values()):
        parts.append("†: stopped before it converged; provisional")
    return ". ".join(parts)


def _left_out(count: int) -> str:
    return f"{count} more parameter(s) not shown" if count else ""


def _sentences(*parts: str) -> str:
    return " ".join(f"{part}." for part in parts if part)
