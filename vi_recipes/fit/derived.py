"""A fit with quantities that are derived from its sites."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from vi_recipes.core import attempt
from vi_recipes.fit.fit import Fit
from vi_recipes.fit.records import Assessment
from vi_recipes.model import Site, Target, derived_site, takes, with_derived
from vi_recipes.posterior import (
    DerivedPosterior,
    FactorPosterior,
    GaussianPosterior,
    Posterior,
    apply_functions,
)

MOST_ELEMENTS = 100
"""Of a quantity for which it is looked at whose labels it has."""

NUM_POINTS, STEP = 3, 1e-3
"""Where that is looked at, and how far a scalar is moved there, as a share of the largest."""

type Functions = Mapping[str, Callable[..., Any]]


def derived(
    fit: Fit, functions: Functions, made: dict[int, Target | None], likes: dict[str, str]
) -> Fit:
    """Return a fit with more quantities (see :func:`vi_recipes.derive`).

    Parameters
    ----------
    fit
        The fit; one without a result is returned as it is.
    functions
        Name -> function.
    made
        Identity of a target -> the same with the quantities, which several fits share; ``None``
        where there is none such.
    likes
        Quantity -> the site whose labels it has, or nothing. The first fit with a result decides
        for all, so that a quantity has the same labels in each.
    """
    known = {site.name: site for site in fit.sites}
    for name in functions:
        if name in known:
            raise ValueError(f"derive: '{name}' is a site of the model; give it another name")
    of_all = {}
    for name, function in functions.items():
        try:
            of_all[name] = takes(function, known)
        except ValueError as error:
            raise ValueError(f"derive: '{name}': {error}") from None
    if not fit.has_result or fit.posterior is None:
        return fit
    shapes = apply_functions(of_all, {n: v[None] for n, v in fit.mean().items()}, 1)
    for name, value in shapes.items():
        if value.size == 0:
            raise ValueError(f"derive: '{name}': it returns no numbers")
        if name not in likes:
            likes[name] = _like(name, of_all[name], fit, value.shape[1:])
    sites = tuple(
        derived_site(name, value.shape[1:], known.get(likes[name]))
        for name, value in shapes.items()
    )
    posterior = _by_model(fit, fit.posterior, of_all, made)
    if posterior is None:
        posterior = DerivedPosterior(fit.posterior, of_all, fit.is_point, fit.is_sampler)
    assessment = fit.assessment and _widened(fit.assessment, sites)
    coords = {
        dim: np.arange(n)
        for s in sites
        for dim, n in zip(s.dims, s.shape, strict=True)
        if dim not in fit.coords
    }
    return replace(
        fit,
        posterior=posterior,
        sites=(*fit.sites, *sites),
        coords={**fit.coords, **coords},
        assessment=assessment,
    )


def _like(name: str, function: Callable[..., Any], fit: Fit, shape: tuple[int, ...]) -> str:
    """Return the site whose scalars a quantity is made of one by one, in their order, or nothing.

    It is looked at, at some points, whether each element changes with its own scalar and no other:
    that of a sorted vector does not.
    """
    size = int(np.prod(shape))
    alike = [s for s in fit.sites if s.shape == shape]
    if not shape or not 0 < size <= MOST_ELEMENTS:
        return ""
    mean = fit.mean()
    rng = np.random.default_rng(0)
    for site in alike:
        points = rng.permuted(np.tile(mean[site.name].ravel(), (NUM_POINTS, 1)), axis=1)
        points = points * (1 + STEP * rng.standard_normal(points.shape))
        moved = points[:, None] + STEP * (np.abs(points).max() or 1.0) * np.eye(size)
        rows = np.concatenate([points[:, None], moved], axis=1).reshape(-1, *shape)
        at = {n: np.broadcast_to(v, (len(rows), *np.shape(v))) for n, v in mean.items()}
        made = attempt(
            partial(apply_functions, {name: function}, {**at, site.name: rows}, 1), _none
        )
        if made is None:
            continue
        values = made[name].reshape(NUM_POINTS, size + 1, size)
        changed = values[:, 1:] != values[:, :1]
        if np.isfinite(values).all() and (changed == np.eye(size, dtype=bool)).all():
            return site.name
    return ""


def _none(_: str) -> None:
    return None


def _by_model(
    fit: Fit, posterior: Posterior, functions: Functions, made: dict[int, Target | None]
) -> Posterior | None:
    """Return a posterior whose model has the quantities: exact, or by derivatives, where it can be.

    Moments of a Gaussian's scalars are by quadrature, and linear response by slopes.
    """
    if not isinstance(posterior, GaussianPosterior | FactorPosterior):
        return None
    target = posterior.target
    if id(target) not in made:
        made[id(target)] = attempt(lambda: with_derived(target, functions), lambda _: None)
    wider = made[id(target)]
    if wider is None or [s.name for s in wider.quantities][-len(functions) :] != list(functions):
        return None
    changed = replace(posterior, target=wider)

    def stands() -> Posterior:
        moments = (changed.mean(), changed.sd(), changed.mcse_mean(), changed.mcse_sd())
        before = posterior.sd()
        same = all(np.array_equal(moments[1][n], v, equal_nan=True) for n, v in before.items())
        return changed if same else _refuse()

    return attempt(stands, lambda _: None)


def _refuse() -> Posterior:
    raise ValueError("the quantities change what is known of the sites")


def _widened(assessment: Assessment, sites: tuple[Site, ...]) -> Assessment:
    """Return an assessment that knows nothing of the new sites."""
    if assessment.correction is None:
        return assessment
    none = {site.name: np.full(site.shape, np.nan) for site in sites}
    m = assessment.correction.moments
    moments = replace(
        m,
        mean={**m.mean, **none},
        sd={**m.sd, **none},
        mcse_mean={**m.mcse_mean, **none},
        mcse_sd={**m.mcse_sd, **none},
    )
    return replace(assessment, correction=replace(assessment.correction, moments=moments))
