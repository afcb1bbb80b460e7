"""What is wrong with a design, said with names: rank, separation, groups."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd

from vi_recipes.core import reads_as_number
from vi_recipes.formula.families import Family
from vi_recipes.formula.frame import Response
from vi_recipes.formula.layout import INTERCEPT, Group, Predictor
from vi_recipes.formula.parse import column_as_written
from vi_recipes.formula.priors import Priors
from vi_recipes.formula.separation import NAMED, separated, zeros_separated

DEPENDENT = 1e-9
"""Share of a column's length that the columns before it leave, down to which it is their
combination."""

MOST_TEXT_LEVELS, FEW_WORDS = 10, 0.2
"""Levels up to which a column of text is taken for categories, and the share of words among them
from which it is too."""

GROUPED = re.compile(r"[\s\u202f',%$€£]+")
"""What stands within numbers that are read as text: commas, signs of thousands, units."""

FAR = 10.0
"""Sds of a column from 0 to its mean from which intercepts of groups, which are at 0, are another
thing than what groups differ by where the data are: slopes that differ by a quarter make them 2.5,
the scale of their sd's default prior."""

DATE = re.compile(r"\d{1,4}([-/.])\d{1,2}\1\d{1,4}(?:[ T]\d{1,2}:.*)?")
"""A date as text, with a time or without."""


def check_rank(matrix: np.ndarray, labels: Sequence[str], what: str, which: str = "") -> None:
    """Refuse columns that are combinations of others, in the rows that count (``which``).

    Raises
    ------
    ValueError
        With the column and those that make it.
    """
    if matrix.shape[1] == 0:
        return
    rows, among = (f" {which}", f" in the rows {which}") if which else ("", "")
    lengths = np.linalg.norm(matrix, axis=0)
    if (zero := np.flatnonzero(lengths == 0)).size:
        raise ValueError(
            f"{what}: column {labels[zero[0]]} is zero in every row{rows}, so that its coefficient "
            f"cannot be told; leave it out{' or its rows' if which else ''}"
        )
    scaled = matrix / lengths
    if len(scaled) > scaled.shape[1]:
        scaled = np.linalg.qr(scaled, mode="r")
    for k in range(1, scaled.shape[1]):
        before = np.linalg.lstsq(scaled[:, :k], scaled[:, k], rcond=None)[0]
        left = np.linalg.norm(scaled[:, k] - scaled[:, :k] @ before)
        if left <= DEPENDENT:
            makers = [labels[j] for j in range(k) if abs(before[j]) > NAMED * abs(before).max()]
            raise ValueError(
                f"{what}: column {labels[k]} is a combination of {', '.join(makers)}{among}, so "
                "that their coefficients cannot be told apart; leave one of them out"
            )


def check_predictors(
    predictors: Sequence[Predictor],
    texts: Sequence[str],
    family: Family,
    link: str,
    response: Response,
    priors: Priors,
    weights: np.ndarray | None,
) -> list[str]:
    """Return sentences on what only priors bound, and where they mislead; refuse what nothing does.

    Rows that do not count, of weight 0 or among no trials, are rows that are not there.

    Parameters
    ----------
    predictors, texts
        That of the mean first, one a level of those that have several; and their formulas.
    family, link, response, weights
        What they are predictors of.
    priors
        Those given: where they are flat, nothing is bounded.

    Raises
    ------
    ValueError
        For columns that are combinations of others, and those whose coefficients the likelihood
        pushes away for ever where their prior is flat.
    """
    there, which = counting(response, weights)
    notes = []
    several = predictors if family.of_levels else predictors[:1]
    for predictor, text in zip([*several[:1], *predictors[len(several) :]], texts, strict=True):
        subject, mean = f"formula '{text}'", not predictor.parameter or family.of_levels
        matrix, labels = predictor.design.matrix, predictor.design.labels
        if predictor.design.intercept or (family.is_ordinal and mean):
            matrix = np.column_stack([np.ones(len(matrix)), matrix])
            labels = [INTERCEPT, *labels]
        check_rank(matrix[there], labels, subject, which)
        for term in predictor.terms:
            effects = [f"{effect.label} of {term.group.factor.name}" for effect in term.effects]
            check_rank(predictor.columns_of(term)[there], effects, subject, which)
        rows, says = there, ""
        if family.has_hurdle and mean:  # zeros tell nothing of the mean of the others
            rows = there & (response.y > 0)
            says = _unknown(matrix[rows], labels)
        if family.has_hurdle and predictor.parameter == "zero":
            columns = zeros_separated(matrix[rows], response.y[rows])
        elif mean and not says:
            matrix = matrix[:, 1:] if family.is_ordinal else matrix
            labels = labels[1:] if family.is_ordinal else labels
            columns = separated(matrix[rows], family, link, response.at(rows))
        else:
            columns = []
        of = several if mean else [predictor]
        found = [(of[k // len(labels)], labels[k % len(labels)]) for k in columns]
        found = [one for one in found if one[1] != INTERCEPT] or found
        if found:
            shown = [_called(own, label) for own, label in found]
            says = (
                f"the responses are separated by {', '.join(shown)}: along it the "
                "likelihood rises for ever, so that only the prior bounds its coefficient"
            )
        if says and (priors.flat or any(_is_flat(priors, *one) for one in found)):
            flat = "priors='flat' bounds nothing" if priors.flat else "its prior is flat"
            raise ValueError(
                f"{subject}: {says}, and {flat}; leave the column out, or give its coefficient a "
                "prior"
            )
        notes += [says] if says else []
    return notes + far_columns(predictors, priors, weights)


def _called(predictor: Predictor, label: str) -> str:
    if label == INTERCEPT:
        return predictor.intercept
    return label if predictor.beta == "beta" else f"{predictor.beta}[{label}]"


def _is_flat(priors: Priors, predictor: Predictor, label: str) -> bool:
    site = predictor.intercept if label == INTERCEPT else predictor.beta
    return priors.is_flat(site, "" if label == INTERCEPT else label)


def counting(response: Response, weights: np.ndarray | None) -> tuple[np.ndarray, str]:
    """Return which rows count, and what they are called where some do not."""
    weighted = np.ones(len(response.y), bool) if weights is None else weights > 0
    tried = weighted if response.trials is None else response.trials > 0
    parts = [
        *(["of weight above 0"] if not weighted.all() else []),
        *(["among some trials"] if not tried.all() else []),
    ]
    return weighted & tried, " and ".join(parts)


def _unknown(matrix: np.ndarray, labels: Sequence[str]) -> str:
    """Return a sentence on columns of which the counts above 0 of a hurdle tell nothing."""
    try:
        check_rank(matrix, labels, "counts above 0", "whose count is above 0")
    except ValueError as error:
        return f"{str(error).partition(';')[0]}, and only the prior bounds it"
    return ""


def check_groups(group: Group, times: np.ndarray, *, own_scale: bool) -> None:
    """Refuse a factor whose sd cannot be told.

    Parameters
    ----------
    group
        The grouping factor and its members' rows.
    times
        How often each row counts.
    own_scale
        Whether the family has a scale of its own, which a group a row repeats.

    Raises
    ------
    ValueError
        For one member, and for a group a row beside a scale of rows.
    """
    factor, there = group.factor, np.unique(group.codes[times > 0])
    members, rows = len(there), int(times.sum())
    if members == 1:
        raise ValueError(
            f"group '{factor.name}' has one member ({factor.labels[there[0]]})"
            f"{' in the rows that count' if len(factor.members) > 1 else ''}, expected two or "
            "more: an sd between groups cannot be told from one; leave the term out"
        )
    if own_scale and members >= rows:
        raise ValueError(
            f"group '{factor.name}' has {members} members in {rows} rows: its sd cannot be told "
            "from that of the rows; leave the term out"
        )


def far_columns(
    predictors: Sequence[Predictor], priors: Priors, weights: np.ndarray | None
) -> list[str]:
    """Return a sentence on each column far from 0 that has slopes beside intercepts of groups.

    Parameters
    ----------
    predictors
        Whose group terms are looked at.
    priors
        Those given: correlated intercepts and slopes have a model that knows no zero where the
        prior of their sds is flat, or chosen.
    weights
        How often each row counts.
    """
    said = []
    for predictor in predictors:
        at_zero = {
            term.group.name: (term, effect)
            for term in predictor.terms
            for effect in term.effects
            if effect.column is None
        }
        for term in predictor.terms:
            own, intercept = at_zero.get(term.group.name, (None, None))
            if own is None or intercept is None:
                continue
            together = own is term
            if together and (priors.is_given(own.sd, intercept.label) or priors.flat):
                continue
            for effect, column in zip(term.effects, predictor.columns_of(term).T, strict=True):
                if effect.column is None:
                    continue
                away = abs(np.average(column, weights=weights)) / effect.spread
                if away >= FAR:
                    group = term.group.factor.name
                    what = (
                        "which the default prior of their sd does not foresee"
                        if together
                        else "and are taken to be independent of the slopes there"
                    )
                    said.append(
                        f"column {effect.label} has its mean {away:.3g} sds from 0, where the "
                        f"intercepts of {group} are, {what}; center the column"
                    )
    return said


def odd_text(frame: pd.DataFrame, columns: Sequence[str], text: str) -> list[str]:
    """Return a sentence on each column of text that is hardly meant so.

    Parameters
    ----------
    frame
        The columns that the formulas have.
    columns
        Those of terms, which have a coefficient a level.
    text
        The formulas.
    """
    return [*_numbers_as_text(frame, columns, text), *_told_apart_by_spaces(frame)]


def _numbers_as_text(frame: pd.DataFrame, columns: Sequence[str], text: str) -> list[str]:
    """Return a sentence on each column of text with many levels that are nearly all numbers.

    A file with a word among its numbers is read so, and one of numbers with commas or units, or of
    dates. What the formula calls ``C(column)`` is meant.
    """
    said = []
    for name in columns:
        levels = pd.Series(frame[name].unique())
        if levels.dtype.kind in "biuf" or isinstance(frame[name].dtype, pd.CategoricalDtype):
            continue
        written = column_as_written(str(name))
        if len(levels) <= MOST_TEXT_LEVELS or f"C({written}" in text:
            continue
        levels = levels.astype(str)
        numbers = levels.map(reads_as_number)
        grouped = levels.map(lambda level: reads_as_number(GROUPED.sub("", level)))
        for kind, are, cure in (
            ("numbers", numbers, "numbers"),
            ("numbers with commas, spaces or units", grouped, "numbers without them"),
            ("dates", levels.map(lambda v: bool(DATE.fullmatch(v))), "numbers, such as days,"),
        ):
            words = levels[~are]
            if len(words) < FEW_WORDS * len(levels):
                but = f" but {', '.join(words[:3])}" if len(words) else ""
                said.append(
                    f"column '{name}' is text with {len(levels)} levels, all of them {kind}{but}, "
                    f"and has a coefficient for each but one; make {cure} of it, or write "
                    f"C({written})"
                )
                break
    return said


def _told_apart_by_spaces(frame: pd.DataFrame) -> list[str]:
    """Return a sentence on each column with levels or members that but for spaces are one."""
    said = []
    for name, column in frame.items():
        if column.dtype.kind in "biuf":
            continue
        seen: dict[str, str] = {}
        for level in map(str, column.unique()):
            other = seen.setdefault(" ".join(level.split()), level)
            if other != level:
                said.append(
                    f"column '{name}' has '{other}' and '{level}', which spaces alone tell apart; "
                    "strip them where they are one"
                )
                break
    return said
