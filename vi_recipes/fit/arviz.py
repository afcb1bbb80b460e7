"""A fit as an ArviZ tree."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vi_recipes.core import as_key, one_at_a_time
from vi_recipes.fit.draws import FitDraws, check_num_draws, fit_draws, plain_draws
from vi_recipes.fit.fitted import Fitted
from vi_recipes.fit.names import TreeLayout, lay_out
from vi_recipes.model import (
    Site,
    Sites,
    Target,
    log_likelihood_at,
    observed_data,
    observed_sites,
    replicate_at,
)

if TYPE_CHECKING:
    import xarray as xr


# -- trees -----------------------------------------------------------------------------------


@one_at_a_time
def to_tree(
    fit: Fitted,
    target: Target | None = None,
    *,
    log_likelihood: bool = False,
    posterior_predictive: bool = False,
    num_draws: int | None = None,
    coords: Mapping[str, np.ndarray] | None = None,
) -> xr.DataTree:
    """Return a fit as an ArviZ ``DataTree`` (see :meth:`Fit.to_arviz`).

    ``coords`` are labels of dimensions in place of the fit's own.
    """
    import arviz_base as az

    check_num_draws(num_draws)
    sites, coords = list(fit.sites), dict(fit.coords if coords is None else coords)
    if target is None:
        if log_likelihood or posterior_predictive:
            raise ValueError(
                "target: got none, expected the fit's: log_likelihood and posterior_predictive "
                "come from the model and its data, as in fit.to_arviz(target, log_likelihood=True)"
            )
        drawn = _draws_or_mean(fit, num_draws)
        groups: dict[str, Any] = {"posterior": drawn.samples}
    else:
        drawn = fit_draws(fit, target, num_draws, predictive=posterior_predictive)
        groups = {"posterior": drawn.samples}
        sites += observed_sites(target).values()
        coords |= target.coords
        if log_likelihood:
            target.check_pointwise()
            groups["log_likelihood"] = log_likelihood_at(target, drawn.samples)
        if posterior_predictive:
            groups["posterior_predictive"] = replicate_at(target, drawn.samples, as_key(0))
        if data := observed_data(target):
            groups["observed_data"] = data
    layout = site_layout(sites, coords)
    named = {group: layout.rename(values) for group, values in groups.items()}
    if stats := _sample_stats(fit, target, drawn):
        named["sample_stats"] = stats
    dims = {layout.variables[name]: list(own) for name, own in layout.dims.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one chain is what an approximation has
        tree = az.from_dict(named, dims=dims, coords=dict(layout.coords))
    for group, values in groups.items():
        tree[group].attrs.update(layout.attributes(values))
    attributes = {
        "inference_library": "vi_recipes",
        "method": fit.method,
        "status": fit.status.name,
        "model": fit.provenance.model,
        "seed": -1 if fit.provenance.seed is None else fit.provenance.seed,
        "versions": json.dumps(dict(fit.provenance.versions)),
    }
    tree.attrs.update(attributes)
    tree["posterior"].attrs.update(attributes)
    return tree


def site_layout(sites: Iterable[Site], coords: Mapping[str, np.ndarray]) -> TreeLayout:
    """Return how the values of sites are laid out in a tree."""
    listed = list(sites)
    dims = {site.name: site.dims for site in listed}
    return lay_out(dims, {site.name: site.shape for site in listed}, coords)


def _draws_or_mean(fit: Fitted, num_draws: int | None) -> FitDraws:
    try:
        return plain_draws(fit, num_draws)
    except ValueError:  # moments without draws
        return FitDraws({name: value[None, None] for name, value in fit.mean().items()})


def _sample_stats(fit: Fitted, target: Target | None, drawn: FitDraws) -> Sites:
    """Return a sampler's statistics of the draws, or the densities of an approximation's."""
    if drawn.kept is not None:
        return {name: np.asarray(v)[:, drawn.kept] for name, v in fit.sample_stats.items()}
    if target is None or drawn.z is None or drawn.log_q is None:
        return {}
    return {"log_p": target.log_densities(drawn.z)[None], "log_q": drawn.log_q[None]}
