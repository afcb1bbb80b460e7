"""Whether the laws of a user's guide stay within the supports of the model's sites."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from numpyro import handlers
from numpyro.distributions import (
    Delta,
    ExpandedDistribution,
    Independent,
    MaskedDistribution,
    TransformedDistribution,
    constraints,
)
from numpyro.infer.autoguide import AutoGuide

from vi_recipes.model import Target

NUM_DRAWS = 5
"""Draws of a guide that are held against the supports."""


def strays(guide: Any, target: Target) -> str | None:
    """Return which site of a guide function has a law beyond the model's support, if one has.

    Its ELBO is minus infinity, or not a number, sooner or later. Other guides are given by name or
    class, and have the supports of the model's sites by construction.
    """
    if isinstance(guide, str | type | AutoGuide) or not callable(guide):
        return None
    for number in range(NUM_DRAWS):
        with jax.enable_x64(True):
            if (found := _stray(guide, target, jax.random.key(number))) is not None:
                return found
    return None


def _stray(guide: Callable[..., Any], target: Target, key: jax.Array) -> str | None:
    data = target.keywords(target.arrays())
    drawn = handlers.trace(handlers.seed(guide, key)).get_trace(**data)
    laws = {name: site for name, site in drawn.items() if site["type"] == "sample"}
    values = {name: site["value"] for name, site in laws.items()}
    model = handlers.substitute(handlers.seed(target.model.function, key), data=values)
    sites = handlers.trace(model).get_trace(**data)
    for latent in target.latents:
        law, site = laws.get(latent.name), sites.get(latent.name)
        if law is None or site is None:
            continue
        support = site["fn"].support
        outside = not np.all(support(law["value"]))
        wider = _is_on_the_line(law["fn"]) and not _is_real(support)
        if outside or (wider and not isinstance(law["fn"], Delta)):
            return (
                f"the guide's law of '{latent.name}' is {type(law['fn']).__name__}, which goes "
                f"beyond the support of the model's, {_words(support)}: take one of that support, "
                "such as dist.LogNormal for positive values, or transform it "
                "(dist.TransformedDistribution)"
            )
    return None


def _base(support: Any) -> Any:
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def _is_on_the_line(law: Any) -> bool:
    """Return whether a law's draws may be any real numbers.

    A shift and a scale declare all real numbers, also where what they shift is bounded.
    """
    while isinstance(law, Independent | ExpandedDistribution | MaskedDistribution):
        law = law.base_dist
    if isinstance(law, TransformedDistribution) and not _is_on_the_line(law.base_dist):
        return False
    return _is_real(law.support)


def _is_real(support: Any) -> bool:
    return _base(support) in (constraints.real, constraints.real_vector)


def _words(support: Any) -> str:
    name = type(_base(support)).__name__.strip("_")
    return "".join(f" {c.lower()}" if c.isupper() else c for c in name).replace("_", " ").strip()
