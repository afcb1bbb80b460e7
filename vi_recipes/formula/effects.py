"""Marginal effects: what predictions of a formula's fit differ by, averaged over data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Real
from typing import Any, Literal

import jax
import numpy as np
import pandas as pd

from vi_recipes.core import as_names, check_arguments, require, unknown
from vi_recipes.fit import Fit, IntervalSetting, interval_setting, wide_frame
from vi_recipes.formula.designs import levels_alone
from vi_recipes.formula.families import PROBABILITY, family_of
from vi_recipes.formula.frame import as_frame
from vi_recipes.formula.glmm import GLMM
from vi_recipes.formula.newdata import Groups, columns_of, fitted_rows, formula_of
from vi_recipes.formula.parse import tokens_of
from vi_recipes.formula.plain import one_form
from vi_recipes.formula.predict import Prediction, PredictionKind, predict
from vi_recipes.model import Model, Target, as_target
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


@check_arguments("fit")
def comparisons(
    fit: Fit | Mapping[str, Fit],
    target: Target | Model,
    data: Any = None,
    variables: Variables | None = None,
    *,
    kind: PredictionKind = "mean",
    groups: Groups = "known",
    comparison: Comparing = "difference",
    average: bool = True,
    conf_level: float | None = None,
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
        ``glmm(...)``, or the target made of it.
    data
        Rows to predict at, such as a grid of one's own; ``None`` for those that were fitted.
    variables
        Names; or name -> what is compared: two values, or one number, the step. By default a number
        is compared with itself plus 1, where the data have others than 0 and 1, of which 1 is
        compared with 0, and every level with the first, of what the formula takes
        for levels: text, ``C(x)``, the members of groups. ``Treatment("b")`` makes ``b`` the first.
        Where none are named, all columns of the terms, but those that are groups alone.
    kind, groups, offset, key
        As in :func:`predict`.
    comparison
        ``"difference"``, ``"ratio"``, or ``"odds_ratio"``, of probabilities alone.
    average
        Whether over the rows, or a row each.
    conf_level
        Of the intervals; by default what ArviZ is set to.

    Returns
    -------
    pandas.DataFrame
        ``method`` where several fits are given; ``term``; ``contrast``; ``row``, as the index of
        the data has it, without averaging; ``level`` of a response that has some; ``estimate``, the
        posterior mean; ``std_error``, the sd; ``conf_low`` and ``conf_high``, the ends of the
        interval; ``mcse``; and ``interval``, its level and kind. A point has an estimate alone.

    Raises
    ------
    ValueError
        For a column that is not there, or in no term, levels the data do not have, odds of what
        are no probabilities, and as :func:`predict`.
    """
    require(comparison in COMPARE, "comparison", comparison, "'difference', 'ratio', 'odds_ratio'")
    target, setting = as_target(target), interval_setting(conf_level)
    model = formula_of(target)
    frame, offset = _rows_asked(model, data, offset)
    if comparison == "odds_ratio":
        _check_odds(model, kind)
    levels, contrasts = levels_in(model), []
    for name, chosen in _named(variables, frame, model, kind).items():
        if chosen is None and name not in levels and _is_indicator(model.rows.get(name)):
            chosen = (0, 1)  # one more than 1 is nobody's
        low, highs = _contrasts(name, chosen, frame, levels.get(name))
        changed = [(label, frame.assign(**{name: high})) for label, high in highs]
        contrasts.append((name, frame.assign(**{name: low}), changed))

    def change(_: str, high: np.ndarray, low: np.ndarray) -> np.ndarray:
        if average:
            high, low = (draws.mean(axis=2, keepdims=True) for draws in (high, low))
        return COMPARE[comparison](high, low)

    predicted = partial(predict, target=target, kind=kind, groups=groups, offset=offset, key=key)
    return _table(fit, contrasts, predicted, change, setting, average=average)


@check_arguments("fit")
def slopes(
    fit: Fit | Mapping[str, Fit],
    target: Target | Model,
    data: Any = None,
    variables: Variables | None = None,
    *,
    kind: PredictionKind = "mean",
    groups: Groups = "known",
    average: bool = True,
    conf_level: float | None = None,
    offset: Any = None,
    key: jax.Array | int = 0,
) -> pd.DataFrame:
    """Return the slopes of predictions in numeric variables, averaged over the rows of data.

    Central differences over 2e-4 of the variable's range, at the same draws. Parameters and what
    is returned are those of :func:`comparisons`; where none are named, all variables that have a
    slope.

    Raises
    ------
    ValueError
        For what :func:`comparisons` refuses, for variables that are levels, and for
        ``kind="response"``: what is drawn has no slope.
    """
    require(kind != "response", "kind", kind, "'mean' or 'linear': a drawn response has no slope")
    target, setting = as_target(target), interval_setting(conf_level)
    model = formula_of(target)
    frame, offset = _rows_asked(model, data, offset)
    levels, contrasts, steps = levels_in(model), [], {}
    named = _named(variables, frame, model, kind)
    if variables is None:
        named = {n: v for n, v in named.items() if _is_number(frame[n]) and n not in levels}
        if not named:
            raise ValueError("variables: all are levels; comparisons() contrasts levels")
    for name in named:
        values = frame[name]
        if not _is_number(values) or name in levels:
            raise ValueError(
                f"variables: '{name}' has levels and no slope; comparisons() contrasts its levels"
            )
        spread = float(values.max() - values.min())
        steps[name] = STEP * (spread or max(abs(float(values.iloc[0])), 1.0))
        low, high = (frame.assign(**{name: values + k * steps[name]}) for k in (-1, 1))
        contrasts.append((name, low, [("dY/dX", high)]))

    def change(name: str, high: np.ndarray, low: np.ndarray) -> np.ndarray:
        slope = (high - low) / (2 * steps[name])
        return slope.mean(axis=2, keepdims=True) if average else slope

    predicted = partial(predict, target=target, kind=kind, groups=groups, offset=offset, key=key)
    return _table(fit, contrasts, predicted, change, setting, average=average)


def _rows_asked(model: GLMM, data: Any, offset: Any) -> tuple[pd.DataFrame, Any]:
    """Return data as a frame, or the rows that were fitted, and their offset.

    A frame that was given keeps what its rows are called.
    """
    if data is None:
        data, offset = fitted_rows(model, offset)
    frame = as_frame(data)
    return frame.set_axis(data.index) if isinstance(data, pd.DataFrame) else frame, offset


def levels_in(model: GLMM) -> dict[str, Sequence[Any]]:
    """Return column -> its levels, the first first, of what a formula takes for levels alone."""
    found: dict[str, Sequence[Any] | None] = {}
    for group in model.groups:
        found |= dict(zip(group.factor.columns, group.factor.levels, strict=True))
    uses = [d.uses for p in model.predictors for d in p.all_designs]
    return levels_alone([found, *uses])


def _check_odds(model: GLMM, kind: PredictionKind) -> None:
    family = family_of(model.family)
    chances = model.link in PROBABILITY or family.is_ordinal or family.of_levels
    if kind != "mean" or not chances:
        what = f"kind {kind!r}" if chances else f"family '{model.family}'"
        raise ValueError(f"comparison: 'odds_ratio' is of probabilities, which {what} has none of")


def _named(
    variables: Variables | None, frame: pd.DataFrame, model: GLMM, kind: PredictionKind
) -> dict[str, Any]:
    """Return name -> what is compared, ``None`` for the default."""
    if variables is None:
        own = {name for predictor in model.predictors for name in columns_of(predictor)}
        chosen: dict[str, Any] = dict.fromkeys(name for name in frame if name in own)
    elif isinstance(variables, str):
        chosen = {variables: None}
    elif isinstance(variables, Mapping):
        chosen = dict(variables)
    else:
        chosen = dict.fromkeys(as_names("variables", variables))
    chosen = {one_form(str(name)): value for name, value in chosen.items()}
    if not chosen:
        raise ValueError("variables: got none, expected the names of some columns")
    sides = [text.partition("~") for text in model.formulas]
    used = {token.named for _, _, terms in sides for token in tokens_of(terms)}
    used |= {model.offset} if isinstance(model.offset, str) else set()
    if kind == "response" and family_of(model.family).takes_trials:
        used |= {token.named for token in tokens_of(sides[0][0])}  # among them the trials
    for name in chosen:
        if name not in frame:
            raise ValueError(f"variables: {unknown('column', name, map(str, frame.columns))}")
        if name not in used:
            raise ValueError(f"variables: '{name}' is in no term, so that nothing changes with it")
    return chosen


def _is_number(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def _is_indicator(values: pd.Series | None) -> bool:
    return values is not None and _is_number(values) and bool(values.isin((0, 1)).all())


def _is_step(chosen: Any) -> bool:
    return isinstance(chosen, Real) and not isinstance(chosen, bool)


def _contrasts(
    name: str, chosen: Any, frame: pd.DataFrame, levels: Sequence[Any] | None
) -> tuple[Any, list[tuple[str, Any]]]:
    """Return the value that contrasts of a variable are with, and their labels and values."""
    values = frame[name]
    numeric = levels is None and _is_number(values)
    if numeric and (chosen is None or _is_step(chosen)):
        step = 1 if chosen is None else chosen
        if step == 0 or not np.isfinite(float(step)):
            raise ValueError(
                f"variables: '{name}': got a step of {step}, expected one that is not 0"
            )
        return values, [(f"{step:+g}", values + step)]
    if chosen is None:
        first, *rest = sorted(values.unique()) if levels is None else levels
        return first, [(_against(level, first), level) for level in rest]
    several = isinstance(chosen, Sequence | np.ndarray | pd.Series) and not isinstance(chosen, str)
    pair = list(chosen) if several else []
    if len(pair) != 2:
        raise ValueError(
            f"variables: '{name}': got {chosen!r}, expected two values"
            + (", or a number to step by" if numeric else "")
        )
    return pair[0], [(_against(pair[1], pair[0]), pair[1])]


def _against(high: Any, low: Any) -> str:
    """Return what a contrast of two values is called."""
    over, under = (f"{v:g}" if _is_step(v) else str(v) for v in (high, low))
    return f"{over} - ({under})" if under.startswith("-") else f"{over} - {under}"


def _table(
    fit: Fit | Mapping[str, Fit],
    contrasts: Sequence[tuple[str, pd.DataFrame, Sequence[tuple[str, pd.DataFrame]]]],
    predicted: Callable[..., Prediction],
    change: Callable[[str, np.ndarray, np.ndarray], np.ndarray],
    setting: IntervalSetting,
    *,
    average: bool,
) -> pd.DataFrame:
    """Return the rows of every fit.

    Parameters
    ----------
    contrasts
        A variable, the data that its contrasts are with, and their labels and data.
    predicted
        Predicts of a fit at data; what several contrasts are with is predicted once.
    change
        Makes what is reported of a variable, its draws at the changed data and at the others.
    setting
        Of the intervals.
    """
    fits = {"": fit} if isinstance(fit, Fit) else dict(fit)
    if not any(one.has_result for one in fits.values()) and not isinstance(fit, Fit):
        raise ValueError(
            f"fit: no method of the comparison has a result ({', '.join(fits) or 'it has none'}); "
            "its verdicts say why"
        )
    rows = []
    for method, one in fits.items():
        if not one.has_result and isinstance(fit, Mapping):
            continue
        for term, low, highs in contrasts:
            before = predicted(one, data=low)
            for label, high in highs:
                after = predicted(one, data=high)
                draws = change(term, after.draws, before.draws)
                rows.append(_rows(one, method, term, label, draws, after, setting, average=average))
    table = pd.concat(rows, ignore_index=True) if rows else pd.DataFrame()
    return wide_frame(table.drop(columns="method") if isinstance(fit, Fit) else table)


def _rows(
    fit: Fit,
    method: str,
    term: str,
    contrast: str,
    draws: np.ndarray,
    predicted: Prediction,
    setting: IntervalSetting,
    *,
    average: bool,
) -> pd.DataFrame:
    """Return the rows of one contrast of one fit; draws are (chain, draw, row[, level])."""
    chains, number, count = draws.shape[:3]
    wide = draws.reshape(chains, number, -1)
    flat = wide.reshape(chains * number, -1)
    named_by = {"method": method, "term": term, "contrast": contrast}
    table = pd.DataFrame(named_by, index=range(wide.shape[2]))
    each = wide.shape[2] // count
    if not average:
        rows = pd.RangeIndex(count) if predicted.rows is None else predicted.rows
        table["row"] = rows.repeat(each)
    if draws.ndim > 3:
        levels = predicted.levels
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
    table["interval"] = "" if fit.is_point else str(setting)
    return table
