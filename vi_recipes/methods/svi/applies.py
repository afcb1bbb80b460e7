"""Whether stochastic variational inference applies: guide, objective, rows and model together."""

from __future__ import annotations

from collections.abc import Mapping

from numpyro.infer import autoguide

from vi_recipes.methods.guides.blocks import encoded_sites, optimal_sites, split_sites
from vi_recipes.methods.guides.making import families_in
from vi_recipes.methods.guides.separable import coupled
from vi_recipes.methods.guides.supports import strays
from vi_recipes.methods.minibatch.rows import find_rows
from vi_recipes.methods.svi.options import SVIOptions
from vi_recipes.model import Target


def why_not(method: SVIOptions, target: Target) -> str | None:
    """Return why a method does not apply to a target; ``None`` where it does.

    Raises
    ------
    ValueError
        For blocks that do not fit the sites of the target, and rows that cannot be drawn.
    """
    if isinstance(method.guide, Mapping):
        split_sites(method.guide, target)  # raises where it cannot
    return (
        _no_flow(method, target)
        or _no_optimum(method, target)
        or strays(method.guide, target)
        or _moving(method, target)
        or method.settings.clash(families_in(method.guide), _enclosing_plates(target))
        or _no_minibatches(method, target)
    )


def _no_flow(method: SVIOptions, target: Target) -> str | None:
    if not any(family.flow for family in families_in(method.guide)):
        return None
    if target.dim < 2:
        return "a flow needs two coordinates or more, and the model has one: use guide='normal'"
    if target.has_scan:
        return (
            "NumPyro's scan cannot be replayed under a guide with neural networks: use "
            "guide='multivariate_normal'"
        )
    return None


def _no_optimum(method: SVIOptions, target: Target) -> str | None:
    """Return why local variables have no optimum of their own, where that is asked for."""
    if not isinstance(method.guide, Mapping) or not (names := optimal_sites(method.guide, target)):
        return None
    if method.objective != "elbo":
        return (
            f"'optimal_normal' takes expectations in the ELBO, and the {method.settings.title} of "
            f"objective='{method.objective}' has other terms: use objective='elbo'"
        )
    if target.moving_supports or target.has_scan:
        return (
            "'optimal_normal' needs fixed supports and no scan: use guide='normal' or "
            "'multivariate_normal'"
        )
    return coupled(target, names)


def _moving(method: SVIOptions, target: Target) -> str | None:
    by_numpyro = isinstance(method.guide, str | Mapping | type | autoguide.AutoGuide)
    if by_numpyro and target.moving_supports:
        return (
            f"the support of {', '.join(target.moving_supports)} depends on other sites, and "
            "NumPyro's automatic guides keep supports fixed: write the site as a transform of "
            "one with a fixed support (x = lo + (hi - lo) * share), or give a guide function"
        )
    return None


def _no_minibatches(method: SVIOptions, target: Target) -> str | None:
    """Return why minibatches that are asked for are not possible."""
    rows = find_rows(target, method.batch_size, method.plate, method.batches)
    if rows is None:
        return None
    if method.settings.weighs:
        return (
            f"the {method.settings.title} is no sum over rows, so minibatches have no "
            "unbiased estimate of it: use objective='elbo'"
        )
    for family in families_in(method.guide):
        if family.all_rows:
            return family.all_rows
        if family.rows_in_memory and not rows.in_memory:
            return family.rows_in_memory
    encoded: list[str] = []
    if isinstance(method.guide, Mapping):
        encoded = encoded_sites(method.guide, target)
        optimal = optimal_sites(method.guide, target)
        local = rows.local(target)
        if apart := [name for name in optimal if name not in local]:
            return (
                f"site '{apart[0]}' is not in plate '{rows.plate}', whose rows are drawn, so that "
                "a minibatch has only some of the rows that its optimum takes: draw whole members "
                f"of its plate, plate='{target.sites[apart[0]].plates[0][0]}'"
            )
        encoded += optimal
    elif not isinstance(method.guide, str | type | autoguide.AutoGuide):
        return None  # a guide function knows its rows
    for name in rows.local(target):
        if name not in encoded:
            return (
                f"site '{name}' is local to plate '{rows.plate}', whose rows are drawn, and "
                "parameters of its own for every row would hardly ever be updated: give it an "
                f"encoder, guide={{'{name}': 'amortised'}}, or the optimum given the global "
                f"variables, guide={{'{name}': 'optimal_normal'}}, integrate it out in the model, "
                "or fit all rows"
            )
    return None


def _enclosing_plates(target: Target) -> list[str]:
    """Return the plates that hold every site of the model that has a density."""
    sites = [{name for name, _, _ in s.plates} for s in (*target.latents, *target.observed)]
    return [] if target.has_factors else sorted(set.intersection(*sites))
