"""What the R package brms calls the parameters of a formula's model."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vi_recipes.formula.layout import INTERCEPT, Group, Predictor, Term

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

    Members of combined groups (``a:b``) and correlations of three effects or more are left out.

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
        parts = OWN.get(predictor.parameter, (predictor.parameter,))
        for part in (f"mu{predictor.parameter}",) if of_levels else parts:
            names |= _coefficients(predictor, f"{part}_" if part else "")
            for term in predictor.terms:
                names |= _effects(term, f"{part}_" if part else "", coords)
    return names


def _coefficients(predictor: Predictor, part: str) -> dict[str, str]:
    names = {f"b_{part}{INTERCEPT}": predictor.intercept} if predictor.intercept else {}
    for label in predictor.design.labels:
        names[f"b_{part}{_called(label)}"] = f"{predictor.beta}[{label}]"
    return names


def _effects(term: Term, part: str, coords: Mapping[str, Any]) -> dict[str, str]:
    group, several = term.group.factor.name, len(term.effects) > 1
    called = [f"{part}{_called(effect.label)}" for effect in term.effects]
    names = {}
    for theirs, effect in zip(called, term.effects, strict=True):
        names[f"sd_{group}__{theirs}"] = f"{term.sd}[{effect.label}]" if several else term.sd
        within = f"r_{group}__{part.rstrip('_')}" if part else f"r_{group}"
        what = _called(effect.label)
        for member in _members(term.group, coords):
            names[f"{within}[{_member(member)},{what}]"] = f"{effect.site}[{member}]"
    if len(called) == 2:
        names[f"cor_{group}__{called[0]}__{called[1]}"] = term.correlation
    return names


def _called(label: str) -> str:
    counted = BASIS.sub(lambda m: f"{m[1]}{int(m[2]) + 1}", label)
    return counted.replace("**", "^").translate(SIGNS)


def _members(group: Group, coords: Mapping[str, Any]) -> list[str]:
    return [str(label) for label in coords.get(group.name, ())]


def _member(label: str) -> str:
    return re.sub(r"[ \t\r\n]", ".", label)
