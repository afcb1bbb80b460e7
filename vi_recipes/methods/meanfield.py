"""Mean-field variational Bayes by a deterministic objective and a second-order method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, override

import jax
import numpy as np
from scipy.special import expit

from vi_recipes.core import (
    LOOSEST_STEP,
    Progress,
    Status,
    Timing,
    require,
    require_count,
    require_number,
    unknown,
)
from vi_recipes.elbo import (
    MAX_NODES,
    CurvedKL,
    FactorFamily,
    Factors,
    KLInParts,
    Limits,
    NotInParts,
    Optimum,
    find_optimum,
    make_factors,
    points_added,
)
from vi_recipes.fit import OtherOptimum
from vi_recipes.importance import Bound, LogEvidence
from vi_recipes.methods.base import Method, Result
from vi_recipes.methods.left import leave
from vi_recipes.model import Target
from vi_recipes.posterior import FactorPosterior

MOST_OBJECTIVES = 5
"""Objectives that are made, each from looking at the model around the optimum of the last."""


@dataclass(frozen=True, kw_only=True)
class MeanField(Method):
    """Mean-field VB: independent factors, with a deterministic ELBO.

    The expected log density is taken site by site: by Gauss-Hermite quadrature where a site's
    inputs allow, else over fixed draws in antithetic pairs. What is left is a smooth deterministic
    function, which a trust-region Newton method maximises with the Hessian's local structure.

    Parameters
    ----------
    factors
        Site -> ``"normal"`` (default; on the unconstrained scale), ``"gamma"``, ``"beta"`` or
        ``"dirichlet"`` (on the constrained scale, where the support allows), or ``"point"``: all
        mass at one value, which has no entropy. :class:`VariationalEM` has its parameters so.
    expectations
        Site -> ``"quadrature"`` or ``"draws"``, to override the choice made.
    num_nodes
        Nodes per dimension of quadrature to begin with; doubled until that changes nothing.
    num_pairs
        Antithetic pairs of draws to begin with; more, warm-started, until the standard error of
        every location is below a fiftieth of its sd by linear response.
    max_pairs
        Antithetic pairs of draws, at most; with an error beyond a twentieth of the sd then, the
        fit has not converged.
    max_steps
        Newton steps allowed for each set of nodes and draws.
    tolerance
        Newton decrement to reach: the length of the Newton step in sds of the optimum.
    num_starts
        Starting points in all: the first is the model's ``init`` or prior medians, the others are
        scattered, the same ones whatever the key; the optimum with the highest ELBO is kept. By
        default 5 where they are cheap, else 1.

    References
    ----------
    Giordano, R., Ingram, M. and Broderick, T. (2024). Black box variational inference with a
    deterministic objective. JMLR 25(18). https://jmlr.org/papers/v25/23-1015.html
    """

    key: ClassVar[str] = "meanfield"
    has_elbo: ClassVar[bool] = True
    over_hosts: ClassVar[bool] = True

    summary: ClassVar[str] = (
        "independent factors, deterministic: fast; means usually good, sds too small where "
        "coordinates correlate"
    )

    factors: Mapping[str, FactorFamily] = field(default_factory=dict)
    expectations: Mapping[str, Literal["quadrature", "draws"]] = field(default_factory=dict)
    num_nodes: int = 8
    num_pairs: int = 16
    max_pairs: int = 1_024
    max_steps: int = 200
    tolerance: float = 1e-4
    num_starts: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(isinstance(self.factors, Mapping), "factors", self.factors, "site: family pairs")
        require(
            isinstance(self.expectations, Mapping)
            and set(self.expectations.values()) <= {"quadrature", "draws"},
            "expectations",
            self.expectations,
            "pairs of a site and 'quadrature' or 'draws'",
        )
        require_count("num_nodes", self.num_nodes, least=2, most=MAX_NODES // 2)
        require_count("num_pairs", self.num_pairs)
        require_count("max_pairs", self.max_pairs)
        require(self.max_pairs >= self.num_pairs, "max_pairs", self.max_pairs, "at least num_pairs")
        require_count("max_steps", self.max_steps)
        if self.num_starts is not None:
            require_count("num_starts", self.num_starts)
        require_number("tolerance", self.tolerance, most=LOOSEST_STEP)

    @property
    @override
    def where_it_jumps(self) -> Status | None:
        return Status.NOT_APPLICABLE

    @override
    def check(self, target: Target) -> None:
        super().check(target)
        self._factors(target, self.factors)

    def _factors(self, target: Target, families: Mapping[str, FactorFamily]) -> Factors:
        """Return the factors; raise a :class:`ValueError` for sites that the model does not have.

        So too for sites whose expectations are asked for.
        """
        for name in self.expectations:
            if name not in target.sites:
                raise ValueError(f"expectations: {unknown('site', name, target.sites)}")
        return make_factors(target, families)

    @override
    def _fit(self, target: Target, key: jax.Array, timing: Timing, progress: Progress) -> Result:
        optimum = self.optimise_over_hosts(target, key, timing, progress)
        if target.members is None:
            leave(target, self.options(), key, optimum, timing)
        with timing.running(), np.errstate(over="ignore", invalid="ignore"):
            posterior = FactorPosterior(
                optimum.kl.target,
                optimum.kl.factors,
                optimum.eta,
                optimum.standard_error,
                optimum.kl,
                optimum.found_with,
            )
            posterior.mean()
            whole = self.whole(target, optimum, posterior)
        return self.report(optimum, whole)

    def whole(
        self, target: Target, optimum: Optimum, posterior: FactorPosterior
    ) -> FactorPosterior:
        """Return a posterior of all members, where this host's optimum is of its own ones alone.

        So too what ``optimum`` has of another one.
        """
        division = optimum.kl.target.part_of
        if division is None:
            return posterior
        if optimum.other is not None:
            optimum.other.eta = division.gathered(optimum.other.eta)
        return posterior.gathered(self._factors(target, self.factors))

    def report(self, optimum: Optimum, posterior: FactorPosterior) -> Result:
        """Return the result for ``posterior``, with how the optimisation went."""
        trace = np.asarray(optimum.trace)
        return Result(
            posterior,
            optimum.status,
            optimum.message,
            optimum.advice,
            trace={"elbo": trace, "elbo_step": np.arange(trace.size)},
            diagnostics={
                "elbo": optimum.elbo,
                "newton_decrement": optimum.decrement,
                "iterations": float(trace.size),
                "num_nodes": float(optimum.num_nodes),
                "num_pairs": float(optimum.num_pairs),
            },
            log_evidence=LogEvidence(optimum.elbo, optimum.elbo_error, Bound.LOWER, "ELBO"),
            other_optimum=_other(optimum, posterior),
        )

    def optimise(
        self, target: Target, key: jax.Array, timing: Timing, progress: Progress
    ) -> Optimum:
        """Maximise the ELBO.

        Raises
        ------
        MethodFailure
            ``DEGENERATE`` where it has no maximum, ``NOT_APPLICABLE`` where the Hessian is too
            large and has no structure.
        """
        return self.optimum_of(target, key, timing, progress, CurvedKL, self.factors)

    def optimise_over_hosts(
        self, target: Target, key: jax.Array, timing: Timing, progress: Progress
    ) -> Optimum:
        """Maximise the ELBO, on every host by its own members where they are divided.

        Raises
        ------
        MethodFailure
            As :meth:`optimise`.
        """
        if target.members is None:
            return self.optimise(target, key, timing, progress)
        local = target.members.local
        try:
            with local.compiled_once.shared(timing):
                optimum = self.optimum_of(local, key, timing, progress, KLInParts, self.factors)
            assert isinstance(optimum.kl, KLInParts)
            optimum.kl.let_go()  # what is gathered of all members comes next
            return optimum
        except NotInParts as error:
            why = str(error)
        optimum = self.optimise(target, key, timing, progress)
        optimum.message += f"; every host has all members, because {why}"
        return optimum

    def optimum_of(
        self,
        target: Target,
        key: jax.Array,
        timing: Timing,
        progress: Progress,
        kind: type[CurvedKL],
        families: Mapping[str, FactorFamily],
    ) -> Optimum:
        """Minimise an objective of a kind, made anew where it misjudges the model at the optimum.

        Raises
        ------
        MethodFailure
            As :meth:`optimise`.
        """
        for _ in range(MOST_OBJECTIVES):
            kl = self.objective(target, key, timing, kind, families)
            optimum = find_optimum(kl, key, self.limits, progress)
            with timing.running_compiled():
                misjudged = kl.misjudges(optimum.eta.ravel())
            if not misjudged:
                return optimum
        optimum.status, optimum.hessian = Status.UNCONVERGED, None
        optimum.message = (
            "the expectations are not those of the model around the optimum, though it was looked "
            f"at there {MOST_OBJECTIVES - 1} times; {optimum.message}"
        )
        optimum.advice = "take expectations over draws (expectations), or use StructuredVB"
        return optimum

    @property
    def limits(self) -> Limits:
        """How far the optimum is searched for."""
        return Limits(
            num_nodes=self.num_nodes,
            num_pairs=self.num_pairs,
            max_pairs=self.max_pairs,
            max_steps=self.max_steps,
            tolerance=self.tolerance,
            num_starts=self.num_starts,
        )

    def objective[T: CurvedKL](
        self,
        target: Target,
        key: jax.Array,
        timing: Timing,
        kind: type[T],
        families: Mapping[str, FactorFamily],
    ) -> T:
        """Return the objective, which the target keeps for the next fit of the same kind."""
        settings = (
            tuple(sorted(families.items())),
            tuple(sorted(self.expectations.items())),
            _points_added(target),
        )

        def make() -> T:
            factors = self._factors(target, families)
            with timing.running_compiled():
                return kind(target, factors, self.expectations, key, timing)

        kl = target.compiled_once((kind, settings), make)
        kl.timing = timing
        return kl


def _points_added(target: Target) -> int:
    """Return at how many points the model was looked at once more, on all hosts."""
    own = points_added(target)
    return own if target.part_of is None else int(target.part_of.add(np.array([own]))[0])


def _other(best: Optimum, posterior: FactorPosterior) -> OtherOptimum | None:
    """Return where another optimum lies apart, if any, in the scalar in which it does so most."""
    if (other := best.other) is None:
        return None
    there = FactorPosterior(posterior.target, posterior.factors, other.eta)
    names = [site.name for site in posterior.target.latents]
    ours, its, sds = (
        np.concatenate([np.ravel(values[name]) for name in names])
        for values in (posterior.mean(), there.mean(), there.sd())
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        away = np.nan_to_num(np.abs(its - ours) / sds)
    worst = int(np.argmax(away))
    share = float(expit(other.elbo - best.elbo))
    return OtherOptimum(posterior.target.labels(names)[worst], float(its[worst]), share)
