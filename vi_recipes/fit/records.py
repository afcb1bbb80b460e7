"""What a fit carries: provenance, assessment, correction, moments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import jax
import numpy as np

from vi_recipes.core import version_of
from vi_recipes.importance import (
    OWN_SHARE,
    VOUCHING_SHARE,
    KernelStein,
    LogEvidence,
    WassersteinBounds,
)
from vi_recipes.model import Sites, Target
from vi_recipes.posterior import Moments

MAX_STORED_COV = 200
"""Up to this many scalars a fit's joint covariance is written out in full."""


@dataclass(frozen=True)
class Provenance:
    """Where a fit came from; recorded in every report.

    Parameters
    ----------
    model
        Name of the model.
    seed
        The integer that seeded it; ``None`` where nothing was random, or a key was given.
    data_fingerprint
        Mark of the data that it was fitted to.
    device, dtype
        Where, and in which precision.
    versions
        Package -> version.
    objects
        Mark of the objects among the method's options, such as a guide, of which the options have
        the name alone; empty without any, and where it was not made by a comparison.
    """

    model: str = ""
    seed: int | None = None
    data_fingerprint: str = ""
    device: str = ""
    dtype: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    objects: str = ""


def provenance(target: Target, *, seed: int | None, dtype: str) -> Provenance:
    """Return the record of where a fit of ``target`` comes from."""
    device = jax.devices()[0]
    packages = ("vi_recipes", "numpyro", "jax", "jaxlib", "numpy", "arviz")
    return Provenance(
        model=target.name,
        seed=seed,
        data_fingerprint=target.fingerprint,
        device=f"{device.platform}:{device.device_kind}",
        dtype=dtype,
        versions={p: version_of(p) for p in packages},
    )


@dataclass(frozen=True)
class Correction:
    """The posterior's moments by Pareto-smoothed importance sampling.

    Parameters
    ----------
    moments
        Means and sds, constrained scale, with Monte Carlo errors.
    khat
        Pareto shape of the weights.
    ess
        Effective number of draws, 1 / sum of squares of the weights.
    num_draws
        How many draws are weighed.
    num_rounds
        0 where the weights are those of the approximation's own draws, else the rounds that took
        the proposal from it to the posterior.
    """

    moments: Moments
    khat: float
    ess: float
    num_draws: int
    num_rounds: int = 0

    @property
    def needed(self) -> float:
        """Draws that must count for the moments to vouch for a fit."""
        return (VOUCHING_SHARE if self.num_rounds else OWN_SHARE) * self.num_draws

    @property
    def vouches(self) -> bool:
        """Whether as many count."""
        return self.ess >= self.needed

    @property
    def source(self) -> str:
        """Where the weights come from, in words."""
        if self.num_rounds == 0:
            return "its own draws, reweighted"
        return f"importance sampling adapted from it in {self.num_rounds} rounds"


@dataclass(frozen=True)
class OtherOptimum:
    """Another optimum of a fit's objective, in a part of the posterior that the fit has not.

    Parameters
    ----------
    label, value
        A scalar in which it lies apart, and its mean there, constrained scale.
    share
        Of the posterior's mass in both parts, how much is there: by the two ELBOs, each of which
        is a lower bound on the log of its part's.
    """

    label: str
    value: float
    share: float

    def __str__(self) -> str:
        return f"{self.share:.0%} of what the two hold, about {self.label} = {self.value:.3g}"


@dataclass(frozen=True)
class Assessment:
    """What can be said of an approximation q without a reference.

    Parameters
    ----------
    num_draws
        Independent draws of q that were weighed by p(y, z) / q(z); 0 where q has no density.
    khat
        Pareto shape of the weights over all coordinates at once: above 0.7 they cannot be relied
        on; infinite where the posterior has no density at any draw. For any q but the posterior it
        rises with the number of coordinates, and of hundreds of them says little of single ones.
    kl_surrogate
        Half the variance of log p - log q over q's draws, in nats: KL(q || p) to second order, for
        a q that is near p. It needs no log p(y), and no weight to rely on; infinite where the
        posterior has no density at some draw.
    block_khat
        Latent site -> the same of that site alone, the others held at q's means: above 0.7 q has
        the wrong shape or scale within the site. It does not see correlations between sites.
    correction
        The posterior's moments by importance sampling, where there are weights to rely on.
    evidence
        Bounds on log p(y) and estimates of it: of an approximation by its weights, of a sampler by
        bridge sampling.
    bounds
        How far its moments can be off at most, by its weights; they have numbers only where q is
        nearly right.
    stein
        Kernel Stein discrepancy of up to 500 draws, with its test.
    response_ratio
        Of mean field, the sds by linear response over its own, by site: how much it understates.
        That of a constant is NaN.
    unknown
        What could not be had -> why.
    errors
        What of it an error ended -> the error, in a line.
    seconds
        Spent on all of it, with compilation.
    """

    num_draws: int = 0
    khat: float = float("nan")
    kl_surrogate: float = float("nan")
    block_khat: Mapping[str, float] = field(default_factory=dict)
    correction: Correction | None = None
    evidence: tuple[LogEvidence, ...] = ()
    bounds: WassersteinBounds | None = None
    stein: KernelStein | None = None
    response_ratio: Mapping[str, np.ndarray] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def permuted(self, permute: Callable[[Sites], Sites]) -> Assessment:
        """Return the assessment with the labels of exchangeable components in another order."""
        ratio = permute(dict(self.response_ratio)) if self.response_ratio else {}
        correction = self.correction
        if correction is not None:
            m = correction.moments
            mean, sd, error, error_sd = map(permute, (m.mean, m.sd, m.mcse_mean, m.mcse_sd))
            none = {name: np.full(v.shape, np.nan) for name, v in m.mean.items()}
            tails = permute(none | dict(m.tails)) if m.tails else {}
            correction = replace(correction, moments=Moments(mean, sd, error, error_sd, tails))
        return replace(self, correction=correction, response_ratio=ratio)

    def numbers(self) -> dict[str, float]:
        """Return the single numbers by name, for tables of diagnostics."""
        numbers = {}
        if self.num_draws:
            numbers["khat"] = self.khat
            numbers["kl_surrogate"] = self.kl_surrogate
        if self.block_khat:
            numbers["khat_worst_site"] = max(self.block_khat.values())
        if self.correction is not None:
            numbers["khat_corrected"] = self.correction.khat
            numbers["ess_corrected"] = self.correction.ess
        if self.bounds is not None:
            numbers["mean_error_bound"] = self.bounds.mean_error
            numbers["sd_error_bound"] = self.bounds.sd_error
        if self.stein is not None:
            numbers["stein_p_value"] = self.stein.p_value
        return numbers
