"""Where methods begin with a formula's model: no effect of any column, at the response's level.

Its prior may be flat or wide, and its columns in any unit and any distance from 0: years, income,
powers of both. Random values of coefficients would then be linear predictors of any size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from vi_recipes.formula.links import LINKS
from vi_recipes.formula.source import Writer


@dataclass(frozen=True)
class FormulaStarts:
    """Called as :class:`~vi_recipes.Model`'s ``init`` is; can be sent.

    Parameters
    ----------
    values
        Site -> value, of the parameters whose priors nobody chose. Others begin at their priors'
        medians.
    effects
        Site of a group's effects -> the argument that says how many members it has.
    """

    values: Mapping[str, Any]
    effects: Mapping[str, str]

    def __call__(self, key: jax.Array, **data: Any) -> dict[str, Any]:
        """Return where methods begin, constrained."""
        members = {site: np.zeros(int(data[size])) for site, size in self.effects.items()}
        return {**self.values, **members}


def starts_of(writer: Writer, y: np.ndarray) -> FormulaStarts:
    """Return where methods begin with a model that was written, and its response."""
    values: dict[str, Any] = {}
    effects: dict[str, str] = {}
    for predictor in writer.predictors:
        if predictor.intercept:
            values[predictor.intercept] = writer.middle(predictor)
        if predictor.beta:
            values[predictor.beta] = np.zeros(len(predictor.design.labels))
        for term in predictor.terms:
            effects |= {effect.site: term.group.size for effect in term.effects}
            k = len(term.effects)
            scale = 1.0 if predictor.parameter else writer.units.scale
            sds = np.array([scale / effect.spread for effect in term.effects])
            values[term.sd] = sds if k > 1 else sds[0]
            if term.correlation:
                values[term.correlation] = 0.0 if k == 2 else np.eye(k)
    for own in writer.family.own:
        if own.support == "ordered":
            values[own.name] = _thresholds(writer, y)
    left = writer.priors.chosen | writer.priors.known
    return FormulaStarts(
        {name: value for name, value in values.items() if name not in left}, effects
    )


def _thresholds(writer: Writer, y: np.ndarray) -> np.ndarray:
    """Return thresholds that give levels the shares that they have, half a row more in each."""
    counts = np.bincount(y.astype(int), writer.weights, minlength=writer.num_levels) + 0.5
    below = np.cumsum(counts)[:-1] / counts.sum()
    return LINKS[writer.link].forward(below) - writer.middle(writer.predictors[0])
