"""What SVI's options may be, each by itself and together."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpyro.infer import autoguide

from vi_recipes.core import require, unknown
from vi_recipes.data import Batches
from vi_recipes.methods.guides.families import GUIDES
from vi_recipes.methods.guides.structured import (
    BLOCK_FAMILIES,
    check_families,
    encoded_sites,
    family_name,
)
from vi_recipes.methods.minibatch.rows import find_rows
from vi_recipes.methods.svi.objectives import OBJECTIVES
from vi_recipes.model import Target

if TYPE_CHECKING:
    from vi_recipes.methods.svi.svi import SVI


def check_options(method: SVI) -> None:
    """Raise a :class:`ValueError` that names the option unless all are what they may be."""
    if isinstance(method.guide, str) and method.guide not in GUIDES:
        close = get_close_matches(method.guide, GUIDES, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise ValueError(
            f"guide: got '{method.guide}', expected one of {', '.join(GUIDES)}, a mapping of "
            f"site patterns to families, or a NumPyro guide{hint}"
        )
    require(
        isinstance(method.guide, str | Mapping) or callable(method.guide),
        "guide",
        method.guide,
        "a name, a mapping of site patterns to families, or a NumPyro guide",
    )
    if isinstance(method.guide, Mapping):
        check_families(method.guide)
    require(method.num_steps >= 1, "num_steps", method.num_steps, "a positive integer")
    require(
        method.tolerance is None or method.tolerance > 0,
        "tolerance",
        method.tolerance,
        "a positive number, or None",
    )
    require(
        _is_step_size(method.step_size),
        "step_size",
        method.step_size,
        "a positive number, or an optax schedule: step -> step size",
    )
    if method.init not in ("median", "map"):
        raise ValueError(unknown("init", str(method.init), ("median", "map")))
    require(method.num_starts > 0, "num_starts", method.num_starts, "a positive integer")
    require(
        isinstance(method.checkpoint, str | Path | None),
        "checkpoint",
        method.checkpoint,
        "the path of a file, or None",
    )
    if method.objective not in OBJECTIVES:
        raise ValueError(unknown("objective", str(method.objective), OBJECTIVES))
    fewest = 1 if method.objective in ("elbo", "sticking") else 2
    require(
        method.num_particles is None or method.num_particles >= fewest,
        "num_particles",
        method.num_particles,
        f"an integer of at least {fewest} with objective='{method.objective}'",
    )
    require(
        method.alpha is None or (method.objective == "renyi" and method.alpha != 1),
        "alpha",
        method.alpha,
        "an order other than 1, which is the ELBO, and only with objective='renyi'",
    )
    _check_rows(method)
    require(method.dtype in ("float32", "float64"), "dtype", method.dtype, "'float32' or 'float64'")
    optimizer = method.optimizer
    require(
        optimizer is None or (hasattr(optimizer, "init") and hasattr(optimizer, "update")),
        "optimizer",
        optimizer,
        "an optax gradient transformation",
    )


def _check_rows(method: SVI) -> None:
    """Raise a :class:`ValueError` unless the options of minibatches go together."""
    require(
        method.batch_size is None or method.batch_size >= 1,
        "batch_size",
        method.batch_size,
        "a positive integer",
    )
    require(
        method.batches is None or isinstance(method.batches, Batches),
        "batches",
        method.batches,
        "rows from batches_from_parquet or batches_from_csv, or an object with num_rows, "
        "batch_size and blocks",
    )
    require(
        method.batches is None or method.batch_size is None,
        "batch_size",
        method.batch_size,
        "None with batches, which have their own batch_size",
    )
    require(
        method.plate is None or method.batch_size is not None or method.batches is not None,
        "plate",
        method.plate,
        "None without batch_size or batches: all rows are used",
    )
    require(
        method.batches is None or method.init == "median",
        "init",
        method.init,
        "'median' with batches: a MAP takes all rows in memory",
    )


def _is_step_size(value: Any) -> bool:
    """Whether a value is a step size, a schedule of them, or ``None``."""
    if callable(value):
        try:
            return bool(np.isfinite(float(value(0))))
        except Exception:  # a user's function raises whatever it likes
            return False
    return value is None or (isinstance(value, Real) and float(value) > 0)


def clash(method: SVI, target: Target) -> str | None:
    """Return why an objective and a guide do not go together; ``None`` where they do."""
    if method.objective in ("score", "sticking") and _is(method.guide, autoguide.AutoDAIS):
        return "the draws of DAIS have no density, so no score: use objective='elbo'"
    if method.objective == "score" and _is(method.guide, autoguide.AutoLowRankMultivariateNormal):
        return (
            "NumPyro's low-rank normal starts without its low-rank part, where the score in it "
            "is zero, and so would stay there: use multivariate_normal or objective='elbo'"
        )
    joint = _is(method.guide, autoguide.AutoContinuous)
    if method.objective in ("renyi", "iwae") and joint and _enclosing_plates(target):
        return (
            f"plate {', '.join(_enclosing_plates(target))} holds every site of the model, and "
            "NumPyro then takes importance weights member by member, which a guide that is "
            "joint over the members has not: use guide='normal' or objective='elbo'"
        )
    return None


def no_minibatches(method: SVI, target: Target) -> str | None:
    """Return why minibatches that are asked for are not possible; ``None`` where they are."""
    rows = find_rows(target, method.batch_size, method.plate, method.batches)
    if rows is None:
        return None
    if method.objective in ("renyi", "iwae"):
        return (
            f"the {OBJECTIVES[method.objective].title} is no sum over rows, so minibatches have no "
            "unbiased estimate of it: use objective='elbo'"
        )
    if _is(method.guide, autoguide.AutoDAIS):
        return "DAIS moves its draws by the density of all rows: use guide='normal'"
    if _is(method.guide, autoguide.AutoLaplaceApproximation) and not rows.in_memory:
        return "the curvature takes all rows in memory: use guide='multivariate_normal'"
    encoded: list[str] = []
    if isinstance(method.guide, Mapping):
        encoded = encoded_sites(method.guide, target)
    elif not isinstance(method.guide, str | type | autoguide.AutoGuide):
        return None  # a guide function knows its rows
    for name in rows.local(target):
        if name not in encoded:
            return (
                f"site '{name}' is local to plate '{rows.plate}', whose rows are drawn, and "
                "parameters of its own for every row would hardly ever be updated: give it an "
                f"encoder, guide={{'{name}': 'amortised'}}, integrate it out in the model, or "
                "fit all rows"
            )
    return None


def _is(guide: Any, kind: type) -> bool:
    """Whether the guide, or a block of it, is an autoguide of a kind, however it is given."""
    if isinstance(guide, Mapping):
        families = map(family_name, guide.values())
        named: list[Any] = [BLOCK_FAMILIES[family].make for family in families]
    else:
        named = [GUIDES[guide].make if isinstance(guide, str) else guide]
    return any(isinstance(g, kind) or (isinstance(g, type) and issubclass(g, kind)) for g in named)


def _enclosing_plates(target: Target) -> list[str]:
    """Return the plates that hold every site of the model that has a density."""
    sites = [{name for name, _, _ in s.plates} for s in (*target.latents, *target.observed)]
    return [] if target.has_factors else sorted(set.intersection(*sites))
