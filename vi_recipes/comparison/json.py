"""A comparison as a stable, strict, machine-readable result; its schema is ``schema.json``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.resources import files
from typing import Any

import numpy as np

from vi_recipes.comparison.fits import Fits
from vi_recipes.comparison.recommend import Standing, recommend
from vi_recipes.core import attempt
from vi_recipes.fit import MAX_STORED_COV, Fit, population, quantiles, unsettled
from vi_recipes.report import strict
from vi_recipes.trust import Verdict

SCHEMA_VERSION = 2
"""Raised when a key is removed or changes its meaning; new keys may come without."""


_WORST = ("mean_error", "mean_at", "sd_ratio", "sd_at", "by")
_MOMENTS = ("mean", "sd", "mcse_mean", "mcse_sd", "cov", "cov_blocks", "quantiles")


def to_json(comparison: Fits) -> dict[str, Any]:
    """Return a comparison as nested dicts, lists and numbers that strict JSON can hold.

    Parameters
    ----------
    comparison
        What to write.

    Returns
    -------
    dict
        Described by :func:`schema`. Scalars of sites are listed in the order of ``parameters``,
        zero-based (``beta[0]``, ``A[0, 1]``); NaN and infinity are ``None``; a method without a
        result has ``None`` for every number. Scalars whose mean or sd does not exist, or is not
        told, have ``None`` for moments and are among the ``quantiles``.

    Examples
    --------
    >>> import json
    >>> found = to_json(vr.compare(target, [vr.MAP()]))
    >>> json.dumps(found, allow_nan=False)[:37]
    '{"schema_version": 2, "model": "toy",'
    """
    fits = dict(comparison.fits)
    reference, name = comparison.reference, comparison.reference_name
    if reference is not None and name is not None:
        fits.setdefault(name, reference)
    verdicts = comparison.verdict_of
    record = next((fit.provenance for fit in fits.values()), None)
    seeds = [fit.provenance.seed for fit in fits.values() if fit.provenance.seed is not None]
    methods = {n: _method(comparison, n, fit, verdicts.get(n)) for n, fit in fits.items()}
    accuracy = _part(comparison, "accuracy", lambda: _accuracy(comparison), None)
    constants = _part(comparison, "list of constants", lambda: _constants(comparison), list[str]())
    content = {
        "schema_version": SCHEMA_VERSION,
        "model": comparison.target_name,
        "seed": seeds[0] if seeds else None,
        "versions": dict(record.versions) if record else {},
        "device": record.device if record else None,
        "dtype": record.dtype if record else None,
        "data_fingerprint": record.data_fingerprint if record else None,
        "interrupted": comparison.interrupted,
        "reference": name,
        "warnings": list(comparison.warnings),
        "notes": comparison.remarks,
        "recommendation": _part(
            comparison, "recommendation", lambda: _recommendation(comparison), None
        ),
        "methods": methods,
        "population": _population(comparison),
        "constants": constants,
        "accuracy": accuracy,
    }
    return {key: strict(value) for key, value in content.items()}


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of :func:`to_json`."""
    text = files("vi_recipes").joinpath("schema.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def dumps(comparison: Fits) -> str:
    """Return :func:`to_json` as a line of strict JSON."""
    return json.dumps(to_json(comparison), allow_nan=False, ensure_ascii=False) + "\n"


def _part[T](comparison: Fits, what: str, make: Callable[[], T], instead: T) -> T:
    """Return a part of the result; where an error ends it, what stands in, with a note."""

    def without(error: str) -> T:
        comparison.lose(f"The machine-readable result has no {what}: {error}")
        return instead

    return attempt(make, without)


def _recommendation(comparison: Fits) -> dict[str, Any]:
    recommended = recommend(comparison)
    zero_based = _zero_based(comparison)

    def entry(one: Standing) -> dict[str, Any]:
        worst = one.errors
        known = (
            {
                "mean_error": worst.mean,
                "mean_at": zero_based.get(worst.mean_at, worst.mean_at),
                "sd_ratio": worst.sd_ratio,
                "sd_at": zero_based.get(worst.sd_at, worst.sd_at) or None,
                "by": worst.by,
            }
            if worst is not None
            else dict.fromkeys(_WORST)
        )
        return {
            "method": one.method,
            "trust": one.trust.value,
            "seconds": one.seconds,
            "wrong": one.wrong,
            **known,
        }

    return {
        "text": recommended.text,
        "best": entry(recommended.best) if recommended.best is not None else None,
        "others": [entry(one) for one in recommended.others],
    }


def _zero_based(comparison: Fits) -> dict[str, str]:
    """Return label -> the same by zero-based indices."""
    first = next(iter(comparison.columns.values()))
    return dict(zip(first.labels(), first.labels(coords=False), strict=True))


def _method(comparison: Fits, name: str, fit: Fit, verdict: Verdict | None) -> dict[str, Any]:
    evidence = fit.log_evidence if fit.has_result else None
    weighed = comparison.found.theta_weights.get(name)
    return {
        "method": fit.kind,
        "status": fit.status.name.lower(),
        "message": ". ".join(part.rstrip(".") for part in (fit.status.value, fit.message) if part),
        "advice": fit.advice,
        "trust": verdict.trust.value if verdict else None,
        "verdict": str(verdict or ""),
        "assessment": _part(comparison, f"assessment of {name}", lambda: _assessment(fit), None),
        "lower_bounds": _lower_bounds(comparison, name),
        "theta_weights": asdict(weighed) if weighed is not None else None,
        "options": dict(fit.config),
        "seed": fit.provenance.seed,
        "dtype": fit.provenance.dtype or None,
        "timing": {"total_seconds": fit.timing.total_seconds, **fit.timing.to_dict()},
        "parameters": fit.labels(coords=False),
        "labels": fit.labels(coords=True),
        **_part(comparison, f"moments of {name}", lambda: _moments(fit), dict.fromkeys(_MOMENTS)),
        "diagnostics": dict(fit.diagnostics),
        "log_evidence": {"value": evidence.value, "se": evidence.se, "kind": evidence.kind}
        if evidence is not None
        else None,
        "log_likelihood": fit.log_likelihood if fit.has_result else None,
    }


def _lower_bounds(comparison: Fits, name: str) -> dict[str, Any] | None:
    bounds = comparison.found.lower_bounds.get(name)
    if bounds is None:
        return None
    zero_based = _zero_based(comparison)
    at = {key: zero_based[getattr(bounds, key)] for key in ("mean_at", "sd_at")}
    return {**asdict(bounds), **at}


def _assessment(fit: Fit) -> dict[str, Any] | None:
    assessment = fit.assessment
    if assessment is None:
        return None
    moments = assessment.correction and assessment.correction.moments
    return {
        "num_draws": assessment.num_draws,
        "khat": assessment.khat,
        "kl_surrogate": assessment.kl_surrogate,
        "khat_by_site": dict(assessment.block_khat),
        "corrected": {
            "source": assessment.correction.source,
            "khat": assessment.correction.khat,
            "ess": assessment.correction.ess,
            "num_draws": assessment.correction.num_draws,
            "mean": fit.flat(moments.mean),
            "sd": fit.flat(moments.sd),
            "mcse_mean": fit.flat(moments.mcse_mean),
            "mcse_sd": fit.flat(moments.mcse_sd),
        }
        if assessment.correction and moments
        else None,
        "evidence": [{"value": e.value, "se": e.se, "kind": e.kind} for e in assessment.evidence],
        "unknown": {**assessment.unknown, **assessment.errors},
        "seconds": assessment.seconds,
    }


def _moments(fit: Fit) -> dict[str, Any]:
    moments: dict[str, Any] = dict.fromkeys(_MOMENTS)
    if not fit.has_result:
        return moments
    unknown = unsettled(fit)
    lost = np.array([label in unknown for label in fit.labels()]) if unknown else np.False_

    def known(values: np.ndarray) -> np.ndarray:
        return np.where(lost, np.nan, values)

    if unknown:
        moments["quantiles"] = _quantiles(fit, unknown)
    moments["mean"] = known(fit.flat(fit.mean()))
    moments["mcse_mean"] = known(fit.flat(fit.mcse()))
    sd = known(fit.flat(fit.sd()))
    if np.isnan(sd).all():  # a point has no spread, and no error of it
        return moments
    moments["sd"] = sd
    moments["mcse_sd"] = known(fit.flat(fit.mcse_sd()))
    if sum(site.size for site in fit.sites) <= MAX_STORED_COV:
        moments["cov"] = _cov(fit, None, unknown)
    else:
        small = [site.name for site in fit.sites if site.size <= MAX_STORED_COV]
        moments["cov_blocks"] = {name: _cov(fit, [name], unknown) for name in small}
    return moments


def _population(comparison: Fits) -> list[str]:
    """Return the zero-based labels of the population's parameters."""
    first = next((fit for fit in comparison.columns.values() if fit.sites), None)
    return first.labels(population(first.sites), coords=False) if first is not None else []


def _constants(comparison: Fits) -> list[str]:
    """Return the zero-based labels of what varies by rounding alone."""
    constants = set(comparison.constants())
    both = _zero_based(comparison).items()
    return [zero_based for label, zero_based in both if label in constants]


def _cov(fit: Fit, sites: list[str] | None, unknown: Mapping[str, float]) -> np.ndarray:
    """Return a covariance, NaN where it has none."""
    table = fit.cov(sites)
    gone = [label in unknown for label in table.index]
    return np.asarray(table.mask(np.logical_or.outer(gone, gone)).to_numpy())


def _quantiles(fit: Fit, unknown: Mapping[str, float]) -> dict[str, Any]:
    places = np.array([k for k, label in enumerate(fit.labels()) if label in unknown], int)
    found = quantiles(fit, places)
    plain = fit.labels(coords=False)
    return {
        "parameters": [plain[k] for k in places],
        "khat": list(unknown.values()),
        "q5": found.low,
        "q50": found.median,
        "q95": found.high,
    }


def _accuracy(comparison: Fits) -> dict[str, Any] | None:
    if comparison.reference is None:
        return None
    frame = comparison.accuracy()
    zero_based = _zero_based(comparison)
    result = {}
    for name, rows in frame.groupby(level=1, sort=False):
        labels = [str(label) for label in rows.index.get_level_values(0)]
        result[str(name)] = {
            "parameters": [zero_based.get(label, label) for label in labels],
            **{str(column): rows[column].to_numpy() for column in rows.columns},
        }
    return result
