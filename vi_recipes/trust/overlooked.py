"""Parts of the posterior where another fit has mass and a reference has no draws."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import jax
import numpy as np
from jaxtyping import Bool, Float

from vi_recipes.core import as_key
from vi_recipes.fit import Fit, differences, moments_of
from vi_recipes.importance import KHAT_LIMIT, MIN_DRAWS, Bound, khat, log_mean
from vi_recipes.model import Target
from vi_recipes.posterior import MomentsPosterior, held_draws
from vi_recipes.trust.assess import default_draws
from vi_recipes.trust.measured import Trust, Verdict

NUM_DRAWS = 1_000

MOVED = 1.0
"""Reference sds that a mean is away for a scalar to be looked at."""

WIDER = 1.5
"""Or by how much an sd is larger."""

NUM_SCALARS = 20
"""Of them, at most."""

APART = 1.0
"""Reference sds from the nearest of its draws beyond which it has none."""

SHARE = 0.05
"""Of the posterior, that makes it worth saying."""


@dataclass(frozen=True)
class Overlooked:
    """What a fit has found of the posterior where a reference has no draws.

    Parameters
    ----------
    label, value
        A scalar in which it lies apart, and about where.
    missed
        Share of the posterior that the reference does not see, at least.
    lost
        Share of it that the fit does not see, of what the reference does.
    """

    label: str
    value: float
    missed: float
    lost: float

    def __str__(self) -> str:
        share = f"{self.missed:.0%}" if self.missed < 0.995 else "all"
        return f"{share} of the posterior or more, about {self.label} = {self.value:.3g}"


def overlooked(
    fit: Fit, reference: Fit, target: Target, *, key: jax.Array | int = 0
) -> Overlooked | None:
    """Return what an approximation has found of the posterior where the reference has no draws.

    The posterior's mass there is bounded from below by Jensen's inequality, from the draws of the
    approximation that lie there, and set against what the reference says of log p(y), which is the
    mass of what it has found: a sampler by bridge sampling, nested quadrature by its points.

    Parameters
    ----------
    fit
        An approximation with a density.
    reference
        A fit of the same target by a sampler, assessed, or by nested quadrature.
    target
        What both are fits of.
    key
        Seeds the draws.

    Returns
    -------
    Overlooked or None
        ``None`` where there is nothing, or it cannot be told: no density, no log p(y) by the
        reference, exchangeable labels.
    """
    if not fit.has_result or fit.is_sampler or target.exchangeable:
        return None
    if not (reference.is_sampler or reference.stated_error is not None):
        return None
    if (other := fit.other_optimum) is not None:
        at = {other.label: np.array([other.value])}
        if _apart(at, reference)[other.label].all():
            return Overlooked(other.label, other.value, other.share, 0.0)
    seen = _log_evidence(reference)
    if seen is None or fit.is_point or fit.posterior is None:
        return None
    labels = _suspects(fit, reference)
    if not labels:
        return None
    count = max(min(NUM_DRAWS, default_draws(target)), MIN_DRAWS)
    drawn = fit.posterior.weighed_draws(count, as_key(key))
    if drawn is None or not np.isfinite(drawn.log_q).all():
        return None
    every = fit.labels()
    flat = np.concatenate(
        [np.reshape(drawn.values[s.name], (len(drawn.z), -1)) for s in fit.sites], axis=1
    )
    values = {label: flat[:, every.index(label)].astype(float) for label in labels}
    apart = _apart(values, reference)
    out = np.any(list(apart.values()), axis=0)
    if out.mean() < SHARE / 10:
        return None
    ratios = target.log_densities(drawn.z) - drawn.log_q
    beyond = _log_mass(ratios, out)
    missed = np.exp(beyond - np.logaddexp(beyond, seen))
    if not missed >= SHARE:
        return None
    total = np.logaddexp(beyond, seen)
    within = _log_mass(ratios, ~out)
    lost = max(np.exp(seen - total) - np.exp(within - total), 0.0)
    worst = max(labels, key=lambda label: apart[label].sum())
    value = float(np.median(values[worst][out]))
    return Overlooked(worst, value, float(missed), float(lost))


def _log_evidence(reference: Fit) -> float | None:
    """Return log p(y) by bridge sampling, or by points; ``None`` where it is not known."""
    own = reference.log_evidence
    if reference.stated_error is not None and own is not None:
        return own.value if np.isfinite(own.value) else None
    if reference.assessment is None:
        return None
    for known in reference.assessment.evidence:
        if known.how == "bridge sampling" and np.isfinite(known.value):
            return known.value
    return None


def _suspects(fit: Fit, reference: Fit) -> list[str]:
    """Return the scalars whose moments say that a fit may lie elsewhere."""
    rows = differences(fit, moments_of(reference))
    away, ratio = rows["difference"].abs(), rows["sd_ratio"]
    some = away[(away > MOVED) | ((ratio > WIDER) & away.notna())]
    return [str(label) for label in some.nlargest(NUM_SCALARS).index]


def _apart(
    values: Mapping[str, Float[np.ndarray, " draws"]], reference: Fit
) -> dict[str, Bool[np.ndarray, " draws"]]:
    """Return, by label, which values are far from every draw of the reference."""
    samples = held_draws(reference.known_posterior())
    if samples is None:
        drawn = reference.draws(NUM_DRAWS)
        samples = {name: values[None] for name, values in drawn.items()}
    columns = _columns(samples, reference, values)
    found = {}
    for label, x in values.items():
        known = np.sort(columns[label])
        place = np.clip(np.searchsorted(known, x), 1, len(known) - 1)
        nearest = np.minimum(np.abs(x - known[place - 1]), np.abs(x - known[place]))
        found[label] = nearest > APART * known.std()
    return found


def _columns(
    samples: Mapping[str, np.ndarray], reference: Fit, labels: Iterable[str]
) -> dict[str, np.ndarray]:
    where = {}
    for site in reference.sites:
        for k, label in enumerate(reference.labels([site.name])):
            where[label] = site.name, k
    return {
        label: samples[where[label][0]].reshape(
            -1, max(int(np.prod(samples[where[label][0]].shape[2:])), 1)
        )[:, where[label][1]]
        for label in labels
    }


def _log_mass(log_ratios: Float[np.ndarray, " draws"], chosen: Bool[np.ndarray, " draws"]) -> float:
    """Return the log of the posterior's mass in a region, or a lower bound on it.

    Parameters
    ----------
    log_ratios
        log p - log q at draws of q, shape (num_draws,).
    chosen
        Which lie in the region.
    """
    chosen = chosen & np.isfinite(log_ratios)
    some = log_ratios[chosen]
    if not some.size:
        return -np.inf
    share = float(np.log(chosen.mean()))
    if some.size >= MIN_DRAWS and khat(some) < KHAT_LIMIT:
        return share + log_mean(some)[0]
    return share + float(some.mean())  # by Jensen


OUTSIDE = 3.0
"""Sds of what one fit has found, beyond which what another has found lies outside it."""


def elsewhere(fits: Mapping[str, Fit]) -> dict[str, Verdict]:
    """Return verdicts on fits where another has found a part of the posterior that they have not.

    Each of the two is right by its own evidence, whose moments, by importance sampling, lie apart;
    or another start of the other found it.

    Parameters
    ----------
    fits
        Name -> fit, assessed.

    Returns
    -------
    dict
        Name -> verdict, where by the evidence the part is worth saying.
    """
    known = {name: part for name, fit in fits.items() if (part := _part(fit)) is not None}
    said = {}
    for name, (moments, own) in known.items():
        for other, (found, mass) in known.items():
            share = float(np.exp(mass - np.logaddexp(mass, own)))
            if name == other or share < SHARE:
                continue
            rows = differences(found, moments_of(moments))
            away = (rows["difference"].abs() - 4 * rows["difference_mcse"].fillna(0.0)).dropna()
            if not away.empty and away.max() > OUTSIDE:
                label = str(away.idxmax())
                value = float(found.flat(found.mean())[found.labels().index(label)])
                said[name] = Verdict(
                    Trust.UNTRUSTED,
                    f"Not to be trusted: {other} has found another part of the posterior, "
                    f"{share:.0%} of what the two have found, about {label} = {value:.3g}.",
                )
    for finder, fit in fits.items():
        if fit.has_result and (apart := fit.other_optimum) is not None:
            for name in known.keys() - {finder}:
                moments = known[name][0]
                place = moments.labels().index(apart.label)
                mean, sd = (moments.flat(v)[place] for v in (moments.mean(), moments.sd()))
                if abs(apart.value - mean) > OUTSIDE * sd:
                    text = f"Not to be trusted: {finder} has found another part of the posterior"
                    said.setdefault(name, Verdict(Trust.UNTRUSTED, f"{text}, {apart}."))
    return said


def _part(fit: Fit) -> tuple[Fit, float] | None:
    """Return what a fit's weights say of the posterior: moments, and the log of its mass."""
    if not fit.has_result or fit.assessment is None or fit.assessment.correction is None:
        return None
    m = fit.assessment.correction.moments
    posterior = MomentsPosterior(m.mean, m.sd, None, (), m.mcse_mean, m.mcse_sd)
    masses = [
        e.value
        for e in fit.assessment.evidence
        if e.bound in (Bound.ESTIMATE, Bound.LOWER) and np.isfinite(e.value)
    ]
    return (replace(fit, posterior=posterior, assessment=None), max(masses)) if masses else None
