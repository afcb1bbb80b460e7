"""Bounds on the errors of an approximation's moments, from its importance weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from vi_recipes.importance.bounds import elbo
from vi_recipes.importance.weights import FINITE_VARIANCE, MIN_DRAWS, khat, log_mean

NUM_SE = 2.0
"""Standard errors by which the estimated divergence is raised before anything is bounded by it."""

UNKNOWN = float("nan")


@dataclass(frozen=True)
class WassersteinBounds:
    """How far an approximation q can be from the posterior p, coordinates in units of q's sds.

    Parameters
    ----------
    d2
        The estimated bound on the 2-divergence, D_2(p | q) = log E_q[(p / q)^2], in nats.
    d2_se
        Its Monte Carlo standard error, two of which are added to it for what follows.
    w1, w2
        Bounds on the 1- and 2-Wasserstein distances.
    mean_error, sd_error
        Bounds on the error of every mean and of every sd.
    cov_error
        Bound on the error of the covariance matrix in the spectral norm; q's is its correlation.
        Infinite, as all others, where the divergence is beyond some 700 nats.
    khat
        Pareto shape of the weights. From 0.25 the error of ``d2`` is itself uncertain.
    reason
        Why the bounds do not apply, in which case they are NaN; empty where they do.
    """

    d2: float = UNKNOWN
    d2_se: float = UNKNOWN
    w1: float = UNKNOWN
    w2: float = UNKNOWN
    mean_error: float = UNKNOWN
    sd_error: float = UNKNOWN
    cov_error: float = UNKNOWN
    khat: float = UNKNOWN
    reason: str = field(default="", kw_only=True)


def wasserstein_bounds(
    z: Any, log_ratios: Any, *, log_evidence: float | None = None
) -> WassersteinBounds:
    """Bound Wasserstein distances and errors of moments from draws of q and their log ratios.

    With the weight w = p / q, E_q[(w - 1)^2] = exp(D_2) - 1 =: c^2, and 2-divergence D_2 is at most
    twice the gap between the upper bound log E_q[(p(y, z) / q(z))^2] / 2 (CUBO) and any lower bound
    on log p(y). Then W_p <= 2^(1 - 1/p) E_q[|z - m|^(2p)]^(1/(2p)) c^(1/p), by Cauchy-Schwarz and a
    weighted total-variation bound on W_p, which has a smaller constant than the 2 of Huggins et al.
    From W_2 <= e follow an error of every sd of at most e, and of the covariance of at most e (2 s
    + e), s^2 being the largest eigenvalue of q's. Where the weights say more by themselves, that is
    reported: a mean is off by at most c sds, and E_p[(z_j - m_j)^2] by c times the sd of that
    square under q.

    Parameters
    ----------
    z
        Independent draws of q, shape (num_draws, dim): unconstrained coordinates, or any functions
        of them, such as the constrained values, as the weights are the same on every scale.
    log_ratios
        log p(y, z) - log q(z) at these draws, shape (num_draws,); minus infinity where p has no
        density.
    log_evidence
        A lower bound on log p(y), or its value, in nats. The mean log ratio, which is the ELBO, by
        default.

    Returns
    -------
    WassersteinBounds
        The bounds are up to the Monte Carlo error of estimates from these draws, and blind, as
        those are, to a part of the posterior where q has no draws. They do not apply, and say so,
        where the weights have infinite variance (khat of 0.5 or more), where q gives weight to
        places without density and no ``log_evidence`` is given, for fewer than 100 draws, and
        where a coordinate does not vary.

    Raises
    ------
    ValueError
        For shapes that do not agree, draws or a ``log_evidence`` that are not finite, or ratios
        that are NaN or plus infinity.

    References
    ----------
    Huggins, J. H., Kasprzak, M., Campbell, T. and Broderick, T. (2020). Validated variational
    inference via practical posterior error bounds. AISTATS. arXiv:1910.04102.
    Villani, C. (2009). Optimal Transport: Old and New, theorem 6.15.
    doi:10.1007/978-3-540-71050-9
    Dieng, A. B., Tran, D., Ranganath, R., Paisley, J. and Blei, D. M. (2017). Variational inference
    via chi upper bound minimization. NeurIPS. arXiv:1611.00328.
    """
    points, ratios = np.asarray(z, float), np.asarray(log_ratios, float)
    if points.ndim != 2 or ratios.shape != points.shape[:1]:
        raise ValueError(
            f"z, log_ratios: got shapes {points.shape} and {ratios.shape}, expected (num_draws, "
            "dim) and (num_draws,)"
        )
    if not np.isfinite(points).all():
        raise ValueError("z: some draws are not finite, expected numbers")
    if len(points) < MIN_DRAWS:
        return WassersteinBounds(
            reason=f"{len(points)} draws are too few to judge weights by, which takes {MIN_DRAWS}"
        )
    lower, lower_se = _lower_bound(ratios, log_evidence)
    if np.isneginf(ratios.max()):
        return WassersteinBounds(reason="the posterior has no density at any draw")
    shape = khat(ratios)
    if shape >= FINITE_VARIANCE:  # nor is the 2-divergence finite
        return WassersteinBounds(
            khat=shape,
            reason=f"the weights have no finite variance: khat is {shape:.2f} (limit 0.5)",
        )
    scale = points.std(axis=0)
    if not (scale > 1e-12 * np.abs(points).max(axis=0)).all():
        return WassersteinBounds(khat=shape, reason="a coordinate does not vary under q")
    if np.isneginf(lower):
        return WassersteinBounds(
            khat=shape,
            reason="the ELBO is minus infinity: q has draws where the posterior has no density",
        )
    square, square_se = log_mean(2 * ratios)  # twice the CUBO
    d2, d2_se = square - 2 * lower, float(np.hypot(square_se, 2 * lower_se))
    with np.errstate(over="ignore"):  # a bound that no number holds is infinite
        c = float(np.sqrt(np.expm1(max(0.0, d2 + NUM_SE * d2_se))))
    away = (points - points.mean(axis=0)) / scale
    length = (away**2).sum(axis=1)
    w1 = float(np.sqrt(length.mean())) * c
    w2 = float(np.sqrt(2) * (length**2).mean() ** 0.25 * np.sqrt(c))
    largest = float(np.sqrt(np.linalg.norm(away.T @ away / len(away), 2)))
    return WassersteinBounds(
        d2=d2,
        d2_se=d2_se,
        w1=w1,
        w2=w2,
        mean_error=min(c, w1),
        sd_error=min(w2, _sd_error(away, c)),
        cov_error=w2 * (2 * largest + w2),
        khat=shape,
    )


def _lower_bound(
    ratios: Float[np.ndarray, " draws"], log_evidence: float | None
) -> tuple[float, float]:
    """Return a lower bound on log p(y), or its value where that is given, and its error."""
    bound = elbo(ratios)  # which raises on bad ratios
    if log_evidence is None:
        return bound.value, bound.se
    if not np.isfinite(log_evidence):
        raise ValueError(f"log_evidence: got {log_evidence}, expected a number")
    return float(log_evidence), 0.0


def _sd_error(away: Float[np.ndarray, "draws dim"], c: float) -> float:
    """Return the largest error of an sd of 1 that a chi-squared distance of c^2 leaves room for."""
    spread = c * float((away**2).std(axis=0).max())
    above = np.sqrt(1 + spread) - 1
    below = 1 - np.sqrt(max(0.0, 1 - spread - c**2))
    return float(max(above, below))
