"""Whether a folder's header is one of a comparison, before anything that it names is read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vi_recipes.comparison.notes import NoteKind
from vi_recipes.core import (
    Check,
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
from vi_recipes.fit import EVIDENCE, Fit
from vi_recipes.model import listed

MAX_NAME = 100
"""Characters of a fit's name, of which a file is named."""


def is_fit_name(name: Any) -> bool:
    """Whether a fit may be called so: letters, digits, ``-``, ``_`` and ``.``."""
    return (
        isinstance(name, str)
        and 0 < len(name) <= MAX_NAME
        and all(c.isalnum() or c in "-_." for c in name)
    )


def _is_axis(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_order(value: Any) -> bool:
    return is_list(is_whole)(value) and sorted(value) == list(range(len(value)))


FIELDS: Mapping[str, Check] = {
    "fits": lambda v: is_list(is_fit_name)(v) and 0 < len(v) == len(set(v)),
    "reference": is_one_of(is_nothing, is_fit_name),
    "target_name": is_text,
    "notes": is_list(is_record({"kind": lambda v: v in [*NoteKind], "text": is_text})),
    "interrupted": is_flag,
    "description": is_text,
}

MORE: Mapping[str, Check] = {
    "model_mark": is_text,
    "rows_left_out": is_whole,
    "left": is_record({"names": is_list(is_fit_name), "sure": is_flag}),
    "quadrature": is_one_of(is_nothing, EVIDENCE),
    "labels": is_table(is_list(is_record({"sites": is_table(_is_axis), "order": _is_order}))),
    "overlooked": is_table(
        is_record({"label": is_text, "value": is_number, "missed": is_number, "lost": is_number})
    ),
    "lower_bounds": is_table(
        is_record(
            {
                "mean": is_number,
                "mean_at": is_text,
                "sd_ratio": is_number,
                "sd_at": is_text,
                "num_chains": is_whole,
                "nuts_seconds": is_number,
            }
        )
    ),
    "theta_weights": is_table(
        is_record({"num_draws": is_whole, "khat": is_number, "share": is_number})
    ),
    "exhibits": is_list(
        is_record(
            {
                "name": lambda v: is_text(v) and re.fullmatch(r"[\w-]{1,100}", v) is not None,
                "title": is_text,
                "caption": is_text,
            }
        )
    ),
}


def check_header(header: Any) -> None:
    """Raise a :class:`ValueError` that names the first field that is not a comparison's."""
    check_content(header, FIELDS, optional=MORE)


def check_labels(entries: Sequence[Mapping[str, Any]], fit: Fit) -> None:
    """Raise a :class:`ValueError` unless orders of components are orders of those of a fit."""
    shapes = {site.name: site.shape for site in fit.sites}
    for entry in entries:
        for site, axis in entry["sites"].items():
            shape = shapes.get(site, ())
            known = -len(shape) <= axis < len(shape)
            if not known or shape[axis] != len(entry["order"]):
                raise ValueError(f"'labels' orders site '{site}', which has other components")


def check_alike(fits: Mapping[str, Fit]) -> None:
    """Raise a :class:`ValueError` unless all fits are of the same sites."""
    sites = {n: [(s.name, s.shape) for s in fit.sites] for n, fit in fits.items() if fit.sites}
    for name, own in sites.items():
        first = next(iter(sites))
        if own != sites[first]:
            raise ValueError(
                f"the fits {', '.join(fits)} are not of the same sites: '{first}' has "
                f"{listed(sites[first])}, and '{name}' has {listed(own)}"
            )
