"""Scalars that vary in no fit, and those that repeat another."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vi_recipes.fit import Fit
from vi_recipes.posterior import is_constant


def constants_in(fits: Mapping[str, Fit]) -> list[str]:
    """Return the labels of the scalars that vary in no fit, up to rounding.

    Scalars of which no fit has an sd are not among them.
    """
    found: np.ndarray | None = None
    for fit in fits.values():
        if not fit.has_result:
            continue
        sd = fit.flat(fit.sd())
        own = is_constant(sd, fit.flat(fit.mean()), fit.provenance.dtype)
        if not np.isnan(sd).all():
            found = own if found is None else found & (own | np.isnan(sd))
    if found is None:
        return []
    labels = next(iter(fits.values())).labels()
    return [label for label, is_one in zip(labels, found, strict=True) if is_one]


def repeated_in(fit: Fit) -> list[str]:
    """Return the labels of correlations that stand above the diagonal of their matrix too."""
    found: list[str] = []
    for site in fit.sites:
        if site.support == "CorrMatrix()":
            labels = np.array(fit.labels([site.name])).reshape(site.shape)
            below = np.tri(site.shape[-1], k=-1, dtype=bool)
            found += labels[..., below].ravel().tolist()
    return found
