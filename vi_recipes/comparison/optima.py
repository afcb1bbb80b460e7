"""Fits that end below others of their own kind: in a worse optimum, or short of one."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from vi_recipes.fit import Fit
from vi_recipes.importance import Bound
from vi_recipes.methods import BLOCK_FAMILIES, GUIDES

NEGLIGIBLE = 0.005
"""Nats that a point 0.1 sds from an optimum is below it: nearer is not told apart."""

MEAN_FIELD = ("meanfield", "lrvb")


@dataclass(frozen=True)
class Maximised:
    """What a fit has maximised.

    Parameters
    ----------
    kind
        Equal for fits that look for the highest value of one function.
    quantity
        What it is called.
    value, error
        Its value in nats, and how much of a difference is no worse optimum.
    """

    kind: Hashable
    quantity: str
    value: float
    error: float


def objective_of(fit: Fit) -> Maximised | None:
    """Return what a fit has maximised; ``None`` where other methods have nothing like it."""
    if not fit.has_result:
        return None
    told, config = fit.diagnostics, fit.config
    if fit.kind in ("map", "laplace") and "log_density" in told:
        space = config.get("space", "unconstrained")  # Laplace's
        quantity = f"log density over the {space} scale"
        return Maximised(("joint", space), quantity, told["log_density"], NEGLIGIBLE)
    if fit.log_likelihood is not None and config.get("objective", "mle") == "mle":
        # of other latent variables it is another function; of an approximate likelihood, the
        # difference may be the approximation's
        latent = tuple(sorted(config.get("latent") or ()))
        kind = "likelihood", latent, told.get("num_nodes", 0.0)
        return Maximised(kind, "log-likelihood", fit.log_likelihood, NEGLIGIBLE)
    evidence = fit.log_evidence
    if evidence is None or evidence.bound is not Bound.LOWER:
        return None
    error = 2 * evidence.se
    if fit.kind in MEAN_FIELD:
        base = str(config.get("base", ""))  # linear response's
        family: Hashable = (
            "mean field",
            base if "factors" in base else repr(config.get("factors") or {}),
        )
        return Maximised(family, evidence.how, evidence.value, error + NEGLIGIBLE)
    if fit.kind == "cavi":
        return Maximised("cavi", evidence.how, evidence.value, error + NEGLIGIBLE)
    if fit.kind == "svi":
        guide = config.get("guide")
        parts = guide.values() if isinstance(guide, Mapping) else [guide]
        if not all(part in GUIDES or part in BLOCK_FAMILIES for part in parts):
            return None  # of a guide of the user's own only the name is kept
        family = ("svi", evidence.how, *(repr(config.get(n)) for n in ("guide", "num_particles")))
        # a run that has converged is known to as much in every coordinate
        width = sum(site.size for site in fit.sites if site.kind == "latent")
        return Maximised(family, evidence.how, evidence.value, error + NEGLIGIBLE * width)
    return None


def shortfalls(fits: Mapping[str, Fit]) -> dict[str, str]:
    """Return, of the fits that ended below another of their kind, by how much and below which.

    Parameters
    ----------
    fits
        Name -> fit, of one target.

    Returns
    -------
    dict
        Name -> a sentence; nothing of a fit that none is above by more than their errors.
    """
    known = {name: found for name, fit in fits.items() if (found := objective_of(fit)) is not None}
    told = {}
    for name, own in known.items():
        alike = {other: o for other, o in known.items() if o.kind == own.kind}
        best = max(alike, key=lambda other: alike[other].value)
        gap = alike[best].value - own.value
        if gap > own.error + alike[best].error:
            told[name] = (
                f"Its {own.quantity}, {own.value:.3f}, is {gap:.3g} nats below that of {best}: "
                "it ended in a worse optimum, or short of one"
            )
    return told
