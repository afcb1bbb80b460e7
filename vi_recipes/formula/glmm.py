"""From a formula and a data frame to a model with its data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pandas as pd

from vi_recipes.core import check_arguments, numbered, warn
from vi_recipes.formula.brms import correlations_in_brms, names_in_brms
from vi_recipes.formula.checks import check_groups, check_predictors, counting, odd_text
from vi_recipes.formula.families import (
    FAMILIES,
    Family,
    family_of,
    link_of,
    starting_level,
)
from vi_recipes.formula.frame import (
    Response,
    as_frame,
    check_weights,
    complete,
    levels_said,
    response_of,
    row_numbers,
)
from vi_recipes.formula.layout import Group, Names, Predictor, PredictorLayout, spread_of
from vi_recipes.formula.parse import Parsed, check_apart, check_columns, parse
from vi_recipes.formula.plain import one_form
from vi_recipes.formula.priors import Given, Priors
from vi_recipes.formula.source import DataUnits, Generated, Writer
from vi_recipes.formula.starts import starts_of
from vi_recipes.model import Model

PLACE = "row="
"""Column of the places of rows; no formula can have one of that name."""


@dataclass(frozen=True)
class KeptArguments:
    """The arguments of a model function; called, it returns them."""

    values: Mapping[str, Any]

    def __call__(self) -> Mapping[str, Any]:
        """Return the arguments."""
        return self.values


@dataclass(frozen=True, kw_only=True)
class GLMM(Model):
    """A model that a formula stands for, with its data: what :func:`glmm` returns.

    ``print`` shows what it is and the NumPyro source that runs, to be taken over and changed.

    Parameters
    ----------
    formulas
        As they were written, that of the mean first.
    family, link
        Of the response.
    priors
        Site -> source of its prior.
    source
        The NumPyro source.
    predictors, groups
        Designs and grouping factors, for new data.
    response
        The response as the model sees it.
    offset
        What was given as such beside the formulas.
    rows
        The rows that were not left out, by the index of the data: the columns that the formulas
        use, and what else was given by row as ``weights=`` and ``offset=``.
    notes
        Sentences on the data: what was left out, what separates the responses.
    """

    formulas: tuple[str, ...] = ()
    family: str = ""
    link: str = ""
    priors: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    predictors: Any = ()
    groups: Any = ()
    response: Any = None
    offset: Any = None
    rows: Any = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"formula   {f}" for f in self.formulas]
        lines.append(f"family    {self.family}, link {self.link}")
        if said := levels_said(self.response, family_of(self.family)):
            lines.append(f"response  {said}")
        weights = self.data().get("weights") if self.data is not None else None
        counted = "" if weights is None else f", which count as {weights.sum():g} by their weights"
        lines.append(f"rows      {len(self.response.y)}{counted}")
        for group in self.groups:
            sizes = np.bincount(group.codes)
            low, high = int(sizes.min()), int(sizes.max())
            rows = numbered(high, "row") if low == high else f"{low} to {high} rows"
            lines.append(f"group     {group.factor.name}: {len(sizes)} members of {rows}")
        lines += [f"structure {text}" for text in self._structure()]
        lines += [f"note      {note}" for note in self.notes]
        lines.append("priors")
        sites = [name for name in self.priors if name in self.parameters]
        lines += [f"  {name} ~ {self.priors[name]}" for name in sites]
        return "\n".join([*lines, "", self.source.rstrip()])

    def _structure(self) -> list[str]:
        """Say which effects depend on one another given the parameters."""
        factors = [group.factor for group in self.groups]
        if len(factors) == 1:
            return [
                f"members of {factors[0].name} are independent given the parameters: integrated "
                "out one by one"
            ]
        if not factors:
            return []
        chain = sorted((set(f.columns) for f in factors), key=len)
        nested = all(one < other for one, other in pairwise(chain))
        names = ", ".join(f.name for f in factors)
        return [
            f"members of {names} are {'nested' if nested else 'crossed'}: coupled given the "
            "parameters"
        ]

    @property
    def names_elsewhere(self) -> dict[str, str]:
        """Name in draws by brms of the same formula -> site or scalar of this model."""
        family = family_of(self.family)
        coords = self.coords if isinstance(self.coords, Mapping) else {}
        own = [o.name for o in family.own]
        return names_in_brms(self.predictors, coords, own, of_levels=family.of_levels)

    @property
    def correlations_elsewhere(self) -> dict[str, dict[tuple[int, int], str]]:
        """Site of correlations -> (row, column) -> brms's name of that correlation."""
        of_levels = family_of(self.family).of_levels
        return correlations_in_brms(self.predictors, of_levels=of_levels)

    def __repr__(self) -> str:
        return (
            f"GLMM({'; '.join(self.formulas)!r}, family={self.family!r}, link={self.link!r}, "
            f"{len(self.response.y)} rows)"
        )


@check_arguments("formula")
def glmm(
    formula: str | Sequence[str],
    data: Any,
    family: str = "gaussian",
    *,
    link: str | None = None,
    priors: Mapping[str, Given] | str | None = None,
    weights: Any = None,
    offset: Any = None,
    missing: Literal["error", "drop"] = "error",
) -> GLMM:
    """Return the model that a formula and a data frame stand for.

    Parameters
    ----------
    formula
        Such as ``"y ~ x + (1 + x | g)"``. Common terms are what formulae reads: columns,
        functions of them, categories by treatment contrasts (``C(g, Sum)``, ``C(g, Helmert)``,
        ``C(g, Polynomial)``), interactions, ``bs(x, df=5)``, ``poly(x, 2)``, ``offset(z)``. Group
        terms are ``(1 | g)``, ``(1 + x | g)`` with correlated effects, ``(1 + x || g)`` without,
        ``(1 | a:b)`` and nested ``(1 | a/b)``. The response of ``binomial`` and ``betabinomial``
        is ``p(y, n)`` or ``cbind(y, n - y)``. Formulas after the first are of the family's other
        parameters: ``["y ~ x", "sigma ~ z"]``.
    data
        A data frame, a mapping of columns, or a file (see :func:`read_frame`).
    family
        A key of :data:`FAMILIES`.
    link
        Of the mean; by default the family's first.
    priors
        Site -> a NumPyro distribution, text such as ``"Normal(0, 1)"``, ``"flat"``, or a number
        where the parameter is known; also of one coefficient by its column, ``"x"``, or of one
        element, ``"beta[x]"``, ``"sd_g[x]"``. The others have weakly informative priors in the
        data's units, which ``print`` shows. ``"flat"`` alone makes all of them flat, as
        maximum likelihood has them.
    weights
        How often each row counts: a column's name or whole numbers.
    offset
        What is added to the linear predictor: a column's name or numbers.
    missing
        Rows with missing values in the columns used are refused, or left out and counted
        (``"drop"``).

    Raises
    ------
    ValueError
        For a formula that does not parse (the place is marked), a column that is not there, a
        response outside the family's support, missing values, columns that are combinations of
        others, groups whose sd cannot be told, and responses that a column separates where priors
        are flat.

    Examples
    --------
    >>> import vi_recipes as vr
    >>> frame = {"y": [1.0, 2.0, 2.5, 4.0], "x": [0, 1, 2, 3]}
    >>> vr.glmm("y ~ x", frame)
    GLMM('y ~ x', family='gaussian', link='identity', 4 rows)
    """
    if isinstance(data, str) and "~" in data and not isinstance(formula, str):
        raise ValueError(
            f"formula: got {type(formula).__name__}, and the formula as data: expected "
            "glmm(formula, data)"
        )
    return _Maker(formula, data, family, link, priors, weights, offset, missing).make()


class _Maker:
    """Makes a model step by step; each step checks what it is given."""

    def __init__(
        self,
        formula: str | Sequence[str],
        data: Any,
        family: str,
        link: str | None,
        priors: Mapping[str, Given] | str | None,
        weights: Any,
        offset: Any,
        missing: Literal["error", "drop"],
    ) -> None:
        texts = [formula] if isinstance(formula, str) else list(formula)
        texts = [one_form(text) if isinstance(text, str) else text for text in texts]
        if not texts:
            raise ValueError("formula: got none, expected one such as 'y ~ x + (1 | g)'")
        self.parsed = [parse(text) for text in texts]
        for parsed in self.parsed:
            check_apart(parsed)
        self.family = self._chosen(family)
        self.link = link_of(self.family, link)
        if isinstance(priors, Mapping):
            priors = {one_form(str(name)): prior for name, prior in priors.items()}
        self.priors = Priors(priors, [own.name for own in self.family.own])
        self._check_parameters()
        self.given_offset = one_form(offset) if isinstance(offset, str) else offset
        full = as_frame(data)
        columns = [c for p in self._with_columns() for c in check_columns(p, full.columns)]
        extra = {"weights=": row_numbers("weights", weights, full)}
        extra["offset="] = row_numbers("offset", offset, full)
        held = {name: values for name, values in extra.items() if values is not None}
        held[PLACE] = np.arange(len(full))
        frame, dropped = complete(full.assign(**held), [*columns, *held], missing)
        self.weights, self.offset = (
            np.asarray(frame[name], float) if name in held else None for name in extra
        )
        self.frame = frame.drop(columns=list(held))
        index = data.index if isinstance(data, pd.DataFrame) else full.index
        self.rows = frame.drop(columns=PLACE).set_axis(index[frame[PLACE]])
        self.rows_left_out = len(full) - len(frame)
        self.notes = [dropped] if dropped else []

    def _chosen(self, name: str) -> Family:
        chosen = family_of(name)
        alone = "(" not in self.parsed[0].response
        return FAMILIES["bernoulli"] if name == "binomial" and alone else chosen

    def _check_parameters(self) -> None:
        own = [o.name for o in self.family.own if o.link]
        for parsed in self.parsed[1:]:
            if parsed.response not in own:
                raise ValueError(
                    f"formula '{parsed.text}': got '{parsed.response}', expected a parameter of "
                    f"family '{self.family.name}': {', '.join(own) or 'it has none'}"
                )

    def _with_columns(self) -> list[Parsed]:
        """Return the formulas, the names of parameters not among their columns."""
        rest = [
            replace(p, names=tuple(n for n in p.names if n != p.response)) for p in self.parsed[1:]
        ]
        return [self.parsed[0], *rest]

    def make(self) -> GLMM:
        if self.weights is not None:
            check_weights(self.weights)
        response = response_of(self.parsed[0].response, self.frame, self.family, self.weights)
        names = Names()
        for own in self.family.own:
            names.of(own.name)
            names.of(f"eta_{own.name}")
        y = names.of(response.name)
        layout = PredictorLayout(self.frame, names, self.weights)
        ordinal = self.family.is_ordinal
        if self.family.of_levels:
            predictors = self._of_levels(layout, response)
        else:
            has_offset = self.offset is not None
            predictors = [
                layout.predictor(self.parsed[0], intercept=not ordinal, offset=has_offset),
                *(layout.predictor(p, p.response) for p in self.parsed[1:]),
            ]
        groups = list(layout.groups.values())
        remarks = check_predictors(
            predictors,
            [p.text for p in self.parsed],
            self.family,
            self.link,
            response,
            self.priors,
            self.weights,
        )
        times = counting(response, self.weights)[0] * (1 if self.weights is None else self.weights)
        for group in groups:
            check_groups(group, times, own_scale=self.family.name == "gaussian")
        used = dict.fromkeys(name for p in predictors for d in p.all_designs for name in d.columns)
        text = "; ".join(p.text for p in self.parsed)
        for says in [*remarks, *odd_text(self.frame, list(used), text)]:
            self.notes.append(says)
            warn(says)
        writer = Writer(
            names.of("model"),
            y,
            self.family,
            self.link,
            predictors,
            groups,
            self._units(response),
            self.priors,
            len(response.levels),
            self.weights,
            self.offset,
        )
        source = writer.write()
        self.priors.check()
        values = self._values(writer, predictors, groups, response)
        parameters, latents, dims, coords = _sites(predictors, groups, self.family, response)
        return GLMM(
            function=Generated(source, self.priors.objects),
            name=y,
            data=KeptArguments(values),
            init=starts_of(writer, response.y),
            parameters=tuple(
                n for n in parameters if n in self.priors.sites.keys() - self.priors.known
            ),
            latents=tuple(latents),
            dims={n: d for n, d in dims.items() if n not in self.priors.known},
            coords=coords,
            description=". ".join(
                [
                    f"{'; '.join(p.text for p in self.parsed)} ({', '.join(self._kind(response))})",
                    *self.notes,
                ]
            ),
            rows_left_out=self.rows_left_out,
            formulas=tuple(p.text for p in self.parsed),
            family=self.family.name,
            link=self.link,
            priors=dict(self.priors.sites),
            source=source,
            predictors=tuple(predictors),
            groups=tuple(groups),
            response=response,
            offset=self.given_offset,
            rows=self.rows,
            notes=tuple(self.notes),
        )

    def _kind(self, response: Response) -> list[str]:
        flat = "flat priors" if self.priors.flat else ""
        said = [levels_said(response, self.family), flat]
        return [self.family.name, self.link, *filter(None, said)]

    def _of_levels(self, layout: PredictorLayout, response: Response) -> list[Predictor]:
        """Return a predictor for every level but the first."""
        if self.offset is not None:
            raise ValueError(
                f"offset: family '{self.family.name}' has a linear predictor for each level but "
                "the first; write offset(...) in the formula, which adds it to all"
            )
        plain = Names()
        return [layout.predictor(self.parsed[0], plain.of(level)) for level in response.levels[1:]]

    def _units(self, response: Response) -> DataUnits:
        sd = spread_of(response.y, self.weights)
        level = starting_level(self.family, self.link, response.y, self.weights)
        # of an inverse the spread is what it changes by with the response, at its mean
        scale = {"identity": sd, "inverse": sd * level**2}.get(self.link, 1.0)
        return DataUnits(level, scale, sd)

    def _values(
        self,
        writer: Writer,
        predictors: Sequence[Predictor],
        groups: Sequence[Group],
        response: Response,
    ) -> dict[str, Any]:
        whole = self.family.response not in ("real", "positive", "unit")
        values: dict[str, Any] = {writer.y: response.y.astype(int) if whole else response.y}
        if response.trials is not None:
            values["trials"] = response.trials.astype(int)
        for predictor in predictors:
            design = predictor.design
            if predictor.matrix:
                values[predictor.matrix] = design.matrix
            if predictor.offset:
                extra = self.offset if not predictor.parameter else None
                parts = [p for p in (design.offset, extra) if p is not None]
                values[predictor.offset] = np.sum(parts, axis=0)
            values |= {name: made.matrix for name, made in predictor.designs.items()}
        for group in groups:
            values[group.name], values[group.size] = group.codes, len(group.factor.members)
        if self.weights is not None:
            values["weights"] = self.weights
        return {name: values[name] for name in writer.arguments()}


def _sites(
    predictors: Sequence[Predictor], groups: Sequence[Group], family: Family, response: Response
) -> tuple[list[str], list[str], dict[str, tuple[str, ...]], dict[str, Any]]:
    """Return parameters, latent sites, dimensions and coordinates."""
    parameters: list[str] = []
    latents: list[str] = []
    dims: dict[str, tuple[str, ...]] = {}
    coords: dict[str, Any] = {group.name: group.factor.labels for group in groups}
    for predictor in predictors:
        parameters += [n for n in (predictor.intercept, predictor.beta) if n]
        if predictor.beta:
            dim = f"{predictor.beta}_column"
            dims[predictor.beta], coords[dim] = (dim,), predictor.design.labels
        for term in predictor.terms:
            parameters += [n for n in (term.sd, term.correlation) if n]
            latents += [effect.site for effect in term.effects]
            if len(term.effects) > 1:
                dim = f"{term.sd}_effect"
                dims[term.sd], coords[dim] = (dim,), [e.label for e in term.effects]
            if len(term.effects) > 2:
                dims[term.correlation] = (dim, f"{dim}_2")
                coords[f"{dim}_2"] = coords[dim]
    parameters += [own.name for own in family.own]
    return parameters, latents, dims, coords
