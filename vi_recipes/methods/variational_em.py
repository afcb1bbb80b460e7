"""Variational EM: the free energy with q restricted to factors, climbed in q and theta together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, override

import jax
import jax.numpy as jnp
import numpy as np

from vi_recipes.core import MethodFailure, Progress, Status, Timing, require
from vi_recipes.elbo import CurvedKL, FactorFamily, Optimum
from vi_recipes.latent import latent_moments, local_sites, parameter_densities
from vi_recipes.methods.base import Method, Result
from vi_recipes.methods.meanfield import MeanField
from vi_recipes.model import Arrays, Target
from vi_recipes.posterior import PointPosterior, ResponsePosterior

FLAT = 10.0
"""Standard error on the unconstrained scale that only the edge of a support can have."""


@dataclass(frozen=True, kw_only=True)
class VariationalEM(Method):
    """The theta that maximises F(q, theta) together with a q(z) of independent factors.

    EM maximises the free energy F(q, theta) = E_q[log p(y, z | theta)] + H(q) over every q in its
    turn, which needs p(z | y, theta). Here q is a product of factors, so that no integral needs to
    be tractable and members may be coupled; F is then a lower bound of log p(y | theta), and equal
    to it where p(z | y, theta) is such a product. Coordinates q and theta are climbed together, by
    the method of :class:`MeanField`, rather than in turns.

    Sds and covariances of theta are those of linear response, the inverse of the Hessian of the
    profile of F: where F is exact, the observed information. Those of z have the uncertainty of
    theta in them.

    Parameters
    ----------
    latent
        Sites that are latent variables z, the others being estimated. By default those that the
        model declares, else the sites in plates whose density depends on other sites.
    objective
        ``"mle"`` leaves the priors of theta out; ``"map"`` adds log p(theta), over the parameters
        as the model names them.
    base
        How the expected log density is taken and the free energy climbed, and the families of the
        factors of z.

    References
    ----------
    Neal, R. M. and Hinton, G. E. (1998). A view of the EM algorithm that justifies incremental,
    sparse, and other variants. doi:10.1007/978-94-011-5014-9_12
    Giordano, R., Broderick, T. and Jordan, M. I. (2018). Covariances, robustness, and variational
    Bayes. JMLR 19(51). https://jmlr.org/papers/v19/17-670.html
    """

    key: ClassVar[str] = "variational_em"
    has_elbo: ClassVar[bool] = True

    summary: ClassVar[str] = (
        "EM with independent factors over the latent variables: also where they are coupled and no "
        "E-step is tractable; scales of their spread come out too small there"
    )

    latent: tuple[str, ...] | None = None
    objective: Literal["mle", "map"] = "mle"
    base: MeanField = field(default_factory=MeanField)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.objective in ("mle", "map"), "objective", self.objective, "'mle' or 'map'")
        require(isinstance(self.base, MeanField), "base", self.base, "a MeanField method")

    @property
    @override
    def where_it_jumps(self) -> Status | None:
        return Status.NOT_APPLICABLE

    @override
    def applies(self, target: Target) -> str | None:
        with jax.enable_x64(True):
            names = local_sites(target, self.latent)
        if not names:
            return (
                f"model '{target.name}' has no continuous latent variables: it declares none "
                "(Model(latents=...)) and the density of no site in a plate depends on other "
                "sites. EM sums out discrete ones"
            )
        if len(names) == len(target.latents):
            return (
                f"every site of model '{target.name}' is latent ({', '.join(names)}): there is no "
                "parameter left to estimate. Name fewer (latent=...), or use MeanField"
            )
        return None

    @override
    def check(self, target: Target) -> None:
        super().check(target)
        self.base.check(target)
        with jax.enable_x64(True):
            self._split(target)

    def _split(self, target: Target) -> tuple[list[str], list[str]]:
        """Return the latent sites and the parameters, of which none may have a factor."""
        names = list(local_sites(target, self.latent))
        theta = [s.name for s in target.latents if s.name not in names]
        if estimated := [n for n in self.base.factors if n in theta]:
            raise ValueError(
                f"base.factors: got a family for {', '.join(estimated)}, which is estimated, "
                f"expected latent sites only: {', '.join(names)}"
            )
        return names, theta

    @override
    def _fit(self, target: Target, key: jax.Array, timing: Timing, progress: Progress) -> Result:
        names, theta = self._split(target)
        families: Mapping[str, FactorFamily] = {
            **self.base.factors,
            **dict.fromkeys(theta, "point"),
        }
        kind = LogLikelihoodBound if self.objective == "mle" else LogPosteriorBound
        optimum = self.base.optimum_of(target, key, timing, progress, kind, families)
        if optimum.hessian is None:
            raise MethodFailure(optimum.status, optimum.message, optimum.advice)
        with timing.running_compiled():
            posterior = self._posterior(target, optimum)
            posterior.sd()
            latents = latent_moments(target, names, *optimum.kl.factors.location_scale(optimum.eta))
            edges = _edges(target, posterior)
        result = self.base.report(optimum, posterior)
        if edges:
            result.posterior = PointPosterior(target.constrain(optimum.eta[:, 0]))
            result.status = Status.COLLAPSED
            result.message = f"{edges}: {result.message}"
            result.advice = (
                "use objective='map' with a prior that keeps it inside, or integrate over the "
                "parameters too (LinearResponse, NUTS)"
            )
        what = "log-likelihood" if self.objective == "mle" else "log posterior density of theta"
        error = f" ± {optimum.elbo_error:.1g}" if optimum.elbo_error > 0 else ""
        result.message = (
            f"F(q, theta) = {optimum.elbo:.5f}{error}, a lower bound of the {what}; factors over "
            f"{', '.join(names)}; {result.message}"
        )
        result.log_evidence, result.latents = None, latents
        return result

    def _posterior(self, target: Target, optimum: Optimum) -> ResponsePosterior:
        kl = optimum.kl
        hessian = kl.full_hessian(optimum.eta.ravel(), optimum.hessian)
        if not hessian.positive:
            raise MethodFailure(
                Status.SINGULAR,
                f"the Hessian of the free energy has {hessian.num_negative()} directions that rise "
                "at the optimum: it is a saddle",
                "start elsewhere with Model(init=...)",
            )
        return ResponsePosterior(
            target,
            kl.factors,
            optimum.eta,
            optimum.standard_error,
            kl,
            optimum.found_with,
            hessian=hessian,
        )


class LogLikelihoodBound(CurvedKL):
    """Minus the free energy without the priors of the parameters that are points."""

    @property
    @override
    def left_out(self) -> Collection[str]:
        points, slices = self.factors.points, self.target.slices
        return [s.name for s in self.target.latents if points[slices[s.name]].all()]


class LogPosteriorBound(LogLikelihoodBound):
    """Minus the free energy with their priors as densities of the parameters as they are named."""

    @override
    def instead(self, eta: jax.Array, arrays: Arrays) -> jax.Array:
        densities = parameter_densities(self.target, eta[:, 0], arrays)
        return sum((densities[name] for name in self.left_out), jnp.zeros(()))


def _edges(target: Target, posterior: ResponsePosterior) -> str:
    """Return which parameters the free energy is flat in, at the edge of their support."""
    spread = np.sqrt(posterior.hessian.variances()).reshape(-1, 2)[:, 0]
    values, words = posterior.mean(), []
    for site in target.latents:
        place = target.slices[site.name]
        flat = posterior.factors.points[place] & (spread[place] > FLAT)
        if site.bounded and flat.any():
            smallest = np.abs(values[site.name]).min()
            words.append(f"{site.name} runs to an edge of its support (down to {smallest:.2g})")
    return ", ".join(words)
