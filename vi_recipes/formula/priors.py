"""Priors as NumPyro source: the defaults, and what users put in their place.

Defaults are normal, centred at no effect, with sds that suit the units of the data: 2.5 standard
deviations of the response for a standard deviation of a covariate (2.5 on the scale of links whose
unit is that of the logit or the logarithm), as rstanarm documents (Goodrich, Gabry, Ali and
Brilleman, "Prior Distributions for rstanarm Models"). Covariates are not centred, so an intercept's
sd is made wide enough for all that they may add at their means; sds of groups are half-normal with
the scale of the common effect they vary, as in bambi (Capretto and others 2022,
doi:10.18637/jss.v103.i15).
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import constraints

from vi_recipes.core import reads_as_number, told, unknown

WIDTH = 2.5
"""Standard deviations of the response that a standard deviation of a covariate may make."""

DIGITS = 4
"""Of the numbers in default priors: what is printed is what runs."""

LAWS = tuple(
    name
    for name in dist.__all__
    if name[0].isupper() and callable(getattr(dist, name)) and "Transform" not in name
)
"""What text may name."""

POINTS = (-2.6, -0.4, 0.2, 0.7, 1.3, 4.1)
"""Where a law and its source are held against one another."""

SUPPORTS = {
    "real": "constraints.real",
    "positive": "constraints.positive",
    "unit": "constraints.unit_interval",
    "ordered": "constraints.ordered_vector",
}

type Given = float | str | dist.Distribution
"""A prior as users give it: a number (known), text such as ``"Normal(0, 1)"`` or ``"flat"``, or a
NumPyro distribution."""


@dataclass(frozen=True)
class PriorSite:
    """A parameter's site before its prior is settled.

    Parameters
    ----------
    name
        The site.
    default
        Source of the default prior of one element, or of all.
    support
        ``"real"``, ``"positive"``, ``"unit"``, ``"ordered"`` or ``"correlation"``.
    size
        Its length; ``None`` for a scalar.
    whole
        Whether ``default`` is the law of the whole site.
    each
        Label of an element -> the source of its own default.
    """

    name: str
    default: str
    support: str = "real"
    size: int | None = None
    whole: bool = False
    each: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Priors:
    """Settles the priors of all sites.

    Parameters
    ----------
    given
        Site, or an element of one, -> what stands in the place of the default; ``"flat"`` for all.
    reserved
        What is a site, and no column, though a column may be called so.
    """

    given: Mapping[str, Given] | str | None = None
    reserved: Collection[str] = ()
    sites: dict[str, str] = field(default_factory=dict)
    objects: dict[str, dist.Distribution] = field(default_factory=dict)
    """Distributions that no source stands for."""
    known: set[str] = field(default_factory=set)
    """Sites that are none, because their values are given."""
    chosen: set[str] = field(default_factory=set)
    """Sites of which a prior is given that is not flat, or one of an element."""
    elements: set[str] = field(default_factory=set)
    """What single elements of sites go by."""

    def __post_init__(self) -> None:
        if not (self.given is None or self.given == "flat" or isinstance(self.given, Mapping)):
            raise ValueError(
                f"priors: got {self.given!r}, expected 'flat', or a mapping: site -> NumPyro "
                "distribution, text such as 'Normal(0, 1)', or a number where it is known"
            )

    @property
    def flat(self) -> bool:
        """Whether all are flat."""
        return self.given == "flat"

    def is_flat(self, site: str, label: str = "") -> bool:
        """Return whether a flat prior is given for a site, or for an element of it."""
        if not isinstance(self.given, Mapping):
            return self.flat
        given = self.given.get((self._own(self._element(site, label)) if label else "") or site)
        return isinstance(given, str) and given == "flat"

    def is_given(self, site: str, label: str) -> bool:
        """Return whether a prior is given for a site, or for an element of it."""
        return site in self._by_name or bool(self._own(self._element(site, label)))

    def _element(self, site: str, label: str) -> list[str]:
        """Return what an element of a site goes by.

        A coefficient of the mean goes by its column alone too.
        """
        names = [f"{site}[{label}]", *([label] if site == "beta" else [])]
        return [name for name in names if name not in self.reserved]

    def _own(self, names: Sequence[str]) -> str:
        """Return which of an element's names is given a prior; empty where none is."""
        found = [name for name in names if name in self._by_name]
        if len(found) > 1:
            raise ValueError(
                f"priors: '{found[0]}' and '{found[1]}' are one coefficient; give it one prior"
            )
        return found[0] if found else ""

    @property
    def _by_name(self) -> Mapping[str, Given]:
        return self.given if isinstance(self.given, Mapping) else {}

    def line(self, site: PriorSite) -> str:
        """Return the right-hand side of a site's line in the source, and note it."""
        by_element = self._by_element(site)
        if by_element or self._by_name.get(site.name, "flat") != "flat":
            self.chosen.add(site.name)
        text = by_element or self._source(site)
        self.sites[site.name] = text
        if text.startswith("jnp.full") or reads_as_number(text):
            self.known.add(site.name)
            return text
        return f'numpyro.sample("{site.name}", {text})'

    def _source(self, site: PriorSite) -> str:
        given = self.given.get(site.name) if isinstance(self.given, Mapping) else self.given
        if given is None:
            return _sized(site.default, site, whole=site.whole)
        if isinstance(given, str) and given == "flat":
            return _flat(site)
        if isinstance(given, int | float) and not isinstance(given, bool):
            return repr(float(given)) if site.size is None else f"jnp.full({site.size}, {given!r})"
        law, whole = _law(site, given)
        return _sized(self._written(site.name, law), site, whole=whole, batch=law.batch_shape)

    def _written(self, name: str, law: dist.Distribution) -> str:
        """Return the source of a law: one that none stands for is handed to the model by name."""
        text = source_of(law)
        if text is None:
            self.objects[name] = law
        return text or f'priors["{name}"]'

    def _by_element(self, site: PriorSite) -> str:
        """Return the source of a site of which elements have priors of their own, else nothing."""
        if not isinstance(self.given, Mapping):
            return ""
        by_effect: dict[str, str] = {}
        for label in site.each:
            names = self._element(site.name, label)
            self.elements.update(names)
            if name := self._own(names):
                by_effect[label] = name
        if not by_effect:
            return ""
        rest = self.given.get(site.name)
        if rest is not None and len(by_effect) == len(site.each):
            raise ValueError(
                f"priors: '{site.name}' is of no coefficient that is left, because each has a "
                f"prior of its own ({', '.join(by_effect.values())}); leave '{site.name}' out"
            )
        laws, sources = {}, []
        for label, default in site.each.items():
            name = by_effect.get(label, site.name)
            given = self.given[name] if label in by_effect else default if rest is None else rest
            if label in by_effect and isinstance(given, int | float):
                raise ValueError(
                    f"priors['{name}']: got {given!r}, expected a distribution or 'flat': a "
                    "coefficient that is known goes into offset="
                )
            one = PriorSite(name, default, site.support)
            if given == "flat" or given is default:
                sources.append(_flat(one) if given == "flat" else default)
                laws[label] = eval(sources[-1], {"dist": dist, "jnp": jnp})
            else:
                laws[label] = _law(one, given)[0]
                sources.append(self._written(f"{site.name}[{label}]", laws[label]))
        supports = {label: str(_base(law.support)) for label, law in laws.items()}
        if len(set(supports.values())) > 1:
            listed = ", ".join(f"{label}: {support}" for label, support in supports.items())
            raise ValueError(
                f"priors['{site.name}']: expected laws of one support for all of it, got {listed}"
            )
        return _joined(list(laws.values()), sources)

    def check(self) -> None:
        """Refuse priors of sites that the model does not have.

        Raises
        ------
        ValueError
            With the closest name.
        """
        for name in self._by_name:
            if name not in self.sites and name not in self.elements:
                known = [*self.sites, *sorted(self.elements)]
                raise ValueError(f"priors: {unknown('site or coefficient', str(name), known)}")


def number(value: float) -> float:
    """Return a number with as many digits as a default prior has."""
    return float(f"{value:.{DIGITS}g}")


def normals(widths: np.ndarray) -> str:
    """Return the source of normals around 0."""
    if len(set(widths)) == 1:
        return f"dist.Normal(0.0, {widths[0]})"
    return f"dist.Normal(0.0, jnp.array({[float(w) for w in widths]}))"


def _sized(text: str, site: PriorSite, *, whole: bool, batch: tuple[int, ...] | None = None) -> str:
    if site.size is None or whole:
        return text
    sized = batch == (site.size,) or (batch is None and "jnp.array" in text)
    return f"{text}.to_event(1)" if sized else f"{text}.expand([{site.size}]).to_event(1)"


def _flat(site: PriorSite) -> str:
    if site.support == "correlation":
        return "dist.Uniform(-1.0, 1.0)" if site.size is None else site.default
    event = () if site.size is None else (site.size,)
    return f"dist.ImproperUniform(dist.{SUPPORTS[site.support]}, (), {event})"


def _law(site: PriorSite, given: Given) -> tuple[dist.Distribution, bool]:
    """Return the distribution that is given for a site, and whether it is that of all of it."""
    if isinstance(given, str):
        given = _from_text(site.name, given)
    if not isinstance(given, dist.Distribution):
        raise ValueError(
            f"priors['{site.name}']: got {type(given).__name__}, expected a NumPyro distribution, "
            "text such as 'Normal(0, 1)', or a number where it is known"
        )
    whole = _check_shape(site, given)
    _check_support(site, given)
    return given, whole


def _base(support: Any) -> Any:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


def _joined(laws: Sequence[dist.Distribution], sources: Sequence[str]) -> str:
    """Return the source of laws side by side: of one kind as that of vectors."""
    kind = type(laws[0])
    if all(type(law) is kind and source_of(law) is not None for law in laws):
        values = {
            name: [float(getattr(law, name)) for law in laws] for name in kind.arg_constraints
        }
        listed = ", ".join(f"{name}=jnp.array({value})" for name, value in values.items())
        return f"dist.{kind.__name__}({listed}).to_event(1)"
    return f"Each({', '.join(sources)})"


def _check_shape(site: PriorSite, given: dist.Distribution) -> bool:
    """Return whether a distribution is that of the whole site; refuse other shapes."""
    shape = () if site.size is None else (site.size,)
    if site.support == "correlation" and site.size is not None:
        _check_correlations(site, given)
        return True
    if given.batch_shape + given.event_shape in ((), shape):
        return bool(given.event_shape)
    raise ValueError(
        f"priors['{site.name}']: got a distribution of shape "
        f"{given.batch_shape + given.event_shape}, expected () or {shape}"
    )


def _check_correlations(site: PriorSite, given: dist.Distribution) -> None:
    k = site.size
    if given.support is not constraints.corr_matrix or given.event_shape != (k, k):
        raise ValueError(
            f"priors['{site.name}']: got a {type(given).__name__} of shape "
            f"{given.batch_shape + given.event_shape}, expected a law of the correlation matrix of "
            f"{k} effects: such as LKJ({k}, 2)"
        )


def _check_support(site: PriorSite, given: dist.Distribution) -> None:
    outside = {"positive": [-1.0], "unit": [-0.1, 1.1], "correlation": [-1.5, 1.5]}
    if given.event_shape:
        return
    values = outside.get(site.support, ())
    taken = [v for v in values if bool(np.all(given.support(jnp.asarray(v))))]
    if taken:
        raise ValueError(
            f"priors['{site.name}']: got a {type(given).__name__}, which takes {taken[0]}, "
            f"expected one whose support is {site.support}"
            + (": such as HalfNormal, Exponential, Gamma" if site.support == "positive" else "")
        )


def _from_text(name: str, text: str) -> dist.Distribution:
    """Return the distribution that text such as ``"Normal(0, 1)"`` means; no code is run.

    A law of a law is one too: ``"FoldedDistribution(StudentT(3, 0, 2.5))"``.
    """
    what = f"priors['{name}']: got {text!r}, expected a NumPyro distribution such as 'Normal(0, 1)'"
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        call = ast.expr()
    for node in ast.walk(call):
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Name) and called.id not in LAWS:
            raise ValueError(f"priors['{name}']: {_closest(called.id, LAWS)}")
    try:
        if isinstance(call, ast.Call):
            return _made(call)
    except _NoLiteralError:
        pass
    except Exception as error:
        raise ValueError(f"{what}: {told(error)}") from None
    raise ValueError(f"{what}, a number, or 'flat'")


class _NoLiteralError(Exception):
    """What is neither a number nor a law."""


def _made(node: ast.expr) -> Any:
    """Return the number, the array or the law that a part of a prior's text means."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        arguments = [_made(a) for a in node.args]
        keywords = {str(k.arg): _made(k.value) for k in node.keywords}
        return getattr(dist, node.func.id)(*arguments, **keywords, validate_args=True)
    try:
        value = ast.literal_eval(node)
        return jnp.asarray(value, float) if isinstance(value, list | tuple) else float(value)
    except (TypeError, ValueError):
        raise _NoLiteralError from None


def _closest(name: str, known: Sequence[str]) -> str:
    return unknown("distribution", name, known).split(" Known:")[0].rstrip("; ")


def source_of(given: dist.Distribution) -> str | None:
    """Return source that makes a distribution, if its arguments are all that it is."""
    kind = type(given)
    if kind is dist.LKJ:
        return f"dist.LKJ({int(given.dimension)}, {float(given.concentration)!r})"
    if getattr(dist, kind.__name__, None) is not kind or given.event_shape:
        return None
    parts = []
    for name, constraint in kind.arg_constraints.items():
        if not hasattr(given, name) or constraint is constraints.dependent:
            return None
        value = np.asarray(getattr(given, name), float)
        parts.append(
            f"{name}={value.item()!r}" if value.ndim == 0 else f"{name}=jnp.array({value.tolist()})"
        )
    base = getattr(given, "base_dist", None)
    of_base = None if base is None else source_of(base)
    for made_of in (parts, [of_base, *parts] if of_base else []):
        text = f"dist.{kind.__name__}({', '.join(made_of)})"
        try:
            made = eval(text, {"dist": dist, "jnp": jnp})
            points = jnp.asarray(POINTS).reshape(-1, *(1,) * len(given.batch_shape))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of points outside its support
                if np.allclose(made.log_prob(points), given.log_prob(points), equal_nan=True):
                    return text
        except Exception:
            continue
    return None
