"""What fits are measured by that nobody asked for: a reference, bounds, and weights of theta."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial

from vi_recipes.comparison.comparison import choose_reference
from vi_recipes.core import MethodFailure, ProgressFactory, attempt, silent, told
from vi_recipes.fit import Fit
from vi_recipes.importance import Bound, LogEvidence
from vi_recipes.methods import NestedQuadrature, ThetaWeights, theta_weights
from vi_recipes.model import Target
from vi_recipes.trust import (
    LowerBounds,
    Overlooked,
    Trust,
    Verdict,
    lower_bounds,
    overlooked,
    quick_chains,
    unfit,
    verdict,
)
from vi_recipes.trust import quadrature as integrate


def lacks_yardstick(fits: Mapping[str, Fit], target: Target) -> bool:
    """Whether some fit with sds cannot be judged, and quick nested quadrature could tell.

    A sampler that is not to be trusted judges nobody, and by one to be used with care nobody is
    trustworthy. Nor is a fit judged that is right by weights which do not vouch for it.
    """
    if any(fit.kind == NestedQuadrature.key for fit in fits.values()):
        return False
    chosen, _ = choose_reference(fits, None)
    if chosen is not None and chosen.status.ok and not unfit(chosen):
        return False
    if not any(_is_open(fit) for fit in fits.values()):
        return False
    return attempt(lambda: NestedQuadrature().is_cheap(target), lambda _: False)


def _is_open(fit: Fit) -> bool:
    if fit.is_point:
        return False
    own = verdict(fit)
    right = own.errors is not None and own.errors.means_right and own.errors.sds_right
    return own.trust is Trust.UNKNOWN or (right and own.trust is Trust.CARE and fit.status.ok)


def find_overlooked(
    fits: Mapping[str, Fit], reference: str | Fit | None, target: Target
) -> dict[str, Overlooked]:
    """Return what fits have found of the posterior where the reference has no draws."""
    chosen, _ = choose_reference(fits, reference)
    if chosen is None or unfit(chosen):
        return {}
    found = {name: overlooked(fit, chosen, target) for name, fit in fits.items()}
    return {name: known for name, known in found.items() if known is not None}


def weigh_thetas(
    fits: Mapping[str, Fit], reference: Fit | None, *, key: int
) -> dict[str, ThetaWeights]:
    """Return what each fit's draws of theta weigh, where there is a nested fit of this session."""
    nested = [*fits.values(), *([reference] if reference is not None else [])]
    by = next((f for f in nested if f.kind == NestedQuadrature.key and f.has_result), None)
    if by is None:
        return {}
    found = {
        name: attempt(partial(theta_weights, fit, by, key=key), lambda _: None)
        for name, fit in fits.items()
    }
    return {name: known for name, known in found.items() if known is not None}


def bound_errors(
    fits: Mapping[str, Fit],
    verdicts: Mapping[str, Verdict],
    target: Target,
    progress: ProgressFactory | None,
    *,
    key: int,
) -> dict[str, LowerBounds]:
    """Return how far fits are off at least of which nothing else can be told, where it is quick."""
    unknown = [
        name
        for name, one in verdicts.items()
        if one.trust is Trust.UNKNOWN and not (fits[name].is_point or fits[name].is_sampler)
    ]
    count = quick_chains(target)
    found: dict[str, LowerBounds] = {}
    if not (unknown and count):
        return found
    with progress("lower bounds") if progress else nullcontext(silent) as report:
        for done, name in enumerate(unknown):
            report(done, len(unknown), name)
            known = lower_bounds(fits[name], target, key=key, num_chains=count)
            if known is not None:
                found[name] = known
    return found


def by_quadrature(target: Target) -> LogEvidence:
    """Return log p(y) with the latent variables integrated out, or why that cannot be had."""
    try:
        return integrate(target)
    except MethodFailure as failure:
        why = failure.message
    except (Exception, SystemExit) as error:
        why = f"quadrature: {told(error)}"
    return LogEvidence(float("nan"), float("nan"), Bound.MISSING, why)
