"""Families: what a response may be, its law given the linear predictor, and its other parameters.

A family is one record of :data:`FAMILIES`. Its law is a line of NumPyro source, of ``eta`` (the
linear predictor), ``mu`` (the mean, where the line names it), ``logits`` (the log odds of the
mean), ``trials`` and the family's own parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vi_recipes.core import unknown
from vi_recipes.formula.links import LINKS


@dataclass(frozen=True)
class Own:
    """A parameter of a family beside its mean.

    Parameters
    ----------
    name
        Its site.
    link
        Of a formula of its own (``sigma ~ x``).
    prior
        Source of its default prior; ``{scale}`` is the sd of the response.
    support
        ``"positive"``, ``"unit"`` or ``"ordered"``.
    """

    name: str
    link: str
    prior: str
    support: str = "positive"


@dataclass(frozen=True)
class Family:
    """What a response may be.

    Parameters
    ----------
    name
        As it is asked for.
    links
        That it knows, the default first.
    response
        What its values are: a key of :data:`SUPPORTS`.
    law
        Source of its law.
    own
        Parameters beside the mean.
    classes
        What the law needs of :mod:`vi_recipes.formula.laws`.
    """

    name: str
    links: tuple[str, ...]
    response: str
    law: str
    own: tuple[Own, ...] = ()
    classes: tuple[str, ...] = ()

    @property
    def takes_trials(self) -> bool:
        """Whether the response is counted among trials."""
        return self.response in ("trials", "counts")

    @property
    def of_levels(self) -> bool:
        """Whether every level but the first has a linear predictor of its own."""
        return self.response in ("levels", "counts")

    @property
    def mean_follows(self) -> bool:
        """Whether the mean is the link's inverse at the linear predictor, whatever the others are.

        Zeros of their own lower the mean of counts.
        """
        zeros = any(own.name == "zero" for own in self.own)
        return not (self.of_levels or self.is_ordinal or zeros)

    @property
    def has_hurdle(self) -> bool:
        """Whether zeros are apart from the law of the other counts."""
        return "Hurdle" in self.classes

    @property
    def is_ordinal(self) -> bool:
        """Whether thresholds stand for the intercept."""
        return self.response == "ordered"


PROBABILITY = ("logit", "probit", "cloglog")

SIGMA = Own("sigma", "log", "dist.Exponential({rate})")
SHAPE = Own("shape", "log", "dist.Gamma(2.0, 0.1)")
PHI = Own("phi", "log", "dist.Gamma(2.0, 0.1)")
ZERO = Own("zero", "logit", "dist.Beta(1.0, 1.0)", "unit")
CUTS = Own("cut", "", "", "ordered")

_COUNT = {
    "poisson": ("dist.Poisson(mu)", ()),
    "negbinomial": ("dist.NegativeBinomial2(mu, shape)", (SHAPE,)),
}


def _with_zeros() -> list[Family]:
    """Return the families with more zeros, or another law of them, than a count has."""
    made = []
    for name, (law, own) in _COUNT.items():
        made.append(
            Family(
                f"zero_inflated_{name}",
                ("log",),
                "count",
                f"dist.ZeroInflatedDistribution({law}, gate=zero)",
                (*own, ZERO),
            )
        )
        made.append(
            Family(
                f"hurdle_{name}", ("log",), "count", f"Hurdle({law}, zero)", (*own, ZERO),
                classes=("Hurdle",),
            )
        )  # fmt: skip
    return made


FAMILIES = {
    family.name: family
    for family in (
        Family("gaussian", ("identity", "log"), "real", "dist.Normal(mu, sigma)", (SIGMA,)),
        Family(
            "studentt",
            ("identity", "log"),
            "real",
            "dist.StudentT(nu, mu, sigma)",
            (SIGMA, Own("nu", "log", "dist.Gamma(2.0, 0.1)")),
        ),
        Family("bernoulli", PROBABILITY, "binary", "dist.Bernoulli(logits=logits)"),
        Family(
            "binomial",
            PROBABILITY,
            "trials",
            "dist.Binomial(total_count=trials, logits=logits)",
        ),
        Family(
            "betabinomial",
            PROBABILITY,
            "trials",
            "dist.BetaBinomial(mu * phi, (1.0 - mu) * phi, total_count=trials)",
            (PHI,),
        ),
        *(
            Family(name, ("log", "identity"), "count", law, own)
            for name, (law, own) in _COUNT.items()
        ),
        *_with_zeros(),
        Family(
            "gamma",
            ("log", "inverse", "identity"),
            "positive",
            "dist.Gamma(shape, shape / mu)",
            (SHAPE,),
        ),
        Family("beta", PROBABILITY, "unit", "dist.Beta(mu * phi, (1.0 - mu) * phi)", (PHI,)),
        Family(
            "cumulative",
            ("logit", "probit"),
            "ordered",
            "Cumulative(eta, cut, {link!r})",
            (CUTS,),
            classes=("Cumulative",),
        ),
        Family("categorical", ("logit",), "levels", "dist.Categorical(logits=eta)"),
        Family("multinomial", ("logit",), "counts", "dist.Multinomial(trials, logits=eta)"),
    )
}

SUPPORTS = {
    "real": "numbers",
    "binary": "0 and 1, or text of two values; successes among n trials are p(y, n)",
    "trials": "whole numbers of successes from 0 to the trials, as p(y, n) or cbind(y, n - y)",
    "count": "whole numbers from 0",
    "positive": "numbers above 0",
    "unit": "numbers between 0 and 1, both left out",
    "ordered": "ordered levels, or whole numbers",
    "levels": "a column of two levels or more",
    "counts": "whole numbers from 0 of every level, as cbind(a, b, c); one level a row is family "
    "'categorical'",
}

ELSEWHERE = {
    "normal": "gaussian",
    "student": "studentt",
    "t": "studentt",
    "binary": "bernoulli",
    "logistic": "bernoulli",
    "logit": "bernoulli",
    "nb": "negbinomial",
    "nbinom": "negbinomial",
    "nbinom2": "negbinomial",
    "zip": "zero_inflated_poisson",
    "zinb": "zero_inflated_negbinomial",
    "ordinal": "cumulative",
    "ordered": "cumulative",
    "softmax": "categorical",
    "multinom": "multinomial",
}
"""What other packages call a family -> its name here."""


def family_of(name: str) -> Family:
    """Return a family by name.

    Raises
    ------
    ValueError
        For an unknown one, with the closest.
    """
    if not isinstance(name, str) or name not in FAMILIES:
        here = ELSEWHERE.get(str(name).casefold())
        if here is not None:
            raise ValueError(f"family: got {name!r}, which is called {here!r} here")
        raise ValueError(f"family: {unknown('family', str(name), FAMILIES)}")
    return FAMILIES[name]


def link_of(family: Family, name: str | None) -> str:
    """Return the name of a family's link, the default where none is asked for.

    Raises
    ------
    ValueError
        For one that the family does not know.
    """
    if name is None:
        return family.links[0]
    if name not in family.links:
        raise ValueError(
            f"link: got {name!r}, expected one that family '{family.name}' knows: "
            f"{', '.join(family.links)}"
        )
    return name


def outside(family: Family, y: np.ndarray, trials: np.ndarray | None = None) -> np.ndarray:
    """Return which values of a response its family does not know, shape (rows,)."""
    match family.response:
        case "binary":
            return ~np.isin(y, (0, 1))
        case "trials":
            assert trials is not None
            return (y < 0) | (y > trials) | (y % 1 != 0)
        case "count" | "ordered" | "levels":
            return (y < 0) | (y % 1 != 0)
        case "counts":
            return ((y < 0) | (y % 1 != 0)).any(axis=1)
        case "positive":
            return y <= 0
        case "unit":
            return (y <= 0) | (y >= 1)
        case _:
            return ~np.isfinite(y)


def starting_level(
    family: Family, link: str, y: np.ndarray, weights: np.ndarray | None = None
) -> float:
    """Return where the intercept's prior is centred: 0, or the link at the response's mean."""
    if link in PROBABILITY or family.of_levels:
        return 0.0
    mean = float(np.average(y, weights=weights))
    if link == "identity":
        return mean
    return float(LINKS[link].forward(np.asarray(mean))) if mean > 0 else 0.0
