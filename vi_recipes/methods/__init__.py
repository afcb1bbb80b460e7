"""The methods, and the names they go by at the command line."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from vi_recipes.core import attempt, one_at_a_time, unknown
from vi_recipes.methods.base import Method
from vi_recipes.methods.cavi import CAVI
from vi_recipes.methods.em.em import EM
from vi_recipes.methods.forward_kl import ForwardKL
from vi_recipes.methods.guides.amortised import Amortised
from vi_recipes.methods.guides.encoder import normal_encoder, point_mass, random_start
from vi_recipes.methods.guides.families import BLOCK_FAMILIES, GUIDES
from vi_recipes.methods.guides.family import GuideFamily
from vi_recipes.methods.laplace import Laplace
from vi_recipes.methods.linear_response import LinearResponse
from vi_recipes.methods.map import MAP
from vi_recipes.methods.marginal_mle import MarginalMLE
from vi_recipes.methods.meanfield import MeanField
from vi_recipes.methods.nested.nested import NestedQuadrature
from vi_recipes.methods.nested.weigh import ThetaWeights, theta_weights
from vi_recipes.methods.nuts.nuts import NUTS
from vi_recipes.methods.pathfinder import Pathfinder
from vi_recipes.methods.sources import REFERENCES, SOURCES, bibtex
from vi_recipes.methods.structured import StructuredVB
from vi_recipes.methods.svgd import SVGD
from vi_recipes.methods.svi.objectives import ScoreELBO, StickingELBO
from vi_recipes.methods.svi.svi import SVI
from vi_recipes.methods.variational_em import VariationalEM
from vi_recipes.model import Target

METHODS: dict[str, type[Method]] = {
    method.key: method
    for method in (
        MAP,
        Laplace,
        EM,
        MarginalMLE,
        VariationalEM,
        CAVI,
        MeanField,
        LinearResponse,
        StructuredVB,
        NestedQuadrature,
        SVI,
        ForwardKL,
        SVGD,
        Pathfinder,
        NUTS,
    )
}
"""Name -> method, in the order they are run: fast ones first."""


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def parse_methods(text: str, argument: str = "methods") -> dict[str, str]:
    """Return the methods that a text lists: name in the comparison -> name of the method.

    Parameters
    ----------
    text
        Such as ``"map,nuts"``, or ``"map,full=svi"`` for a name of one's own.
    argument
        What the text was given as, for complaints.

    Raises
    ------
    ValueError
        For an unknown method, a name that is none, one that is there twice, or no method at all.
    """
    entries: dict[str, str] = {}
    for entry in text.split(","):
        if not entry.strip():
            continue
        label, named, method = (part.strip() for part in entry.rpartition("="))
        label = label if named else method
        if method not in METHODS:
            raise ValueError(f"{argument}: {unknown('method', method, METHODS)}")
        if not _NAME.fullmatch(label):
            raise ValueError(
                f"{argument}: {label!r} cannot name a method; use letters, digits, '_', '-' and '.'"
            )
        if label in entries:
            raise ValueError(
                f"{argument}: '{label}' is listed twice; give the second a name of its own, as in "
                f"{label},other={method}"
            )
        entries[label] = method
    if not entries:
        raise ValueError(f"{argument}: got {text!r}, expected one or more of {', '.join(METHODS)}")
    return entries


def make_method(name: str, target: Target, **options: Any) -> Method:
    """Return the method called ``name``, with the model's own options and then ``options``."""
    known = [field.name for field in dataclasses.fields(METHODS[name])]
    own = target.model.options.get(name, {})
    for option in own:
        if option not in known:
            what = unknown(f"option of {name}", option, known)
            raise ValueError(f"options of model '{target.name}': {what}")
    try:
        return METHODS[name](**{**own, **options})
    except ValueError as error:
        raise ValueError(f"method '{name}': {error}") from None


@one_at_a_time
def default_methods(target: Target) -> dict[str, Method]:
    """Return the methods to run on ``target`` unasked, by name, with the model's own options."""
    methods = {name: make_method(name, target) for name in METHODS if METHODS[name].by_default}

    def applies(method: Method) -> bool:
        # what an error stops from telling is told by its fit
        return attempt(lambda: method.refusal(target) is None, lambda _: True)

    return {name: method for name, method in methods.items() if applies(method)}


__all__ = [
    "BLOCK_FAMILIES",
    "CAVI",
    "EM",
    "GUIDES",
    "MAP",
    "METHODS",
    "NUTS",
    "REFERENCES",
    "SOURCES",
    "SVGD",
    "SVI",
    "Amortised",
    "ForwardKL",
    "GuideFamily",
    "Laplace",
    "LinearResponse",
    "MarginalMLE",
    "MeanField",
    "Method",
    "NestedQuadrature",
    "Pathfinder",
    "ScoreELBO",
    "StickingELBO",
    "StructuredVB",
    "ThetaWeights",
    "VariationalEM",
    "bibtex",
    "default_methods",
    "make_method",
    "normal_encoder",
    "parse_methods",
    "point_mass",
    "random_start",
    "theta_weights",
]
