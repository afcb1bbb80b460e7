"""What papers publish of a comparison: a row a scalar and method, or methods as columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd

from vi_recipes.comparison.constants import repeated_in
from vi_recipes.comparison.fits import Fits
from vi_recipes.comparison.notes import NoteKind, of_kind
from vi_recipes.comparison.validated import cross_validated
from vi_recipes.comparison.view import heading, numbers
from vi_recipes.core import as_names, attempt
from vi_recipes.fit import Fit, interval_setting, intervals, population, wide_frame
from vi_recipes.model import Site, Target, labels_by_site, weights_of_observations
from vi_recipes.report import DASH, PublishedTable, format_seconds, format_value

MOST_SAID = 5
"""Scalars of which a note says why they have a dash."""

TIDY = (
    "method",
    "term",
    "group",
    "level",
    "estimate",
    "std_error",
    "conf_low",
    "conf_high",
    "mcse",
    "interval",
)


def tidy(
    comparison: Fits,
    sites: Sequence[str] | None = None,
    *,
    members: bool = False,
    conf_level: float | None = None,
) -> pd.DataFrame:
    """Return a row a method and scalar (see :meth:`Comparison.tidy`)."""
    frames, setting = [], interval_setting(conf_level)
    for name, fit in comparison.columns.items():
        if not fit.has_result:
            continue
        chosen = _chosen(fit, sites, members=members)
        labels = fit.labels(chosen)  # refuses sites that are not there
        low, high = intervals(fit, chosen, setting)
        parts = [part for site in fit.sites if site.name in chosen for part in _parts(site, fit)]
        order = {site: k for k, site in enumerate(chosen)}
        parts.sort(key=lambda part: order[part[0]])
        frames.append(
            pd.DataFrame(
                {
                    "method": name,
                    "term": [part[1] for part in parts],
                    "group": [part[2] for part in parts],
                    "level": [part[3] for part in parts],
                    "estimate": comparison.means(chosen)[name].to_numpy(),
                    "std_error": comparison.sds(chosen)[name].to_numpy(),
                    "conf_low": low,
                    "conf_high": high,
                    "mcse": comparison.mcses(chosen)[name].to_numpy(),
                    "interval": np.where(np.isnan(low), "", str(setting)),
                },
                index=labels,
            )
        )
    if not frames:
        return wide_frame(columns=list(TIDY))
    whole = wide_frame(pd.concat(frames))
    whole["mcse"] = whole["mcse"].where(whole["estimate"].notna())
    return whole[~whole.index.isin(_left_out(comparison))].reset_index(drop=True)


def _left_out(comparison: Fits) -> set[str]:
    """Return the labels that tables to publish have no rows of."""
    return {
        *comparison.constants(),
        *(label for fit in comparison.columns.values() for label in repeated_in(fit)),
    }


def publish(
    comparison: Fits,
    sites: Sequence[str] | None = None,
    *,
    target: Target | None = None,
    members: bool = False,
    conf_level: float | None = None,
) -> PublishedTable:
    """Return methods as columns (see :meth:`Comparison.table`)."""
    fits = {name: fit for name, fit in comparison.columns.items() if fit.has_result}
    if not fits:
        raise ValueError("table: no method has a result, so there is nothing to publish")
    first = next(iter(fits.values()))
    chosen = _chosen(first, sites, members=members)
    left_out, setting = _left_out(comparison), interval_setting(conf_level)
    labels = [label for label in first.labels(chosen) if label not in left_out]
    means, sds = numbers(comparison, Fits.centres), numbers(comparison, Fits.spreads)
    errors = numbers(comparison, Fits.mcses)
    intervals_of = {
        name: dict(
            zip(fit.labels(chosen), zip(*intervals(fit, chosen, setting), strict=True), strict=True)
        )
        for name, fit in fits.items()
    }
    body: list[list[str]] = []
    for label in labels:
        rows: list[list[str]] = [[label], [""], [""]]
        for name in fits:
            mean, sd = means[name][label], sds[name][label]
            low, high = intervals_of[name].get(label, (np.nan, np.nan))
            known = np.isfinite(low) and np.isfinite(high)
            # all to the same decimals: those that the sd and the Monte Carlo error leave
            error = errors[name][label]
            rows[0].append(format_value(mean, error, sd) if np.isfinite(mean) else DASH)
            rows[1].append(f"({format_value(sd, error, sd)})" if np.isfinite(sd) else "")
            ends = ", ".join(format_value(end, error, sd) for end in (low, high))
            rows[2].append(f"[{ends}]" if known else "")
        body += [row for row in rows if any(row)]
    lost = [label for label in labels if label in comparison.unsettled]
    # of a formula it says how many rows were left out
    notes = [f"{comparison.description.rstrip('.')}."] if comparison.description else []
    notes.append(f"Posterior means, sds in parentheses, {setting} intervals in brackets.")
    if points := [name for name, fit in fits.items() if fit.is_point]:
        notes.append(f"{', '.join(points)}: a point, without sd or interval.")
    if lost:
        notes.append(
            f"Of {', '.join(lost[:3])}{' and others' if len(lost) > 3 else ''} medians, and half "
            "of what the central 68 % span."
        )
    notes += _unknown(fits, chosen, means)
    failed = [
        f"{name} ({fit.status.value.partition(';')[0]})"
        for name, fit in comparison.columns.items()
        if name not in fits
    ]
    if failed:
        notes.append(f"Without a result: {', '.join(failed)}.")
    titles = [heading(name, comparison) for name in fits]
    if any(title.endswith("†") for title in titles):
        notes.append("†: stopped before it converged; provisional.")
    foot, more = _foot(comparison, fits, first, target)
    return PublishedTable(
        f"{comparison.target_name}: posterior means, sds and {setting} intervals by method",
        [f"mean (sd) [{setting} interval]", *titles],
        body,
        foot,
        " ".join([*notes, *more]),
    )


def _unknown(
    fits: Mapping[str, Fit], chosen: Sequence[str], means: Mapping[str, Mapping[str, float]]
) -> list[str]:
    """Return sentences on the scalars that have a dash: why nothing is known of them."""
    absent: dict[str, list[str]] = {}
    shares: dict[str, float] = {}
    for name, fit in fits.items():
        for site in chosen:
            labels = fit.labels([site])
            lost = [k for k, label in enumerate(labels) if not np.isfinite(means[name][label])]
            if not lost:
                continue
            draws = attempt(partial(fit.__getitem__, site), lambda _: np.zeros((1, 1)))
            bad = ~np.isfinite(draws.reshape(len(draws), -1))
            for k in lost:
                if bad.shape[1] == len(labels) and bad[:, k].any():
                    shares[labels[k]] = max(shares.get(labels[k], 0.0), float(bad[:, k].mean()))
                else:
                    absent.setdefault(labels[k], []).append(name)
    said = [f"{n} is no finite number at {share:.1%} of draws" for n, share in shares.items()]
    said += [f"nothing is known of {label} by {', '.join(n)}" for label, n in absent.items()]
    more = f"; and of {len(said) - MOST_SAID} more" if len(said) > MOST_SAID else ""
    return [f"{DASH}: {'; '.join(said[:MOST_SAID])}{more}."] if said else []


def _chosen(fit: Fit, sites: Sequence[str] | None, *, members: bool) -> list[str]:
    """Return the sites of a table, those of the population first."""
    if sites is not None:
        return as_names("sites", sites)
    first = population(fit.sites)
    return [*first, *(s.name for s in fit.sites if s.name not in first)] if members else first


def _parts(site: Site, fit: Fit) -> list[tuple[str, str, str, str]]:
    """Return the site, term, group and level of each of its scalars."""
    inside = {axis % len(site.shape): name for name, _, axis in site.plates if site.shape}
    own = labels_by_site([site], dict(fit.coords))[site.name]
    if not inside:
        return [(site.name, label, "", "") for label in own]
    group = ":".join(inside[axis] for axis in sorted(inside))
    found = []
    for index in np.ndindex(*site.shape):
        said = [
            str(fit.coords[dim][k]) if dim in fit.coords else str(k)
            for dim, k in zip(site.dims, index, strict=True)
        ]
        level = ":".join(said[axis] for axis in sorted(inside))
        rest = [part for axis, part in enumerate(said) if axis not in inside]
        term = f"{site.name}[{', '.join(rest)}]" if rest else site.name
        found.append((site.name, term, group, level))
    return found


# -- the foot --------------------------------------------------------------------------------


def _foot(
    comparison: Fits, fits: Mapping[str, Fit], first: Fit, target: Target | None
) -> tuple[list[list[str]], list[str]]:
    """Return the rows of the foot, and what is to be said of them."""
    rows, notes = [], []
    if target is not None:
        weights = weights_of_observations(target).values()
        count = f"{sum(float(weight.sum()) for weight in weights):,g}"
        rows.append(["Observations", *([count] * len(fits))])
    if lacking := comparison.rows_left_out:
        rows.append(["Rows left out (missing)", *([f"{lacking:,}"] * len(fits))])
    groups = dict.fromkeys((name, size) for site in first.sites for name, size, _ in site.plates)
    rows += [[f"Groups: {name}", *([f"{size:,}"] * len(fits))] for name, size in groups]
    evidence = _evidence(comparison, fits)
    if any(text != DASH for text in evidence):
        rows.append(["Log evidence", *evidence])
        notes.append("Log evidence: an estimate with its error, or a lower bound (≥).")
        notes += of_kind(comparison.notes, NoteKind.FLAT_PRIORS)
    if target is not None:
        table = cross_validated(comparison, target)
        known = table[["elpd_loo", "se"]].astype(float).T.to_dict()
        elpd = [
            f"{known[n]['elpd_loo']:.1f} ({known[n]['se']:.1f})"
            if np.isfinite(known[n]["elpd_loo"])
            else DASH
            for n in fits
        ]
        if any(text != DASH for text in elpd):
            rows.append(["elpd (loo)", *elpd])
            once = any((weight % 1 != 0).any() for weight in weights)
            notes.append(
                "elpd (loo): expected log predictive density by leave-one-out cross-validation, "
                f"its standard error in parentheses{', each row once' if once else ''}."
            )
    # as in the report: what each takes alone, whatever those before it have compiled
    seconds = comparison.timings()["alone_seconds"]
    taken = [format_seconds(float(seconds[n])) if n in seconds.dropna() else DASH for n in fits]
    rows.append(["Seconds", *taken])
    verdicts = comparison.verdict_of
    said = [verdicts[n].trust.value if n in verdicts else "reference" for n in fits]
    rows.append(["Verdict", *said])
    return rows, notes


def _evidence(comparison: Fits, fits: Mapping[str, Fit]) -> list[str]:
    """Return the best that each fit says of log p(y)."""
    frame = comparison.evidence()
    said = []
    for name in fits:
        own = frame[(frame["method"] == name) & np.isfinite(frame["value"].astype(float))]
        sure = own[own["bound"].isin(["exact", "estimate"])].sort_values("se")
        lower = own[own["bound"] == "lower bound"].sort_values("value")
        if len(sure):
            value, error = float(sure["value"].iloc[0]), float(sure["se"].iloc[0])
            said.append(f"{value:.2f} ± {error:.2f}" if error > 0 else f"{value:.2f}")
        elif len(lower):
            said.append(f"≥ {float(lower['value'].iloc[-1]):.2f}")
        else:
            said.append(DASH)
    return said
