"""A comparison as figures. Each function returns a Matplotlib ``Figure``, or ``None`` for none.

Figures are made without ``pyplot``, so a caller's open figures and style are left alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import Normalize, SymLogNorm, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, SymmetricalLogLocator

from vi_recipes.comparison.tables import (
    MEAN_OFF,
    SD_OFF,
    all_fits,
    block,
    format_number,
    format_seconds,
    heading,
    select,
)
from vi_recipes.report.exhibit import Exhibit
from vi_recipes.report.style import GREY, fit_styles, handle, plain_log_ticks, style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar

    from vi_recipes.comparison.fits import Comparison
    from vi_recipes.fit.fit import Fit

MAX_ROWS = 30
"""Parameters in a forest plot or along one side of a heat map."""

MAX_BLOCK = 200
"""Scalars whose joint covariance is worth computing for a picture."""

MAX_PANELS = 12
"""Panels in a figure of traces."""

FAR_OUT = 3.0
"""Widths of what the others span, beyond which a point would squeeze them: it goes to the edge."""

LEGIBLE = 1 / 25
"""A forest plot's intervals span at least this share of their axis; else they get another."""

WILD = 10.0
"""Reference sds beyond which differences are drawn on a log scale."""

LARGE = 8
"""A site with more scalars has forest panels of its own."""


def draw(comparison: Comparison) -> list[Exhibit]:
    """Return every figure there is something to draw for, in the order of the report."""
    return [
        Exhibit(name=name, title=title, caption=caption, content=figure)
        for name, (function, title, caption) in FIGURES.items()
        if (figure := function(comparison)) is not None
    ]


# -- figures ---------------------------------------------------------------------------------


def forest(comparison: Comparison) -> Figure | None:
    """Draw mean ± 2 sd by parameter, the methods one below the other; points have no bar."""
    fits = _with_result(comparison)
    labels, left_out = select(comparison, MAX_ROWS)
    if not fits or not labels:
        return None
    mean = _finite(comparison.means()).loc[labels, list(fits)].dropna(how="all")
    sd = _finite(comparison.sds()).loc[mean.index, list(fits)]
    if mean.empty:
        return None
    labels = [str(label) for label in mean.index]
    mean, beyond = _points_into_view(mean, sd)
    panels = _panels(mean.to_numpy(float), sd.to_numpy(float), _owners(comparison, labels))
    styles = fit_styles(comparison)
    row_height = 0.095 * len(fits) + 0.11
    heights = [len(rows) * row_height + 0.1 for rows in panels]
    with style():
        size = (7.6, sum(heights) + 0.42 * len(panels) + 0.75)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, rows in zip(grid, panels, strict=True):
            _forest_panel(axes, mean.iloc[rows], sd.iloc[rows], fits, styles)
            for place, row in enumerate(rows):
                for name, value in beyond.get(str(mean.index[row]), {}).items():
                    _say_value(axes, float(mean[name].iloc[row]), place, name, value, list(fits))
        grid[-1].set_xlabel("mean ± 2 sd; a point estimate has no bar")
        _say_left_out(figure, left_out)
        figure.legend(
            handles=[handle(heading(n, comparison), styles[n]) for n in fits],
            loc="outside lower center",
            ncols=min(len(fits), 5),
        )
    return figure


def agreement(comparison: Comparison) -> Figure | None:
    """Draw means against the reference's means and sds against its sds, all parameters."""
    fits = _with_result(comparison)
    reference = comparison.reference_name
    others = [name for name in fits if name != reference]
    if reference not in fits or not others:
        return None
    frames = {"mean": _finite(comparison.means()), "sd": _finite(comparison.sds())}
    styles = fit_styles(comparison)
    with style():
        figure = Figure(figsize=(8.6, 4.6), layout="constrained")
        for axes, (what, frame) in zip(figure.subplots(1, 2), frames.items(), strict=True):
            both = frame[others].notna() & frame[[reference]].notna().to_numpy()
            shown = [name for name in others if both[name].any()]
            if not shown:
                axes.set_axis_off()
                axes.text(
                    0.5,
                    0.5,
                    f"no {what}s to compare",
                    ha="center",
                    transform=axes.transAxes,
                    color=GREY,
                )
                continue
            x = frame[reference].to_numpy(float)
            drawn, beyond = _into_view(x, frame[shown].to_numpy(float))
            for k, name in enumerate(shown):
                _points(axes, x, drawn[:, k], styles[name])
            _square(axes, np.column_stack([x, drawn]))
            if beyond:
                _say_beyond(axes, beyond)
            axes.set(
                xlabel=f"posterior {what}, {reference} (reference)",
                ylabel=f"posterior {what}, method",
                title=f"{what.capitalize()}s",
            )
        figure.legend(
            handles=[handle(heading(n, comparison), styles[n], line=False) for n in others],
            loc="outside lower center",
            ncols=min(len(others), 6),
        )
    return figure


def accuracy(comparison: Comparison) -> Figure | None:
    """Draw every parameter's difference from the reference in its sds, and its ratio of sds."""
    fits = _with_result(comparison)
    reference = comparison.reference_name
    others = [name for name in fits if name != reference]
    if reference not in fits or not others:
        return None
    frame = _finite(comparison.accuracy().drop(columns="within_error"))
    by_name = {str(name): part for name, part in frame.groupby(level=1, sort=False)}
    others = [n for n in others if n in by_name and by_name[n]["difference"].notna().any()]
    if not others:
        return None
    styles = fit_styles(comparison)
    with style():
        size = (8.6, 0.5 * len(others) + 1.3)
        figure = Figure(figsize=size, layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        left.axvspan(-MEAN_OFF, MEAN_OFF, color="#eeeeee", lw=0)
        right.axvspan(1 / SD_OFF, SD_OFF, color="#eeeeee", lw=0)
        for axes, column, centre in ((left, "difference", 0.0), (right, "sd_ratio", 1.0)):
            axes.axvline(centre, color="black", lw=0.8)
            for row, name in enumerate(others):
                x = by_name[name][column].to_numpy(float)
                jitter = _spread(x.size) * 0.32 if x.size > 1 else np.zeros(1)
                _points(axes, x, row + jitter, styles[name])
        ratios = frame.loc[frame.index.isin(others, level=1), "sd_ratio"].to_numpy(float)
        ratios = ratios[np.isfinite(ratios) & (ratios > 0)]
        if ratios.size:
            low, high = min(ratios.min(), 1 / 1.5) / 1.1, max(ratios.max(), 1.5) * 1.1
            right.set_xscale("log")
            right.set_xlim(low, high)
            plain_log_ticks(right.xaxis, low, high)
        else:
            right.text(
                0.5, 0.5, "only points: no sds", ha="center", transform=right.transAxes, color=GREY
            )
        low, high = _symmetric(frame["difference"].to_numpy(float), at_least=1.0)
        left.set_xlim(low, high)
        scale = ""
        if high > WILD:
            left.set_xscale("symlog", linthresh=1.0)
            left.xaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1.0))
            left.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            scale = "; log scale beyond ±1"
        left.set(
            xlabel=f"difference of means ({reference} sds{scale})",
            ylim=(len(others) - 0.4, -0.6),
            yticks=range(len(others)),
            yticklabels=[heading(name, comparison) for name in others],
        )
        right.set_xlabel(f"sd over {reference}'s sd (log scale)")
        for axes in (left, right):
            axes.tick_params(axis="y", length=0)
    return figure


def correlations(comparison: Comparison) -> Figure | None:
    """Draw posterior correlations, a panel per method on one colour scale."""
    return _heat_maps(comparison, "correlation", comparison.correlations)


def covariances(comparison: Comparison) -> Figure | None:
    """Draw posterior covariances, a panel per method on one colour scale."""
    return _heat_maps(comparison, "covariance", comparison.covariances)


def traces(comparison: Comparison) -> Figure | None:
    """Draw what each method followed as it went: ELBO, log-likelihood, log density."""
    found = [
        (name, series) for name, fit in all_fits(comparison).items() for series in _series(fit)
    ][:MAX_PANELS]
    if not found:
        return None
    columns = 2 if len(found) == 4 else min(len(found), 3)
    rows = math.ceil(len(found) / columns)
    styles = fit_styles(comparison)
    with style():
        size = (3.3 * columns + 0.4, 2.5 * rows + 0.2)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, (name, series) in zip(grid, found, strict=False):
            _trace(axes, series, styles[name][0])
            ylabel = _QUANTITIES.get(series.quantity, series.quantity.replace("_", " "))
            axes.set(title=heading(name, comparison), xlabel="iteration", ylabel=ylabel)
        for axes in grid[len(found) :]:
            axes.set_axis_off()
    return figure


def times(comparison: Comparison) -> Figure | None:
    """Draw compile and run seconds as bars on a log scale, the total beside them."""
    fits = {n: f for n, f in all_fits(comparison).items() if f.timing.total_seconds > 0}
    if not fits:
        return None
    names = list(fits)
    colours = {"compile": "#E69F00", "run": "#0072B2"}
    timings = {name: fit.timing for name, fit in fits.items()}
    seconds = {
        "compile": [t.compile_seconds for t in timings.values()],
        "run": [t.run_seconds for t in timings.values()],
    }
    longest = max(t.total_seconds for t in timings.values())
    shortest = min(value for values in seconds.values() for value in values if value > 0)
    # what takes less than 1e-5 of the longest is not worth more of the axis
    low = 10.0 ** math.floor(math.log10(max(shortest, longest / 1e5)))
    with style():
        figure = Figure(figsize=(7.6, 0.55 * len(names) + 1.1), layout="constrained")
        axes = figure.subplots()
        for offset, part in ((-0.19, "compile"), (0.19, "run")):
            for row, value in enumerate(seconds[part]):
                if value > low:
                    axes.barh(row + offset, value - low, 0.36, left=low, color=colours[part])
        for row, timing in enumerate(timings.values()):
            value = timing.total_seconds
            axes.plot([value, value], [row - 0.4, row + 0.4], color="black", lw=1.5)
            axes.text(value, row, f"  {format_seconds(value)} s", va="center", fontsize=8.5)
        axes.set_xscale("log")
        axes.set_xlim(low, longest * 4)
        plain_log_ticks(axes.xaxis, low, longest * 4)
        axes.grid(axis="x", color="#e5e5e5", lw=0.6)
        labels = [n if fits[n].has_result else f"{n} (no result)" for n in names]
        axes.set(
            xlabel="seconds (log scale)",
            yticks=range(len(names)),
            yticklabels=labels,
            ylim=(len(names) - 0.45, -0.55),
        )
        axes.tick_params(axis="y", length=0)
        handles = [
            Line2D([], [], color=colour, lw=6, label=part) for part, colour in colours.items()
        ]
        handles.append(
            Line2D([], [], color="black", lw=0, marker="|", ms=11, mew=1.5, label="total")
        )
        figure.legend(handles=handles, loc="outside upper right", ncols=3)
    return figure


FIGURES: dict[str, tuple[Callable[[Comparison], Figure | None], str, str]] = {
    "forest": (
        forest,
        "Methods side by side",
        (
            "Mean ± 2 sd by parameter; a point estimate has no bar. Parameters whose intervals "
            "would vanish on a shared axis have one of their own."
        ),
    ),
    "agreement": (
        agreement,
        "Against the reference",
        (
            "Means against the reference's means, and sds against the reference's sds, a mark per "
            "parameter and method. On the diagonal they are equal; below it on the right, the "
            "method understates uncertainty. After figures 13 and 14 of Giordano, Broderick and "
            "Jordan (2018), JMLR 19(51)."
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
            "What each method followed as it went, a line per restart. Bands are ± 2 Monte Carlo "
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


# -- forest ----------------------------------------------------------------------------------


def _owners(comparison: Comparison, labels: Sequence[str]) -> list[str]:
    """Return for each label the large site it belongs to; "" for those of small sites."""
    fit = next(f for f in all_fits(comparison).values() if f.sites)
    owner = {
        label: site.name
        for site in fit.sites
        if site.size > LARGE
        for label in fit.labels([site.name])
    }
    return [owner.get(label, "") for label in labels]


def _points_into_view(
    mean: pd.DataFrame, sd: pd.DataFrame
) -> tuple[pd.DataFrame, dict[str, dict[str, float]]]:
    """Move points without an sd that lie far from all intervals near them; return their values."""
    low = (mean - 2 * sd).min(axis=1)
    high = (mean + 2 * sd).max(axis=1)
    room = FAR_OUT * (high - low)
    moved, beyond = mean.copy(), dict[str, dict[str, float]]()
    for name in mean.columns:
        far = sd[name].isna() & ((mean[name] > high + room) | (mean[name] < low - room))
        edge = np.where(mean[name] > high, high + 0.1 * (high - low), low - 0.1 * (high - low))
        moved[name] = mean[name].where(~far, edge)
        for label in mean.index[far]:
            beyond.setdefault(str(label), {})[name] = float(mean.loc[label, name])
    return moved, beyond


def _say_value(
    axes: Axes, x: float, row: int, name: str, value: float, names: Sequence[str]
) -> None:
    """Write the value of a point that is far outside beside where it is drawn."""
    offsets = np.linspace(-0.34, 0.34, len(names)) if len(names) > 1 else np.zeros(1)
    axes.annotate(
        f"{value:.4g}, far outside",
        (x, row + offsets[list(names).index(name)]),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        color=GREY,
        fontsize=7,
        annotation_clip=False,
    )


def _panels(mean: np.ndarray, sd: np.ndarray, owners: Sequence[str]) -> list[list[int]]:
    """Group rows of one owner so that on each group's axis every interval is wide enough to see."""
    spread = 2 * np.nan_to_num(sd)
    lows = np.nanmin(np.where(np.isnan(mean), np.inf, mean - spread), axis=1)
    highs = np.nanmax(np.where(np.isnan(mean), -np.inf, mean + spread), axis=1)
    widths = highs - lows
    panels: list[list[int]] = []
    for row in range(len(mean)):
        for panel in panels:
            if owners[panel[0]] != owners[row]:
                continue
            rows = [*panel, row]
            span = highs[rows].max() - lows[rows].min()
            if not np.isfinite(span) or widths[rows].min() >= LEGIBLE * span:
                panel.append(row)
                break
        else:
            panels.append([row])
    return panels


def _forest_panel(
    axes: Axes,
    mean: pd.DataFrame,
    sd: pd.DataFrame,
    fits: Mapping[str, Fit],
    styles: Mapping[str, tuple[str, str]],
) -> None:
    offsets = np.linspace(-0.34, 0.34, len(fits)) if len(fits) > 1 else np.zeros(1)
    rows = np.arange(len(mean))
    for row in rows[::2]:
        axes.axhspan(row - 0.5, row + 0.5, color="#f4f4f4", lw=0)
    for offset, name in zip(offsets, fits, strict=True):
        colour, marker = styles[name]
        x, s = mean[name].to_numpy(float), sd[name].to_numpy(float)
        axes.hlines(rows + offset, x - 2 * s, x + 2 * s, color=colour, lw=1.3)
        point = np.isnan(s)
        axes.plot(x[~point], (rows + offset)[~point], marker, color=colour, ms=3.6)
        axes.plot(x[point], (rows + offset)[point], marker, color=colour, ms=5, mfc="white")
    axes.set(
        ylim=(len(mean) - 0.5, -0.5),
        yticks=rows,
        yticklabels=[_shorten(str(label), 26) for label in mean.index],
    )
    axes.tick_params(axis="y", length=0, labelsize=8.5)
    axes.xaxis.set_major_locator(MaxNLocator(7))


# -- scatter ---------------------------------------------------------------------------------


def _points(axes: Axes, x: np.ndarray, y: np.ndarray, style: tuple[str, str]) -> None:
    colour, marker = style
    many = x.size > 300
    axes.plot(
        x,
        y,
        marker,
        color=colour,
        ms=3 if many else 4.5,
        mfc="none",
        mew=0.8,
        alpha=0.5 if many else 0.75,
        rasterized=x.size > 1_000,
    )


def _into_view(x: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, int]:
    """Move values very far from the reference's to the edge of the frame, and count them."""
    low, high = np.nanmin(x), np.nanmax(x)
    room = FAR_OUT * max(high - low, 1e-12)
    # positive values may get a log axis, which has room for small ones
    outside = (values > high + room) | ((low <= 0) & (values < low - room))
    kept = values[~outside & np.isfinite(values)]
    low, high = np.min([low, *kept]), np.max([high, *kept])
    return np.where(outside, np.clip(values, low, high), values), int(outside.sum())


def _say_beyond(axes: Axes, count: int) -> None:
    axes.text(
        0.98,
        0.02,
        f"{count} far outside, at the edge",
        ha="right",
        transform=axes.transAxes,
        color=GREY,
        fontsize=7.5,
    )


def _square(axes: Axes, values: np.ndarray) -> None:
    """Give both axes the same limits and scale, and draw the diagonal."""
    values = values[np.isfinite(values)]
    low, high = float(values.min()), float(values.max())
    if low > 0 and high / low > 30:
        axes.set(xscale="log", yscale="log")
        low, high = low / 1.3, high * 1.3
        plain_log_ticks(axes.xaxis, low, high)
        plain_log_ticks(axes.yaxis, low, high)
    else:
        pad = 0.05 * (high - low) or 0.1 * abs(high) or 1.0
        low, high = low - pad, high + pad
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.plot([low, high], [low, high], color="black", lw=0.8, zorder=0)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")


def _symmetric(values: np.ndarray, at_least: float) -> tuple[float, float]:
    values = np.abs(values[np.isfinite(values)])
    limit = 1.08 * max(at_least, float(values.max(initial=0.0)))
    return -limit, limit


def _spread(size: int) -> np.ndarray:
    """Return numbers spread evenly over (-1, 1) whatever the order: the golden-ratio sequence."""
    return 2 * ((np.arange(size) * 0.6180339887) % 1) - 1


# -- heat maps -------------------------------------------------------------------------------


def _heat_maps(
    comparison: Comparison,
    what: str,
    matrices: Callable[[Sequence[str]], Mapping[str, pd.DataFrame]],
) -> Figure | None:
    sites = block(comparison, MAX_BLOCK)
    labels, left_out = select(comparison, MAX_ROWS)
    if not sites or len(labels) < 2:
        return None
    known = {str(n): m for n, m in matrices(sites).items()}
    inside = set().union(*(m.columns for m in known.values()))
    left_out += sum(label not in inside for label in labels)
    labels = [label for label in labels if label in inside]
    known = {n: m.reindex(index=labels, columns=labels) for n, m in known.items()}
    panels = {n: known[n].to_numpy(float) for n in all_fits(comparison) if n in known}
    panels = {n: m for n, m in panels.items() if np.isfinite(m).any()}
    if not panels:
        return None
    norm = _norm(np.concatenate([m.ravel() for m in panels.values()]), what)
    columns = min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    side = 1.5 + 0.062 * len(labels)
    size = (side * columns + 1.7, side * rows + 1.3)
    with style():
        figure = Figure(figsize=size, layout="compressed")
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        short = [_shorten(label, 24 if len(labels) <= 15 else 18) for label in labels]
        image = None
        for axes, (name, matrix) in zip(grid.ravel(), panels.items(), strict=False):
            image = axes.imshow(matrix, cmap="RdBu_r", norm=norm, interpolation="nearest")
            axes.set_title(heading(name, comparison))
            axes.set_xticks(range(len(labels)), short, rotation=90)
            axes.set_yticks(range(len(labels)), short)
            axes.tick_params(length=0, labelsize=6.5 if len(labels) > 15 else 8)
            axes.spines[:].set_visible(False)
        for axes in grid.ravel()[len(panels) :]:
            axes.set_axis_off()
        if image is not None:
            bar = figure.colorbar(image, ax=grid, shrink=0.7, pad=0.02, label=f"posterior {what}")
            if isinstance(norm, SymLogNorm):
                _symmetric_ticks(bar, norm)
        _say_left_out(figure, left_out)
    return figure


def _norm(values: np.ndarray, what: str) -> Normalize:
    """Return the colour scale: linear for correlations and covariances of one size, else log."""
    if what == "correlation":
        return TwoSlopeNorm(0.0, -1.0, 1.0)
    sizes = np.abs(values[np.isfinite(values)])
    largest = float(sizes.max(initial=0.0)) or 1.0
    typical = float(np.median(sizes[sizes > 0])) if (sizes > 0).any() else largest
    if largest / typical < 30:
        return TwoSlopeNorm(0.0, -largest, largest)
    # the linear part ends three decades down, so that noise around zero stays pale
    return SymLogNorm(max(typical, largest / 1e4), vmin=-largest, vmax=largest)


def _symmetric_ticks(bar: Colorbar, norm: SymLogNorm) -> None:
    """Label zero and a few decades either side; the default crowds zero."""
    last = math.floor(math.log10(float(norm.vmax or 1.0)))
    first = math.floor(math.log10(norm.linthresh)) + 1
    step = max(1, math.ceil((last - first + 1) / 4))
    decades = [10.0**k for k in range(last, first - 1, -step)]
    ticks = [*(-t for t in decades), 0.0, *reversed(decades)]
    bar.set_ticks(
        ticks, labels=[f"{t:g}".replace("-", "−", 1) if t < 0 else f"{t:g}" for t in ticks]
    )
    bar.minorticks_off()


# -- traces ----------------------------------------------------------------------------------

_QUANTITIES = {
    "elbo": "ELBO",
    "renyi_bound": "Renyi bound",
    "iwae_bound": "importance-weighted bound",
    "log_likelihood": "log-likelihood",
    "log_density": "log density",
    "loss": "loss",
}


@dataclass(frozen=True)
class _Series:
    """One trace: a row of ``y`` per restart, and the Monte Carlo error of each value, if any."""

    quantity: str
    x: np.ndarray
    y: np.ndarray
    se: np.ndarray | None

    @property
    def stochastic(self) -> bool:
        """Whether the values are noisy estimates: so many values are no deterministic ascent."""
        return self.se is not None or (len(self.y) == 1 and self.y.shape[1] >= 200)


def _series(fit: Fit) -> Iterator[_Series]:
    for quantity, values in fit.trace.items():
        if quantity.endswith(("_step", "_se")):
            continue
        y = np.atleast_2d(np.asarray(values, float))
        y = np.where(np.isfinite(y), y, np.nan)
        steps = np.asarray(fit.trace.get(f"{quantity}_step", np.arange(y.shape[1])), float)
        error = fit.trace.get(f"{quantity}_se")
        if np.isfinite(y).sum() > 1:
            x = np.broadcast_to(steps, y.shape)
            yield _Series(quantity, x, y, None if error is None else np.asarray(error, float))


def _trace(axes: Axes, series: _Series, colour: str) -> None:
    noisy = series.stochastic and series.y.shape[1] >= 100
    alpha = 0.25 if noisy else max(0.35, 1 / math.sqrt(len(series.y)))
    for x, y in zip(series.x, series.y, strict=True):
        axes.plot(
            x, y, color=colour, lw=0.5 if noisy else 1.1, alpha=alpha, rasterized=y.size > 2_000
        )
    if noisy:
        axes.plot(*_smooth(series.x[0], series.y[0]), color=colour, lw=1.6)
    if series.se is not None:
        x, y, margin = series.x[0], series.y[0], 2 * series.se
        axes.fill_between(x, y - margin, y + margin, color=colour, alpha=0.15, lw=0)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    if series.stochastic:
        _skip_bad_start(axes, series)
    else:
        _skip_flat_end(axes, series)


def _skip_bad_start(axes: Axes, series: _Series) -> None:
    """Fit the axis to the later part: a start orders of magnitude below it would flatten that."""
    y = series.y[0]
    margin = np.zeros_like(y) if series.se is None else 2 * series.se
    later = slice(y.size // 5, None)
    if not np.isfinite(y[later]).any():
        return
    low = np.nanquantile((y - margin)[later], 0.01)
    high = np.nanmax((y + margin)[later])
    if np.nanmax(y) - np.nanmin(y) <= 3 * (high - low):
        return
    pad = 0.1 * (high - low) or 1e-3 * abs(high) or 1.0
    axes.set_ylim(low - pad, high + pad)
    start = format_number(float(y[np.isfinite(y)][0]))
    axes.text(
        0.98,
        0.04,
        f"starts at {start}",
        ha="right",
        transform=axes.transAxes,
        fontsize=8,
        color=GREY,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5},
    )


def _skip_flat_end(axes: Axes, series: _Series) -> None:
    """End the axis shortly after every run has stopped moving."""
    last = np.array(
        [run[np.isfinite(run)][-1] if np.isfinite(run).any() else np.nan for run in series.y]
    )
    span = np.nanmax(series.y) - np.nanmin(series.y)
    moving = (np.abs(series.y - last[:, None]) > 1e-3 * span).any(axis=0)
    end = int(np.flatnonzero(moving)[-1]) + 4 if moving.any() else 0
    if 4 <= end < series.y.shape[1] - 1:
        left, right = float(series.x[0, 0]), float(series.x[0, end])
        axes.set_xlim(left - 0.04 * (right - left), right)


def _smooth(x: np.ndarray, y: np.ndarray, blocks: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Return medians over blocks of iterations."""
    size = len(y) // blocks or 1
    stop = size * (len(y) // size)
    shape = (-1, size)
    return np.median(x[:stop].reshape(shape), axis=1), np.median(y[:stop].reshape(shape), axis=1)


# -- parts -----------------------------------------------------------------------------------


def _with_result(comparison: Comparison) -> dict[str, Fit]:
    return {name: fit for name, fit in all_fits(comparison).items() if fit.has_result}


def _finite(frame: pd.DataFrame) -> pd.DataFrame:
    """Return ``frame`` as floats with infinities as NaN, which is what can be drawn."""
    numbers = frame.astype(float)
    return numbers.where(np.isfinite(numbers))


def _say_left_out(figure: Figure, count: int) -> None:
    if count:
        figure.suptitle(f"{count} more parameter(s) not drawn", fontsize=8.5, color=GREY)


def _shorten(label: str, length: int) -> str:
    """Return a label of at most ``length``, cutting its coordinates before its site's name."""
    site, bracket, inside = label.partition("[")
    parts = inside.removesuffix("]").split(", ")
    for width in range(max(map(len, parts)) if bracket else 0, 2, -1):
        cut = (part if len(part) <= width else part[: width - 1].rstrip() + "." for part in parts)
        shorter = f"{site}[{', '.join(cut)}]"
        if len(shorter) <= length:
            return shorter
    if len(label) <= length:
        return label
    return f"{label[: (length - 1) // 2]}…{label[-(length // 2) :]}"  # the index is at the end
