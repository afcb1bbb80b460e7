"""Nested quadrature: the posterior of a hierarchical model with a stated error, in seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, override

import jax
import numpy as np

from vi_recipes.core import (
    MethodFailure,
    Progress,
    Status,
    Timing,
    require,
    require_count,
    require_number,
    split_key,
)
from vi_recipes.latent import (
    MAX_FIELD,
    Marginal,
    NumNodes,
    Split,
    coupled_sites,
    fields,
    local_sites,
)
from vi_recipes.methods.base import Method, Result
from vi_recipes.methods.nested.corrected import MOVED, SHARE, correct, with_errors
from vi_recipes.methods.nested.crossed_density import CrossedDensity
from vi_recipes.methods.nested.density import ThetaDensity
from vi_recipes.methods.nested.integrate import (
    HEAVIEST,
    checked,
    integrate,
    with_inner_error,
    without_theta,
)
from vi_recipes.methods.nested.judge import in_one_order, judged
from vi_recipes.methods.nested.lots import integrate_in_lots, is_dear
from vi_recipes.methods.nested.members import (
    INNER,
    NUM_LOOKED,
    choose_nodes,
    coupled,
    coupled_members,
    members_of,
    nodes_to_check,
    placed,
    refusal,
)
from vi_recipes.methods.nested.mode import (
    CLOSE,
    ThetaMode,
    distant_starts,
    find_other_mode,
)
from vi_recipes.methods.nested.nodes import LADDER, MOST_NODES, member_nodes
from vi_recipes.methods.nested.owners import OF_SEVERAL
from vi_recipes.methods.nested.records import InnerError, ThetaRows
from vi_recipes.methods.nested.rounds import Integral
from vi_recipes.methods.nested.several_modes import hidden_modes, level_members
from vi_recipes.methods.nested.wide_density import as_noisy
from vi_recipes.model import Target

MAX_GLOBALS = 15
"""Coordinates of theta up to which quasi-Monte Carlo points fill its space."""

FEW_POINTS, CHEAP = 1_000, 2e8
"""Points of theta, and numbers read at all their nodes, up to which it takes a second or two."""

MATRICES = 3
"""Matrices of a vector in no plate that a point of theta reads, about."""

CHEAP_POINT = 2e5
"""Numbers read at all nodes of a point of theta up to which it is looked for."""


SUM_OUT = (
    "sum what is discrete out in the model, as dist.MixtureSameFamily does, for what is continuous "
    "to be integrated out; or use NUTS"
)
"""What to do where latent variables of both kinds have members."""


class _NoOneMode(MethodFailure):
    """The joint density of all latent variables has no one mode: some are to be integrated out."""

    def __init__(self) -> None:
        said = "the joint density of all latent variables has several modes, or no maximum"
        super().__init__(Status.NOT_APPLICABLE, said, "use NUTS")

    def nor_without(self, failure: MethodFailure) -> MethodFailure:
        """Return the failure where those that are coupled are not integrated out either."""
        said = f"{self.message}; and with the coupled ones integrated out {failure.message}"
        return MethodFailure(self.status, said, self.advice)


def _of_both_kinds(split: Split) -> str:
    """Say which latent variables count as parameters as others are discrete; empty for none."""
    names = ", ".join(local_sites(split.target)) if split.kind == "discrete" else ""
    return names and (
        f"{', '.join(split.latents)} is discrete and {names} continuous: not both are integrated "
        f"out, and {names} counts as a parameter"
    )


@dataclass(frozen=True, kw_only=True)
class NestedQuadrature(Method):
    """The posterior by integrals within integrals: members one by one, then what they share.

    Where local latent variables are independent given theta, each member is integrated out by
    adaptive Gauss-Hermite quadrature, exactly where it is normal. Where they are coupled they are
    one member: exact where it is normal, else by weighed points around its mode. What is left, log
    p(y, theta) of up to 15 parameters, is integrated by quasi-Monte Carlo importance sampling:
    scrambled Sobol points of proposals fitted round after round. Every figure has an error, from
    independent scrambles. Without members, or where they are coupled and few, all coordinates are
    theta's; if these have no one mode, as in a funnel, or end otherwise than OK, the coupled are
    integrated out.

    Parameters
    ----------
    latent
        Sites to integrate out member by member; see :class:`MarginalMLE`. Where there are none in
        plates, vectors whose law depends on other sites, as Gaussian processes, are one member, and
        where too many parameters would be left, so are coupled ones in plates, as innovations of a
        random walk, and vectors in none beside them; of more than 128 scalars they are to be named.
    num_nodes
        Nodes a dimension of a member's integral; 1 is Laplace's approximation, whose error is not
        known. ``"auto"`` takes 9, 15, 25, 39, 79 or 159 (of two coordinates at most 39, of three
        25), until more change log p(y, theta) by the same number of nats everywhere, to 0.02. One
        member that is not normal knows 1 and ``"auto"`` alone.
    tolerance
        Posterior sds: points double until the estimated error of every mean is below it, and the
        relative error of every sd.
    max_points
        Points of theta in all, at most, the first two rounds apart; fewer where members have
        weighed points, and those of some thousand points of theta would take longer than some
        minutes.

    References
    ----------
    Rue, H., Martino, S. and Chopin, N. (2009). Approximate Bayesian inference for latent Gaussian
    models by using integrated nested Laplace approximations. JRSS B 71(2).
    doi:10.1111/j.1467-9868.2008.00700.x
    Pinheiro, J. C. and Bates, D. M. (1995). Approximations to the log-likelihood function in the
    nonlinear mixed-effects model. JCGS 4(1). doi:10.1080/10618600.1995.10474663
    """

    key: ClassVar[str] = "nested"

    summary: ClassVar[str] = (
        "integrates members out by quadrature and the few shared parameters by weighed points: "
        "means, sds and log p(y) with their errors"
    )

    latent: tuple[str, ...] | None = None
    num_nodes: NumNodes = "auto"
    tolerance: float = 0.01
    max_points: int = 65_536

    def __post_init__(self) -> None:
        super().__post_init__()
        require_number("tolerance", self.tolerance, above=0.0, most=1.0)
        require_count("max_points", self.max_points)
        nodes = self.num_nodes
        known = nodes == "auto" or (isinstance(nodes, int) and 1 <= nodes <= MOST_NODES[0])
        require(
            known and not isinstance(nodes, bool),
            "num_nodes",
            self.num_nodes,
            f"'auto', or 1 to {MOST_NODES[0]}",
        )

    @property
    @override
    def where_it_jumps(self) -> Status | None:
        return Status.NOT_APPLICABLE

    @override
    def applies(self, target: Target) -> str | None:
        if reason := super().applies(target):
            return reason
        try:
            with jax.enable_x64(True):
                self._marginal(target, Timing())
        except MethodFailure as failure:
            return failure.reason
        return None

    def is_cheap(self, target: Target) -> bool:
        """Whether it applies, and takes next to no time beside its compilation."""
        size = sum(s.size for s in target.observed) + target.dim
        if size * FEW_POINTS * LADDER[0] > CHEAP or self.refusal(target) is not None:
            return False
        marginal = self._marginal(target, Timing())
        if not any(target.sites[n].plates for n in marginal.split.latents):
            size += MATRICES * marginal.split.width**2
        nodes = LADDER[0] ** marginal.split.width if marginal.rule == "quadrature" else LADDER[0]
        return size * FEW_POINTS * nodes <= CHEAP

    def _marginal(self, target: Target, timing: Timing) -> Marginal:
        """Return the members and how they are integrated over.

        Raises
        ------
        MethodFailure
            ``NOT_APPLICABLE``, saying why.
        """
        small = self.latent is None and target.dim <= MAX_GLOBALS
        marginal = members_of(
            target,
            self.latent,
            self.num_nodes,
            timing,
            or_none=small,
            weighed=True,
            most=MAX_GLOBALS,
        )
        if (count := marginal.split.border.size) > MAX_GLOBALS:
            said = f"{count} parameters are left when members are integrated out; at most "
            said += f"{MAX_GLOBALS} can be"
            if both := _of_both_kinds(marginal.split):
                raise MethodFailure(Status.NOT_APPLICABLE, f"{said}: {both}", SUM_OUT)
            long = fields(target, target.dim)
            if target.dim - sum(target.sites[n].size for n in long) > MAX_GLOBALS:
                long = coupled_sites(target, MAX_GLOBALS)
            rest = ", and any number by NUTS(marginal=True)"
            size = sum(target.sites[n].size for n in long)
            if self.latent is None and long:
                names = ", ".join(long)
                try:
                    found = members_of(target, long, self.num_nodes, timing, weighed=True)
                    if size <= MAX_FIELD:
                        return found
                    rest = f": to integrate {names} out too give latent={long}"
                except MethodFailure as failure:
                    if marginal.split.kind == "none":
                        raise coupled(names, failure) from None
            raise refusal(said + rest)
        return marginal

    @override
    def _fit(self, target: Target, key: jax.Array, timing: Timing, progress: Progress) -> Result:
        made: Result | MethodFailure
        with timing.running_compiled():
            try:
                choose = partial(self._marginal, target, timing)
                made = self._settled(choose, target, key, timing, progress)
            except MethodFailure as failure:
                made = failure
            if made.status is not Status.OK:
                choose = partial(self._coupled, target, timing)
                try:
                    made = self._settled(choose, target, key, timing, progress)
                except MethodFailure as failure:
                    if isinstance(made, _NoOneMode):
                        made = made.nor_without(failure)
                    else:
                        made = self._saying_both_kinds(made, target)
            if isinstance(made, MethodFailure):
                raise made
            return in_one_order(made, target)

    def _saying_both_kinds(
        self, made: Result | MethodFailure, target: Target
    ) -> Result | MethodFailure:
        """Return what is not OK with what it says of latent variables of both kinds, if any."""
        try:
            said = _of_both_kinds(self._marginal(target, Timing()).split)
        except MethodFailure:
            return made  # which has said so
        if not said:
            return made
        message = f"{made.message}; {said}"
        if isinstance(made, MethodFailure):
            return MethodFailure(made.status, message, SUM_OUT)
        return replace(made, message=message, advice=SUM_OUT)

    def _coupled(self, target: Target, timing: Timing) -> Marginal:
        """Return the few coupled variables that are theta's at first as members.

        Raises
        ------
        MethodFailure
            ``NOT_APPLICABLE`` where there are none.
        """
        if self.latent is not None or self._marginal(target, timing).split.num_members:
            raise refusal("all coupled latent variables are integrated out")
        return coupled_members(target, self.num_nodes, timing, MAX_GLOBALS)

    def _leave_to_coupled(self, target: Target, timing: Timing) -> None:
        """Raise :class:`_NoOneMode` if coupled variables may be members.

        Theta's points miss a part of a funnel.
        """
        try:
            self._coupled(target, timing)
        except MethodFailure:
            return
        raise _NoOneMode

    def _settled(
        self,
        choose: Callable[[], Marginal],
        target: Target,
        key: jax.Array,
        timing: Timing,
        progress: Progress,
    ) -> Result:
        """Return the result with the members that are chosen.

        Raises
        ------
        MethodFailure
            ``DIVERGED`` where double precision does not hold how theta spreads, and as
            :func:`~vi_recipes.methods.nested.members.placed`.
        """
        try:
            while (made := self._fitted(choose, target, key, timing, progress)) is None:
                pass  # once more at most: it is remembered what was seen
        except np.linalg.LinAlgError:
            raise MethodFailure(
                Status.DIVERGED,
                "double precision does not hold how the parameters spread: log p(y, theta) may "
                "have no maximum",
                "start elsewhere with Model(init=...), or use NUTS",
            ) from None
        return made

    def _fitted(
        self,
        choose: Callable[[], Marginal],
        target: Target,
        key: jax.Array,
        timing: Timing,
        progress: Progress,
    ) -> Result | None:
        """Return the result; ``None`` where members are not normal that have counted as such."""
        density, mode = placed(choose, timing, key, progress)
        other, added = None, None
        seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
        if mode is not None:
            density.count_from(mode.theta)
            other = self._other_mode(density, mode, key, progress)
            if (other or mode.decrement > CLOSE) and not density.has_members:
                self._leave_to_coupled(target, timing)
            if self.num_nodes == "auto":
                choose_nodes(density, mode, seed)
        if isinstance(density, CrossedDensity) and not density.is_laplace:
            added = correct(density, mode, self.tolerance, progress)
            mode = added.mode(mode) if mode is not None else None
        integral, inner = self._integrated(density, mode, seed, progress, added is not None)
        while self._more(density, inner):
            integral, inner = self._integrated(density, mode, seed, progress)
        if density.misjudges(integral.theta[integral.some(NUM_LOOKED)]):
            return None
        if added is not None:
            integral, corrected = with_errors(added, integral, density.owner != OF_SEVERAL)
            return judged(density, integral, added.inner, corrected, other, self.tolerance)
        noise = None
        if wide := as_noisy(density):
            rows = integral.some(wide.num_looked)
            swept = ThetaRows(*(v[rows] for v in integral.swept))
            noise = wide.noise_at(integral.theta[rows], swept)
            if (checked := wide.checked(integral.theta[rows])) is not None:
                integral, inner = with_inner_error(
                    integral, np.ones(len(rows)), *checked, density.owner != OF_SEVERAL
                )
        hidden = hidden_modes(density, integral.theta[integral.some(2)])
        level = level_members(density, integral.theta[integral.some(1)[0]])
        return judged(density, integral, inner, noise, other, self.tolerance, hidden, level)

    def _integrated(
        self,
        density: ThetaDensity,
        mode: ThetaMode | None,
        seed: int,
        progress: Progress,
        shared: bool = False,
    ) -> tuple[Integral, InnerError | None]:
        if mode is None:
            integral = without_theta(density)
        else:
            integral = (integrate_in_lots if is_dear(density) else integrate)(
                density,
                mode,
                tolerance=self.tolerance * (np.sqrt(1 - SHARE) if shared else 1.0),
                max_points=self.max_points,
                seed=seed,
                known=density.owner != OF_SEVERAL,
                progress=progress,
            )
        others = nodes_to_check(density)
        if others is None:
            return integral, None
        heaviest = np.argsort(-integral.weights)[:HEAVIEST]
        here = ThetaRows(*(v[heaviest] for v in integral.swept))
        there = checked(density, integral.theta[heaviest], here, others)
        return with_inner_error(
            integral,
            integral.weights[heaviest],
            (density.nodes.num_nodes, others),
            (here, there),
            density.owner != OF_SEVERAL,
        )

    def _more(self, density: ThetaDensity, inner: InnerError | None) -> bool:
        """Whether more nodes are needed and to be had; the density has them then."""
        if inner is None or self.num_nodes != "auto":
            return False
        if inner.harm(density.dim) <= INNER and inner.moved <= MOVED * self.tolerance:
            return False
        if inner.others <= inner.num_nodes or inner.lost:
            return False
        density.nodes = member_nodes(inner.others, density.split.width)
        return True

    def _other_mode(
        self, density: ThetaDensity, mode: ThetaMode, key: jax.Array, progress: Progress
    ) -> tuple[str, np.ndarray] | None:
        """Return another mode of theta, if a start elsewhere leads to one, in words and numbers.

        Where a point of theta is dear nobody looks.
        """
        if density.work > CHEAP_POINT:
            return None
        start = partial(density.target.start, scatter=1.0)
        first, second = split_key(key, 2)
        # of points that are scattered alone all may lie on one side
        starts = [start(first), start(first, mirrored=True), start(second)]
        starts += distant_starts(density, mode)
        other = find_other_mode(density, mode, starts, progress)
        if other is None:
            return None
        away = np.zeros(density.target.dim)
        away[density.split.border] = (other.theta - mode.theta) / density.units
        flat = np.zeros(density.target.dim)
        flat[density.split.border] = other.theta
        site = density.target.sites_along(away)[0]
        value = np.ravel(density.target.constrain(flat[None])[site][0])
        shown = ", ".join(f"{v:.3g}" for v in value[:3]) + (", ..." if value.size > 3 else "")
        return f"log p(y, theta) has another mode, at {site} = {shown}", other.theta
