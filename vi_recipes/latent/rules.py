"""Which integral over the latent variables applies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from vi_recipes.core import SEVERAL, MethodFailure, Status, Timing
from vi_recipes.latent.columns import MAX_CORNER, MAX_SCATTERED, columns_of
from vi_recipes.latent.curvature import MAX_WIDE, examine, kinks_of
from vi_recipes.latent.marginal import (
    MAX_GAUSSIAN,
    MAX_QUADRATURE,
    Marginal,
    RuleOrNone,
)
from vi_recipes.latent.members import split_target
from vi_recipes.latent.node_error import NumNodes, first_nodes
from vi_recipes.latent.seen import MAX_WEIGHED
from vi_recipes.latent.split import Split
from vi_recipes.model import Target

RULES: dict[str, str] = {
    "enumerate": (
        "discrete latent variables whose members do not touch one another given theta; up to 1,024 "
        "combined states a member are summed over"
    ),
    "forward_backward": (
        "a discrete state at every time of a scan, depending on the state before and no earlier one"
    ),
    "gaussian": (
        "continuous latent variables in which the log joint is quadratic with a negative "
        "curvature, which is checked at several points: an exact integral, up to 300 scalars a "
        "member, or in all where members are coupled"
    ),
    "quadrature": (
        "other continuous latent variables, one to three scalars a member, members not coupled: "
        "adaptive Gauss-Hermite"
    ),
    "else": (
        "refused, naming the latent variables to blame: variational_em restricts q to independent "
        "factors, meanfield, lrvb, laplace and nuts treat all sites alike"
    ),
}
"""What makes an E-step tractable, in the order in which it is looked for."""


CHEAP = 200_000
"""Element evaluations of a Hessian up to which starts cost next to nothing."""


# -- choosing --------------------------------------------------------------------------------------


def choose(
    split: Split,
    e_step: str,
    num_nodes: NumNodes,
    with_prior: bool,
    start: Callable[[], np.ndarray],
    compiler: Callable[..., Callable[..., Any]],
    wide: bool = False,
    near: bool = False,
) -> Marginal:
    """Return the marginal likelihood by the rule that is asked for, or by the best that applies.

    Parameters
    ----------
    split
        Parameters and latent variables.
    e_step
        A rule of :data:`RULES`, or ``"auto"``.
    num_nodes, with_prior
        See :class:`Marginal`.
    start
        Gives a point of the target's flat vector, near which the log joint is examined.
    compiler
        Compiles a function for given arguments.
    wide
        Whether a single member may have up to :data:`MAX_WIDE` scalars, by a sparse precision, and
        be other than normal, with a log joint that is concave in it; and several members that are
        too wide for quadrature count as one.
    near
        Whether what is quadratic where it was looked at counts as that, whatever kinks lie
        elsewhere: of what looks again wherever it is asked.

    Raises
    ------
    MethodFailure
        ``NOT_APPLICABLE`` where no rule, or not the one asked for, is tractable, with the latent
        variables to blame and what to use instead.
    """
    names = ", ".join(split.latents)
    if split.kind == "none":
        return Marginal(split, "none", with_prior=with_prior)
    if split.kind == "discrete":
        rule: RuleOrNone = "forward_backward" if split.chains else "enumerate"
        if e_step not in ("auto", rule):
            if e_step in ("gaussian", "quadrature"):
                why = f"{names} is discrete: e_step='{e_step}' integrates over continuous ones"
            elif split.chains:
                why = f"the states of {names} depend on those of the time before: they are a chain"
            else:
                why = f"the members of {names} are independent given the rest: they are no chain"
            raise _refusal(f"{why}; e_step='{rule}' applies")
        return Marginal(split, rule, with_prior=with_prior)
    if e_step in ("enumerate", "forward_backward"):
        raise _refusal(f"{names} is continuous: there are no states to enumerate")
    d, members = split.width, split.num_members
    single = wide and members == 1
    widest = MAX_WIDE if single else MAX_GAUSSIAN
    quadratic = d <= widest and examine(split, start, compiler, near=near).quadratic
    of = f"each of {members} members has" if members > 1 else "it has"
    if quadratic and e_step != "quadrature":
        return Marginal(split, "gaussian", with_prior=with_prior)
    if e_step == "gaussian":
        raise _refusal(
            f"the log joint is not quadratic in {names} with a negative curvature, so its integral "
            "is not Gaussian"
        )
    if wide and d > MAX_QUADRATURE and members > 1 and _may_be_joined(split):
        return choose(split.joined, e_step, num_nodes, with_prior, start, compiler, wide)
    most = _most_weighed(split) if single else 0
    if MAX_QUADRATURE < d <= most:
        if examine(split, start, compiler).concave:
            return Marginal(split, "quadrature", first_nodes(num_nodes), with_prior)
        if kinks := kinks_of(split):
            raise _refusal(f"{kinks}: points around one mode miss what lies past them")
        raise _refusal(
            f"the log joint is not concave in {names}, or flat along it, as where nothing holds a "
            "sum: there may be several modes or none, and points around one miss the others"
        )
    if d > MAX_QUADRATURE:
        reason = (
            f"is {d:,}-dimensional, beyond the {widest:,} for which a Gaussian is formed"
            if d > widest
            else "is not Gaussian given the rest"
        )
        if single and d > MAX_WEIGHED:
            reason += (
                f"; weighed points take {MAX_WEIGHED}, or {MAX_SCATTERED:,} where all but "
                f"{MAX_CORNER:,} are effects of one family that few others touch"
            )
        raise _refusal(
            f"no E-step is tractable for latent {names}: {of} {d} latent scalars, quadrature takes "
            f"at most {MAX_QUADRATURE}, and {names} {reason}"
        )
    return Marginal(split, "quadrature", first_nodes(num_nodes), with_prior)


def _may_be_joined(split: Split) -> bool:
    """Whether points may be weighed over all members at once."""
    return split.local.size <= MAX_WEIGHED and split.weights is None


def _most_weighed(split: Split) -> int:
    """Return how many scalars of a single member that is not normal points are weighed over."""
    columns = columns_of(split) if MAX_WEIGHED < split.width <= MAX_SCATTERED else None
    return MAX_WEIGHED if columns is None or columns.arrow is None else MAX_SCATTERED


def _refusal(message: str) -> MethodFailure:
    return MethodFailure(
        Status.NOT_APPLICABLE,
        message,
        "use variational inference (VariationalEM, MeanField, LinearResponse), Laplace or NUTS; or "
        "name fewer sites as latent",
    )


def marginal_of(
    target: Target,
    latent: tuple[str, ...] | None,
    rule: str,
    num_nodes: NumNodes,
    with_prior: bool,
    timing: Timing,
    *,
    wide: bool = False,
    near: bool = False,
) -> Marginal:
    """Return the marginal likelihood of a target; see :func:`choose`.

    Raises
    ------
    ValueError
        For latent sites that the model does not have.
    MethodFailure
        ``NOT_APPLICABLE`` where no integral is tractable.
    """
    if not (target.observed or target.has_factors):
        raise MethodFailure(
            Status.NOT_APPLICABLE,
            f"model '{target.name}' observes nothing: there is no likelihood to maximise",
            "MAP, Laplace, VB and NUTS fit a prior",
        )

    def start() -> np.ndarray:
        return starting_point(target, jax.random.key(0), 0)

    split = split_target(target, latent)
    if split.kind == "continuous":
        _ = split.target.units  # now: what is asked while something is traced takes many programs
    return choose(split, rule, num_nodes, with_prior, start, timing.compile, wide, near)


def num_starts_of(marginal: Marginal) -> int:
    """Return how many starts a search takes where nothing is said.

    Several where the likelihood is a sum over states, which has several maxima more often than not,
    and where they cost next to nothing.
    """
    split = marginal.split
    nodes = marginal.num_nodes**split.width if marginal.rule == "quadrature" else 1
    size = sum(s.size for s in split.target.observed) + split.num_members
    cheap = size * nodes * split.border.size**2 <= CHEAP
    return SEVERAL if split.kind == "discrete" or cheap else 1


def starting_point(target: Target, key: jax.Array, number: int) -> Float[np.ndarray, " dim"]:
    """Return the starting point of a number, unconstrained; number 0 is not scattered."""
    return target.start(key, scatter=1.0 if number else 0.0)
