"""How far a posterior by nested quadrature holds: its doubts, advice, and what is said of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from jaxtyping import Bool

from vi_recipes.core import Status
from vi_recipes.importance import Bound, LogEvidence, khat_limit
from vi_recipes.methods.base import Result
from vi_recipes.methods.nested.corrected import Corrected
from vi_recipes.methods.nested.density import ThetaDensity
from vi_recipes.methods.nested.members import INNER
from vi_recipes.methods.nested.owners import OF_SEVERAL
from vi_recipes.methods.nested.posterior import NestedPosterior
from vi_recipes.methods.nested.records import Doubt, InnerError, Noise
from vi_recipes.methods.nested.rounds import Integral
from vi_recipes.methods.nested.surrogate import degree_of
from vi_recipes.model import Target, other_labelling, undeclared

MIN_SHARE = 0.2
"""Effective share of the points of theta below which there are too few that matter."""

EDGE = 300.0
"""Logarithm or logit from which a parameter is where double precision has no more numbers.

It ends at 745, for squares, as of sds, at 354. What is still there has no end, or one that cannot
be seen.
"""

ROUNDED = 25.0
"""The same where a law that narrow has lost its digits, and log p(y, theta) may not be found."""

PROPER = "give a prior, or data that are not exactly what is expected, by which it is proper"

MOST_NOISE = 1.0
"""Nats: noise of log p(y, theta) at a point, by weighed points, up to which it averages out."""


def judged(
    density: ThetaDensity,
    found: Integral,
    inner: InnerError | None,
    noise: Noise | Corrected | None,
    other: tuple[str, np.ndarray] | None,
    tolerance: float,
    hidden: str = "",
    level: Doubt | None = None,
) -> Result:
    """Return the result of an integral over theta, with a status that says how far it holds.

    Parameters
    ----------
    density, found
        log p(y, theta), and the integral.
    inner
        What other nodes of the members' integrals change; ``None`` where there are none.
    noise
        What weighed points leave open given theta; ``None`` where there are none.
    other
        Another mode of theta, in words and numbers, if one was found.
    tolerance
        Posterior sds that errors may have.
    hidden
        Another mode of a member, which its nodes do not cover, in words.
    level
        A member whose density has no end.
    """
    doubts = list(_doubts(density, found, inner, noise, other, tolerance))
    if level:
        doubts.insert(0, level)
    if hidden:
        doubts.insert(0, Doubt(f"{hidden}, which the nodes around the first miss", "use NUTS"))
    error = float(np.hypot(found.log_evidence_error, 0.0 if inner is None else abs(inner.mean)))
    bound = Bound.APPROXIMATION if density.is_laplace else Bound.ESTIMATE
    if not found.khat < _limit(density, found):
        bound = Bound.UNRELIABLE
    diagnostics = {
        "points": float(len(found.theta)),
        "effective_share": found.share,
        "khat_theta": found.khat,
        "largest_error": _worst(density, found),
        "covered": float(all(doubt.told for doubt in doubts)),
        "points_failed": float(found.failed.sum()),
        "share_lost": found.lost,
    }
    if inner is not None:
        diagnostics |= {"inner_error": inner.sd, "inner_moved": inner.moved}
    if isinstance(noise, Noise):
        diagnostics |= {"inner_noise": noise.sd, "laplace_tilt": noise.tilt}
    if isinstance(noise, Corrected):
        diagnostics |= {
            "laplace_shift": noise.shift,
            "laplace_tilt": noise.tilt,
            "laplace_moved": noise.moved,
            "correction_error": noise.noise,
            "correction_residual": noise.residual,
            "correction_khat": noise.khat,
            "correction_variance": noise.variance,
        }
    return Result(
        NestedPosterior(density, found),
        Status.UNCONVERGED if doubts else Status.OK,
        "; ".join([*(doubt.said for doubt in doubts), _said(density, found, inner, noise)]),
        next((doubt.advice for doubt in doubts if doubt.advice), ""),
        diagnostics=diagnostics,
        log_evidence=LogEvidence(found.log_evidence, error, bound, "nested quadrature"),
    )


def in_one_order(result: Result, target: Target) -> Result:
    """Return a result as it is, unless it is around one order of components of several."""
    if result.posterior is None or not result.status.has_result:
        return result
    group = other_labelling(target, result.posterior.mean(), result.posterior.sd())
    if group is None:
        return result
    said, advice = undeclared(group)
    message = f"{said}, and the points are around one of these; {result.message}"
    return replace(
        result,
        status=Status.UNCONVERGED,
        message=message,
        advice=advice,
        diagnostics={**result.diagnostics, "covered": 0.0},
    )


def _limit(density: ThetaDensity, found: Integral) -> float:
    return khat_limit(len(found.theta)) if density.dim else np.inf


def _worst(density: ThetaDensity, found: Integral) -> float:
    return found.worst_error(density.owner != OF_SEVERAL)


def _doubts(
    density: ThetaDensity,
    found: Integral,
    inner: InnerError | None,
    noise: Noise | Corrected | None,
    other: tuple[str, np.ndarray] | None,
    tolerance: float,
) -> Iterator[Doubt]:
    """Yield what is wrong, what misleads most first."""
    limit, worst = _limit(density, found), _worst(density, found)
    if not found.khat < limit:
        yield Doubt(
            f"khat of their weights is {found.khat:.2g}, above {limit:.2g}: the posterior of "
            "the parameters has a tail or a mode that the points do not cover",
            _or_a_prior(density),
        )
    beyond, sites = _beyond_numbers(density, found, EDGE)
    if beyond > tolerance:
        yield Doubt(
            f"about {beyond:.1%} of the posterior is where {sites} lies within 1e-130 of an edge "
            "of its support, or beyond 1e130: it is improper, or double precision cannot hold it",
            PROPER,
        )
    if other and not found.covers(other[1], density.sweep(other[1][None]).log_p[0]):
        yield Doubt(
            f"{other[0]}: the points are around one mode only",
            "order what is exchangeable, or use NUTS from several starts",
        )
    if found.share < MIN_SHARE:
        flat = ", ".join(sorted(density.target.flat)) if found.tails is not None else ""
        yield Doubt(
            f"only {found.share:.2g} of them are effective"
            + f", and tails do not end: by the flat prior of {flat} the posterior may be improper"
            * bool(flat),
            _or_a_prior(density) if flat else "",
            told=True,
        )
    if worst > tolerance:
        advice = "raise max_points, or tolerance"
        if inner is not None and inner.moved > tolerance:
            advice = more_nodes(inner)
        elif density.is_noisy:
            advice = "raise tolerance, or use NUTS"
        yield Doubt(
            f"errors of up to {worst:.2g} sds are left (tolerance {tolerance:g})", advice, told=True
        )
    if found.lost > tolerance:
        held, sites = _beyond_numbers(density, found, ROUNDED, found.failed)
        at_edge = held > found.lost / 2
        yield Doubt(
            f"at {found.failed.sum():,} points of the parameters, where {found.lost:.1%} of the "
            "posterior may be, log p(y, theta) was not found"
            + f": {sites} lies within 1e-11 of an edge of its support there, or beyond 1e11, and "
            "rounding is all that is left" * at_edge,
            PROPER if at_edge else _or_a_prior(density),
        )
    if inner is not None and INNER < inner.harm(density.dim) < np.inf:
        yield Doubt(str(inner), more_nodes(inner))
    if inner is not None and inner.lost:
        yield Doubt(inner.what_is_lost, "use NUTS")
    if isinstance(noise, Corrected) and not noise.khat < khat_limit(noise.num_points):
        yield Doubt(
            "Laplace's approximation is corrected, but by weighed points of which few count "
            f"(khat of their weights {noise.khat:.2g}): the error of that is not known",
            "use NUTS",
        )
    if isinstance(noise, Noise) and noise.sd > MOST_NOISE:
        yield Doubt(
            f"{2 * density.nodes.count:,} weighed points of the {density.split.width} "
            f"latent scalars leave a noise of {noise.sd:.2g} nats at a point of the parameters",
            "use NUTS",
        )
    if density.is_laplace:
        yield Doubt(
            "members are integrated over by Laplace's approximation, of unknown error",
            "leave num_nodes at 'auto'",
        )


def _or_a_prior(density: ThetaDensity) -> str:
    """Return what to do where the points do not hold the posterior: it may have no end."""
    if flat := ", ".join(sorted(density.target.flat)):
        return f"give {flat} a prior by which the posterior is proper; if it is, use NUTS"
    return "use NUTS"


def more_nodes(inner: InnerError) -> str:
    """Return what to do where members' integrals are not known: ``"auto"`` has gone as far."""
    may_be_had = inner.others > inner.num_nodes and not inner.lost
    return "leave num_nodes at 'auto', or use NUTS" if may_be_had else "use NUTS"


def _beyond_numbers(
    density: ThetaDensity,
    found: Integral,
    edge: float,
    among: Bool[np.ndarray, " points"] | None = None,
) -> tuple[float, str]:
    """Return the share of the posterior beyond an edge, among points, and of which parameters."""
    target, border = density.target, density.split.border
    far = target.edged[border] & (np.abs(found.theta) > edge)
    if among is not None:
        far &= among[:, None]
    if not far.any() or not (found.weights > 0).any():
        return 0.0, ""
    w = found.as_neighbours
    along = np.zeros(target.dim)
    along[border] = w @ far
    return float(w @ far.any(axis=1)), ", ".join(target.sites_along(along))


def _said(
    density: ThetaDensity,
    found: Integral,
    inner: InnerError | None,
    noise: Noise | Corrected | None,
) -> str:
    """Return how the integral was had, and how far it is known."""
    said = density.describe()
    if density.dim:
        of = "1 parameter" if density.dim == 1 else f"{density.dim} parameters"
        known = density.owner != OF_SEVERAL
        settled = found.tails is None or bool(np.isnan(found.tails[known]).any())
        error = f", largest error {_worst(density, found):.2g} sds" if settled else ""
        count = f"{len(found.theta):,} points of {of}"
        said = f"{count}, effective share {found.share:.2g}{error}; {said}"
        if found.residual is not None:
            what = {3: "a cubic", 4: "a quartic"}[degree_of(density.dim)]
            said += f"; {what} has log p(y, theta) to {found.residual:.1g} nats"
    if isinstance(noise, Corrected):
        said += f", {noise}"
    if isinstance(noise, Noise) and np.isfinite(noise.sd):
        said += (
            f", to {noise.sd:.1g} nats at a point of the parameters; Laplace's "
            f"approximation would be {noise.shift:.2g} nats short there, give or take "
            f"{noise.tilt:.1g} from one to another"
        )
    if inner is not None and inner.lost < inner.looked:
        said += f", known to {inner.harm(density.dim):.1g} nats"
    if found.tails is not None:
        numbers = NestedPosterior(density, found).tails()
        said += (
            f"; Pareto khat of the points of {', '.join(numbers)} is up to "
            f"{np.nanmax(found.tails):.2f}: take medians and intervals there, not means and sds"
        )
    return said
