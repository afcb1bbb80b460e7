"""log p(y) side by side: lower bounds, estimates and, in few dimensions, its value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import numpy as np

from vi_recipes.core import MethodFailure
from vi_recipes.fit import Fit
from vi_recipes.importance import (
    MIN_DRAWS,
    NUM_PARTICLES,
    LogEvidence,
    elbo,
    importance_sampled,
    importance_weighted,
)
from vi_recipes.model import Target
from vi_recipes.posterior import WeighedDraws
from vi_recipes.trust.bridge import bridge
from vi_recipes.trust.quadrature import quadrature

if TYPE_CHECKING:
    import pandas as pd


__all__ = [
    "bridge",
    "elbo",
    "evidence_table",
    "evidences",
    "importance_sampled",
    "importance_weighted",
    "quadrature",
]


RANKS = ("exact", "estimate", "lower bound")
"""What the others are compared with, the first that there is."""


OTHERS = ("unreliable estimate", "not available")
"""How the kinds of the rest begin."""


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
        Draws of the approximation, from :meth:`Posterior.weighed_draws`; ``None`` where it has no
        density.
    log_p
        :meth:`Target.log_densities` of ``drawn.z``, shape (num_draws,).
    key
        Seeds bridge sampling.

    Returns
    -------
    list
        Empty for a fit without a result, and for points. What applies and fails has NaN for a
        value, and says why in its kind.
    """
    if not fit.has_result:
        return []
    found: list[LogEvidence] = []
    if drawn is not None and log_p is not None:
        ratios = np.asarray(log_p, float) - drawn.log_q
        if ratios.size >= 2 * NUM_PARTICLES:
            found += [elbo(ratios), importance_weighted(ratios)]
        if ratios.size >= MIN_DRAWS and np.isfinite(ratios).any() and not target.exchangeable:
            found.append(importance_sampled(ratios))
    own = fit.log_evidence
    if own is not None and own.kind not in [e.kind for e in found]:
        found.insert(0, own)
    if fit.is_sampler:
        try:
            found.append(bridge(target, fit, key=key))
        except MethodFailure as failure:
            reason = f"not available (bridge sampling: {failure.message})"
            found.append(LogEvidence(float("nan"), float("nan"), reason))
    return found


def evidence_table(found: Mapping[str, Sequence[LogEvidence]]) -> pd.DataFrame:
    """Return all bounds and estimates of log p(y), a row each.

    Parameters
    ----------
    found
        Name of a method -> what it says, as from :func:`evidences`; what belongs to the target and
        no method, such as :func:`quadrature`, under a name of its own.

    Returns
    -------
    pandas.DataFrame
        Columns ``method``; ``kind``; ``bound``, what it is: lower bound, estimate, unreliable
        estimate, exact, approximation (of unknown error) or not available; ``value`` and ``se`` in
        nats; ``gap``, the value less the best one, and ``gap_se``, both their errors together. The
        best is the exact one of least error, else such an estimate, else the highest lower bound.
    """
    import pandas as pd

    rows = [_Row(method, e) for method, several in found.items() for e in several]
    best = _best(rows)
    columns = ["method", "kind", "bound", "value", "se", "gap", "gap_se"]
    data = []
    for row in rows:
        value, se = row.evidence.value, row.evidence.se
        gap = gap_se = float("nan")
        if best is not None and np.isfinite(value):
            gap = value - best.evidence.value
            gap_se = 0.0 if row is best else float(np.hypot(se, best.evidence.se))
        data.append([row.method, row.evidence.kind, row.bound, value, se, gap, gap_se])
    return pd.DataFrame(data, columns=columns)


@dataclass(frozen=True, eq=False)
class _Row:
    method: str
    evidence: LogEvidence

    @property
    def bound(self) -> str:
        kind = self.evidence.kind
        return next((b for b in (*RANKS, *OTHERS) if kind.startswith(b)), "approximation")


def _best(rows: Sequence[_Row]) -> _Row | None:
    """Return the row that the others are compared with; ``None`` where none will do."""
    for bound in RANKS:
        some = [r for r in rows if r.bound == bound and np.isfinite(r.evidence.value)]
        if not some:
            continue
        if bound == "lower bound":
            return max(some, key=lambda r: r.evidence.value)
        return min(some, key=lambda r: r.evidence.se)
    return None
