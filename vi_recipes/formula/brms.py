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
                names |= _effects(term, part, coords)
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
        if len(called := _called_all(term, _parts(predictor, of_levels=of_levels)[0])) > 2
    }


def _parts(predictor: Predictor, *, of_levels: bool) -> list[str]:
    """Return what names of a predictor's parameters may begin with."""
    own = predictor.parameter
    parts = (f"mu{own}",) if of_levels else OWN.get(own, (own,))
    return [f"{part}_" if part else "" for part in parts]


def _coefficients(predictor: Predictor, part: str) -> dict[str, str]:
    names = {f"b_{part}{INTERCEPT}": predictor.intercept} if predictor.intercept else {}
    for label in predictor.design.labels:
        names[f"b_{part}{_called(label)}"] = f"{predictor.beta}[{label}]"
    return names


def _effects(term: TermEffects, part: str, coords: Mapping[str, Any]) -> dict[str, str]:
    group, several = term.group.factor.name, len(term.effects) > 1
    called = _called_all(term, part)
    names = {}
    for theirs, effect in zip(called, term.effects, strict=True):
        names[f"sd_{group}__{theirs}"] = f"{term.sd}[{effect.label}]" if several else term.sd
        within = f"r_{group}__{part.rstrip('_')}" if part else f"r_{group}"
        what = _called(effect.label)
        for theirs, member in _members(term.group, coords):
            names[f"{within}[{theirs},{what}]"] = f"{effect.site}[{member}]"
    if len(called) == 2:
        names[f"cor_{group}__{called[0]}__{called[1]}"] = term.correlation
    return names


def _called_all(term: TermEffects, part: str) -> list[str]:
    return [f"{part}{_called(effect.label)}" for effect in term.effects]


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
