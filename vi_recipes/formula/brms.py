"""What the R package brms calls the parameters of a formula's model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vi_recipes.formula.layout import INTERCEPT, Group, Predictor, TermEffects

SIGNS = str.maketrans(
    {
        **dict.fromkeys(" ()[],\"'?", ""),
        **{"+": "P", "-": "M", "*": "MU", "/": "D", "^": "E", "=": "EQ", "$": "USD"},
    }
)
"""What brms makes of signs in the names of coefficients."""

OWN = {"zero": ("zi", "hu"), "cut": ("b_Intercept",)}
"""Parameters of families that it calls otherwise."""

BASIS = re.compile(r"(poly\([^()]*\))\[(\d+)\]")
"""The label of a column of polynomials, which count from 1 there."""


def names_in_brms(
    predictors: Sequence[Predictor],
    coords: Mapping[str, Any],
    own: Sequence[str],
    *,
    of_levels: bool = False,
) -> dict[str, str]:
    """Return name of a column of brms's draws -> our site or scalar.

    Correlations of three effects or more are :func:`correlations_in_brms`.

    Parameters
    ----------
    predictors
        Of the mean and of other parameters.
    coords
        Labels of the groups' members.
    own
        The family's own parameters.
    of_levels
        Whether the predictors are of levels, which have means of their own there.
    """
    names: dict[str, str] = {}
    for name in own:
        names |= dict.fromkeys(OWN.get(name, (name,)), name)
    for predictor in predictors:
        for part in _parts(predictor, of_levels=of_levels):
            names |= _coefficients(predictor, part)
            for term in predictor.terms:
                for labels in {_labels(term), _labels(term, predictor)}:
                    names |= _effects(term, labels, part, coords)
    return names


def correlations_in_brms(
    predictors: Sequence[Predictor], *, of_levels: bool = False
) -> dict[str, dict[tuple[int, int], str]]:
    """Return site of correlations -> (row, column) -> brms's name of that correlation."""
    return {
        term.correlation: {
            (j, i): f"cor_{term.group.factor.name}__{called[i]}__{called[j]}"
            for j in range(len(called))
            for i in range(j)
        }
        for predictor in predictors
        for term in predictor.terms
        for part in _parts(predictor, of_levels=of_levels)[:1]
        if len(called := _called_all(_labels(term, predictor), part)) > 2
    }


def _parts(predictor: Predictor, *, of_levels: bool) -> list[str]:
    """Return what names of a predictor's parameters may begin with."""
    own = predictor.parameter
    parts = (f"mu{own}",) if of_levels else OWN.get(own, (own,))
    return [f"{part}_" if part else "" for part in parts]


def _coefficients(predictor: Predictor, part: str) -> dict[str, str]:
    names = {f"b_{part}{INTERCEPT}": predictor.intercept} if predictor.intercept else {}
    for label in predictor.design.labels:
        for theirs in {label, _of_logicals(label, predictor)}:
            names[f"b_{part}{_called(theirs)}"] = f"{predictor.beta}[{label}]"
    return names


def _of_logicals(label: str, predictor: Predictor) -> str:
    """Return a column's label as R has it: a column of true and false is called by its level."""
    data = predictor.design.data
    for name in map(str, data.select_dtypes(bool)):
        label = re.sub(rf"(?<![\w.]){re.escape(name)}(?![\w.\[])", rf"{name}TRUE", label)
    return label


def _effects(
    term: TermEffects, labels: Sequence[str], part: str, coords: Mapping[str, Any]
) -> dict[str, str]:
    group, several = term.group.factor.name, len(term.effects) > 1
    called = _called_all(labels, part)
    names = {}
    for theirs, label, effect in zip(called, labels, term.effects, strict=True):
        names[f"sd_{group}__{theirs}"] = f"{term.sd}[{effect.label}]" if several else term.sd
        within = f"r_{group}__{part.rstrip('_')}" if part else f"r_{group}"
        what = _called(label)
        for theirs, member in _members(term.group, coords):
            names[f"{within}[{theirs},{what}]"] = f"{effect.site}[{member}]"
    if len(called) == 2:
        names[f"cor_{group}__{called[0]}__{called[1]}"] = term.correlation
    return names


def _labels(term: TermEffects, predictor: Predictor | None = None) -> tuple[str, ...]:
    """Return what a term's effects are called; with a predictor logical columns as in R."""
    labels = (effect.label for effect in term.effects)
    return tuple(label if predictor is None else _of_logicals(label, predictor) for label in labels)


def _called_all(labels: Sequence[str], part: str) -> list[str]:
    return [f"{part}{_called(label)}" for label in labels]


def _called(label: str) -> str:
    counted = BASIS.sub(lambda m: f"{m[1]}{int(m[2]) + 1}", label)
    return counted.replace("**", "^").translate(SIGNS)


def _members(group: Group, coords: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what every member is called there, and here; combined ones by an underscore there."""
    factor = group.factor
    parts = [
        "_".join(str(v[k]) for v, k in zip(factor.levels, member, strict=True))
        for member in factor.members
    ]
    there = [re.sub(r"[ \t\r\n]", ".", part) for part in parts]
    return list(zip(there, map(str, coords.get(group.name, ())), strict=False))
