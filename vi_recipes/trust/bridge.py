"""Bridge sampling: log p(y) from a sampler's draws."""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations, product
from math import factorial, prod

import jax
import numpy as np
from jaxtyping import Float
from scipy.optimize import brentq
from scipy.special import expit, logsumexp

from vi_recipes.algebra import MAX_DENSE, dense_normal, log_dense_normal
from vi_recipes.core import MethodFailure, Status, as_key, check_arguments, one_at_a_time
from vi_recipes.fit import Fit
from vi_recipes.importance import MIN_PER_COORDINATE, Bound, LogEvidence
from vi_recipes.model import Sites, Target
from vi_recipes.posterior import per_scalar

MIN_HALF = 100
"""Draws, of all chains together, that either half must have."""

MAX_LABELLINGS = 24
"""Labellings of exchangeable components over which the proposal is averaged."""

FLAT = (
    "the draws do not move in all directions: their covariance is singular",
    "draw more, and look at the chains",
)
"""What is wrong with draws that no normal can be fitted to, and what to do."""

Ratio = Callable[[np.ndarray], np.ndarray]
"""Rows of z, shape (num_draws, dim) -> their log p - log q, shape (num_draws,)."""


@check_arguments("target", "fit", "num_draws")
@one_at_a_time
def bridge(
    target: Target, fit: Fit, *, num_draws: int | None = None, key: jax.Array | int = 0
) -> LogEvidence:
    """Estimate log p(y) by bridge sampling from the draws of a sampler.

    The first half of every chain gives the mean and the covariance of a normal on the unconstrained
    scale, the proposal. With draws of it and the second halves, the estimate is that of the optimal
    bridge, the fixed point of Meng and Wong's iteration. It has one, as it equates a falling
    function of log p(y) with a rising one, and is found between its bounds.

    The posterior is mirrored at the proposal's mean: the average of the two densities has the same
    integral, and no skewness (Warp-III). Where components are exchangeable the proposal is averaged
    over their labellings instead, so that draws of one labelling do for all of them.

    Parameters
    ----------
    target
        The target that ``fit`` is a fit of.
    fit
        The draws of a sampler.
    num_draws
        Of the proposal; as many as the second halves have by default.
    key
        Seeds them.

    Returns
    -------
    LogEvidence
        Its error is the root of the relative mean-squared error, given the proposal, with the
        effective sample size of the chains. It is called unreliable where the fit did not converge.

    Raises
    ------
    ValueError
        For a fit without draws from chains, or of another model or other data.
    MethodFailure
        ``NOT_APPLICABLE`` for too few draws, coordinates that do not move, too many coordinates or
        labellings; ``DIVERGED`` where the posterior has no density at draws of either.

    References
    ----------
    Meng, X.-L. and Wong, W. H. (1996). Simulating ratios of normalizing constants via a simple
    identity. Statistica Sinica 6(4), 831-860.
    Meng, X.-L. and Schilling, S. (2002). Warp bridge sampling. Journal of Computational and
    Graphical Statistics 11(3). doi:10.1198/106186002457
    Fruehwirth-Schnatter, S. (2004). Estimating marginal likelihoods for mixture and Markov
    switching models using bridge sampling techniques. The Econometrics Journal 7(1).
    doi:10.1111/j.1368-423X.2004.00125.x
    Gronau, Q. F., Singmann, H. and Wagenmakers, E.-J. (2020). bridgesampling: an R package for
    estimating normalizing constants. Journal of Statistical Software 92(10).
    doi:10.18637/jss.v092.i10
    """
    chains = _chains(target, fit)
    half = chains.shape[1] // 2
    first, second = chains[:, :half].reshape(-1, target.dim), chains[:, half:]
    if num_draws is not None and num_draws < MIN_HALF:
        raise ValueError(f"num_draws: got {num_draws}, expected at least {MIN_HALF}")
    if target.dim > MAX_DENSE or len(first) < max(MIN_HALF, MIN_PER_COORDINATE * target.dim):
        raise MethodFailure(
            Status.NOT_APPLICABLE,
            f"a normal over {target.dim} coordinates is fitted to the first half of the chains, "
            f"{len(first)} draws; that takes at least {MIN_HALF} draws, {MIN_PER_COORDINATE} a "
            f"coordinate, and at most {MAX_DENSE} coordinates",
            "draw more, or use importance sampling from an approximation",
        )
    mean, cov = first.mean(axis=0), np.atleast_2d(np.cov(first, rowvar=False))
    scale = np.sqrt(np.diag(cov))
    if not (scale > 0).all() or np.linalg.matrix_rank(cov / np.outer(scale, scale)) < target.dim:
        raise MethodFailure(Status.NOT_APPLICABLE, *FLAT)
    rows = second.reshape(-1, target.dim)
    num_draws = num_draws or len(rows)
    drawn = dense_normal(mean, cov, num_draws, as_key(key))
    if drawn is None:
        raise MethodFailure(Status.NOT_APPLICABLE, *FLAT)
    proposed, _ = drawn

    def log_q(z: Float[np.ndarray, "draws dim"]) -> Float[np.ndarray, " draws"]:
        density = log_dense_normal(z - mean, cov)
        assert density is not None  # of which there are draws
        return density

    ratio = _unlabelled(target, log_q) if target.exchangeable else _mirrored(target, log_q, mean)
    ours = ratio(rows)
    if not np.isfinite(ours).all():
        raise MethodFailure(
            Status.DIVERGED,
            f"the density is not finite at {(~np.isfinite(ours)).sum()} of {len(rows)} draws of "
            "the chains",
            "look at the draws, and at the model's density there",
        )
    theirs = ratio(proposed)
    if not np.isfinite(theirs).any():
        raise MethodFailure(
            Status.DIVERGED, "the posterior has no density at any draw of the proposal", "draw more"
        )
    value, se = _solve(ours.reshape(second.shape[:2]), theirs)
    bound = Bound.ESTIMATE if fit.status.ok else Bound.UNRELIABLE
    return LogEvidence(value, se, bound, "bridge sampling")


def _chains(target: Target, fit: Fit) -> Float[np.ndarray, "chains draws dim"]:
    """Return the draws on the unconstrained scale, shape (chain, draw, dim)."""
    samples: Sites | None = getattr(fit.posterior, "samples", None)
    if not fit.is_sampler or samples is None:
        raise ValueError(
            f"fit: got '{fit.method}', expected draws from chains, as NUTS gives them: the errors "
            "of bridge sampling are theirs"
        )
    shapes = {s.name: s.shape for s in target.latents}
    if any(n not in samples or samples[n].shape[2:] != shapes[n] for n in shapes):
        raise ValueError(f"fit: '{fit.method}' has not the latent sites of model '{target.name}'")
    if fit.provenance.data_fingerprint not in ("", target.fingerprint):
        raise ValueError(f"fit: '{fit.method}' is of other data than the target")
    leading = next(iter(samples.values())).shape[:2]
    flat = {n: samples[n].reshape(-1, *shape) for n, shape in shapes.items()}
    z = target.unconstrain_rows(flat)
    if (bad := int((~np.isfinite(z).all(axis=1)).sum())) > 0:
        raise MethodFailure(
            Status.DIVERGED,
            f"{bad} of {len(z)} draws of the chains lie at an edge of the support, to rounding",
            "look at the draws: a scale that is zero says that its prior allows it to be",
        )
    return z.reshape(*leading, target.dim)


def _mirrored(target: Target, log_q: Ratio, mean: Float[np.ndarray, " dim"]) -> Ratio:
    """Return the log ratio of the posterior, mirrored at ``mean``, to a proposal that is so."""

    def ratio(z: Float[np.ndarray, "draws dim"]) -> Float[np.ndarray, " draws"]:
        both = np.logaddexp(target.log_densities(z), target.log_densities(2 * mean - z))
        return both - np.log(2) - log_q(z)

    return ratio


def _unlabelled(target: Target, log_q: Ratio) -> Ratio:
    """Return the log ratio of the posterior to the average of a proposal over all labellings.

    The posterior, over the constrained scale, is the same in every labelling of z. So its ratio to
    the average is the harmonic mean of its ratios in the labellings; Jacobians cancel.
    """
    groups = [
        {n: axis for n, axis in g.sites.items() if target.sites[n].kind == "latent"}
        for g in target.exchangeable
    ]
    sizes = [target.sites[n].shape[g[n]] for g in groups for n in list(g)[:1]]
    if (count := prod(factorial(size) for size in sizes)) > MAX_LABELLINGS:
        raise MethodFailure(
            Status.NOT_APPLICABLE,
            f"exchangeable components have {count} labellings, over which the proposal would be "
            f"averaged; at most {MAX_LABELLINGS}",
            "compare bounds instead",
        )
    every = list(product(*(permutations(range(size)) for size in sizes)))

    def ratio(z: Float[np.ndarray, "draws dim"]) -> Float[np.ndarray, " draws"]:
        values = target.constrain(z)
        inverse = []
        for orders in every:
            moved = dict(values)
            for group, order in zip(groups, orders, strict=True):
                for name, axis in group.items():
                    moved[name] = np.take(moved[name], order, axis=axis + 1)
            other = target.unconstrain_rows(moved)
            inverse.append(log_q(other) - target.log_densities(other))
        return -np.asarray(logsumexp(inverse, axis=0) - np.log(len(every)))

    return ratio


def _solve(
    ours: Float[np.ndarray, "chains draws"], theirs: Float[np.ndarray, " proposed"]
) -> tuple[float, float]:
    """Return the optimal bridge's log p(y) and its standard error.

    Parameters
    ----------
    ours, theirs
        Log ratios of the posterior to the proposal at draws of the chains, shape (chain, draw), and
        of the proposal, shape (num_draws,).
    """
    constant = np.ptp(ours) <= 1e-9 * max(1.0, float(np.abs(ours).max()))
    effective = float(ours.size if constant else per_scalar("ess", {"r": ours}, method="mean")["r"])
    share = effective / (effective + theirs.size)  # of the chains, in effective draws
    shift = np.log(share / (1 - share))

    def terms(
        value: float,
    ) -> tuple[Float[np.ndarray, " proposed"], Float[np.ndarray, "chains draws"]]:
        """Return p / (share p + (1 - share) q) at their draws, and q / (...) at ours."""
        return expit(theirs - value + shift) / share, expit(value - ours - shift) / (1 - share)

    def excess(value: float) -> float:
        p, q = terms(value)
        return float(p.mean() - q.mean())

    known = np.concatenate([ours.ravel(), theirs[np.isfinite(theirs)]])
    value = float(brentq(excess, known.min() - 50, known.max() + 50, xtol=1e-10))
    p, q = terms(value)
    of_proposal = p.std(ddof=1) / p.mean() / np.sqrt(p.size)
    of_chains = 0.0
    if not constant:
        of_chains = float(per_scalar("mcse", {"q": q}, method="mean")["q"]) / q.mean()
    return value, float(np.hypot(of_proposal, of_chains))
