"""Labels of coordinates and of scalars, whatever a model's coordinates are."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vi_recipes.model.sites import Site

UNITS = ("D", "m", "s", "ms", "us")
"""Of dates and times, the coarsest first."""

OWN_UNITS = ("Y", "M")
"""Of dates that are whole years or months: they stay."""


MOST_LISTED = 12
"""Sites that a sentence lists."""


def listed(sites: Iterable[tuple[str, Sequence[int]]]) -> str:
    """Return sites for a sentence, by name and shape: ``mu, tau, theta[8], W[6, 2]``."""
    said = [f"{name}[{', '.join(map(str, shape))}]" if shape else name for name, shape in sites]
    more = f" and {len(said) - MOST_LISTED} more" if len(said) > MOST_LISTED else ""
    return (", ".join(said[:MOST_LISTED]) or "none") + more


def coordinate_labels(given: Any) -> np.ndarray:
    """Return coordinate labels as an array of numbers, dates or text, which files can hold.

    Dates and times have the coarsest unit that holds them all; what is none of these is its text.
    """
    values = np.asarray(given)
    if values.ndim != 1:  # rows, such as pairs of names
        values = np.empty(len(given) if np.ndim(given) else 1, object)
        values[:] = list(given) if np.ndim(given) else [given]
    if values.dtype.kind == "O":
        values = _of_objects(values.tolist())
    if values.dtype.kind == "M":
        return _coarsest(values)
    return (
        values if values.dtype.kind in "biufm" else np.array([_text(v) for v in values], dtype=str)
    )


def _of_objects(values: Sequence[Any]) -> np.ndarray:
    dates = all(isinstance(v, datetime.date) for v in values)
    if values and dates and not any(getattr(v, "tzinfo", None) for v in values):
        try:
            return np.array([np.datetime64(v) for v in values])
        except (TypeError, ValueError):
            pass
    return np.array([_text(v) for v in values], dtype=str)


def _text(value: Any) -> str:
    text = value.decode("latin-1") if isinstance(value, bytes) else str(value)
    # NumPy takes such a character at the end for padding
    return _encodable(text).replace("\0", "\\x00")


def _encodable(text: str) -> str:
    """Return text without halves of pairs of surrogates, which have no UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _coarsest(values: np.ndarray) -> np.ndarray:
    if np.datetime_data(values.dtype)[0] in OWN_UNITS:
        return values
    for unit in UNITS:
        coarse = values.astype(f"M8[{unit}]")
        if ((coarse == values) | np.isnat(values)).all():
            return coarse
    return values


# -- scalars ---------------------------------------------------------------------------------


def site_labels(site: Site, coords: Mapping[str, np.ndarray] | None = None) -> list[str]:
    """Return the label of every scalar of ``site`` in C order, no two the same."""
    name = _encodable(site.name)
    if not site.shape:
        return [name]
    axes = [
        _told_apart([str(v) for v in (coords[dim] if coords is not None else range(size))])
        for dim, size in zip(site.dims, site.shape, strict=True)
    ]
    labels = [
        f"{name}[{', '.join(axes[k][i] for k, i in enumerate(index))}]"
        for index in np.ndindex(*site.shape)
    ]
    return _told_apart(labels)


def labels_by_site(
    sites: Iterable[Site], coords: Mapping[str, np.ndarray] | None = None
) -> dict[str, list[str]]:
    """Return the labels of the scalars of several sites, no two of them the same.

    Where the name of one site reads like an element of another (``"a[0]"`` beside ``a``), the
    labels say their site.
    """
    labels = {site.name: site_labels(site, coords) for site in sites}
    counted = Counter(label for several in labels.values() for label in several)
    if len(counted) < sum(counted.values()):
        labels = {
            name: [f"{label} (site {name})" if counted[label] > 1 else label for label in several]
            for name, several in labels.items()
        }
    return labels


def _told_apart(labels: list[str]) -> list[str]:
    """Return labels with the place of those that there are several of."""
    if len(set(labels)) == len(labels):
        return labels
    counted = Counter(labels)
    apart = [f"{label} #{k}" if counted[label] > 1 else label for k, label in enumerate(labels)]
    return apart if len(set(apart)) == len(apart) else [f"{v} #{k}" for k, v in enumerate(labels)]
