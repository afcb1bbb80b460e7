"""What a formula stands for: linear predictors of columns and group effects, with their names."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from jaxtyping import Float

from vi_recipes.formula.designs import Design
from vi_recipes.formula.groups import GroupingFactor
from vi_recipes.formula.parse import Bar, Parsed, factors_of

INTERCEPT = "Intercept"

TAKEN = frozenset(
    {"numpyro", "dist", "jax", "jnp", "norm", "eta", "mu", "law", "logits", "trials", "priors"}
    | {"given", "rest", "chol", "row", "draw", "chain", "sample", "weights"}
    | {"Hurdle", "Cumulative", "Each"}
)
"""Names of the generated source, and those that ArviZ keeps for itself."""


class Names:
    """Identifiers for what users name freely, no two alike."""

    def __init__(self) -> None:
        self._taken = set(TAKEN)

    def of(self, text: str) -> str:
        """Return an identifier like ``text`` that is not taken, and take it."""
        plain = re.sub(r"\W+", "_", text).strip("_") or "x"
        plain = f"x_{plain}" if plain[0].isdigit() or keyword.iskeyword(plain) else plain
        name, k = plain, 2
        while name in self._taken:
            name, k = f"{plain}_{k}", k + 1
        self._taken.add(name)
        return name


@dataclass(frozen=True)
class Group:
    """A grouping factor with its names in the source.

    Parameters
    ----------
    factor
        Its members.
    name
        Of the plate, and of the argument that says which member a row belongs to.
    codes
        That argument, shape (rows,).
    """

    factor: GroupingFactor
    name: str
    codes: np.ndarray

    @property
    def size(self) -> str:
        """The argument that says how many members there are."""
        return f"num_{self.name}"


@dataclass(frozen=True)
class Effect:
    """One effect of a group term.

    Parameters
    ----------
    label
        The column that it multiplies, or ``"Intercept"``.
    site
        Its site, one value a member.
    column
        Its place in the term's matrix; ``None`` for an intercept.
    spread
        Standard deviation of that column, 1 for an intercept.
    """

    label: str
    site: str
    column: int | None
    spread: float


@dataclass(frozen=True)
class TermEffects:
    """The effects of a group term that are correlated with one another.

    Parameters
    ----------
    group
        Whose members have them.
    effects
        One or more.
    sd
        The site of their sds.
    correlation
        The site of their correlation, empty for one effect.
    matrix
        The argument that holds the columns, empty for an intercept alone.
    """

    group: Group
    effects: tuple[Effect, ...]
    sd: str
    correlation: str
    matrix: str


@dataclass(frozen=True)
class Predictor:
    """A linear predictor: that of the mean, or of another parameter.

    Parameters
    ----------
    parameter
        Empty for the mean.
    design
        Its common terms.
    intercept, beta, matrix, offset
        Names of the sites and of the arguments; empty where there is none.
    terms
        Its group terms.
    designs
        Argument -> the design of the columns of group terms.
    """

    parameter: str
    design: Design
    intercept: str
    beta: str
    matrix: str
    offset: str
    terms: tuple[TermEffects, ...]
    designs: Mapping[str, Design] = field(default_factory=dict)

    def columns_of(self, term: TermEffects) -> Float[np.ndarray, "rows effects"]:
        """Return what the effects of a group term are multiplied by, ones for an intercept."""
        return np.column_stack(
            [
                np.ones(len(self.design.matrix))
                if effect.column is None
                else self.designs[term.matrix].matrix[:, effect.column]
                for effect in term.effects
            ]
        )

    @property
    def all_designs(self) -> list[Design]:
        """Those of common terms and of group terms."""
        return [self.design, *self.designs.values()]


class PredictorLayout:
    """Builds predictors; grouping factors are shared among them.

    Parameters
    ----------
    data
        The columns, complete.
    names
        Those taken so far.
    weights
        How often each row counts.
    """

    def __init__(self, data: pd.DataFrame, names: Names, weights: np.ndarray | None = None) -> None:
        self.data, self.names, self.weights = data, names, weights
        self.groups: dict[tuple[str, ...], Group] = {}

    def predictor(
        self, parsed: Parsed, parameter: str = "", *, intercept: bool = True, offset: bool = False
    ) -> Predictor:
        """Return the predictor of a formula.

        Parameters
        ----------
        parsed
            The formula.
        parameter
            Whose it is, empty for the mean's.
        intercept
            Whether an intercept is a site; thresholds take its place where not.
        offset
            Whether there is an offset beside the formula's.
        """
        ending = f"_{parameter}" if parameter else ""
        design = Design(parsed.common, self.data)
        self._seen: dict[tuple[frozenset[str], str], Bar] = {}
        has_offset = offset or design.offset is not None
        has_columns = bool(design.labels)
        designs: dict[str, Design] = {}
        terms = [
            term
            for bar in parsed.bars
            for columns in factors_of(bar)
            for term in self._terms(bar, columns, ending, designs, parsed.text)
        ]
        return Predictor(
            parameter,
            design,
            self.names.of(f"{INTERCEPT}{ending}") if design.intercept and intercept else "",
            self.names.of(f"beta{ending}") if has_columns else "",
            self.names.of(f"X{ending}") if has_columns else "",
            self.names.of(f"offset{ending}") if has_offset else "",
            tuple(terms),
            designs,
        )

    def _group(self, columns: tuple[str, ...]) -> Group:
        if columns not in self.groups:
            factor = GroupingFactor.of(columns, self.data)
            name = self.names.of("_".join(columns))
            self.names.of(f"num_{name}")
            self.groups[columns] = Group(factor, name, factor.at(self.data)[0])
        return self.groups[columns]

    def _terms(
        self,
        bar: Bar,
        columns: tuple[str, ...],
        ending: str,
        made: dict[str, Design],
        text: str,
    ) -> list[TermEffects]:
        group, design = self._group(columns), Design(bar.effects, self.data)
        labels: list[tuple[str, int | None]] = [(INTERCEPT, None)] if design.intercept else []
        labels += [(label, k) for k, label in enumerate(design.labels)]
        if not labels:
            raise ValueError(f"formula: the group term {bar} has no effects; write (1 | g)")
        for label, _ in labels:
            other = self._seen.setdefault((frozenset(columns), label), bar)
            if other is not bar:
                raise ValueError(
                    f"formula '{text}': {other} and {bar} both have effect "
                    f"{'1' if label == INTERCEPT else label} of {':'.join(columns)}, which cannot "
                    "be told apart; write (0 + x | g) for a slope alone"
                )
        matrix = self.names.of(f"Z_{group.name}{ending}") if design.labels else ""
        if matrix:
            made[matrix] = design
        base = f"{group.name}{ending}"
        alone = len(labels) == 1 or not bar.correlated
        effects = []
        for label, column in labels:
            only_intercept = alone and column is None
            site = self.names.of(f"u_{base}" if only_intercept else f"u_{base}_{label}")
            spread = 1.0 if column is None else spread_of(design.matrix[:, column], self.weights)
            effects.append(Effect(label, site, column, spread))
        if alone:
            return [
                TermEffects(
                    group, (effect,), self.names.of(effect.site.replace("u_", "sd_", 1)), "", matrix
                )
                for effect in effects
            ]
        sd, correlation = self.names.of(f"sd_{base}"), self.names.of(f"cor_{base}")
        return [TermEffects(group, tuple(effects), sd, correlation, matrix)]


def spread_of(column: np.ndarray, weights: np.ndarray | None = None) -> float:
    """Return the sd of a column or a response, 1 where it does not vary.

    Each row counts as often as its weight says.
    """
    if weights is None:
        weights = np.ones(len(column))
    there = weights > 0
    # of equal numbers the sd need not be zero, as their mean is rounded
    if np.ptp(column[there]) == 0:
        return 1.0
    each = weights.reshape(-1, *(1,) * (column.ndim - 1)) * np.ones_like(column)
    squares = each * (column - np.average(column, weights=each)) ** 2
    sd = float(np.sqrt(squares.sum() / (each.sum() - 1)))
    return sd if sd > 0 else 1.0
