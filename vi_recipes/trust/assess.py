"""What a fit's own draws, weighed by the posterior's density, say of how far it can be trusted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from vi_recipes.algebra import MAX_DENSE
from vi_recipes.core import (
    MethodFailure,
    as_key,
    attempt,
    check_arguments,
    fold_key,
    on_one_core,
    one_at_a_time,
    split_key,
    told,
)
from vi_recipes.fit import Assessment, Correction, Fit
from vi_recipes.importance import (
    MAX_DRAWS,
    MIN_DRAWS,
    KernelStein,
    WassersteinBounds,
    kernel_stein,
    khat,
    wasserstein_bounds,
)
from vi_recipes.model import Sites, Target
from vi_recipes.posterior import (
    FactorPosterior,
    Posterior,
    ResponsePosterior,
    WeighedDraws,
    is_constant,
)
from vi_recipes.trust.correct import NoCorrection, correct
from vi_recipes.trust.evidence import evidences

NUM_DRAWS = 4_000

MAX_WORK = 2.5e8
"""Numbers of the data that all draws may read: fewer draws of larger models."""


FEW = 400
"""Draws that there are at least, and of more coordinates than ``MAX_DENSE``."""


@check_arguments("fit", "target", "num_draws")
@one_at_a_time
def assess(
    fit: Fit, target: Target, *, key: jax.Array | int = 0, num_draws: int | None = None
) -> Assessment:
    """Weigh fresh draws of a fit by the posterior's density.

    Parameters
    ----------
    fit
        A fit of ``target``. One that was read back from disk has its 2,000 draws and their density,
        but not that of sites alone, and of more than 262 scalars none.
    target
        The model conditioned on the same data.
    key
        Seeds the draws.
    num_draws
        At least 100; by default 4,000, and fewer of models with much data or more than 1,000
        coordinates.

    Raises
    ------
    ValueError
        For another target, or too few draws.
    """
    made_for = (fit.provenance.model, fit.provenance.data_fingerprint)
    if made_for != (target.name, target.fingerprint):
        raise ValueError(
            f"target: got model '{target.name}' with data {target.fingerprint}, expected that of "
            f"the fit, '{made_for[0]}' with {made_for[1]}"
        )
    if num_draws is not None and num_draws < MIN_DRAWS:
        raise ValueError(f"num_draws: got {num_draws}, expected at least {MIN_DRAWS}")
    with on_one_core(target.dense_rows):
        return _assess(fit, target, key, num_draws)


def _assess(fit: Fit, target: Target, key: jax.Array | int, num_draws: int | None) -> Assessment:
    start = time.perf_counter()
    fields: dict[str, Any] = {}
    unknown: dict[str, str] = {}
    errors: dict[str, str] = {}
    if not fit.has_result or fit.posterior is None:
        unknown["weights"] = "there is no result"
    elif fit.is_sampler:
        unknown["weights"] = "a sampler's draws have no density of their own: its audit stands"
        fields["evidence"] = tuple(evidences(fit, target, None, None, key))
    else:
        posterior = fit.posterior
        weighing = _Weighing(fit, posterior, target, as_key(key), num_draws, unknown, errors)
        fields = weighing.findings()
        ratio = weighing.seek("linear response", lambda: _response_ratio(posterior, unknown))
        if ratio is not None:
            fields["response_ratio"] = ratio
    seconds = time.perf_counter() - start
    return Assessment(**fields, unknown=unknown, errors=errors, seconds=seconds)


@dataclass
class _Weighing:
    """What the draws of an approximation say; a step that an error ends leaves the others be.

    Parameters
    ----------
    fit, posterior, target, key, num_draws
        What is weighed, by what, and with which draws.
    unknown
        Told what could not be had, and why.
    errors
        Told which steps an error ended.
    """

    fit: Fit
    posterior: Posterior
    target: Target
    key: jax.Array
    num_draws: int | None
    unknown: dict[str, str]
    errors: dict[str, str]

    def seek[T](self, what: str, find: Callable[[], T]) -> T | None:
        """Return what a step finds; ``None`` where an error ends it, which is taken note of."""

        def lost(error: str) -> None:
            self.errors[what] = error

        return attempt(find, lost)

    def findings(self) -> dict[str, Any]:
        """Return the fields of the assessment."""
        draw_key, block_key, correct_key, stein_key = split_key(self.key, 4)
        count = self.num_draws or default_draws(self.target)
        weighed = self.seek("weights", lambda: self._weighed(count, draw_key))
        if weighed is None:
            if "weights" in self.errors:
                self.unknown["weights"] = self.errors["weights"]
            return self._evidence(None, None)
        drawn, log_p = weighed
        log_ratios = log_p - drawn.log_q
        fields = {"num_draws": len(log_ratios), **self._evidence(drawn, log_p)}
        if np.isneginf(log_p).all():
            self.unknown["correction"] = "the posterior has no density at any of its draws"
            return fields | {"khat": np.inf, "kl_surrogate": np.inf}
        found = {
            "khat": self.seek("khat", lambda: khat(log_ratios)),
            "kl_surrogate": _kl_surrogate(log_ratios),
            "correction": self._correction(drawn, log_ratios, correct_key),
            "bounds": self.seek("bounds", lambda: self._bounds(drawn, log_ratios)),
            "stein": self.seek("stein", lambda: self._stein(drawn, stein_key)),
            "block_khat": self._by_site(count, block_key),
        }
        return fields | {name: value for name, value in found.items() if value is not None}

    def _weighed(self, count: int, key: jax.Array) -> tuple[WeighedDraws, np.ndarray] | None:
        drawn = self.posterior.weighed_draws(count, key)
        if drawn is None:
            self.unknown["weights"] = _why_none(self.posterior, self.target)
            return None
        log_p = self.target.log_densities(drawn.z)
        if not np.isfinite(drawn.log_q).all() or np.isposinf(log_p).any():
            self.unknown["weights"] = (
                "its draws, or the posterior's density at them, are not finite"
            )
            return None
        return drawn, log_p

    def _evidence(self, drawn: WeighedDraws | None, log_p: np.ndarray | None) -> dict[str, Any]:
        found = self.seek("evidence", lambda: evidences(self.fit, self.target, drawn, log_p))
        reported = self.fit.log_evidence
        return {"evidence": tuple(found if found is not None else [reported] if reported else [])}

    def _correction(
        self, drawn: WeighedDraws, log_ratios: np.ndarray, key: jax.Array
    ) -> Correction | None:
        try:
            return correct(self.target, drawn.z, drawn.values, log_ratios, key)
        except (NoCorrection, ValueError) as reason:
            self.unknown["correction"] = str(reason)
        except Exception as error:
            self.unknown["correction"] = self.errors["correction"] = told(error)
        return None

    def _bounds(self, drawn: WeighedDraws, log_ratios: np.ndarray) -> WassersteinBounds | None:
        bounds = wasserstein_bounds(drawn.z, log_ratios)
        if not bounds.reason:
            return bounds
        self.unknown["bounds"] = bounds.reason
        return None

    def _stein(self, drawn: WeighedDraws, key: jax.Array) -> KernelStein | None:
        if self.target.dim > MAX_DENSE:
            self.unknown["stein"] = f"it has no power in {self.target.dim} coordinates"
            return None
        some = drawn.z[:MAX_DRAWS]
        stein = kernel_stein(some, self.target.scores(some), drawn.z.std(axis=0), key)
        if not stein.reason:
            return stein
        self.unknown["stein"] = stein.reason
        return None

    def _by_site(self, count: int, key: jax.Array) -> dict[str, float]:
        blocks = {}
        for k, (name, place) in enumerate(self.target.slices.items()):
            if place.stop - place.start > MAX_DENSE:
                self.unknown[f"khat of {name}"] = f"more than {MAX_DENSE} coordinates"
                continue
            site_key = fold_key(key, k)
            found = self.seek(f"khat of {name}", partial(self._alone, place, count, site_key))
            if found is not None:
                blocks[name] = found
        return blocks

    def _alone(self, place: slice, count: int, key: jax.Array) -> float | None:
        alone = self.posterior.block_draws(place, num_block_draws(count), key)
        return None if alone is None else khat(self.target.log_densities(alone[0]) - alone[1])


def _kl_surrogate(log_ratios: Float[np.ndarray, " draws"]) -> float:
    """Return half the variance of log p - log q over draws of q."""
    if not np.isfinite(log_ratios).all():
        return np.inf
    return float(log_ratios.var(ddof=1) / 2)


def num_block_draws(num_draws: int) -> int:
    """Return how many draws of each site alone go with so many of all."""
    return max(MIN_DRAWS, num_draws // 2)


def default_draws(target: Target) -> int:
    """Return how many draws are weighed of a model of this size."""
    if target.dim > MAX_DENSE:
        return FEW
    return int(np.clip(MAX_WORK / target.size, FEW, NUM_DRAWS))


def _why_none(posterior: Posterior, target: Target) -> str:
    if all(np.isnan(sd).all() for sd in posterior.sd().values()):
        return "a point has no density"
    if isinstance(posterior, FactorPosterior):
        if posterior.factors.points.any():
            return "points have no density"
        return f"its covariance of {target.dim} coordinates has no density that is quick to compute"
    if any((sd == 0).any() for sd in posterior.sd().values()):
        return "some of it has no spread"
    return "its draws come without their density"


def _response_ratio(posterior: Posterior, unknown: dict[str, str]) -> Sites | None:
    """Return the sds by linear response over mean field's own, by site."""
    if type(posterior) is not FactorPosterior or (kl := posterior.objective) is None:
        return None
    try:
        with jax.enable_x64(True):
            hessian = kl.full_hessian(posterior.eta.ravel())
    except MethodFailure as failure:
        unknown["linear response"] = failure.message
        return None
    if not hessian.positive:
        unknown["linear response"] = "the Hessian of the KL divergence is indefinite"
        return None
    repaired = ResponsePosterior(
        posterior.target,
        posterior.factors,
        posterior.eta,
        posterior.eta_mcse,
        kl,
        posterior.found_with,
        hessian=hessian,
    ).sd()
    ratio, mean = {}, posterior.mean()
    for name, sd in posterior.sd().items():
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio[name] = np.where(is_constant(sd, mean[name]), np.nan, repaired[name] / sd)
    return ratio
