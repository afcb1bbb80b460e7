"""Nested quadrature: the posterior of a hierarchical model with a stated error, in seconds."""

from __future__ import annotations

from dataclasses import dataclass
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
from vi_recipes.importance import Bound, LogEvidence, khat_limit
from vi_recipes.latent import Marginal, NumNodes, fields
from vi_recipes.methods.base import Method, Result
from vi_recipes.methods.nested.corrected import SHARE, Corrected, correct, with_errors
from vi_recipes.methods.nested.crossed_density import CrossedDensity
from vi_recipes.methods.nested.density import ThetaDensity
from vi_recipes.methods.nested.integrate import (
    HEAVIEST,
    LADDER,
    integrate,
    with_inner_error,
    without_theta,
)
from vi_recipes.methods.nested.lots import integrate_in_lots, is_dear
from vi_recipes.methods.nested.members import (
    INNER,
    NUM_LOOKED,
    choose_nodes,
    members_of,
    nodes_to_check,
    placed,
    refusal,
)
from vi_recipes.methods.nested.mode import (
    ThetaMode,
    distant_starts,
    find_other_mode,
)
from vi_recipes.methods.nested.nodes import MOST_NODES, make_nodes
from vi_recipes.methods.nested.owners import OF_SEVERAL
from vi_recipes.methods.nested.posterior import NestedPosterior
from vi_recipes.methods.nested.records import InnerError, Noise, Swept
from vi_recipes.methods.nested.rounds import Integral
from vi_recipes.methods.nested.surrogate import degree_of
from vi_recipes.methods.nested.wide_density import as_noisy
from vi_recipes.model import Target

MAX_GLOBALS = 15
"""Coordinates of theta up to which quasi-Monte Carlo points fill its space."""

MIN_SHARE = 0.2
"""Effective share of the points of theta below which there are too few that matter."""

FEW_POINTS, CHEAP = 1_000, 2e8
"""Points of theta, and numbers read at all their nodes, up to which it takes a second or two."""

MATRICES = 3
"""Matrices of a vector in no plate that a point of theta reads, about."""

MOVED = 0.2
"""Of the tolerance, that more nodes may change means and sds given theta: errors are then larger by
a fiftieth."""

CHEAP_POINT = 2e5
"""Numbers read at all nodes of a point of theta up to which it is looked for."""

MOST_NOISE = 1.0
"""Nats: noise of log p(y, theta) at a point, by weighed points, up to which it averages out."""


@dataclass(frozen=True, kw_only=True)
class NestedQuadrature(Method):
    """The posterior by integrals within integrals: members one by one, then what they share.

    Where local latent variables are independent given theta, each member is integrated out by
    adaptive Gauss-Hermite quadrature, exactly where it is normal. Where they are coupled they are
    one member: exact where it is normal, else by weighed points around its mode. What is left, log
    p(y, theta) of up to 15 parameters, is integrated by quasi-Monte Carlo importance sampling:
    scrambled Sobol points of proposals fitted round after round. Every figure has an error, from
    independent scrambles. Without members, or where they are coupled and few, all coordinates are
    theta's.

    Parameters
    ----------
    latent
        Sites to integrate out member by member; see :class:`MarginalMLE`. Where there are none in
        plates, vectors whose law depends on other sites, as Gaussian processes, are one member;
        of more than 128 scalars they are to be named.
    num_nodes
        Nodes a dimension of a member's integral; 1 is Laplace's approximation, whose error is not
        known. ``"auto"`` takes 9, 15 or 25, until more change log p(y, theta) by the same number of
        nats everywhere, to 0.02. One member that is not normal knows 1 and ``"auto"`` alone.
    tolerance
        Posterior sds: points double until the estimated error of every mean is below it, and the
        relative error of every sd.
    max_points
        Points of theta in all, at most; fewer where members have weighed points, and those of some
        thousand points of theta would take longer than some minutes.

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
        known = nodes == "auto" or (isinstance(nodes, int) and 1 <= nodes <= MOST_NODES)
        require(
            known and not isinstance(nodes, bool),
            "num_nodes",
            self.num_nodes,
            f"'auto', or 1 to {MOST_NODES}",
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
            return failure.message
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
            long = fields(target, target.dim) or tuple(s.name for s in target.latents if s.plates)
            rest = ", and any number by NUTS(marginal=True)"
            left = target.dim - sum(target.sites[n].size for n in long)
            if self.latent is None and long and left <= MAX_GLOBALS:
                rest = f": to integrate {', '.join(long)} out too give latent={long}"
            raise refusal(
                f"{count} parameters are left when members are integrated out; at most "
                f"{MAX_GLOBALS} can be{rest}"
            )
        return marginal

    @override
    def _fit(self, target: Target, key: jax.Array, timing: Timing, progress: Progress) -> Result:
        with timing.running_compiled():
            while (made := self._fitted(target, key, timing, progress)) is None:
                pass  # once more at most: it is remembered what was seen
            return made

    def _fitted(
        self, target: Target, key: jax.Array, timing: Timing, progress: Progress
    ) -> Result | None:
        """Return the result; ``None`` where members are not normal that have counted as such."""
        density, mode = placed(partial(self._marginal, target, timing), timing, key, progress)
        other, added = None, None
        seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
        if mode is not None:
            density.count_from(mode.theta)
            other = self._other_mode(density, mode, key, progress)
            if self.num_nodes == "auto":
                choose_nodes(density, mode, seed)
        if isinstance(density, CrossedDensity) and not density.is_laplace:
            added = correct(density, mode, self.tolerance, progress)
            mode = added.mode(mode) if mode is not None else None
        found, inner = self._integrated(density, mode, seed, progress, added is not None)
        while self._more(density, inner):
            found, inner = self._integrated(density, mode, seed, progress)
        if density.misjudges(found.theta[found.some(NUM_LOOKED)]):
            return None
        if added is not None:
            found, corrected = with_errors(added, found, density.owner != OF_SEVERAL)
            return self._judged(density, found, added.inner, corrected, other)
        noise = None
        if wide := as_noisy(density):
            rows = found.some(wide.num_looked)
            swept = Swept(*(v[rows] for v in found.swept))
            noise = wide.noise_at(found.theta[rows], swept)
            if (checked := wide.checked(found.theta[rows])) is not None:
                found, inner = with_inner_error(
                    found, np.ones(len(rows)), *checked, density.owner != OF_SEVERAL
                )
        return self._judged(density, found, inner, noise, other)

    def _integrated(
        self,
        density: ThetaDensity,
        mode: ThetaMode | None,
        seed: int,
        progress: Progress,
        shared: bool = False,
    ) -> tuple[Integral, InnerError | None]:
        if mode is None:
            found = without_theta(density)
        else:
            found = (integrate_in_lots if is_dear(density) else integrate)(
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
            return found, None
        heaviest = np.argsort(-found.weights)[:HEAVIEST]
        here = Swept(*(v[heaviest] for v in found.swept))
        there = density.sweep(found.theta[heaviest], make_nodes(others, density.split.width, False))
        return with_inner_error(
            found,
            found.weights[heaviest],
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
        density.nodes = make_nodes(inner.others, density.split.width, False)
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

    def _judged(
        self,
        density: ThetaDensity,
        found: Integral,
        inner: InnerError | None,
        noise: Noise | Corrected | None,
        other: tuple[str, np.ndarray] | None,
    ) -> Result:
        worst = found.worst_error(density.owner != OF_SEVERAL)
        count = len(found.theta)
        limit = khat_limit(count) if density.dim else np.inf
        doubts, advice = [], ""
        if not found.khat < limit:
            doubts.append(
                f"khat of their weights is {found.khat:.2g}, above {limit:.2g}: the posterior of "
                "the parameters has a tail or a mode that the points do not cover"
            )
            advice = "use NUTS; where a prior is improper, give one that the posterior is proper by"
        if other and not found.covers(other[1], density.sweep(other[1][None]).log_p[0]):
            doubts.append(f"{other[0]}: the points are around one mode only")
            advice = advice or "order what is exchangeable, or use NUTS from several starts"
        covered = not doubts
        if found.share < MIN_SHARE:
            doubts.append(f"only {found.share:.2g} of them are effective")
        if worst > self.tolerance:
            doubts.append(
                f"errors of up to {worst:.2g} sds are left (tolerance {self.tolerance:g})"
            )
            by_nodes = inner is not None and inner.moved > self.tolerance
            advice = advice or (
                "leave num_nodes at 'auto', or use NUTS"
                if by_nodes
                else "raise tolerance, or use NUTS"
                if density.is_noisy
                else "raise max_points, or tolerance"
            )
        failed, lost = int(found.failed.sum()), found.lost
        if lost > self.tolerance:
            doubts.append(
                f"at {failed:,} points of the parameters, where {lost:.1%} of the posterior may "
                "be, log p(y, theta) was not found"
            )
            advice = advice or "use NUTS"
            covered = False
        if inner is not None and INNER < inner.harm(density.dim) < np.inf:
            doubts.append(str(inner))
            advice = advice or "leave num_nodes at 'auto', or use NUTS"
            covered = False
        if inner is not None and inner.lost:
            doubts.append(inner.what_is_lost)
            advice = advice or "use NUTS"
            covered = False
        if isinstance(noise, Corrected) and not noise.khat < khat_limit(noise.num_points):
            doubts.append(
                "Laplace's approximation is corrected, but by weighed points of which few count "
                f"(khat of their weights {noise.khat:.2g}): the error of that is not known"
            )
            advice = advice or "use NUTS"
            covered = False
        if isinstance(noise, Noise) and noise.sd > MOST_NOISE:
            doubts.append(
                f"{2 * density.nodes.count:,} weighed points of the {density.split.width} "
                f"latent scalars leave a noise of {noise.sd:.2g} nats at a point of the parameters"
            )
            advice = advice or "use NUTS"
            covered = False
        approximate = density.is_laplace
        if approximate:
            doubts.append(
                "members are integrated over by Laplace's approximation, of unknown error"
            )
            advice = advice or "leave num_nodes at 'auto'"
            covered = False
        status = Status.UNCONVERGED if doubts else Status.OK
        said = density.describe()
        if density.dim:
            of = "1 parameter" if density.dim == 1 else f"{density.dim} parameters"
            said = (
                f"{count:,} points of {of}, effective share {found.share:.2g}, "
                f"largest error {worst:.2g} sds; {said}"
            )
            if found.residual is not None:
                what = {3: "a cubic", 4: "a quartic"}[degree_of(density.dim)]
                said += f"; {what} has log p(y, theta) to {found.residual:.1g} nats"
        if found.tails is not None:
            numbers = NestedPosterior(density, found).tails()
            said += (
                f"; Pareto khat of the points of {', '.join(numbers)} is up to "
                f"{np.nanmax(found.tails):.2f}: take medians and intervals there, not means and sds"
            )
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
        error = float(np.hypot(found.log_evidence_error, 0.0 if inner is None else abs(inner.mean)))
        bound = Bound.APPROXIMATION if approximate else Bound.ESTIMATE
        if not found.khat < limit:
            bound = Bound.UNRELIABLE
        diagnostics = {
            "points": float(count),
            "effective_share": found.share,
            "khat_theta": found.khat,
            "largest_error": worst,
            "covered": float(covered),
            "points_failed": float(failed),
            "share_lost": lost,
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
            status,
            "; ".join([*doubts, said]),
            advice,
            diagnostics=diagnostics,
            log_evidence=LogEvidence(found.log_evidence, error, bound, "nested quadrature"),
        )
