"""Marginal effects: what predictions of a formula's fit differ by, averaged over data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
import pandas as pd

from vi_recipes.core import require, unknown
from vi_recipes.fit import Fit, interval_setting
from vi_recipes.formula.frame import as_frame
from vi_recipes.formula.newdata import Groups
from vi_recipes.formula.predict import Kind, predict
from vi_recipes.model import Target
from vi_recipes.posterior import per_scalar

Comparing = Literal["difference", "ratio", "odds_ratio"]

Variables = str | Sequence[str] | Mapping[str, Any]

STEP = 1e-4
"""Of the range of a variable, half of what the slopes are taken over."""

COMPARE: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "difference": lambda high, low: high - low,
    "ratio": lambda high, low: high / low,
    "odds_ratio": lambda high, low: high / (1 - high) / (low / (1 - low)),
}


def comparisons(
    fit: Fit | Mapping[str, Fit],
    target: Target,
    data: Any,
    variables: Variables,
    *,
    kind: Kind = "mean",
    groups: Groups = "known",
    comparison: Comparing = "difference",
    average: bool = True,
    offset: Any = None,
    key: jax.Array | int = 0,
) -> pd.DataFrame:
    """Return what predictions change by as a variable does, others as they are in the data.

    Both predictions are at the same draws. With ``average`` predictions are averaged over the rows
    first, and a ratio is of averages.

    Parameters
    ----------
    fit
        A fit, or a comparison, whose fits all have rows.
    target
        ``Target(glmm(...))``.
    data
        Rows to predict at, such as those that were fitted, or a grid of one's own.
    variables
        Names; or name -> what is compared: two values, or one number, the step. By default a number
        is compared with itself plus 1, and every level of other columns with the first.
    kind, groups, offset, key
        As in :func:`predict`.
    comparison
        ``"difference"``, ``"ratio"``, or ``"odds_ratio"`` of probabilities.
    average
        Whether over the rows, or a row each.

    Returns
    -------
    pandas.DataFrame
        ``method`` where several fits are given; ``term``; ``contrast``; ``row`` without averaging;
        ``level`` of a response that has some; ``estimate``, the posterior mean; ``std_error``, the
        sd; ``conf_low`` and ``conf_high``, the interval that ArviZ is set to; and ``mcse``. A point
        has an estimate alone.

    Raises
    ------
    ValueError
        For a column that is not there, levels the data do not have, and as :func:`predict`.
    """
    require(comparison in COMPARE, "comparison", comparison, "'difference', 'ratio', 'odds_ratio'")
    frame = as_frame(data)
    pairs = [
        (name, label, frame.assign(**{name: low}), frame.assign(**{name: high}))
        for name, chosen in _named(variables, frame).items()
        for label, low, high in _contrasts(name, chosen, frame)
    ]

    def compared(
        one: Fit, _: str, low: pd.DataFrame, high: pd.DataFrame
    ) -> tuple[np.ndarray, Sequence[str]]:
        options: dict[str, Any] = {"offset": offset, "key": key}
        before = predict(one, target, low, kind, groups, **options)
        after = predict(one, target, high, kind, groups, **options)
        high_draws, low_draws = after.draws, before.draws
        if average:
            high_draws, low_draws = (d.mean(axis=2, keepdims=True) for d in (high_draws, low_draws))
        return COMPARE[comparison](high_draws, low_draws), after.levels

    return _table(fit, pairs, compared, average=average)


def slopes(
    fit: Fit | Mapping[str, Fit],
    target: Target,
    data: Any,
    variables: Variables,
    *,
    kind: Kind = "mean",
    groups: Groups = "known",
    average: bool = True,
    offset: Any = None,
    key: jax.Array | int = 0,
) -> pd.DataFrame:
    """Return the slopes of predictions in numeric variables, averaged over the rows of data.

    Central differences over 2e-4 of the variable's range, at the same draws. Parameters and what
    is returned are those of :func:`comparisons`.
    """
    require(kind != "response", "kind", kind, "'mean' or 'linear': a drawn response has no slope")
    frame = as_frame(data)
    pairs, steps = [], {}
    for name in _named(variables, frame):
        values = frame[name]
        if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
            raise ValueError(
                f"variables: '{name}' is no number; comparisons() contrasts its levels"
            )
        spread = float(values.max() - values.min())
        steps[name] = STEP * (spread or max(abs(float(values.iloc[0])), 1.0))
        low, high = values - steps[name], values + steps[name]
        pairs.append((name, "dY/dX", frame.assign(**{name: low}), frame.assign(**{name: high})))

    def slope(
        one: Fit, name: str, low: pd.DataFrame, high: pd.DataFrame
    ) -> tuple[np.ndarray, Sequence[str]]:
        options: dict[str, Any] = {"offset": offset, "key": key}
        before = predict(one, target, low, kind, groups, **options)
        after = predict(one, target, high, kind, groups, **options)
        change = (after.draws - before.draws) / (2 * steps[name])
        return change.mean(axis=2, keepdims=True) if average else change, after.levels

    return _table(fit, pairs, slope, average=average)


def _named(variables: Variables, frame: pd.DataFrame) -> dict[str, Any]:
    """Return name -> what is compared, ``None`` for the default."""
    if isinstance(variables, str):
        chosen: dict[str, Any] = {variables: None}
    elif isinstance(variables, Mapping):
        chosen = dict(variables)
    else:
        chosen = dict.fromkeys(variables)
    for name in chosen:
        if name not in frame:
            raise ValueError(f"variables: {unknown('column', name, map(str, frame.columns))}")
    return chosen


def _contrasts(name: str, chosen: Any, frame: pd.DataFrame) -> list[tuple[str, Any, Any]]:
    """Return the label and the two values of every contrast of a variable."""
    values = frame[name]
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if isinstance(chosen, int | float) and not isinstance(chosen, bool) and numeric:
        return [(f"+{chosen:g}", values, values + chosen)]
    if chosen is None and numeric:
        return [("+1", values, values + 1)]
    if chosen is None:
        categories = getattr(values, "cat", None)
        levels = list(categories.categories if categories is not None else sorted(values.unique()))
        return [(f"{level} - {levels[0]}", levels[0], level) for level in levels[1:]]
    pair = list(chosen) if isinstance(chosen, Sequence) and not isinstance(chosen, str) else []
    if len(pair) != 2:
        raise ValueError(
            f"variables: '{name}': got {chosen!r}, expected two values, or a number to step by"
        )
    return [(f"{pair[1]} - {pair[0]}", pair[0], pair[1])]


def _table(
    fit: Fit | Mapping[str, Fit],
    pairs: Sequence[tuple[str, str, pd.DataFrame, pd.DataFrame]],
    compute: Callable[[Fit, str, pd.DataFrame, pd.DataFrame], tuple[np.ndarray, Sequence[str]]],
    *,
    average: bool,
) -> pd.DataFrame:
    fits = {"": fit} if isinstance(fit, Fit) else dict(fit)
    rows = []
    for method, one in fits.items():
        if not one.has_result and isinstance(fit, Mapping):
            continue
        for term, contrast, low, high in pairs:
            draws, levels = compute(one, term, low, high)
            rows.append(_rows(one, method, term, contrast, draws, levels, average=average))
    table = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()
    return table.drop(columns="method") if isinstance(fit, Fit) else table


def _rows(
    fit: Fit,
    method: str,
    term: str,
    contrast: str,
    draws: np.ndarray,
    levels: Sequence[str],
    *,
    average: bool,
) -> pd.DataFrame:
    """Return the rows of one contrast of one fit; draws are (chain, draw, row[, level])."""
    chains, number, count = draws.shape[:3]
    wide = draws.reshape(chains, number, -1)
    setting, flat = interval_setting(), wide.reshape(chains * number, -1)
    named_by = {"method": method, "term": term, "contrast": contrast}
    table = pd.DataFrame(named_by, index=range(wide.shape[2]))
    each = wide.shape[2] // count
    if not average:
        table["row"] = np.repeat(np.arange(count), each)
    if draws.ndim > 3:
        named = list(levels) if len(levels) == each else [str(k) for k in range(each)]
        table["level"] = named * count
    table["estimate"] = flat.mean(axis=0)
    low, high = setting.ends(flat)
    error = per_scalar("mcse", {"": wide}, method="mean")[""]
    if not fit.is_sampler:
        error = flat.std(axis=0, ddof=1) / np.sqrt(len(flat))
    for name, values in (
        ("std_error", flat.std(axis=0, ddof=1)),
        ("conf_low", low),
        ("conf_high", high),
        ("mcse", error),
    ):
        table[name] = np.nan if fit.is_point else values
    return table
