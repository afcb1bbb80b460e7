"""Linear response: covariances from how mean-field means answer to perturbations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, override

import jax

from vi_recipes.core import MethodFailure, Progress, Status, Timing, require
from vi_recipes.methods.base import Method, Result
from vi_recipes.methods.left import take
from vi_recipes.methods.meanfield import MeanField
from vi_recipes.model import Target
from vi_recipes.posterior import ResponsePosterior


@dataclass(frozen=True, kw_only=True)
class LinearResponse(Method):
    """Mean-field VB with covariances corrected by linear response.

    With H the Hessian of the KL divergence at its optimum and m the means of any quantities, their
    covariance is grad m' H^-1 grad m. Means are those of the mean-field fit. The fit includes the
    mean-field optimisation, and so does its time, where a fit of ``base`` to the same target, with
    the same key, went before and left its optimum too.

    Parameters
    ----------
    base
        The mean-field fit to correct.

    References
    ----------
    Giordano, R., Broderick, T. and Jordan, M. I. (2018). Covariances, robustness, and variational
    Bayes. JMLR 19(51). https://jmlr.org/papers/v19/17-670.html
    """

    key: ClassVar[str] = "lrvb"
    has_elbo: ClassVar[bool] = True
    over_hosts: ClassVar[bool] = True

    summary: ClassVar[str] = (
        "mean-field means with repaired covariances: close to NUTS where the posterior is not "
        "far from normal; one linear solve"
    )

    base: MeanField = field(default_factory=MeanField)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(isinstance(self.base, MeanField), "base", self.base, "a MeanField method")

    @property
    @override
    def where_it_jumps(self) -> Status | None:
        return Status.NOT_APPLICABLE

    @override
    def stream(self, name: str) -> str:
        return self.base.name  # both have one optimum then, which is searched for once

    @override
    def check(self, target: Target) -> None:
        super().check(target)
        self.base.check(target)

    @override
    def _fit(self, target: Target, key: jax.Array, timing: Timing, progress: Progress) -> Result:
        optimum = take(target, self.base.options(), key, timing)
        if optimum is None:
            optimum = self.base.optimise_over_hosts(target, key, timing, progress)
        if optimum.hessian is None:
            raise MethodFailure(
                Status.SINGULAR,
                f"linear response needs an optimum of the ELBO, and this is none: "
                f"{optimum.message}",
                optimum.advice,
            )
        with timing.running_compiled():
            hessian = optimum.kl.full_hessian(optimum.eta.ravel(), optimum.hessian)
            if not hessian.positive:
                raise MethodFailure(
                    Status.SINGULAR,
                    f"the Hessian of the KL divergence has {hessian.num_negative()} negative "
                    "eigenvalues at the optimum: it is a saddle",
                    "start elsewhere with Model(init=...)",
                )
            posterior = ResponsePosterior(
                optimum.kl.target,
                optimum.kl.factors,
                optimum.eta,
                optimum.standard_error,
                hessian=hessian,
                kl=optimum.kl,
                found_with=optimum.found_with,
            )
            posterior.sd()
            optimum.kl.forget_hessian()  # the posterior has it
            whole = self.base.whole(target, optimum, posterior)
        return self.base.report(optimum, whole)
