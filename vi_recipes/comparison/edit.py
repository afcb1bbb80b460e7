"""A comparison with a fit more, a fit less, or another reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vi_recipes.comparison.checked import check_alike
from vi_recipes.comparison.fits import Fits
from vi_recipes.comparison.labels import relabellings
from vi_recipes.core import unknown
from vi_recipes.fit import Fit, check_same
from vi_recipes.model import Target
from vi_recipes.trust import assess


def added[T: Fits](comparison: T, fit: Fit, name: str | None, target: Target | None) -> T:
    """Return a comparison with one more fit (see :meth:`Comparison.add`)."""
    name = fit.method if name is None else name
    if target is not None:
        check_same(fit, target)
        if fit.has_result and fit.kind and fit.assessment is None:
            fit = replace(fit, assessment=assess(fit, target))
        pivot = comparison.reference or next((f for f in comparison.values() if f.has_result), None)
        moved = relabellings({name: fit}, pivot, target.exchangeable)
        fit = moved[name].apply(fit) if name in moved else fit
    others = {n: f for n, f in comparison.columns.items() if n != name}
    check_alike({**others, name: fit})
    prints = {f.provenance.data_fingerprint for f in [*others.values(), fit]} - {""}
    if len(prints) > 1:
        raise ValueError(
            f"fit: '{name}' is of data with the fingerprint {fit.provenance.data_fingerprint}, and "
            "the others are not; compare fits of the same data"
        )
    fits = {**comparison.fits, name: fit.renamed(name)}
    reference = comparison.reference_name
    return _of(comparison, fits, fits.get(reference or "", comparison.reference), reference)


def without[T: Fits](comparison: T, name: str) -> T:
    """Return a comparison without one of its fits (see :meth:`Comparison.drop`)."""
    if name not in comparison.fits:
        raise ValueError(f"drop: {unknown('fit', name, comparison.fits)}")
    if len(comparison.fits) == 1:
        raise ValueError(f"drop: '{name}' is the only fit, and a comparison has one at least")
    fits = {other: fit for other, fit in comparison.fits.items() if other != name}
    if name == comparison.reference_name:
        return _of(comparison, fits, None, None)
    return _of(comparison, fits, comparison.reference, comparison.reference_name)


def measured_by[T: Fits](comparison: T, reference: str | Fit | None) -> T:
    """Return a comparison with another reference (see :meth:`Comparison.with_reference`)."""
    if isinstance(reference, str) and reference not in comparison.columns:
        raise ValueError(f"reference: {unknown('fit', reference, comparison.columns)}")
    fit = comparison.columns[reference] if isinstance(reference, str) else reference
    if fit is None:
        return _of(comparison, comparison.fits, None, None)
    if not fit.has_result or fit.is_point:
        why = "is a point, without sds to measure in" if fit.has_result else "has no result"
        raise ValueError(f"reference: '{fit.method}' {why}")
    check_alike({**comparison.fits, fit.method: fit})
    name = reference if isinstance(reference, str) else fit.method
    if not isinstance(reference, str) and name in comparison.fits:
        name = f"{name}_reference"
    return _of(comparison, comparison.fits, fit.renamed(name), name)


def _of[T: Fits](
    comparison: T,
    fits: Mapping[str, Fit],
    reference: Fit | None,
    name: str | None,
    *,
    same_reference: bool = False,
) -> T:
    """Return a comparison of other fits, with what was found out of those that stay."""
    same = same_reference or reference is comparison.reference
    edited = type(comparison)(
        fits,
        reference=reference,
        reference_name=name,
        target_name=comparison.target_name,
        notes=comparison.notes,
        interrupted=comparison.interrupted,
        left=comparison.left,
        description=comparison.description,
        rows_left_out=comparison.rows_left_out,
        exhibits=comparison.exhibits,
        quadrature=comparison.quadrature,
        found=comparison.found.among(fits, same_reference=same),
    )
    edited.kept.update({n: k for n, k in comparison.kept.items() if n in edited.columns})
    edited.model_mark = comparison.model_mark
    return edited


def with_fits[T: Fits](comparison: T, fits: Mapping[str, Fit], reference: Fit | None) -> T:
    """Return a comparison with the same fits in another form, such as with more quantities.

    One without a result has the sites of the others.
    """
    like = next((fit for fit in fits.values() if fit.has_result), None)
    alike = {
        n: f if f.has_result or like is None else replace(f, sites=like.sites, coords=like.coords)
        for n, f in fits.items()
    }
    made = _of(comparison, alike, reference, comparison.reference_name, same_reference=True)
    made.kept.clear()  # what lies on disk has other quantities
    return made
