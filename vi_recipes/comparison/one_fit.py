"""One fit of a comparison, with its assessment: an error or an interrupt costs that part only."""

from __future__ import annotations

from dataclasses import replace

from vi_recipes.cells import mark_of_objects
from vi_recipes.core import Progress, Status, attempt, seed_of, told
from vi_recipes.fit import Assessment, Fit, provenance
from vi_recipes.methods import Method
from vi_recipes.model import Target
from vi_recipes.trust import assess


def fit_one(
    name: str, method: Method, target: Target, seed: int, report: Progress, assessed: bool
) -> tuple[Fit, bool]:
    """Return the fit of one method, and whether Ctrl-C came: then perhaps without a result.

    Parameters
    ----------
    name, method, target
        What is fitted, and what the fit is called.
    seed
        Of the comparison; that of the fit depends on its name too.
    report
        Told how far it has got.
    assessed
        Whether it weighs draws of its own.
    """
    try:
        fit = method.fit(target, key=seed_of(method.stream(name), seed), progress=report, name=name)
    except KeyboardInterrupt:
        message = "interrupted before there was a result"
        return without_result(name, method, target, seed, Status.INTERRUPTED, message), True
    except Exception as error:  # of a model or a checkpoint: the others stand without it
        return without_result(name, method, target, seed, Status.FAILED, told(error)), False
    known = replace(fit.provenance, seed=seed, objects=mark_of_objects(method))
    fit = replace(fit, provenance=known)
    if not (assessed and fit.has_result):
        return fit, fit.status is Status.INTERRUPTED
    try:
        report(1, 1, "assessing it")
        stream = seed_of(name, seed)
        assessment = attempt(lambda: assess(fit, target, key=stream), _unassessed)
    except KeyboardInterrupt:
        why = "its assessment was interrupted"
        return replace(fit, assessment=Assessment(unknown={"weights": why})), True
    return replace(fit, assessment=assessment), fit.status is Status.INTERRUPTED


def _unassessed(error: str) -> Assessment:
    return Assessment(unknown={"weights": error}, errors={"all that its draws say": error})


def without_result(
    name: str,
    method: Method,
    target: Target,
    seed: int,
    status: Status,
    message: str,
    *,
    advice: str = "",
) -> Fit:
    """Return the row of a method that came to nothing."""
    return Fit(
        method=name,
        kind=method.key,
        status=status,
        message=message,
        advice=advice,
        sites=target.quantities,
        coords=target.coords,
        config=method.options(),
        provenance=provenance(target, seed=seed, dtype=method.dtype_used),
    )


def with_evidence(fit: Fit, target: Target, assessed: bool) -> Fit:
    """Return a fit made before with its own evidence; answers without a method have none."""
    if not (assessed and fit.kind and fit.has_result) or fit.assessment is not None:
        return fit
    made_for = (fit.provenance.model, fit.provenance.data_fingerprint)
    if made_for != (target.name, target.fingerprint):
        return fit
    return replace(fit, assessment=attempt(lambda: assess(fit, target), _unassessed))
