"""log p(y) side by side: lower bounds, estimates and, in few dimensions, its value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from scipy.special import logsumexp

from vi_recipes.algebra.normals import WeighedDraws
from vi_recipes.core.status import MethodFailure
from vi_recipes.fit.fit import Fit, LogEvidence
from vi_recipes.importance.adapt import FINITE_VARIANCE, log_mean, smooth
from vi_recipes.khat import MIN_DRAWS, khat
from vi_recipes.model.target import Target
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

NUM_PARTICLES = 10
"""Draws a group of the importance-weighted bound, where nothing is said."""

RANKS = ("exact", "estimate", "lower bound")
"""What the others are compared with, the first that there is."""

OTHERS = ("unreliable estimate", "not available")
"""How the kinds of the rest begin."""


def elbo(log_ratios: Any) -> LogEvidence:
    """Return the mean log ratio of fresh draws: a lower bound on log p(y), up to its error.

    Parameters
    ----------
    log_ratios
        log p(y, z) - log q(z) at independent draws z of q, shape (num_draws,); minus infinity where
        p has no density.

    Returns
    -------
    LogEvidence
        Minus infinity, with an error that is NaN, where p has no density at some draw.

    Raises
    ------
    ValueError
        For fewer than 2 draws, or ratios that are NaN or plus infinity.
    """
    values = _checked(log_ratios, 2)
    return LogEvidence(*_mean(values), "lower bound (ELBO)")


def importance_weighted(log_ratios: Any, *, num_particles: int = NUM_PARTICLES) -> LogEvidence:
    """Return the importance-weighted bound: the mean over groups of draws of log mean exp(ratio).

    It lies between the ELBO, which is the case of one draw a group, and log p(y), and rises with
    the draws a group.

    Parameters
    ----------
    log_ratios
        As of :func:`elbo`. Draws that do not fill a group are left out.
    num_particles
        Draws a group, k.

    Returns
    -------
    LogEvidence
        Its error is that over the groups.

    Raises
    ------
    ValueError
        For fewer than two groups of draws, or ratios that are NaN or plus infinity.

    References
    ----------
    Burda, Y., Grosse, R. and Salakhutdinov, R. (2016). Importance weighted autoencoders. ICLR.
    arXiv:1509.00519.
    """
    if num_particles < 1:
        raise ValueError(f"num_particles: got {num_particles}, expected a positive integer")
    values = _checked(log_ratios, 2 * num_particles)
    groups = values[: values.size // num_particles * num_particles].reshape(-1, num_particles)
    bounds = logsumexp(groups, axis=1) - np.log(num_particles)
    return LogEvidence(*_mean(bounds), f"lower bound (importance-weighted, k = {num_particles})")


def importance_sampled(log_ratios: Any) -> LogEvidence:
    """Return the log of the mean Pareto-smoothed importance weight, an estimate of log p(y).

    Parameters
    ----------
    log_ratios
        As of :func:`elbo`.

    Returns
    -------
    LogEvidence
        Its error is by the delta method. From a k-hat of 0.5 the weights have no finite variance
        and that error is too small; the kind then calls the estimate unreliable. From 0.7 neither
        says much. Nothing warns of a part of the posterior where q has no draws.

    Raises
    ------
    ValueError
        For fewer than 100 draws, ratios that are NaN or plus infinity, or none that is finite.

    References
    ----------
    Vehtari, A., Simpson, D., Gelman, A., Yao, Y. and Gabry, J. (2024). Pareto smoothed importance
    sampling. JMLR 25(72). arXiv:1507.02646.
    """
    values = _checked(log_ratios, MIN_DRAWS)
    if np.isneginf(values.max()):
        raise ValueError("log_ratios: all are minus infinity: p has no density at any draw")
    shape = khat(values)
    lead = "estimate" if shape < FINITE_VARIANCE else "unreliable estimate"
    kind = f"{lead} (importance sampling, k-hat {shape:.2f})"
    # at most a fifth of the draws are smoothed: the next one below keeps its weight, which tells
    # the scale of all, as they add up to one
    place = int(np.argsort(values)[-(values.size // 5) - 1])
    if np.isfinite(shape) and np.isfinite(values[place]):
        weights = smooth(values).values
        if weights[place] > 0:
            value = float(values[place] - np.log(weights[place]) - np.log(values.size))
            return LogEvidence(value, float(weights.std(ddof=1) * np.sqrt(values.size)), kind)
    return LogEvidence(*log_mean(values), kind)


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


def _checked(log_ratios: Any, fewest: int) -> np.ndarray:
    """Return the ratios as an array, if they are what they should be."""
    values = np.asarray(log_ratios, float)
    if values.ndim != 1 or values.size < fewest:
        raise ValueError(
            f"log_ratios: got shape {values.shape}, expected one dimension of at least {fewest} "
            "draws"
        )
    if (bad := int((np.isnan(values) | np.isposinf(values)).sum())) > 0:
        raise ValueError(
            f"log_ratios: {bad} of {values.size} are NaN or plus infinity, expected numbers, or "
            "minus infinity where p has no density"
        )
    return values


def _mean(values: np.ndarray) -> tuple[float, float]:
    """Return the mean and its standard error, which is NaN where the mean is minus infinity."""
    if np.isneginf(values).any():
        return -np.inf, float("nan")
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(values.size))
