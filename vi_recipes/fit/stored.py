"""Fits as netCDF files: fields in, fields out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vi_recipes.core import Status, Timing, as_key, one_at_a_time, unreadable, visible, write_whole
from vi_recipes.fit.arviz import site_layout, to_tree
from vi_recipes.fit.checked import (
    check_assessment,
    check_density,
    check_draws,
    check_header,
    check_own,
    check_values,
)
from vi_recipes.fit.draws import NUM_DRAWS, fresh_draws, has_long_draws
from vi_recipes.fit.fitted import Fitted
from vi_recipes.fit.names import TreeLayout, lay_out, true_names
from vi_recipes.fit.records import MAX_STORED_COV, Assessment, Correction, OtherOptimum, Provenance
from vi_recipes.importance import KernelStein, LogEvidence, WassersteinBounds
from vi_recipes.model import Site
from vi_recipes.posterior import (
    DrawsPosterior,
    Moments,
    MomentsPosterior,
    Posterior,
    WeighedDraws,
)

if TYPE_CHECKING:
    import xarray as xr


HEADER = "vi_recipes_fit"
"""Attribute of a tree that holds what is no array of a fit."""

ASSESSMENT = "vi_recipes_assessment"
"""Attribute of a tree that holds what is no array of an assessment."""

DENSITY, WEIGHED = "density", "weighed"
"""Groups with draws of an approximation: as flat vectors with their density, and by site."""

_MOMENTS = ("mean", "sd", "mcse_mean", "mcse_sd")
_CORRECTED = (*_MOMENTS, "tails")
TAILS = "tails"


# -- writing ---------------------------------------------------------------------------------


@one_at_a_time
def save(fit: Fitted, path: Path) -> Path:
    """Write a fit to a netCDF file (see :meth:`Fit.save`)."""
    import xarray as xr

    long = has_long_draws(fit)
    layout = site_layout(fit.sites, fit.coords)
    tree = xr.DataTree()
    if fit.has_result:
        coords = {dim: _printable(labels) for dim, labels in fit.coords.items()}
        tree = to_tree(fit, num_draws=1 if long else None, coords=coords)
    if long:
        tree["posterior"] = _without_draws(tree["posterior"].to_dataset(), NUM_DRAWS)
    if fit.has_result:
        moments = {
            "mean": fit.mean(),
            "sd": fit.sd(),
            "mcse_mean": fit.mcse(),
            "mcse_sd": fit.mcse_sd(),
        }
        for group, values in moments.items():
            tree[group] = _group(values, layout)
        write_group(tree, TAILS, fit.known_posterior().tails())
        size = sum(s.size for s in fit.sites)
        if size <= MAX_STORED_COV:
            frame = fit.cov()
            axes = ("parameter", "parameter_bis")
            tree["covariance"] = xr.DataTree(xr.Dataset({"covariance": (axes, frame.to_numpy())}))
    if fit.has_result and not long and (weighed := _weighed(fit)) is not None:
        write_group(tree, DENSITY, {"z": weighed.z, "log_q": weighed.log_q})
        write_group(tree, WEIGHED, weighed.values)
    write_group(tree, "trace", fit.trace)
    write_group(tree, "latents", fit.latents)
    if fit.assessment is not None:
        write_assessment(tree, fit.assessment)
    tree.attrs[HEADER] = json.dumps(_header(fit), default=_plain)

    def write(beside: Path) -> None:
        tree.to_netcdf(beside, engine="h5netcdf")
        if long:
            _append_draws(fit, layout, beside, NUM_DRAWS)

    draws = NUM_DRAWS * sum(site.size for site in fit.sites) if long else 0
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_whole(path, write, size=_room(tree, draws))


def _weighed(fit: Fitted) -> WeighedDraws | None:
    """Return draws with their density, by which a fit that is read back is assessed again."""
    if fit.is_sampler or fit.is_point:
        return None
    return fit.known_posterior().weighed_draws(NUM_DRAWS, as_key(0))


def _room(tree: xr.DataTree, draws: int) -> int:
    """Return bytes that are enough for a tree in a file, with so many numbers beside it."""
    nodes = list(tree.subtree)
    parts = sum(3 + len(node.variables) for node in nodes)
    numbers = sum(variable.nbytes for node in nodes for variable in node.variables.values())
    texts = sum(len(str(value).encode("utf-8", "replace")) for value in tree.attrs.values())
    return int(1.1 * (numbers + 8 * draws)) + 2 * texts + 8_192 * parts + 65_536


def _without_draws(posterior: xr.Dataset, num_draws: int) -> xr.DataTree:
    """Return the group of the draws with its coordinates, room for so many, and none of them."""
    import xarray as xr

    kept = posterior.drop_vars([*posterior.data_vars, "draw"])
    return xr.DataTree(kept.assign_coords(draw=np.arange(num_draws)))


def _append_draws(fit: Fitted, layout: TreeLayout, path: Path, num_draws: int) -> None:
    """Add the draws to a file that has room for them, a piece at a time."""
    import h5netcdf

    with h5netcdf.File(path, "a") as file:
        group = file["posterior"]
        start = 0
        for piece in fresh_draws(fit, num_draws):
            stop = start + len(next(iter(piece.values())))
            for site, value in piece.items():
                name = layout.variables[site]
                if name not in group.variables:
                    dims = ("chain", "draw", *layout.dims[site])
                    group.create_variable(name, dims, value.dtype)
                group[name][0, start:stop] = value
            start = stop


def _header(fit: Fitted) -> dict[str, Any]:
    return {
        "method": fit.method,
        "kind": fit.kind,
        "status": fit.status.name,
        "message": fit.message,
        "advice": fit.advice,
        "config": dict(fit.config),
        "sites": [asdict(s) for s in fit.sites],
        "coords": {name: _packed(np.asarray(v)) for name, v in fit.coords.items()},
        "timing": fit.timing.to_dict(),
        "diagnostics": dict(fit.diagnostics),
        "log_evidence": fit.log_evidence and fit.log_evidence.to_dict(),
        "log_likelihood": fit.log_likelihood,
        "other_optimum": fit.other_optimum and asdict(fit.other_optimum),
        "provenance": asdict(fit.provenance),
    }


def _printable(labels: np.ndarray) -> np.ndarray:
    """Return labels without what netCDF cannot hold; the header has them as they are."""
    return np.array([visible(v) for v in labels]) if labels.dtype.kind == "U" else labels


def _packed(labels: np.ndarray) -> dict[str, Any]:
    """Return labels in JSON's types, dates as the integers that they are counted by."""
    dated = labels.dtype.kind in "mM"
    return {"dtype": labels.dtype.str, "values": (labels.view("i8") if dated else labels).tolist()}


def _unpacked(dtype: str, values: list[Any]) -> np.ndarray:
    if np.dtype(dtype).kind in "mM":
        return np.array(values, "i8").view(dtype)
    return np.array(values, dtype)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return str(value)


# -- reading ---------------------------------------------------------------------------------


def is_fit(path: Path) -> bool:
    """Whether a file says that it holds a fit, and not draws made elsewhere."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return HEADER in file.attrs
    except OSError:
        return False


def read(path: str | Path) -> dict[str, Any]:
    """Return the fields of a fit, read from its netCDF file (see :meth:`Fit.load`)."""
    path = Path(path)
    try:
        if reason := unreadable(path):
            raise ValueError(reason)
        return _read(path)
    except Exception as error:  # whatever a damaged file, or one of someone else, makes of it
        told = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}: not a fit saved by vi_recipes ({told})") from None


def _read(path: Path) -> dict[str, Any]:
    import xarray as xr

    check_own(path)
    tree = xr.load_datatree(path, engine="h5netcdf")
    if HEADER not in tree.attrs:
        raise ValueError("it has no header")
    header = json.loads(tree.attrs[HEADER])
    check_header(header)
    sites = tuple(
        Site(
            **{
                **s,
                **{k: _tuples(v) for k, v in s.items() if isinstance(v, list)},
            }
        )
        for s in header["sites"]
    )
    stats = read_group(tree, "sample_stats")
    check_draws(stats)
    evidence, other = header["log_evidence"], header["other_optimum"]
    return {
        "method": header["method"],
        "status": Status[header["status"]],
        "message": header["message"],
        "advice": header["advice"],
        "config": header["config"],
        "sites": sites,
        "coords": {name: _unpacked(**v) for name, v in header["coords"].items()},
        "posterior": _load_posterior(tree, sites),
        "timing": Timing(**header["timing"]),
        "trace": read_group(tree, "trace"),
        "diagnostics": {
            k: float("nan") if v is None else v for k, v in header["diagnostics"].items()
        },
        "log_evidence": evidence and LogEvidence.from_dict(evidence),
        "log_likelihood": header["log_likelihood"],
        "other_optimum": other and OtherOptimum(**other),
        "sample_stats": stats,
        "latents": read_group(tree, "latents"),
        "assessment": read_assessment(tree, sites),
        "provenance": Provenance(**header["provenance"]),
        "kind": header["kind"],
    }


def _load_posterior(tree: xr.DataTree, sites: tuple[Site, ...]) -> Posterior | None:
    if "mean" not in tree.children:
        return None
    samples = read_group(tree, "posterior")
    check_values({"posterior": samples}, sites, 2)
    if "sample_stats" in tree.children:
        return DrawsPosterior(samples)
    check_values({name: read_group(tree, name) for name in _MOMENTS}, sites, 0)
    covariance = read_group(tree, "covariance").get("covariance")
    size = sum(site.size for site in sites)
    if covariance is not None and covariance.shape != (size, size):
        raise ValueError(f"'covariance' is of shape {covariance.shape}, expected {(size, size)}")
    weighed = None
    if DENSITY in tree.children:
        density, values = read_group(tree, DENSITY), read_group(tree, WEIGHED)
        check_values({WEIGHED: values}, sites, 1)
        check_density(density, values)
        weighed = WeighedDraws(density["z"], density["log_q"], values)
    return MomentsPosterior(
        means=read_group(tree, "mean"),
        sds=read_group(tree, "sd"),
        covariance=covariance,
        order=tuple(s.name for s in sites),
        mcse_means=read_group(tree, "mcse_mean"),
        mcse_sds=read_group(tree, "mcse_sd"),
        samples=samples,
        weighed=weighed,
        shapes=_read_tails(tree, sites),
    )


def _read_tails(tree: xr.DataTree, sites: tuple[Site, ...]) -> dict[str, np.ndarray]:
    tails = read_group(tree, TAILS)
    check_values({TAILS: tails}, [s for s in sites if s.name in tails], 0)
    return tails


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


# -- assessments -----------------------------------------------------------------------------


def write_assessment(tree: xr.DataTree, assessment: Assessment) -> None:
    """Add an assessment to a fit's tree."""
    header: dict[str, Any] = {
        "num_draws": assessment.num_draws,
        "khat": assessment.khat,
        "kl_surrogate": assessment.kl_surrogate,
        "block_khat": dict(assessment.block_khat),
        "evidence": [e.to_dict() for e in assessment.evidence],
        "bounds": assessment.bounds and asdict(assessment.bounds),
        "stein": assessment.stein and asdict(assessment.stein),
        "unknown": dict(assessment.unknown),
        "errors": dict(assessment.errors),
        "seconds": assessment.seconds,
    }
    groups = {"response_ratio": assessment.response_ratio}
    if (correction := assessment.correction) is not None:
        header["correction"] = {
            "khat": correction.khat,
            "ess": correction.ess,
            "num_draws": correction.num_draws,
            "rounds": correction.num_rounds,
        }
        groups |= {f"corrected_{name}": getattr(correction.moments, name) for name in _CORRECTED}
    for group, values in groups.items():
        write_group(tree, group, values)
    tree.attrs[ASSESSMENT] = json.dumps(header)


def read_assessment(tree: xr.DataTree, sites: tuple[Site, ...]) -> Assessment | None:
    """Return the assessment in a fit's tree, ``None`` where there is none."""
    if ASSESSMENT not in tree.attrs:
        return None
    header = json.loads(tree.attrs[ASSESSMENT])
    check_assessment(header)
    correction = None
    if about := header.pop("correction", None):
        groups = {name: read_group(tree, f"corrected_{name}") for name in _CORRECTED}
        check_values({name: groups[name] for name in _MOMENTS}, sites, 0)
        check_values({"tails": groups["tails"]}, [s for s in sites if s.name in groups["tails"]], 0)
        moments = Moments(*groups.values())
        correction = Correction(
            moments, about["khat"], about["ess"], about["num_draws"], about["rounds"]
        )
    bounds, stein = header.pop("bounds"), header.pop("stein")
    return Assessment(
        **{**header, "evidence": tuple(map(LogEvidence.from_dict, header["evidence"]))},
        correction=correction,
        bounds=WassersteinBounds(**bounds) if bounds else None,
        stein=KernelStein(**stein) if stein else None,
        response_ratio=read_group(tree, "response_ratio"),
    )


# -- groups ----------------------------------------------------------------------------------


def write_group(tree: xr.DataTree, group: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Add arrays to a tree, each with dimensions of its own; nothing where there are none."""
    if arrays:
        dims = {n: [f"{n}_{i or 'index'}" for i in range(np.ndim(v))] for n, v in arrays.items()}
        layout = lay_out(dims, {n: np.shape(v) for n, v in arrays.items()})
        tree[group] = _group(arrays, layout)


def _group(arrays: Mapping[str, np.ndarray], layout: TreeLayout) -> xr.DataTree:
    import xarray as xr

    data = {layout.variables[n]: (layout.dims[n], np.asarray(v)) for n, v in arrays.items()}
    return xr.DataTree(xr.Dataset(data, attrs=layout.attributes(arrays)))


def read_group(tree: xr.DataTree, group: str) -> dict[str, np.ndarray]:
    """Return the arrays of a group by name; none where the tree has no such group."""
    if group not in tree.children:
        return {}
    known = true_names(tree[group].attrs)
    arrays = tree[group].to_dataset().data_vars
    return {known.get(str(n), str(n)): np.asarray(v) for n, v in arrays.items()}
