"""Fits as ArviZ's trees and as netCDF files."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vi_recipes.core.status import Status
from vi_recipes.core.timing import Timing
from vi_recipes.fit.fit import MAX_STORED_COV, Fit, LogEvidence, Provenance, as_key
from vi_recipes.fit.predictions import (
    FitDraws,
    check_num_draws,
    fit_draws,
    log_likelihood_at,
    observed_data,
    observed_sites,
    plain_draws,
    replicate_at,
)
from vi_recipes.groups import read_group, write_group
from vi_recipes.model.sites import Site
from vi_recipes.model.target import Target
from vi_recipes.posterior.base import DrawsPosterior, MomentsPosterior, Posterior, Sites
from vi_recipes.stored_assessment import read_assessment, write_assessment

if TYPE_CHECKING:
    import xarray as xr

# -- trees -----------------------------------------------------------------------------------


def to_tree(
    fit: Fit,
    target: Target | None,
    *,
    log_likelihood: bool,
    posterior_predictive: bool,
    num_draws: int | None,
) -> xr.DataTree:
    """Return a fit as an ArviZ ``DataTree`` (see :meth:`Fit.to_arviz`)."""
    import arviz_base as az

    check_num_draws(num_draws)
    dims = {site.name: list(site.dims) for site in fit.sites}
    coords = dict(fit.coords)
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
        dims |= {site.name: list(site.dims) for site in observed_sites(target).values()}
        coords |= target.coords
        if log_likelihood:
            target.check_pointwise()
            groups["log_likelihood"] = log_likelihood_at(target, drawn.samples)
        if posterior_predictive:
            groups["posterior_predictive"] = replicate_at(target, drawn.samples, as_key(0))
        if data := observed_data(target):
            groups["observed_data"] = data
    if stats := _sample_stats(fit, target, drawn):
        groups["sample_stats"] = stats
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one chain is what an approximation has
        tree = az.from_dict(groups, dims=dims, coords=coords)
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


def _draws_or_mean(fit: Fit, num_draws: int | None) -> FitDraws:
    try:
        return plain_draws(fit, num_draws)
    except ValueError:  # moments without draws
        return FitDraws({name: value[None, None] for name, value in fit.mean().items()})


def _sample_stats(fit: Fit, target: Target | None, drawn: FitDraws) -> Sites:
    """Return a sampler's statistics of the draws, or the densities of an approximation's."""
    if drawn.kept is not None:
        return {name: np.asarray(v)[:, drawn.kept] for name, v in fit.sample_stats.items()}
    if target is None or drawn.z is None or drawn.log_q is None:
        return {}
    return {"log_p": target.log_densities(drawn.z)[None], "log_q": drawn.log_q[None]}


# -- files -----------------------------------------------------------------------------------


def save(fit: Fit, path: Path) -> Path:
    """Write a fit to a netCDF file (see :meth:`Fit.save`)."""
    import xarray as xr

    tree = fit.to_arviz() if fit.has_result else xr.DataTree()
    if fit.has_result:
        moments = {
            "mean": fit.mean(),
            "sd": fit.sd(),
            "mcse_mean": fit.mcse(),
            "mcse_sd": fit.mcse_sd(),
        }
        dims = {s.name: s.dims for s in fit.sites}
        for group, values in moments.items():
            data = {n: (dims[n], np.asarray(v)) for n, v in values.items()}
            tree[group] = xr.DataTree(xr.Dataset(data))
        size = sum(s.size for s in fit.sites)
        if size <= MAX_STORED_COV:
            frame = fit.cov()
            axes = ("parameter", "parameter_bis")
            tree["covariance"] = xr.DataTree(xr.Dataset({"covariance": (axes, frame.to_numpy())}))
    write_group(tree, "trace", fit.trace)
    write_group(tree, "latents", fit.latents)
    if fit.assessment is not None:
        write_assessment(tree, fit.assessment)
    tree.attrs["vi_recipes_fit"] = json.dumps(_header(fit), default=_plain)
    # whole or not at all: an interrupt leaves no half a file, and readers keep the old one
    partial = path.with_name(f".{path.name}.partial")
    tree.to_netcdf(partial, engine="h5netcdf")
    partial.replace(path)
    return path


def _header(fit: Fit) -> dict[str, Any]:
    return {
        "method": fit.method,
        "kind": fit.kind,
        "status": fit.status.name,
        "message": fit.message,
        "advice": fit.advice,
        "config": dict(fit.config),
        "sites": [asdict(s) for s in fit.sites],
        "coords": {name: np.asarray(v).tolist() for name, v in fit.coords.items()},
        "timing": fit.timing.to_dict(),
        "diagnostics": dict(fit.diagnostics),
        "log_evidence": asdict(fit.log_evidence) if fit.log_evidence else None,
        "log_likelihood": fit.log_likelihood,
        "provenance": asdict(fit.provenance),
    }


def load(path: str | Path) -> Fit:
    """Read a fit from its netCDF file (see :meth:`Fit.load`)."""
    import xarray as xr

    try:
        tree = xr.load_datatree(path, engine="h5netcdf")
        header = json.loads(tree.attrs["vi_recipes_fit"])
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path}: not a fit saved by vi_recipes ({error})") from None
    sites = tuple(
        Site(
            **{
                **s,
                **{k: _tuples(s[k]) for k in ("shape", "unconstrained_shape", "plates", "dims")},
            }
        )
        for s in header["sites"]
    )
    evidence = header["log_evidence"]
    return Fit(
        method=header["method"],
        status=Status[header["status"]],
        message=header["message"],
        advice=header["advice"],
        config=header["config"],
        sites=sites,
        coords={name: np.asarray(v) for name, v in header["coords"].items()},
        posterior=_load_posterior(tree, sites),
        timing=Timing(**header["timing"]),
        trace=read_group(tree, "trace"),
        diagnostics={k: float("nan") if v is None else v for k, v in header["diagnostics"].items()},
        log_evidence=LogEvidence(**evidence) if evidence else None,
        log_likelihood=header["log_likelihood"],
        sample_stats=read_group(tree, "sample_stats"),
        latents=read_group(tree, "latents"),
        assessment=read_assessment(tree),
        provenance=Provenance(**header["provenance"]),
        kind=header["kind"],
    )


def _load_posterior(tree: xr.DataTree, sites: tuple[Site, ...]) -> Posterior | None:
    if "mean" not in tree.children:
        return None
    samples = read_group(tree, "posterior")
    if "sample_stats" in tree.children:
        return DrawsPosterior(samples)
    covariance = read_group(tree, "covariance").get("covariance")
    return MomentsPosterior(
        means=read_group(tree, "mean"),
        sds=read_group(tree, "sd"),
        covariance=covariance,
        order=tuple(s.name for s in sites),
        mcse_means=read_group(tree, "mcse_mean"),
        mcse_sds=read_group(tree, "mcse_sd"),
        samples=samples,
    )


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return str(value)
