"""A model's arguments at new data, and whose members its rows are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from vi_recipes.core import closest, enumerated
from vi_recipes.formula.families import family_of
from vi_recipes.formula.frame import as_frame, complete, row_numbers, trials_of
from vi_recipes.formula.glmm import GLMM
from vi_recipes.formula.groups import MISSING
from vi_recipes.formula.layout import Group
from vi_recipes.formula.plain import one_form
from vi_recipes.model import Target

Groups = Literal["known", "new", "population"]


@dataclass(frozen=True)
class NewRows:
    """What a model is given to predict at new rows.

    Parameters
    ----------
    arguments
        Of its function; members that the data did not have come behind those they had.
    extra
        Group -> how many there are of those.
    rows
        Number of rows.
    has_trials
        Whether the rows say among how many trials successes are.
    groups
        Whose members they take.
    """

    arguments: dict[str, Any]
    extra: dict[str, int]
    rows: int
    has_trials: bool
    groups: Groups


def formula_of(target: Target) -> GLMM:
    """Return the model of a target that is by formula.

    Raises
    ------
    ValueError
        For another: how that predicts.
    """
    model = getattr(target, "complete_model", None)
    if not isinstance(model, GLMM):
        raise ValueError(
            "target: expected Target(glmm(...)); other models predict at new data by "
            "posterior_predictive(fit, target.at(**data))"
        )
    return model


def fitted_rows(model: GLMM, offset: Any = None) -> tuple[pd.DataFrame, Any]:
    """Return the rows that a model was made of, without those left out, and their offset.

    The column that it was given by is known by name too, though no formula has it.
    """
    own = model.rows.get("offset=")
    named = isinstance(offset, str) and one_form(offset) == model.offset
    return model.rows, own if offset is None or named else offset


def new_rows(model: GLMM, data: Any, groups: Groups, offset: Any) -> NewRows:
    """Return a model's arguments at new data.

    Raises
    ------
    ValueError
        For a column that is not there, missing values in other columns than those of groups, a
        level that the data did not have, and an offset that is not known.
    """
    full = as_frame(data)
    grouping = {name for group in model.groups for name in group.factor.columns}
    used = sorted({name for predictor in model.predictors for name in columns_of(predictor)})
    _check_there(full, used, "the formula's columns")
    frame = full[list(dict.fromkeys([*used, *(n for n in grouping if n in full)]))]
    if used:
        complete(frame, used, "error", "leave these rows out, or fill them in")
    rows = len(full)
    given = {} if model.data is None else model.data()
    arguments: dict[str, Any] = dict.fromkeys(given, 0)
    y = next(iter(arguments))
    old = np.asarray(given[y])
    arguments[y] = np.zeros((rows, *old.shape[1:]), old.dtype)
    trials = trials_of(model.formulas[0], full)
    if family_of(model.family).takes_trials:
        arguments["trials"] = np.ones(rows, int) if trials is None else trials.astype(int)
    if "weights" in arguments:
        arguments["weights"] = np.ones(rows)
    for predictor in model.predictors:
        matrix, own = predictor.design.at(frame)
        if predictor.matrix:
            arguments[predictor.matrix] = matrix
        if predictor.offset:
            more = None if predictor.parameter else _offset(model, full, offset)
            arguments[predictor.offset] = np.sum([p for p in (own, more) if p is not None], axis=0)
        for name, design in predictor.designs.items():
            arguments[name] = design.at(frame)[0]
    extra = {}
    for group in model.groups:
        codes, extra[group.name] = _members(group, full, groups)
        arguments[group.name] = codes
        arguments[group.size] = len(group.factor.members) + extra[group.name]
    return NewRows(arguments, extra, rows, trials is not None, groups)


def columns_of(predictor: Any) -> set[str]:
    """Return the columns that the terms of a predictor have, but those that are groups alone."""
    designs = [predictor.design, *predictor.designs.values()]
    return {name for design in designs for name in design.columns}


def _check_there(frame: pd.DataFrame, names: Sequence[str], what: str) -> None:
    lost = [name for name in names if name not in frame]
    if lost:
        near = closest(lost[0], frame.columns)
        hint = f"is '{lost[0]}' called '{near}' there? It" if near else "it"
        raise ValueError(
            f"data: it lacks {', '.join(lost)}, of {what}; {hint} has "
            f"{enumerated(list(frame.columns))}"
        )


def _offset(model: GLMM, frame: pd.DataFrame, given: Any) -> np.ndarray | None:
    if model.offset is None:
        return None
    if given is None and not isinstance(model.offset, str):
        raise ValueError(
            "offset: got none, but the model has an offset that is no column; give offset= for the "
            "new rows"
        )
    if given is None and isinstance(model.offset, str):
        _check_there(frame, [model.offset], "the offset")
    if not isinstance(given, str | None) and np.ndim(given) == 0:
        given = np.full(len(frame), given)
    values = row_numbers("offset", model.offset if given is None else given, frame)
    if values is not None and not (finite := np.isfinite(values)).all():
        row = int((~finite).argmax())
        raise ValueError(
            f"data: the offset is {values[row]:g} in row {row + 1}, where a finite number is "
            "expected"
        )
    return values


def _members(group: Group, frame: pd.DataFrame, groups: Groups) -> tuple[np.ndarray, int]:
    """Return the member of every row, and how many there are that the data did not have.

    A row whose member is not known has one of its own.
    """
    known = len(group.factor.members)
    if groups == "population":
        return np.full(len(frame), known), 1
    _check_there(
        frame,
        group.factor.columns,
        f"the group '{group.factor.name}': a missing value in it is a member that is not known, "
        "groups='population' leaves groups out",
    )
    codes, new = group.factor.at(frame)
    if groups == "new":
        missing = codes == MISSING
        _, places = np.unique(codes[~missing], return_inverse=True)
        codes[~missing] = known + places
        new = [str(k) for k in range(int(places.max()) + 1 if len(places) else 0)]
    missing = codes == MISSING
    codes[missing] = known + len(new) + np.arange(missing.sum())
    return codes, len(new) + int(missing.sum())
