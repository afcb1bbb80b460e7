"""The NumPyro source of a formula's model, and the function that it makes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import logsumexp

from vi_recipes.formula.families import Family, Own
from vi_recipes.formula.layout import Group, Predictor, TermEffects, spread_of
from vi_recipes.formula.links import LINKS
from vi_recipes.formula.priors import WIDTH, Priors, PriorSite, normals, number

TEMPLATE = """\
def {{ name }}({{ arguments | join(", ") }}):
{%- for line in parameters %}
    {{ line }}
{%- endfor %}
{%- for group in groups %}
    with numpyro.plate("{{ group.name }}", {{ group.size }}):
{%- for line in effects[group.name] %}
        {{ line }}
{%- endfor %}
{%- endfor %}
    with numpyro.plate("row", len({{ y }})){{ weighted }}:
{%- for line in rows %}
        {{ line }}
{%- endfor %}
        law = {{ law }}
        numpyro.sample("{{ y }}", law, obs={{ y }})
    return eta, law
"""

MEAN = re.compile(r"\bmu\b")


@dataclass(frozen=True)
class DataUnits:
    """The data's units, which default priors follow.

    Parameters
    ----------
    level
        Where the intercept is expected.
    scale
        Of the linear predictor: the response's sd where it has one on that scale, or what its
        inverse changes by with it; else 1.
    sd
        The response's sd.
    """

    level: float
    scale: float
    sd: float


class Generated:
    """A model function made from its source; it is sent and stored as that.

    Parameters
    ----------
    source
        What is run.
    priors
        Distributions that the source calls ``priors[...]``.
    """

    def __init__(self, source: str, priors: Mapping[str, Any]) -> None:
        self.source, self.priors = source, dict(priors)

    @cached_property
    def _function(self) -> Any:
        import jax
        import jax.numpy as jnp
        import numpyro
        import numpyro.distributions as dist
        from jax.scipy.stats import norm

        from vi_recipes.formula import laws

        known = {"numpyro": numpyro, "dist": dist, "jax": jax, "jnp": jnp, "norm": norm}
        known |= {"Hurdle": laws.Hurdle, "Cumulative": laws.Cumulative, "Each": laws.Each}
        known |= {"priors": self.priors}
        made: dict[str, Any] = {}
        exec(compile(self.source, "<formula>", "exec"), known, made)
        (function,) = made.values()
        return function

    @property
    def __name__(self) -> str:
        return str(self._function.__name__)

    @property
    def __wrapped__(self) -> Any:
        return self._function  # where inspect.signature looks

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model."""
        return self._function(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {"source": self.source, "priors": self.priors}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Generated) and self.source == other.source

    def __hash__(self) -> int:
        return hash(self.source)


@dataclass
class Writer:
    """Writes the source of a model.

    Parameters
    ----------
    name, y
        Of the function and of the response's argument.
    family, link
        Of the response.
    predictors
        Of the mean first, then of the family's own parameters.
    groups
        All grouping factors.
    units
        The data's.
    priors
        Settles every site.
    num_levels
        Of an ordinal response.
    weights
        How often each row counts, where that is said.
    offset
        Of the mean, beside what the formula says.
    """

    name: str
    y: str
    family: Family
    link: str
    predictors: Sequence[Predictor]
    groups: Sequence[Group]
    units: DataUnits
    priors: Priors
    num_levels: int = 0
    weights: np.ndarray | None = None
    offset: np.ndarray | None = None

    def write(self) -> str:
        """Return the source."""
        from jinja2 import Environment

        parameters: list[str] = []
        effects: dict[str, list[str]] = {group.name: [] for group in self.groups}
        rows: list[str] = []
        for predictor in self.predictors:
            self._parameters(predictor, parameters)
            for term in predictor.terms:
                self._term(predictor, term, parameters, effects[term.group.name])
        modelled = {p.parameter for p in self.predictors}
        for own in self.family.own:
            if own.name not in modelled:
                parameters.append(f"{own.name} = {self.priors.line(self._own(own))}")
        first, *others = self.predictors
        for predictor in (first, *others) if self.family.of_levels else (*others, first):
            eta = f"eta_{predictor.parameter}" if predictor.parameter else "eta"
            rows.append(f"{eta} = {_sum(predictor)}")
            if predictor.parameter and not self.family.of_levels:
                own = next(o for o in self.family.own if o.name == predictor.parameter)
                rows.append(f"{own.name} = {LINKS[own.link].mean.replace('eta', eta)}")
        if self.family.of_levels:
            levels = ", ".join(f"eta_{p.parameter}" for p in self.predictors)
            zeros = f"jnp.zeros(len({self.y}))"
            rows.append(f"eta = jnp.stack(jnp.broadcast_arrays({zeros}, {levels}), axis=-1)")
        law = self.family.law.format(link=self.link)
        link = LINKS[self.link]
        if "logits" in law and link.logits == "eta":
            law = law.replace("logits=logits", "logits=eta")
        elif "logits" in law:
            rows.append(f"logits = {link.logits}")
        if link.mean == "eta":
            law = MEAN.sub("eta", law)
        elif MEAN.search(law):
            rows.append(f"mu = {link.mean}")
        template = Environment(autoescape=False, keep_trailing_newline=True).from_string(TEMPLATE)
        return template.render(
            name=self.name,
            arguments=self.arguments(),
            parameters=parameters,
            groups=self.groups,
            effects=effects,
            y=self.y,
            weighted=", numpyro.handlers.scale(scale=weights)" if self.weights is not None else "",
            rows=rows,
            law=law,
        )

    def arguments(self) -> list[str]:
        """Return the arguments of the function."""
        names = [self.y, *(["trials"] if self.family.takes_trials else [])]
        for predictor in self.predictors:
            names += [n for n in (predictor.matrix, *predictor.designs, predictor.offset) if n]
        for group in self.groups:
            names += [group.name, group.size]
        return [*names, *(["weights"] if self.weights is not None else [])]

    def _own(self, own: Own) -> PriorSite:
        if own.support == "ordered":
            steps = self.num_levels - 2
            middle, width = self.first_threshold()
            law = f"dist.Normal(0.0, {width}).expand([{steps + 1}])"
            if (middle, width) != (0.0, WIDTH) and steps:
                locs, sds = [middle, *[0.0] * steps], [width, *[WIDTH] * steps]
                law = f"dist.Normal(jnp.array({locs}), jnp.array({sds}))"
            elif middle:
                law = f"dist.Normal({middle}, {width}).expand([1])"
            law = f"{law}.to_event(1)"
            default = f"dist.TransformedDistribution({law}, dist.transforms.OrderedTransform())"
            return PriorSite(own.name, default, "ordered", self.num_levels - 1, whole=True)
        default = own.prior.format(rate=number(1.0 / self.units.sd))
        return PriorSite(own.name, default, own.support)

    def _widths(self, predictor: Predictor) -> np.ndarray:
        """Return the sds of the coefficients' default priors."""
        matrix = predictor.design.matrix
        scale = 1.0 if predictor.parameter else self.units.scale
        return np.array(
            [number(WIDTH * scale / spread_of(column, self.weights)) for column in matrix.T]
        )

    def _width(self, predictor: Predictor) -> float:
        """Return an intercept's default sd, for what the columns may add at their means."""
        matrix = predictor.design.matrix
        counts = self._counts(len(matrix))
        added = self._widths(predictor) * (counts @ matrix / counts.sum())
        scale = 1.0 if predictor.parameter else self.units.scale
        return number(float(np.sqrt((WIDTH * scale) ** 2 + (added**2).sum())))

    def first_threshold(self) -> tuple[float, float]:
        """Return the middle and the sd of the default prior of an ordinal family's first threshold.

        Thresholds stand on the other side of an intercept: columns and offsets move both alike.
        """
        predictor = self.predictors[0]
        return number(0.0 - self.middle(predictor)), self._width(predictor)

    def _parameters(self, predictor: Predictor, lines: list[str]) -> None:
        widths = self._widths(predictor)
        if predictor.intercept:
            level, width = number(self.middle(predictor)), self._width(predictor)
            line = self.priors.line(
                PriorSite(predictor.intercept, f"dist.Normal({level}, {width})")
            )
            lines.append(f"{predictor.intercept} = {line}")
        if predictor.beta:
            each = {
                label: f"dist.Normal(0.0, {width})"
                for label, width in zip(predictor.design.labels, widths, strict=True)
            }
            site = PriorSite(predictor.beta, normals(widths), size=len(widths), each=each)
            lines.append(f"{predictor.beta} = {self.priors.line(site)}")

    def middle(self, predictor: Predictor) -> float:
        """Return where the prior of an intercept has its middle."""
        return self._level(predictor) - self._mean_offset(predictor)

    def _counts(self, rows: int) -> np.ndarray:
        """Return how often each row counts."""
        return np.ones(rows) if self.weights is None else self.weights

    def _mean_offset(self, predictor: Predictor) -> float:
        """Return what an offset adds on average: of logarithms, to the mean that they are of."""
        extra = None if predictor.parameter else self.offset
        parts = [part for part in (predictor.design.offset, extra) if part is not None]
        if not parts:
            return 0.0
        total = np.sum(parts, axis=0)
        counts = self._counts(len(total))
        if self.link == "log" and not predictor.parameter:
            return float(logsumexp(total, b=counts / counts.sum()))
        return float(np.average(total, weights=counts))

    def _level(self, predictor: Predictor) -> float:
        if not predictor.parameter:
            return self.units.level
        is_sigma = predictor.parameter == "sigma" and not self.family.of_levels
        return float(np.log(self.units.sd)) if is_sigma else 0.0

    def _term(
        self, predictor: Predictor, term: TermEffects, lines: list[str], effects: list[str]
    ) -> None:
        """Write a group term: normals one after another, each given those before it."""
        scale = 1.0 if predictor.parameter else self.units.scale
        widths = np.array([number(WIDTH * scale / e.spread) for e in term.effects])
        half = normals(widths).replace("dist.Normal(0.0, ", "dist.HalfNormal(")
        k = len(term.effects)
        size = None if k == 1 else k
        each = {
            effect.label: f"dist.HalfNormal({width})"
            for effect, width in zip(term.effects, widths, strict=True)
        }
        site_of_sds = PriorSite(term.sd, half, "positive", size, each=each if size else {})
        lines.append(f"{term.sd} = {self.priors.line(site_of_sds)}")
        if k == 1:
            site = term.effects[0].site
            effects.append(f'{site} = numpyro.sample("{site}", dist.Normal(0.0, {term.sd}))')
            return
        if k == 2:  # LKJ(1) of two is uniform
            both = PriorSite(term.correlation, "dist.Uniform(-1.0, 1.0)", "correlation")
            lines.append(f"{term.correlation} = {self.priors.line(both)}")
            first, second = (e.site for e in term.effects)
            effects += [
                f'{first} = numpyro.sample("{first}", dist.Normal(0.0, {term.sd}[0]))',
                f"given = {term.correlation} * {term.sd}[1] / {term.sd}[0] * {first}",
                f"rest = {term.sd}[1] * jnp.sqrt(1.0 - {term.correlation}**2)",
                f'{second} = numpyro.sample("{second}", dist.Normal(given, rest))',
            ]
            return
        default = f"dist.LKJ({k}, 1.0)"
        line = self.priors.line(PriorSite(term.correlation, default, "correlation", k, whole=True))
        lines.append(f"{term.correlation} = {line}")
        effects.append(f"chol = jnp.linalg.cholesky({term.correlation})")
        for j, effect in enumerate(term.effects):
            site, unit = effect.site, f"e_{j}_{term.group.name}"
            loc = " + ".join(f"chol[{j}, {i}] * e_{i}_{term.group.name}" for i in range(j))
            mean = f"{term.sd}[{j}] * ({loc})" if j else "0.0"
            width = f"{term.sd}[{j}] * chol[{j}, {j}]" if j else f"{term.sd}[0]"
            effects.append(f'{site} = numpyro.sample("{site}", dist.Normal({mean}, {width}))')
            if j < k - 1:
                less = f"({site} - {mean})" if j else site
                effects.append(f"{unit} = {less} / ({width})")


def _sum(predictor: Predictor) -> str:
    """Return the source of a linear predictor."""
    parts = [predictor.intercept] if predictor.intercept else []
    if predictor.beta:
        parts.append(f"jnp.matmul({predictor.matrix}, {predictor.beta})")
    if predictor.offset:
        parts.append(predictor.offset)
    for term in predictor.terms:
        for effect in term.effects:
            value = f"{effect.site}[{term.group.name}]"
            column = f"{term.matrix}[:, {effect.column}]"
            parts.append(value if effect.column is None else f"{value} * {column}")
    return " + ".join(parts) or "0.0"
