"""Whether a file holds a fit, field by field and array by array, before one is made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from vi_recipes.core import (
    Check,
    Status,
    Timing,
    check_content,
    is_flag,
    is_list,
    is_nothing,
    is_number,
    is_one_of,
    is_record,
    is_table,
    is_text,
    is_whole,
)
from vi_recipes.importance import KernelStein, WassersteinBounds
from vi_recipes.model import Site

LABELS = "biufmMU"
"""NumPy's kinds of coordinate labels."""


def _is_coordinates(value: Any) -> bool:
    if not is_record({"dtype": is_text, "values": lambda v: isinstance(v, list)})(value):
        return False
    try:
        kind = np.dtype(value["dtype"]).kind
        labels = np.array(value["values"], "i8" if kind in "mM" else kind)
        return kind in LABELS and labels.ndim == 1
    except (TypeError, ValueError, OverflowError):
        return False


EVIDENCE = is_record({"value": is_number, "se": is_number, "kind": is_text})

SITE = is_record(
    {
        "name": is_text,
        "kind": lambda v: v in ("latent", "deterministic", "observed", "discrete"),
        "shape": is_list(is_whole),
        "unconstrained_shape": is_list(is_whole),
        "plates": is_list(
            lambda v: (
                is_list(is_one_of(is_text, is_whole))(v)
                and [is_text(part) for part in v] == [True, False, False]
            )
        ),
        "dims": is_list(is_text),
        "support": is_text,
        "bounded": is_flag,
        "components": is_list(is_text),
    }
)

HEADER: Mapping[str, Check] = {
    "method": is_text,
    "kind": is_text,
    "status": lambda v: v in Status.__members__,
    "message": is_text,
    "advice": is_text,
    "config": is_table(lambda v: True),
    "sites": is_list(SITE),
    "coords": is_table(_is_coordinates),
    "timing": is_record({f.name: is_number for f in fields(Timing)}),
    "diagnostics": is_table(is_one_of(is_nothing, is_number)),
    "log_evidence": is_one_of(is_nothing, EVIDENCE),
    "log_likelihood": is_one_of(is_nothing, is_number),
    "other_optimum": is_one_of(
        is_nothing, is_record({"label": is_text, "value": is_number, "share": is_number})
    ),
    "provenance": is_record(
        {
            "model": is_text,
            "seed": is_one_of(is_nothing, is_whole),
            "data_fingerprint": is_text,
            "device": is_text,
            "dtype": is_text,
            "versions": is_table(is_text),
            "objects": is_text,
        }
    ),
}


def _of(record: type) -> Check:
    """Return the kind of what holds the fields of a dataclass of numbers with a reason."""
    names = {f.name: is_text if f.name == "reason" else is_number for f in fields(record)}
    return is_one_of(is_nothing, is_record(names))


ASSESSMENT: Mapping[str, Check] = {
    "num_draws": is_whole,
    "khat": is_number,
    "kl_surrogate": is_number,
    "block_khat": is_table(is_number),
    "evidence": is_list(EVIDENCE),
    "bounds": _of(WassersteinBounds),
    "stein": _of(KernelStein),
    "unknown": is_table(is_text),
    "errors": is_table(is_text),
    "seconds": is_number,
}

CORRECTION: Mapping[str, Check] = {
    "correction": is_record(
        {"khat": is_number, "ess": is_number, "num_draws": is_whole, "rounds": is_whole}
    ),
}


def check_header(header: Any) -> None:
    """Raise a :class:`ValueError` unless it is the header of a fit."""
    check_content(header, HEADER, optional={})
    sizes: dict[str, int] = {}
    for site in header["sites"]:
        if len(site["dims"]) != len(site["shape"]):
            raise ValueError(f"site '{site['name']}' has other dimensions than its shape")
        for dim, size in zip(site["dims"], site["shape"], strict=True):
            sizes[dim] = size
            if len(header["coords"].get(dim, {"values": ()})["values"]) != size:
                raise ValueError(f"'coords' has not {size} labels of '{dim}'")


def check_assessment(header: Any) -> None:
    """Raise a :class:`ValueError` unless it is what is kept of an assessment."""
    check_content(header, ASSESSMENT, optional=CORRECTION)


def check_values(
    groups: Mapping[str, Mapping[str, np.ndarray]], sites: Sequence[Site], leading: int
) -> None:
    """Raise a :class:`ValueError` unless every group has numbers of every site's shape.

    Parameters
    ----------
    groups
        Name of a group -> its arrays by site.
    sites
        Of the fit.
    leading
        Dimensions before those of the site, such as chain and draw.
    """
    for group, arrays in groups.items():
        for site in sites:
            value = arrays.get(site.name)
            if value is None or value.shape[leading:] != site.shape or value.ndim < leading:
                raise ValueError(f"'{group}' has no values of '{site.name}' in its shape")
            if value.dtype.kind not in "fiub":
                raise ValueError(f"'{group}' of '{site.name}' holds no numbers")


def check_own(path: Path) -> None:
    """Raise a :class:`ValueError` for a file that has parts of it in other files."""
    import h5py

    def is_elsewhere(name: str, link: Any) -> str | None:
        if isinstance(link, h5py.ExternalLink):
            return f"'{name}' is a link to another file, which is not followed"
        part = None if isinstance(link, h5py.SoftLink) else file[name]
        if isinstance(part, h5py.Dataset) and (part.external or part.is_virtual):
            return f"'{name}' lies in another file, which is not read"
        return None

    with h5py.File(path, "r") as file:
        found = file.visititems_links(is_elsewhere)
    if found:
        raise ValueError(found)


def check_density(density: Mapping[str, np.ndarray], values: Mapping[str, np.ndarray]) -> None:
    """Raise a :class:`ValueError` unless all draws have a vector and a density each."""
    numbers = {len(v) for v in values.values()}
    z, log_q = density.get("z", np.empty(0)), density.get("log_q", np.empty(0))
    fits = z.ndim == 2 and log_q.ndim == 1 and numbers == {len(z)} == {len(log_q)}
    if not fits or z.dtype.kind not in "fi" or log_q.dtype.kind not in "fi":
        raise ValueError("'density' is not that of the draws in 'weighed'")


def check_draws(stats: Mapping[str, np.ndarray]) -> None:
    """Raise a :class:`ValueError` unless a sampler's statistics are there for the same draws."""
    shapes = {value.shape[:2] for value in stats.values()}
    if len(shapes) > 1 or any(len(shape) < 2 for shape in shapes):
        raise ValueError("'sample_stats' is not of the same chains and draws throughout")
