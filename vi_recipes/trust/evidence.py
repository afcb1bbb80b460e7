"""log p(y) side by side: lower bounds, estimates and, in few dimensions, its value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import numpy as np

from vi_recipes.core import MethodFailure, told
from vi_recipes.fit import Fit
from vi_recipes.importance import (
    MIN_DRAWS,
    NUM_PARTICLES,
    Bound,
    LogEvidence,
    elbo,
    importance_sampled,
    importance_weighted,
)
from vi_recipes.model import Target
from vi_recipes.posterior import WeighedDraws
from vi_recipes.trust.bridge import bridge

if TYPE_CHECKING:
    import pandas as pd


RANKS = (Bound.EXACT, Bound.ESTIMATE, Bound.LOWER)
"""What the others are compared with, the first that there is."""


def evidences(
    fit: Fit,
    target: Target,
    drawn: WeighedDraws | None,
    log_p: np.ndarray | None,
    key: jax.Array | int = 0,
) -> list[LogEvidence]:
    """Return what one fit has to say of log p(y).

    Of an approximation with a density the ELBO, the importance-weighted bound and the importance
    sampling estimate; of a sampler bridge sampling; and what the method itself reports, such as
    Laplace's approximation, but no second ELBO. Approximations to one labelling of exchangeable
    components bound log p(y) all the same, but their weights do not estimate it and are left out.

    Parameters
    ----------
    fit
        The fit.
    target
        The target that it is a fit of.
    drawn
        Draws of the approximation, from :meth:`~vi_recipes.posterior.base.Posterior.weighed_draws`;
        ``None`` where it has no density.
    log_p
        :meth:`Target.log_densities` of ``drawn.z``, shape (num_draws,).
    key
        Seeds bridge sampling.

    Returns
    -------
    list
        Empty for a fit without a result, and for points. What applies and fails has NaN for a
        value, and says why.
    """
    if not fit.has_result:
        return []
    several: list[LogEvidence] = []
    if drawn is not None and log_p is not None:
        ratios = np.asarray(log_p, float) - drawn.log_q
        if ratios.size >= 2 * NUM_PARTICLES:
            several += [elbo(ratios), importance_weighted(ratios)]
        if ratios.size >= MIN_DRAWS and np.isfinite(ratios).any() and not target.exchangeable:
            several.append(importance_sampled(ratios))
    reported = fit.log_evidence
    if reported is not None and reported.kind not in [e.kind for e in several]:
        several.insert(0, reported)
    if fit.is_sampler:
        try:
            several.append(bridge(target, fit, key=key))
        except MethodFailure as failure:
            several.append(_missing(f"bridge sampling: {failure.message}"))
        except Exception as error:
            several.append(_missing(f"bridge sampling: {told(error)}"))
    return several


def _missing(reason: str) -> LogEvidence:
    return LogEvidence(float("nan"), float("nan"), Bound.MISSING, reason)


def evidence_table(evidence: Mapping[str, Sequence[LogEvidence]]) -> pd.DataFrame:
    """Return all bounds and estimates of log p(y), a row each.

    Parameters
    ----------
    evidence
        Name of a method -> what it says, as from :func:`evidences`; what belongs to the target and
        no method, such as :func:`~vi_recipes.quadrature`, under a name of its own.

    Returns
    -------
    pandas.DataFrame
        Columns ``method``; ``kind``; ``bound``, what it is: lower bound, estimate, unreliable
        estimate, exact, approximation (of unknown error) or not available; ``value`` and ``se`` in
        nats; ``gap``, the value less the best one, and ``gap_se``, both their errors together. The
        best is the exact one of least error, else such an estimate, else the highest lower bound.
    """
    import pandas as pd

    rows = [_Row(method, e) for method, several in evidence.items() for e in several]
    best = _best(rows)
    columns = ["method", "kind", "bound", "value", "se", "gap", "gap_se"]
    data = []
    for row in rows:
        value, se = row.evidence.value, row.evidence.se
        gap = gap_se = float("nan")
        if best is not None and np.isfinite(value):
            gap = value - best.evidence.value
            gap_se = 0.0 if row is best else float(np.hypot(se, best.evidence.se))
        about = [row.method, row.evidence.kind, row.evidence.bound.value]
        data.append([*about, value, se, gap, gap_se])
    return pd.DataFrame(data, columns=columns)


@dataclass(frozen=True, eq=False)
class _Row:
    method: str
    evidence: LogEvidence


def _best(rows: Sequence[_Row]) -> _Row | None:
    """Return the row that the others are compared with; ``None`` where none will do."""
    for bound in RANKS:
        some = [r for r in rows if r.evidence.bound is bound and np.isfinite(r.evidence.value)]
        if not some:
            continue
        if bound is Bound.LOWER:
            return max(some, key=lambda r: r.evidence.value)
        return min(some, key=lambda r: r.evidence.se)
    return None
